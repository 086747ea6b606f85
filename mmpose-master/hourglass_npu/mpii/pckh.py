"""PCKh: the share of joints within half a head's length of the truth."""

from collections import OrderedDict

import numpy as np

UNSCORED_JOINTS = (6, 7)
"""Pelvis and thorax, which MPII leaves out of the mean."""

ROWS = OrderedDict(
    Head=('head',),
    Shoulder=('lsho', 'rsho'),
    Elbow=('lelb', 'relb'),
    Wrist=('lwri', 'rwri'),
    Hip=('lhip', 'rhip'),
    Knee=('lkne', 'rkne'),
    Ankle=('lank', 'rank'),
)
"""Rows of the result, with their joints' names in ``mpii_gt_val.mat``."""


def head_errors(preds, truth):
    """Return how far predicted joints are from the truth, in head lengths.

    Args:
        preds (np.ndarray[N, 16, 2]): x, y in pixels that count from 1.
        truth (dict): See :func:`hourglass_npu.mpii.truth.load_truth`.

    Returns:
        np.ndarray[N, 16]: NaN where there is no truth, infinite where the
        prediction is not a number.
    """
    distances = np.linalg.norm(preds - truth['joints'], axis=-1)
    sizes = truth['head_sizes'][:, None]
    counted = truth['visible'] & (sizes > 0)
    errors = distances / np.where(sizes > 0, sizes, 1)
    errors[np.isnan(errors)] = np.inf
    errors[~counted] = np.nan
    return errors


def mpii_scores(errors, joint_names):
    """Turn errors into the rows in which MPII results are reported.

    Args:
        errors (np.ndarray[N, 16]): See :func:`head_errors`.
        joint_names (Sequence[str]): MPII's short name of each joint.

    Returns:
        OrderedDict[str, float]: Percentages: rows Head to Ankle, PCKh (mean
        over all joints but pelvis and thorax) and PCKh@0.1. NaN where no
        joint counts.
    """
    counted = ~np.isnan(errors)
    scored = np.ones(len(joint_names), dtype=bool)
    scored[list(UNSCORED_JOINTS)] = False

    def share(joints, threshold):
        total = counted[:, joints].sum()
        # A comparison with NaN is False: joints without truth do not count.
        with np.errstate(invalid='ignore'):
            found = (errors[:, joints] <= threshold).sum()
        return float(100 * found / total) if total else float('nan')

    rows = OrderedDict()
    for row, names in ROWS.items():
        # Both sides have the same weight; a side never seen has none.
        joints = [joint_names.index(name) for name in names]
        sides = [
            share(joint, 0.5) for joint in joints if counted[:, joint].any()
        ]
        rows[row] = float(np.mean(sides)) if sides else float('nan')
    # Here the weight of a joint is the number of people who show it.
    rows['PCKh'] = share(scored, 0.5)
    rows['PCKh@0.1'] = share(scored, 0.1)
    return rows
