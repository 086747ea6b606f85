"""What O2 does beside its arithmetic, row by row of docs/O2.md."""

import copy
import logging
from collections import OrderedDict, namedtuple

import numpy as np
import o2_cases
import pytest
import torch
from o2_cases import (
    HALF,
    Detector,
    NativeDriver,
    OnDevice,
    Toy,
    equal,
    make_case,
    one_pass,
    prepare,
    train,
)
from torch import nn

from hourglass_npu.o2 import casting, choice
from hourglass_npu.o2.settings import AmpOverflow


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
    casting.cast_model(model, HALF)
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
    out = casting.cast_floats(
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
    with pytest.raises(TypeError, match='closure'):
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
    with pytest.raises(AmpOverflow):
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
        choice.initialize(Toy(), optimizer, enabled=True)


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
# The loss in fp32
# --------------------------------------------------------------------------


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


def test_a_weight_that_is_unfrozen_later_gets_a_master():
    """It would be stepped with scaled gradients."""
    model = Toy()
    joining = dict(low=model.scale.weight, full=model.bn.bias)
    for weight in joining.values():
        weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-10)
    engine = NativeDriver(model, optimizer, make_case('sgd')).engine
    optimizer.zero_grad()
    one_pass(model, engine)
    optimizer.step()
    before = [weight.detach().float().clone() for weight in joining.values()]
    for weight in joining.values():
        weight.requires_grad_()
    optimizer.zero_grad()
    one_pass(model, engine)
    grads = engine._masters_by_param()[id(joining['low'])].grad
    assert 0 < grads.abs().max() < 4
    optimizer.step()
    for weight, old in zip(joining.values(), before):
        assert 0 < (weight.float() - old).abs().max() < 0.01
    master = engine._masters_by_param()[id(joining['low'])]
    assert any(master is param for param in engine.master_params())
    assert torch.equal(master.half(), joining['low'])
    assert torch.equal(model.state_dict()['scale.weight'], master)


def test_a_graph_of_the_gradients_is_no_obstacle():
    model, optimizer, engine = prepare()
    for step in range(2):
        optimizer.zero_grad()
        loss = o2_cases.run_batch(model, step)
        with engine.scale_loss(loss) as scaled:
            scaled.backward(create_graph=True)
        assert not any(
            weight.grad.requires_grad
            for weight in engine.pairs()[1]
            if weight.grad is not None
        )
        optimizer.step()
    optimizer.zero_grad()
    # The graph, and the memory of its pass, go.
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and not any(grad.requires_grad for grad in grads)
