"""A jointed body in three dimensions, and its poses.

Body frame: x to the person's left, y up, z to the front. Camera frame: x to
the right of the picture, y up, z towards the viewer; a person with yaw 0
looks at the viewer, and their left is on the picture's right. The unit of
length is the height of the person standing upright.
"""

import numpy as np

from hourglass_npu.pose.joints import MPII

HEAD = 1 / 6
"""Upper neck to head top. MPII's scale makes a person six heads tall."""

_HIP_HALF, _SHOULDER_HALF = 0.068, 0.118
_PELVIS_TO_THORAX, _THORAX_TO_NECK = 0.29, 0.045
_SHOULDER_DROP = 0.012
_UPPER_ARM, _FOREARM, _HAND = 0.165, 0.145, 0.062
_THIGH, _SHIN, _FOOT = 0.235, 0.225, 0.115

# Ranges of a limb in a pose, in degrees: swing to the side, swing forward,
# inward turn about its own axis, and bend of the elbow or knee.
_HANGING = ((6, 18), (-8, 14), (0, 40), (5, 30))
_STANDING = ((1, 8), (-5, 7), (-14, 4), (0, 9))
_ON_HIP = ((38, 52), (-22, -8), (72, 95), (92, 110))
_FOLDED = ((8, 20), (15, 30), (48, 66), (95, 115))
_WAVING = ((78, 120), (-15, 15), (-100, -70), (30, 105))
_REACHING = ((5, 55), (65, 130), (-10, 30), (0, 30))
_RAISED = ((125, 168), (-15, 15), (-110, -60), (0, 55))
_SPREAD = ((70, 110), (-15, 25), (-40, 40), (0, 35))
_ON_LAP = ((8, 22), (5, 25), (20, 40), (45, 75))
_SITTING = ((6, 26), (72, 92), (-14, 8), (66, 98))
_STARRED = ((85, 150), (-15, 15), (-60, 30), (0, 40))
_APART = ((16, 36), (-10, 15), (-15, 5), (0, 20))
_DOWN = ((10, 40), (40, 80), (10, 40), (15, 70))
_SQUATTING = ((12, 38), (88, 122), (-20, 5), (105, 135))
_BOWED = ((4, 25), (40, 75), (0, 30), (5, 35))
_BRACED = ((2, 14), (-4, 16), (-10, 4), (4, 28))

# name: (weight, stoop, first arm, second arm, first leg, second leg). The
# side that comes first is random.
_POSES = {
    'stand': (3, (-4, 7), _HANGING, _HANGING, _STANDING, _STANDING),
    'hand_on_hip': (
        2,
        (-4, 6),
        _ON_HIP,
        _HANGING,
        _STANDING,
        ((4, 14), (0, 14), (-20, 0), (0, 25)),
    ),
    'folded_arms': (1, (-4, 6), _FOLDED, _FOLDED, _STANDING, _STANDING),
    'wave': (3, (-6, 6), _WAVING, _HANGING, _STANDING, _STANDING),
    'wave_on_hip': (1, (-6, 6), _WAVING, _ON_HIP, _STANDING, _STANDING),
    'reach': (
        2,
        (-4, 18),
        _REACHING,
        _HANGING,
        _STANDING,
        ((2, 10), (-22, 0), (-10, 5), (0, 25)),
    ),
    'arms_up': (3, (-10, 6), _RAISED, _RAISED, _STANDING, _STANDING),
    'spread': (2, (-6, 8), _SPREAD, _SPREAD, _STANDING, _STANDING),
    'star': (3, (-8, 8), _STARRED, _STARRED, _APART, _APART),
    'walk': (
        4,
        (0, 8),
        ((4, 14), (-36, -12), (0, 30), (10, 35)),
        ((4, 14), (14, 42), (5, 35), (15, 50)),
        ((0, 6), (15, 33), (-8, 4), (3, 20)),
        ((0, 6), (-26, -8), (-8, 4), (8, 40)),
    ),
    'run': (
        2,
        (6, 22),
        ((8, 20), (-52, -22), (0, 25), (70, 105)),
        ((8, 20), (25, 62), (15, 40), (75, 110)),
        ((0, 8), (45, 80), (-6, 6), (60, 100)),
        ((0, 8), (-34, -14), (-6, 6), (15, 75)),
    ),
    'kick': (
        1,
        (-14, 4),
        _SPREAD,
        ((25, 60), (-25, 20), (0, 40), (10, 50)),
        ((2, 30), (45, 85), (-10, 10), (0, 30)),
        _STANDING,
    ),
    'lunge': (
        1,
        (0, 18),
        _ON_HIP,
        _REACHING,
        ((4, 18), (48, 80), (-12, 4), (55, 90)),
        ((2, 12), (-30, -12), (-8, 4), (15, 45)),
    ),
    'sit': (2, (-8, 12), _ON_LAP, _ON_LAP, _SITTING, _SITTING),
    'sit_wave': (1, (-8, 10), _WAVING, _ON_LAP, _SITTING, _SITTING),
    'crouch': (2, (12, 38), _DOWN, _DOWN, _SQUATTING, _SQUATTING),
    'bow': (1, (35, 65), _BOWED, _BOWED, _BRACED, _BRACED),
}
POSE_NAMES = tuple(_POSES)
_WEIGHTS = np.array([row[0] for row in _POSES.values()], dtype=float)
_SEATED = ('sit', 'sit_wave')


def turn(axis, degrees):
    """Return the rotation about one axis of a right-handed frame.

    Args:
        axis (str): 'x', 'y' or 'z'.
        degrees (float): Angle.

    Returns:
        np.ndarray[3, 3]: Matrix for column vectors.
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


class Body:
    """A posed body in the camera frame.

    Attributes:
        points (dict[str, np.ndarray[3]]): The 16 joints by name, and
            ``left_finger``, ``right_finger``, ``left_toe``, ``right_toe``;
            the origin is between the hips.
        torso (np.ndarray[3, 3]): From the torso's frame to the camera's.
        head (np.ndarray[3, 3]): From the head's frame to the camera's.
        pose (str): Name of the pose.
        seated (bool): The person sits on something.
    """

    def __init__(self, pose, points, torso, head):
        self.pose = pose
        self.points = points
        self.torso = torso
        self.head = head
        self.seated = pose in _SEATED

    def joints(self):
        """Return the 16 joints in MPII's order.

        Returns:
            np.ndarray[16, 3]: Camera frame.
        """
        return np.array([self.points[name] for name in MPII.names])


def _facing(rng):
    """Draw a random yaw: to the viewer, half turned, in profile or away."""
    kind = rng.choice(4, p=(0.44, 0.2, 0.06, 0.3))
    side = rng.choice((-1, 1))
    if kind == 0:
        return rng.uniform(-25, 25)
    if kind == 1:
        return side * rng.uniform(25, 55)
    if kind == 2:
        return side * rng.uniform(60, 110)
    return 180 + rng.uniform(-40, 40)


def _limb(rng, ranges, side, lengths, knee):
    """Bend two bones from a hip or shoulder, and the hand or foot.

    Args:
        rng (np.random.RandomState): Source of random numbers.
        ranges (tuple): Swing aside, swing forward, inward turn, bend.
        side (int): 1 for the left, -1 for the right.
        lengths (tuple[float]): Of both bones, and of the hand or foot.
        knee (bool): It bends backwards and ends in a foot.

    Returns:
        list[np.ndarray[3]]: Offsets of elbow, wrist and finger tips (of knee,
        ankle and toes) from the start of the limb, in the torso's frame.
    """
    aside, forward, inward, bend = (rng.uniform(*pair) for pair in ranges)
    frame = turn('x', -forward) @ turn('z', aside * side)
    frame = frame @ turn('y', -inward * side)
    bend = np.radians(-bend if knee else bend)
    more = 90 - rng.uniform(0, 14) if knee else rng.uniform(0, 20)
    tip = bend + np.radians(more)
    offsets = [np.zeros(3)]
    for length, angle in zip(lengths, (0, bend, tip)):
        direction = np.array([0, -np.cos(angle), np.sin(angle)])
        offsets.append(offsets[-1] + length * (frame @ direction))
    return offsets[1:]


def sample_body(rng, pose=None, yaw=None):
    """Bend a body into a pose.

    Args:
        rng (np.random.RandomState): Source of random numbers.
        pose (str | None): One of POSE_NAMES; None for a random one.
        yaw (float | None): Degrees: 0 towards the viewer, 180 away, 90 to
            the right of the picture; None for a random one.

    Returns:
        Body: The posed body.
    """
    drawn = rng.choice(len(POSE_NAMES), p=_WEIGHTS / _WEIGHTS.sum())
    pose = pose or POSE_NAMES[drawn]
    _, stoop, *limbs = _POSES[pose]
    drawn = _facing(rng)
    yaw = drawn if yaw is None else yaw
    roll = rng.normal(0, 5)
    if pose in ('star', 'arms_up', 'run', 'kick') and rng.rand() < 0.3:
        roll = rng.uniform(-45, 45)
    root = turn('z', roll) @ turn('x', rng.uniform(0, 14)) @ turn('y', yaw)

    stoop = rng.uniform(*stoop)
    spine = turn('z', rng.normal(0, 4)) @ turn('x', stoop)
    shoulders = spine @ turn('y', rng.normal(0, 7))
    head = (
        shoulders
        @ turn('x', -0.6 * stoop + rng.uniform(-10, 14))
        @ turn('z', rng.normal(0, 5))
        @ turn('y', rng.normal(0, 14))
    )
    up = np.array([0, 1, 0])
    thorax = _PELVIS_TO_THORAX * (spine @ up)
    neck = thorax + _THORAX_TO_NECK * (spine @ up)
    points = dict(
        pelvis=np.zeros(3),
        thorax=thorax,
        upper_neck=neck,
        head_top=neck + HEAD * (head @ up),
    )

    first = rng.choice(('left', 'right'))
    second = 'right' if first == 'left' else 'left'
    for name, arm, leg in (
        (first, limbs[0], limbs[2]),
        (second, limbs[1], limbs[3]),
    ):
        side = 1 if name == 'left' else -1
        shoulder = thorax + shoulders @ np.array(
            [side * _SHOULDER_HALF, -_SHOULDER_DROP, 0]
        )
        hip = np.array([side * _HIP_HALF, 0, 0])
        points[name + '_shoulder'] = shoulder
        points[name + '_hip'] = hip
        bones = _limb(rng, arm, side, (_UPPER_ARM, _FOREARM, _HAND), False)
        for part, offset in zip(('_elbow', '_wrist', '_finger'), bones):
            points[name + part] = shoulder + shoulders @ offset
        bones = _limb(rng, leg, side, (_THIGH, _SHIN, _FOOT), True)
        for part, offset in zip(('_knee', '_ankle', '_toe'), bones):
            points[name + part] = hip + offset
    points = {name: root @ point for name, point in points.items()}
    return Body(pose, points, root @ shoulders, root @ head)
