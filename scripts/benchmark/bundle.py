"""What the benchmark takes from the bundle beside mmcv and mmpose.

All of it stands here, so that a move of the bundle's files ends here. Its
parts are imported when they are needed: stock's processes come here, too.
"""

import argparse
import importlib
import runpy
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / 'mmpose-master/hourglass_npu'
runpy.run_path(str(PACKAGE / 'bootstrap.py'))['use_this_package']()

from hourglass_npu.bootstrap import ensure_packages  # noqa: E402
from hourglass_npu.errors import UserError, run  # noqa: E402
from hourglass_npu.files import check_output, write_json  # noqa: E402
from hourglass_npu.paths import CONFIGS  # noqa: E402

__all__ = ['UserError', 'check_output', 'ensure_packages', 'run', 'write_json']

LARGE = CONFIGS / 'hourglass52_mpii_384x384.py'
SMALL = CONFIGS / 'hourglass_mpii_sample_96x96.py'

GRAIN = 16
"""Standard deviation of brightness, of 255, that is added to each pixel."""


def draw_data(folder, train, val):
    """Draw so many pictures of people as a data set in MPII's form.

    Grain gives them a photograph's detail: like five photographs of MPII,
    they take half a byte for a pixel, and 4.7 ns to decode it.
    """
    import cv2
    import numpy as np

    from hourglass_npu.sample.dataset import make_sample

    make_sample(folder, dict(seed=0, train=train, val=val))
    draw = np.random.RandomState(0)
    for path in sorted((folder / 'images').iterdir()):
        picture = cv2.imread(str(path)).astype(np.float32)
        picture += draw.normal(0, GRAIN, picture.shape[:2] + (1,))
        picture = picture.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


def quicken(model, fold, amp):
    """Do as ``--fuse-conv-bn`` and ``--amp`` of the commands."""
    from hourglass_npu.options import apply_speed

    apply_speed(argparse.Namespace(fuse_conv_bn=fold, amp=amp), model)


def export(model, cfg, path):
    """Write a model's network as ONNX for a batch of one."""
    from hourglass_npu.export.graph import DeployedNetwork, export
    from hourglass_npu.pose.backends import settings_from_config

    network = DeployedNetwork(model, settings_from_config(cfg))
    width, height = cfg.data_cfg.image_size
    export(network, path, (1, height, width), static=True)


def feed_as_train_model(loader):
    """Let a loader use its memory again, as train_model of ours does."""
    train = importlib.import_module('mmpose.apis.train')
    if hasattr(train, 'reuse_memory'):  # else this is stock
        train.reuse_memory(loader)


def o2_engine():
    """Return the class of the engines of mixed precision O2."""
    from hourglass_npu.o2.engine import O2Engine

    return O2Engine
