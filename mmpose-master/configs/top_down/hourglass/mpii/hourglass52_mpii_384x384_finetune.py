# On top of the large network: a short training with a small learning rate,
# for data of your own. `hourglass convert` writes a config on top of this
# one, with your data and joints; see docs/YOUR_DATA.md.
_base_ = ['./hourglass52_mpii_384x384.py']

load_from = 'zoo'  # the published weights for this size, or a checkpoint
optimizer = dict(lr=1e-4)
lr_config = dict(step=[30, 36], warmup_iters=100)
total_epochs = 40
checkpoint_config = dict(interval=1)
evaluation = dict(interval=1)
log_config = dict(interval=20)
