"""Where the people of a picture are: given, in a file, all of it, or found.

A person here is a box, and the crop that is made of it.
"""

import json
import os
from collections import namedtuple

import cv2
import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.pose.decode import PIXELS_PER_SCALE, box_to_center_scale

Person = namedtuple('Person', 'box center scale score')
Person.__doc__ = """A person to be estimated.

Attributes:
    box (tuple[float]): x, y, width, height (pixels of the picture).
    center (np.ndarray[2]): Centre of the crop.
    scale (np.ndarray[2]): Its size over 200 pixels.
    score (float): Of the detection; 1 where the box was given.
"""

DETECTOR_NOTE = (
    "--detect is OpenCV's HOG people detector of 2005: it finds people who "
    'stand upright and unhidden, misses most others, and takes posts and '
    'wheels for people (on five pictures of MPII: 2 of 7 people, 5 other '
    'things). Boxes of your own (--bbox, --bbox-file) give better poses.'
)


def from_box(box, image_size, score=1.0):
    """Makes a person of a box.

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
    """Takes the whole picture for one person.

    Args:
        shape (Sequence[int]): Height and width of the picture.
        image_size (Sequence[int]): Width and height of the crop.

    Returns:
        Person: The person.
    """
    return from_box((0, 0, shape[1], shape[0]), image_size)


def parse_box(text):
    """Reads ``x,y,w,h``.

    Args:
        text (str): Four numbers, commas between them.

    Returns:
        tuple[float]: x, y, width, height.

    Raises:
        ValueError: Not four numbers, or no area.
    """
    try:
        box = tuple(float(part) for part in text.split(','))
    except ValueError:
        box = ()
    if len(box) != 4 or not np.all(np.isfinite(box)):
        raise UserError(
            f'a box is x,y,w,h in pixels, for example 120,40,200,460; '
            f'not "{text}"'
        )
    if box[2] <= 0 or box[3] <= 0:
        raise UserError(f'the box {text} has no area')
    return box


def check_inside(people, shape, name):
    """Makes sure that every box touches the picture.

    Args:
        people (Sequence[Person]): People of a picture.
        shape (Sequence[int]): Its height and width.
        name (str): Its name, for the message.

    Raises:
        ValueError: A box lies outside.
    """
    height, width = shape[:2]
    for person in people:
        x, y, w, h = person.box
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            box = ','.join(f'{v:g}' for v in person.box)
            raise UserError(
                f'{name}: the box {box} lies outside of the picture of '
                f'{width} x {height} pixels'
            )


class BoxFile:
    """People of many pictures, from a JSON file.

    Understood are: MPII people as mmpose has them (``image``, ``center``,
    ``scale``), COCO annotations (``images`` and ``annotations``) and COCO
    detections (``bbox`` with ``file_name`` or ``image_id``).

    Args:
        path (str): The file.
        image_size (Sequence[int]): Width and height of the crop.
        threshold (float): Detections with a lower score are left out.

    Raises:
        ValueError: The file cannot be read or has another form.
    """

    def __init__(self, path, image_size, threshold=0.0):
        self.path = path
        self._people = {}
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise UserError(f'{path}: {error}') from error
        try:
            for key, person in _entries(content, image_size):
                if person.score >= threshold:
                    self._people.setdefault(key, []).append(person)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(
                f'{path}: neither MPII people (image, center, scale) nor '
                f'COCO boxes (bbox with file_name or image_id): {error!r}'
            ) from error

    def of(self, picture):
        """People of one picture.

        Args:
            picture (str): Its path; its name must be that of the file.

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


class Detector:
    """Finds people with what OpenCV has built in; see DETECTOR_NOTE.

    Args:
        image_size (Sequence[int]): Width and height of the crop.
        threshold (float): Lowest margin of the classifier.
    """

    # HOG looks through windows of 64 x 128; larger pictures are reduced to
    # this side, as time goes with the area and people are found at any size.
    MAX_SIDE = 1280
    # People whose feet or head are cut off by the edge of the picture are
    # found when the edge is drawn out, by this part of the height.
    BORDER = 0.35
    # The trained window has this much room around a person on every side,
    # as a part of its width and height.
    MARGIN = (0.20, 0.09)

    def __init__(self, image_size, threshold=0.9):
        self._image_size = image_size
        self._threshold = threshold
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def of(self, picture):
        """Finds people.

        Args:
            picture (np.ndarray[H, W, 3]): 8-bit BGR.

        Returns:
            list[Person]: The surest first, maybe none.
        """
        height, width = picture.shape[:2]
        reduction = max(max(height, width) / self.MAX_SIDE, 1.0)
        small = picture
        if reduction > 1:
            size = (
                max(int(width / reduction), 1),
                max(int(height / reduction), 1),
            )
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        border = int(self.BORDER * small.shape[0])
        wide = cv2.copyMakeBorder(small, *[border] * 4, cv2.BORDER_REPLICATE)
        if wide.shape[0] < 128 or wide.shape[1] < 64:
            return []
        boxes, margins = self._hog.detectMultiScale(
            wide, winStride=(8, 8), padding=(16, 16), scale=1.05
        )
        margins = np.ravel(margins)
        keep = [i for i, m in enumerate(margins) if m >= self._threshold]
        people = []
        for i in _without_overlap(boxes, margins, keep):
            box = self._tight(boxes[i] - (border, border, 0, 0)) * reduction
            box = _clipped(box, width, height)
            if box is not None:
                score = float(margins[i])
                people.append(from_box(box, self._image_size, score))
        return people

    def _tight(self, box):
        x, y, width, height = box
        across, down = self.MARGIN[0] * width, self.MARGIN[1] * height
        return np.float64(
            [x + across, y + down, width - 2 * across, height - 2 * down]
        )


def _entries(content, image_size):
    """Goes through the people of a parsed JSON file: (key, Person)."""
    names = {}
    if isinstance(content, dict):
        names = {
            one['id']: os.path.basename(one['file_name'])
            for one in content['images']
        }
        content = content['annotations']
    for entry in content:
        if 'center' in entry:
            # Preferred to a box, as the crop that evaluation takes.
            person = _from_mpii(entry['center'], entry['scale'])
            if 'bbox' in entry:
                person = person._replace(box=_checked_box(entry['bbox']))
            yield os.path.basename(entry['image']), person
            continue
        key = entry.get('file_name')
        if key is None:
            number = entry['image_id']
            key = names.get(number, str(number))
        box = _checked_box(entry['bbox'])
        score = float(entry.get('score', 1.0))
        yield os.path.basename(key), from_box(box, image_size, score)


def _checked_box(box):
    """Four numbers of a file, as a box."""
    x, y, width, height = (float(v) for v in box[:4])
    if not (width > 0 and height > 0):
        raise UserError(f'the box {box} has no area')
    return x, y, width, height


def _from_mpii(center, scale):
    """Makes a person of MPII's centre (counted from one) and height."""
    center = np.array(center, dtype=np.float64)
    height = float(scale) * PIXELS_PER_SCALE
    box = (*(center - 1 - height / 2), height, height)
    # As mmpose's TopDownMpiiDataset: lower, and with room for the limbs.
    center[1] += 15 * float(scale)
    return Person(
        tuple(float(v) for v in box),
        center - 1,
        np.array([scale, scale], dtype=np.float64) * 1.25,
        1.0,
    )


def _without_overlap(boxes, scores, keep, limit=0.45):
    """Leaves out boxes that overlap a better one (greedy suppression)."""
    chosen = []
    for i in sorted(keep, key=lambda k: -scores[k]):
        if all(_overlap(boxes[i], boxes[j]) < limit for j in chosen):
            chosen.append(i)
    return chosen


def _clipped(box, width, height):
    """The part of a box within a picture; None if that is hardly any."""
    x0, y0 = np.maximum(box[:2], 0)
    x1, y1 = np.minimum(box[:2] + box[2:], (width, height))
    if x1 <= x0 or y1 <= y0:
        return None
    if (x1 - x0) * (y1 - y0) < 0.3 * box[2] * box[3]:
        return None
    return x0, y0, x1 - x0, y1 - y0


def _overlap(first, second):
    """Intersection over the smaller of two boxes."""
    x0, y0 = np.maximum(first[:2], second[:2])
    x1, y1 = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    area = max(x1 - x0, 0) * max(y1 - y0, 0)
    return area / min(first[2] * first[3], second[2] * second[3])
