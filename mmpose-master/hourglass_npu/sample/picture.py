"""Put people into a place, and note their joints as MPII does.

MPII counts pixels from 1. Its ``scale`` is the person's height divided by
200, so that a head is a sixth of ``200 * scale``; 0.6 times the diagonal of
its head box is the length of the head. Its ``center`` is a little above the
middle of the person.
"""

import numpy as np

from . import scenery
from .figure import Outfit, draw_person
from .skeleton import HEAD, sample_body

WIDTH, HEIGHT = 1280, 720

_SC_BIAS = 0.6  # of MPII's evaluation: head size / diagonal of the head box
_HEAD_BOX_ASPECT = 0.8
_CENTRE_LIFT = 12  # pixels above the middle, at scale 1, the mean in MPII


def _extent(body):
    """Return the box of a body in body heights.

    Args:
        body (Body): The posed body.

    Returns:
        np.ndarray[4]: Left, top, right, bottom from the pelvis; x to the
        right, y down.
    """
    points = np.array(list(body.points.values()))[:, :2] * (1, -1)
    return np.concatenate([points.min(0) - 0.045, points.max(0) + 0.045])


def _overlap(box, others):
    """Return the largest overlap, as a part of the smaller box."""
    worst = 0.0
    for other in others:
        w, h = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if w > 0 and h > 0:
            areas = [np.prod(b[2:] - b[:2]) for b in (box, other)]
            worst = max(worst, w * h / min(areas))
    return worst


class _Person:
    """A person at a place in the picture."""

    def __init__(self, body, outfit, origin, size):
        self.body, self.outfit = body, outfit
        self.origin, self.size = np.array(origin), size
        self.box = np.tile(self.origin, 2) + size * _extent(body)

    def annotation(self, rng, image):
        """Annotate the person in the form of mmpose's MPII JSON.

        Args:
            rng (np.random.RandomState): Source of the errors that annotators
                make.
            image (str): File name.

        Returns:
            dict: ``image``, ``center``, ``scale``, ``joints``,
            ``joints_vis``; and for other files ``headbox``, x and y of two
            corners. All count from 1. ``bbox`` (x, y, width, height of the
            visible part) counts from 0.
        """
        points = self.body.joints()[:, :2] * (1, -1)
        joints = self.origin + self.size * points + 1
        inside = ((joints >= 1) & (joints <= (WIDTH, HEIGHT))).all(1)
        scale = self.size * rng.uniform(0.96, 1.06) / 200
        middle = 0.5 * (self.box[:2] + self.box[2:]) + 1
        slip = rng.uniform(-5, 5, 2) * scale
        centre = middle - (0, _CENTRE_LIFT * scale) + slip

        neck, top = joints[8], joints[9]
        angle = np.arctan2(*(neck - top))
        tall = np.hypot(1, _HEAD_BOX_ASPECT)
        upright = np.array([_HEAD_BOX_ASPECT, 1]) / tall
        turned = np.abs(np.sin(angle))
        half = upright + turned * (upright[::-1] - upright)
        half *= 0.5 * HEAD * 200 * scale / _SC_BIAS / np.linalg.norm(half)
        head = 0.5 * (neck + top)

        joints = np.where(inside[:, None], np.round(joints, 2), -1.0)
        corner = np.maximum(self.box[:2], 0)
        size = np.minimum(self.box[2:], (WIDTH, HEIGHT)) - corner
        return dict(
            image=image,
            center=np.round(centre, 2).tolist(),
            scale=round(float(scale), 6),
            joints=joints.tolist(),
            joints_vis=inside.astype(int).tolist(),
            headbox=[(head - half).tolist(), (head + half).tolist()],
            bbox=np.round(np.concatenate([corner, size]), 1).tolist(),
        )


def _place(rng, body, size, ground, taken, cut):
    """Find a free place for a body.

    Args:
        rng (np.random.RandomState): Source of random numbers.
        body (Body): The body.
        size (float): Pixels of the standing height.
        ground (float): Row of the feet.
        taken (list[np.ndarray[4]]): Boxes of other people.
        cut (bool): The picture's edge may cut off a part.

    Returns:
        np.ndarray[2] | None: Place of the pelvis, picture x and y.
    """
    left, top, right, bottom = size * _extent(body)
    y = max(min(ground, HEIGHT - 6) - bottom, 6 - top)
    if y + bottom > HEIGHT - 2:
        return None
    room = 0.25 * (right - left) if cut else -6
    for _ in range(12):
        x = rng.uniform(-left - room, WIDTH - right + room)
        box = np.array([x + left, y + top, x + right, y + bottom])
        if _overlap(box, taken) < 0.15:
            return np.array([x, y])
    return None


def _paint(picture, rng, people, clutter=0.12, coarse=420):
    """Draw people, the farthest first; from ``coarse`` pixels on quickly."""
    for person in sorted(people, key=lambda one: one.box[3]):
        left, _, right, bottom = person.box
        size, body, (x, y) = person.size, person.body, person.origin
        middle, reach = 0.5 * (left + right), 0.5 * (right - left)
        scenery.shadow(picture, middle, bottom - 0.04 * size, reach)
        if body.seated:
            ankles = [body.points[f'{s}_ankle'] for s in ('left', 'right')]
            feet = max(-ankle[1] for ankle in ankles)
            top, ground = y + 0.05 * size, y + (feet + 0.01) * size
            scenery.seat(picture, rng, x, top, ground, 0.3 * size)
        detail = 2 if size < coarse else 1
        draw_person(picture, body, person.outfit, person.origin, size, detail)
        if rng.rand() < clutter:
            x = rng.uniform(left, right)
            top = bottom - rng.uniform(0.12, 0.42) * size
            wide = rng.uniform(0.12, 0.4) * size
            scenery.obstacle(picture, rng, x, top, bottom + 0.02 * size, wide)


def draw_picture(seed, image):
    """Draw one picture of one to four people.

    Args:
        seed (Sequence[int]): The picture depends on this alone.
        image (str): File name, for the annotations.

    Returns:
        tuple[np.ndarray[720, 1280, 3], list[dict]]: The picture, 8-bit BGR,
        and its people, see :meth:`_Person.annotation`.
    """
    rng = np.random.RandomState(seed)
    picture, horizon = scenery.backdrop(rng, WIDTH, HEIGHT)
    people = []
    for _ in range(rng.choice((1, 2, 3, 4), p=(0.1, 0.3, 0.35, 0.25))):
        body, outfit = sample_body(rng), Outfit(rng)
        size = np.exp(rng.uniform(np.log(190), np.log(600)))
        far = horizon + 20
        ground = max(far + (HEIGHT - far) * (size / 560) ** 1.3, far)
        ground += rng.uniform(-15, 15)
        taken, cut = [one.box for one in people], rng.rand() < 0.08
        origin = _place(rng, body, size, ground, taken, cut)
        if origin is not None:
            people.append(_Person(body, outfit, origin, size))
    _paint(picture, rng, people)
    notes = [one.annotation(rng, image) for one in people]
    return scenery.photograph(picture, rng), notes


# The people of the demo picture: pose, yaw, size, place of the pelvis, seed of
# pose and looks.
_DEMO = (
    ('wave', 12, 400, (185, 420), 6),
    ('run', 25, 430, (470, 400), 5),
    ('star', -8, 420, (845, 395), 7),
    ('walk', 196, 380, (1100, 430), 0),
)


def draw_demo(image):
    """Draw the demo picture: four people who are easily seen.

    Args:
        image (str): File name, for the annotations.

    Returns:
        tuple[np.ndarray[720, 1280, 3], list[dict]]: As :func:`draw_picture`.
    """
    rng = np.random.RandomState([2020, 52])
    picture, _ = scenery.backdrop(rng, WIDTH, HEIGHT, 'park')
    people = []
    for pose, yaw, size, origin, seed in _DEMO:
        own = np.random.RandomState([seed, 384])
        body = sample_body(own, pose, yaw)
        people.append(_Person(body, Outfit(own), origin, size))
    _paint(picture, rng, people, clutter=0, coarse=np.inf)
    notes = [one.annotation(rng, image) for one in people]
    return scenery.photograph(picture, rng), notes
