"""COCO's keypoint JSON, read and written through xtcocotools.

Pixels count from 0 in COCO's form, and from 1 in MPII's.
"""

import contextlib
import io
import math

import numpy as np
from xtcocotools.coco import COCO as Index

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json
from hourglass_npu.mpii.people import brief, person_faults
from hourglass_npu.pose.geometry import PIXELS_PER_SCALE
from hourglass_npu.pose.joints import COCO, MPII, Joints

TABLES = ('images', 'annotations', 'categories')


def read_index(path):
    """Read a COCO file.

    Args:
        path (str): The file.

    Returns:
        xtcocotools.coco.COCO: Its index.

    Raises:
        UserError: It is missing, or no such file.
    """
    content = read_json(path)
    for table in TABLES:
        rows = content.get(table) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and type(row.get('id')) is int
            for row in rows
        ):
            raise UserError(
                f'{path} is no COCO file: it has no list of {table}, each '
                'with a whole number as its id'
            )
        ids = [row['id'] for row in rows]
        if len(set(ids)) < len(ids):
            raise UserError(f'{path}: two {table} have the same id')
    for row in content['annotations']:
        if type(row.get('image_id')) is not int or (
            type(row.get('category_id')) is not int
        ):
            raise UserError(
                f'{path}, annotation {row["id"]}: image_id and category_id '
                'must be whole numbers'
            )
    index = Index()
    index.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def choose_category(index, path, name=None):
    """Choose the category that has keypoints.

    Args:
        index (xtcocotools.coco.COCO): See :func:`read_index`.
        path (str): Its file, for messages.
        name (str | None): Name of the category.

    Returns:
        dict: The category.

    Raises:
        UserError: There is none, or several and no name.
    """
    found = {
        str(category.get('name')): category
        for category in index.loadCats(index.getCatIds())
        if category.get('keypoints')
    }
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise UserError(
            f'{path}: --category must be one with keypoints: '
            f'{", ".join(found) or "there is none"}'
        )
    return found[name]


def joints_of_category(category, path):
    """Describe the joints of a category.

    Args:
        category (dict): With ``keypoints`` and maybe ``skeleton``.
        path (str): Its file, for messages.

    Returns:
        Joints: COCO's or MPII's, if they have the same names; else with
        pairs by 'left' and 'right' in the names.

    Raises:
        UserError: The names or the skeleton are wrong.
    """
    names = category['keypoints']
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in names
    ):
        raise UserError(f'{path}: keypoints of the category must be names')
    for known in (COCO, MPII):
        if known.names == tuple(names):
            return known
    keypoints = {}
    for number, name in enumerate(names):
        keypoints[number] = dict(name=name, id=number, swap='')
        for one, other in (('left', 'right'), ('right', 'left')):
            for here, there in ((one, other), (one[0] + '_', other[0] + '_')):
                swap = name.lower().replace(here, there, 1)
                match = [n for n in names if n.lower() == swap]
                if match and match[0] != name and here in name.lower():
                    keypoints[number]['swap'] = match[0]
    for entry in keypoints.values():
        swap = entry['swap']
        if swap and keypoints[names.index(swap)]['swap'] != entry['name']:
            entry['swap'] = ''
    links = {}
    for number, ends in enumerate(category.get('skeleton') or ()):
        if (
            not isinstance(ends, list)
            or len(ends) != 2
            or not all(type(e) is int and 1 <= e <= len(names) for e in ends)
        ):
            raise UserError(
                f'{path}: the skeleton has {brief(ends)}: must be two numbers '
                f'from 1 to {len(names)}'
            )
        links[number] = dict(id=number, link=[names[e - 1] for e in ends])
    info = dict(
        dataset_name=str(category.get('name', '')),
        keypoint_info=keypoints,
        skeleton_info=links,
    )
    return Joints.from_info(info, f'{path}, category {category.get("name")}')


def to_person(annotation, image, count):
    """Turn an annotation into a person in MPII's form.

    Args:
        annotation (dict): Of COCO's form.
        image (dict): Its picture.
        count (int): Joints.

    Returns:
        tuple[dict | None, list[str]]: The person, and what is wrong.
    """
    points = annotation.get('keypoints')
    if not _are_numbers(points, 3 * count):
        return None, [f'keypoints must be {3 * count} numbers']
    points = np.array(points, float).reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        return None, ['the visibility of a keypoint must be 0, 1 or 2']
    seen = points[:, 2] > 0
    box = annotation.get('bbox')
    if box is None:
        low, high = points[seen, :2].min(0), points[seen, :2].max(0)
        margin = 0.1 * (high - low).max() + 1
        box = [*(low - margin), *(high - low + 2 * margin)]
    if not _are_numbers(box, 4) or box[2] <= 0 or box[3] <= 0:
        return None, [
            f'bbox is {brief(annotation.get("bbox"))}: must be x, y, width '
            'and height'
        ]
    x, y, width, height = map(float, box)
    scale = max(width, height) / PIXELS_PER_SCALE
    person = dict(
        image=image.get('file_name'),
        # The data set moves MPII's centres, see mpii_center_scale.
        center=[x + width / 2 + 1, y + height / 2 + 1 - 15 * scale],
        scale=scale,
        joints=(points[:, :2] + seen[:, None]).tolist(),
        joints_vis=seen.astype(int).tolist(),
        # For the way back.
        bbox=[x, y, width, height],
        visibility=points[:, 2].astype(int).tolist(),
    )
    return person, person_faults(person, count)


def _are_numbers(values, count):
    return (
        isinstance(values, list)
        and len(values) == count
        and all(
            type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e6
            for v in values
        )
    )


def to_coco(people, sizes, joints):
    """Turn people in MPII's form into the content of a COCO file.

    Args:
        people (list[dict]): Sound people.
        sizes (dict[str, tuple[int, int]]): Width and height by picture.
        joints (Joints): Of the data set.

    Returns:
        dict: What JSON can hold.
    """
    pictures = {name: number for number, name in enumerate(sorted(sizes), 1)}
    annotations = []
    for number, person in enumerate(people, 1):
        visible = np.array(person['joints_vis'], int)
        flags = np.array(person.get('visibility') or 2 * visible, int)
        points = np.array(person['joints'], float) - (flags > 0)[:, None]
        points = np.c_[points * (flags > 0)[:, None], flags]
        box = person.get('bbox') or _square(person)
        annotations.append(
            dict(
                id=number,
                image_id=pictures[person['image']],
                category_id=1,
                keypoints=[round(v, 4) for v in points.ravel().tolist()],
                num_keypoints=int((flags > 0).sum()),
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
            )
        )
    return dict(
        images=[
            dict(
                id=number,
                file_name=name,
                width=sizes[name][0],
                height=sizes[name][1],
            )
            for name, number in pictures.items()
        ],
        annotations=annotations,
        categories=[
            dict(
                id=1,
                name='person',
                keypoints=list(joints.names),
                skeleton=[[a + 1, b + 1] for a, b in joints.limbs],
            )
        ],
    )


def _square(person):
    """Return the box that MPII's centre and scale stand for."""
    side = PIXELS_PER_SCALE * person['scale']
    x, y = person['center'][0] - 1, person['center'][1] - 1
    y += 15 * person['scale']
    return [x - side / 2, y - side / 2, side, side]
