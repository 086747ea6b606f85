# Hourglass-52 (one stack) on MPII, 384x384: the bundle's default model.
#
# The recipe is the one that mmpose publishes for 8 devices x 32 people; the
# learning rate belongs to that total batch of 256.

# Model -----------------------------------------------------------------------
num_joints = 16
model = dict(
    type='TopDown',
    pretrained=None,
    backbone=dict(type='HourglassNet', num_stacks=1),
    keypoint_head=dict(
        type='TopDownMultiStageHead',
        in_channels=256,
        out_channels=num_joints,
        num_stages=1,
        num_deconv_layers=0,
        extra=dict(final_conv_kernel=1),
    ),
    loss_pose=dict(type='JointsMSELoss', use_target_weight=True),
    train_cfg=dict(),
    test_cfg=dict(
        flip_test=True,
        shift_heatmap=True,
        post_process=True,
        unbiased_decoding=False,
        modulate_kernel=11,
    ),
)
# HourglassNet owns the residual block that leads from one stack to the next
# even where there is one stack only: 1.18 M weights that never get a
# gradient. Named here, they need not be searched for in each parallel step.
# Take the line out for two stacks or more.
frozen_parameters = ['backbone.inters']
# The model normalises its input and makes the heatmaps, not the data workers.
lean_input = True

# Data ------------------------------------------------------------------------
data_root = 'data/mpii'  # under mmpose-master/; MPII_ROOT overrides
data_cfg = dict(
    image_size=[384, 384],
    heatmap_size=[96, 96],
    num_joints=num_joints,
    num_output_channels=num_joints,
    dataset_channel=list(range(num_joints)),
    inference_channel=list(range(num_joints)),
    use_gt_bbox=True,
    bbox_file=None,
)
# ImageNet's statistics, RGB.
normalize = dict(
    type='NormalizeTensor',
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownRandomFlip', flip_prob=0.5),
    dict(
        type='TopDownGetRandomScaleRotation', rot_factor=40, scale_factor=0.5
    ),
    dict(type='TopDownAffine'),
    dict(type='ToTensor'),
    normalize,
    dict(type='TopDownGenerateTarget', sigma=2),
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
val_split = dict(
    type='TopDownMpiiDataset',
    ann_file=f'{data_root}/annotations/mpii_val.json',
    img_prefix=f'{data_root}/images/',
    data_cfg=data_cfg,
    pipeline=val_pipeline,
)
data = dict(
    samples_per_gpu=32,
    # Where several processes share one CPU and its memory: eight of them took
    # 16.8 GiB together.
    samples_per_cpu=1,
    workers_per_gpu=2,
    train=dict(
        type='TopDownMpiiDataset',
        ann_file=f'{data_root}/annotations/mpii_train.json',
        img_prefix=f'{data_root}/images/',
        data_cfg=data_cfg,
        pipeline=train_pipeline,
    ),
    val=val_split,
    # The truth about MPII's test people is not public, and mpii_gt_val.mat
    # knows the validation people only.
    test=val_split,
)

# Training --------------------------------------------------------------------
optimizer = dict(type='Adam', lr=5e-4)
optimizer_config = dict(grad_clip=None)
# Mixed precision; on a CPU only where --amp asks for it.
amp = dict(opt_level='O2', loss_scale=32768.0)
lr_config = dict(
    policy='step',
    step=[170, 200],
    warmup='linear',
    warmup_iters=500,
    warmup_ratio=0.001,
)
total_epochs = 210
workflow = [('train', 1)]
# An epoch can take hours: a stop shall not cost more than half of one.
checkpoint_config = dict(interval=10, interval_minutes=30)
evaluation = dict(interval=10, metric='PCKh', key_indicator='PCKh')
log_level = 'INFO'
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
load_from = None
resume_from = None
dist_params = dict(backend='nccl')  # mmcv's word for "the device's own"
