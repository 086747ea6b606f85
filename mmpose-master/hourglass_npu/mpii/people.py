"""MPII's annotations in mmpose's JSON form: reading and checking."""

import json
import os

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json

LARGEST_SIDE = 65500
"""Pixels: the longest side of a JPEG. No coordinate is larger."""


def read_people(path):
    """Read the people of an annotation file.

    Args:
        path (str): The file.

    Returns:
        list: People, not checked; see :func:`person_faults`.

    Raises:
        UserError: The file is missing, or contains no list in JSON.
    """
    people = read_json(path)
    if not isinstance(people, list):
        raise UserError(
            f'{path} must contain a list of people, not a '
            f'{type(people).__name__}'
        )
    return people


def person_label(path, index, person):
    """Return the name of a person in messages.

    Args:
        path (str): Annotation file.
        index (int): Place in it, from 0.
        person (Any): The entry.

    Returns:
        str: File, place and, if the entry has one, picture.
    """
    image = person.get('image') if isinstance(person, dict) else None
    return f'{path}, person {index}' + (f' ({image})' if image else '')


def person_faults(person, joints=16):
    """Find the faults of a person of the annotations.

    Args:
        person (Any): The entry of the file.
        joints (int): How many joints a person must have, which training
            needs; 0: do not check them.

    Returns:
        list[str]: The faults; empty for a sound person. -1 for scale and
        both parts of the centre, MPII's mark of a missing box, is sound.
    """
    if not isinstance(person, dict):
        return [f'{brief(person)} is no person']
    faults = []
    image = person.get('image')
    if not isinstance(image, str) or not image or '\0' in image:
        faults.append(f'image is {brief(image)}: must be a file name')
    elif os.path.isabs(image) or '..' in image.split('/'):
        faults.append(
            f'image is {brief(image)}: must be inside of the folder of the '
            'pictures'
        )
    center, scale = person.get('center'), person.get('scale')
    if not _is_point(center):
        faults.append(
            f'center is {brief(center)}: must be two numbers (pixels)'
        )
    no_box = scale == -1 and center == [-1, -1]
    if not no_box and not (_is_number(scale) and scale > 0):
        faults.append(
            f'scale is {brief(scale)}: must be a number above 0 (the '
            "person's height in units of 200 pixels)"
        )
    if joints:
        faults += _joint_faults(
            person.get('joints'), person.get('joints_vis'), joints
        )
    return faults


def _joint_faults(points, visible, count):
    faults = []
    for name, values in (('joints', points), ('joints_vis', visible)):
        if not isinstance(values, list):
            faults.append(f'{name} is {brief(values)}: must be a list')
        elif len(values) != count:
            faults.append(f'{len(values)} {name} instead of {count}')
    if faults:
        return faults
    for i, point in enumerate(points):
        if not _is_point(point):
            faults.append(
                f'joint {i} is {brief(point)}: must be two numbers (pixels)'
            )
    for i, flag in enumerate(visible):
        if not _is_number(flag) or flag not in (0, 1):
            faults.append(
                f'joints_vis of joint {i} is {brief(flag)}: must be 0 or 1'
            )
    return faults


def _is_number(value):
    """Return whether a value of JSON is a number that can be a coordinate."""
    # Every comparison with NaN is false; bool is a kind of int.
    return (
        type(value) in (int, float) and -LARGEST_SIDE <= value <= LARGEST_SIDE
    )


def _is_point(value):
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_number(value[0])
        and _is_number(value[1])
    )


def brief(value):
    """Return a value for a message: as in JSON, and short.

    Args:
        value (Any): Of JSON; None for a missing one.

    Returns:
        str: At most 40 characters.
    """
    if value is None:
        return 'missing'
    try:
        text = json.dumps(value)
    except RecursionError:
        return 'nested too deep'
    return text if len(text) <= 40 else text[:37] + '...'
