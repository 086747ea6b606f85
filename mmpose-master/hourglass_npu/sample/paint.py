"""Colours, shapes and plants to paint with.

Shapes take fractions of pixels and round them toward zero.
"""

import cv2
import numpy as np


def shade(colour, factor):
    """Return a lighter or darker tone of a colour.

    Args:
        colour (tuple[int]): BGR.
        factor (float): Above 1 for a lighter tone.

    Returns:
        tuple[int]: BGR.
    """
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)


def _whole(point):
    return tuple(int(v) for v in point)


class Brush:
    """Paints into a picture.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
        rng (np.random.RandomState): Source of random numbers.

    Attributes:
        picture (np.ndarray[H, W, 3]): The picture.
        rng (np.random.RandomState): The source.
        height (int): H.
        width (int): W.
    """

    def __init__(self, picture, rng):
        self.picture, self.rng = picture, rng
        self.height, self.width = picture.shape[:2]

    def colour(self, hue=None, saturation=(10, 120), value=(70, 235)):
        """Draw a random colour.

        Args:
            hue (tuple[int] | None): Range on OpenCV's scale of 180; None for
                all.
            saturation (tuple[int]): Range.
            value (tuple[int]): Range.

        Returns:
            tuple[int]: BGR.
        """
        ranges = (hue or (0, 180), saturation, value)
        pixel = np.uint8([[[self.rng.randint(*ends) for ends in ranges]]])
        return _whole(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])

    def gradient(self, top, bottom, y0, y1):
        """Fill rows y0 to y1 from one colour to another.

        Args:
            top (tuple[int]): BGR.
            bottom (tuple[int]): BGR.
            y0 (int): First row.
            y1 (int): Row after the last.
        """
        share = np.linspace(0, 1, max(y1 - y0, 1))[:, None, None]
        fade = np.array(top) * (1 - share) + np.array(bottom) * share
        self.picture[y0:y1] = fade.astype(np.uint8)

    def polygon(self, points, colour):
        """Fill a polygon; its corners are rounded to the nearest pixel.

        Args:
            points (Sequence[tuple[float]]): Corners.
            colour (tuple[int]): BGR.
        """
        corners = [np.int32(np.round(points))]
        cv2.fillPoly(self.picture, corners, colour, cv2.LINE_AA)

    def disc(self, centre, axes, colour, angle=0):
        """Fill an ellipse.

        Args:
            centre (tuple[float]): Its centre.
            axes (tuple[float]): Half axes, drawn with at least one pixel.
            colour (tuple[int]): BGR.
            angle (int): Rotation in degrees.
        """
        axes = tuple(max(v, 1) for v in _whole(axes))
        ends = (angle, 0, 360)
        place = (_whole(centre), axes)
        cv2.ellipse(self.picture, *place, *ends, colour, -1, cv2.LINE_AA)

    def box(self, x0, y0, x1, y1, colour):
        """Fill a rectangle.

        Args:
            x0 (float): Left.
            y0 (float): Top.
            x1 (float): Right.
            y1 (float): Bottom.
            colour (tuple[int]): BGR.
        """
        corners = (_whole((x0, y0)), _whole((x1, y1)))
        cv2.rectangle(self.picture, *corners, colour, -1)

    def line(self, start, end, colour, thickness):
        """Draw a line.

        Args:
            start (tuple[float]): One end.
            end (tuple[float]): The other end.
            colour (tuple[int]): BGR.
            thickness (int): In pixels.
        """
        ends = (_whole(start), _whole(end))
        cv2.line(self.picture, *ends, colour, thickness, cv2.LINE_AA)

    def foliage(self, x, y, radius):
        """Paint a crown or a bush: discs, lighter towards the top.

        Args:
            x (float): Centre.
            y (float): Centre.
            radius (float): Half of the width.
        """
        base = self.colour((28, 75), (70, 190), (60, 150))
        for k in range(14):
            angle = self.rng.uniform(0, 2 * np.pi)
            far = self.rng.uniform(0.2, 0.8)
            dx, dy = far * radius * np.cos(angle), far * radius * np.sin(angle)
            wide, tall = (
                radius * self.rng.uniform(*ends)
                for ends in ((0.25, 0.5), (0.2, 0.45))
            )
            tone = shade(base, 0.8 + 0.035 * k - 0.25 * dy / radius)
            self.disc((x + dx, y + 0.8 * dy), (wide, tall), tone)
