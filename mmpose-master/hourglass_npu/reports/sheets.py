"""Draw the results of an evaluation.

A *contact sheet* shows the best, the median and the worst people, a *plot*
the spread of every joint's error. Errors are in the unit of the score: for
PCKh in head lengths, where a joint within 0.5 counts as found.
"""

import os

import cv2
import numpy as np

from hourglass_npu.files import make_folder, replaced
from hourglass_npu.mpii.pckh import relative_errors
from hourglass_npu.mpii.truth import truth_of
from hourglass_npu.pose.draw import draw_people
from hourglass_npu.pose.geometry import affine, crop_person, transform_points
from hourglass_npu.pose.images import read_picture, write_picture

PEOPLE_PER_ROW = 5
TILE = 256
CAPTION = 28
MARGIN = 8
NAME_LENGTH = 24
"""Characters of a file name that fit below a tile, with an index."""


def write(dataset, outputs, folder, joints):
    """Draw both pictures.

    Args:
        dataset (Dataset): Of people with known joints, in test mode.
        outputs (list[tuple]): Predictions, as for ``dataset.evaluate``.
        folder (str): Where to write; it is made if missing.
        joints (Joints): Of the data set.

    Returns:
        list[str]: The files.
    """
    truth = truth_of(dataset)
    poses = np.concatenate([output[0] for output in outputs])
    errors = relative_errors(poses[..., :2] + 1.0, truth)
    make_folder(folder)
    sheet = os.path.join(folder, 'people.jpg')
    write_picture(
        sheet, contact_sheet(dataset.db, poses, truth, errors, joints)
    )
    plot = os.path.join(folder, 'joint_errors.png')
    plot_errors(errors, plot, joints, truth['measure'])
    return [sheet, plot]


def rank_people(errors):
    """Choose the people to show.

    Args:
        errors (np.ndarray[N, K]): NaN for joints that do not count.

    Returns:
        dict[str, list[int]]: Indices of people under 'best', 'median' and
        'worst', each from better to worse. People without a joint that
        counts are in no group.
    """
    counted = np.flatnonzero(~np.isnan(errors).all(axis=1))
    # Limit the error of a joint to two units: otherwise one joint far away
    # would outweigh all others.
    means = np.nanmean(np.minimum(errors[counted], 2.0), axis=1)
    order = counted[np.argsort(means, kind='stable')]
    size = min(PEOPLE_PER_ROW, max(1, len(order) // 3))
    middle = max(0, (len(order) - size) // 2)
    return dict(
        best=order[:size].tolist(),
        median=order[middle : middle + size].tolist(),
        worst=order[-size:].tolist(),
    )


def contact_sheet(people, poses, truth, errors, joints):
    """Draw the best, median and worst people in three rows.

    Args:
        people (list[dict]): With ``image_file``, ``center``, ``scale``.
        poses (np.ndarray[N, K, 3]): Predicted x, y in pixels that count
            from 0, and score.
        truth (dict): See :func:`hourglass_npu.mpii.truth.load_truth`.
        errors (np.ndarray[N, K]): In units of the truth's measure.
        joints (Joints): Of the data set.

    Returns:
        np.ndarray[H, W, 3]: 8-bit BGR picture.
    """
    groups = rank_people(errors)
    columns = max(1, max(len(group) for group in groups.values()))
    step = TILE + MARGIN
    row = CAPTION + TILE + 2 * CAPTION
    canvas = np.full(
        (CAPTION + len(groups) * row, max(columns * step + MARGIN, 460), 3),
        255,
        np.uint8,
    )
    unit = truth['measure'].unit
    words = f'colour: predicted, white: truth; errors in {unit}'
    caption(canvas, words, MARGIN, 0)
    for i, (name, group) in enumerate(groups.items()):
        top = CAPTION + i * row
        caption(canvas, name, MARGIN, top, bold=True)
        for j, person in enumerate(group):
            left = MARGIN + j * step
            tile = _tile(people[person], poses[person], truth, person, joints)
            canvas[top + CAPTION : top + CAPTION + TILE, left:][:, :TILE] = (
                tile
            )
            seen = errors[person][~np.isnan(errors[person])]
            near = truth['measure'].threshold
            lines = (
                _label(people[person]['image_file'], person),
                f'{100 * np.mean(seen <= near):.0f} % within {near:g}, '
                f'median {np.median(seen):.2f}',
            )
            for number, line in enumerate(lines):
                below = top + TILE + CAPTION * (number + 1)
                caption(canvas, line, left, below)
    return canvas


def _label(path, index):
    """Return the name of a person's picture, short, and its index."""
    name = os.path.basename(path)
    if len(name) > NAME_LENGTH:
        name = '...' + name[3 - NAME_LENGTH :]
    name = name.encode('ascii', 'replace').decode()
    return f'{name} #{index}'


def _tile(person, pose, truth, index, joints):
    """Draw one person."""
    center, scale = person['center'], person['scale']
    size = (TILE, TILE)
    picture = read_picture(person['image_file'])
    tile = crop_person(picture, center, scale, size)
    matrix = affine(center, scale, size)

    # All joints are compared with the truth: draw all, with one opacity.
    predicted = np.ones_like(pose)
    predicted[:, :2] = transform_points(pose[:, :2], matrix)
    tile = draw_people(tile, [predicted], joints, sizes=[TILE])

    # The truth is above and thin: both can be seen where they agree.
    true = transform_points(truth['joints'][index] - 1, matrix)
    visible = truth['visible'][index]
    for width, colour in ((2, (0, 0, 0)), (1, (255, 255, 255))):
        for a, b in joints.limbs:
            if visible[a] and visible[b]:
                ends = [tuple(map(int, true[k].round())) for k in (a, b)]
                cv2.line(tile, ends[0], ends[1], colour, width, cv2.LINE_AA)
    return tile


def caption(canvas, text, left, top, bold=False):
    """Write a line of black text into a row of CAPTION pixels.

    Args:
        canvas (np.ndarray[H, W, 3]): 8-bit BGR picture; changed in place.
        text (str): ASCII.
        left (int): First column of the text.
        top (int): First line of the row.
        bold (bool): Larger and thicker.
    """
    cv2.putText(
        canvas,
        text,
        (left, top + CAPTION - 9),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.6 if bold else 0.45,
        (0, 0, 0),
        2 if bold else 1,
        cv2.LINE_AA,
    )


def plot_errors(errors, path, joints, measure):
    """Plot the spread of each joint's error.

    Boxes reach from the first to the third quartile, whiskers from the 5th
    to the 95th percentile.

    Args:
        errors (np.ndarray[N, K]): In units of the measure.
        path (str): PNG file to write.
        joints (Joints): Of the data set.
        measure (Measure): How the errors are measured.
    """
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Head first, then down the body.
    order = sorted(
        range(len(joints)),
        key=lambda joint: _height(joints.names[joint]),
        reverse=True,
    )
    values = [errors[~np.isnan(errors[:, k]), k] for k in order]
    figure = Figure(figsize=(8, max(2 + len(order) / 4, 3)), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    boxes = axes.boxplot(
        [np.minimum(v, 10) for v in values],
        vert=False,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        medianprops=dict(color='black'),
    )
    for box, joint in zip(boxes['boxes'], order):
        box.set_facecolor([c / 255 for c in joints.colors[joint]])
    labels = []
    for joint, seen in zip(order, values):
        share = 'n/a'
        if len(seen):
            share = f'{100 * np.mean(seen <= measure.threshold):.1f} %'
        labels.append(f'{joints.names[joint].replace("_", " ")}  {share}')
    axes.set_yticks(range(1, len(order) + 1))
    axes.set_yticklabels(labels)
    axes.invert_yaxis()
    limits = measure.fine, measure.threshold
    for threshold in limits:
        axes.axvline(threshold, color='grey', linestyle='--', linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f'error in {measure.unit} (dashed: {limits[0]:g} and {limits[1]:g})'
    )
    axes.set_title(
        f'{len(errors)} people; share of joints within {limits[1]:g}'
    )
    figure.tight_layout()
    with replaced(path) as partial:
        figure.savefig(partial, format='png')


def _height(name):
    """Return the rank of a joint from the feet up; others are on top."""
    parts = (
        'ankle knee hip pelvis wrist elbow shoulder thorax neck head'.split()
    )
    ranks = [i for i, part in enumerate(parts) if part in name.lower()]
    return ranks[0] if ranks else len(parts)
