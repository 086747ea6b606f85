"""Paints what stands around the people: streets, parks, rooms, and clutter.

Nothing here is exact: the pictures only have to be as restless as photographs
are, so that a network learns people and not "whatever is not grey".
"""

import cv2
import numpy as np

_AA = cv2.LINE_AA


def _colour(rng, hue=None, saturation=(10, 120), value=(70, 235)):
    """Draws a BGR colour; `hue` is a range on OpenCV's scale of 180."""
    pixel = np.uint8(
        [
            [
                [
                    rng.randint(*(hue or (0, 180))),
                    rng.randint(*saturation),
                    rng.randint(*value),
                ]
            ]
        ]
    )
    return tuple(int(c) for c in cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])


def _shade(colour, factor):
    """A lighter or darker tone of a colour."""
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)


def _gradient(picture, top, bottom, y0, y1):
    """Fills rows y0 to y1 from one colour to another."""
    share = np.linspace(0, 1, max(y1 - y0, 1))[:, None, None]
    fade = np.array(top) * (1 - share) + np.array(bottom) * share
    picture[y0:y1] = fade.astype(np.uint8)


def _polygon(picture, points, colour):
    cv2.fillPoly(picture, [np.int32(np.round(points))], colour, _AA)


def _disc(picture, centre, axes, colour, angle=0):
    cv2.ellipse(
        picture,
        tuple(int(v) for v in centre),
        tuple(max(int(v), 1) for v in axes),
        angle,
        0,
        360,
        colour,
        -1,
        _AA,
    )


def _box(picture, x0, y0, x1, y1, colour):
    cv2.rectangle(picture, (int(x0), int(y0)), (int(x1), int(y1)), colour, -1)


def _foliage(picture, rng, x, y, radius, hue=(28, 75)):
    """A crown or a bush: a heap of lobes, lighter towards the light."""
    base = _colour(rng, hue, (70, 190), (60, 150))
    for k in range(14):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
        dx, dy = far * radius * np.cos(angle), far * radius * np.sin(angle)
        tone = 0.8 + 0.035 * k - 0.25 * dy / radius
        _disc(
            picture,
            (x + dx, y + 0.8 * dy),
            (radius * rng.uniform(0.25, 0.5), radius * rng.uniform(0.2, 0.45)),
            _shade(base, tone),
        )


def _tree(picture, rng, x, ground, height):
    trunk = _colour(rng, (8, 18), (60, 130), (50, 110))
    w = max(0.05 * height, 2)
    _polygon(
        picture,
        [
            (x - w, ground),
            (x + w, ground),
            (x + 0.5 * w, ground - 0.7 * height),
            (x - 0.5 * w, ground - 0.7 * height),
        ],
        trunk,
    )
    for _ in range(3):
        _foliage(
            picture,
            rng,
            x + rng.uniform(-0.16, 0.16) * height,
            ground - rng.uniform(0.6, 0.85) * height,
            0.26 * height,
        )


def _building(picture, rng, x0, x1, top, ground):
    wall = _colour(rng, None, (10, 110), (90, 220))
    _box(picture, x0, top, x1, ground, wall)
    _box(picture, x0, top, x1, top + 8, _shade(wall, 0.75))
    across, down = rng.randint(26, 60), rng.randint(38, 74)
    glass = _colour(rng, (95, 125), (20, 120), (60, 190))
    for y in range(int(top) + 24, int(ground) - down, down):
        for x in range(int(x0) + 10, int(x1) - across // 2, across):
            lit = _shade(glass, rng.uniform(0.6, 1.35))
            _box(
                picture,
                x,
                y,
                x + 0.55 * across,
                y + 0.6 * down,
                _shade(wall, 1.18),
            )
            _box(
                picture,
                x + 2,
                y + 2,
                x + 0.55 * across - 2,
                y + 0.6 * down - 2,
                lit,
            )


def _street(picture, rng, horizon):
    height, width = picture.shape[:2]
    _gradient(
        picture,
        _colour(rng, (95, 120), (30, 130), (150, 245)),
        _colour(rng, (10, 120), (5, 50), (200, 250)),
        0,
        horizon,
    )
    x = -rng.randint(100)
    while x < width:
        x1 = x + rng.randint(110, 320)
        _building(
            picture, rng, x, x1, horizon * rng.uniform(-0.1, 0.6), horizon + 4
        )
        x = x1 + (rng.randint(60) if rng.rand() < 0.3 else 0)
    paving = _colour(rng, None, (0, 40), (90, 190))
    _gradient(picture, _shade(paving, 0.8), paving, horizon, height)
    vanish = rng.uniform(0.2, 0.8) * width
    for end in np.linspace(-1.5 * width, 2.5 * width, rng.randint(9, 26)):
        cv2.line(
            picture,
            (int(vanish), horizon),
            (int(end), height),
            _shade(paving, 0.86),
            1 + rng.randint(2),
            _AA,
        )
    for share in np.linspace(0.1, 0.95, 6) ** 1.7:
        y = int(horizon + share * (height - horizon))
        cv2.line(picture, (0, y), (width, y), _shade(paving, 0.88), 1, _AA)
    for _ in range(rng.randint(1, 5)):
        x, ground = rng.uniform(0, width), horizon + rng.uniform(0, 60)
        kind = rng.randint(3)
        if kind == 0:
            _tree(picture, rng, x, ground, rng.uniform(180, 360))
        elif kind == 1:
            pole = _colour(rng, None, (0, 50), (40, 120))
            cv2.line(
                picture,
                (int(x), int(ground)),
                (int(x), int(ground - 320)),
                pole,
                7,
                _AA,
            )
            cv2.line(
                picture,
                (int(x), int(ground - 316)),
                (int(x + 50), int(ground - 330)),
                pole,
                5,
                _AA,
            )
            _disc(picture, (x + 56, ground - 326), (16, 8), (215, 240, 250))
        else:
            _car(picture, rng, x, ground + 25, rng.uniform(130, 240))


def _car(picture, rng, x, ground, length):
    paint = _colour(rng, None, (60, 220), (60, 230))
    h = 0.22 * length
    _polygon(
        picture,
        [
            (x - 0.28 * length, ground - h),
            (x - 0.18 * length, ground - 1.9 * h),
            (x + 0.16 * length, ground - 1.9 * h),
            (x + 0.3 * length, ground - h),
        ],
        (120, 100, 80),
    )
    _box(
        picture,
        x - length / 2,
        ground - 1.1 * h,
        x + length / 2,
        ground - 0.25 * h,
        paint,
    )
    _box(
        picture,
        x - length / 2,
        ground - 0.5 * h,
        x + length / 2,
        ground - 0.25 * h,
        _shade(paint, 0.7),
    )
    for side in (-0.3, 0.3):
        _disc(
            picture,
            (x + side * length, ground - 0.2 * h),
            (0.4 * h, 0.4 * h),
            (34, 34, 36),
        )
        _disc(
            picture,
            (x + side * length, ground - 0.2 * h),
            (0.2 * h, 0.2 * h),
            (150, 150, 150),
        )


def _park(picture, rng, horizon):
    height, width = picture.shape[:2]
    _gradient(
        picture,
        _colour(rng, (95, 118), (50, 170), (170, 250)),
        _colour(rng, (90, 120), (10, 50), (220, 254)),
        0,
        horizon,
    )
    for _ in range(rng.randint(2, 6)):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.5) * horizon
        for _ in range(5):
            _disc(
                picture,
                (x + rng.uniform(-70, 70), y + rng.uniform(-10, 10)),
                (rng.uniform(30, 70), rng.uniform(10, 24)),
                (246, 244, 240),
            )
    for layer in range(3):
        xs = np.linspace(0, width, 12)
        ys = horizon - rng.uniform(0, 110 - 35 * layer, 12)
        hill = _colour(rng, (40, 100), (30, 110), (110, 190))
        _polygon(
            picture,
            [*zip(xs, ys), (width, horizon + 6), (0, horizon + 6)],
            hill,
        )
    grass = _colour(rng, (30, 55), (70, 170), (90, 190))
    _gradient(
        picture, _shade(grass, 0.85), _shade(grass, 1.05), horizon, height
    )
    for _ in range(260):
        x, y = rng.randint(width), rng.randint(horizon, height)
        h = 3 + 14 * (y - horizon) / (height - horizon)
        cv2.line(
            picture,
            (x, y),
            (int(x + rng.uniform(-4, 4)), int(y - h)),
            _shade(grass, rng.uniform(0.7, 1.25)),
            1,
            _AA,
        )
    if rng.rand() < 0.5:
        path = _colour(rng, (10, 25), (20, 70), (150, 220))
        x = rng.uniform(0, width)
        _polygon(
            picture,
            [
                (x, horizon),
                (x + 40, horizon),
                (x + rng.uniform(100, 700), height),
                (x - rng.uniform(100, 500), height),
            ],
            path,
        )
    for _ in range(rng.randint(3, 9)):
        x, ground = rng.uniform(0, width), horizon + rng.uniform(0, 70)
        if rng.rand() < 0.6:
            _tree(picture, rng, x, ground, rng.uniform(150, 400))
        else:
            _foliage(picture, rng, x, ground - 20, rng.uniform(30, 80))


def _room(picture, rng, horizon):
    height, width = picture.shape[:2]
    wall = _colour(rng, None, (10, 90), (130, 240))
    _gradient(picture, wall, _shade(wall, 0.88), 0, horizon)
    if rng.rand() < 0.5:
        step = rng.randint(24, 70)
        for x in range(0, width, step):
            _box(picture, x, 0, x + step // 2, horizon, _shade(wall, 0.94))
    for _ in range(rng.randint(2, 7)):
        x, y = rng.uniform(0, width), rng.uniform(20, 0.55 * horizon)
        w, h = rng.uniform(60, 210), rng.uniform(60, 170)
        frame = _colour(rng, None, (20, 150), (40, 240))
        _box(picture, x, y, x + w, y + h, frame)
        _box(
            picture,
            x + 7,
            y + 7,
            x + w - 7,
            y + h - 7,
            _colour(rng, None, (20, 140), (90, 250)),
        )
        for _ in range(4):
            _disc(
                picture,
                (
                    x + w * rng.uniform(0.25, 0.75),
                    y + h * rng.uniform(0.25, 0.75),
                ),
                (w * rng.uniform(0.04, 0.2), h * rng.uniform(0.04, 0.2)),
                _colour(rng, None, (40, 200)),
            )
    floor = _colour(rng, (5, 25), (30, 150), (90, 200))
    _gradient(picture, _shade(floor, 0.8), floor, horizon, height)
    _box(picture, 0, horizon - 10, width, horizon, _shade(wall, 1.15))
    for end in np.linspace(-width, 2 * width, rng.randint(14, 34)):
        start = width / 2 + (end - width / 2) * 0.45
        cv2.line(
            picture,
            (int(start), horizon),
            (int(end), height),
            _shade(floor, 0.8),
            1,
            _AA,
        )
    for _ in range(rng.randint(1, 5)):
        x, ground = rng.uniform(0, width), horizon + rng.uniform(5, 60)
        kind = rng.randint(3)
        if kind == 0:
            _shelf(picture, rng, x, ground)
        elif kind == 1:
            _sofa(picture, rng, x, ground)
        else:
            pot = _colour(rng, None, (40, 180))
            _foliage(picture, rng, x, ground - 120, rng.uniform(50, 90))
            _polygon(
                picture,
                [
                    (x - 36, ground - 66),
                    (x + 36, ground - 66),
                    (x + 26, ground),
                    (x - 26, ground),
                ],
                pot,
            )


def _shelf(picture, rng, x, ground):
    w, h = rng.uniform(120, 240), rng.uniform(200, 380)
    wood = _colour(rng, (8, 22), (50, 150), (60, 170))
    _box(picture, x, ground - h, x + w, ground, wood)
    rows = rng.randint(3, 6)
    for row in range(rows):
        y0 = ground - h + 8 + row * (h - 8) / rows
        y1 = y0 + (h - 8) / rows - 8
        _box(picture, x + 8, y0, x + w - 8, y1, _shade(wood, 0.6))
        left = x + 10
        while left < x + w - 24:
            book = rng.uniform(7, 18)
            _box(
                picture,
                left,
                y1 - (y1 - y0) * rng.uniform(0.55, 0.95),
                left + book,
                y1,
                _colour(rng, None, (40, 200)),
            )
            left += book + (rng.uniform(0, 26) if rng.rand() < 0.2 else 1)


def _sofa(picture, rng, x, ground):
    w, h = rng.uniform(220, 420), rng.uniform(110, 160)
    cloth = _colour(rng, None, (30, 160), (70, 200))
    _box(picture, x, ground - h, x + w, ground, cloth)
    _box(
        picture,
        x + 20,
        ground - 0.5 * h,
        x + w - 20,
        ground - 8,
        _shade(cloth, 1.15),
    )
    for left in (x - 16, x + w - 24):
        _box(
            picture,
            left,
            ground - 0.65 * h,
            left + 40,
            ground,
            _shade(cloth, 0.8),
        )


def _hall(picture, rng, horizon):
    """A wall of patches: posters, a climbing wall, a stage."""
    height, width = picture.shape[:2]
    wall = _colour(rng, None, (10, 160), (40, 230))
    _gradient(
        picture, wall, _colour(rng, None, (10, 160), (40, 230)), 0, horizon
    )
    for _ in range(rng.randint(20, 60)):
        x, y = rng.uniform(0, width), rng.uniform(0, horizon)
        r = rng.uniform(10, 130)
        tone = _colour(rng, None, (20, 200), (40, 250))
        kind = rng.randint(4)
        if kind == 0:
            _disc(
                picture,
                (x, y),
                (r, r * rng.uniform(0.3, 1)),
                tone,
                rng.randint(180),
            )
        elif kind == 1:
            _polygon(
                picture, np.array([x, y]) + rng.uniform(-r, r, (3, 2)), tone
            )
        elif kind == 2:
            _box(picture, x - r, y - 0.4 * r, x + r, y + 0.4 * r, tone)
        else:
            end = np.array([x, y]) + rng.uniform(-2 * r, 2 * r, 2)
            cv2.line(
                picture,
                (int(x), int(y)),
                (int(end[0]), int(end[1])),
                tone,
                rng.randint(2, 22),
                _AA,
            )
    floor = _colour(rng, None, (10, 120), (60, 200))
    _gradient(picture, _shade(floor, 0.75), floor, horizon, height)
    for _ in range(rng.randint(2, 7)):
        x = rng.uniform(-0.3, 1.3, 2) * width
        cv2.line(
            picture,
            (int(x[0]), horizon),
            (int(x[1]), height),
            _colour(rng, None, (10, 160)),
            rng.randint(2, 9),
            _AA,
        )


_PLACES = (_street, _park, _room, _hall)


def backdrop(rng, width, height, place=None):
    """Paints a place without people.

    Args:
        rng (np.random.RandomState): Source of chance.
        width (int): Pixels.
        height (int): Pixels.
        place (str | None): 'street', 'park', 'room' or 'hall'; None draws.

    Returns:
        tuple[np.ndarray, int]: The picture, H x W x 3, uint8, BGR, and the
        row where the ground begins.
    """
    picture = np.empty((height, width, 3), np.uint8)
    horizon = int(height * rng.uniform(0.42, 0.66))
    names = [paint.__name__[1:] for paint in _PLACES]
    drawn = rng.randint(len(_PLACES))
    _PLACES[names.index(place) if place else drawn](picture, rng, horizon)
    return picture, horizon


def seat(picture, rng, x, top, ground, width):
    """Paints a stool or a box under somebody who sits.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR; changed in place.
        rng (np.random.RandomState): Source of chance.
        x (float): Its middle, pixels.
        top (float): Row of the seat.
        ground (float): Row where it stands.
        width (float): Pixels.
    """
    wood = _colour(rng, (5, 30), (30, 160), (60, 210))
    if rng.rand() < 0.5:
        _box(picture, x - width / 2, top, x + width / 2, ground, wood)
        _box(
            picture,
            x - width / 2,
            top,
            x + width / 2,
            top + 0.25 * (ground - top),
            _shade(wood, 1.25),
        )
        return
    for leg in (-0.42, 0.3):
        _box(
            picture,
            x + leg * width,
            top,
            x + (leg + 0.12) * width,
            ground,
            _shade(wood, 0.7),
        )
    _box(
        picture,
        x - width / 2,
        top,
        x + width / 2,
        top + 0.18 * (ground - top),
        wood,
    )


def obstacle(picture, rng, x, top, ground, width):
    """Paints something that stands before a person.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR; changed in place.
        rng (np.random.RandomState): Source of chance.
        x (float): Its middle, pixels.
        top (float): Row of its upper edge.
        ground (float): Row where it stands.
        width (float): Pixels.
    """
    tone = _colour(rng, None, (20, 180), (50, 220))
    kind = rng.randint(3)
    if kind == 0:
        _foliage(
            picture,
            rng,
            x,
            0.5 * (top + ground),
            max(0.5 * (ground - top), 0.4 * width),
        )
    elif kind == 1:
        _box(picture, x - width / 2, top, x + width / 2, ground, tone)
        for side in (0.25, 0.75):
            y = int(top + side * (ground - top))
            cv2.line(
                picture,
                (int(x - width / 2), y),
                (int(x + width / 2), y),
                _shade(tone, 0.7),
                2,
                _AA,
            )
    else:
        _box(picture, x - 0.12 * width, top, x + 0.12 * width, ground, tone)
        _disc(picture, (x, top), (0.2 * width, 0.2 * width), _shade(tone, 1.3))


def shadow(picture, x, y, width):
    """Darkens the ground under a person.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR; changed in place.
        x (float): Middle, pixels.
        y (float): Row.
        width (float): Half width of the shadow, pixels.
    """
    half = max(int(width), 3)
    tall = max(half // 4, 2)
    x0, y0 = int(x) - half, int(y) - tall
    rows, columns = picture.shape[:2]
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y0 + 2 * tall, rows), min(x0 + 2 * half, columns)
    if top >= bottom or left >= right:
        return
    u = (np.arange(left, right, dtype=np.float32) - x) / half
    v = (np.arange(top, bottom, dtype=np.float32) - y) / tall
    far = u[None, :] ** 2 + v[:, None] ** 2
    factor = 1 - 0.45 * np.clip(1 - far, 0, 1)
    part = picture[top:bottom, left:right]
    picture[top:bottom, left:right] = (part * factor[..., None]).astype(
        np.uint8
    )


def photograph(picture, rng):
    """Makes a painted picture look taken: tint, exposure, blur and grain.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR.
        rng (np.random.RandomState): Source of chance.

    Returns:
        np.ndarray: The same shape, uint8.
    """
    if rng.rand() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    gain = rng.uniform(0.82, 1.12) * rng.uniform(0.95, 1.05, 3)
    table = np.clip(
        np.arange(256)[:, None] * gain + rng.uniform(-8, 12), 0, 255
    ).astype(np.uint8)
    picture = cv2.LUT(picture, table[None])
    # One small tile of grain repeated is enough, and quick.
    tile = rng.normal(0, rng.uniform(1.5, 5), (128, 128)).astype(np.int16)
    height, width = picture.shape[:2]
    grain = np.tile(tile, (height // 128 + 1, width // 128 + 1))
    grain = np.repeat(grain[:height, :width, None], 3, 2)
    return cv2.add(picture, grain, dtype=cv2.CV_8U)
