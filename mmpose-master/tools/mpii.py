"""The MPII person: joint names, limbs, mirror pairs, sides and colours.

Every picture and table of the project takes them from here. Order and
numbering are those of the MPII annotations (and of the heatmaps).
"""

JOINTS = (
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

# Pairs of joints that are joined by a drawn limb, from the trunk outwards,
# so that hands and feet come to lie over the trunk.
SKELETON = (
    (6, 7),
    (7, 8),
    (8, 9),
    (6, 2),
    (6, 3),
    (7, 12),
    (7, 13),
    (2, 1),
    (3, 4),
    (12, 11),
    (13, 14),
    (1, 0),
    (4, 5),
    (11, 10),
    (14, 15),
)


def _side(name):
    side = name.split('_')[0]
    return side if side in ('left', 'right') else 'centre'


# 'left', 'right' (the person's own) or 'centre' of each joint.
SIDES = tuple(_side(name) for name in JOINTS)

# Joints that change places when a picture is mirrored.
FLIP_PAIRS = tuple(
    (index, JOINTS.index(name.replace('right', 'left')))
    for index, name in enumerate(JOINTS)
    if _side(name) == 'right'
)

# RGB. Blue against orange is told apart with every common form of colour
# blindness (palette of Okabe and Ito, 2008); the three differ in lightness
# too, so that they survive a grey print.
COLOURS = {
    'left': (86, 180, 233),
    'right': (240, 120, 20),
    'centre': (245, 240, 225),
}


def limb_side(limb):
    """Side of a limb: that of its first joint that is not in the middle.

    Args:
        limb (tuple[int]): Two joint numbers.

    Returns:
        str: 'left', 'right' or 'centre'.
    """
    sides = [SIDES[joint] for joint in limb if SIDES[joint] != 'centre']
    return sides[0] if sides else 'centre'
