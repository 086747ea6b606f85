"""Training of the real network's kind in mixed precision, from a config."""

import pytest
import torch
from mmcv import Config
from mmpose.models import build_posenet
from mpii_data import CONFIGS
from test_apis_train import (
    SAFE,
    Losses,
    cfg,  # noqa: F401
    same,
    train,
    with_stock_pipeline,
)

from hourglass_npu.o2 import operators
from hourglass_npu.o2.settings import AmpOptions

pytestmark = pytest.mark.training


@pytest.fixture
def low(cfg):  # noqa: F811
    """The config with mixed precision asked for, on any CPU that has it."""
    try:
        operators.try_operators(torch.bfloat16)
    except RuntimeError:
        pytest.skip('this torch has no bfloat16 operators on a CPU')
    cfg.amp.enabled = True
    return cfg


def test_the_configs_ask_for_o2_at_32768():
    for path in CONFIGS.glob('*.py'):
        amp = Config.fromfile(str(path)).amp
        assert amp == dict(opt_level='O2', loss_scale=32768.0)
        assert AmpOptions(**amp).enabled is None


def test_each_low_loss_is_that_of_the_stock_pipeline(low):
    lean, usual = Losses(), Losses()
    train(low, hooks=[lean])
    train(with_stock_pipeline(low), hooks=[usual])
    assert lean.seen == usual.seen and len(set(lean.seen)) == 6


def test_a_run_in_mixed_precision(low):
    model = train(low, validate=True)
    assert model.backbone.stem[0].conv.weight.dtype == torch.bfloat16
    saved = torch.load(f'{low.work_dir}/latest.pth', **SAFE)
    state = saved['state_dict']
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    # Unrounded: fp32 says more than bfloat16 could.
    weight = state['backbone.stem.0.conv.weight']
    assert not torch.equal(weight, weight.bfloat16().float())
    assert saved['amp']['loss_scaler0']['loss_scale'] == 32768.0
    # It is a checkpoint for everybody.
    plain = build_posenet(low.model)
    plain.load_state_dict(state)
    assert torch.equal(plain.backbone.stem[0].conv.weight, weight)


def test_it_learns_what_fp32_learns(low):
    reduced = train(low)
    low.amp.enabled = False
    full = train(low)
    low.amp = None
    assert same(full, train(low))
    a, b = full.state_dict(), reduced.state_dict()
    key = 'backbone.stem.0.conv.weight'
    assert 0 < (a[key] - b[key]).abs().max() < 0.05


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(fp16=dict(loss_scale=512.0)), "both 'amp' and 'fp16'"),
        (
            dict(optimizer_config=dict(type='OptimizerHook')),
            "type='OptimizerHook' does not scale",
        ),
        (dict(amp=dict(opt_level='O7')), "opt_level='O7'"),
        (dict(amp=dict(enabled=True, backend='apex')), "backend='apex'"),
    ],
)
def test_what_does_not_fit_is_refused(cfg, changes, message):  # noqa: F811
    cfg.update(changes)
    with pytest.raises(ValueError) as caught:
        train(cfg)
    assert message in str(caught.value)


def test_too_old_a_torch_is_told(cfg, monkeypatch):  # noqa: F811
    def lacking(dtype):
        raise RuntimeError('not implemented')

    monkeypatch.setattr(operators, 'try_operators', lacking)
    cfg.amp.enabled = True
    with pytest.raises(ValueError, match='use a newer torch'):
        train(cfg)
