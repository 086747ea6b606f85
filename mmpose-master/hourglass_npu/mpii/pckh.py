"""PCKh and PCK: the share of joints that are near the truth.

Near is half a head's length for PCKh, and a fifth of the person's size for
PCK.
"""

from collections import OrderedDict, namedtuple

import numpy as np

Measure = namedtuple('Measure', 'name threshold fine unit')
Measure.__doc__ = """How errors are measured.

Attributes:
    name (str): Of the mean score.
    threshold (float): Largest error of a joint that counts as found.
    fine (float): A second, smaller one.
    unit (str): Of errors, in the plural.
"""

PCKH = Measure('PCKh', 0.5, 0.1, 'head lengths')
PCK = Measure('PCK', 0.2, 0.05, 'person sizes')
MEASURES = (PCKH, PCK)


def relative_errors(preds, truth):
    """Return how far predicted joints are from the truth.

    Args:
        preds (np.ndarray[N, K, 2]): x, y in pixels that count from 1.
        truth (dict): See :func:`hourglass_npu.mpii.truth.load_truth`.

    Returns:
        np.ndarray[N, K]: In the unit of the truth's measure. NaN where there
        is no truth, infinite where the prediction is not a number.
    """
    distances = np.linalg.norm(preds - truth['joints'], axis=-1)
    sizes = truth['sizes'][:, None]
    counted = truth['visible'] & (sizes > 0)
    errors = distances / np.where(sizes > 0, sizes, 1)
    errors[np.isnan(errors)] = np.inf
    errors[~counted] = np.nan
    return errors


def score_names(joints, measure):
    """Return the rows of :func:`score_rows`.

    Args:
        joints (Joints): Of the data set.
        measure (Measure): How errors are measured.

    Returns:
        list[str]: Names.
    """
    fine = f'{measure.name}@{measure.fine:g}'
    return [*joints.groups, measure.name, fine]


def score_rows(errors, joints, truth):
    """Turn errors into the rows in which results are reported.

    Args:
        errors (np.ndarray[N, K]): See :func:`relative_errors`.
        joints (Joints): Of the data set.
        truth (dict): See :func:`hourglass_npu.mpii.truth.load_truth`.

    Returns:
        OrderedDict[str, float]: Percentages: the rows of the data set (MPII:
        Head to Ankle), and the mean over its scored joints (MPII: all but
        pelvis and thorax) with two thresholds. NaN where no joint counts.
    """
    measure = truth['measure']
    counted = ~np.isnan(errors)
    scored = np.zeros(len(joints), dtype=bool)
    scored[list(joints.scored)] = True

    def share(columns, threshold):
        total = counted[:, columns].sum()
        # A comparison with NaN is False: joints without truth do not count.
        with np.errstate(invalid='ignore'):
            found = (errors[:, columns] <= threshold).sum()
        return float(100 * found / total) if total else float('nan')

    rows = OrderedDict()
    for row, members in joints.groups.items():
        # All joints of a row have the same weight; one never seen has none.
        columns = [
            truth['joint_names'].index(joints.names[joint])
            for joint in members
        ]
        shares = [
            share(column, measure.threshold)
            for column in columns
            if counted[:, column].any()
        ]
        rows[row] = float(np.mean(shares)) if shares else float('nan')
    # Here the weight of a joint is the number of people who show it.
    *_, name, fine = score_names(joints, measure)
    rows[name] = share(scored, measure.threshold)
    rows[fine] = share(scored, measure.fine)
    return rows
