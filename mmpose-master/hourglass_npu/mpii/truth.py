"""The truth of an evaluation: from ``mpii_gt_val.mat``, or the annotations."""

import io
import os
import struct
import zlib

import numpy as np
from scipy.io import loadmat, savemat

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes
from hourglass_npu.mpii.pckh import PCK, PCKH
from hourglass_npu.mpii.people import person_faults, person_label, read_people
from hourglass_npu.pose.geometry import PIXELS_PER_SCALE
from hourglass_npu.pose.joints import MPII

HEAD_SIZE_FACTOR = 0.6
"""MPII's length of a head, as a share of its box's diagonal."""

SHORT_NAMES = tuple(
    'rank rkne rhip lhip lkne lank pelv thor neck head '
    'rwri relb rsho lsho lelb lwri'.split()
)
"""MPII's joints in its ``mpii_gt_val.mat``. That of another data set has the
names of its description."""

LARGEST_VARIABLE = 2**28
"""Bytes of a variable, unpacked. Those of MPII have 10^6."""

# Variables to read.
_TRUTH = ('dataset_joints', 'headboxes_src', 'jnt_missing', 'pos_gt_src')

# Kinds of data in a MATLAB 5 file: numbers with their size in bytes, and two
# that contain others.
_MAT_NUMBERS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_MAT_NUMBERS.update({16: 1, 17: 2, 18: 4})
_MATRIX, _COMPRESSED = 14, 15


def truth_path(ann_file):
    """Return the path of the ground truth of annotations.

    Args:
        ann_file (str): Annotations.

    Returns:
        str: A file in the same folder.
    """
    return os.path.join(os.path.dirname(ann_file), 'mpii_gt_val.mat')


def load_truth_of(ann_file, people, joints=MPII, person_size=False):
    """Read the truth that belongs to annotations.

    It is in ``mpii_gt_val.mat`` beside them. Without that file the joints of
    the annotations are the truth. Their unit is the length of the head: of
    each person's ``headbox``, where people have one; else the distance of
    the two joints of ``joints.head``. If there is neither, and no head box in
    ``mpii_gt_val.mat`` either, it is the size of the person.

    Args:
        ann_file (str): Annotations.
        people (int): How many people they have.
        joints (Joints): Of the data set.
        person_size (bool): Measure in sizes of people, whatever there is.

    Returns:
        dict: See :func:`load_truth`.

    Raises:
        UserError: The truth has another number of people, or there is none.
    """
    path = truth_path(ann_file)
    if os.path.exists(path):
        truth = load_truth(path, joints)
        if len(truth['joints']) != people:
            raise UserError(
                f'{ann_file} has {people} people, but {path} has '
                f'{len(truth["joints"])}: they do not belong together. '
                'MPII is evaluated on mpii_val.json.'
            )
    else:
        truth = _truth_in(ann_file, joints)
    if people and (person_size or not truth['sizes'].any()):
        scales = [person['scale'] for person in _sound_people(ann_file, 0)]
        why = '' if person_size else ': there are no heads'
        truth.update(
            # -1 marks a missing box.
            sizes=np.maximum(scales, 0) * PIXELS_PER_SCALE,
            measure=PCK,
            basis=f'the scale of each person{why}',
        )
    return truth


def truth_of(dataset):
    """Return the truth of a data set of any class.

    Args:
        dataset (Dataset): In test mode. Without ``load_truth`` the joints in
            ``db`` are the truth, and people's boxes give their sizes.

    Returns:
        dict: See :func:`load_truth`; of a class without ``load_truth`` it has
        no ``joint_names``.

    Raises:
        UserError: There is no truth.
    """
    if hasattr(dataset, 'load_truth'):
        return dataset.load_truth()
    name = type(dataset).__name__
    people = getattr(dataset, 'db', None)
    if not people or 'joints_3d' not in people[0]:
        raise UserError(f'{name}: it has no people with known joints')
    if not getattr(dataset, 'use_gt_bbox', True):
        raise UserError(
            f'{name}: the joints in boxes of a detector are not known: set '
            'data_cfg.use_gt_bbox=True for the boxes of the annotations'
        )
    places = np.array([one['joints_3d'][:, :2] for one in people], float)
    seen = np.array([one['joints_3d_visible'][:, 0] for one in people]) > 0
    sizes = np.array([np.max(one['scale']) for one in people], float)
    return dict(
        joints=places + 1,
        visible=seen,
        sizes=sizes * PIXELS_PER_SCALE,
        measure=PCK,
        basis='the box of each person',
    )


def _sound_people(ann_file, count):
    """Read people with ``count`` joints; 0: their joints are not read."""
    people = read_people(ann_file)
    for index, person in enumerate(people):
        faults = person_faults(person, count)
        if faults:
            raise UserError(
                f'{person_label(ann_file, index, person)}: {faults[0]}. The '
                f'evaluation needs it, because {truth_path(ann_file)} is '
                'missing or has no head boxes'
            )
    return people


def _truth_in(ann_file, joints):
    """Take the truth from the annotations themselves."""
    count = len(joints)
    people = _sound_people(ann_file, count)
    places = np.array([person['joints'] for person in people], float)
    places = places.reshape(-1, count, 2)
    visible = np.array([person['joints_vis'] for person in people], bool)
    visible = visible.reshape(-1, count)
    sizes = np.array([_head_size(person.get('headbox')) for person in people])
    basis = f'the head boxes of {ann_file}'
    if joints.head and not sizes.any():
        ends = list(joints.head)
        apart = places[:, ends[0]] - places[:, ends[1]]
        there = visible[:, ends].all(axis=1)
        sizes = np.where(there, np.linalg.norm(apart, axis=1), 0)
        first, second = (joints.names[end] for end in ends)
        basis = f'{first} and {second} of {ann_file}'
    return dict(
        joints=places,
        visible=visible,
        sizes=sizes,
        joint_names=list(joints.names),
        measure=PCKH,
        basis=basis,
    )


def _head_size(box):
    """Return the length of a head by its box; 0 without one."""
    try:
        corners = np.array(box, float).reshape(2, 2)
    except (TypeError, ValueError):
        return 0.0
    size = np.linalg.norm(corners[1] - corners[0]) * HEAD_SIZE_FACTOR
    return float(size) if np.isfinite(size) else 0.0


def load_truth(path, joints=MPII):
    """Read ``mpii_gt_val.mat``.

    Args:
        path (str): The file.
        joints (Joints): Of the data set: K joints.

    Returns:
        dict: ``joints``, np.ndarray[N, K, 2], in pixels that count from 1;
        ``visible``, np.ndarray[N, K], whether there is a truth; ``sizes``,
        np.ndarray[N], pixels of the unit of each person's errors, 0 for
        people who do not count; ``joint_names``, the K names; ``measure``
        (Measure); ``basis``, text: what the sizes come from.

    Raises:
        UserError: The file is missing, or is not such a file.
    """
    data = read_bytes(path)

    def wrong(fault):
        return UserError(f'{path} is not the ground truth of MPII: {fault}')

    try:
        _check_mat(data)
    except (ValueError, struct.error, zlib.error) as error:
        raise wrong(error) from error
    try:
        mat = loadmat(io.BytesIO(data), variable_names=_TRUTH)
    except Exception as error:  # scipy raises anything at broken files
        raise wrong(error) from error
    lacking = [name for name in _TRUTH if name not in mat]
    if lacking:
        raise wrong(f'it lacks {", ".join(lacking)}')
    people = mat['pos_gt_src'].shape[-1]
    count = len(joints)
    shapes = dict(
        pos_gt_src=(count, 2, people),
        jnt_missing=(count, people),
        headboxes_src=(2, 2, people),
    )
    for name, shape in shapes.items():
        found = mat[name]
        if found.shape != shape or found.dtype.kind not in 'buif':
            raise wrong(
                f'{name} must be numbers of shape {shape}, not '
                f'{found.dtype} of shape {found.shape}'
            )
    names = [str(np.squeeze(name)) for name in mat['dataset_joints'].ravel()]
    if joints.names == MPII.names:
        long = dict(zip(SHORT_NAMES, MPII.names))
        names = [long.get(name, name) for name in names]
    if sorted(names) != sorted(joints.names):
        raise wrong(
            f'dataset_joints must name the {count} joints, not {names}'
        )
    places = mat['pos_gt_src'].transpose(2, 0, 1).astype(np.float64)
    missing = mat['jnt_missing'].T.astype(bool)
    boxes = mat['headboxes_src'].astype(np.float64)
    sizes = np.linalg.norm(boxes[1] - boxes[0], axis=0) * HEAD_SIZE_FACTOR
    return dict(
        joints=places,
        visible=~missing & np.isfinite(places).all(-1),
        sizes=np.where(np.isfinite(sizes), sizes, 0),
        joint_names=names,
        measure=PCKH,
        basis=f'the head boxes of {path}',
    )


def write_truth(path, names, joints, visible, boxes):
    """Write ``mpii_gt_val.mat``.

    Args:
        path (str): The file.
        names (Sequence[str]): Of K joints, SHORT_NAMES for those of MPII.
        joints (np.ndarray[N, K, 2]): In pixels that count from 1.
        visible (np.ndarray[N, K]): Whether there is a truth.
        boxes (np.ndarray[N, 2, 2]): Corners of the heads, likewise.
    """
    listed = np.empty((1, len(names)), dtype=object)
    listed[0, :] = names
    savemat(
        path,
        dict(
            dataset_joints=listed,  # 1 x K
            jnt_missing=1 - np.asarray(visible, float).T,  # K x N
            pos_gt_src=joints.transpose(1, 2, 0),  # K x 2 x N
            headboxes_src=boxes.transpose(1, 2, 0),  # corner x (x, y) x N
        ),
    )
    # SciPy writes the time into the 116 bytes of text at the start: the same
    # people would give other bytes.
    with open(path, 'r+b') as file:
        file.write(b'MATLAB 5.0 MAT-file, ground truth'.ljust(116))


def _check_mat(data):
    """Check that scipy can read a MATLAB 5 file safely.

    Its reader trusts the sizes in the file: one wrong byte can end the
    process with a segmentation fault.

    Args:
        data (bytes): The file.

    Raises:
        ValueError, struct.error, zlib.error: A part is incomplete.

    Source: MathWorks, "MAT-File Format", version 5.
    """
    order = {b'IM': '<', b'MI': '>'}.get(data[126:128])
    if order is None or 0 in data[:4]:
        raise ValueError('it is no MATLAB 5 file')
    for kind, body in _mat_elements(data[128:], order):
        if kind == _COMPRESSED:
            packed = zlib.decompressobj()
            body = packed.decompress(body, LARGEST_VARIABLE)
            if not packed.eof:
                raise ValueError('a compressed variable is incomplete')
            ((kind, body),) = _mat_elements(body, order)
        _check_matrix(kind, body, order)


def _mat_elements(data, order):
    """Return kind and content of each element."""
    found = []
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + 'II', data, at)
        at += 8
        if kind >> 16:  # up to four bytes are in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            body, end = data[at - 4 : at - 4 + min(size, 4)], at
        else:
            body, end = data[at : at + size], at + size
            if kind != _COMPRESSED:
                end += -size % 8
        known = kind in _MAT_NUMBERS or kind in (_MATRIX, _COMPRESSED)
        if not known or len(body) != size or (kind == _MATRIX and size % 8):
            raise ValueError('a part of it is incomplete')
        found.append((kind, body))
        at = end
    return found


def _check_matrix(kind, body, order, inside=False):
    """Check a variable, or a part that is ``inside`` a cell array."""
    parts = _mat_elements(body, order)
    if kind != _MATRIX or [part[0] for part in parts[:3]] != [6, 5, 1]:
        raise ValueError('a variable has no head')
    (_, flags), (_, dims), (_, name) = parts[:3]
    (flags,) = struct.unpack(order + 'I4x', flags)
    dims = struct.unpack(f'{order}{len(dims) // 4}i', dims)
    if not inside and name.decode('latin-1') not in _TRUTH:
        return
    # Python's whole numbers do not overflow.
    count = int(np.prod(dims, dtype=object))
    sort = flags & 0xFF
    parts = parts[3:]
    if len(dims) < 2 or min(dims) < 0:
        raise ValueError(f'a variable of shape {dims}')
    if sort == 1 and not inside and len(parts) == count:
        for part in parts:
            _check_matrix(*part, order, inside=True)
        return
    # Text, or numbers, followed by their imaginary parts.
    numbers = sort == 4 or 6 <= sort <= 15
    if not numbers or len(parts) != 1 + (flags >> 11 & 1):
        raise ValueError(f'a variable of class {sort} with {len(parts)} parts')
    for kind, content in parts:
        size = _MAT_NUMBERS.get(kind, 0)
        if not size or len(content) % size or count * size > len(content):
            raise ValueError('a variable has another size than it states')
