"""The tiny Hourglass with weights, and a picture to try it on."""

from pathlib import Path

from mpii_data import write_tiny_config

ROOT = Path(__file__).resolve().parents[1]


def make(folder, seed=0):
    """Write config and checkpoint with weights that give clear peaks.

    Args:
        folder (pathlib.Path): Where to.
        seed (int): Of the weights.

    Returns:
        tuple[pathlib.Path, pathlib.Path]: Config and checkpoint.
    """
    import torch
    from mmcv import Config
    from mmpose.models import build_posenet

    config = write_tiny_config(folder)
    torch.manual_seed(seed)
    model = build_posenet(Config.fromfile(str(config)).model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, torch.nn.BatchNorm2d):
            # Anything but the identity, or folding it would prove nothing.
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    checkpoint = config.with_suffix('.pth')
    meta = dict(epoch=7, iter=70, mmpose_version='0.8.0')
    torch.save(dict(state_dict=model.state_dict(), meta=meta), str(checkpoint))
    return config, checkpoint


def picture(height=240, width=320, seed=0):
    """A soft pattern in which every place looks different.

    Args:
        height (int): Rows.
        width (int): Columns.
        seed (int): Of the random numbers.

    Returns:
        np.ndarray[height, width, 3]: 8-bit BGR.
    """
    import cv2
    import numpy as np

    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
