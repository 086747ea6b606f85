"""Heatmaps as tensors: targets, accuracy, flip test, decoding.

All of it runs on the device that the heatmaps are on. ``decode_heatmaps`` and
``merge_flipped`` are also what an exported ONNX graph contains. decode.py
does the same with NumPy.
"""

from functools import lru_cache

import numpy as np
import torch

from hourglass_npu.pose.decode import flip_order
from hourglass_npu.training.deferred import DeferredNumber

PCK_THRESHOLD = 0.5
"""The training log counts a joint as found within this many tenths of the
heatmap."""


@lru_cache(maxsize=None)
def gaussian_patch(sigma):
    """Return the patch around a joint: a Gaussian with peak 1, cut at 3 sigma.

    Args:
        sigma (float): In cells.

    Returns:
        np.ndarray[S, S]: Single precision. It is shared: do not write to it.
    """
    size = 2 * (sigma * 3) + 1
    x = np.arange(0, size, 1, np.float32)
    middle = size // 2
    squares = (x - middle) ** 2 + (x[:, None] - middle) ** 2
    return np.exp(-squares / (2 * sigma**2))


@lru_cache(maxsize=None)
def _patch(sigma, device):
    return torch.from_numpy(gaussian_patch(sigma)).to(device)


def render_heatmaps(joint_cells, size, sigma):
    """Draw target heatmaps, with the values of TopDownGenerateTarget.

    Args:
        joint_cells (Tensor[N, K, 2]): Cell of each joint, x and y, integers.
        size (tuple[int, int]): Width and height of a heatmap.
        sigma (float): Of the Gaussian, in cells.

    Returns:
        Tensor[N, K, h, w]: Single precision.
    """
    width, height = size
    device = joint_cells.device
    patch = _patch(sigma, device)
    # Not int64: an NPU compares that on its slow AI CPU.
    steps = torch.arange(len(patch), dtype=torch.int32, device=device)
    cells = joint_cells.float()
    # Truncate toward zero, as the pipeline does.
    first = (cells - sigma * 3).trunc().int()
    last = (cells + sigma * 3 + 1).trunc().int()

    def places(axis, limit):
        place = first[..., axis, None] + steps
        inside = (place >= 0) & (place < limit)
        return place, inside & (place < last[..., axis, None])

    (x, x_inside), (y, y_inside) = places(0, width), places(1, height)
    inside = y_inside[..., :, None] & x_inside[..., None, :]
    count = joint_cells[..., 0].numel()
    start = torch.arange(count, device=device).view(cells.shape[:2])
    rows = start[..., None] * height + y
    index = rows[..., :, None] * width + x[..., None, :]
    # Values outside go into one more cell, which is cut off.
    index = index.masked_fill(~inside, count * height * width)
    values = patch.expand(index.shape)
    heatmaps = torch.zeros(count * height * width + 1, device=device)
    heatmaps.scatter_(0, index.reshape(-1), values.reshape(-1))
    return heatmaps[:-1].view(*cells.shape[:2], height, width)


def at_least_single(heatmaps):
    """Return half-precision heatmaps in single precision, others as is.

    Args:
        heatmaps (Tensor): Floats.

    Returns:
        Tensor: Of the same shape.
    """
    return heatmaps.float() if heatmaps.element_size() < 4 else heatmaps


def peaks(heatmaps):
    """Find the highest cell of each heatmap.

    Args:
        heatmaps (Tensor[N, K, h, w]): Heatmaps.

    Returns:
        tuple[Tensor[N, K, 1]]: x and y of the cell, and the value there. x
        and y are whole numbers as floats, which every version of ONNX can
        compare and limit.
    """
    flat, width = _flat(heatmaps), int(heatmaps.shape[3])
    if torch.onnx.is_in_onnx_export() or flat.device.type != 'cpu':
        score, index = flat.max(dim=2, keepdim=True)
    else:
        # NumPy's search is eight times as fast as torch's.
        index = torch.from_numpy(flat.detach().numpy().argmax(2))[..., None]
        score = flat.gather(2, index)
    # Exact below 2^24 cells, in single precision.
    index = index.to(flat.dtype)
    y = torch.floor(index / width)
    return index - y * width, y, score


def _flat(heatmaps):
    """Lay the rows of a heatmap one after the other: Tensor[N, K, h * w]."""
    # Plain numbers, so that a graph contains no arithmetic on shapes.
    joints, height, width = (int(n) for n in heatmaps.shape[1:])
    return heatmaps.reshape(-1, joints, height * width)


def decode_heatmaps(heatmaps, post_process=True):
    """Find the joints in heatmaps.

    The numbers are those of mmpose's ``keypoints_from_heatmaps`` before it
    maps them to the picture.

    Args:
        heatmaps (Tensor[N, K, h, w]): Single precision or better.
        post_process (bool): Move each peak by a quarter of a cell towards
            the higher neighbour.

    Returns:
        Tensor[N, K, 3]: x and y in cells, -1 where no value is above 0, and
        score.
    """
    height, width = (int(n) for n in heatmaps.shape[2:])
    x, y, score = peaks(heatmaps)
    found = torch.cat([x, y], dim=2)
    if post_process and min(height, width) > 3:  # else all cells are border
        flat = _flat(heatmaps)
        inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        # At the border the neighbours are not used and only have to exist.
        last = (height - 1) * width - 1
        middle = torch.clamp(y * width + x, width, last).long()
        slopes = torch.cat(
            [
                flat.gather(2, middle + step) - flat.gather(2, middle - step)
                for step in (1, width)
            ],
            dim=2,
        )
        found = found + torch.sign(slopes) * 0.25 * inner.to(found.dtype)
    there = (score > 0).to(found.dtype)
    return torch.cat([found * there - (1 - there), score], dim=2)


def mirror(batch):
    """Reverse the last axis by an index, which every compiler knows.

    Args:
        batch (Tensor[N, C, h, w]): Crops or heatmaps.

    Returns:
        Tensor[N, C, h, w]: A copy.
    """
    last = int(batch.shape[3]) - 1
    return batch.index_select(
        3, torch.arange(last, -1, -1, device=batch.device)
    )


def merge_flipped(heatmaps, flipped, flip_pairs, shift):
    """Average heatmaps with those of the mirrored crops.

    Args:
        heatmaps (Tensor[N, K, h, w]): Of the crops.
        flipped (Tensor[N, K, h, w]): Of the mirrored crops.
        flip_pairs (Sequence[tuple[int]]): Joints that change places in a
            mirror.
        shift (bool): Move the mirrored heatmaps by one cell.

    Returns:
        Tensor[N, K, h, w]: The mean.
    """
    order = flip_order(flip_pairs, int(heatmaps.shape[1]))
    order = torch.tensor(order, device=flipped.device)
    back = mirror(flipped.index_select(1, order))
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=3)
    return (heatmaps + back) * 0.5


@lru_cache(maxsize=None)
def _near(height, width, device):
    """Return which differences of cells count as found.

    Computed once, on the host and in double precision, as mmpose does for
    each joint.

    Args:
        height (int): Of the heatmap.
        width (int): Of the heatmap.
        device (torch.device): Where to keep the table.

    Returns:
        Tensor[h + 1, w + 1]: bool, by difference in y and in x. One more
        than the heatmap has, as joints that were not found are at -1.
    """
    y, x = np.mgrid[: height + 1, : width + 1].astype(np.float32)
    # mmpose divides x by the height and y by the width.
    tenths = np.stack([x, y], axis=-1) / (np.array([height, width]) / 10)
    distances = np.linalg.norm(tenths, axis=-1).astype(np.float32)
    return torch.from_numpy(distances < PCK_THRESHOLD).to(device)


def pck_in_training(output, target, target_weight):
    """Return the share of joints found, for the log.

    A joint is found within 0.05 of the heatmap's size; the number is that of
    ``mmpose.core.evaluation.pose_pck_accuracy``.

    Args:
        output (Tensor[N, K, h, w]): Predicted heatmaps.
        target (Tensor[N, K, h, w]): Target heatmaps.
        target_weight (Tensor[N, K, 1]): Joints of weight 0 do not count.

    Returns:
        DeferredNumber: From 0 to 1; 0 where no joint counts.
    """
    height, width = output.shape[2:]
    x, y, score = peaks(at_least_single(output.detach()))
    true_x, true_y, true_score = peaks(at_least_single(target.detach()))
    counts = (true_score > 0) & (target_weight > 0)
    away = tuple(
        (place.masked_fill(score <= 0, -1) - true).abs().long()
        for place, true in ((y, true_y), (x, true_x))
    )
    found = _near(height, width, output.device)[away] & counts
    sums = torch.stack([found.sum(), counts.sum()])
    return DeferredNumber(sums, lambda n: n[0] / n[1] if n[1] else 0.0)
