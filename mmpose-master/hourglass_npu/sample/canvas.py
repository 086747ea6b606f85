"""Draw solids with light and shade, in parallel projection."""

import cv2
import numpy as np

_LIGHT = np.array([-0.42, 0.62, 0.66])


class Canvas:
    """A colour and depth buffer, in parallel projection.

    Args:
        box (tuple[float]): Left, top, right, bottom of the drawing, in pixels
            of the picture.
        detail (int): Pixels of the buffer for one of the picture, per axis.
    """

    def __init__(self, box, detail):
        self.detail = detail
        self.left, self.top = (int(np.floor(v)) for v in box[:2])
        self.width = int(np.ceil(box[2])) - self.left
        self.height = int(np.ceil(box[3])) - self.top
        shape = (self.height * detail, self.width * detail)
        self.depth = np.full(shape, -1e9, np.float32)
        self.colour = np.zeros(shape + (3,), np.float32)

    def _window(self, low, high):
        """Return buffer slices and picture coordinates of a box, or None."""
        n = self.detail
        rows, columns = self.depth.shape
        x0 = max(int((low[0] - self.left) * n) - 1, 0)
        y0 = max(int((low[1] - self.top) * n) - 1, 0)
        x1 = min(int((high[0] - self.left) * n) + 2, columns)
        y1 = min(int((high[1] - self.top) * n) + 2, rows)
        if x0 >= x1 or y0 >= y1:
            return None
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5) / n + self.left - 0.5
        y = (np.arange(y0, y1, dtype=np.float32) + 0.5) / n + self.top - 0.5
        return (slice(y0, y1), slice(x0, x1)), x[None, :], y[:, None]

    def _put(self, window, hit, depth, normal, paint, places):
        """Shade pixels that are hit and nearer than earlier parts.

        Args:
            window (tuple[slice]): Rows and columns of the buffers.
            hit (np.ndarray[H, W]): Pixels of the part, bool.
            depth (np.ndarray[H, W]): Towards the viewer.
            normal (tuple[np.ndarray[H, W]]): Its outward normal in the
                camera's frame: x, y, z.
            paint (tuple | Callable): A BGR colour; or a function of the
                places of P pixels that returns np.ndarray[P, 3].
            places (Sequence[np.ndarray[H, W]]): What ``paint`` is given.
        """
        hit = hit & (depth > self.depth[window])
        if not hit.any():
            return
        nx, ny, nz = (part[hit] for part in normal)
        light = nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2]
        shade = 0.64 + 0.4 * np.maximum(light, 0)
        # The darker rim keeps parts of one colour apart.
        shade *= np.clip(0.6 + 1.3 * nz, 0.72, 1)
        if callable(paint):
            colour = paint(*(place[hit] for place in places))
        else:
            colour = np.array(paint, np.float32)
        self.depth[window][hit] = depth[hit]
        self.colour[window][hit] = colour * shade[:, None]

    def cone(self, a, b, radius_a, radius_b, paint, flat=1.0, hem=False):
        """Draw a cone with rounded ends, such as a forearm.

        Args:
            a (np.ndarray[3]): One end: picture x, y, and depth, in pixels.
            b (np.ndarray[3]): The other end.
            radius_a (float): Radius at ``a``, in pixels.
            radius_b (float): Radius at ``b``.
            paint (tuple | Callable): A BGR colour; or a function of the place
                along the axis (0 at ``a``, 1 at ``b``) and x, y, z of the
                normal, P values each, that returns np.ndarray[P, 3].
            flat (float): Its bulge towards the viewer, as a share of the
                radius.
            hem (bool): Cut it straight at ``a``, not round.
        """
        r = max(radius_a, radius_b)
        found = self._window(
            np.minimum(a, b)[:2] - r, np.maximum(a, b)[:2] + r
        )
        if found is None:
            return
        window, x, y = found
        dx, dy, dz = (float(v) for v in b - a)
        x, y = x - np.float32(a[0]), y - np.float32(a[1])
        along = (x * dx + y * dy) / (dx * dx + dy * dy + 1e-3)
        t = np.clip(along, 0, 1)
        radius = np.float32(radius_a) + np.float32(radius_b - radius_a) * t
        x, y = x - t * dx, y - t * dy
        bulge = radius * radius - x * x - y * y
        hit = bulge > 0
        if hem:
            hit &= along > 0
        bulge = np.sqrt(np.maximum(bulge, 0))
        depth = np.float32(a[2]) + t * dz + np.float32(flat) * bulge
        normal = (x / radius, -y / radius, bulge / radius)
        self._put(window, hit, depth, normal, paint, (t, *normal))

    def ellipsoid(self, centre, axes, frame, paint, keep=None):
        """Draw an ellipsoid, such as a head.

        Args:
            centre (np.ndarray[3]): Picture x, y, and depth, in pixels.
            axes (np.ndarray[3]): Half axes in its own frame, in pixels.
            frame (np.ndarray[3, 3]): From its own frame to the camera's.
            paint (tuple | Callable): A BGR colour; or a function of the place
                on the unit sphere in its own frame, x, y, z, P values each,
                that returns np.ndarray[P, 3].
            keep (Callable | None): Takes x, y, z, np.ndarray[H, W] each, and
                returns which part of the surface exists; None for all.
        """
        found = self._window(centre[:2] - max(axes), centre[:2] + max(axes))
        if found is None:
            return
        window, x, y = found
        x, y = x - np.float32(centre[0]), np.float32(centre[1]) - y
        m = (frame / np.square(axes)) @ frame.T
        half_b = m[0, 2] * x + m[1, 2] * y
        c = m[0, 0] * x * x + 2 * m[0, 1] * x * y + m[1, 1] * y * y - 1
        root = half_b * half_b - m[2, 2] * c
        hit = root > 0
        z = (-half_b + np.sqrt(np.maximum(root, 0))) / m[2, 2]
        own = [
            (frame[0, i] * x + frame[1, i] * y + frame[2, i] * z) / axes[i]
            for i in range(3)
        ]
        if keep is not None:
            hit &= keep(*own)
        normal = [
            sum(frame[k, i] * own[i] / axes[i] for i in range(3))
            for k in range(3)
        ]
        length = np.sqrt(sum(part * part for part in normal)) + 1e-6
        normal = [part / length for part in normal]
        depth = z + np.float32(centre[2])
        self._put(window, hit, depth, normal, paint, own)

    def onto(self, picture):
        """Blend the drawing into a picture.

        Args:
            picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
        """
        cover = (self.depth > -1e8).astype(np.float32)
        layer = np.dstack([self.colour, cover])
        if self.detail > 1:
            layer = cv2.resize(
                layer, (self.width, self.height), interpolation=cv2.INTER_AREA
            )
        else:
            layer = cv2.GaussianBlur(layer, (3, 3), 0.7)
        rows, columns = picture.shape[:2]
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1 = min(self.left + self.width, columns)
        y1 = min(self.top + self.height, rows)
        if x0 >= x1 or y0 >= y1:
            return
        layer = layer[
            y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left
        ]
        below = picture[y0:y1, x0:x1]
        mixed = layer[..., :3] + below * (1 - layer[..., 3:])
        picture[y0:y1, x0:x1] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
