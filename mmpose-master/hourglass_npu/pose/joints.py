"""MPII's joints: names, order, pairs, limbs and colours.

The data set, the drawn sample, the decoding and the drawings take them from
here. Only the standard library is needed.
"""

JOINT_NAMES = (
    'right_ankle',
    'right_knee',
    'right_hip',
    'left_hip',
    'left_knee',
    'left_ankle',
    'pelvis',
    'thorax',
    'upper_neck',
    'head_top',
    'right_wrist',
    'right_elbow',
    'right_shoulder',
    'left_shoulder',
    'left_elbow',
    'left_wrist',
)
"""The 16 joints, in the order of annotations and heatmaps."""

SHORT_NAMES = tuple(
    'rank rkne rhip lhip lkne lank pelv thor neck head '
    'rwri relb rsho lsho lelb lwri'.split()
)
"""Names of the same joints in ``mpii_gt_val.mat``."""

FLIP_PAIRS = tuple(
    (index, JOINT_NAMES.index(name.replace('right', 'left')))
    for index, name in enumerate(JOINT_NAMES)
    if name.startswith('right')
)
"""Joints that change places in a mirror: right and left."""

LOWER_BODY = tuple(range(7))
UPPER_BODY = tuple(range(7, 16))

LIMBS = tuple(
    (JOINT_NAMES.index(outer), JOINT_NAMES.index(inner))
    for outer, inner in (
        ('right_ankle', 'right_knee'),
        ('right_knee', 'right_hip'),
        ('right_hip', 'pelvis'),
        ('left_hip', 'pelvis'),
        ('left_knee', 'left_hip'),
        ('left_ankle', 'left_knee'),
        ('pelvis', 'thorax'),
        ('thorax', 'upper_neck'),
        ('upper_neck', 'head_top'),
        ('right_wrist', 'right_elbow'),
        ('right_elbow', 'right_shoulder'),
        ('right_shoulder', 'thorax'),
        ('left_shoulder', 'thorax'),
        ('left_elbow', 'left_shoulder'),
        ('left_wrist', 'left_elbow'),
    )
)
"""Pairs of joint indices, each from the outer joint to the inner one."""

SIDE = tuple(
    name.split('_')[0] if name.startswith(('left', 'right')) else 'centre'
    for name in JOINT_NAMES
)
"""The person's own side for each joint: 'left', 'right' or 'centre'."""

SIDE_COLORS = {
    'left': (0, 114, 178),
    'right': (213, 94, 0),
    'centre': (240, 228, 66),
}
"""RGB, 0-255. Vermilion, blue and yellow of Okabe and Ito ("Color Universal
Design", 2008) differ in every common kind of colour blindness."""


def limb_side(limb):
    """Return the side of a limb: that of its outer joint.

    Args:
        limb (tuple[int, int]): One of LIMBS.

    Returns:
        str: 'left', 'right' or 'centre'.
    """
    return SIDE[limb[0]]
