"""MPII Human Pose, and its measure PCKh."""

import io
import json
import os
import struct
import uuid
import zlib
from collections import OrderedDict

import numpy as np
from mmcv.runner import get_dist_info
from mmcv.utils import print_log
from scipy.io import loadmat, savemat

from ...registry import DATASETS
from .topdown_base_dataset import TopDownBaseDataset

HEAD_SIZE_FACTOR = 0.6
"""MPII's length of a head is 0.6 of its box's diagonal."""

LARGEST_SIDE = 65500
"""Pixels: the longest side that JPEG knows. No coordinate is beyond it."""

UNSCORED_JOINTS = (6, 7)
"""Pelvis and thorax, which MPII leaves out of the mean."""

# Rows of the result: the names that mpii_gt_val.mat gives to the joints.
_ROWS = OrderedDict(
    Head=('head',),
    Shoulder=('lsho', 'rsho'),
    Elbow=('lelb', 'relb'),
    Wrist=('lwri', 'rwri'),
    Hip=('lhip', 'rhip'),
    Knee=('lkne', 'rkne'),
    Ankle=('lank', 'rank'),
)


# Variables that are read from mpii_gt_val.mat.
_TRUTH = ('dataset_joints', 'headboxes_src', 'jnt_missing', 'pos_gt_src')

# Kinds of data in a MATLAB 5 file: numbers with their size in bytes, and two
# that hold others.
_MAT_NUMBERS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_MAT_NUMBERS.update({16: 1, 17: 2, 18: 4})
_MATRIX, _COMPRESSED = 14, 15

LARGEST_VARIABLE = 2**28
"""Bytes of a variable in ``mpii_gt_val.mat``, unpacked. MPII's have 10^6."""


@DATASETS.register_module()
class TopDownMpiiDataset(TopDownBaseDataset):
    """People of MPII Human Pose, one sample each.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and
    State of the Art Analysis", CVPR 2014. Annotations are in mmpose's JSON
    form, with MPII's 1-based pixel coordinates; samples are 0-based. Joints,
    in this order: right ankle, knee, hip; left hip, knee, ankle; pelvis,
    thorax, upper neck, head top; right wrist, elbow, shoulder; left shoulder,
    elbow, wrist.

    Args:
        ann_file (str): Annotations. Evaluation reads ``mpii_gt_val.mat``
            in the same folder.
        img_prefix (str): Folder of the pictures.
        data_cfg (dict): Sizes and channels, as for every top-down data set.
        pipeline (list[dict | callable]): Transforms of a sample.
        test_mode (bool): Whether to leave the joints out of the samples.
    """

    METRICS = ('PCKh',)

    def __init__(
        self, ann_file, img_prefix, data_cfg, pipeline, test_mode=False
    ):
        super().__init__(
            ann_file, img_prefix, data_cfg, pipeline, test_mode=test_mode
        )
        num_joints = self.ann_info['num_joints']
        if num_joints != 16:
            raise ValueError(
                f'MPII has 16 joints, but data_cfg.num_joints={num_joints}'
            )
        self.ann_file = ann_file
        self.ann_info['flip_pairs'] = [
            [0, 5],
            [1, 4],
            [2, 3],
            [10, 15],
            [11, 14],
            [12, 13],
        ]
        self.ann_info['lower_body_ids'] = tuple(range(7))
        self.ann_info['upper_body_ids'] = tuple(range(7, 16))
        self.ann_info['use_different_joint_weights'] = False
        self.ann_info['joint_weights'] = np.ones((16, 1), dtype=np.float32)

        self.db = self._get_db()
        self.image_set = {sample['image_file'] for sample in self.db}
        self.num_images = len(self.image_set)
        if get_dist_info()[0] == 0:
            print(
                f'{ann_file}: {len(self.db)} people in {self.num_images} '
                'pictures'
            )
        for step in self.pipeline.transforms:
            if hasattr(step, 'prepare'):
                step.prepare(self.image_set)

    def _get_db(self):
        """Samples in the order of the annotation file.

        Returns:
            list[dict]: With ``center`` (x, y) in 0-based pixels and
            ``scale`` (w, h) in units of 200 pixels, of a square box around
            the person; ``joints_3d`` (16, 3) and ``joints_3d_visible``
            (16, 3), of which the third column is not used.
        """
        people = read_people(self.ann_file)
        for index, person in enumerate(people):
            faults = person_faults(person, joints=not self.test_mode)
            if faults:
                raise ValueError(
                    f'{person_label(self.ann_file, index, person)}: '
                    f'{faults[0]}. tools/check_mpii.py lists all that is wrong'
                )
        return [self._sample(person) for person in people]

    def _sample(self, annotation):
        center = np.array(annotation['center'], dtype=np.float64)
        scale = np.full(2, annotation['scale'], dtype=np.float64)
        # MPII's boxes are tight at the feet. -1 marks a missing box.
        if center[0] != -1:
            center[1] += 15 * scale[1]
            scale *= 1.25

        joints = np.zeros((16, 3), dtype=np.float32)
        visible = np.zeros((16, 3), dtype=np.float32)
        if not self.test_mode:
            given = np.array(annotation['joints'], dtype=np.float64)
            joints[:, :2] = given - 1
            visible[:, :2] = np.array(annotation['joints_vis'])[:, None]

        return {
            'image_file': os.path.join(self.img_prefix, annotation['image']),
            'center': center - 1,
            'scale': scale,
            'rotation': 0,
            'joints_3d': joints,
            'joints_3d_visible': visible,
            'dataset': 'mpii',
            'bbox_score': 1,
        }

    def load_truth(self):
        """Reads the true joints and head boxes of the people.

        Returns:
            dict: See :func:`load_mpii_truth`.

        Raises:
            ValueError: If they are not as many as the annotations.
        """
        return load_truth_of(self.ann_file, len(self.db))

    def evaluate(self, outputs, res_folder, metric='PCKh', **kwargs):
        """Computes PCKh: the share of joints within half a head's length.

        Joints without truth, and people without a head box, are not counted;
        a prediction that is no number counts as wrong.

        Args:
            outputs (list[tuple]): One per person, in the order of the
                annotations. The first element holds predictions of shape
                (1, 16, 3): x, y in 0-based pixels, and score.
            res_folder (str | None): Where to write ``pred.mat``, the
                predictions in MPII's 1-based pixels, shape (people, 16, 2).
            metric (str | list[str]): 'PCKh' is all there is.
            **kwargs: ``logger`` gets remarks.

        Returns:
            OrderedDict[str, float]: Percentages: rows Head to Ankle, PCKh
            (mean over all joints but pelvis and thorax) and PCKh@0.1. NaN
            where no joint was counted.

        Raises:
            KeyError: If another metric is asked for.
            ValueError: If predictions, annotations and truth are not
                equally many.
        """
        for name in [metric] if isinstance(metric, str) else metric:
            if name not in self.METRICS:
                raise KeyError(
                    f'metric {name} is not supported, use '
                    f'{", ".join(self.METRICS)}'
                )
        if len(outputs) != len(self.db):
            raise ValueError(
                f'{len(outputs)} predictions for the {len(self.db)} people '
                f'of {self.ann_file}'
            )
        truth = self.load_truth()
        # MPII counts pixels from 1.
        preds = np.concatenate([output[0] for output in outputs])
        preds = preds[..., :2] + 1.0
        if res_folder:
            _save_predictions(os.path.join(res_folder, 'pred.mat'), preds)

        headless = int((truth['head_sizes'] == 0).sum())
        if headless:
            print_log(
                f'{headless} of {len(preds)} people have no head box and are '
                'not counted',
                logger=kwargs.get('logger'),
            )
        return mpii_scores(head_errors(preds, truth), truth['joint_names'])


def read_people(path):
    """Reads annotations in mmpose's JSON form.

    Args:
        path (str): The file.

    Returns:
        list: People, not looked at; see :func:`person_faults`.

    Raises:
        ValueError: If the file is no list in JSON.
    """
    with open(path, encoding='utf-8') as file:
        try:
            people = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path} is no JSON: {error}') from error
    if not isinstance(people, list):
        raise ValueError(
            f'{path} holds a {type(people).__name__}: a list of people is '
            'wanted'
        )
    return people


def person_label(path, index, person):
    """Names a person in a message.

    Args:
        path (str): Annotation file.
        index (int): Place in it, from 0.
        person (Any): What stands there.

    Returns:
        str: File, place and, if there is one, picture.
    """
    image = person.get('image') if isinstance(person, dict) else None
    return f'{path}, person {index}' + (f' ({image})' if image else '')


def person_faults(person, joints=True):
    """Says what is wrong with a person of the annotations.

    Args:
        person (Any): What stands in the file.
        joints (bool): Whether the joints are needed, as for training.

    Returns:
        list[str]: What is wrong; empty for a sound person. -1 for scale and
        both parts of the centre, MPII's mark of a missing box, is sound.
    """
    if not isinstance(person, dict):
        return [f'{_brief(person)} where a person is wanted']
    faults = []
    image = person.get('image')
    if not isinstance(image, str) or not image or '\0' in image:
        faults.append(f'image is {_brief(image)}: a file name is wanted')
    center, scale = person.get('center'), person.get('scale')
    if not _is_point(center):
        faults.append(
            f'center is {_brief(center)}: two numbers (pixels) are wanted'
        )
    no_box = scale == -1 and center == [-1, -1]
    if not no_box and not (_is_number(scale) and scale > 0):
        faults.append(
            f'scale is {_brief(scale)}: a number above 0 is wanted (the '
            "person's height in units of 200 pixels)"
        )
    if joints:
        faults += _joint_faults(person.get('joints'), person.get('joints_vis'))
    return faults


def _joint_faults(points, visible):
    faults = []
    for name, values in (('joints', points), ('joints_vis', visible)):
        if not isinstance(values, list):
            faults.append(f'{name} is {_brief(values)}: a list is wanted')
        elif len(values) != 16:
            faults.append(f'{len(values)} {name} instead of 16')
    if faults:
        return faults
    for i, point in enumerate(points):
        if not _is_point(point):
            faults.append(
                f'joint {i} is {_brief(point)}: two numbers (pixels) are '
                'wanted'
            )
    for i, flag in enumerate(visible):
        if not _is_number(flag) or flag not in (0, 1):
            faults.append(f'joints_vis of joint {i} is {_brief(flag)}: 0 or 1')
    return faults


def _is_number(value):
    """Whether a value of JSON is a number that a picture can have."""
    # NaN compares false with everything; bool is a kind of int.
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


def _brief(value):
    """A value for a message: as JSON has it, and short."""
    if value is None:
        return 'missing'
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + '...'


def truth_path(ann_file):
    """Tells where the ground truth of annotations lies.

    Args:
        ann_file (str): Annotations.

    Returns:
        str: Its path.
    """
    return os.path.join(os.path.dirname(ann_file), 'mpii_gt_val.mat')


def load_truth_of(ann_file, people):
    """Reads the ground truth that belongs to annotations.

    Args:
        ann_file (str): Annotations.
        people (int): How many are in them.

    Returns:
        dict: See :func:`load_mpii_truth`.

    Raises:
        ValueError: If it is not of so many people.
    """
    path = truth_path(ann_file)
    truth = load_mpii_truth(path)
    if len(truth['joints']) != people:
        raise ValueError(
            f'{ann_file} has {people} people, but {path} has '
            f'{len(truth["joints"])}: they do not belong together. '
            'MPII is evaluated on mpii_val.json.'
        )
    return truth


def load_mpii_truth(path):
    """Reads ``mpii_gt_val.mat``.

    Args:
        path (str): The file.

    Returns:
        dict: ``joints`` (people, 16, 2), 1-based pixels; ``visible``
        (people, 16), bool: there is a truth to compare with; ``head_sizes``
        (people,), pixels, 0 where there is no head box; ``joint_names``
        (16), MPII's short names.

    Raises:
        ValueError: If the file is not such a file.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
        _check_mat(data)
        mat = loadmat(io.BytesIO(data), variable_names=_TRUTH)
        joints = mat['pos_gt_src'].transpose(2, 0, 1).astype(np.float64)
        missing = mat['jnt_missing'].T.astype(bool)
        boxes = mat['headboxes_src'].astype(np.float64)
        names = [str(np.squeeze(n)) for n in mat['dataset_joints'].ravel()]
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(
            f'{path} is no ground truth of MPII ({error!r})'
        ) from error
    lacking = sorted({n for row in _ROWS.values() for n in row} - set(names))
    if lacking:
        raise ValueError(
            f'{path} is no ground truth of MPII: dataset_joints lacks '
            f'{", ".join(lacking)}'
        )
    people = len(joints)
    expected = dict(
        pos_gt_src=(joints.shape, (people, 16, 2)),
        jnt_missing=(missing.shape, (people, 16)),
        headboxes_src=(boxes.shape, (2, 2, people)),
        dataset_joints=(len(names), 16),
    )
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(
                f'{path} is no ground truth of MPII: {name} is of shape '
                f'{found}, not {wanted}'
            )
    sizes = np.linalg.norm(boxes[1] - boxes[0], axis=0) * HEAD_SIZE_FACTOR
    return dict(
        joints=joints,
        visible=~missing & np.isfinite(joints).all(-1),
        head_sizes=np.where(np.isfinite(sizes), sizes, 0),
        joint_names=names,
    )


def _check_mat(data):
    """Makes sure that scipy can be trusted with a MATLAB 5 file.

    Its reader believes what the file says of itself: one wrong byte can end
    the process by a segmentation fault.

    Args:
        data (bytes): The file.

    Raises:
        ValueError, struct.error, zlib.error: If its parts are not whole.

    Source: MathWorks, "MAT-File Format", version 5.
    """
    order = {b'IM': '<', b'MI': '>'}.get(data[126:128])
    if order is None or 0 in data[:4]:
        raise ValueError('no MATLAB 5 file')
    for kind, body in _mat_elements(data[128:], order):
        if kind == _COMPRESSED:
            packed = zlib.decompressobj()
            body = packed.decompress(body, LARGEST_VARIABLE)
            if not packed.eof:
                raise ValueError('a compressed variable is not whole')
            ((kind, body),) = _mat_elements(body, order)
        _check_matrix(kind, body, order)


def _mat_elements(data, order):
    """Takes elements apart: lists kind and content of each."""
    found = []
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(order + 'II', data, at)
        at += 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            body, end = data[at - 4 : at - 4 + min(size, 4)], at
        else:
            body, end = data[at : at + size], at + size
            if kind != _COMPRESSED:
                end += -size % 8
        known = kind in _MAT_NUMBERS or kind in (_MATRIX, _COMPRESSED)
        if not known or len(body) != size or (kind == _MATRIX and size % 8):
            raise ValueError('a part of it is not whole')
        found.append((kind, body))
        at = end
    return found


def _check_matrix(kind, body, order, inside=False):
    """Checks a variable, or what is ``inside`` of a cell array."""
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
    # Text, or numbers, whose imaginary parts come second.
    numbers = sort == 4 or 6 <= sort <= 15
    if not numbers or len(parts) != 1 + (flags >> 11 & 1):
        raise ValueError(f'a variable of class {sort} with {len(parts)} parts')
    for kind, content in parts:
        size = _MAT_NUMBERS.get(kind, 0)
        if not size or len(content) % size or count * size > len(content):
            raise ValueError('a variable is not of the size that it says')


def head_errors(preds, truth):
    """Distance of each predicted joint from the true one, in head lengths.

    Args:
        preds (np.ndarray): (people, 16, 2), 1-based pixels.
        truth (dict): From :func:`load_mpii_truth`.

    Returns:
        np.ndarray: (people, 16). NaN where there is nothing to compare
        with, infinite where the prediction is no number.
    """
    distances = np.linalg.norm(preds - truth['joints'], axis=-1)
    sizes = truth['head_sizes'][:, None]
    counted = truth['visible'] & (sizes > 0)
    errors = distances / np.where(sizes > 0, sizes, 1)
    errors[np.isnan(errors)] = np.inf
    errors[~counted] = np.nan
    return errors


def mpii_scores(errors, joint_names):
    """Turns errors into the rows that MPII results are reported in.

    Args:
        errors (np.ndarray): (people, 16), from :func:`head_errors`.
        joint_names (Sequence[str]): MPII's short name of each joint.

    Returns:
        OrderedDict[str, float]: See :meth:`TopDownMpiiDataset.evaluate`.
    """
    counted = ~np.isnan(errors)
    scored = np.ones(len(joint_names), dtype=bool)
    scored[list(UNSCORED_JOINTS)] = False

    def share(joints, threshold):
        total = counted[:, joints].sum()
        # A comparison with NaN is False: what is not counted is no hit.
        with np.errstate(invalid='ignore'):
            found = (errors[:, joints] <= threshold).sum()
        return float(100 * found / total) if total else float('nan')

    rows = OrderedDict()
    for row, names in _ROWS.items():
        # Sides weigh alike; one that was never to be seen does not weigh.
        joints = [joint_names.index(name) for name in names]
        sides = [
            share(joint, 0.5) for joint in joints if counted[:, joint].any()
        ]
        rows[row] = float(np.mean(sides)) if sides else float('nan')
    # Here each joint weighs by how often it was to be seen.
    rows['PCKh'] = share(scored, 0.5)
    rows['PCKh@0.1'] = share(scored, 0.1)
    return rows


def _save_predictions(path, preds):
    """Writes ``pred.mat`` whole or not at all."""
    # A name of its own: another evaluation may write there as well.
    partial = f'{path}.{uuid.uuid4().hex[:8]}.part'
    try:
        with open(partial, 'wb') as file:
            savemat(file, {'preds': preds})
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
