# Hourglass-52 (one stack) on MPII, 384x384: the bundle's default model.
#
# The recipe is the one that mmpose publishes for 8 devices x 32 people; the
# learning rate belongs to that total batch of 256.

# Model -----------------------------------------------------------------------
num_joints = 16
# ImageNet's statistics, RGB, of pictures in 0..1.
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
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
    # Crops for training come as bytes: the model normalizes them.
    data_preprocessor=dict(mean=mean, std=std),
)
# HourglassNet owns the residual block that leads from one stack to the next
# even if there is only one stack: 1.18 M weights that never get a gradient.
# DistributedDataParallel does not search for weights that are named here.
# Remove the line for two stacks or more.
frozen_parameters = ['backbone.inters']

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
    # What the joints are: mpii, coco, a file of `hourglass convert`, or a
    # dict in the form of mmpose 1.x.
    dataset_info='mpii',
)
# Data workers send bytes and the cells of the joints; the model normalizes
# the crops and makes the heatmaps. mmpose's own steps give the same numbers:
# ToTensor, NormalizeTensor and TopDownGenerateTarget, with 'target' in place
# of 'joint_cells' and 'heatmap'.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownRandomFlip', flip_prob=0.5),
    dict(
        type='TopDownGetRandomScaleRotation', rot_factor=40, scale_factor=0.5
    ),
    dict(type='TopDownAffine'),
    dict(type='ToPlanes'),
    dict(type='TopDownJointCells', sigma=2),
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
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TopDownAffine'),
    dict(type='ToTensor'),
    dict(type='NormalizeTensor', mean=mean, std=std),
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
    # For several processes on one CPU, which share its memory: with one sample
    # each, eight of them took 16.8 GiB together.
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
    # MPII's ground truth for its test people is not public; mpii_gt_val.mat
    # covers the validation people only.
    test=val_split,
)

# Training --------------------------------------------------------------------
lasting_workers = True  # data workers outlive an epoch
optimizer = dict(type='Adam', lr=5e-4)
optimizer_config = dict(grad_clip=None)
# Mixed precision; on a CPU only with --amp.
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
# An epoch can take hours: save inside it, too, every 30 minutes.
# The best and the last three stay: each has 1.1 GB.
checkpoint_config = dict(interval=10, interval_minutes=30, max_keep_ckpts=3)
evaluation = dict(interval=10, metric='PCKh', key_indicator='PCKh')
log_level = 'INFO'
# mmcv's TextLoggerHook with images per second and the time left.
log_config = dict(interval=50, hooks=[dict(type='ReadableLogHook')])
load_from = None
resume_from = None
dist_params = dict(backend='nccl')  # mmcv's word for "the device's own"
