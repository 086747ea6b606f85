"""Give a posed body volume, clothes, hair and a face.

Every part is a rounded cone or an ellipsoid, drawn pixel by pixel into a
small colour and depth buffer: nearer parts hide farther ones, and a face
turns with its head. The buffers are larger than the figure in the picture;
shrinking them smooths the edges.
"""

import cv2
import numpy as np

from .canvas import Canvas
from .skeleton import HEAD

_SKIN = (
    (203, 220, 246),
    (168, 198, 236),
    (140, 175, 222),
    (107, 147, 204),
    (78, 114, 170),
    (54, 80, 128),
    (46, 66, 108),
)
_HAIR = (
    (28, 26, 30),
    (34, 46, 72),
    (40, 66, 108),
    (70, 130, 182),
    (120, 190, 226),
    (44, 74, 156),
    (160, 160, 164),
)
_SHOES = (
    (40, 40, 44),
    (232, 234, 236),
    (46, 66, 104),
    (60, 60, 190),
    (150, 90, 40),
)

_LIMBS = 'shoulder elbow wrist finger hip knee ankle toe'.split()


def _mix(colour, other, share):
    """Blend two BGR colours; ``share`` is the part of the second one."""
    return tuple((1 - share) * a + share * b for a, b in zip(colour, other))


def _cloth(rng, low=70, high=235):
    """Draw a random colour for a piece of cloth, BGR."""
    hue, saturation = rng.randint(180), rng.choice((30, 110, 160, 200))
    pixel = np.uint8([[[hue, saturation, rng.randint(low, high)]]])
    bgr = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0]
    return tuple(float(c) for c in bgr)


def _bands(*pieces):
    """Make paint that changes along a limb: pairs of (end, colour)."""
    ends = np.array([end for end, _ in pieces[:-1]], np.float32)
    colours = np.array([colour for _, colour in pieces], np.float32)
    return lambda t, nx, ny, nz: colours[np.searchsorted(ends, t)]


class Outfit:
    """The looks of a person, apart from the pose.

    Args:
        rng (np.random.RandomState): Source of random numbers.
    """

    def __init__(self, rng):
        self.skin = _SKIN[rng.randint(len(_SKIN))]
        # Hair must differ from the skin, to show where a head looks.
        tones = [c for c in _HAIR if abs(sum(c) - sum(self.skin)) > 100]
        self.hair = tones[rng.randint(len(tones))]
        self.haircut = rng.choice(
            ('short', 'bob', 'long', 'tail', 'cap'),
            p=(0.4, 0.17, 0.15, 0.14, 0.14),
        )
        self.beard = self.haircut in ('short', 'cap') and rng.rand() < 0.3
        self.glasses = rng.rand() < 0.15
        self.cap = _cloth(rng)
        self.shirt = _cloth(rng)
        self.trim = _cloth(rng)
        self.pattern = rng.choice(
            ('plain', 'stripes', 'open'), p=(0.5, 0.25, 0.25)
        )
        self.sleeve = rng.choice((0.08, 0.6, 2.1), p=(0.15, 0.6, 0.25))
        self.trousers = _cloth(rng, 45, 190)
        self.leg = rng.choice((0.75, 1.3, 2.1), p=(0.42, 0.18, 0.4))
        self.shoes = _SHOES[rng.randint(len(_SHOES))]
        self.watch = rng.choice(('left', 'right', ''), p=(0.3, 0.1, 0.6))
        self.odd_sleeve = rng.choice(
            ('left', 'right', ''), p=(0.1, 0.05, 0.85)
        )
        self.backpack = rng.rand() < 0.3
        self.girth = rng.uniform(0.88, 1.14)

    def torso_paint(self, frame):
        """Make paint for the torso: a number in front, a dark panel behind.

        All wear a number, as runners do. It shows the front: without it a
        network needs far more people to learn left and right arms.

        Args:
            frame (np.ndarray[3, 3]): From the torso's frame to the camera's.

        Returns:
            Callable: Paint for :meth:`Canvas.cone`, t = 1 at the chest.
        """
        shirt, trim = (
            np.array(c, np.float32) for c in (self.shirt, self.trim)
        )
        dark = np.array(_mix(self.shirt, (20, 20, 20), 0.6), np.float32)
        white = np.array((238, 240, 242), np.float32)
        ink = np.array((60, 50, 46), np.float32)
        skin = np.array(self.skin, np.float32)

        def paint(t, nx, ny, nz):
            aside = nx * frame[0, 0] + ny * frame[1, 0] + nz * frame[2, 0]
            ahead = nx * frame[0, 2] + ny * frame[1, 2] + nz * frame[2, 2]
            colour = np.repeat(shirt[None], len(t), 0)
            front = ahead > 0
            if self.pattern == 'stripes':
                colour[(t * 9) % 2 < 1] = trim
            elif self.pattern == 'open':
                colour[front & (np.abs(aside) < 0.28)] = trim
            else:
                colour[front & (np.abs(aside) < 0.05)] = dark
            colour[~front & (t > 0.25)] = dark
            colour[front & (np.abs(aside) < (t - 0.88) * 1.5)] = skin
            paper = front & (np.abs(aside) < 0.52) & (np.abs(t - 0.64) < 0.2)
            colour[paper] = white
            digit = (np.abs(aside) < 0.38) & (aside * 8 % 2 < 1.3)
            colour[paper & digit & (np.abs(t - 0.64) < 0.09)] = ink
            return colour

        return paint


def _face(outfit):
    """Make paint for a head: hair, eyes, brows, mouth, beard.

    Args:
        outfit (Outfit): The person's looks.

    Returns:
        Callable: Paint for :meth:`Canvas.ellipsoid`.
    """
    skin, hair = (np.array(c, np.float32) for c in (outfit.skin, outfit.hair))
    white = np.array((238, 240, 242), np.float32)
    dark = np.array((30, 28, 34), np.float32)
    lips = np.array(_mix(outfit.skin, (60, 50, 170), 0.6), np.float32)
    cheek = np.array(_mix(outfit.skin, (110, 110, 235), 0.22), np.float32)

    def paint(x, y, z):
        colour = np.repeat(skin[None], len(x), 0)
        front = z > 0
        wide = np.abs(x)
        colour[front & (np.hypot(wide - 0.5, y + 0.28) < 0.2)] = cheek
        if outfit.beard:
            colour[(z > -0.2) & (y < -0.3 + 0.25 * wide)] = hair
        colour[front & (np.hypot(wide / 1.7, (y + 0.52) * 1.6) < 0.13)] = lips
        colour[front & (np.hypot((wide - 0.37) / 1.4, y - 0.06) < 0.125)] = (
            white
        )
        colour[front & (np.hypot(wide - 0.36, y - 0.06) < 0.095)] = dark
        colour[
            front
            & (np.abs(y - 0.28 + 0.1 * wide) < 0.05)
            & (np.abs(wide - 0.37) < 0.22)
        ] = hair
        if outfit.glasses:
            ring = np.hypot((wide - 0.38) / 1.15, y - 0.06)
            colour[
                (z > -0.1)
                & (
                    (np.abs(ring - 0.25) < 0.045)
                    | ((np.abs(y - 0.08) < 0.035) & (wide > 0.6))
                )
            ] = dark
        return colour

    return paint


def _hairline(x, y, z):
    """Return where hair grows on the unit sphere of a head."""
    return (
        (y > 0.5 - 0.1 * np.abs(x))
        | ((z < 0.05) & (y > -0.25))
        | ((z < -0.25) & (y > -0.72))
    )


def _draw_head(canvas, body, outfit, place, size):
    """Draw neck, head, ears, nose and hair.

    Args:
        canvas (Canvas): Where to draw.
        body (Body): The posed body.
        outfit (Outfit): The person's looks.
        place (Callable): From the body's points to picture x, y, depth.
        size (float): Pixels of the person's standing height.
    """
    frame, head = body.head, HEAD * size
    neck = place(body.points['upper_neck'])
    skin, hair = outfit.skin, outfit.hair

    def at(x, y, z):
        """Return a place of the head's frame, in shares of its length."""
        flip = np.array([1, -1, 1])
        return neck + head * (frame @ np.array([x, y, z])) * flip

    def cone(start, end, radius_a, radius_b, paint):
        radii = radius_a * head, radius_b * head
        canvas.cone(at(*start), at(*end), *radii, paint)

    shaded = _mix(skin, (40, 40, 60), 0.15)
    chest = place(body.points['thorax'])
    canvas.cone(chest, at(0, 0.35, 0), 0.036 * size, 0.032 * size, shaded)
    axes = head * np.array([0.335, 0.43, 0.40])
    # The top of the hair, not of the skull, is the annotated head top.
    centre = at(0, 0.54, 0.04)
    canvas.ellipsoid(centre, axes, frame, _face(outfit))
    nose = _mix(skin, (90, 90, 220), 0.12)
    cone((0, 0.54, 0.43), (0, 0.43, 0.49), 0.035, 0.058, nose)
    for side in (-1, 1):
        ear = (side * 0.34, 0.57, 0.02), (side * 0.335, 0.46, 0.03)
        cone(*ear, 0.07, 0.05, skin)
    grown = axes * 1.06
    if outfit.haircut == 'cap':
        canvas.ellipsoid(centre, axes * 1.03, frame, hair, _hairline)
        canvas.ellipsoid(
            centre, grown * 1.01, frame, outfit.cap, lambda x, y, z: y > 0.33
        )
        peak, shape = at(0, 0.69, 0.44), head * np.array([0.3, 0.05, 0.27])
        dark = _mix(outfit.cap, (0, 0, 0), 0.3)
        canvas.ellipsoid(peak, shape, frame, dark)
    else:
        canvas.ellipsoid(centre, grown, frame, hair, _hairline)
    if outfit.haircut in ('bob', 'long'):
        low = 0.18 if outfit.haircut == 'bob' else -0.35
        for side in (-1, 0, 1):
            start = side * 0.27, 0.6, -0.12 - 0.12 * (side == 0)
            end = side * 0.27, low, -0.2 - 0.1 * (side == 0)
            cone(start, end, 0.13, 0.11, hair)
    elif outfit.haircut == 'tail':
        cone((0, 0.72, -0.42), (0, 0.62, -0.56), 0.1, 0.14, hair)
        cone((0, 0.62, -0.56), (0, 0.1, -0.52), 0.12, 0.05, hair)


def draw_person(picture, body, outfit, origin, size, detail=2):
    """Draw one person into a picture.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
        body (Body): The posed body.
        outfit (Outfit): The person's looks.
        origin (tuple[float]): Place of the pelvis, picture x and y.
        size (float): Pixels of the person's standing height.
        detail (int): See :class:`Canvas`.
    """

    def place(point):
        x, y, z = size * point
        return np.array([origin[0] + x, origin[1] - y, z])

    points = {name: place(p) for name, p in body.points.items()}
    every = np.array(list(points.values()))[:, :2]
    margin = 0.13 * size
    canvas = Canvas(
        (*(every.min(0) - margin), *(every.max(0) + margin)), detail
    )
    skin, shirt, trousers = outfit.skin, outfit.shirt, outfit.trousers
    forward = body.torso[:, 2] * np.array([1, -1, 1])

    def cone(a, b, radius_a, radius_b, paint, across=1.0, **form):
        """Draw a cone; radii are shares of the standing height."""
        girth = outfit.girth * size
        radii = radius_a * girth * across, radius_b * girth * across
        canvas.cone(a, b, *radii, paint, **form)

    for side in ('left', 'right'):
        shoulder, elbow, wrist, finger, hip, knee, ankle, toe = (
            points[f'{side}_{part}'] for part in _LIMBS
        )
        sleeve = outfit.trim if outfit.odd_sleeve == side else shirt
        end = outfit.sleeve
        upper = _bands((min(end, 1), sleeve), (2, skin))
        lower = sleeve if end > 1 else skin
        cuff = (30, 30, 34) if outfit.watch == side else lower
        cone(shoulder, elbow, 0.041, 0.031, upper)
        lower = _bands((0.84, lower), (0.95, cuff), (2, skin))
        cone(elbow, wrist, 0.031, 0.022, lower)
        cone(wrist, finger, 0.021, 0.02, skin)
        thumb = 0.55 * (finger - wrist) + 0.022 * size * forward
        cone(wrist, wrist + thumb, 0.011, 0.009, skin)

        end = outfit.leg
        upper = _bands((min(end, 1), trousers), (2, skin))
        cone(hip, knee, 0.057, 0.043, upper)
        lower = [(max(end - 1, 0), trousers), (2, skin)]
        if end > 2:
            lower = [(0.95, trousers), (2, outfit.shoes)]
        cone(knee, ankle, 0.041, 0.027, _bands(*lower))
        shin = (ankle - knee) / max(np.linalg.norm(ankle - knee), 1e-6)
        sole = 0.018 * size * shin
        heel = ankle + sole - 0.15 * (toe - ankle)
        cone(heel, toe + sole, 0.028, 0.024, outfit.shoes)

    # The trunk is wide from side to side and flat from front to back, so its
    # visible width depends on its rotation.
    across = np.hypot(body.torso[0, 0], 0.66 * body.torso[0, 2])
    pelvis, thorax = points['pelvis'], points['thorax']
    spine = thorax - pelvis
    waist, chest = pelvis + 0.4 * spine, pelvis + 0.72 * spine
    paint = outfit.torso_paint(body.torso)

    def part(start, stop):
        return lambda t, *normal: paint(start + (stop - start) * t, *normal)

    low, belt = pelvis + 0.1 * spine, pelvis - 0.03 * spine
    cone(pelvis, low, 0.1, 0.097, trousers, across, flat=0.6)
    form = dict(across=across, flat=0.75)
    cone(belt, waist, 0.11, 0.088, part(0, 0.4), hem=True, **form)
    cone(waist, chest, 0.088, 0.108, part(0.4, 0.95), **form)
    inner = [points[side + '_shoulder'] for side in ('right', 'left')]
    cone(*inner, 0.042, 0.042, shirt)
    collar = thorax + 0.55 * (points['upper_neck'] - thorax)
    for shoulder in inner:
        cone(shoulder, collar, 0.038, 0.03, shirt)
    if outfit.backpack:
        behind = -0.1 * size * forward
        cone(waist + behind, chest + behind, 0.075, 0.07, outfit.cap)
    _draw_head(canvas, body, outfit, place, size)
    canvas.onto(picture)
