"""The bundle's configs in the form that mmpose 0.8.0 knows."""


def to_stock_form(cfg):
    """Give a config mmpose's own pipeline and log; the numbers are the same.

    Args:
        cfg (mmcv.Config): A config of the bundle; changed in place.
    """
    statistics = cfg.model.pop('data_preprocessor', None)
    steps = []
    for step in cfg.data.train.pipeline:
        if step['type'] == 'ToPlanes':
            steps += [
                dict(type='ToTensor'),
                dict(type='NormalizeTensor', **statistics),
            ]
            continue
        step = dict(step)
        if step['type'] == 'TopDownJointCells':
            step['type'] = 'TopDownGenerateTarget'
        if step['type'] == 'Collect' and 'joint_cells' in step['keys']:
            step['keys'] = ['img', 'target', 'target_weight']
        steps.append(step)
    cfg.data.train.pipeline = steps
    for hook in cfg.log_config.hooks:
        if hook['type'] == 'ReadableLogHook':
            hook['type'] = 'TextLoggerHook'
