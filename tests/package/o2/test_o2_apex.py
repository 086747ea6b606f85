"""The arithmetic of Apex's O2, to the bit.

Values that Apex 25.05 computed are in ``data/o2_trace.json``; see
``make_o2_trace.py``. A stand-in for Apex (``tests/apex_contract``) runs beside
ours and behind it, and with ``APEX_TREE`` naming a source tree of Apex its own
code does, too.
"""

import copy
import functools
from pathlib import Path

import numpy as np
import o2_cases
import pytest
import torch
from apex_tree import APEXES, load_apex
from o2_cases import (
    CASES,
    HALF,
    Detector,
    NativeDriver,
    OnDevice,
    ReferenceDriver,
    Toy,
    bits,
    equal,
    make_case,
    run_case,
    train,
)
from torch import nn

from hourglass_npu.o2 import casting, native, operators
from hourglass_npu.o2.apex import ApexO2
from hourglass_npu.o2.overflow import AmpLossScaler
from hourglass_npu.o2.settings import AmpOptions, AmpOverflow

TRACE = Path(__file__).resolve().parent / 'data' / 'o2_trace.json'


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
    monkeypatch.setattr(casting, 'stays_fp32', lambda module: False)


def no_masters(monkeypatch):
    make_step = native.NativeO2._make_step

    def round_masters(self):
        make_step(self)
        for param, master in zip(*self.pairs()):
            master.data.copy_(param.data)

    monkeypatch.setattr(native.NativeO2, '_make_step', round_masters)


def unscale_in_half(monkeypatch):
    scale = CASES['sgd'].scale
    to_fp32 = native.to_fp32

    def rounded(grads):
        # What is multiplied back here is divided again later, exactly.
        halved = [(g.float() / scale).half() for g in grads]
        copies, blocks = to_fp32(halved)
        for block in blocks:
            block.mul_(scale)
        return copies, blocks

    monkeypatch.setattr(native, 'to_fp32', rounded)


def bn_grads_not_unscaled(monkeypatch):
    unscale_grads = native.NativeO2._unscale_grads

    def forgetful(self, stash):
        found = unscale_grads(self, stash)
        for param in self._full:
            param.grad.mul_(self.loss_scale)
        return found

    monkeypatch.setattr(native.NativeO2, '_unscale_grads', forgetful)


@pytest.mark.parametrize(
    'mutant', [bn_in_half, no_masters, unscale_in_half, bn_grads_not_unscaled]
)
def test_the_comparison_catches(mutant, monkeypatch):
    assert is_apex('sgd', run_case(CASES['sgd'], NativeDriver))
    mutant(monkeypatch)
    assert not is_apex('sgd', run_case(CASES['sgd'], NativeDriver))


@pytest.fixture(params=APEXES)
def apex(request):
    """The stand-in in each run, and Apex itself where it is at hand."""
    with load_apex(request.param) as amp:
        yield amp


@pytest.mark.parametrize('name', CASES)
def test_same_bits_as_apex_beside_it(apex, name):
    driver = functools.partial(o2_cases.ApexDriver, amp=apex)
    theirs = run_case(CASES[name], driver)
    assert run_case(CASES[name], NativeDriver) == theirs


def test_the_dynamic_scale_grows_as_apex(apex, monkeypatch):
    if not hasattr(apex, 'scaler'):
        pytest.skip('the stand-in has no LossScaler: set APEX_TREE')
    from apex.amp import scaler

    theirs = scaler.LossScaler('dynamic', scale_window=3, max_loss_scale=2e5)
    monkeypatch.setattr(AmpLossScaler, 'WINDOW', 3)
    mine = AmpLossScaler(AmpOptions(loss_scale='dynamic', max_loss_scale=2e5))
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
        operators.try_operators(HALF)
    except RuntimeError:
        pytest.skip('this torch has no half operators on a CPU')
    driver = functools.partial(o2_cases.ApexDriver, amp=apex)
    assert equal(train_real(NativeDriver, name), train_real(driver, name))


class ApexBehindTheEngine(o2_cases.PlainDriver):
    """The engine that has Apex do it."""

    def __init__(self, model, optimizer, case, on_device=False, **amp):
        super().__init__(model, optimizer, case)
        amp.setdefault('loss_in_half', True)
        options = AmpOptions(loss_scale=case.scale, **amp)
        self.engine = ApexO2(model, optimizer, options, HALF)
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
    with pytest.raises(AmpOverflow):
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
    with pytest.raises(AmpOverflow, match='5 steps in a row'):
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


def test_apex_behind_the_engine_adopts_what_is_unfrozen(apex):
    model = Toy()
    joining = [model.scale.weight, model.bn.bias]
    for weight in joining:
        weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-10)
    driver = ApexBehindTheEngine(model, optimizer, make_case('sgd'))
    train(model, optimizer, driver.engine, 1)
    before = [weight.detach().float().clone() for weight in joining]
    for weight in joining:
        weight.requires_grad_()
    train(model, optimizer, driver.engine, 1)
    for weight, old in zip(joining, before):
        assert 0 < (weight.float() - old).abs().max() < 0.01
    low, masters = driver.engine.pairs()
    assert equal(low, [m.half() for m in masters])
    assert any(param is joining[0] for param in low)


def test_apex_behind_the_engine_forgets_what_it_was_to_skip(apex):
    """A checkpoint that is loaded between two passes begins a new step."""

    def step(loading):
        model = Toy()
        optimizer = o2_cases.OPTIMIZERS['sgd'](list(model.parameters()))
        case = make_case('sgd', scale='dynamic')
        # At 2 ** 16 the first pass after loading would overflow, too.
        engine = ApexBehindTheEngine(
            model, optimizer, case, max_loss_scale=2.0**10
        ).engine
        saved = copy.deepcopy([model.state_dict(), engine.state_dict()])
        if loading:
            optimizer.zero_grad()
            o2_cases.one_pass(model, engine, 0, 1e8)
            assert engine.loss_scale == 2.0**9
        engine.load_state_dict(saved[1])
        skipped = engine.skipped_steps
        train(model, optimizer, engine, 3)
        assert engine.skipped_steps == skipped
        return engine.master_params()

    assert equal(step(loading=True), step(loading=False))
