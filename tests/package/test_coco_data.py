"""mmpose's own class for COCO, without a description of the joints."""

import json

import cv2
import numpy as np
import pytest
from calling import call
from mpii_data import CONFIGS, TINY_NETWORK
from test_your_data import TINY, write_coco

from hourglass_npu.config.joints import joints_of
from hourglass_npu.config.load import load_config
from hourglass_npu.pose.joints import COCO

MORE = """
annotated = dict(
    type='TopDownCocoDataset',
    ann_file='{folder}/coco.json',
    img_prefix='{folder}/photos/',
)
data_cfg.update(
    dataset_info=None,
    num_joints=17,
    num_output_channels=17,
    dataset_channel=list(range(17)),
    inference_channel=list(range(17)),
    use_gt_bbox=True,
    bbox_file='',
    image_thr=0.0,
    soft_nms=False,
    nms_thr=1.0,
    oks_thr=0.9,
    vis_thr=0.2,
    bbox_thr=1.0,
)
model['keypoint_head']['out_channels'] = 17
for split in ('train', 'val', 'test'):
    data[split].update(annotated)
del split
evaluation = dict(interval=1, metric='mAP', key_indicator='AP')
"""


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Write a COCO set of people and a config for it."""
    monkeypatch.setenv('PYTHONHASHSEED', '0')  # mmcv notes the seed there
    path, content = write_coco(tmp_path, list(COCO.names))
    content['categories'][0].update(id=1, name='person')
    for person in content['annotations']:
        person['category_id'] = 1
    path.write_text(json.dumps(content))
    config = tmp_path / 'coco.py'
    base = CONFIGS / 'hourglass52_mpii_384x384.py'
    network = TINY_NETWORK.format(base=base) + TINY
    config.write_text(network + MORE.format(folder=tmp_path))
    return config


@pytest.mark.training
def test_it_is_trained_evaluated_and_drawn(coco, tmp_path, capsys):
    work = tmp_path / 'work'
    options = ['--device=cpu', f'--work-dir={work}']
    assert not call('browse', coco, f'--out={tmp_path}/samples.jpg')
    assert not call('train', coco, *options, '--seed=0')
    logs = [
        json.loads(line)
        for path in work.glob('*.log.json')
        for line in path.read_text().splitlines()
    ]
    assert any('AP' in entry for entry in logs)
    assert (work / 'training.png').exists()
    latest = work / 'latest.pth'
    sheets = tmp_path / 'sheets'
    assert not call('eval', coco, latest, *options, f'--show-dir={sheets}')
    assert '| AP ' in capsys.readouterr().out
    for name in ('people.jpg', 'joint_errors.png'):
        assert cv2.imread(str(sheets / name)) is not None
    picture = tmp_path / 'photos/1.jpg'
    assert not call(
        *('demo', '--device=cpu', '--img', picture, f'--config={coco}'),
        *(f'--checkpoint={latest}', f'--out={tmp_path}/x.jpg', '--json'),
    )
    found = json.loads((tmp_path / 'x.json').read_text())
    assert found['joints'] == list(COCO.names)


def test_boxes_of_a_detector_have_no_truth(coco, tmp_path, capsys):
    from mmpose.datasets import build_dataset

    from hourglass_npu.errors import UserError
    from hourglass_npu.mpii.truth import truth_of

    cfg = load_config(str(coco))
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    truth = truth_of(dataset)
    # The box is 100 high; crops are a quarter larger, and so is the unit.
    np.testing.assert_allclose(truth['sizes'], 125, atol=2)
    first = dataset.db[0]['joints_3d'][:, :2]
    np.testing.assert_allclose(truth['joints'][0], first + 1)
    dataset.use_gt_bbox = False
    with pytest.raises(UserError, match='use_gt_bbox=True'):
        truth_of(dataset)


def test_int8_is_calibrated_on_it(coco):
    int8 = pytest.importorskip('hourglass_npu.export.int8')
    from hourglass_npu.pose.backends import settings_from_config

    cfg = load_config(str(coco))
    settings = settings_from_config(cfg)
    data = int8.load_people(str(coco), settings)
    assert data.crops.shape == data.calibration.shape == (6, 64, 64, 3)
    assert data.truth['joint_names'] == list(COCO.names)


def test_another_class_has_numbered_joints_with_its_pairs(coco):
    cfg = load_config(str(coco))
    for part in (cfg.data.train, cfg.data.val, cfg.data.test):
        part.type = 'TopDownCrowdPoseDataset'
        part.data_cfg.num_output_channels = 14
        part.data_cfg.num_joints = 14
        part.data_cfg.dataset_channel = list(range(14))
        part.data_cfg.inference_channel = list(range(14))
    joints = joints_of(cfg)
    assert len(joints) == 14 and (0, 1) in joints.flip_pairs
    assert not set(joints.names) & set(COCO.names)
