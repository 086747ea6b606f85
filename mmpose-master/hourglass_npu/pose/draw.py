"""Draw poses and heatmaps into pictures.

A limb is a coloured bar with a dark, soft edge. The colours are those of the
joints (see joints.py), usually for left, right and centre; they are seen on
dark ground, and the edge on bright ground. The width depends on the size of
the person, the opacity on the lower score of its two joints.
"""

import cv2
import numpy as np

EDGE_BGR = (24, 18, 14)
EDGE_OPACITY = 0.75
FULL_SCORE = 0.8
"""Lowest score drawn without transparency. Heatmap peaks of a trained model
are seldom higher."""

MIN_OPACITY = 0.35
STRIP = 256
"""Rows to work on at a time: drawing into a picture of 100 million pixels
must not need many times its memory."""


def draw_people(picture, poses, joints, threshold=0.3, sizes=None):
    """Draw the poses of people, the larger ones below the smaller.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR picture; it is not changed.
        poses (Sequence[np.ndarray[K, 3]]): x, y in pixels of the picture
            and score of each joint, one array per person.
        joints (Joints): What these K joints are.
        threshold (float): Lowest score of a joint that is drawn.
        sizes (Sequence[float] | None): Height of each person in pixels; None
            to take it from the joints that are drawn.

    Returns:
        np.ndarray[H, W, 3]: The picture with the poses.
    """
    canvas = picture.copy()
    if sizes is None:
        sizes = [_extent(pose[pose[:, 2] >= threshold]) for pose in poses]
    order = sorted(range(len(poses)), key=lambda i: -sizes[i])
    for index in order:
        _draw_pose(canvas, poses[index], joints, threshold, sizes[index])
    return canvas


def draw_heatmaps(picture, heatmaps, transforms, joints, strength=0.75):
    """Draw the heatmaps of people into a picture, in the joints' colours.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR picture; it is not changed.
        heatmaps (np.ndarray[N, K, h, w]): Heatmaps of N people.
        transforms (Sequence[np.ndarray[2, 3]]): For each person the affine
            map from heatmap cells to pixels of the picture.
        joints (Joints): What the K joints are.
        strength (float): Opacity at a heatmap value of one.

    Returns:
        np.ndarray[H, W, 3]: The picture, a little darker, with the heatmaps.
    """
    height, width = picture.shape[:2]
    canvas = np.empty_like(picture)
    for top in range(0, height, STRIP):
        part = picture[top : top + STRIP].astype(np.float32) * 0.7
        for maps, transform in zip(heatmaps, transforms):
            shifted = transform - np.float64([[0, 0, 0], [0, 0, top]])
            for rgb in dict.fromkeys(joints.colors):
                same = [k for k, c in enumerate(joints.colors) if c == rgb]
                heat = np.clip(maps[same].max(axis=0), 0, 1)
                _lay_heat(part, heat, shifted, rgb[::-1], strength)
        canvas[top : top + STRIP] = np.clip(part + 0.5, 0, 255)
    return canvas


def draw_legend(picture, joints):
    """Explain the colours, in the lower left corner.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR picture; changed in place.
            One that is too small for a legend is left as it is.
        joints (Joints): Whose colours. If they do not show sides, there is
            no legend.
    """
    sides = joints.legend()
    if not sides:
        return
    height, width = picture.shape[:2]
    size = max(min(height, width) / 480, 0.75)
    line, text, gap = 20 * size, 0.45 * size, 8 * size
    stroke = max(round(size), 1)
    font = cv2.FONT_HERSHEY_SIMPLEX
    longest = max(cv2.getTextSize(s, font, text, stroke)[0][0] for s in sides)
    panel = (int(3 * gap + line / 2 + longest), int(gap + line * len(sides)))
    left, top = int(gap), int(height - gap - panel[1])
    if 3 * panel[0] > width or 3 * panel[1] > height:
        return
    under = picture[top : top + panel[1], left : left + panel[0]]
    under[:] = under * 0.35 + np.float32(EDGE_BGR) * 0.65 + 0.5
    for row, side in enumerate(sides):
        middle = top + gap / 2 + line * (row + 0.5)
        spot = np.float64([left + gap + line / 4, middle])
        _bar(picture, spot, spot, line / 2, sides[side][::-1], 1.0)
        place = (int(spot[0] + line / 4 + gap), int(middle + line / 4))
        cv2.putText(
            picture,
            side,
            place,
            font,
            text,
            (255, 255, 255),
            stroke,
            cv2.LINE_AA,
        )


def opacity(score, threshold):
    """Return the opacity of a joint: MIN_OPACITY at the threshold, up to 1.

    Args:
        score (float): Score of the joint.
        threshold (float): Lowest score of a joint that is drawn.

    Returns:
        float: Between MIN_OPACITY and 1.
    """
    span = max(FULL_SCORE - threshold, 1e-6)
    part = min(max((score - threshold) / span, 0.0), 1.0)
    return MIN_OPACITY + (1 - MIN_OPACITY) * part


def _draw_pose(canvas, pose, joints, threshold, size):
    seen = [bool(s >= threshold) and np.isfinite(s) for s in pose[:, 2]]
    width = max(size * 0.016, 1.0)
    edge = max(width * 0.45, 1.0)
    limbs = [
        (
            pose[limb[0], :2],
            pose[limb[1], :2],
            rgb,
            opacity(min(pose[limb[0], 2], pose[limb[1], 2]), threshold),
        )
        for limb, rgb in zip(joints.limbs, joints.limb_colors)
        if seen[limb[0]] and seen[limb[1]]
    ]
    for first, second, _, alpha in limbs:
        _bar(
            canvas,
            first,
            second,
            width + 2 * edge,
            EDGE_BGR,
            alpha * EDGE_OPACITY,
        )
    for first, second, rgb, alpha in limbs:
        _bar(canvas, first, second, width, rgb[::-1], alpha)
    radius = width * 0.95
    for joint, (x, y, score) in enumerate(pose):
        if not seen[joint]:
            continue
        alpha = opacity(score, threshold)
        colour = joints.colors[joint][::-1]
        spot = np.float32([x, y])
        _bar(canvas, spot, spot, 2 * (radius + edge), EDGE_BGR, alpha)
        _bar(canvas, spot, spot, 2 * radius, colour, alpha)
        _bar(canvas, spot, spot, 0.9 * radius, (255, 255, 255), alpha)


def _bar(canvas, first, second, width, bgr, alpha):
    """Blend a bar with round ends (a disc where both ends are equal)."""
    height, canvas_width = canvas.shape[:2]
    ends = np.float64([first, second])
    margin = width / 2 + 2
    x0, y0 = np.floor(ends.min(axis=0) - margin).astype(int)
    x1, y1 = np.ceil(ends.max(axis=0) + margin).astype(int) + 1
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x1, canvas_width), min(y1, height)
    if right <= left or bottom <= top:
        return
    for strip in range(top, bottom, STRIP):
        rows = (strip, min(strip + STRIP, bottom))
        near = _columns_near(ends, rows, margin)
        columns = (max(near[0], left), min(near[1], right))
        if columns[0] < columns[1]:
            _blend_bar(canvas, ends, width, bgr, alpha, rows, columns)


def _blend_bar(canvas, ends, width, bgr, alpha, rows, columns):
    """Blend the part of a bar that lies in a rectangle of the picture.

    The distance of each pixel's centre from the segment gives an exact
    coverage, also for widths that are not whole pixels, which cv2.line
    rounds.
    """
    xs = np.arange(*columns, dtype=np.float32)[None, :] - ends[0, 0]
    ys = np.arange(*rows, dtype=np.float32)[:, None] - ends[0, 1]
    dx, dy = ends[1] - ends[0]
    length2 = dx * dx + dy * dy
    along = 0.0
    if length2 > 0:
        along = np.clip((xs * dx + ys * dy) / length2, 0, 1)
    distance = np.sqrt((xs - along * dx) ** 2 + (ys - along * dy) ** 2)
    cover = np.clip(width / 2 + 0.5 - distance, 0, 1) * alpha
    part = canvas[rows[0] : rows[1], columns[0] : columns[1]]
    part[:] = part + cover[..., None] * (np.float32(bgr) - part) + 0.5


def _columns_near(ends, rows, margin):
    """Return the columns of some rows that are near a segment."""
    first, second = sorted(ends.tolist(), key=lambda end: end[1])
    slope = second[1] - first[1]
    xs = []
    for y in (rows[0] - margin, rows[1] + margin):
        part = (y - first[1]) / slope if slope > 0 else float(y > first[1])
        part = min(max(part, 0.0), 1.0)
        xs.append(first[0] + part * (second[0] - first[0]))
    return int(min(xs) - margin), int(max(xs) + margin) + 2


def _lay_heat(part, heat, transform, bgr, strength):
    """Blend one heatmap into a part of a picture, in place."""
    height, width = part.shape[:2]
    x0, y0, x1, y1 = _footprint(transform, heat.shape, width, height)
    if x1 <= x0 or y1 <= y0:
        return
    shifted = transform - np.float64([[0, 0, x0], [0, 0, y0]])
    alpha = cv2.warpAffine(
        heat.astype(np.float32),
        shifted,
        (int(x1 - x0), int(y1 - y0)),
        flags=cv2.INTER_LINEAR,
    )
    under = part[y0:y1, x0:x1]
    under += (strength * alpha)[..., None] * (np.float32(bgr) - under)


def _extent(joints):
    """Return the diagonal of the box around joints."""
    if len(joints) == 0:
        return 0.0
    return float(np.linalg.norm(np.ptp(joints[:, :2], axis=0)))


def _footprint(transform, shape, width, height):
    """Return the pixels (x0, y0, x1, y1) of a transformed heatmap."""
    rows, columns = shape
    corners = np.float64(
        [[-1, -1, 1], [columns, -1, 1], [-1, rows, 1], [columns, rows, 1]]
    )
    points = corners @ np.asarray(transform).T
    x0, y0 = np.floor(points.min(axis=0)).astype(int)
    x1, y1 = np.ceil(points.max(axis=0)).astype(int) + 1
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
