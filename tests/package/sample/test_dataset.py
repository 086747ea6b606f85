"""The sample data: MPII's conventions, determinism, nothing half-made."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from hourglass_npu.pose.joints import MPII
from hourglass_npu.sample import dataset as dataset_module

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / 'mmpose-master' / 'tools'
TOOL = TOOLS / 'make_sample_mpii.py'
DEMO = ROOT / 'mmpose-master' / 'demo' / 'mpii_demo_img' / 'demo_mpii.jpg'


def run(*options):
    """Run the tool and returns what came of it."""
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def notes(folder, split):
    path = folder / 'annotations' / f'mpii_{split}.json'
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    """A small data set: 6 pictures to train on, 5 held out."""
    out = tmp_path_factory.mktemp('sample') / 'mpii'
    done = run('--out', out, '--train', 6, '--val', 5, '--workers', 2)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope='module')
def drawing():
    """Return the two modules that draw."""
    from hourglass_npu.sample import picture, skeleton

    return picture, skeleton


def test_layout_and_pictures(sample):
    assert sorted(p.name for p in (sample / 'annotations').iterdir()) == [
        'mpii_gt_val.mat',
        'mpii_train.json',
        'mpii_trainval.json',
        'mpii_val.json',
    ]
    train, val = notes(sample, 'train'), notes(sample, 'val')
    assert notes(sample, 'trainval') == train + val
    used = {one['image'] for one in train}
    held_out = {one['image'] for one in val}
    assert not used & held_out
    assert len(list((sample / 'images').iterdir())) == 11
    for name in used | held_out:
        picture = cv2.imread(str(sample / 'images' / name))
        assert picture.shape == (720, 1280, 3)
        assert picture.std() > 15


def test_people_follow_mpii(sample):
    people = notes(sample, 'train') + notes(sample, 'val')
    assert len(people) >= 15
    for one in people:
        assert set(one) == {'image', 'center', 'scale', 'joints', 'joints_vis'}
        joints = np.array(one['joints'])
        seen = np.array(one['joints_vis']) == 1
        assert joints.shape == (16, 2) and seen.sum() >= 6
        assert (joints[~seen] == -1).all()
        assert (joints[seen] >= 1).all()
        assert (joints[seen] <= (1280, 720)).all()
        # The crop of TopDownMpiiDataset holds every joint.
        scale, centre = one['scale'], np.array(one['center'])
        centre = centre + (0, 15 * scale)
        assert (np.abs(joints[seen] - centre) < 125 * scale).all(), one
        assert 0.7 < scale < 3.5


def test_ground_truth_matches_the_json(sample):
    val = notes(sample, 'val')
    truth = loadmat(str(sample / 'annotations' / 'mpii_gt_val.mat'))
    n = len(val)
    assert truth['jnt_missing'].shape == (16, n)
    assert truth['pos_gt_src'].shape == (16, 2, n)
    assert truth['headboxes_src'].shape == (2, 2, n)
    for index, name in (
        (9, 'head'),
        (13, 'lsho'),
        (10, 'rwri'),
        (0, 'rank'),
        (15, 'lwri'),
        (3, 'lhip'),
    ):
        assert np.where(truth['dataset_joints'] == name)[1][0] == index
    joints = np.array([one['joints'] for one in val])
    seen = np.array([one['joints_vis'] for one in val])
    np.testing.assert_array_equal(
        truth['pos_gt_src'], joints.transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(truth['jnt_missing'], 1 - seen.T)
    corner = truth['headboxes_src'][1] - truth['headboxes_src'][0]
    assert (corner > 0).all()
    # MPII: a head is a sixth of a person's height, which is scale * 200.
    head = 0.6 * np.linalg.norm(corner, axis=0)
    height = 200 * np.array([one['scale'] for one in val])
    np.testing.assert_allclose(head, height / 6, rtol=1e-4)
    # The box lies around the middle of upper neck and head top.
    middle = truth['headboxes_src'].mean(0)
    both = seen[:, 8] * seen[:, 9] == 1
    np.testing.assert_allclose(
        middle[:, both], joints[both][:, 8:10].mean(1).T, atol=0.02
    )


def test_scale_is_the_standing_height(drawing):
    picture, _ = drawing
    ratios = []
    for seed in range(3):
        body = drawing[1].sample_body(np.random.RandomState(seed), 'stand', 0)
        joints = body.joints()
        tall = joints[9, 1] - joints[[0, 5], 1].min()
        ratios.append(tall)
        person = picture._Person(body, None, (640, 360), 300)
        one = person.annotation(np.random.RandomState(seed), 'a.jpg')
        assert one['scale'] == pytest.approx(300 / 200, rel=0.07)
        assert tall * 300 == pytest.approx(200 * one['scale'], rel=0.12)
    assert np.ptp(ratios) > 0


def test_left_and_right(drawing):
    """Who faces us has his right on our left; from behind it is reversed."""
    _, skeleton = drawing
    for a, b in MPII.flip_pairs:
        right, left = MPII.names[a], MPII.names[b]
        assert right.startswith('right_')
        assert left == right.replace('right', 'left')
    for seed in range(10):
        for yaw, sign in ((0, 1), (180, -1)):
            body = skeleton.sample_body(
                np.random.RandomState(seed), 'stand', yaw
            )
            joints = body.joints()
            for right, left in ((2, 3), (12, 13)):
                assert sign * (joints[left, 0] - joints[right, 0]) > 0.05
            # The face, +z of the head's frame, looks at us or away.
            assert sign * body.head[2, 2] > 0.5


def test_face_is_drawn_in_front_only(drawing):
    """A picture tells the front from the back: eyes are white."""
    _, skeleton = drawing
    from hourglass_npu.sample.figure import Outfit, draw_person

    white = {}
    for yaw in (0, 180):
        rng = np.random.RandomState(5)
        body = skeleton.sample_body(rng, 'stand', yaw)
        outfit = Outfit(rng)
        outfit.haircut, outfit.hair, outfit.skin = (
            'short',
            (0, 0, 0),
            (0, 0, 200),
        )
        paper = np.zeros((400, 400, 3), np.uint8)
        draw_person(paper, body, outfit, (200, 200), 330)
        neck, top = (
            200 + 330 * body.points[name][:2] * (1, -1)
            for name in ('upper_neck', 'head_top')
        )
        head = paper[
            int(top[1]) : int(neck[1]), int(top[0]) - 25 : int(top[0]) + 25
        ].astype(int)
        white[yaw] = (head.min(2) > 90).sum()
    assert white[0] > 10 and white[180] == 0


def test_every_pose_can_be_drawn(drawing):
    _, skeleton = drawing
    lengths = {
        (0, 1): 0.225,
        (1, 2): 0.235,
        (10, 11): 0.145,
        (14, 13): 0.165,
        (8, 9): 1 / 6,
    }
    for pose in skeleton.POSE_NAMES:
        joints = skeleton.sample_body(np.random.RandomState(1), pose).joints()
        for (a, b), length in lengths.items():
            assert np.linalg.norm(joints[a] - joints[b]) == pytest.approx(
                length, abs=1e-9
            )


@pytest.mark.processes
def test_same_seed_same_bytes(sample, tmp_path):
    again = tmp_path / 'again'
    options = ('--out', again, '--train', 6, '--val', 5)
    assert run(*options, '--workers', 1).returncode == 0
    assert digests(again) == digests(sample)
    before = (again / 'sample.json').stat().st_mtime_ns
    same = run(*options)
    assert same.returncode == 0 and 'it exists' in same.stdout
    assert (again / 'sample.json').stat().st_mtime_ns == before

    other = run(*options, '--seed', 1)
    assert other.returncode == 2
    assert '--force' in other.stderr and 'seed 1' in other.stderr
    assert digests(again) == digests(sample)
    assert run(*options, '--seed', 1, '--force').returncode == 0
    changed = digests(again)
    assert set(changed) == set(digests(sample))
    assert all(
        changed[name] != value
        for name, value in digests(sample).items()
        if name.endswith('.jpg')
    )
    assert os.listdir(str(tmp_path)) == ['again']


@pytest.mark.processes
def test_killed_half_way(tmp_path):
    out = tmp_path / 'mpii'
    command = [sys.executable, str(TOOL), '--out', str(out), '--workers', '1']
    tool = subprocess.Popen(
        command + ['--train', '300'],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.time() + 60
        while not list(tmp_path.glob('.mpii.making-*/images/*.jpg')):
            assert tool.poll() is None and time.time() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(tool.pid, signal.SIGKILL)
        tool.wait()
        tool.stdout.close()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    # The next run is whole, and takes away what the killed one has left.
    done = run('--out', out, '--train', 1, '--val', 1)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['mpii']


@pytest.mark.parametrize(
    'options, word',
    [
        (('--train', '-1'), '--train -1: must be at least 1'),
        (('--val', '0'), '--val 0: must be at least 1'),
        (('--train', 'many'), 'many'),
        (('--seed', '-3'), '--seed -3: must be from 0'),
        (('--workers', '0'), '--workers 0: must be at least 1'),
    ],
)
def test_wrong_numbers(tmp_path, options, word):
    done = run('--out', tmp_path / 'mpii', *options)
    assert done.returncode == 2
    assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / 'file'
    file.write_text('mine')
    for out in (file, file / 'below'):
        done = run('--out', out, '--train', 1, '--val', 1)
        assert done.returncode == 2
        assert str(file) in done.stderr and 'Traceback' not in done.stderr
    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / 'thesis.txt').write_text('mine')
    done = run('--out', folder, '--force')
    assert done.returncode == 2 and 'has not made' in done.stderr
    assert (folder / 'thesis.txt').read_text() == 'mine'
    assert file.read_text() == 'mine'


def test_demo_picture(drawing):
    people = json.loads(DEMO.with_suffix('.json').read_text())
    picture = cv2.imread(str(DEMO))
    assert picture.shape == (720, 1280, 3)
    assert len(people) == 4
    for one in people:
        assert one['image'] == DEMO.name
        assert one['joints_vis'] == [1] * 16
        x, y, w, h = one['bbox']
        joints = np.array(one['joints']) - 1
        assert (joints >= (x, y)).all() and (joints <= (x + w, y + h)).all()
        assert x >= 0 and y >= 0 and x + w <= 1280 and y + h <= 720
    drawn, again = drawing[0].draw_demo(DEMO.name)
    assert [one['joints'] for one in again] == [
        one['joints'] for one in people
    ]
    # JPEG, and other versions of OpenCV, move pixels a little.
    assert np.abs(drawn.astype(int) - picture).mean() < 6


@pytest.fixture
def dataset(sample):
    """The reader of mmpose itself over the held-out people."""
    mmpose = pytest.importorskip('mmpose.datasets')
    cfg = dict(
        type='TopDownMpiiDataset',
        ann_file=str(sample / 'annotations' / 'mpii_val.json'),
        img_prefix=str(sample / 'images') + '/',
        data_cfg=dict(
            image_size=[128, 128],
            heatmap_size=[32, 32],
            num_output_channels=16,
            num_joints=16,
            dataset_channel=list(range(16)),
            inference_channel=list(range(16)),
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='TopDownAffine'),
            dict(type='TopDownGenerateTarget', sigma=2),
        ],
    )
    return mmpose.build_dataset(cfg)


def evaluate(dataset, joints):
    outputs = [
        (np.dstack([one[None], np.ones((1, 16, 1))]), None, None, None)
        for one in joints
    ]
    return dataset.evaluate(outputs, None)


def test_mmpose_reads_and_evaluates(dataset, sample):
    item = dataset[0]
    assert item['img'].shape == (128, 128, 3)
    assert item['target'].shape == (16, 32, 32)
    truth = np.array([one['joints'] for one in notes(sample, 'val')]) - 1
    right = evaluate(dataset, truth)
    assert right['PCKh'] == pytest.approx(100)
    assert right['Wrist'] == pytest.approx(100)

    # Half a head is the limit of PCKh@0.5.
    scale = np.array([one['scale'] for one in notes(sample, 'val')])
    head = (200 * scale / 6)[:, None]
    near, far = truth.copy(), truth.copy()
    near[..., 0] += 0.49 * head
    far[..., 0] += 0.51 * head
    assert evaluate(dataset, near)['PCKh'] == pytest.approx(100)
    assert evaluate(dataset, far)['PCKh'] == pytest.approx(0)

    # One joint wrong is one joint wrong.
    seen = np.array([one['joints_vis'] for one in notes(sample, 'val')])
    one_wrong = truth.copy()
    one_wrong[:, 9] += 1000
    counted = np.delete(seen, (6, 7), 1).sum()
    expected = 100 * (1 - seen[:, 9].sum() / counted)
    assert evaluate(dataset, one_wrong)['PCKh'] == pytest.approx(expected)
    assert evaluate(dataset, one_wrong)['Head'] == 0


def test_sample_config_reads_the_sample():
    """The sample's config speaks of this data set, and tests on its val."""
    Config = pytest.importorskip('mmcv').Config
    path = ROOT / (
        'mmpose-master/configs/top_down/hourglass/mpii/'
        'hourglass_mpii_sample_96x96.py'
    )
    cfg = Config.fromfile(str(path))
    root = 'data/mpii_sample/annotations/mpii_%s.json'
    assert cfg.data.train.ann_file == root % 'train'
    assert cfg.data.val.ann_file == root % 'val'
    assert cfg.data.test.ann_file == root % 'val'
    assert cfg.model.test_cfg.flip_test


def test_two_processes_draw_at_once(tmp_path, monkeypatch):
    out, recipe = tmp_path / 'mpii', dict(seed=0, train=1, val=1)

    def fill(folder, recipe, workers):
        folder.mkdir()
        if not out.exists():  # the other process was faster
            out.mkdir()
            (out / 'sample.json').write_text(json.dumps(recipe))
            (out / 'theirs').touch()

    monkeypatch.setattr(dataset_module, '_fill', fill)
    assert dataset_module.make_sample(out, recipe) is None
    # What somebody reads already has stayed.
    assert (out / 'theirs').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['mpii']
    assert dataset_module.make_sample(out, recipe, force=True) is None
    assert not (out / 'theirs').exists()
