"""Top-down pose estimation around a network, in NumPy and OpenCV only.

A box becomes a crop, the network makes heatmaps of crops (with PyTorch, ONNX
Runtime or an OM on the NPU), and heatmaps become joints in the picture. The
numbers are those of mmpose's own pipeline (TopDownAffine, the flip test of
TopDown, keypoints_from_heatmaps); tests compare the two. geometry.py explains
the frames picture, crop and cell; heatmaps.py does the same for tensors.
"""

from collections import namedtuple

import cv2
import numpy as np

from hourglass_npu.pose.geometry import crop_person, to_picture

Settings = namedtuple(
    'Settings',
    'image_size mean std joints flip_test shift_heatmap post_process '
    'unbiased_decoding modulate_kernel',
)
Settings.__doc__ = """What a network takes, and how to read its output.

Attributes:
    image_size (tuple[int]): Width and height of the crop.
    mean, std (tuple[float]): Of R, G, B in the range 0 to 1.
    joints (Joints): What the heatmaps show.
    flip_test (bool): Average with the mirrored crop.
    shift_heatmap (bool): Move the mirrored heatmaps by one cell.
    post_process (bool): Refine the peak to less than a cell.
    unbiased_decoding (bool): Refine by the curvature (DARK, CVPR 2020)
        instead of by a quarter of a cell.
    modulate_kernel (int): Size of the blur before that.
"""

Result = namedtuple('Result', 'keypoints heatmaps')
Result.__doc__ = """Poses of N people.

Attributes:
    keypoints (np.ndarray[N, K, 3]): x, y (picture) and score.
    heatmaps (np.ndarray[N, K, h, w] | None): After the flip test.
"""


def normalise(crops, mean, std):
    """Turn crops into network input.

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
    """Average heatmaps with those of the mirrored crops.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Of the crops.
        flipped (np.ndarray[N, K, h, w]): Of the mirrored crops.
        flip_pairs (Sequence[tuple[int]]): Joints that change places in a
            mirror.
        shift (bool): Move the mirrored heatmaps by one cell: mirroring a
            grid with a stride moves its cells by almost one.

    Returns:
        np.ndarray[N, K, h, w]: The mean.
    """
    order = flip_order(flip_pairs, heatmaps.shape[1])
    back = flipped[:, order, :, ::-1]
    if shift:
        back = np.concatenate([back[..., :1], back[..., :-1]], axis=-1)
    return (heatmaps + back) * np.float32(0.5)


def flip_order(flip_pairs, num_joints):
    """Return the order of the joints in a mirror.

    Args:
        flip_pairs (Sequence[tuple[int]]): Joints that change places.
        num_joints (int): K.

    Returns:
        list[int]: For each joint the one that takes its place.
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
    """Read joints from heatmaps.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Heatmaps of N people.
        centers (Sequence[np.ndarray[2]]): Of their crops, see
            :func:`hourglass_npu.pose.geometry.affine`.
        scales (Sequence[np.ndarray[2]]): Likewise.
        post_process (bool): See :class:`Settings`.
        unbiased_decoding (bool): Likewise.
        modulate_kernel (int): Likewise.

    Returns:
        np.ndarray[N, K, 3]: x, y (picture) and score (height of the peak).
        A heatmap without a positive value gives the cell (-1, -1).
    """
    height, width = heatmaps.shape[2:]
    cells, scores = peaks(heatmaps)
    if post_process and unbiased_decoding:
        cells = _refine_by_curvature(heatmaps, cells, modulate_kernel)
    elif post_process:
        cells = _refine_by_quarter(heatmaps, cells)
    joints = np.concatenate([cells, scores[..., None]], axis=2)
    return to_picture(joints, centers, scales, (width, height))


def peaks(heatmaps):
    """Find the highest cell of each heatmap.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Heatmaps.

    Returns:
        tuple[np.ndarray[N, K, 2], np.ndarray[N, K]]: x, y (cell), -1 where
        no value is above zero, and the value there.
    """
    width = heatmaps.shape[3]
    flat = heatmaps.reshape(heatmaps.shape[:2] + (-1,))
    index = flat.argmax(axis=2)
    scores = flat.max(axis=2)
    cells = np.stack([index % width, index // width], axis=-1)
    cells = np.where(scores[..., None] > 0, cells, -1)
    return cells.astype(np.float32), scores


def estimate(network, picture, people, settings):
    """Estimate the poses of all people in a picture in one batch.

    Args:
        network (Callable): Takes crops (np.ndarray[N, h, w, 3], 8-bit RGB),
            returns what :func:`read` takes, flip test included.
        picture (np.ndarray[H, W, 3]): 8-bit BGR.
        people (Sequence): With ``center`` and ``scale``, see boxes.py.
        settings (Settings): Of the network.

    Returns:
        Result: Joints and heatmaps, in the order of ``people``.
    """
    crops = cut(picture, people, settings)
    return read(network(crops), people, settings)


def cut(picture, people, settings):
    """Cut out people: the first third of :func:`estimate`.

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
    """Read the output of a network: the last third of :func:`estimate`.

    Args:
        output (np.ndarray): Heatmaps, np.ndarray[N, K, h, w], or from a
            network that decodes them joints, np.ndarray[N, K, 3]: x, y
            (crop) and score.
        people (Sequence): See :func:`estimate`.
        settings (Settings): Of the network.

    Returns:
        Result: Joints, and heatmaps where there are any.
    """
    centers = [one.center for one in people]
    scales = [one.scale for one in people]
    if output.ndim == 3:
        joints = to_picture(output, centers, scales, settings.image_size)
        return Result(joints, None)
    joints = decode(
        output,
        centers,
        scales,
        settings.post_process,
        settings.unbiased_decoding,
        settings.modulate_kernel,
    )
    return Result(joints, output)


def _refine_by_quarter(heatmaps, cells):
    """Move peaks by a quarter of a cell towards the higher neighbour."""
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
    """Move peaks to the maximum of a parabola through the log heatmap."""
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
    """Blur with zeros outside, and scale back to the old maximum."""
    smooth = cv2.GaussianBlur(
        heatmap, (kernel, kernel), 0, borderType=cv2.BORDER_CONSTANT
    )
    return smooth * (heatmap.max() / smooth.max())
