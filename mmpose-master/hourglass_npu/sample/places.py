"""Paint the places behind the people: streets, parks, rooms, and halls.

Details do not matter. The pictures only have to be as restless as
photographs, so that a network learns people and not "all that is not grey".
"""

import numpy as np

from .paint import shade


def _tree(brush, x, ground, height):
    rng = brush.rng
    trunk = brush.colour((8, 18), (60, 130), (50, 110))
    w = max(0.05 * height, 2)
    top = ground - 0.7 * height
    foot = [(x - w, ground), (x + w, ground)]
    brush.polygon(foot + [(x + 0.5 * w, top), (x - 0.5 * w, top)], trunk)
    for _ in range(3):
        brush.foliage(
            x + rng.uniform(-0.16, 0.16) * height,
            ground - rng.uniform(0.6, 0.85) * height,
            0.26 * height,
        )


def _building(brush, x0, x1, top, ground):
    rng = brush.rng
    wall = brush.colour(None, (10, 110), (90, 220))
    brush.box(x0, top, x1, ground, wall)
    brush.box(x0, top, x1, top + 8, shade(wall, 0.75))
    across, down = rng.randint(26, 60), rng.randint(38, 74)
    glass = brush.colour((95, 125), (20, 120), (60, 190))
    for y in range(int(top) + 24, int(ground) - down, down):
        for x in range(int(x0) + 10, int(x1) - across // 2, across):
            lit = shade(glass, rng.uniform(0.6, 1.35))
            right, bottom = x + 0.55 * across, y + 0.6 * down
            brush.box(x, y, right, bottom, shade(wall, 1.18))
            brush.box(x + 2, y + 2, right - 2, bottom - 2, lit)


def _street(brush, horizon):
    height, width, rng = brush.height, brush.width, brush.rng
    sky = brush.colour((95, 120), (30, 130), (150, 245))
    haze = brush.colour((10, 120), (5, 50), (200, 250))
    brush.gradient(sky, haze, 0, horizon)
    x = -rng.randint(100)
    while x < width:
        x1 = x + rng.randint(110, 320)
        _building(brush, x, x1, horizon * rng.uniform(-0.1, 0.6), horizon + 4)
        x = x1 + (rng.randint(60) if rng.rand() < 0.3 else 0)
    paving = brush.colour(None, (0, 40), (90, 190))
    brush.gradient(shade(paving, 0.8), paving, horizon, height)
    vanish, joints = rng.uniform(0.2, 0.8) * width, shade(paving, 0.86)
    for end in np.linspace(-1.5 * width, 2.5 * width, rng.randint(9, 26)):
        thickness = 1 + rng.randint(2)
        brush.line((vanish, horizon), (end, height), joints, thickness)
    for share in np.linspace(0.1, 0.95, 6) ** 1.7:
        y = int(horizon + share * (height - horizon))
        brush.line((0, y), (width, y), shade(paving, 0.88), 1)
    for _ in range(rng.randint(1, 5)):
        x, ground = rng.uniform(0, width), horizon + rng.uniform(0, 60)
        kind = rng.randint(3)
        if kind == 0:
            _tree(brush, x, ground, rng.uniform(180, 360))
        elif kind == 1:
            pole = brush.colour(None, (0, 50), (40, 120))
            brush.line((x, ground), (x, ground - 320), pole, 7)
            brush.line((x, ground - 316), (x + 50, ground - 330), pole, 5)
            brush.disc((x + 56, ground - 326), (16, 8), (215, 240, 250))
        else:
            _car(brush, x, ground + 25, rng.uniform(130, 240))


def _car(brush, x, ground, length):
    paint = brush.colour(None, (60, 220), (60, 230))
    h = 0.22 * length
    brush.polygon(
        [
            (x - 0.28 * length, ground - h),
            (x - 0.18 * length, ground - 1.9 * h),
            (x + 0.16 * length, ground - 1.9 * h),
            (x + 0.3 * length, ground - h),
        ],
        (120, 100, 80),
    )
    left, right, low = x - length / 2, x + length / 2, ground - 0.25 * h
    brush.box(left, ground - 1.1 * h, right, low, paint)
    brush.box(left, ground - 0.5 * h, right, low, shade(paint, 0.7))
    for side in (-0.3, 0.3):
        hub = x + side * length, ground - 0.2 * h
        brush.disc(hub, (0.4 * h, 0.4 * h), (34, 34, 36))
        brush.disc(hub, (0.2 * h, 0.2 * h), (150, 150, 150))


def _park(brush, horizon):
    height, width, rng = brush.height, brush.width, brush.rng
    sky = brush.colour((95, 118), (50, 170), (170, 250))
    haze = brush.colour((90, 120), (10, 50), (220, 254))
    brush.gradient(sky, haze, 0, horizon)
    for _ in range(rng.randint(2, 6)):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.5) * horizon
        for _ in range(5):
            centre = x + rng.uniform(-70, 70), y + rng.uniform(-10, 10)
            axes = rng.uniform(30, 70), rng.uniform(10, 24)
            brush.disc(centre, axes, (246, 244, 240))
    for layer in range(3):
        xs = np.linspace(0, width, 12)
        ys = horizon - rng.uniform(0, 110 - 35 * layer, 12)
        hill = brush.colour((40, 100), (30, 110), (110, 190))
        ends = [(width, horizon + 6), (0, horizon + 6)]
        brush.polygon([*zip(xs, ys), *ends], hill)
    grass = brush.colour((30, 55), (70, 170), (90, 190))
    brush.gradient(shade(grass, 0.85), shade(grass, 1.05), horizon, height)
    for _ in range(260):
        x, y = rng.randint(width), rng.randint(horizon, height)
        h = 3 + 14 * (y - horizon) / (height - horizon)
        tip = x + rng.uniform(-4, 4), y - h
        brush.line((x, y), tip, shade(grass, rng.uniform(0.7, 1.25)), 1)
    if rng.rand() < 0.5:
        path = brush.colour((10, 25), (20, 70), (150, 220))
        x = rng.uniform(0, width)
        brush.polygon(
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
            _tree(brush, x, ground, rng.uniform(150, 400))
        else:
            brush.foliage(x, ground - 20, rng.uniform(30, 80))


def _room(brush, horizon):
    height, width, rng = brush.height, brush.width, brush.rng
    wall = brush.colour(None, (10, 90), (130, 240))
    brush.gradient(wall, shade(wall, 0.88), 0, horizon)
    if rng.rand() < 0.5:
        step = rng.randint(24, 70)
        for x in range(0, width, step):
            brush.box(x, 0, x + step // 2, horizon, shade(wall, 0.94))
    for _ in range(rng.randint(2, 7)):
        x, y = rng.uniform(0, width), rng.uniform(20, 0.55 * horizon)
        w, h = rng.uniform(60, 210), rng.uniform(60, 170)
        frame = brush.colour(None, (20, 150), (40, 240))
        brush.box(x, y, x + w, y + h, frame)
        canvas = brush.colour(None, (20, 140), (90, 250))
        brush.box(x + 7, y + 7, x + w - 7, y + h - 7, canvas)
        for _ in range(4):
            place = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
            axes = w * rng.uniform(0.04, 0.2), h * rng.uniform(0.04, 0.2)
            centre = x + w * place[0], y + h * place[1]
            brush.disc(centre, axes, brush.colour(None, (40, 200)))
    floor = brush.colour((5, 25), (30, 150), (90, 200))
    brush.gradient(shade(floor, 0.8), floor, horizon, height)
    brush.box(0, horizon - 10, width, horizon, shade(wall, 1.15))
    for end in np.linspace(-width, 2 * width, rng.randint(14, 34)):
        start = width / 2 + (end - width / 2) * 0.45
        brush.line((start, horizon), (end, height), shade(floor, 0.8), 1)
    for _ in range(rng.randint(1, 5)):
        x, ground = rng.uniform(0, width), horizon + rng.uniform(5, 60)
        kind = rng.randint(3)
        if kind == 0:
            _shelf(brush, x, ground)
        elif kind == 1:
            _sofa(brush, x, ground)
        else:
            pot = brush.colour(None, (40, 180))
            brush.foliage(x, ground - 120, rng.uniform(50, 90))
            rim = [(x - 36, ground - 66), (x + 36, ground - 66)]
            foot = [(x + 26, ground), (x - 26, ground)]
            brush.polygon(rim + foot, pot)


def _shelf(brush, x, ground):
    rng = brush.rng
    w, h = rng.uniform(120, 240), rng.uniform(200, 380)
    wood = brush.colour((8, 22), (50, 150), (60, 170))
    brush.box(x, ground - h, x + w, ground, wood)
    rows = rng.randint(3, 6)
    for row in range(rows):
        y0 = ground - h + 8 + row * (h - 8) / rows
        y1 = y0 + (h - 8) / rows - 8
        brush.box(x + 8, y0, x + w - 8, y1, shade(wood, 0.6))
        left = x + 10
        while left < x + w - 24:
            book = rng.uniform(7, 18)
            top = y1 - (y1 - y0) * rng.uniform(0.55, 0.95)
            cover = brush.colour(None, (40, 200))
            brush.box(left, top, left + book, y1, cover)
            left += book + (rng.uniform(0, 26) if rng.rand() < 0.2 else 1)


def _sofa(brush, x, ground):
    rng = brush.rng
    w, h = rng.uniform(220, 420), rng.uniform(110, 160)
    cloth = brush.colour(None, (30, 160), (70, 200))
    brush.box(x, ground - h, x + w, ground, cloth)
    light, dark = shade(cloth, 1.15), shade(cloth, 0.8)
    brush.box(x + 20, ground - 0.5 * h, x + w - 20, ground - 8, light)
    for left in (x - 16, x + w - 24):
        brush.box(left, ground - 0.65 * h, left + 40, ground, dark)


def _hall(brush, horizon):
    """Paint a wall of patches: posters, a climbing wall, a stage."""
    height, width, rng = brush.height, brush.width, brush.rng
    wall = brush.colour(None, (10, 160), (40, 230))
    brush.gradient(wall, brush.colour(None, (10, 160), (40, 230)), 0, horizon)
    for _ in range(rng.randint(20, 60)):
        x, y = rng.uniform(0, width), rng.uniform(0, horizon)
        r = rng.uniform(10, 130)
        tone = brush.colour(None, (20, 200), (40, 250))
        kind = rng.randint(4)
        if kind == 0:
            brush.disc(
                (x, y), (r, r * rng.uniform(0.3, 1)), tone, rng.randint(180)
            )
        elif kind == 1:
            brush.polygon(np.array([x, y]) + rng.uniform(-r, r, (3, 2)), tone)
        elif kind == 2:
            brush.box(x - r, y - 0.4 * r, x + r, y + 0.4 * r, tone)
        else:
            end = np.array([x, y]) + rng.uniform(-2 * r, 2 * r, 2)
            brush.line((x, y), (end[0], end[1]), tone, rng.randint(2, 22))
    floor = brush.colour(None, (10, 120), (60, 200))
    brush.gradient(shade(floor, 0.75), floor, horizon, height)
    for _ in range(rng.randint(2, 7)):
        x = rng.uniform(-0.3, 1.3, 2) * width
        tone = brush.colour(None, (10, 160))
        brush.line((x[0], horizon), (x[1], height), tone, rng.randint(2, 9))


PLACES = dict(street=_street, park=_park, room=_room, hall=_hall)
"""Name of a place, and the function that paints it."""
