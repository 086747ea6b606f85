# The sample on eight devices. Eight people per device would leave 17 steps in
# an epoch of the small set: too few to learn from. Two are the fewest that
# batch norm should average over. A step then has twice as many people as on
# one device, so the learning rate is higher.
_base_ = ['./hourglass_mpii_sample_96x96.py']

data = dict(samples_per_gpu=2)
optimizer = dict(lr=4e-3)
# The same folder, so that eval.sh, demo.py and pytorch2onnx.py find the model.
work_dir = 'work_dirs/hourglass_mpii_sample_96x96'
