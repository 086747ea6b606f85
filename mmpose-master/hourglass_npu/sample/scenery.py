"""Paint the surroundings of people, and finish a picture as a photograph."""

import cv2
import numpy as np

from .paint import Brush, shade
from .places import PLACES


def backdrop(rng, width, height, place=None):
    """Paint a place without people.

    Args:
        rng (np.random.RandomState): Source of random numbers.
        width (int): Pixels.
        height (int): Pixels.
        place (str | None): A key of PLACES; None for a random one.

    Returns:
        tuple[np.ndarray[H, W, 3], int]: The picture, 8-bit BGR, and the row
        where the ground begins.
    """
    picture = np.empty((height, width, 3), np.uint8)
    horizon = int(height * rng.uniform(0.42, 0.66))
    drawn = list(PLACES)[rng.randint(len(PLACES))]
    PLACES[place or drawn](Brush(picture, rng), horizon)
    return picture, horizon


def seat(picture, rng, x, top, ground, width):
    """Paint a stool or a box under a person who sits.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
        rng (np.random.RandomState): Source of random numbers.
        x (float): Its middle, pixels.
        top (float): Row of the seat.
        ground (float): Row where it stands.
        width (float): Pixels.
    """
    brush = Brush(picture, rng)
    wood = brush.colour((5, 30), (30, 160), (60, 210))
    left, right, tall = x - width / 2, x + width / 2, ground - top
    if rng.rand() < 0.5:
        brush.box(left, top, right, ground, wood)
        brush.box(left, top, right, top + 0.25 * tall, shade(wood, 1.25))
        return
    for leg in (-0.42, 0.3):
        ends = x + leg * width, top, x + (leg + 0.12) * width, ground
        brush.box(*ends, shade(wood, 0.7))
    brush.box(left, top, right, top + 0.18 * tall, wood)


def obstacle(picture, rng, x, top, ground, width):
    """Paint something in front of a person.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
        rng (np.random.RandomState): Source of random numbers.
        x (float): Its middle, pixels.
        top (float): Row of its upper edge.
        ground (float): Row where it stands.
        width (float): Pixels.
    """
    brush = Brush(picture, rng)
    tone = brush.colour(None, (20, 180), (50, 220))
    kind = rng.randint(3)
    if kind == 0:
        radius = max(0.5 * (ground - top), 0.4 * width)
        brush.foliage(x, 0.5 * (top + ground), radius)
    elif kind == 1:
        left, right = x - width / 2, x + width / 2
        brush.box(left, top, right, ground, tone)
        for side in (0.25, 0.75):
            y = int(top + side * (ground - top))
            brush.line((left, y), (right, y), shade(tone, 0.7), 2)
    else:
        brush.box(x - 0.12 * width, top, x + 0.12 * width, ground, tone)
        brush.disc((x, top), (0.2 * width, 0.2 * width), shade(tone, 1.3))


def shadow(picture, x, y, width):
    """Darken the ground under a person.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR; changed in place.
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
    """Make a painting look like a photograph: tint, exposure, blur, grain.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR.
        rng (np.random.RandomState): Source of random numbers.

    Returns:
        np.ndarray[H, W, 3]: 8-bit BGR.
    """
    if rng.rand() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    gain = rng.uniform(0.82, 1.12) * rng.uniform(0.95, 1.05, 3)
    table = np.clip(
        np.arange(256)[:, None] * gain + rng.uniform(-8, 12), 0, 255
    ).astype(np.uint8)
    picture = cv2.LUT(picture, table[None])
    # Repeating one small tile of grain is enough, and fast.
    tile = rng.normal(0, rng.uniform(1.5, 5), (128, 128)).astype(np.int16)
    height, width = picture.shape[:2]
    grain = np.tile(tile, (height // 128 + 1, width // 128 + 1))
    grain = np.repeat(grain[:height, :width, None], 3, 2)
    return cv2.add(picture, grain, dtype=cv2.CV_8U)
