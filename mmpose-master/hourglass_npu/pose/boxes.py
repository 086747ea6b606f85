"""Where the people of a picture are: given, in a file, or all of it.

A person is a box, and the crop that is made of it.
"""

import os
import sys
from collections import Counter, namedtuple

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json
from hourglass_npu.mpii.people import brief
from hourglass_npu.pose.geometry import (
    PIXELS_PER_SCALE,
    box_to_center_scale,
    mpii_center_scale,
)

DEFAULT_THRESHOLD = 0.3
"""Lowest score of a detection that is taken for a person."""

PERSON = '1'
"""COCO's number of the category person."""

Person = namedtuple('Person', 'box center scale score')
Person.__doc__ = """A person to find the joints of.

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


def inside(people, shape, name):
    """Leave out boxes that lie outside of the picture, and name them.

    Args:
        people (Sequence[Person]): People of a picture.
        shape (Sequence[int]): Its height and width.
        name (str): Its name, for the message.

    Returns:
        list[Person]: The others.
    """
    kept = []
    for person in people:
        try:
            check_inside([person], shape, name)
            kept.append(person)
        except UserError as error:
            print(f'{error}; skipped', file=sys.stderr)
    return kept


def detected(found, image_size):
    """Make people of what a detector has found.

    Args:
        found (Sequence[tuple]): Boxes (x, y, width, height), each with its
            score.
        image_size (Sequence[int]): Width and height of the crop.

    Returns:
        list[Person]: The people.
    """
    return [from_box(box, image_size, score) for box, score in found]


class BoxFile:
    """People of many pictures, from a JSON file.

    It can hold MPII people in mmpose's form (``image``, ``center``,
    ``scale``), COCO annotations (``images`` and ``annotations``), COCO
    detections (``bbox``: x, y, width, height, with ``file_name`` or
    ``image_id``), or the boxes of one picture in the form that mmpose's
    functions take (``bbox``: x1, y1, x2, y2, score, and no picture).

    What is no person is left out: another ``category_id`` than that of the
    file's category named ``person`` (or of its only one), or than 1 where
    categories have no names.
    A box without an area or with impossible numbers is named on standard
    error and left out.

    Args:
        path (str): The file.
        image_size (Sequence[int]): Width and height of the crop.
        threshold (float): Leave out detections with a lower score.
        pictures (Sequence[str]): Paths of the pictures that will be asked
            for, to tell those of one name apart.

    Attributes:
        left_out (str): How many entries were left out and why; may be empty.

    Raises:
        UserError: The file cannot be read or has another form.
    """

    def __init__(
        self, path, image_size, threshold=DEFAULT_THRESHOLD, pictures=()
    ):
        self.path = path
        self._asked = Counter(os.path.basename(one) for one in pictures)
        self._image_size = image_size
        self._people = {}
        self._everywhere = []
        content = read_json(path)
        names, classes = {}, {PERSON}
        if isinstance(content, dict):
            names = self._picture_names(content.get('images'))
            classes = self._person_classes(content.get('categories'))
            content = content.get('annotations')
        if not isinstance(content, list):
            raise UserError(f'{path}: has no list of people')
        others = weak = 0
        for number, entry in enumerate(content):
            if not isinstance(entry, dict):
                raise self._wrong(number, f'it is {brief(entry)}')
            if not _is_person(entry, classes):
                others += 1
                continue
            key, person = self._read(number, entry, names)
            if person is None:
                continue
            if person.score < threshold:
                weak += 1
            elif key is None:
                self._everywhere.append(person)
            else:
                self._people.setdefault(_parts(key), []).append(person)
        reasons = []
        if others:
            reasons.append(f'{others} no person')
        if weak:
            reasons.append(f'{weak} with a score below {threshold:g}')
        self.left_out = ', '.join(reasons)

    def of(self, picture):
        """Return the people of one picture.

        Args:
            picture (str): Its path. The file's names are compared with its
                end, by whole folders: the longest that fits counts. A name
                without suffix, or a number, is compared with the picture's
                name without suffix.

        Returns:
            list[Person]: People in the order of the file, maybe none. Boxes
            that name no picture belong to every picture.

        Raises:
            UserError: The file names several pictures whose paths end
                like this one.
        """
        parts = _parts(os.path.abspath(picture))
        stem = os.path.splitext(parts[-1])[0]
        ends = [parts[i:] for i in range(len(parts))]
        ends += [(*end[:-1], stem) for end in ends]
        if stem.isdigit():
            ends.append((str(int(stem)),))
        fitting = [end for end in ends if end in self._people]
        if fitting:
            best = max(fitting, key=len)
            return self._people[best] + self._everywhere
        # The pictures are in another folder than they were: a name will do,
        # if there is only one picture of it.
        same = [key for key in self._people if _same_name(key, parts[-1])]
        if self._asked[parts[-1]] > 1:
            same = []
        if len(same) > 1:
            some = ' and '.join('/'.join(key) for key in same[:2])
            raise UserError(
                f'{picture}: {self.path} has several pictures of this name '
                f'({some}): give a path that ends like one of them'
            )
        found = self._people[same[0]] if same else []
        return found + self._everywhere

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

    def _person_classes(self, categories):
        """Return the numbers of COCO's categories that are people."""
        named = [
            one
            for one in (categories if isinstance(categories, list) else ())
            if isinstance(one, dict) and isinstance(one.get('name'), str)
        ]
        found = {
            str(one.get('id'))
            for one in named
            if one['name'].strip().lower() == 'person' or len(named) == 1
        }
        if named and not found:
            names = ', '.join(one['name'] for one in named[:8])
            raise UserError(
                f'{self.path}: none of its categories is named person '
                f'({names})'
            )
        return found or {PERSON}

    def _read(self, number, entry, names):
        """Return the picture's name and the person of an entry.

        Returns:
            tuple[str | None, Person | None]: The name is None for a box of
            every picture, the person for a box that cannot be used.
        """
        box = entry.get('bbox')
        if 'center' in entry:
            # Preferred to a box: it gives the crop that evaluation uses.
            name, person = entry.get('image'), self._mpii(number, entry)
            if person and box is not None:
                fault = _box_fault(box)
                if fault:
                    self._skip(number, name, fault)
                else:
                    box = tuple(map(float, box[:4]))
                    person = person._replace(box=box)
        else:
            name = entry.get('file_name')
            if name is None and 'image_id' in entry:
                key = str(entry['image_id'])
                name = names.get(key, key)
            if not _is_numeric(box) or len(box) not in (4, 5):
                raise self._wrong(number, f'bbox is {brief(box)}')
            person = self._boxed(number, entry, name, box)
            if name is None and len(box) == 5:
                return None, person
        if not isinstance(name, str):
            raise self._wrong(number, 'it names no picture')
        return name, person

    def _boxed(self, number, entry, name, box):
        """Make a person of a box; None for one that cannot be used."""
        # Some detectors add the score to the box.
        score = entry.get('score', box[4] if len(box) == 5 else 1.0)
        if not _is_numeric([score]):
            raise self._wrong(number, f'its score is {brief(score)}')
        fault = _box_fault(box)
        if not fault and name is None and len(box) == 5:
            box = [*box[:2], box[2] - box[0], box[3] - box[1]]
            fault = _box_fault(box)
        if not fault and not _numbers([score], 1):
            fault = f'its score is {brief(score)}'
        if fault:
            self._skip(number, name, fault)
            return None
        return from_box(box, self._image_size, float(score))

    def _mpii(self, number, entry):
        """Make a person of MPII's centre (counted from 1) and height."""
        center, scale = entry['center'], entry.get('scale')
        if not (_is_numeric(center) and _is_numeric([scale])) or (
            len(center) != 2
        ):
            raise self._wrong(
                number, f'center, scale: {brief(center)}, {brief(scale)}'
            )
        if not _numbers([*center, scale], 3) or scale <= 0:
            self._skip(
                number,
                entry.get('image'),
                f'center {brief(center)}, scale {brief(scale)}',
            )
            return None
        height = float(scale) * PIXELS_PER_SCALE
        corner = (float(v) - 1 - height / 2 for v in center)
        return Person(
            (*corner, height, height), *mpii_center_scale(center, scale), 1.0
        )

    def _skip(self, number, name, fault):
        picture = f' ({name})' if isinstance(name, str) else ''
        print(
            f'{self.path}: entry {number}{picture}: {fault}; skipped',
            file=sys.stderr,
        )

    def _wrong(self, number, fault):
        return UserError(
            f'{self.path}: entry {number} is neither an MPII person (image, '
            'center, scale) nor a COCO box (bbox with file_name or '
            f'image_id) nor a box of mmpose (bbox: x1,y1,x2,y2,score): {fault}'
        )


def _is_person(entry, classes):
    """Tell whether an entry is a person, as far as it says what it is."""
    category = entry.get('category_id')
    label = entry.get('category', entry.get('category_name'))
    if isinstance(label, str):
        return label.strip().lower() == 'person'
    return category is None or str(category) in classes


def _parts(path):
    """Split a path into its folders and its name."""
    path = os.path.normpath(path.replace('\\', '/'))
    return tuple(part for part in path.split('/') if part)


def _same_name(key, name):
    """Tell whether a name of the file is this one, in whatever folder."""
    return len(key) > 1 and key[-1] in (name, os.path.splitext(name)[0])


def _box_fault(box):
    """Say what is wrong with a box; None for a sound one."""
    if not isinstance(box, list) or not _numbers(box[:4], 4):
        return f'bbox is {brief(box)}'
    if min(box[2:4]) <= 0:
        return f'bbox {brief(box)} has no area'
    return None


def _is_numeric(values):
    """Return whether a value of JSON is a list of numbers, NaN included."""
    return isinstance(values, list) and all(
        type(value) in (int, float) for value in values
    )


def _numbers(values, count):
    """Return whether a value of JSON is a list of so many numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and abs(v) < 1e9 for v in values)
    )
