"""A bug shows its file and line, on the screen and in the run's log.

Each bug is a slip that Python itself reports with an error that could be taken
for a user's mistake: a wrong unpacking is a ValueError, a name that is not
there an AttributeError, a key a KeyError.
"""

import sys

import pytest
from mmcv import Config

BUGGY = """
import torch
from mmcv.runner import HOOKS, Hook
from mmpose.datasets.datasets import TopDownMpiiDataset
from mmpose.datasets.registry import DATASETS, PIPELINES
from mmpose.models import TopDown
from mmpose.models.losses.mse_loss import JointsMSELoss
from mmpose.models.registry import LOSSES, POSENETS


@DATASETS.register_module()
class BuggyData(TopDownMpiiDataset):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.no_such_attribute  # slip in the data set


@PIPELINES.register_module()
class BuggyStep:
    def __call__(self, results):
        height, width = results['img'].shape  # slip in the step
        return results


@POSENETS.register_module()
class BuggyModel(TopDown):
    def forward_train(self, img, *args, **kwargs):
        count, channels = img.shape  # slip in the model
        return super().forward_train(img, *args, **kwargs)


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        first, second, third = torch.ones(2)  # slip in the loss's backward


@LOSSES.register_module()
class BuggyLoss(JointsMSELoss):
    def forward(self, *args, **kwargs):
        return Backwards.apply(super().forward(*args, **kwargs))


@HOOKS.register_module()
class BuggyHook(Hook):
    def __init__(self, interval=1):
        pass

    def after_train_iter(self, runner):
        runner.meta['no such key']  # slip in the hook
"""

CHANGES = {
    'the data set': lambda cfg: cfg.data.train.update(type='BuggyData'),
    'the step': lambda cfg: cfg.data.train.pipeline.insert(
        1, dict(type='BuggyStep')
    ),
    'the model': lambda cfg: cfg.model.update(type='BuggyModel'),
    "the loss's backward": lambda cfg: cfg.model.loss_pose.update(
        type='BuggyLoss'
    ),
    'the hook': lambda cfg: cfg.log_config.hooks.append(
        dict(type='BuggyHook')
    ),
}


@pytest.mark.parametrize('place', CHANGES)
@pytest.mark.parametrize('workers', [0, 1])
def test_training(run, tiny, tmp_path, place, workers):
    if workers and place not in ('the data set', 'the step'):
        pytest.skip('nothing of it runs in a data worker')
    (tmp_path / 'buggy.py').write_text(BUGGY)
    cfg = Config.fromfile(str(tiny))
    CHANGES[place](cfg)
    cfg.custom_imports = dict(imports=['buggy'], allow_failed_imports=False)
    cfg.dump(str(tiny))
    work = tmp_path / 'work'
    done = run(
        [
            *(sys.executable, '-m', 'hourglass_npu', 'train', tiny),
            *('--device=cpu', f'--work-dir={work}', '--no-validate'),
            *('--cfg-options', f'data.workers_per_gpu={workers}'),
        ],
        env=dict(PYTHONPATH=str(tmp_path), MPII_ROOT=str(tmp_path / 'mpii')),
    )
    line = 1 + BUGGY[: BUGGY.index(f'slip in {place}')].count('\n')
    wanted = f'buggy.py", line {line}'
    assert done.returncode == 1, done.stderr
    assert 'Traceback' in done.stderr and wanted in done.stderr
    (log,) = work.glob('*.log')
    assert wanted in log.read_text()


# A command whose part of that name has a slip.
PATCHED = """
import sys
from hourglass_npu import cli
import {module} as module
def slip(*args, **kwargs):
    height, width = args[0].shape  # line 6
module.{name} = slip
sys.argv[0] = 'hourglass'
cli.start({command!r})
"""


@pytest.mark.parametrize(
    'command, module, name, options',
    [
        ('demo', 'hourglass_npu.pose.draw', 'draw_people', ['--out={}/x.jpg']),
        (
            'export',
            'hourglass_npu.pose.backends',
            'last_heatmaps',
            ['--out={}/x.onnx'],
        ),
    ],
)
def test_drawing_and_export(
    run, tiny, checkpoint, tmp_path, command, module, name, options
):
    program = tmp_path / 'slip.py'
    program.write_text(
        PATCHED.format(module=module, name=name, command=command)
    )
    if command == 'export':
        text = program.read_text()
        program.write_text(text.replace('args[0].shape', 'args[1].shape'))
    done = run(
        [
            *(sys.executable, program, f'--config={tiny}'),
            f'--checkpoint={checkpoint}',
            *(option.format(tmp_path) for option in options),
        ],
        env=dict(MPII_ROOT=str(tmp_path / 'mpii')),
    )
    assert done.returncode == 1, done.stderr
    assert 'slip.py", line 6' in done.stderr
    assert 'ValueError: too many values to unpack' in done.stderr
