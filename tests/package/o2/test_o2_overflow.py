"""Steps that overflow: skipped, counted, and without a trace."""

import sys
from types import SimpleNamespace

import o2_cases
import pytest
import torch
from o2_cases import (
    NativeDriver,
    Toy,
    bits,
    equal,
    make_case,
    one_pass,
    prepare,
    train,
)
from torch import nn

from hourglass_npu.o2 import engine as engine_module
from hourglass_npu.o2.overflow import (
    AmpLossScaler,
    DeviceFlag,
    saturation_flag,
)
from hourglass_npu.o2.settings import AmpOptions, AmpOverflow
from hourglass_npu.o2.tensors import (
    add_all,
    copy_all,
    flatten,
    takes_lists,
    unflatten,
    unscale,
    zero_all,
)


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
    with pytest.raises(AmpOverflow, match='3 steps in a row') as caught:
        train(model, optimizer, engine, 6, spoil=range(6))
    assert ('amp.loss_scale' in str(caught.value)) == (scale == 32768.0)
    assert equal(before, engine.master_params())


def test_zero_never_stops():
    model, optimizer, engine = prepare(max_consecutive_overflows=0)
    train(model, optimizer, engine, 30, spoil=range(30))
    assert engine.skipped_steps == 30


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('bad', [0, 1])
def test_one_bad_pass_spoils_the_accumulated_step(bad, on_device):
    model, optimizer, engine = prepare(on_device=on_device)
    train(model, optimizer, engine, 1)
    before = bits(engine.master_params())
    optimizer.zero_grad()
    for index in range(2):
        one_pass(model, engine, index, 1e8 if index == bad else 1.0)
    optimizer.step()
    engine.settle()
    assert engine.skipped_steps == 1
    assert equal(before, engine.master_params())


def test_what_the_host_counts_is_set_back():
    """Numbers of a group, and scalars that are not on the device."""

    class Counting(torch.optim.Adam):
        def step(self, closure=None):
            group = self.param_groups[0]
            group['count'] = group.get('count', 0) + 1
            group['held'] += 1  # as is a step's number in newer torch
            return super().step(closure)

    model = Toy()
    optimizer = Counting(model.parameters(), lr=0.01)
    optimizer.param_groups[0]['held'] = torch.zeros(())
    case = make_case('adam')
    engine = NativeDriver(model, optimizer, case, on_device=True).engine
    engine.device = torch.device('cuda')  # so all of the state is elsewhere
    train(model, optimizer, engine, 4, spoil=(2,))
    engine.finish()
    assert engine.skipped_steps == 1
    assert optimizer.param_groups[0]['count'] == 3
    assert optimizer.param_groups[0]['held'] == 3
    assert {float(s['step']) for s in optimizer.state.values()} == {3.0}


def test_each_group_of_parameters_gets_masters():
    def run(groups):
        model = Toy()
        params = list(model.parameters())
        if groups > 1:
            params = [dict(params=params[:3]), dict(params=params[3:])]
        optimizer = torch.optim.SGD(params, lr=0.1)
        engine = NativeDriver(model, optimizer, make_case('sgd')).engine
        train(model, optimizer, engine, 3)
        return engine.master_params()

    assert equal(run(2), run(1))


def test_batch_norm_keeps_the_gradient_of_an_earlier_pass():
    model, optimizer, engine = prepare()
    optimizer.zero_grad()
    one_pass(model, engine)
    before = model.bn.weight.grad.clone()
    with engine.scale_loss(o2_cases.run_batch(model, 1)) as scaled:
        scaled.backward()
        model.bn.weight.grad = None
    assert torch.equal(model.bn.weight.grad, before)


def test_a_loaded_state_has_to_be_made_before_the_device_decides():
    model, optimizer, engine = prepare(optimizer='adam', on_device=True)
    empty = optimizer.state_dict()
    empty = dict(empty, state={})
    train(model, optimizer, engine, 2)
    engine.settle()
    optimizer.load_state_dict(empty)
    train(model, optimizer, engine, 1, spoil=(0,))
    engine.finish()
    assert engine.skipped_steps == 1 and not optimizer.state


def test_a_dynamic_scale_begins_below_its_ceiling():
    options = AmpOptions(loss_scale='dynamic', max_loss_scale=1024.0)
    assert AmpLossScaler(options).loss_scale == 1024.0


def test_limits_of_a_dynamic_scale(monkeypatch):
    monkeypatch.setattr(AmpLossScaler, 'WINDOW', 2)
    options = AmpOptions(
        loss_scale='dynamic', min_loss_scale=16384.0, max_loss_scale=131072
    )
    scaler = AmpLossScaler(options)
    scales = []
    for overflow in [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]:
        scaler.update(bool(overflow))
        scales.append(scaler.loss_scale / 1024)
    assert scales == [32, 16, 16, 16, 32, 32, 64, 64, 128, 128, 128]


@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_host_reads_what_is_an_iteration_old(monkeypatch, accumulate):
    """Nothing waits for the passes whose step is being queued."""
    events = []
    read, init = DeviceFlag.read, DeviceFlag.__init__

    def noted_init(flag, found):
        init(flag, found)
        events.append(('made', id(flag)))

    def noted_read(flag):
        if ('read', id(flag)) not in events:
            events.append(('read', id(flag)))
        return read(flag)

    keep = []
    monkeypatch.setattr(
        DeviceFlag,
        '__init__',
        lambda flag, found: keep.append(flag) or noted_init(flag, found),
    )
    monkeypatch.setattr(DeviceFlag, 'read', noted_read)
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
    flag = saturation_flag(SimpleNamespace(type='chip'))
    assert (flag is not None) == saturates


def test_the_flag_of_a_saturating_chip_skips_a_step(monkeypatch):
    flag = dict(up=False, cleared=0)

    def clear():
        flag.update(up=False, cleared=flag['cleared'] + 1)

    monkeypatch.setattr(
        engine_module,
        'saturation_flag',
        lambda device: (clear, lambda: torch.tensor(float(flag['up']))),
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


def test_one_weight_alone_in_its_block_is_put_back():
    """A flattened copy that torch makes of one tensor is that tensor."""

    class OneHalf(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((8,), 0.5))

        def forward(self, x):
            return x * self.weight

    model = OneHalf()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    case = make_case('adam')
    engine = NativeDriver(model, optimizer, case, on_device=True).engine
    for factor in (1, 1e8, 1):
        optimizer.zero_grad()
        loss = model(torch.ones(8)).mean() * factor
        with engine.scale_loss(loss) as scaled:
            scaled.backward()
        optimizer.step()
    engine.finish()
    assert engine.skipped_steps == 1
    assert torch.isfinite(model.weight).all()
    assert torch.isfinite(engine.master_params()[0]).all()
    (state,) = optimizer.state.values()
    assert torch.isfinite(state['exp_avg']).all()


def test_a_flat_copy_is_a_copy():
    for count in (1, 3):
        weights = [torch.ones(2, 3) for _ in range(count)]
        ((block, flat),) = flatten(weights)
        flat.zero_()
        assert all(weight.sum() == 6 for weight in weights)
        unflatten([(block, flat)])
        assert all(weight.sum() == 0 for weight in weights)


@pytest.mark.parametrize(
    'listed, taken',
    [(['cuda', 'npu'], True), (['cuda'], False), (None, False)],
)
def test_lists_of_tensors_are_for_chips_that_have_kernels(
    monkeypatch, listed, taken
):
    """torch_npu keeps first chips and old CANN off torch's list."""
    name = '_get_foreach_kernels_supported_devices'
    place = sys.modules['torch.optim.optimizer']
    monkeypatch.delattr(place, name, raising=False)
    if listed is not None:
        monkeypatch.setattr(place, name, lambda: listed, raising=False)
    takes_lists.cache_clear()
    assert takes_lists('npu') is taken
    assert takes_lists('cuda') and takes_lists('cpu')
    takes_lists.cache_clear()


def test_one_by_one_gives_the_same(monkeypatch):
    def compute():
        values = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
        copies = [torch.zeros(2, dtype=torch.float16), torch.zeros(1)]
        copy_all(copies, values)
        add_all(values, [value.clone() for value in values])
        zeroed = [torch.ones(2), torch.ones(1, dtype=torch.float16)]
        zero_all(zeroed)
        found = unscale(values, 0.25)
        return [found, *zeroed, *copies, *values]

    together = compute()
    places = 'hourglass_npu.o2.tensors.takes_lists'
    monkeypatch.setattr(places, lambda kind: False)
    for name in ('_foreach_add_', '_foreach_mul_', '_foreach_copy_'):
        if hasattr(torch, name):
            monkeypatch.delattr(torch, name)
    monkeypatch.setattr(
        'hourglass_npu.o2.tensors.has_unscale_kernel', lambda device: False
    )
    assert equal(together, compute())
    assert [v.tolist() for v in together[5:]] == [[0.5, 1.0], [1.5]]
    assert not any(zeroed.any() for zeroed in together[1:3])
