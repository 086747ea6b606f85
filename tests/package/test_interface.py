"""The three lines for programs give what the demo gives."""

import json
import subprocess
import sys

import cv2
import detector_files
import numpy as np
import pose_model
import pytest
from calling import call
from pose_model import picture

import hourglass_npu
from hourglass_npu import Pose
from hourglass_npu.errors import UserError

pytest.importorskip('torch')

BOXES = [(30, 20, 120, 200), (150, 40, 100, 90)]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return pose_model.make(tmp_path_factory.mktemp('interface'))


@pytest.fixture(scope='module')
def pose(model):
    config, checkpoint = model
    return Pose(str(checkpoint), config=str(config), device='cpu')


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), picture())
    return path


def shown(model, image, *options):
    """The people that the demo finds."""
    config, checkpoint = model
    options += ('--config', config, '--checkpoint', checkpoint, '--json')
    assert call('demo', '--device', 'cpu', '--img', image, *options) == 0
    (record,) = json.loads((image.parent / 'infer_a.json').read_text())[
        'pictures'
    ]
    return record['people']


def test_it_gives_what_the_demo_gives(pose, model, image):
    options = [f'--bbox={",".join(map(str, box))}' for box in BOXES]
    expected = shown(model, image, *options)
    assert [one['number'] for one in expected] == [1, 2]
    for given in (str(image), image, picture()):
        assert pose(given, boxes=BOXES) == expected
        assert pose(given, np.float32(BOXES)) == expected
    assert pose(image) == shown(model, image)
    assert pose.joints[0] == expected[0]['keypoints'][0]['name']
    assert pose.place == 'torch on cpu'


def test_batches_are_as_one_by_one(pose, image, monkeypatch):
    from hourglass_npu import interface

    pictures = [image, picture(), np.ascontiguousarray(picture()[:, ::-1])]
    boxes = [BOXES, [], None]
    alone = [pose(*pair) for pair in zip(pictures, boxes)]
    assert [len(people) for people in alone] == [2, 0, 1]
    for most in (1, 2, 32):
        monkeypatch.setattr(interface, 'BATCH', most)
        together = pose(pictures, boxes)
        assert len(together) == 3
        for ours, theirs in zip(together, alone):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs):
                assert one['bbox'] == other['bbox']
                for joint, same in zip(one['keypoints'], other['keypoints']):
                    assert joint['x'] == pytest.approx(same['x'], abs=0.02)
    stacked = pose(np.stack(pictures[1:]))
    assert len(stacked) == 2 and len(stacked[0]) == 1
    assert pose([]) == []


def test_a_detector_finds_the_people(pose, model, image, tmp_path):
    side = detector_files.SIDE
    dets = np.float32([[[6, 4, 30, 44, 0.9], [30, 8, 50, 26, 0.7]]])
    labels = np.int64([[0, 0]])
    path = tmp_path / 'd.onnx'
    detector_files.save(path, dict(dets=dets, labels=labels), side)
    expected = shown(model, image, '--detector', path, '--boxes')
    assert [one['score'] for one in expected] == [0.9, 0.7]
    assert expected[0]['bbox'] == [30.0, 20.0, 120.0, 200.0]
    config, checkpoint = model
    found = Pose(checkpoint, config, 'cpu', path)
    assert found(image) == expected
    assert found(image, BOXES[:1]) == pose(image, BOXES[:1])
    picky = Pose(checkpoint, config, 'cpu', path, threshold=0.8)
    assert len(picky(image)) == 1


@pytest.mark.parametrize(
    'given, boxes, words',
    [
        ('none.png', None, 'none.png'),
        (np.zeros((4, 4)), None, 'picture 0: must be a path or an array'),
        (picture(), [(1, 2, 3)], 'a box is x, y, width, height'),
        (picture(), [(1, 2, 3, 0)], 'a box is x, y, width, height'),
        (picture(), [(900, 2, 30, 40)], 'outside the picture of 320 x 240'),
        ([picture()], [BOXES, BOXES], 'boxes for 2 pictures'),
    ],
)
def test_what_cannot_be_used_is_a_value_error(pose, given, boxes, words):
    with pytest.raises(UserError, match=words):
        pose(given, boxes)
    assert issubclass(UserError, ValueError)


def test_options_of_no_detector_are_refused(model):
    config, checkpoint = model
    with pytest.raises(UserError, match='threshold: there is no detector'):
        Pose(checkpoint, config, 'cpu', threshold=0.5)


def test_the_package_is_imported_without_others():
    code = (
        'import sys, hourglass_npu; '
        'print([m for m in ("numpy", "torch", "cv2") if m in sys.modules])'
    )
    shown = subprocess.run(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
    )
    assert shown.stdout.strip() == '[]'
    with pytest.raises(AttributeError, match='no attribute'):
        _ = hourglass_npu.Nothing
