import json
import math
import re

import numpy as np
import pytest
from mmpose.datasets import DATASETS
from mpii_data import MAT_NAMES, copy_real_mpii, write_mat, write_mpii
from scipy.io import loadmat, savemat

from hourglass_npu.mpii.people import person_faults

RELPATH = 'datasets/datasets/top_down/topdown_mpii_dataset.py'
DATA_CFG = dict(
    image_size=[64, 64],
    heatmap_size=[16, 16],
    num_joints=16,
    num_output_channels=16,
    dataset_channel=list(range(16)),
    inference_channel=list(range(16)),
)
SIDES = dict(
    Head=['head'],
    Shoulder=['lsho', 'rsho'],
    Elbow=['lelb', 'relb'],
    Wrist=['lwri', 'rwri'],
    Hip=['lhip', 'rhip'],
    Knee=['lkne', 'rkne'],
    Ankle=['lank', 'rank'],
)


def make(folder, kind=None, test_mode=True):
    kind = kind or DATASETS.get('TopDownMpiiDataset')
    return kind(
        str(folder / 'annotations/mpii_val.json'),
        str(folder / 'images'),
        DATA_CFG,
        [],
        test_mode=test_mode,
    )


def outputs_of(preds):
    """Predictions in 1-based pixels as what a model returns."""
    scored = np.ones(preds.shape[:2] + (3,))
    scored[..., :2] = preds - 1
    return [(p[None], None, None, None) for p in scored]


def oracle(preds, joints, visible, boxes, threshold=0.5):
    """PCKh by MPII's definition, one joint of one person after the other.

    A joint is found if it is not farther from its place than ``threshold``
    times the length of the head, 0.6 of the diagonal of the head's box.
    Returns the percentage for each joint, None where there was nothing to
    find, and that over all joints but pelvis and thorax.
    """
    found, there = [0] * 16, [0] * 16
    for person in range(len(preds)):
        (x0, y0), (x1, y1) = boxes[person]
        head = 0.6 * math.hypot(x1 - x0, y1 - y0)
        if not head > 0:
            continue
        for joint in range(16):
            if not visible[person][joint]:
                continue
            there[joint] += 1
            dx, dy = (
                float(a) for a in preds[person][joint] - joints[person][joint]
            )
            if math.hypot(dx, dy) / head <= threshold:
                found[joint] += 1
    shares = [100 * f / t if t else None for f, t in zip(found, there)]
    scored = [j for j in range(16) if j not in (6, 7)]
    total = sum(there[j] for j in scored)
    mean = 100 * sum(found[j] for j in scored) / total if total else None
    return shares, mean


def check(scores, preds, joints, visible, boxes):
    shares, mean = oracle(preds, joints, visible, boxes)
    expected = {}
    for row, names in SIDES.items():
        seen = [shares[MAT_NAMES.index(n)] for n in names]
        seen = [s for s in seen if s is not None]
        expected[row] = sum(seen) / len(seen) if seen else None
    expected['PCKh'] = mean
    expected['PCKh@0.1'] = oracle(preds, joints, visible, boxes, 0.1)[1]
    assert list(scores) == list(expected)
    for row, value in expected.items():
        if value is None:
            assert math.isnan(scores[row]), row
        else:
            assert scores[row] == pytest.approx(value, abs=1e-9), row


@pytest.fixture
def draw(tmp_path):
    """Draw predictions for `people`, writes the truth, evaluates."""

    def evaluate(people=40, change=None):
        rng = np.random.RandomState(1)
        write_mpii(tmp_path / 'mpii', train=1, val=people)
        joints = rng.uniform(50, 500, (people, 16, 2))
        visible = rng.rand(people, 16) < 0.8
        corner = rng.uniform(50, 400, (people, 1, 2))
        boxes = np.concatenate(
            [corner, corner + rng.uniform(20, 90, (people, 1, 2))], 1
        )
        preds = joints + rng.normal(0, 20, joints.shape)
        if change:
            change(preds, joints, visible, boxes)
        truth = tmp_path / 'mpii/annotations/mpii_gt_val.mat'
        write_mat(truth, joints, visible, boxes)
        dataset = make(tmp_path / 'mpii')
        outputs = outputs_of(preds)
        scores = dataset.evaluate(outputs, str(tmp_path))
        check(scores, preds, joints, visible, boxes)
        return dataset, outputs, scores

    return evaluate


@pytest.mark.parametrize('test_mode', [True, False])
def test_samples_are_those_of_the_stock_data_set(
    tmp_path, stock, real_mpii, monkeypatch, test_mode
):
    folder = copy_real_mpii(real_mpii, tmp_path / 'mpii')
    stock_file = stock('mmpose', RELPATH)
    # The released file asks numpy for a name that is gone.
    monkeypatch.setattr(np, 'float', float, raising=False)
    other = make(folder, stock_file.TopDownMpiiDataset, test_mode)
    ours = make(folder, test_mode=test_mode)
    assert len(ours) == len(other) == 5
    for a, b in zip(ours.db, other.db):
        assert set(a) == set(b)
        for key, value in a.items():
            assert np.array_equal(value, b[key]), key
            if isinstance(value, np.ndarray):
                assert value.dtype == b[key].dtype, key
    assert set(ours.ann_info) == set(other.ann_info)
    for key, value in ours.ann_info.items():
        assert np.array_equal(value, other.ann_info[key]), key


def test_scores_are_those_of_the_stock_data_set(draw, stock, tmp_path):
    dataset, outputs, scores = draw()
    released = stock('mmpose', RELPATH).TopDownMpiiDataset
    theirs = released.evaluate(dataset, outputs, None)
    assert list(scores) == list(theirs)
    for row, value in theirs.items():
        if row != 'PCKh@0.1':  # theirs is PCKh@0.11
            assert scores[row] == pytest.approx(value, abs=1e-9), row
    assert scores['PCKh@0.1'] < theirs['PCKh@0.1']


def test_missing_joints_do_not_count(draw):
    def hide_and_spoil(preds, joints, visible, boxes):
        visible[::2] = False
        preds[~visible] = 1e6
        joints[~visible] = np.nan

    draw(change=hide_and_spoil)


def test_a_person_without_head_box_does_not_count(draw, capsys):
    def behead(preds, joints, visible, boxes):
        boxes[3] = 0
        boxes[5] = np.nan
        preds[3] = joints[3]

    draw(change=behead)
    assert '2 of 40 people have no head box' in capsys.readouterr().out


def test_an_empty_class_is_not_a_number_and_spoils_nothing(draw):
    def hide(preds, joints, visible, boxes):
        visible[:, MAT_NAMES.index('head')] = False
        visible[:, MAT_NAMES.index('lwri')] = False

    _, _, scores = draw(change=hide)
    assert math.isnan(scores['Head'])
    assert scores['Wrist'] > 0 and scores['PCKh'] > 0


def test_nobody_to_be_seen_at_all(draw):
    def hide(preds, joints, visible, boxes):
        visible[:] = False

    _, _, scores = draw(people=2, change=hide)
    assert all(math.isnan(score) for score in scores.values())


def test_a_prediction_that_is_no_number_is_wrong(draw):
    def spoil(preds, joints, visible, boxes):
        preds[:] = joints
        preds[0] = np.nan
        preds[1, :, 0] = np.inf

    _, _, scores = draw(people=4, change=spoil)
    assert 0 < scores['PCKh'] < 100


def test_the_threshold_belongs_to_the_hit(draw):
    def on_the_edge(preds, joints, visible, boxes):
        joints[:], visible[:] = 100, True
        # A head of 0.6 * 50 = 30 pixels, and errors of just 15 and 3.
        boxes[:] = [[0, 0], [30, 40]]
        preds[:] = joints + [15, 0]
        preds[0] = joints[0] + [0, 3]

    _, _, scores = draw(people=2, change=on_the_edge)
    assert scores['PCKh'] == 100 and scores['PCKh@0.1'] == 50


def test_predictions_are_left_in_mpiis_form(draw, tmp_path):
    _, outputs, _ = draw(people=3)
    saved = loadmat(str(tmp_path / 'pred.mat'))['preds']
    assert saved.shape == (3, 16, 2)
    assert np.array_equal(saved[1], outputs[1][0][0, :, :2] + 1)
    assert not list(tmp_path.glob('*.part'))


def test_truth_of_other_people_is_refused_with_both_numbers(draw, tmp_path):
    dataset, outputs, _ = draw(people=4)
    notes = json.loads(
        (tmp_path / 'mpii/annotations/mpii_val.json').read_text()
    )
    path = tmp_path / 'mpii/annotations/mpii_val.json'
    path.write_text(json.dumps(notes + notes[:3]))
    with pytest.raises(ValueError, match='has 7 people.* has 4'):
        make(tmp_path / 'mpii').evaluate(outputs + outputs[:3], None)
    with pytest.raises(ValueError, match='3 predictions for the 4 people'):
        dataset.evaluate(outputs[:3], None)


def test_a_file_that_is_no_truth_is_named(draw, tmp_path):
    dataset, outputs, _ = draw(people=2)
    path = tmp_path / 'mpii/annotations/mpii_gt_val.mat'
    path.write_bytes(b'nothing of the kind')
    with pytest.raises(ValueError, match='mpii_gt_val.mat is not the ground'):
        dataset.evaluate(outputs, None)


# Each ended the process by a segmentation fault in scipy's reader.
MAT_DAMAGES = {
    'kind of data': (b'\x10\x00\x04\x00rank', b'\x10\x01\x04\x00rank'),
    'name lost': (b'jnt_missing', b'jnt_mi'.ljust(11, b'\0')),
    'longer shape': (
        b'\x04\0\0\0\0\0\0\0\x05\0\0\0\x08',
        b'\x04\0\0\0\0\0\0\0\x05\0\0\0\x0a',
    ),
    'name in a cell': (
        b'\x01\0\0\0\0\0\0\0\x10\0\x04\0rsho',
        b'\x01\0\0\0\2\0\0\0\x10\0\x04\0rsho',
    ),
    'part missing': (b'jnt_missing\0\0\0\0\0\2\0\0\0', b'jnt_missing'),
}


@pytest.mark.parametrize('damage', MAT_DAMAGES)
def test_a_spoilt_truth_does_not_end_the_process(draw, tmp_path, damage):
    dataset, outputs, _ = draw(people=2)
    path = tmp_path / 'mpii/annotations/mpii_gt_val.mat'
    before, after = MAT_DAMAGES[damage]
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after, 1))
    with pytest.raises(ValueError, match='mpii_gt_val.mat is not the ground'):
        dataset.evaluate(outputs, None)


@pytest.mark.parametrize('compressed', [False, True])
def test_a_truth_may_hold_more(draw, tmp_path, compressed):
    dataset, outputs, _ = draw(people=2)
    path = tmp_path / 'mpii/annotations/mpii_gt_val.mat'
    before = dataset.evaluate(outputs, None)
    content = {k: v for k, v in loadmat(str(path)).items() if k[0] != '_'}
    content['more'] = dict(a=[1, 2], b='text')
    savemat(str(path), content, do_compression=compressed)
    # Not a word, nor a warning, about what nobody asked for.
    np.testing.assert_equal(dataset.evaluate(outputs, None), before)


def sound():
    return dict(
        image='a.jpg',
        center=[3, 4.5],
        scale=1.5,
        joints=[[1, -2.5]] * 16,
        joints_vis=[0, 1] * 8,
    )


def test_a_sound_person_has_no_fault():
    assert person_faults(sound()) == []
    assert person_faults(dict(sound(), joints_vis=[1.0] * 16)) == []
    no_box = dict(sound(), center=[-1.0, -1.0], scale=-1.0)
    assert person_faults(no_box) == []
    for name in ('joints', 'joints_vis'):
        no_box.pop(name)
    assert person_faults(no_box, joints=0) == []


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(image=None), 'image is missing: must be a file name'),
        (dict(image=''), 'image is "": '),
        (dict(image='a\0b'), 'must be a file name'),
        (dict(center=None), 'center is missing'),
        (dict(center=[1]), r'center is \[1\]'),
        (
            dict(center=[1, math.nan]),
            r'center is \[1, NaN\]: must be two',
        ),
        (dict(center=[1, 10**400]), 'center is .*[.]{3}: must be two'),
        (dict(center=['1', 2]), 'center is'),
        (dict(scale=0), 'scale is 0: must be a number above 0'),
        (dict(scale=-1), 'scale is -1'),
        (dict(scale=math.inf), 'scale is Infinity'),
        (dict(scale=True), 'scale is true'),
        (dict(joints=None), 'joints is missing: must be a list'),
        (dict(joints=[[1, 2]] * 15), '15 joints instead of 16'),
        (dict(joints=[[1, 2]] * 15 + [[1, 2, 3]]), 'joint 15 is'),
        (dict(joints=[[1, 2]] * 15 + [[1, 1e9]]), 'joint 15 is'),
        (dict(joints_vis='1' * 16), 'joints_vis is "1'),
        (dict(joints_vis=[1] * 17), '17 joints_vis instead of 16'),
        (dict(joints_vis=[1] * 15 + [2]), 'joints_vis of joint 15 is 2'),
        (dict(joints_vis=[1] * 15 + [[1]]), 'joints_vis of joint 15'),
    ],
)
def test_a_fault_is_said_with_its_value(change, message):
    (fault,) = person_faults(dict(sound(), **change))
    assert re.search(message, fault)
    assert person_faults([1]) == ['[1] is no person']


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is not valid JSON'),
        ('[{]', 'is not valid JSON'),
        ('[' * 100000, 'is not valid JSON'),
        ('{"a": 1}', 'must contain a list of people, not a dict'),
        ('[{"image": "a.jpg"}]', r'person 0 \(a.jpg\): center is missing'),
        ('[3]', 'person 0: 3 is no person'),
    ],
)
def test_annotations_that_are_none_are_refused(text, message, tmp_path):
    folder = write_mpii(tmp_path / 'mpii')
    (folder / 'annotations/mpii_val.json').write_text(text)
    with pytest.raises(ValueError, match='mpii_val.json' + '.*' + message):
        make(folder)


JOINTS = dict(
    dataset_name='pole',
    keypoint_info={
        0: dict(name='foot', id=0, type='lower'),
        1: dict(name='left_hand', id=1, swap='right_hand', type='upper'),
        2: dict(name='right_hand', id=2, swap='left_hand', type='upper'),
        3: dict(name='crown', id=3),
        4: dict(name='chin', id=4),
    },
    skeleton_info={0: dict(link=('foot', 'chin'), id=0)},
    joint_weights=[1, 2, 2, 1, 1],
)
FIVE = dict(DATA_CFG, num_joints=5, num_output_channels=5, dataset_info=JOINTS)


def write_five(folder, **more):
    """Two people of five joints; heads of 10 and 20 pixels."""
    notes = []
    for head, scale in ((10, 1.0), (20, 0.5)):
        joints = [[50, 90], [20, 50], [80, 50], [50, 20], [50, 20 + head]]
        note = dict(
            image='a.jpg', center=[50, 50], scale=scale, joints=joints,
            joints_vis=[1, 1, 1, 1, 1],
        )  # fmt: skip
        notes.append(dict(note, **more))
    (folder / 'annotations').mkdir(exist_ok=True)
    path = folder / 'annotations/mpii_val.json'
    path.write_text(json.dumps(notes))
    return np.array([note['joints'] for note in notes], float)


def make_five(folder, **info):
    cfg = dict(FIVE, dataset_info=dict(JOINTS, **info))
    path = folder / 'annotations/mpii_val.json'
    return DATASETS.get('TopDownMpiiDataset')(str(path), '', cfg, [])


def test_joints_come_from_the_description(tmp_path):
    write_five(tmp_path)
    dataset = make_five(tmp_path)
    assert dataset.ann_info['flip_pairs'] == [[1, 2]]
    assert dataset.ann_info['lower_body_ids'] == (0,)
    assert dataset.ann_info['upper_body_ids'] == (1, 2)
    assert dataset.ann_info['joint_weights'].tolist() == [
        [1], [2], [2], [1], [1]
    ]  # fmt: skip
    assert dataset.db[0]['joints_3d'].shape == (5, 3)
    assert dataset.db[0]['joints_3d'][0].tolist() == [49, 89, 0]


@pytest.mark.parametrize(
    'people, info, mean, fine, says',
    [
        # Heads of 0.6 * 50 = 30 pixels: an error of 12 is within 0.5.
        (
            dict(headbox=[0, 0, 30, 40]),
            {},
            ('PCKh', 100),
            ('PCKh@0.1', 80),
            'the head boxes of',
        ),
        # Heads of 10 and 20: 12 is within half of none.
        ({}, dict(head=['crown', 'chin']), ('PCKh', 80), ('PCKh@0.1', 80),
         'crown and chin of'),
        # People of 200 and 100 pixels: 12 is within a fifth of both.
        ({}, {}, ('PCK', 100), ('PCK@0.05', 80), 'the scale of each person'),
    ],
)  # fmt: skip
def test_without_the_file_of_mpii_heads_or_people_are_the_measure(
    tmp_path, capsys, people, info, mean, fine, says
):
    preds = write_five(tmp_path, **people)
    preds[:, 1] += [0, 12]
    dataset = make_five(tmp_path, **info)
    capsys.readouterr()
    scores = dataset.evaluate(outputs_of(preds), None)
    assert list(scores)[-2:] == [mean[0], fine[0]]
    assert scores[mean[0]] == mean[1] and scores[fine[0]] == fine[1]
    assert list(scores)[:-2] == ['Foot', 'Hand', 'Crown', 'Chin']
    assert scores['Hand'] == (100 if mean[1] == 100 else 50)
    assert says in capsys.readouterr().out
    dataset.evaluate(outputs_of(preds), None)
    assert says not in capsys.readouterr().out  # once
    both = dataset.evaluate(outputs_of(preds), None, ['PCKh', 'PCK'])
    assert both['PCK'] == 100


def test_without_truth_annotations_must_have_joints(tmp_path):
    write_five(tmp_path, joints=None)
    with pytest.raises(ValueError, match=r'person 0 \(a.jpg\): joints is'):
        DATASETS.get('TopDownMpiiDataset')(
            str(tmp_path / 'annotations/mpii_val.json'), '', FIVE, [], True
        ).load_truth()


def test_a_description_must_fit_the_config(tmp_path):
    write_five(tmp_path)
    for cfg, message in (
        (dict(FIVE, num_joints=6), 'num_joints=6: dataset_info has 5 joints'),
        (dict(FIVE, dataset_info='moco'), "'moco': must be a dict, mpii"),
        (dict(FIVE, dataset_info={}), 'keypoint_info has 0 joints'),
    ):
        with pytest.raises(ValueError, match=message):
            DATASETS.get('TopDownMpiiDataset')(
                str(tmp_path / 'annotations/mpii_val.json'), '', cfg, []
            )


def test_other_metrics_and_other_skeletons_are_refused(draw, tmp_path):
    dataset, outputs, _ = draw(people=2)
    with pytest.raises(KeyError, match='mAP'):
        dataset.evaluate(outputs, None, metric=['PCKh', 'mAP'])
    with pytest.raises(ValueError, match='num_joints=17'):
        DATASETS.get('TopDownMpiiDataset')(
            dataset.ann_file, '', dict(DATA_CFG, num_joints=17), []
        )
    notes = json.loads(
        (tmp_path / 'mpii/annotations/mpii_val.json').read_text()
    )
    notes[1]['joints'].pop()
    path = tmp_path / 'mpii/annotations/mpii_val.json'
    path.write_text(json.dumps(notes))
    with pytest.raises(ValueError, match=r'person 1 \(.*jpg\): 15 joints'):
        make(tmp_path / 'mpii', test_mode=False)
