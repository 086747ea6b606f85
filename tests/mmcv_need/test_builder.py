"""Which optimisers a config can name."""

import sys
import textwrap

import pytest
import torch
from mmcv.runner.optimizer import builder
from torch import nn

PACKAGE = """
    import torch

    class {first}(torch.optim.SGD):
        pass

    class Shared(torch.optim.SGD):
        origin = __name__

    class Adam(torch.optim.Adam):
        origin = __name__

    class Scheduler:
        pass
"""

CHECK = """
    import sys
    from torch import nn, optim
    from mmcv.runner import OPTIMIZERS, build_optimizer
    from mmcv.runner.optimizer.builder import TORCH_OPTIMIZERS

    model = nn.Linear(1, 1)
    build_optimizer(model, dict(type='SGD', lr=0.1))
    assert not {'torch_npu', 'apex'} & set(sys.modules), 'imported too early'

    fused = build_optimizer(model, dict(type='NpuFusedAdam', lr=0.1))
    assert type(fused).__module__ == 'torch_npu.optim'
    assert OPTIMIZERS.get('FusedAdam').__module__ == 'apex.optimizers'
    assert OPTIMIZERS.get('Shared').origin == 'torch_npu.optim'
    assert OPTIMIZERS.get('Adam') is optim.Adam
    assert 'Scheduler' not in OPTIMIZERS
    assert not {'NpuFusedAdam', 'FusedAdam'} & set(TORCH_OPTIMIZERS)
    assert OPTIMIZERS.unavailable == {}
"""

REFUSALS = """
    from torch import nn
    from mmcv.runner import OPTIMIZERS, build_optimizer

    try:
        build_optimizer(nn.Linear(1, 1), dict(type='NpuFusedAdam', lr=0.1))
    except KeyError as error:
        print(error.args[0])
    assert 'SGD' in OPTIMIZERS.module_dict
"""


def run_beside(run, folder, files, code):
    """Run code where these files come first on ``sys.path``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    start = f'import sys; sys.path.insert(0, {str(folder)!r})\n'
    done = run([sys.executable, '-c', start + textwrap.dedent(code)])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_of_the_accelerators_are_looked_into(run, tmp_path):
    files = {
        'torch_npu/__init__.py': '',
        'torch_npu/optim.py': PACKAGE.format(first='NpuFusedAdam'),
        'apex/__init__.py': '',
        'apex/optimizers.py': PACKAGE.format(first='FusedAdam'),
    }
    run_beside(run, tmp_path, files, CHECK)


def test_packages_that_cannot_serve_are_named_when_asked_for(run, tmp_path):
    files = {
        'torch_npu/__init__.py': "raise OSError('libhccl.so is missing')",
        'apex/__init__.py': "'''A web toolkit.'''",
    }
    said = run_beside(run, tmp_path, files, REFUSALS)
    assert 'NpuFusedAdam is not in the optimizer registry' in said
    assert 'libhccl.so is missing' in said
    assert "No module named 'apex.optimizers'" in said


def test_names_of_torch_are_as_in_stock(stock):
    theirs = stock('mmcv', 'runner/optimizer/builder.py')
    assert builder.TORCH_OPTIMIZERS == theirs.TORCH_OPTIMIZERS
    for name in theirs.TORCH_OPTIMIZERS:
        expected = theirs.OPTIMIZERS.get(name)
        assert builder.OPTIMIZERS.get(name) is expected


def test_the_config_is_left_as_it_is():
    cfg = dict(type='SGD', lr=0.1, paramwise_cfg=dict(bias_lr_mult=2.0))
    before = dict(cfg)
    optimizer = builder.build_optimizer(nn.Conv2d(1, 1, 1), cfg)
    assert cfg == before
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group['lr'] for group in optimizer.param_groups] == [0.1, 0.2]


def test_an_error_inside_an_optimiser_is_not_taken_for_a_missing_name():
    with pytest.raises(TypeError):
        builder.build_optimizer(
            nn.Linear(1, 1), dict(type='SGD', lr=0.1, no_such_option=1)
        )
    with pytest.raises(KeyError, match='builder'):
        builder.build_optimizer(
            nn.Linear(1, 1), dict(type='SGD', lr=0.1, constructor='Missing')
        )
