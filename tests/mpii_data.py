"""Small data sets in MPII's form, and a small config, for the tests."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat

MAT_NAMES = (
    'rank rkne rhip lhip lkne lank pelv thor neck head '
    'rwri relb rsho lsho lelb lwri'
).split()

CONFIGS = (
    Path(__file__).resolve().parents[1]
    / 'mmpose-master/configs/top_down/hourglass/mpii'
)

# Everything of the large network on a scale that a step takes milliseconds.
TINY_NETWORK = """
_base_ = ['{base}']
model = dict(
    backbone=dict(
        downsample_times=1,
        stage_channels=(256, 16),
        stage_blocks=(1, 1),
        feat_channel=16,
    ),
    keypoint_head=dict(in_channels=16),
)
data_cfg = dict(image_size=[64, 64], heatmap_size=[16, 16])
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=0,
    train=dict(data_cfg=data_cfg),
    val=dict(data_cfg=data_cfg),
    test=dict(data_cfg=data_cfg),
)
"""
TINY_CONFIG = (
    TINY_NETWORK
    + """
total_epochs = 2
checkpoint_config = dict(interval=1)
evaluation = dict(interval=1)
log_config = dict(interval=1)
"""
)


def write_mat(path, joints, visible, boxes):
    """Write ``mpii_gt_val.mat``.

    Args:
        path (Path): The file.
        joints (np.ndarray): (people, 16, 2), 1-based pixels.
        visible (np.ndarray): (people, 16), bool.
        boxes (np.ndarray): (people, 2, 2), corners of the heads.
    """
    names = np.empty((1, 16), dtype=object)
    names[0] = MAT_NAMES
    savemat(
        str(path),
        dict(
            dataset_joints=names,
            jnt_missing=(1 - np.asarray(visible).astype(np.uint8)).T,
            pos_gt_src=np.asarray(joints, float).transpose(1, 2, 0),
            headboxes_src=np.asarray(boxes, float).transpose(1, 2, 0),
        ),
    )


def write_mpii(folder, train=6, val=5, seed=0):
    """Write a data set of blurred noise with arbitrary joints.

    Args:
        folder (Path): Becomes what MPII_ROOT names.
        train (int): People to train on.
        val (int): People to evaluate on; with their ground truth.
        seed (int): Of the draws.

    Returns:
        Path: The folder.
    """
    rng = np.random.RandomState(seed)
    (folder / 'annotations').mkdir(parents=True)
    (folder / 'images').mkdir()
    for split, count in dict(train=train, val=val).items():
        notes = []
        for i in range(count):
            name = f'{split}{i}.jpg'
            noise = rng.randint(0, 255, (12, 16, 3)).astype(np.uint8)
            picture = cv2.resize(noise, (160, 120))
            cv2.imwrite(str(folder / 'images' / name), picture)
            joints = rng.uniform((40, 10), (120, 110), (16, 2)).round(2)
            notes.append(
                dict(
                    image=name,
                    center=[80.0, 50.0],
                    scale=0.6,
                    joints=joints.tolist(),
                    joints_vis=(rng.rand(16) < 0.9).astype(int).tolist(),
                )
            )
        write_annotations(folder, split, notes)
    return folder


def write_annotations(folder, split, notes):
    """Write one split's JSON, and the ground truth that fits it.

    Args:
        folder (Path): Data set.
        split (str): 'train' or 'val'.
        notes (list[dict]): People, in mmpose's JSON form.
    """
    folder = folder / 'annotations'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'mpii_{split}.json').write_text(json.dumps(notes))
    if split == 'val':
        joints = np.array([note['joints'] for note in notes]).reshape(
            -1, 16, 2
        )
        visible = np.array([note['joints_vis'] for note in notes])
        head = joints[:, 8:10]
        boxes = np.stack([head.min(1) - 5, head.max(1) + 5], axis=1)
        write_mat(
            folder / 'mpii_gt_val.mat', joints, visible.reshape(-1, 16), boxes
        )


def copy_real_mpii(source, folder):
    """Arrange the five real pictures as a data set.

    Args:
        source (Path): From the fixture ``real_mpii``.
        folder (Path): Becomes what MPII_ROOT names.

    Returns:
        Path: The folder.
    """
    text = (source / 'annotations' / 'test_mpii.json').read_text()
    for split in ('train', 'val'):
        write_annotations(folder, split, json.loads(text))
    shutil.copytree(str(source / 'images'), str(folder / 'images'))
    return folder


def write_tiny_config(folder, more=''):
    """Write a config of the tiny network.

    Args:
        folder (Path): Where.
        more (str): Lines to append.

    Returns:
        Path: The file, ``tiny.py``.
    """
    path = folder / 'tiny.py'
    base = CONFIGS / 'hourglass52_mpii_256x256.py'
    path.write_text(TINY_CONFIG.format(base=base) + more)
    return path


def make_tiny_config(folder, **people):
    """Load the tiny config on a data set of its own, for training on a CPU.

    Args:
        folder (Path): Gets the config, the data and the work folder.
        **people: As for :func:`write_mpii`.

    Returns:
        Config: For ``train_model``.
    """
    from mmcv import Config
    from mmcv.runner.dist_utils import set_device

    set_device('cpu')
    mpii = write_mpii(folder / 'mpii', **people)
    cfg = Config.fromfile(str(write_tiny_config(folder)))
    for split in (cfg.data.train, cfg.data.val):
        for key in ('ann_file', 'img_prefix'):
            split[key] = split[key].replace('data/mpii', str(mpii))
    cfg.work_dir = str(folder / 'work')
    cfg.gpu_ids, cfg.seed = [0], 0
    return cfg
