"""Weights that hooks write beside the optimizer, in mixed precision O2."""

import pytest
import torch
from mmcv.runner import CheckpointHook, EMAHook, Hook
from mmcv.runner.checkpoint import _load_checkpoint
from mmcv.runner.hooks.optimizer import engine_of
from o2_cases import HALF, NativeDriver, OnDevice, Toy, make_case, prepare
from o2_cases import train as train_toy
from resume_cases import assert_same, train_from
from test_o2_resume import LowNet
from test_o2_resume import prepare as prepare_low


class Clamps(Hook):
    def after_train_iter(self, runner):
        for param in runner.model.parameters():
            # Old CPUs have no clamp in half precision.
            param.data.copy_(param.data.float().clamp(-0.1, 0.1))


class Zeroes(Hook):
    """Prune a weight in half of its values."""

    def after_train_iter(self, runner):
        with torch.no_grad():
            runner.model.head.weight[:, ::2] = 0


class Replaces(Hook):
    """Put another tensor into a weight, as sharing of memory does."""

    def after_train_iter(self, runner):
        weight = runner.model.head.weight
        weight.data = weight.data.float().abs().to(weight.dtype)


class Evaluates(Hook):
    """Keep the weights that an evaluation would see, and the buffers."""

    def __init__(self):
        self.seen = []

    def after_train_epoch(self, runner):
        tensors = list(runner.model.named_parameters())
        tensors += list(runner.model.named_buffers())
        self.seen.append({k: v.detach().clone() for k, v in tensors})


def as_on_device(model, optimizer):
    OnDevice(model, optimizer, make_case('adam', scale=2.0**7))


HOOKS = [Clamps, Zeroes, Replaces, EMAHook]


@pytest.mark.parametrize('start', [prepare_low, as_on_device])
@pytest.mark.parametrize('hook', HOOKS)
def test_what_is_evaluated_is_saved_and_goes_on(tmp_path, hook, start):
    def train(name, resume=None):
        made, sees = hook(), Evaluates()
        if hook is EMAHook and resume:
            made.checkpoint = str(resume)
        # As apis.train orders them: EMA, then the checkpoint.
        hooks = [made, CheckpointHook(interval=1), sees]
        out = train_from(
            tmp_path / name,
            resume,
            hooks=hooks,
            model=LowNet,
            prepare=start,
        )
        return out, sees.seen

    whole, seen = train('whole')
    for epoch, evaluated in enumerate(seen, 1):
        saved = _load_checkpoint(
            str(tmp_path / 'whole' / f'epoch_{epoch}.pth')
        )['state_dict']
        for name, value in evaluated.items():
            assert torch.equal(saved[name].to(value.dtype), value), name
    # Where nothing was written the file has more digits.
    full = saved['conv.weight']
    assert torch.equal(full.to(HALF).float(), full) == (hook is EMAHook)
    again, seen_again = train('again', tmp_path / 'whole' / 'epoch_2.pth')
    assert_same(seen_again, seen[2:])
    assert_same(again, whole)


@pytest.mark.parametrize('driver', [NativeDriver, OnDevice])
def test_the_next_step_begins_at_what_was_written(driver):
    def steps(write):
        model = Toy()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        case = make_case('sgd', scale=2.0**10)
        engine = driver(model, optimizer, case).engine
        train_toy(model, optimizer, engine, 3)
        low, masters = (list(tensors) for tensors in engine.pairs())
        before = [m.detach().clone() for m in masters]
        with torch.no_grad():
            write(low, masters)
        for group in optimizer.param_groups:
            group['lr'] = 0.0
        train_toy(model, optimizer, engine, 1)
        return low, masters, before

    def write(low, masters):
        low[0].data.view(-1)[0] = 7
        low[1].zero_()

    low, masters, before = steps(write)
    wanted = before[0].clone()
    wanted.view(-1)[0] = 7  # the rest keeps the digits that half has not
    assert torch.equal(masters[0], wanted)
    assert all((t == 0).all() for t in (masters[1], low[1]))
    for master, old in list(zip(masters, before))[2:]:
        assert torch.equal(master, old)
    for weight, master in zip(low, masters):
        assert torch.equal(weight, master.to(HALF))


def test_an_overflow_leaves_what_was_written():
    model, optimizer, engine = prepare()
    train_toy(model, optimizer, engine, 2)
    low, masters = engine.pairs()
    low[0].data.fill_(0.5)
    train_toy(model, optimizer, engine, 1, spoil=[0])
    assert engine.skipped_steps == 1
    assert (low[0] == 0.5).all() and (masters[0] == 0.5).all()


def test_averages_are_in_fp32(tmp_path):
    sees = Evaluates()
    train_from(
        tmp_path,
        hooks=[EMAHook(), sees],
        model=LowNet,
        prepare=prepare_low,
    )
    averages = {k: v for k, v in sees.seen[0].items() if k[:4] == 'ema_'}
    assert len(averages) > 3
    assert {v.dtype for v in averages.values()} == {torch.float32}


def test_a_copy_of_the_model_has_its_own_buffers():
    import copy

    model, optimizer, engine = prepare()
    other = copy.deepcopy(model)
    other.register_buffer('average', torch.ones(2, dtype=HALF))
    assert other.average.dtype == torch.float32
    assert not hasattr(model, 'average')
    assert engine_of(optimizer) is engine
