"""Weights, masters and moments in one block each change no bit."""

import copy
import functools
import io

import pytest
import torch
from o2_cases import (
    OPTIMIZERS,
    NativeDriver,
    Toy,
    bits,
    equal,
    make_case,
    one_pass,
    prepare,
    train,
)

from hourglass_npu.o2 import native
from hourglass_npu.o2.blocks import Block, can_move
from hourglass_npu.o2.tensors import is_part


class Replaces(torch.optim.Adam):
    """Puts new tensors into its state in each step, and into weights."""

    def step(self):
        super().step()
        for weight, state in self.state.items():
            state['exp_avg'] = state['exp_avg'].clone()
            weight.data = weight.data.clone()


def nothing(model, optimizer, twin):
    pass


def replace(model, optimizer, twin):
    model.first.weight.data = model.first.weight.data.clone()


def swap(model, optimizer, twin):
    """Put a weight where another one lies in the block."""
    first, last = model.first.bias, model.scale.weight
    first.data, last.data = last.data, first.data


def turn(model, optimizer, twin):
    weight = model.first.weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def share(model, optimizer, twin):
    model.share_memory()


def freeze(model, optimizer, twin):
    model.first.weight.requires_grad_(False)


def unfreeze(model, optimizer, twin):
    model.frozen.weight.requires_grad_()


def join(model, optimizer, twin):
    model.frozen.weight.requires_grad_()
    model.extra = torch.nn.Parameter(torch.ones(3).to(torch.float16))
    optimizer.add_param_group(dict(params=[model.extra], lr=0.5))


def load(model, optimizer, twin):
    model.load_state_dict(twin[0])
    optimizer.load_state_dict(twin[1])


def load_saved(model, optimizer, twin):
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    load(model, optimizer, torch.load(file))


def deepcopy(model, optimizer, twin):
    assert not any(map(is_part, copy.deepcopy(model).parameters()))


MEANWHILE = [
    nothing,
    replace,
    swap,
    turn,
    share,
    freeze,
    unfreeze,
    join,
    load,
    load_saved,
    deepcopy,
]


@functools.lru_cache(maxsize=None)
def saved_elsewhere():
    model, optimizer, engine = prepare(optimizer='adam')
    train(model, optimizer, engine, 4)
    return model.state_dict(), optimizer.state_dict()


def trained(meanwhile, when, optimizer, on_device):
    """Train five steps, the third with an overflow.

    Returns:
        list[Tensor]: Weights, masters and the optimizer's state.
    """
    twin = [copy.deepcopy(state) for state in saved_elsewhere()]
    model, case = Toy(), make_case('adam')
    kind = optimizer or OPTIMIZERS['adam']
    driver = NativeDriver(model, kind(model.parameters()), case, on_device)
    given, engine = driver.optimizer, driver.engine
    for step in range(5):
        if step == when:
            meanwhile(model, given, twin)
        given.zero_grad()
        one_pass(model, engine, step, 1e8 if step == 2 else 1.0)
        given.step()
    engine.finish()
    assert engine.skipped_steps == 1
    state = [
        value
        for weight in engine.master_params()
        for value in given.state.get(weight, {}).values()
        if isinstance(value, torch.Tensor)
    ]
    return bits([*model.parameters(), *engine.master_params(), *state])


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('when', [0, 2])
@pytest.mark.parametrize('meanwhile', MEANWHILE, ids=lambda do: do.__name__)
def test_the_same_bits_as_one_by_one(monkeypatch, meanwhile, when, on_device):
    arguments = meanwhile, when, None, on_device
    found = trained(*arguments)
    monkeypatch.setattr(native, 'steps_in_place', lambda optimizer: False)
    assert equal(found, trained(*arguments))


@pytest.mark.parametrize('on_device', [False, True])
def test_an_optimizer_that_replaces_tensors(on_device):
    """An overflow is undone in what is in use, not in what was."""

    def plain(params):
        return OPTIMIZERS['adam'](params)

    def replacing(params):
        return Replaces(params, lr=1e-2)

    found = trained(nothing, 0, replacing, on_device)
    assert equal(found, trained(nothing, 0, plain, on_device))


def test_what_is_saved_holds_no_block():
    model, optimizer, engine = prepare(optimizer='adam')
    engine.selects_on_device = True
    train(model, optimizer, engine, 3)
    moments = [s['exp_avg'] for s in optimizer.state.values()]
    assert all(map(is_part, [*engine.pairs()[0], *engine.pairs()[1]]))
    assert sum(map(is_part, moments)) == len(moments)
    saved = [*model.state_dict().values()]
    for state in optimizer.state_dict()['state'].values():
        saved += [v for v in state.values() if isinstance(v, torch.Tensor)]
    with torch.no_grad():
        model.first.weight.fill_(0.5)
    saved += [*engine.state_dict()['masters'].values()]
    assert len(saved) > 20
    assert not any(map(is_part, saved))


def test_a_block_keeps_strides_and_begins_aligned():
    turned = torch.rand(2, 3, 4, 5).contiguous(
        memory_format=torch.channels_last
    )
    tensors = [torch.rand(3), turned, torch.rand(0), torch.rand(2, 2)]
    before = bits(tensors)
    strides = [tensor.stride() for tensor in tensors]
    block, copies = Block(tensors), Block(tensors, torch.float64)
    assert all(a is b for a, b in zip(block.tensors, tensors))
    for moved in (block, copies):
        assert moved.is_whole()
        assert [t.stride() for t in moved.tensors] == strides
        start = moved.pieces[0].data_ptr()
        assert not any(
            (t.data_ptr() - start) % 512 for t in moved.tensors if t.numel()
        )
        assert equal(before, [t.float() for t in moved.tensors])
    block.pieces[0].zero_()
    assert not any(tensor.any() for tensor in tensors)


def test_what_others_may_share_stays_where_it_is():
    whole = torch.rand(4, 4)
    assert can_move(whole)
    assert not can_move(whole[:2])
    assert not can_move(torch.rand(2).expand(3, 2))
    assert not can_move(torch.rand(2).share_memory_())
    assert not can_move(torch.eye(2).to_sparse())


@pytest.mark.skipif(
    not hasattr(torch.Tensor, 'untyped_storage'),
    reason='this torch has no tensors on the meta device',
)
def test_what_is_on_a_device_may_move(monkeypatch):
    """Torch says of all that is on a CUDA device that it is shared."""
    monkeypatch.setattr(torch.Tensor, 'is_shared', lambda tensor: True)
    assert can_move(torch.empty(2, device='meta'))
    assert not can_move(torch.empty(2))
