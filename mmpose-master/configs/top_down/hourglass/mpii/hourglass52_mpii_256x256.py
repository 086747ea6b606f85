# Hourglass-52 (one stack) on MPII, 256x256: the same recipe with smaller
# crops and batches twice as large.
_base_ = ['./hourglass52_mpii_384x384.py']

data_cfg = dict(image_size=[256, 256], heatmap_size=[64, 64])
data = dict(
    samples_per_gpu=64,
    train=dict(data_cfg=data_cfg),
    val=dict(data_cfg=data_cfg),
    test=dict(data_cfg=data_cfg),
)
