"""Names, order and colours of MPII's joints: the one place that has them.

Everything that draws or tabulates people imports this. It needs nothing but
the standard library, so that it serves without torch too.
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
"""The 16 joints in the order of annotations and heatmaps."""

SKELETON = (
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
"""Limbs, each from the outer joint to the inner one."""

LIMBS = tuple(
    (JOINT_NAMES.index(a), JOINT_NAMES.index(b)) for a, b in SKELETON
)
"""The limbs of SKELETON as pairs of joint indices."""

SIDE = tuple(
    name.split('_')[0] if name.startswith(('left', 'right')) else 'centre'
    for name in JOINT_NAMES
)
"""The person's own side for each joint: 'left', 'right' or 'centre'."""

# Okabe and Ito's palette ("Color Universal Design", 2008): vermilion, blue
# and yellow stay apart in every common kind of colour blindness.
SIDE_COLORS = {
    'left': (0, 114, 178),
    'right': (213, 94, 0),
    'centre': (240, 228, 66),
}
"""RGB, 0-255."""


def limb_side(limb):
    """Side of a limb: that of its outer joint.

    Args:
        limb (tuple[int, int]): One of LIMBS.

    Returns:
        str: 'left', 'right' or 'centre'.
    """
    return SIDE[limb[0]]
