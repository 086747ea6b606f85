"""MPII's ground truth, ``mpii_gt_val.mat``."""

import io
import os
import struct
import zlib

import numpy as np
from scipy.io import loadmat

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes
from hourglass_npu.mpii.pckh import ROWS

HEAD_SIZE_FACTOR = 0.6
"""MPII's length of a head, as a share of its box's diagonal."""

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


def load_truth_of(ann_file, people):
    """Read the ground truth that belongs to annotations.

    Args:
        ann_file (str): Annotations.
        people (int): How many people they have.

    Returns:
        dict: See :func:`load_truth`.

    Raises:
        UserError: The truth has another number of people.
    """
    path = truth_path(ann_file)
    truth = load_truth(path)
    if len(truth['joints']) != people:
        raise UserError(
            f'{ann_file} has {people} people, but {path} has '
            f'{len(truth["joints"])}: they do not belong together. '
            'MPII is evaluated on mpii_val.json.'
        )
    return truth


def load_truth(path):
    """Read ``mpii_gt_val.mat``.

    Args:
        path (str): The file.

    Returns:
        dict: ``joints``, np.ndarray[N, 16, 2], in pixels that count from 1;
        ``visible``, np.ndarray[N, 16], whether there is a truth;
        ``head_sizes``, np.ndarray[N], in pixels, 0 without a head box;
        ``joint_names``, 16 of MPII's short names.

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
    shapes = dict(
        pos_gt_src=(16, 2, people),
        jnt_missing=(16, people),
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
    scored = {name for row in ROWS.values() for name in row}
    if len(names) != 16 or not scored <= set(names):
        raise wrong(f'dataset_joints must name the 16 joints, not {names}')
    joints = mat['pos_gt_src'].transpose(2, 0, 1).astype(np.float64)
    missing = mat['jnt_missing'].T.astype(bool)
    boxes = mat['headboxes_src'].astype(np.float64)
    sizes = np.linalg.norm(boxes[1] - boxes[0], axis=0) * HEAD_SIZE_FACTOR
    return dict(
        joints=joints,
        visible=~missing & np.isfinite(joints).all(-1),
        head_sizes=np.where(np.isfinite(sizes), sizes, 0),
        joint_names=names,
    )


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
