"""A Hourglass small enough to be made, run and exported in seconds."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
data_cfg = dict(
    image_size=[64, 64], heatmap_size=[16, 16], num_joints=16,
    num_output_channels=16, dataset_channel=list(range(16)),
    inference_channel=list(range(16)), use_gt_bbox=True, bbox_file=None)
model = dict(
    type='TopDown', pretrained=None,
    backbone=dict(
        type='HourglassNet', num_stacks=1, downsample_times=2,
        stage_channels=(256, 24, 32), stage_blocks=(1, 1, 1)),
    keypoint_head=dict(
        type='TopDownMultiStageHead', in_channels=256, out_channels=16,
        num_stages=1, num_deconv_layers=0,
        extra=dict(final_conv_kernel=1)),
    train_cfg=dict(),
    test_cfg=dict(
        flip_test=True, post_process=True, shift_heatmap=True,
        unbiased_decoding=False, modulate_kernel=11),
    loss_pose=dict(type='JointsMSELoss', use_target_weight=True))
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='TopDownAffine'),
    dict(type='ToTensor'),
    dict(type='NormalizeTensor', mean=[0.485, 0.456, 0.406],
         std=[0.229, 0.224, 0.225]),
    dict(type='Collect', keys=['img'],
         meta_keys=['image_file', 'center', 'scale', 'rotation',
                    'flip_pairs'])]
data = dict(test=dict(
    type='TopDownMpiiDataset', ann_file='none.json', img_prefix='',
    data_cfg=data_cfg, pipeline=test_pipeline))
"""


def make(folder, seed=0):
    """Writes config and checkpoint with weights that give clear peaks.

    Args:
        folder (pathlib.Path): Where to.
        seed (int): Of the weights.

    Returns:
        tuple[pathlib.Path, pathlib.Path]: Config and checkpoint.
    """
    import torch
    from mmcv import Config
    from mmpose.models import build_posenet

    config = folder / 'tiny_hourglass.py'
    config.write_text(CONFIG)
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
    checkpoint = folder / 'tiny_hourglass.pth'
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
