"""The optimiser hooks against the originals, bit by bit."""

import logging
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from mmcv.runner import HOOKS, LogBuffer
from mmcv.runner.hooks import optimizer as ours
from torch import nn

ITERATIONS = 6
CLIPS = [None, dict(max_norm=0.05), dict(max_norm=0.3, norm_type=1)]


class Model(nn.Module):
    """Works in fp32 with weights of any precision, so on any CPU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 1, bias=False)
        self.unused = nn.Linear(2, 2)
        self.fp16_enabled = False

    def forward(self, x):
        x = x @ self.first.weight.float().t() + self.first.bias.float()
        return self.norm(x).relu() @ self.second.weight.float().t()


def make_runner(optimizer, warm=False):
    model = Model()
    runner = SimpleNamespace(
        model=model,
        optimizer=optimizer(model.parameters()),
        log_buffer=LogBuffer(),
        logger=logging.getLogger('test_optimizer'),
        outputs=None,
    )
    if warm:
        model(torch.ones(3, 4)).sum().backward()
        runner.optimizer.step()
    return runner


def train(hook, runner, factor=1.0, iterations=ITERATIONS):
    """Run a hook as a runner does; return all that it has changed."""
    generator = torch.Generator().manual_seed(4)
    if hasattr(hook, 'loss_scaler'):
        hook.before_run(runner)
    for _ in range(iterations):
        x = torch.randn(5, 4, generator=generator)
        loss = runner.model(x).pow(2).mean() * factor
        runner.outputs = dict(loss=loss, num_samples=5)
        hook.after_train_iter(runner)
    weights = [p.detach().clone() for p in runner.model.parameters()]
    for group in runner.optimizer.param_groups:
        weights += [p.detach().clone() for p in group['params']]
    for state in runner.optimizer.state.values():
        weights += [v for v in state.values() if torch.is_tensor(v)]
    return weights, dict(runner.log_buffer.val_history)


def assert_equal(first, second):
    assert len(first[0]) == len(second[0])
    for a, b in zip(first[0], second[0]):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert first[1] == second[1]


def adam(params):
    return torch.optim.Adam(params, lr=0.01, weight_decay=0.01)


def sgd(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


@pytest.fixture
def theirs(stock):
    return stock('mmcv', 'runner/hooks/optimizer.py')


@pytest.mark.parametrize('grad_clip', CLIPS)
@pytest.mark.parametrize('optimizer', [adam, sgd])
def test_optimizer_hook_is_stock_s(theirs, optimizer, grad_clip):
    runner = make_runner(optimizer)
    before = [p.detach().clone() for p in runner.model.parameters()]
    result = train(ours.OptimizerHook(grad_clip), runner)
    expected = train(theirs.OptimizerHook(grad_clip), make_runner(optimizer))
    assert_equal(result, expected)
    assert not torch.equal(before[0], result[0][0])
    norms = result[1].get('grad_norm', [])
    assert len(norms) == (ITERATIONS if grad_clip else 0)
    assert all(type(norm) is float for norm in norms)


@pytest.mark.parametrize(
    'loss_scale', [512.0, 'dynamic', dict(init_scale=2.0**14, scale_window=2)]
)
@pytest.mark.parametrize('grad_clip', CLIPS[:2])
@pytest.mark.parametrize('optimizer', [adam, sgd])
def test_fp16_hook_is_stock_s(theirs, optimizer, grad_clip, loss_scale):
    results = []
    for module in (ours, theirs):
        hook = module.Fp16OptimizerHook(grad_clip, loss_scale=loss_scale)
        runner = make_runner(optimizer, warm=True)
        results.append(train(hook, runner))
        assert runner.model.first.weight.dtype == torch.float16
        assert runner.model.norm.weight.dtype == torch.float32
        assert runner.model.fp16_enabled
        results[-1][1]['scale'] = hook.loss_scaler.loss_scale
    assert_equal(*results)


def test_fp16_hook_skips_a_step_that_overflows(theirs, caplog):
    results = []
    for module in (ours, theirs):
        hook = module.Fp16OptimizerHook(loss_scale='dynamic')
        runner = make_runner(sgd)
        start = runner.model.first.weight.detach().half()
        result = train(hook, runner, factor=1e4, iterations=2)
        assert torch.equal(runner.model.first.weight, start)
        assert hook.loss_scaler.loss_scale == 2**30
        results.append(result)
    assert_equal(*results)
    warnings = [r for r in caplog.records if r.levelname == 'WARNING']
    assert len(warnings) == 4
    assert '1073741824' in warnings[1].getMessage()


def test_fp16_hook_does_not_check_a_static_scale(theirs):
    for module in (ours, theirs):
        hook = module.Fp16OptimizerHook(loss_scale=2.0**40)
        runner = make_runner(sgd)
        train(hook, runner, factor=1e4, iterations=1)
        assert not torch.isfinite(runner.model.first.weight).all()


@pytest.mark.parametrize('distributed', [True, False])
def test_fp16_hook_averages_fp32_gradients_when_distributed(distributed):
    hook = ours.Fp16OptimizerHook(
        coalesce=False, bucket_size_mb=7, distributed=distributed
    )
    runner = make_runner(sgd)
    with patch.object(ours, 'allreduce_grads') as average:
        train(hook, runner, iterations=1)
    assert average.called == distributed
    if distributed:
        weights, coalesce, bucket_size_mb = average.call_args[0]
        assert all(weight.dtype == torch.float32 for weight in weights)
        assert (coalesce, bucket_size_mb) == (False, 7)


@pytest.mark.parametrize('loss_scale', [512, None, 'static'])
def test_fp16_hook_refuses_an_unknown_loss_scale(loss_scale):
    with pytest.raises(ValueError, match='loss_scale'):
        ours.Fp16OptimizerHook(loss_scale=loss_scale)


def test_hooks_are_registered():
    assert HOOKS.get('OptimizerHook') is ours.OptimizerHook
    assert HOOKS.get('Fp16OptimizerHook') is ours.Fp16OptimizerHook


def test_clip_grads_leaves_out_what_has_no_gradient():
    hook = ours.OptimizerHook(dict(max_norm=1.0))
    frozen, unused, used = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.grad = torch.full((2,), 100.0)
    frozen.requires_grad = False
    assert hook.clip_grads([frozen, unused]) is None
    used.grad = torch.tensor([3.0, 4.0])
    assert float(hook.clip_grads(p for p in [frozen, unused, used])) == 5.0
    assert torch.allclose(used.grad, torch.tensor([0.6, 0.8]))
