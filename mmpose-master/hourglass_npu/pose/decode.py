"""Top-down pose estimation around a network, in NumPy and OpenCV only.

A person's box becomes a crop, crops become heatmaps (by whatever runs the
network: torch, ONNX Runtime, an OM on the NPU), heatmaps become joints in
the picture. The numbers are those of mmpose's own pipeline (TopDownAffine,
the flip test of TopDown, keypoints_from_heatmaps); tests hold the two
together.

Frames: *picture* is in pixels of the picture, *crop* in pixels of the
network's input, *cell* in cells of a heatmap; x to the right, y down, the
centre of the first pixel at zero.
"""

from collections import namedtuple

import cv2
import numpy as np

# mmpose measures people in units of this many pixels.
PIXELS_PER_SCALE = 200.0
# Room around a box, so that a limb that reaches over it is still seen.
PADDING = 1.25
# Above this reduction, sampling four neighbours as cv2.warpAffine does is
# noise: a 12,000-pixel picture is averaged down first. MPII's own people
# stay below it and are cropped exactly as in training.
MAX_REDUCTION = 8.0

Settings = namedtuple(
    'Settings',
    'image_size mean std joints flip_pairs flip_test shift_heatmap '
    'post_process unbiased_decoding modulate_kernel',
)
Settings.__doc__ = """What a network expects and how its output is read.

Attributes:
    image_size (tuple[int]): Width and height of the crop.
    mean, std (tuple[float]): Of R, G, B in the range 0 to 1.
    joints (tuple[str]): Name of each heatmap.
    flip_pairs (tuple[tuple[int]]): Joints that a mirror exchanges.
    flip_test (bool): Average with the mirrored crop.
    shift_heatmap (bool): Move the mirrored heatmaps by one cell.
    post_process (bool): Refine the peak below one cell.
    unbiased_decoding (bool): Refine by the curvature (DARK, CVPR 2020)
        and not by a quarter of a cell.
    modulate_kernel (int): Size of the blur before that.
"""

Result = namedtuple('Result', 'keypoints heatmaps')
Result.__doc__ = """Poses of N people.

Attributes:
    keypoints (np.ndarray[N, K, 3]): x, y (picture) and score.
    heatmaps (np.ndarray[N, K, h, w] | None): After the flip test.
"""


def box_to_center_scale(box, image_size):
    """Centre and scale of the crop around a box.

    Args:
        box (Sequence[float]): x, y, width, height in the picture.
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


def affine(center, scale, size, inverse=False):
    """Affine map between the picture and a grid of ``size`` laid on a crop.

    Args:
        center (np.ndarray[2]): Centre of the crop (picture).
        scale (np.ndarray[2]): Its size over PIXELS_PER_SCALE. Only the
            width counts: a crop keeps its aspect.
        size (Sequence[int]): Width and height of the grid.
        inverse (bool): From the grid to the picture.

    Returns:
        np.ndarray[2, 3]: The matrix, in double precision.
    """
    # The product of the arrays: that of a NumPy scalar would be taken in
    # double precision by some versions of NumPy.
    width = (np.asarray(scale) * PIXELS_PER_SCALE)[0]
    picture = _three_points(center, width)
    grid = _three_points(np.float64(size) * 0.5, size[0])
    pair = (grid, picture) if inverse else (picture, grid)
    return cv2.getAffineTransform(*pair)


def crop_person(picture, center, scale, size):
    """Cuts a person out of a picture.

    Args:
        picture (np.ndarray[H, W, C]): 8-bit picture.
        center (np.ndarray[2]): See :func:`affine`.
        scale (np.ndarray[2]): See :func:`affine`.
        size (Sequence[int]): Width and height of the crop.

    Returns:
        np.ndarray[h, w, C]: The crop, black outside of the picture.
    """
    matrix = affine(center, scale, size)
    reduction = scale[0] * PIXELS_PER_SCALE / size[0]
    if reduction > MAX_REDUCTION:
        picture, matrix = _reduced(picture, matrix, reduction / 2)
    return cv2.warpAffine(picture, matrix, tuple(size), flags=cv2.INTER_LINEAR)


def normalise(crops, mean, std):
    """Makes network input of crops.

    Args:
        crops (np.ndarray[N, h, w, 3]): 8-bit RGB.
        mean (Sequence[float]): Of R, G, B in the range 0 to 1.
        std (Sequence[float]): Likewise.

    Returns:
        np.ndarray[N, 3, h, w]: Single precision, contiguous.
    """
    batch = crops.astype(np.float32) / np.float32(255)
    batch -= np.float32(mean)
    batch /= np.float32(std)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def merge_flipped(heatmaps, flipped, flip_pairs, shift):
    """Averages heatmaps with those of the mirrored crops.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Of the crops.
        flipped (np.ndarray[N, K, h, w]): Of the mirrored crops.
        flip_pairs (Sequence[tuple[int]]): Joints that a mirror exchanges.
        shift (bool): Mirroring a grid with a stride moves its cells by
            almost one against the picture; this moves them back.

    Returns:
        np.ndarray[N, K, h, w]: The mean.
    """
    order = flip_order(flip_pairs, heatmaps.shape[1])
    back = flipped[:, order, :, ::-1]
    if shift:
        back = np.concatenate([back[..., :1], back[..., :-1]], axis=-1)
    return (heatmaps + back) * np.float32(0.5)


def flip_order(flip_pairs, num_joints):
    """Order of the joints in a mirror.

    Args:
        flip_pairs (Sequence[tuple[int]]): Joints that change places.
        num_joints (int): K.

    Returns:
        list[int]: For each joint the one that it is mirrored to.
    """
    order = list(range(num_joints))
    for first, second in flip_pairs:
        order[first], order[second] = second, first
    return order


def decode(
    heatmaps,
    centers,
    scales,
    post_process=True,
    unbiased_decoding=False,
    modulate_kernel=11,
):
    """Reads joints from heatmaps.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Heatmaps of N people.
        centers (Sequence[np.ndarray[2]]): Their crops, see :func:`affine`.
        scales (Sequence[np.ndarray[2]]): Likewise.
        post_process (bool): See :class:`Settings`.
        unbiased_decoding (bool): Likewise.
        modulate_kernel (int): Likewise.

    Returns:
        np.ndarray[N, K, 3]: x, y (picture) and score (height of the peak).
        A map without a positive value gives the cell (-1, -1).
    """
    num_people, num_joints, height, width = heatmaps.shape
    cells, scores = peaks(heatmaps)
    if post_process and unbiased_decoding:
        cells = _refine_by_curvature(heatmaps, cells, modulate_kernel)
    elif post_process:
        cells = _refine_by_quarter(heatmaps, cells)
    keypoints = np.empty((num_people, num_joints, 3), np.float32)
    keypoints[..., 2] = scores
    for person in range(num_people):
        matrix = affine(
            centers[person], scales[person], (width, height), inverse=True
        )
        keypoints[person, :, :2] = transform_points(cells[person], matrix)
    return keypoints


def peaks(heatmaps):
    """Finds the highest cell of each heatmap.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Heatmaps.

    Returns:
        tuple[np.ndarray[N, K, 2], np.ndarray[N, K]]: x, y (cell; -1, -1
        where nothing is above zero) and the value there.
    """
    width = heatmaps.shape[3]
    flat = heatmaps.reshape(heatmaps.shape[:2] + (-1,))
    index = flat.argmax(axis=2)
    scores = flat.max(axis=2)
    cells = np.stack([index % width, index // width], axis=-1)
    cells = np.where(scores[..., None] > 0, cells, -1)
    return cells.astype(np.float32), scores


def transform_points(points, matrix):
    """Applies an affine map.

    Args:
        points (np.ndarray[P, 2]): x, y.
        matrix (np.ndarray[2, 3]): The map.

    Returns:
        np.ndarray[P, 2]: The points in the other frame, double precision.
    """
    points = np.float64(points)
    return points @ matrix[:, :2].T + matrix[:, 2]


def estimate(network, picture, people, settings):
    """Estimates the poses of all people in a picture in one batch.

    Args:
        network (Callable): Heatmaps [N, K, h, w] of crops [N, h, w, 3]
            (8-bit RGB), flip test included.
        picture (np.ndarray[H, W, 3]): 8-bit BGR.
        people (Sequence): With ``center`` and ``scale``, see people.py.
        settings (Settings): Of the network.

    Returns:
        Result: Joints and heatmaps, in the order of ``people``.
    """
    crops = cut(picture, people, settings)
    return read(network(crops), people, settings)


def cut(picture, people, settings):
    """First third of :func:`estimate`: crops of people.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR.
        people (Sequence): See :func:`estimate`.
        settings (Settings): Of the network.

    Returns:
        np.ndarray[N, h, w, 3]: 8-bit RGB.
    """
    crops = [
        crop_person(picture, one.center, one.scale, settings.image_size)
        for one in people
    ]
    return np.ascontiguousarray(np.stack(crops)[..., ::-1])


def read(output, people, settings):
    """Last third of :func:`estimate`: joints from what the network gives.

    Args:
        output (np.ndarray): Heatmaps [N, K, h, w], or joints [N, K, 3] of a
            network that decodes them itself: x, y (crop) and score.
        people (Sequence): See :func:`estimate`.
        settings (Settings): Of the network.

    Returns:
        Result: Joints, and heatmaps where there are any.
    """
    if output.ndim == 3:
        keypoints = output.astype(np.float32)
        for joints, one in zip(keypoints, people):
            matrix = affine(
                one.center, one.scale, settings.image_size, inverse=True
            )
            joints[:, :2] = transform_points(joints[:, :2], matrix)
        return Result(keypoints, None)
    heatmaps = output
    keypoints = decode(
        heatmaps,
        [one.center for one in people],
        [one.scale for one in people],
        settings.post_process,
        settings.unbiased_decoding,
        settings.modulate_kernel,
    )
    return Result(keypoints, heatmaps)


def _three_points(center, width):
    """Centre, middle of the upper edge and upper left corner of a square.

    Rounded to single precision at the same places as in mmpose, so that the
    matrices agree to the last bit.
    """
    middle = np.float32(center)
    top = np.float32(center + np.array([0.0, width * -0.5]))
    down = middle - top
    corner = top + np.float32([-down[1], down[0]])
    return np.stack([middle, top, corner])


def _reduced(picture, matrix, factor):
    """Averages a picture down; returns it and the map from it."""
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


def _refine_by_quarter(heatmaps, cells):
    """Moves peaks by a quarter of a cell towards the higher neighbour."""
    height, width = heatmaps.shape[2:]
    x, y = cells.astype(int).transpose(2, 0, 1)
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    n, k = np.nonzero(inner)
    x, y = x[inner], y[inner]
    slope = np.stack(
        [
            heatmaps[n, k, y, x + 1] - heatmaps[n, k, y, x - 1],
            heatmaps[n, k, y + 1, x] - heatmaps[n, k, y - 1, x],
        ],
        axis=-1,
    )
    refined = cells.copy()
    refined[n, k] += np.sign(slope).astype(np.float32) * np.float32(0.25)
    return refined


def _refine_by_curvature(heatmaps, cells, kernel):
    """Moves peaks to the maximum of a parabola through the log heatmap."""
    height, width = heatmaps.shape[2:]
    x, y = cells.astype(int).transpose(2, 0, 1)
    inner = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    refined = cells.copy()
    for n, k in zip(*np.nonzero(inner)):
        smooth = _blurred(heatmaps[n, k], kernel)
        row, column = y[n, k], x[n, k]
        log = np.log(np.maximum(smooth, 1e-10))
        log = log[row - 2 : row + 3, column - 2 : column + 3]
        gradient = 0.5 * np.array(
            [log[2, 3] - log[2, 1], log[3, 2] - log[1, 2]]
        )
        xx = 0.25 * (log[2, 4] - 2 * log[2, 2] + log[2, 0])
        yy = 0.25 * (log[4, 2] - 2 * log[2, 2] + log[0, 2])
        xy = 0.25 * (log[3, 3] - log[1, 3] - log[3, 1] + log[1, 1])
        if xx * yy - xy**2 != 0:
            hessian = np.array([[xx, xy], [xy, yy]])
            refined[n, k] -= np.linalg.solve(hessian, gradient)
    return refined


def _blurred(heatmap, kernel):
    """Gaussian blur with zeros outside, brought back to the old maximum."""
    smooth = cv2.GaussianBlur(
        heatmap, (kernel, kernel), 0, borderType=cv2.BORDER_CONSTANT
    )
    return smooth * (heatmap.max() / smooth.max())
