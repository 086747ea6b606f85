# A small Hourglass for the drawn people of tools/make_sample_mpii.py: trained
# and evaluated in minutes on two CPU cores. It has every kind of layer that
# the large network has.
_base_ = ['./hourglass52_mpii_384x384.py']
custom_imports = dict(
    imports=['hourglass_npu.sample.network'], allow_failed_imports=False
)

# Model -----------------------------------------------------------------------
model = dict(
    backbone=dict(
        type='SmallHourglassNet',
        downsample_times=3,
        stage_channels=(64, 96, 128, 128),
        stage_blocks=(1, 1, 1, 1),
        feat_channel=64,
    ),
    keypoint_head=dict(in_channels=64),
)

# Data ------------------------------------------------------------------------
data_root = 'data/mpii_sample'
data_cfg = dict(image_size=[96, 96], heatmap_size=[24, 24])
# Milder augmentation and smaller peaks.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownRandomFlip', flip_prob=0.5),
    dict(
        type='TopDownGetRandomScaleRotation', rot_factor=15, scale_factor=0.15
    ),
    dict(type='TopDownAffine'),
    dict(type='ToPlanes'),
    dict(type='TopDownJointCells', sigma=1.5),
    dict(
        type='Collect',
        keys=['img', 'target_weight', 'joint_cells', 'heatmap'],
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
val_split = dict(
    ann_file=f'{data_root}/annotations/mpii_val.json',
    img_prefix=f'{data_root}/images/',
    data_cfg=data_cfg,
)
data = dict(
    samples_per_gpu=8,
    samples_per_cpu=None,
    workers_per_gpu=1,
    train=dict(
        ann_file=f'{data_root}/annotations/mpii_train.json',
        img_prefix=f'{data_root}/images/',
        data_cfg=data_cfg,
        pipeline=train_pipeline,
    ),
    val=val_split,
    test=val_split,
)

# Training --------------------------------------------------------------------
lasting_workers = True
seed = 0
optimizer = dict(lr=3e-3)
lr_config = dict(
    _delete_=True,
    policy='CosineAnnealing',
    by_epoch=False,
    min_lr_ratio=0.01,
    warmup='linear',
    warmup_iters=50,
    warmup_ratio=0.01,
)
total_epochs = 8
checkpoint_config = dict(_delete_=True, interval=1, max_keep_ckpts=3)
evaluation = dict(interval=8)
log_config = dict(interval=20)
