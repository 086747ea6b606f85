"""Mixed precision O2 in a runner, and by two processes."""

import logging
from unittest import mock

import pytest
import torch
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmcv.runner import EpochBasedRunner, Hook
from mmcv.runner.dist_utils import get_dist_info
from mmcv.runner.hooks.optimizer import AmpOptimizerHook, amid_step
from o2_cases import (
    OPTIMIZERS,
    NativeDriver,
    Toy,
    bits,
    equal,
    make_case,
    run_batch,
)
from torch import nn

from hourglass_npu.o2 import engine as engine_module
from hourglass_npu.o2.choice import initialize
from hourglass_npu.o2.settings import AmpOverflow


class Pose(Toy):
    """The toy with the entry that a runner calls."""

    def __init__(self, spoil=()):
        super().__init__()
        self.spoil = spoil

    def train_step(self, data, optimizer, **kwargs):
        (index,) = data.tolist()
        loss = run_batch(self, index)
        if index in self.spoil:
            loss = loss * 1e8
        return dict(loss=loss, log_vars={}, num_samples=1)


class Norms(Hook):
    """Keeps what is logged of the gradients' norm."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner):
        history = runner.log_buffer.val_history
        self.seen = list(history.get('grad_norm', []))


class Watch(Hook):
    """Keeps whether each iteration was amid a step."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner):
        self.seen.append(amid_step(runner))


def run(
    tmp_path,
    hook,
    iters=6,
    amp=True,
    spoil=(),
    epochs=1,
    watch=None,
    **settings,
):
    model = Pose(spoil)
    optimizer = OPTIMIZERS['sgd'](list(model.parameters()))
    engine = None
    if amp:
        driver = NativeDriver(model, optimizer, make_case('sgd'), **settings)
        engine = driver.engine
    else:
        initialize(model, optimizer, enabled=False)
    runner = EpochBasedRunner(
        MMDataParallel(model, device_ids=[-1]),
        optimizer=optimizer,
        work_dir=str(tmp_path),
        logger=logging.getLogger('o2_hook'),
        max_epochs=epochs,
    )
    norms = Norms()
    runner.register_optimizer_hook(hook)
    runner.register_hook(norms, priority='LOW')
    if watch is not None:
        runner.register_hook(watch)
    if 'saving' in tmp_path.name:
        runner.register_checkpoint_hook(dict(interval=1))
    loader = torch.utils.data.DataLoader(range(iters), batch_size=1)
    runner.run([loader], [('train', 1)])
    weights = engine.master_params() if amp else model.parameters()
    return [w.detach() for w in weights], norms.seen, engine


def by_hand(iters, group=1, clip=None, epochs=1):
    model = Toy()
    optimizer = OPTIMIZERS['sgd'](list(model.parameters()))
    engine = NativeDriver(model, optimizer, make_case('sgd')).engine
    norms = []
    for start in [*range(0, iters, group)] * epochs:
        indices = range(start, min(start + group, iters))
        optimizer.zero_grad()
        for index in indices:
            loss = run_batch(model, index)
            if len(indices) > 1:
                loss = loss / len(indices)
            with engine.scale_loss(loss) as scaled:
                scaled.backward()
        if clip:
            norms.append(
                float(
                    nn.utils.clip_grad_norm_(
                        [
                            p
                            for p in engine.master_params()
                            if p.grad is not None
                        ],
                        clip,
                    )
                )
            )
        optimizer.step()
    return [w.detach() for w in engine.master_params()], norms


def test_the_hook_trains_as_by_hand(tmp_path):
    found, _, _ = run(tmp_path, dict(type='AmpOptimizerHook'))
    assert equal(found, by_hand(6)[0])
    assert not equal(found, by_hand(5)[0])


def test_the_masters_are_clipped_and_their_norm_is_logged(tmp_path):
    hook = dict(type='AmpOptimizerHook', grad_clip=dict(max_norm=0.125))
    found, norms, _ = run(tmp_path, hook)
    wanted, wanted_norms = by_hand(6, clip=0.125)
    assert equal(found, wanted) and norms == wanted_norms
    # Unscaled: with the scale they would be above 1000.
    assert 0.125 < min(norms) and max(norms) < 100


@pytest.mark.parametrize('group', [2, 4])
def test_accumulation_with_a_shorter_last_group(tmp_path, group):
    hook = dict(type='AmpOptimizerHook', cumulative_iters=group)
    found, _, _ = run(tmp_path, hook)
    assert equal(found, by_hand(6, group)[0])


def test_a_step_ends_with_the_epoch(tmp_path):
    hook = dict(type='AmpOptimizerHook', cumulative_iters=3)
    watch = Watch()
    found, _, _ = run(tmp_path, hook, iters=5, epochs=2, watch=watch)
    assert equal(found, by_hand(5, 3, epochs=2)[0])
    assert watch.seen == [True, True, False, True, False] * 2


def test_an_optimizer_that_was_not_prepared_is_refused(tmp_path):
    model = Pose()
    runner = EpochBasedRunner(
        MMDataParallel(model, device_ids=[-1]),
        optimizer=OPTIMIZERS['sgd'](list(model.parameters())),
        work_dir=str(tmp_path),
        logger=logging.getLogger('o2_hook'),
        max_epochs=1,
    )
    runner.register_optimizer_hook(dict(type='AmpOptimizerHook'))
    with pytest.raises(ValueError, match='choice.initialize') as caught:
        runner.run([[1]], [('train', 1)])
    assert type(caught.value).is_user_error


@pytest.mark.parametrize('number', [0, 1.5, '2'])
def test_accumulation_wants_a_whole_number(number):
    with pytest.raises(ValueError, match='cumulative_iters'):
        AmpOptimizerHook(cumulative_iters=number)


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.125)])
def test_without_an_engine_it_is_the_plain_hook(tmp_path, clip):
    kinds = ('AmpOptimizerHook', 'OptimizerHook')
    found = [
        run(tmp_path, dict(type=kind, grad_clip=clip), amp=False)[:2]
        for kind in kinds
    ]
    assert equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.parametrize('on_device', [False, True])
def test_overflow_names_the_last_good_checkpoint(tmp_path, on_device):
    folder = tmp_path / 'saving'
    with pytest.raises(AmpOverflow, match='2 steps .*epoch_[12].pth'):
        run(
            folder,
            dict(type='AmpOptimizerHook'),
            iters=2,
            epochs=3,
            spoil=_FromEpoch2(2),
            max_consecutive_overflows=2,
            on_device=on_device,
        )


class _FromEpoch2:
    """All batches but those of the first epoch."""

    def __init__(self, iters):
        self.left = iters

    def __contains__(self, index):
        self.left -= 1
        return self.left < 0


def test_overflow_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(AmpOverflow, match='There is no checkpoint'):
        run(
            tmp_path,
            dict(type='AmpOptimizerHook'),
            spoil=range(6),
            max_consecutive_overflows=2,
        )


def test_the_last_step_of_a_run_is_counted(tmp_path):
    _, _, engine = run(
        tmp_path,
        dict(type='AmpOptimizerHook'),
        spoil=(5,),
        on_device=True,
    )
    assert engine.skipped_steps == 1


STEPS = 4


def train_in_a_rank(saturating=False):
    """Train; rank 1 alone overflows in step 2.

    Args:
        saturating (bool): As on a chip where no gradient shows it.
    """
    rank, _ = get_dist_info()
    overflows = {'now': False}

    def read():
        return torch.tensor(float(overflows['now']))

    flag = (lambda: None, read) if saturating else None
    model = Toy()
    with torch.no_grad():
        model.first.weight.add_(rank)  # initialize makes them equal
        model.bn.running_mean.add_(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with mock.patch.object(
        engine_module, 'saturation_flag', lambda device: flag
    ):
        driver = NativeDriver(model, optimizer, make_case('sgd'))
    shared = bits(model.buffers())
    wrapped = MMDistributedDataParallel(model)
    engine, losses = driver.engine, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = run_batch(wrapped, 2 * step + rank)
        losses.append(loss.detach())
        bad = step == 2 and rank == 1
        overflows['now'] = bad and saturating
        with engine.scale_loss(loss) as scaled:
            (scaled * (1e8 if bad and not saturating else 1)).backward()
        if step == 0:
            first = [p.grad for p in engine.master_params()]
            first = [g.clone() for g in first if g is not None]
        optimizer.step()
    return dict(
        masters=[p.detach() for p in engine.master_params()],
        losses=losses,
        shared=shared,
        first=first,
        skipped=engine.skipped_steps,
    )


def accumulate_in_a_rank(*indices):
    """Return the gradients of several backward passes before one step."""
    rank, _ = get_dist_info()
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = NativeDriver(model, optimizer, make_case('sgd')).engine
    wrapped = MMDistributedDataParallel(model)
    for index in indices:
        with engine.scale_loss(run_batch(wrapped, index + rank)) as scaled:
            scaled.backward()
    return [p.grad for p in engine.master_params() if p.grad is not None]


def run_in_a_rank():
    """Return what this rank finds in all cases."""
    return dict(
        shown=train_in_a_rank(),
        hidden=train_in_a_rank(saturating=True),
        passes=[
            accumulate_in_a_rank(0),
            accumulate_in_a_rank(2),
            accumulate_in_a_rank(0, 2),
        ],
    )


_ran = []


@pytest.fixture
def found(ranks):
    """Return what the two processes found, in order of rank; run once."""
    _ran.extend(ranks(2, run_in_a_rank) if not _ran else ())
    return _ran


@pytest.mark.parametrize('case', ['shown', 'hidden'])
def test_ranks_stay_equal_and_skip_together(found, case):
    first, second = (rank[case] for rank in found)
    assert first['skipped'] == second['skipped'] == 1
    assert equal(first['masters'], second['masters'])
    assert equal(first['shared'], second['shared'])
    assert all(torch.isfinite(m).all() for m in first['masters'])
    assert first['losses'] != second['losses']


def test_half_gradients_are_averaged_before_they_are_unscaled(found):
    """As with Apex: what goes over the wire is half and scaled."""
    grads = []
    for index in (0, 1):
        model = Toy()
        optimizer = OPTIMIZERS['sgd'](list(model.parameters()))
        engine = NativeDriver(model, optimizer, make_case('sgd')).engine
        with engine.scale_loss(run_batch(model, index)) as scaled:
            scaled.backward()
        grads.append([p.grad for p in model.parameters()])
    low = {id(p) for p in engine.pairs()[0]}
    wanted = []
    for param, a, b in zip(model.parameters(), *grads):
        if a is None:
            continue
        if id(param) in low:
            wanted.append((a / 2 + b / 2).float() / 32768.0)
        else:
            wanted.append(a / 2 + b / 2)
    for rank in found:
        assert equal(rank['shown']['first'], wanted)


def test_passes_add_up_though_ddp_reuses_its_buckets(found):
    for rank in found:
        first, second, both = rank['passes']
        assert equal([a + b for a, b in zip(first, second)], both)
