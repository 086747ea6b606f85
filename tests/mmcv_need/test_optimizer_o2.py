"""Mixed precision O2: Apex's arithmetic to the bit, and what is better here.

Values that Apex 25.05 computed are in ``data/o2_trace.json``; see
``make_o2_trace.py``. With ``APEX_TREE`` naming a source tree of Apex, its own
code runs beside ours too.
"""

import copy
import functools
import logging
import os
import re
import time
from collections import OrderedDict, namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import o2_cases
import pytest
import torch
from apex_tree import load_apex
from mmcv.runner.hooks import optimizer as ours
from o2_cases import (
    CASES,
    NativeDriver,
    ReferenceDriver,
    Toy,
    make_case,
    run_case,
)
from torch import nn

TRACE = Path(__file__).resolve().parent / 'data' / 'o2_trace.json'
HALF = torch.float16
OnDevice = functools.partial(NativeDriver, on_device=True)


# --------------------------------------------------------------------------
# Against Apex
# --------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def apex_records(optimizer):
    """Return Apex's records whose arithmetic is that of this machine.

    Returns:
        tuple[dict, bool]: Records by case; whether their bits are comparable.
    """
    trace = o2_cases.read_trace(TRACE)
    here = o2_cases.probe(optimizer)
    release = torch.__version__.split('+')[0]
    # This release's own first, then the latest.
    names = sorted(trace, key=lambda name: (name == release, name))[::-1]
    for name in names:
        if trace[name]['probe'][optimizer] == here:
            return trace[name]['cases'], True
    return trace[names[0]]['cases'], False


def is_apex(name, record):
    """Compare a record with Apex's: to the bit where bits can be compared.

    A CPU or release that rounds differently in plain fp32 training, as the
    probe tells, is held to 1e-6, and to the plain reference bit for bit.
    """
    records, bitwise = apex_records(CASES[name].optimizer)
    want = records[name]
    if bitwise:
        return record == want
    near = np.allclose(
        o2_cases.masters_of(record), o2_cases.masters_of(want), atol=1e-6
    )
    return near and record['steps'] == reference_steps(name, record)


def reference_steps(name, record):
    case = CASES[name]
    if case.scale == 'dynamic' or case.more_at is not None:
        return record['steps']
    return run_case(case, ReferenceDriver)['steps']


@pytest.mark.parametrize('name', CASES)
def test_same_bits_as_apex(name):
    assert is_apex(name, run_case(CASES[name], NativeDriver))


@pytest.mark.parametrize('name', CASES)
def test_same_bits_where_the_device_decides(name):
    assert is_apex(name, run_case(CASES[name], OnDevice))


@pytest.mark.parametrize('name', ['adam_clip', 'sgd_accumulate'])
def test_the_reference_agrees_with_apex(name):
    record = run_case(CASES[name], ReferenceDriver)
    records, bitwise = apex_records(CASES[name].optimizer)
    if not bitwise:
        pytest.skip('this CPU or torch rounds otherwise in plain fp32')
    assert record['steps'] == records[name]['steps']
    assert record['losses'] == records[name]['losses']


def bn_in_half(monkeypatch):
    monkeypatch.setattr(ours, '_stays_fp32', lambda module: False)


def no_masters(monkeypatch):
    make_step = ours.NativeO2._make_step

    def round_masters(self):
        make_step(self)
        for param, master in zip(*self.pairs()):
            master.data.copy_(param.data)

    monkeypatch.setattr(ours.NativeO2, '_make_step', round_masters)


def unscale_in_half(monkeypatch):
    scale = CASES['sgd'].scale
    to_fp32 = ours._to_fp32

    def rounded(grads):
        # What is multiplied back here is divided again later, exactly.
        halved = [(g.float() / scale).half() for g in grads]
        return [g * scale for g in to_fp32(halved)]

    monkeypatch.setattr(ours, '_to_fp32', rounded)


def bn_grads_not_unscaled(monkeypatch):
    unscale_grads = ours.NativeO2._unscale_grads

    def forgetful(self, stash):
        found = unscale_grads(self, stash)
        for param in self._full:
            param.grad.mul_(self.loss_scale)
        return found

    monkeypatch.setattr(ours.NativeO2, '_unscale_grads', forgetful)


@pytest.mark.parametrize(
    'mutant', [bn_in_half, no_masters, unscale_in_half, bn_grads_not_unscaled]
)
def test_the_comparison_catches(mutant, monkeypatch):
    assert is_apex('sgd', run_case(CASES['sgd'], NativeDriver))
    mutant(monkeypatch)
    assert not is_apex('sgd', run_case(CASES['sgd'], NativeDriver))


@pytest.fixture
def apex():
    tree = os.environ.get('APEX_TREE')
    if not tree:
        pytest.skip('APEX_TREE does not name a source tree of Apex')
    with load_apex(tree) as amp:
        yield amp


@pytest.mark.parametrize('name', CASES)
def test_same_bits_as_apex_beside_it(apex, name):
    driver = functools.partial(o2_cases.ApexDriver, amp=apex)
    theirs = run_case(CASES[name], driver)
    assert run_case(CASES[name], NativeDriver) == theirs


def test_the_dynamic_scale_grows_as_apex(apex, monkeypatch):
    from apex.amp import scaler

    theirs = scaler.LossScaler('dynamic', scale_window=3, max_loss_scale=2e5)
    monkeypatch.setattr(ours.AmpLossScaler, 'WINDOW', 3)
    mine = ours.AmpLossScaler(
        ours.AmpOptions(loss_scale='dynamic', max_loss_scale=2e5)
    )
    for overflow in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]:
        theirs._has_overflow = bool(overflow)
        theirs.update_scale()
        mine.update(bool(overflow))
        assert mine.loss_scale == theirs.loss_scale()
        assert mine.unskipped == theirs._unskipped


class RealLayers(nn.Module):
    """What an Hourglass is made of, by torch's own half operators."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=2, padding=3),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
        )
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1)
        )
        self.bn = nn.BatchNorm2d(16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        low = nn.functional.interpolate(self.down(x), scale_factor=2)
        return self.out(self.bn(x + low).relu())


def train_real(make_driver, name):
    model = RealLayers()
    optimizer = o2_cases.OPTIMIZERS[name](list(model.parameters()))
    driver = make_driver(model, optimizer, make_case(name))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        optimizer.zero_grad()
        for _ in range(2):
            image = torch.randn(2, 3, 16, 16, generator=generator)
            loss = model(image).pow(2).mean()
            with driver.scale_loss(loss) as scaled:
                scaled.backward()
        nn.utils.clip_grad_norm_(
            [p for p in driver.masters() if p.grad is not None], 0.5
        )
        optimizer.step()
    return bits(driver.masters()) + bits(model.buffers()) + [loss]


@pytest.mark.parametrize('name', o2_cases.OPTIMIZERS)
def test_same_bits_as_apex_with_half_operators(apex, name):
    try:
        ours._try_operators(HALF)
    except RuntimeError:
        pytest.skip('this torch has no half operators on a CPU')
    driver = functools.partial(o2_cases.ApexDriver, amp=apex)
    assert equal(train_real(NativeDriver, name), train_real(driver, name))


class ApexBehindTheEngine(o2_cases.PlainDriver):
    """The engine that has Apex do it."""

    def __init__(self, model, optimizer, case, on_device=False, **amp):
        super().__init__(model, optimizer, case)
        amp.setdefault('loss_in_half', True)
        options = ours.AmpOptions(loss_scale=case.scale, **amp)
        self.engine = ours.ApexO2(model, optimizer, options, HALF)
        self.engine.selects_on_device = on_device

    scale_loss = NativeDriver.scale_loss
    masters = NativeDriver.masters
    state = NativeDriver.state


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_apex_behind_the_engine_is_apex(apex, name, on_device):
    driver = functools.partial(ApexBehindTheEngine, on_device=on_device)
    wanted = run_case(CASES[name], NativeDriver)
    assert run_case(CASES[name], driver) == wanted


@pytest.mark.parametrize('on_device', [False, True])
def test_apex_behind_the_engine_survives_an_overflow(apex, on_device):
    def run(spoil):
        model = Toy()
        optimizer = o2_cases.OPTIMIZERS['adam'](list(model.parameters()))
        driver = ApexBehindTheEngine(
            model, optimizer, make_case('adam'), on_device
        )
        train(model, optimizer, driver.engine, 4, spoil)
        return model, optimizer, driver.engine

    model, optimizer, engine = run(spoil=(2,))
    engine.finish()
    assert engine.skipped_steps == 1
    assert all(torch.isfinite(p).all() for p in engine.master_params())
    low, masters = engine.pairs()
    assert equal(low, [m.half() for m in masters])
    # Masters, not their rounded copies, are saved; and loaded.
    state = copy.deepcopy(model.state_dict())
    assert torch.equal(state['first.weight'], masters[0])
    fresh, _, its_engine = run(spoil=())
    fresh.load_state_dict(state)
    assert equal(its_engine.pairs()[1], masters)
    with pytest.raises(ours.AmpOverflow):
        train(model, optimizer, engine, 30, range(30))


def test_apex_behind_the_engine_stops_at_the_floor_of_a_scale(apex):
    """There the scale stays, but Apex goes on skipping."""
    model = Toy()
    optimizer = o2_cases.OPTIMIZERS['sgd'](list(model.parameters()))
    driver = ApexBehindTheEngine(
        model,
        optimizer,
        make_case('sgd', scale='dynamic'),
        min_loss_scale=16384.0,
        max_consecutive_overflows=5,
    )
    train(model, optimizer, driver.engine, 6, spoil=(0, 1, 2, 3))
    assert driver.engine.skipped_steps == 4
    assert driver.engine.consecutive_overflows == 0
    assert driver.engine.loss_scale == 16384.0
    with pytest.raises(ours.AmpOverflow, match='5 steps in a row'):
        train(model, optimizer, driver.engine, 9, spoil=range(9))


def test_apex_behind_the_engine_computes_the_loss_in_fp32(apex):
    losses = []
    for driver in (ApexBehindTheEngine, NativeDriver):
        model = Detector()
        optimizer = o2_cases.OPTIMIZERS['sgd'](list(model.parameters()))
        driver(model, optimizer, make_case('sgd'), loss_in_half=False)
        image, target = o2_cases.batch(0)
        losses.append(model(image, target / 3)['loss'])
        assert model.loss.seen == [torch.float32] * 2
    assert torch.equal(*losses)


# --------------------------------------------------------------------------
# Row by row
# --------------------------------------------------------------------------


def prepare(model=None, optimizer='sgd', **amp):
    model = model or Toy()
    params = [p for p in model.parameters()]
    driver = NativeDriver(
        model,
        o2_cases.OPTIMIZERS[optimizer](params),
        make_case(optimizer, scale=amp.pop('loss_scale', 2.0**15)),
        **amp,
    )
    return model, driver.optimizer, driver.engine


def one_pass(model, engine, index=0, factor=1.0):
    loss = o2_cases.run_batch(model, index) * factor
    with engine.scale_loss(loss) as scaled:
        scaled.backward()


def train(model, optimizer, engine, steps, spoil=()):
    for step in range(steps):
        optimizer.zero_grad()
        one_pass(model, engine, step, 1e8 if step in spoil else 1.0)
        optimizer.step()


def bits(tensors):
    return [t.detach().clone() for t in tensors]


def equal(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first, second)
    )


def test_cast_keeps_batch_norm_with_weights_only():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.InstanceNorm2d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.SyncBatchNorm(4),
    )
    before = list(model.parameters())
    ours.cast_model(model, HALF)
    dtypes = [
        {
            t.dtype
            for t in list(m.parameters()) + list(m.buffers())
            if t.is_floating_point()
        }
        for m in model
    ]
    full = {torch.float32}
    assert dtypes == [{HALF}, full, {HALF}, {HALF}, {HALF}, {HALF}, full]
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert all(a is b for a, b in zip(before, model.parameters()))


def test_casts_go_through_containers():
    Pair = namedtuple('Pair', 'a b')
    x = torch.ones(2)
    array = np.ones(2)
    out = ours.cast_floats(
        [
            dict(x=x, n=1),
            (x.double(), 'text', None),
            Pair(x, torch.arange(2)),
            array,
        ],
        HALF,
    )
    assert out[0]['x'].dtype == out[1][0].dtype == out[2].a.dtype == HALF
    assert out[0]['n'] == 1 and out[1][1:] == ('text', None)
    assert type(out[2]) is Pair and out[2].b.dtype == torch.int64
    assert out[3] is array


def test_forward_takes_any_float_and_gives_fp32():
    model, _, _ = prepare(loss_in_half=True)
    seen = []
    inner = model.first.forward
    model.first.forward = lambda x: seen.append(x.dtype) or inner(x)
    assert model(torch.ones(2, 3, 4, 4).double()).dtype == torch.float32
    assert model.forward(x=torch.ones(2, 3, 4, 4)).dtype == torch.float32
    assert seen == [HALF, HALF]
    inside, _, _ = prepare(Toy(loss_inside=True))
    out = inside(torch.ones(2, 3, 4, 4), torch.ones(2, 2, 4, 4))
    assert out['loss'].dtype == torch.float32 and out['note'] == 'unchanged'


@pytest.mark.parametrize(
    'trigger',
    [
        lambda m, o, e: o.zero_grad(),
        lambda m, o, e: e.scale_loss(torch.zeros(())).__enter__(),
        lambda m, o, e: o.add_param_group(
            dict(params=[nn.Parameter(torch.ones(2))])
        ),
    ],
)
def test_masters_appear_late_and_take_the_state_along(trigger):
    model, optimizer, engine = prepare()
    first = model.first.weight
    optimizer.state[first]['momentum_buffer'] = torch.full_like(
        first, 0.1, dtype=torch.float32
    )
    assert optimizer.param_groups[0]['params'][0] is first
    first.data.fill_(0.5)  # still counts: no masters yet
    trigger(model, optimizer, engine)
    group = optimizer.param_groups[0]['params']
    names = [name for name, _ in model.named_parameters()]
    kinds = dict(zip(names, group))
    assert kinds['first.weight'].dtype == torch.float32
    assert (kinds['first.weight'] == 0.5).all()
    assert kinds['bn.weight'] is model.bn.weight
    assert kinds['frozen.weight'] is model.frozen.weight
    assert kinds['frozen.weight'].dtype == HALF
    assert first not in optimizer.state
    moved = optimizer.state[kinds['first.weight']]['momentum_buffer']
    assert moved.dtype == torch.float32 and (moved == 0.1).all()


def test_scale_loss_scales_in_fp32_and_clears_the_way():
    model, optimizer, engine = prepare(loss_scale=1024.0)
    one_pass(model, engine)
    with engine.scale_loss(torch.tensor(2.0, dtype=HALF)) as scaled:
        assert scaled.dtype == torch.float32 and scaled.item() == 2048.0
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('scale', [32768.0, 1.0])
def test_accumulation_adds_in_the_masters(scale):
    model, optimizer, engine = prepare(loss_scale=scale)
    grads = []
    for index in (0, 1):
        optimizer.zero_grad()
        one_pass(model, engine, index)
        # Copies: those of batch norm are zeroed in place.
        grads.append([copy.deepcopy(p.grad) for p in engine.master_params()])
    optimizer.zero_grad()
    one_pass(model, engine, 0)
    one_pass(model, engine, 1)
    both = [p.grad for p in engine.master_params()]
    for a, b, total in zip(*grads, both):
        if total is not None:
            assert torch.equal(a + b, total)


def test_step_copies_back_and_drops_master_grads():
    model, optimizer, engine = prepare()
    train(model, optimizer, engine, 1)
    low, masters = engine.pairs()
    assert equal(low, [m.half() for m in masters])
    # fp32 holds what half cannot: there is something to keep.
    assert any(not torch.equal(m.half().float(), m) for m in masters)
    assert all(m.grad is None for m in masters)
    with pytest.raises(ValueError, match='closure'):
        optimizer.step(lambda: None)


def test_zero_grad_zeroes_and_drops():
    model, optimizer, engine = prepare()
    one_pass(model, engine)
    optimizer.zero_grad()
    low, masters = engine.pairs()
    for param in low + [model.bn.weight, model.bn.bias]:
        assert (param.grad == 0).all()
    assert all(m.grad is None for m in masters)
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in model.parameters())


def test_state_dict_is_fp32_and_unrounded():
    model, optimizer, engine = prepare()
    early = model.state_dict()
    assert torch.equal(early['first.weight'], model.first.weight.float())
    train(model, optimizer, engine, 2)
    state = model.state_dict()
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    low, masters = engine.pairs()
    by_param = {id(p): m for p, m in zip(low, masters)}
    for name, param in model.named_parameters():
        assert torch.equal(state[name], by_param.get(id(param), param).float())
    assert torch.equal(
        model.first.state_dict()['weight'], state['first.weight']
    )
    plain = Toy()
    plain.load_state_dict(state)
    assert equal(
        plain.parameters(), [state[n] for n, _ in plain.named_parameters()]
    )


@pytest.mark.parametrize('optimizer_name', ['adam', 'sgd'])
@pytest.mark.parametrize('order', ['model first', 'optimizer first'])
@pytest.mark.parametrize('driver', [NativeDriver, OnDevice])
def test_a_resumed_run_is_the_same_run(optimizer_name, order, driver):
    on_device = driver is OnDevice
    scale = 'dynamic'

    def start():
        return prepare(
            optimizer=optimizer_name, loss_scale=scale, on_device=on_device
        )

    model, optimizer, engine = start()
    train(model, optimizer, engine, 3, spoil=(2,))
    saved = copy.deepcopy(
        (model.state_dict(), optimizer.state_dict(), engine.state_dict())
    )
    train(model, optimizer, engine, 3)
    resumed, its_optimizer, its_engine = start()
    if order == 'model first':
        resumed.load_state_dict(saved[0])
        its_optimizer.load_state_dict(saved[1])
    else:
        its_optimizer.load_state_dict(saved[1])
        resumed.load_state_dict(saved[0])
    its_engine.load_state_dict(saved[2])
    train(resumed, its_optimizer, its_engine, 3)
    assert equal(engine.master_params(), its_engine.master_params())
    assert equal(model.buffers(), resumed.buffers())
    assert engine.state_dict() == its_engine.state_dict()


def test_scaler_state_has_the_form_of_apex():
    model, optimizer, engine = prepare()
    train(model, optimizer, engine, 2)
    state = engine.state_dict()
    assert list(state) == ['loss_scaler0']
    assert state['loss_scaler0']['loss_scale'] == 32768.0
    assert state['loss_scaler0']['unskipped'] == 2
    # Apex's own, and a static scale gives way to it.
    engine.load_state_dict(
        OrderedDict(loss_scaler0=dict(loss_scale=64.0, unskipped=7))
    )
    assert engine.loss_scale == 64.0
    assert engine.state_dict()['loss_scaler0']['unskipped'] == 7
    with pytest.raises(ValueError, match='loss_scaler0'):
        engine.load_state_dict(dict(step=3))


@pytest.mark.parametrize('scale', [1024.0, 'dynamic'])
def test_a_changed_config_wins_over_the_saved_scale(scale, caplog):
    """Else nobody could lower a scale that overflows, and go on."""
    model, optimizer, engine = prepare(max_consecutive_overflows=2)
    with pytest.raises(ours.AmpOverflow):
        train(model, optimizer, engine, 2, spoil=(0, 1))
    state = engine.state_dict()
    model, optimizer, engine = prepare(
        loss_scale=scale, max_consecutive_overflows=2
    )
    with caplog.at_level(logging.INFO):
        engine.load_state_dict(state)
    assert engine.loss_scale == (65536.0 if scale == 'dynamic' else scale)
    assert 'not 32768 of the checkpoint' in caplog.text
    train(model, optimizer, engine, 2, spoil=(0,))
    assert engine.skipped_steps == 3


def test_an_optimizer_goes_through_initialize_once():
    model, optimizer, _ = prepare()
    with pytest.raises(ValueError, match='before'):
        ours.initialize(Toy(), optimizer, enabled=True)


def test_a_copied_model_saves_its_own_weights():
    model, optimizer, engine = prepare()
    train(model, optimizer, engine, 1)
    twin = copy.deepcopy(model)
    twin.first.weight.data.fill_(2.0)
    assert (twin.state_dict()['first.weight'] == 2).all()
    assert not (model.state_dict()['first.weight'] == 2).any()
    image = torch.ones(2, 3, 4, 4)
    assert not torch.equal(twin(image), model(image))


def test_torch_schedules_take_the_optimizer():
    model, optimizer, engine = prepare()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    train(model, optimizer, engine, 1)
    schedule.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.01)


# --------------------------------------------------------------------------
# Overflow
# --------------------------------------------------------------------------


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('optimizer_name', ['adam', 'adamw', 'sgd'])
@pytest.mark.parametrize('spoil', [(0,), (2,), (1, 2)])
def test_a_step_that_overflows_never_was(
    on_device, optimizer_name, spoil, caplog
):
    """Batch norm's statistics apart, which the forward pass updates."""

    def run(only=None):
        model, optimizer, engine = prepare(
            optimizer=optimizer_name, on_device=on_device
        )
        for step in range(5):
            if only is not None and step not in only:
                continue
            train_one(model, optimizer, engine, step, step in spoil)
        return model, optimizer, engine

    def train_one(model, optimizer, engine, step, spoiled):
        optimizer.zero_grad()
        one_pass(model, engine, step, 1e8 if spoiled else 1.0)
        optimizer.step()

    _, optimizer, engine = run()
    with_it = engine.state_dict()['loss_scaler0']
    _, other_optimizer, other = run([s for s in range(5) if s not in spoil])
    assert equal(engine.master_params(), other.master_params())
    assert all(torch.isfinite(p).all() for p in engine.master_params())
    for a, b in zip(engine.master_params(), other.master_params()):
        mine, theirs = optimizer.state[a], other_optimizer.state[b]
        assert mine.keys() == theirs.keys()
        assert all(
            torch.equal(torch.as_tensor(mine[k]), torch.as_tensor(theirs[k]))
            for k in mine
            if mine[k] is not None
        )
    assert with_it['skipped_steps'] == len(spoil)
    assert with_it['consecutive_overflows'] == 0
    assert caplog.text.count('step skipped') == len(spoil)
    assert with_it['loss_scale'] == 32768.0


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('scale', [32768.0, 'dynamic'])
def test_overflow_after_overflow_stops_training(on_device, scale):
    model, optimizer, engine = prepare(
        loss_scale=scale, on_device=on_device, max_consecutive_overflows=3
    )
    before = bits(engine.master_params())
    with pytest.raises(ours.AmpOverflow, match='3 steps in a row') as caught:
        train(model, optimizer, engine, 6, spoil=range(6))
    assert ('amp.loss_scale' in str(caught.value)) == (scale == 32768.0)
    assert equal(before, engine.master_params())


def test_zero_never_stops():
    model, optimizer, engine = prepare(max_consecutive_overflows=0)
    train(model, optimizer, engine, 30, spoil=range(30))
    assert engine.skipped_steps == 30


def test_one_bad_pass_spoils_the_accumulated_step():
    model, optimizer, engine = prepare(on_device=True)
    train(model, optimizer, engine, 1)
    before = bits(engine.master_params())
    optimizer.zero_grad()
    one_pass(model, engine, 0, 1e8)
    one_pass(model, engine, 1)
    optimizer.step()
    engine.settle()
    assert engine.skipped_steps == 1
    assert equal(before, engine.master_params())


def test_limits_of_a_dynamic_scale(monkeypatch):
    monkeypatch.setattr(ours.AmpLossScaler, 'WINDOW', 2)
    options = ours.AmpOptions(
        loss_scale='dynamic', min_loss_scale=16384.0, max_loss_scale=131072
    )
    scaler = ours.AmpLossScaler(options)
    scales = []
    for overflow in [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]:
        scaler.update(bool(overflow))
        scales.append(scaler.loss_scale / 1024)
    assert scales == [32, 16, 16, 16, 32, 32, 64, 64, 128, 128, 128]


@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_host_reads_what_is_an_iteration_old(monkeypatch, accumulate):
    """Nothing waits for the passes whose step is being queued."""
    events = []
    read, init = ours._OverflowFlag.read, ours._OverflowFlag.__init__

    def noted_init(flag, found):
        init(flag, found)
        events.append(('made', id(flag)))

    def noted_read(flag):
        if ('read', id(flag)) not in events:
            events.append(('read', id(flag)))
        return read(flag)

    keep = []
    monkeypatch.setattr(
        ours._OverflowFlag,
        '__init__',
        lambda flag, found: keep.append(flag) or noted_init(flag, found),
    )
    monkeypatch.setattr(ours._OverflowFlag, 'read', noted_read)
    model, optimizer, engine = prepare(on_device=True)
    for step in range(4):
        optimizer.zero_grad()
        for k in range(accumulate):
            one_pass(model, engine, step * accumulate + k)
        optimizer.step()
        events.append(('stepped', step))
    for step in range(1, 4):  # the first one has no state to select from
        flags = keep[step * accumulate : (step + 1) * accumulate]
        stepped = events.index(('stepped', step))
        for flag in flags:
            was_read = ('read', id(flag)) in events[:stepped]
            assert not was_read


def test_no_operator_brings_a_number_to_the_host():
    dispatch = pytest.importorskip('torch.utils._python_dispatch')
    if not hasattr(dispatch, 'TorchDispatchMode'):
        pytest.skip('this torch cannot list its operators')
    seen = []

    class Listen(dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    model, optimizer, engine = prepare(on_device=True)
    train(model, optimizer, engine, 1)
    optimizer.zero_grad()
    with Listen():
        one_pass(model, engine, 1)
        optimizer.step()
    assert any('where' in name for name in seen)
    assert not [name for name in seen if '_local_scalar_dense' in name]
    with Listen():  # it would be noticed
        engine.settle()
    assert [name for name in seen if '_local_scalar_dense' in name]


def test_a_fused_optimizer_is_told_on_the_device():
    try:
        torch.optim.Adam([nn.Parameter(torch.ones(1))], fused=True)
    except (RuntimeError, TypeError):
        pytest.skip('this torch has no fused Adam for a CPU')

    def run(fused, on_device):
        model = Toy()
        params = list(model.parameters())
        optimizer = torch.optim.Adam(params, lr=1e-2, fused=fused)
        case = make_case('adam')
        driver = NativeDriver(model, optimizer, case, on_device=on_device)
        train(model, optimizer, driver.engine, 5, spoil=(0, 3))
        driver.engine.settle()
        assert driver.engine.skipped_steps == 2
        return driver.engine.master_params()

    assert equal(run(True, True), run(True, False))


def chip(saturates, **more):
    utils = SimpleNamespace(
        clear_npu_overflow_flag=lambda: None,
        get_npu_overflow_flag=lambda: True,
        **more,
    )
    if saturates is not None:
        utils.is_support_inf_nan = lambda: not saturates
    return SimpleNamespace(utils=utils)


@pytest.mark.parametrize(
    'module, saturates',
    [
        (chip(True), True),
        (chip(False), False),
        (chip(None), True),  # old releases serve saturating chips only
        (SimpleNamespace(), False),
    ],
)
def test_saturating_chips_are_known(monkeypatch, module, saturates):
    monkeypatch.setattr(torch, 'chip', module, raising=False)
    flag = ours._saturation_flag(SimpleNamespace(type='chip'))
    assert (flag is not None) == saturates


def test_the_flag_of_a_saturating_chip_skips_a_step(monkeypatch):
    flag = dict(up=False, cleared=0)

    def clear():
        flag.update(up=False, cleared=flag['cleared'] + 1)

    monkeypatch.setattr(
        ours, '_saturation_flag', lambda device: (clear, lambda: flag['up'])
    )
    model, optimizer, engine = prepare()
    train(model, optimizer, engine, 1)
    before = bits(engine.master_params())
    optimizer.zero_grad()
    loss = o2_cases.run_batch(model, 0)
    with engine.scale_loss(loss) as scaled:
        scaled.backward()
        flag['up'] = True  # no inf shows in any gradient
    optimizer.step()
    assert flag['cleared'] == 2
    assert engine.skipped_steps == 1
    assert equal(before, engine.master_params())


# --------------------------------------------------------------------------
# The loss in fp32
# --------------------------------------------------------------------------


class Detector(nn.Module):
    """Network and loss side by side, as mmpose's detectors have them."""

    def __init__(self):
        super().__init__()
        self.backbone = Toy()
        self.loss = Loss()

    def forward(self, img, target):
        out = self.backbone(img)
        self.seen = [out.dtype, target.dtype]
        return dict(loss=self.loss(out, target))


class Loss(nn.Module):
    def forward(self, out, target):
        self.seen = [out.dtype, target.dtype]
        return o2_cases.loss_of(out, target)


def detector(loss_in_half):
    model = Detector()
    _, _, engine = prepare(model, loss_in_half=loss_in_half)
    image, target = o2_cases.batch(0)
    target = target / 3  # not a number of half precision
    loss = model(image, target)['loss']
    assert loss.dtype == torch.float32
    with engine.scale_loss(loss) as scaled:
        scaled.backward()
    return model, loss, target


def test_the_loss_sees_fp32_outputs_and_unrounded_targets():
    model, loss, target = detector(loss_in_half=False)
    assert model.loss.seen == model.seen == [torch.float32] * 2
    alone = Toy()
    _, _, engine = prepare(alone)
    wanted = o2_cases.loss_of(alone(o2_cases.batch(0)[0]), target)
    assert torch.equal(loss, wanted)
    with engine.scale_loss(wanted) as scaled:
        scaled.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert equal(
        grads, [p.grad for p in alone.parameters() if p.grad is not None]
    )


def test_the_loss_of_apex_is_in_half():
    model, loss, _ = detector(loss_in_half=True)
    assert model.loss.seen == [HALF, HALF]
    assert torch.equal(loss, loss.half().float())
    full = detector(loss_in_half=False)[1]
    assert not torch.equal(full, full.half().float())


# --------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(opt_level='O1'), "opt_level='O1'"),
        (dict(loss_scale=0), 'loss_scale=0'),
        (dict(loss_scale='big'), "loss_scale='big'"),
        (dict(loss_scale=True), 'loss_scale=True'),
        (dict(loss_scale=float('nan')), 'loss_scale=nan'),
        (dict(backend='cuda'), "backend='cuda'"),
        (dict(dtype='float32'), "dtype='float32'"),
        (dict(loss_in_half=1), 'loss_in_half=1'),
        (dict(enabled='yes'), "enabled='yes'"),
        (dict(max_consecutive_overflows=-1), 'max_consecutive_overflows=-1'),
        (dict(min_loss_scale=8.0, max_loss_scale=4.0), 'min_loss_scale=8.0'),
        (dict(opt_lvl='O2'), 'no setting opt_lvl'),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError) as caught:
        ours.AmpOptions(**setting)
    assert message in str(caught.value)


@pytest.mark.parametrize('enabled', [None, False])
def test_off_on_a_cpu_unless_asked(enabled, caplog):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO):
        engine = ours.initialize(model, optimizer, enabled=enabled)
    assert engine is None and ours.engine_of(optimizer) is None
    assert 'Mixed precision: off' in caplog.text
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_level_o0_is_fp32(caplog):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO):
        assert not ours.initialize(
            model, optimizer, opt_level='O0', enabled=True
        )
    assert 'fp32' in caplog.text


def test_the_log_says_engine_dtype_and_scale(caplog):
    with caplog.at_level(logging.INFO):
        prepare(dtype='bfloat16')
    line = caplog.messages[-1]
    for word in ('O2', 'native', 'bfloat16', 'cpu', '32768 (static)'):
        assert word in line


def test_dtypes_of_the_devices():
    assert ours.default_dtype(torch.device('cpu')) == torch.bfloat16
    assert ours.default_dtype(torch.device('cuda', 0)) == HALF
    assert ours.AmpOptions(dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    'model, message',
    [(Toy().half(), 'in fp32'), (nn.DataParallel(Toy()), 'bare model')],
)
def test_the_model_must_be_bare_and_fp32(model, message):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        ours.initialize(model, optimizer, enabled=True)


def test_several_optimizers_are_refused():
    with pytest.raises(ValueError, match='one optimiser'):
        ours.initialize(Toy(), dict(generator=1), enabled=True)


def fake_apex(tmp_path, *packages):
    for package in ('.',) + packages:
        folder = tmp_path / 'apex' / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '__init__.py').write_text('raise RuntimeError("imported")')


@pytest.mark.parametrize(
    'packages, there, message',
    [
        (None, False, 'no apex'),
        (['amp', 'multi_tensor_apply'], True, ''),
        (['multi_tensor_apply'], False, 'after 25.05'),
        (['lib'], False, '2013'),
    ],
)
def test_kinds_of_apex(tmp_path, monkeypatch, packages, there, message):
    if packages is not None:
        fake_apex(tmp_path, *packages)
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    monkeypatch.delitem(ours.importlib.util.sys.modules, 'apex', False)
    found, reason = ours.find_apex()
    assert found is there and message in reason


@pytest.mark.parametrize(
    'there, backend, device, dtype, wanted',
    [
        (True, 'auto', 'cuda', HALF, ours.ApexO2),
        (True, 'apex', 'cuda', HALF, ours.ApexO2),
        (True, 'native', 'cuda', HALF, ours.NativeO2),
        (True, 'auto', 'cuda', torch.bfloat16, ours.NativeO2),
        (True, 'auto', 'cpu', HALF, ours.NativeO2),
        (False, 'auto', 'cuda', HALF, ours.NativeO2),
        (True, 'apex', 'cuda', torch.bfloat16, 'float16'),
        (True, 'apex', 'cpu', HALF, 'CPU'),
        (False, 'apex', 'cuda', HALF, 'web toolkit'),
    ],
)
def test_choice_of_engine(monkeypatch, there, backend, device, dtype, wanted):
    monkeypatch.setattr(ours, 'find_apex', lambda: (there, 'web toolkit'))
    options = ours.AmpOptions(backend=backend)
    choose = functools.partial(
        ours._choose_engine, options, None, torch.device(device), dtype
    )
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            choose()
    else:
        assert choose() is wanted


@pytest.mark.parametrize('backend', ['auto', 'native', 'apex'])
def test_fused_optimizers_of_torch_npu_are_refused(monkeypatch, backend):
    monkeypatch.setattr(ours, 'find_apex', lambda: (True, ''))
    fused = SimpleNamespace(is_fused_optimizer=True)
    with pytest.raises(ValueError, match='cannot serve'):
        ours._choose_engine(
            ours.AmpOptions(backend=backend),
            fused,
            torch.device('cuda'),
            HALF,
        )


def test_fused_optimizers_of_apex_are_left_to_apex(monkeypatch):
    monkeypatch.setattr(ours, 'find_apex', lambda: (True, ''))
    device = torch.device('cuda')
    fused = SimpleNamespace(is_npu_fused_optimizer=True)
    options = ours.AmpOptions()
    assert ours._choose_engine(options, fused, device, HALF) is ours.ApexO2
    options = ours.AmpOptions(backend='native')
    with pytest.raises(ValueError, match="Ascend's Apex"):
        ours._choose_engine(options, fused, device, HALF)
    monkeypatch.setattr(ours, 'find_apex', lambda: (False, 'none'))
    with pytest.raises(ValueError, match="Ascend's Apex"):
        ours._choose_engine(ours.AmpOptions(), fused, device, HALF)


def test_a_cpu_without_the_operators_is_told(monkeypatch):
    monkeypatch.setattr(nn.functional, 'conv2d', _not_implemented)
    with pytest.raises(ValueError, match='no mixed precision in float16'):
        ours._check_cpu(HALF, logging.getLogger('o2'))


@pytest.mark.parametrize(
    'gain, level, words',
    [
        (0.5, 'WARNING', '2.0 times as long'),
        (1.9, 'INFO', '1.9 times as fast'),
    ],
)
def test_a_cpu_is_measured(monkeypatch, caplog, gain, level, words):
    monkeypatch.setattr(ours, '_try_operators', lambda dtype: None)
    monkeypatch.setattr(ours, '_cpu_gain', lambda dtype: gain)
    with caplog.at_level(logging.INFO):
        ours._check_cpu(torch.bfloat16, logging.getLogger('o2'))
    (record,) = caplog.records
    assert record.levelname == level and words in record.message


def test_the_measurement_is_short_and_draws_nothing():
    state = torch.get_rng_state()
    started = time.perf_counter()
    gain = ours._cpu_gain(torch.float32)
    assert 0.1 < gain < 10
    assert time.perf_counter() - started < 5
    assert torch.equal(state, torch.get_rng_state())


def _not_implemented(*args, **kwargs):
    raise RuntimeError('"conv" not implemented for Half')


def test_the_table_names_tests_that_exist():
    """Of this file, of the hook's, and whole files."""
    here = Path(__file__)
    root = here.parents[2]
    table = (root / 'docs' / 'O2.md').read_text()
    known = ''.join(
        path.read_text()
        for path in (here, here.with_name('test_optimizer_o2_hook.py'))
    )
    names = set(re.findall(r'`(test_\w+)[`\[]', table))
    assert len(names) > 30
    assert not [n for n in names if f'def {n}(' not in known]
    files = re.findall(r'`((?:tests|mmcv_need)/[\w/]+\.\w+)', table)
    assert files and all((root / name).is_file() for name in files)
