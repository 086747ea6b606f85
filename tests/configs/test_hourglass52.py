import pytest
from mmcv import Config
from mpii_data import CONFIGS

JOINTS = list(range(16))
# The model and the recipe as mmpose publishes them.
MODEL = dict(
    type='TopDown',
    pretrained=None,
    backbone=dict(type='HourglassNet', num_stacks=1),
    keypoint_head=dict(
        type='TopDownMultiStageHead',
        in_channels=256,
        out_channels=16,
        num_stages=1,
        num_deconv_layers=0,
        extra=dict(final_conv_kernel=1),
    ),
    train_cfg=dict(),
    test_cfg=dict(
        flip_test=True,
        post_process=True,
        shift_heatmap=True,
        unbiased_decoding=False,
        modulate_kernel=11,
    ),
    loss_pose=dict(type='JointsMSELoss', use_target_weight=True),
)
# ImageNet's statistics.
PREPROCESSOR = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def read(size):
    return Config.fromfile(str(CONFIGS / f'hourglass52_mpii_{size}x{size}.py'))


@pytest.mark.parametrize('size, batch', [(384, 32), (256, 64)])
def test_model_and_recipe_are_the_published_ones(size, batch):
    cfg = read(size)
    assert cfg.model == dict(MODEL, data_preprocessor=PREPROCESSOR)
    assert cfg.optimizer == dict(type='Adam', lr=5e-4)
    assert cfg.optimizer_config == dict(grad_clip=None)
    assert cfg.total_epochs == 210
    assert cfg.lr_config == dict(
        policy='step',
        step=[170, 200],
        warmup='linear',
        warmup_iters=500,
        warmup_ratio=0.001,
    )
    assert cfg.evaluation == dict(
        interval=10, metric='PCKh', key_indicator='PCKh'
    )
    assert cfg.checkpoint_config == dict(
        interval=10, interval_minutes=30, max_keep_ckpts=3
    )
    assert cfg.data.samples_per_gpu == batch
    steps = {step.type: step for step in cfg.data.train.pipeline}
    assert steps['TopDownRandomFlip'].flip_prob == 0.5
    assert steps['TopDownGetRandomScaleRotation'].rot_factor == 40
    assert steps['TopDownGetRandomScaleRotation'].scale_factor == 0.5
    assert steps['TopDownJointCells'].sigma == 2
    for split in ('train', 'val', 'test'):
        part = cfg.data[split]
        assert part.data_cfg.image_size == [size, size]
        assert part.data_cfg.heatmap_size == [size // 4, size // 4]
        assert part.data_cfg.inference_channel == JOINTS


@pytest.mark.parametrize('size', [384, 256])
def test_test_is_validation_and_nothing_searches_for_unused(size):
    cfg = read(size)
    assert cfg.data.test == cfg.data.val
    assert cfg.data.val.ann_file.endswith('mpii_val.json')
    assert cfg.frozen_parameters == ['backbone.inters']
    assert 'find_unused_parameters' not in cfg._cfg_dict
