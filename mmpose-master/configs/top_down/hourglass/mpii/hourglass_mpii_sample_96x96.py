# A small Hourglass for the drawn people of tools/make_sample_mpii.py: trained
# and evaluated in minutes on two CPU cores. Every kind of layer of the large
# network is in it, so that whatever runs here runs there.
log_level = 'INFO'
load_from = None
resume_from = None
seed = 0
dist_params = dict(backend='nccl')
workflow = [('train', 1)]
checkpoint_config = dict(interval=1)
evaluation = dict(interval=4, metric='PCKh', key_indicator='PCKh')

optimizer = dict(type='Adam', lr=2e-3)
optimizer_config = dict(grad_clip=None)
# Mixed precision; on a CPU only where --amp asks for it.
amp = dict(opt_level='O2', loss_scale=32768.0)
lr_config = dict(
    policy='CosineAnnealing',
    by_epoch=False,
    min_lr_ratio=0.01,
    warmup='linear',
    warmup_iters=50,
    warmup_ratio=0.01,
)
total_epochs = 4
log_config = dict(interval=20, hooks=[dict(type='TextLoggerHook')])

# With one stack nothing follows these layers: they never get a gradient.
frozen_parameters = ['backbone.inters']
# The model normalises its input and makes the heatmaps, not the data workers.
lean_input = True

channel_cfg = dict(
    num_output_channels=16,
    dataset_joints=16,
    dataset_channel=list(range(16)),
    inference_channel=list(range(16)),
)

model = dict(
    type='TopDown',
    pretrained=None,
    backbone=dict(
        type='HourglassNet',
        num_stacks=1,
        downsample_times=3,
        # The stem ends in 256 channels, so the first of these is 256.
        stage_channels=(256, 64, 96, 128),
        stage_blocks=(1, 1, 1, 1),
        feat_channel=64,
    ),
    keypoint_head=dict(
        type='TopDownMultiStageHead',
        in_channels=64,
        out_channels=channel_cfg['num_output_channels'],
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

data_cfg = dict(
    image_size=[96, 96],
    heatmap_size=[24, 24],
    num_output_channels=channel_cfg['num_output_channels'],
    num_joints=channel_cfg['dataset_joints'],
    dataset_channel=channel_cfg['dataset_channel'],
    inference_channel=channel_cfg['inference_channel'],
    use_gt_bbox=True,
    bbox_file=None,
)

normalize = dict(
    type='NormalizeTensor',
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownRandomFlip', flip_prob=0.5),
    dict(
        type='TopDownGetRandomScaleRotation', rot_factor=15, scale_factor=0.15
    ),
    dict(type='TopDownAffine'),
    dict(type='ToTensor'),
    normalize,
    dict(type='TopDownGenerateTarget', sigma=1.5),
    dict(
        type='Collect',
        keys=['img', 'target', 'target_weight'],
        meta_keys=[
            'image_file',
            'joints_3d',
            'joints_3d_visible',
            'center',
            'scale',
            'rotation',
            'flip_pairs',
        ],
    ),
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownAffine'),
    dict(type='ToTensor'),
    normalize,
    dict(
        type='Collect',
        keys=['img'],
        meta_keys=['image_file', 'center', 'scale', 'rotation', 'flip_pairs'],
    ),
]
test_pipeline = val_pipeline

data_root = 'data/mpii_sample'
data = dict(
    samples_per_gpu=4,
    workers_per_gpu=1,
    train=dict(
        type='TopDownMpiiDataset',
        ann_file=f'{data_root}/annotations/mpii_train.json',
        img_prefix=f'{data_root}/images/',
        data_cfg=data_cfg,
        pipeline=train_pipeline,
    ),
    val=dict(
        type='TopDownMpiiDataset',
        ann_file=f'{data_root}/annotations/mpii_val.json',
        img_prefix=f'{data_root}/images/',
        data_cfg=data_cfg,
        pipeline=val_pipeline,
    ),
    test=dict(
        type='TopDownMpiiDataset',
        ann_file=f'{data_root}/annotations/mpii_val.json',
        img_prefix=f'{data_root}/images/',
        data_cfg=data_cfg,
        pipeline=val_pipeline,
    ),
)
