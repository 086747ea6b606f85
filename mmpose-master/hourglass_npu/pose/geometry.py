"""From a box to a crop, and from the crop back to the picture.

Frames: *picture* is in pixels of the picture, *crop* in pixels of the
network's input, *cell* in cells of a heatmap; x to the right, y down, the
centre of the first pixel at zero. The numbers are those of mmpose, to the
bit.
"""

import cv2
import numpy as np

PIXELS_PER_SCALE = 200.0
"""mmpose measures people in units of this many pixels."""

PADDING = 1.25
"""Room around a box, for limbs that reach over its edge."""

MAX_REDUCTION = 8.0
"""Above this reduction a picture is averaged down before it is cropped:
cv2.warpAffine reads only four pixels for each result, which is noise in a
picture of 12,000 pixels. MPII's own people stay below it, so that they are
cropped exactly as in training."""


def box_to_center_scale(box, image_size):
    """Return centre and scale of the crop around a box.

    Args:
        box (Sequence[float]): x, y, width, height (picture).
        image_size (Sequence[int]): Width and height of the crop; the box is
            grown to this aspect.

    Returns:
        tuple[np.ndarray[2], np.ndarray[2]]: Centre (picture) and scale
        (width and height over PIXELS_PER_SCALE, with padding).
    """
    x, y, width, height = box[:4]
    aspect = image_size[0] / image_size[1]
    center = np.float32([x + width * 0.5, y + height * 0.5])
    width = max(width, height * aspect)
    height = max(height, width / aspect)
    scale = np.float32([width, height] / np.float64(PIXELS_PER_SCALE))
    return center, scale * np.float32(PADDING)


def mpii_center_scale(center, scale):
    """Return centre and scale of the crop around a person of MPII.

    MPII's boxes are tight at the feet: the crop is lower and larger.

    Args:
        center (Sequence[float]): x, y in pixels that count from 1; -1 in x
            marks a missing box.
        scale (float): Height of the person over PIXELS_PER_SCALE.

    Returns:
        tuple[np.ndarray[2], np.ndarray[2]]: Centre (picture) and scale, as
        :func:`box_to_center_scale`.
    """
    center = np.array(center, dtype=np.float64)
    scale = np.full(2, scale, dtype=np.float64)
    if center[0] != -1:
        center[1] += 15 * scale[1]
        scale *= PADDING
    return center - 1, scale


def affine(center, scale, size, inverse=False):
    """Return the affine map between a picture and a grid laid on a crop.

    Args:
        center (np.ndarray[2]): Centre of the crop (picture).
        scale (np.ndarray[2]): Its size over PIXELS_PER_SCALE. Only the
            width counts: a crop keeps its aspect.
        size (Sequence[int]): Width and height of the grid.
        inverse (bool): Map from the grid to the picture.

    Returns:
        np.ndarray[2, 3]: The matrix, in double precision.
    """
    # Multiply the array: some versions of NumPy multiply a scalar in double
    # precision.
    width = (np.asarray(scale) * PIXELS_PER_SCALE)[0]
    picture = _three_points(center, width)
    grid = _three_points(np.float64(size) * 0.5, size[0])
    pair = (grid, picture) if inverse else (picture, grid)
    return cv2.getAffineTransform(*pair)


def transform_points(points, matrix):
    """Apply an affine map to points.

    Args:
        points (np.ndarray[..., 2]): x, y.
        matrix (np.ndarray[..., 2, 3]): The map, or one for each point.

    Returns:
        np.ndarray[..., 2]: The points in the other frame, double precision.
    """
    column = np.ones(np.shape(points)[:-1] + (3, 1))
    column[..., :2, 0] = points
    # One product with a vector for each point, as mmpose computes it: the
    # product of two matrices can differ in the last bit.
    return np.matmul(matrix, column)[..., 0]


def to_picture(joints, centers, scales, size):
    """Map joints from a grid on each person's crop to the picture.

    Args:
        joints (np.ndarray[N, K, 3]): x, y (grid) and score.
        centers (Sequence[np.ndarray[2]]): See :func:`affine`.
        scales (Sequence[np.ndarray[2]]): See :func:`affine`.
        size (Sequence[int]): Width and height of the grid.

    Returns:
        np.ndarray[N, K, 3]: x, y (picture) and score, single precision.
    """
    matrices = np.stack(
        [
            affine(center, scale, size, inverse=True)
            for center, scale in zip(centers, scales)
        ]
    )
    result = joints.astype(np.float32)
    result[..., :2] = transform_points(joints[..., :2], matrices[:, None])
    return result


def crop_person(picture, center, scale, size):
    """Cut a person out of a picture.

    Args:
        picture (np.ndarray[H, W, C]): 8-bit picture.
        center (np.ndarray[2]): See :func:`affine`.
        scale (np.ndarray[2]): See :func:`affine`.
        size (Sequence[int]): Width and height of the crop.

    Returns:
        np.ndarray[h, w, C]: The crop, black outside the picture.
    """
    matrix = affine(center, scale, size)
    reduction = scale[0] * PIXELS_PER_SCALE / size[0]
    if reduction > MAX_REDUCTION:
        picture, matrix = _reduced(picture, matrix, reduction / 2)
    return cv2.warpAffine(picture, matrix, tuple(size), flags=cv2.INTER_LINEAR)


def _three_points(center, width):
    """Return centre, middle of the upper edge and corner of a square.

    Rounded to single precision at the same places as in mmpose, so that the
    matrices agree to the last bit.
    """
    middle = np.float32(center)
    top = np.float32(center + np.array([0.0, width * -0.5]))
    down = middle - top
    corner = top + np.float32([-down[1], down[0]])
    return np.stack([middle, top, corner])


def _reduced(picture, matrix, factor):
    """Average a picture down; return it and the map from it."""
    height, width = picture.shape[:2]
    size = (
        max(int(round(width / factor)), 1),
        max(int(round(height / factor)), 1),
    )
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    # Pixel centres: x_small + 0.5 = (x + 0.5) * size / width.
    back = np.float64([width / size[0], height / size[1]])
    adapted = matrix.copy()
    adapted[:, :2] = matrix[:, :2] * back
    adapted[:, 2] += matrix[:, :2] @ (0.5 * back - 0.5)
    return small, adapted
