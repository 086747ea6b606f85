"""Where the people of a picture are: given, in a file, or all of it.

A person is a box, and the crop that is made of it.
"""

import os
from collections import namedtuple

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json
from hourglass_npu.mpii.people import brief
from hourglass_npu.pose.geometry import (
    PIXELS_PER_SCALE,
    box_to_center_scale,
    mpii_center_scale,
)

Person = namedtuple('Person', 'box center scale score')
Person.__doc__ = """A person whose joints are to be found.

Attributes:
    box (tuple[float]): x, y, width, height (pixels of the picture).
    center (np.ndarray[2]): Centre of the crop.
    scale (np.ndarray[2]): Its size over 200 pixels.
    score (float): Of the detection; 1 where the box was given.
"""


def from_box(box, image_size, score=1.0):
    """Make a person of a box.

    Args:
        box (Sequence[float]): x, y, width, height (pixels of the picture).
        image_size (Sequence[int]): Width and height of the crop.
        score (float): Of the detection.

    Returns:
        Person: The person.
    """
    center, scale = box_to_center_scale(box, image_size)
    return Person(tuple(float(v) for v in box[:4]), center, scale, score)


def whole_picture(shape, image_size):
    """Take the whole picture as one person.

    Args:
        shape (Sequence[int]): Height and width of the picture.
        image_size (Sequence[int]): Width and height of the crop.

    Returns:
        Person: The person.
    """
    return from_box((0, 0, shape[1], shape[0]), image_size)


def parse_box(text):
    """Read ``x,y,w,h``.

    Args:
        text (str): Four numbers, separated by commas.

    Returns:
        tuple[float]: x, y, width, height.

    Raises:
        UserError: These are not four numbers, or the box has no area.
    """
    try:
        box = tuple(float(part) for part in text.split(','))
    except ValueError:
        box = ()
    if len(box) != 4 or not np.all(np.isfinite(box)):
        raise UserError(
            f'--bbox {text}: must be x,y,w,h in pixels, for example '
            '120,40,200,460'
        )
    if box[2] <= 0 or box[3] <= 0:
        raise UserError(f'--bbox {text}: the box has no area')
    return box


def check_inside(people, shape, name):
    """Check that every box touches the picture.

    Args:
        people (Sequence[Person]): People of a picture.
        shape (Sequence[int]): Its height and width.
        name (str): Its name, for the message.

    Raises:
        UserError: A box lies outside.
    """
    height, width = shape[:2]
    for person in people:
        x, y, w, h = person.box
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            box = ','.join(f'{v:g}' for v in person.box)
            raise UserError(
                f'{name}: the box {box} lies outside the picture of '
                f'{width} x {height} pixels'
            )


class BoxFile:
    """People of many pictures, from a JSON file.

    It can hold MPII people in mmpose's form (``image``, ``center``,
    ``scale``), COCO annotations (``images`` and ``annotations``) or COCO
    detections (``bbox`` with ``file_name`` or ``image_id``).

    Args:
        path (str): The file.
        image_size (Sequence[int]): Width and height of the crop.
        threshold (float): Leave out detections with a lower score.

    Raises:
        UserError: The file cannot be read or has another form.
    """

    def __init__(self, path, image_size, threshold=0.0):
        self.path = path
        self._image_size = image_size
        self._people = {}
        content = read_json(path)
        names = {}
        if isinstance(content, dict):
            names = self._picture_names(content.get('images'))
            content = content.get('annotations')
        if not isinstance(content, list):
            raise UserError(f'{path}: has no list of people')
        for number, entry in enumerate(content):
            key, person = self._read(number, entry, names)
            if person.score >= threshold:
                self._people.setdefault(key, []).append(person)

    def of(self, picture):
        """Return the people of one picture.

        Args:
            picture (str): Its path; only its name is compared.

        Returns:
            list[Person]: People in the order of the file, maybe none.
        """
        name = os.path.basename(picture)
        stem = os.path.splitext(name)[0]
        keys = [name, stem]
        if stem.isdigit():
            keys.append(str(int(stem)))
        for key in keys:
            if key in self._people:
                return self._people[key]
        return []

    def _picture_names(self, images):
        """Return the names of COCO's pictures by their numbers."""
        names = {}
        for one in images if isinstance(images, list) else ():
            if not isinstance(one, dict) or not isinstance(
                one.get('file_name'), str
            ):
                raise UserError(f'{self.path}: an image has no file_name')
            names[str(one.get('id'))] = one['file_name']
        return names

    def _read(self, number, entry, names):
        """Return the picture's name and the person of an entry."""
        if not isinstance(entry, dict):
            entry = {}
        box = entry.get('bbox')
        if isinstance(box, list):
            box = box[:4]  # some detectors add the score
        if box is not None and not (_numbers(box, 4) and min(box[2:]) > 0):
            raise self._wrong(number, f'bbox is {brief(box)}')
        if 'center' in entry:
            # Preferred to a box: it gives the crop that evaluation uses.
            name, person = entry.get('image'), self._mpii(number, entry)
            if box is not None:
                person = person._replace(box=tuple(map(float, box)))
        else:
            name = entry.get('file_name')
            if name is None and 'image_id' in entry:
                key = str(entry['image_id'])
                name = names.get(key, key)
            score = entry.get('score', 1.0)
            if box is None or not _numbers([score], 1):
                raise self._wrong(number, 'it has no bbox or a wrong score')
            person = from_box(box, self._image_size, float(score))
        if not isinstance(name, str):
            raise self._wrong(number, 'it names no picture')
        return os.path.basename(name), person

    def _mpii(self, number, entry):
        """Make a person of MPII's centre (counted from 1) and height."""
        center, scale = entry['center'], entry.get('scale')
        if not _numbers(center, 2) or not _numbers([scale], 1):
            raise self._wrong(
                number, f'center, scale: {brief(center)}, {brief(scale)}'
            )
        height = float(scale) * PIXELS_PER_SCALE
        corner = (float(v) - 1 - height / 2 for v in center)
        return Person(
            (*corner, height, height), *mpii_center_scale(center, scale), 1.0
        )

    def _wrong(self, number, fault):
        return UserError(
            f'{self.path}: entry {number} is neither an MPII person (image, '
            'center, scale) nor a COCO box (bbox with file_name or '
            f'image_id): {fault}'
        )


def _numbers(values, count):
    """Return whether a value of JSON is a list of so many numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and abs(v) < 1e9 for v in values)
    )
