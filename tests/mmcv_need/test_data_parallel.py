"""MMDataParallel: what reaches the model, and where."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from launching import TORCH
from mmcv.parallel import DataContainer, MMDataParallel, is_module_wrapper
from mmcv.parallel.data_parallel import find_device, unpack
from torch import nn


class Echo(nn.Module):
    """Return its arguments, through each of the three ways in."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer('count', torch.zeros(1))

    def forward(self, *args, **kwargs):
        return 'forward', args, kwargs

    def train_step(self, *args, **kwargs):
        return 'train_step', args, kwargs

    def val_step(self, *args, **kwargs):
        return 'val_step', args, kwargs


def call(wrapper, way, *args, **kwargs):
    return getattr(wrapper, way)(*args, **kwargs)


WAYS = ['forward', 'train_step', 'val_step']


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('device_ids', [None, [0], [], [-1]])
def test_unpacks_for_a_model_on_the_cpu(way, device_ids):
    if torch.cuda.is_available() and device_ids == [0]:
        pytest.skip('torch moves the model to the accelerator here')
    model = Echo()
    wrapper = MMDataParallel(model, device_ids=device_ids)
    assert wrapper.device_ids == []
    img, boxes = torch.randn(2, 3), [torch.ones(1), torch.zeros(2)]
    metas = [{'id': 1}, {'id': 2}]
    optimizer = object()
    called, args, kwargs = call(
        wrapper,
        way,
        {'img': DataContainer([img], stack=True), 'n': 5},
        optimizer,
        boxes=DataContainer([boxes]),
        metas=DataContainer([metas], cpu_only=True),
        pair=(img, 'text'),
    )
    assert called == way
    assert args[0] == {'img': img, 'n': 5} and args[1] is optimizer
    assert [torch.equal(a, b) for a, b in zip(kwargs['boxes'], boxes)] == [
        True,
        True,
    ]
    assert kwargs['metas'] is metas
    assert kwargs['pair'][0] is img and kwargs['pair'][1] == 'text'


@pytest.mark.parametrize('way', WAYS)
def test_calls_without_arguments(way):
    assert call(MMDataParallel(Echo()), way) == (way, (), {})


def test_forward_gives_what_stock_gives(stock):
    theirs = stock('mmcv', 'parallel/data_parallel.py').MMDataParallel
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    img = torch.randn(2, 3, 8, 8)
    ours = MMDataParallel(model, device_ids=[0])
    assert torch.equal(ours(img), theirs(model, device_ids=[0])(img))


def test_structures_are_kept():
    Pair = namedtuple('Pair', 'first second')
    tensor = torch.ones(1)
    data = OrderedDict(
        b=[tensor, {'deep': DataContainer([tensor])}],
        a=Pair(tensor, 'x'),
        empty=[(), {}, []],
        none=None,
    )
    out = unpack(data, tensor.device)
    assert list(out) == ['b', 'a', 'empty', 'none']
    assert out['b'] == [tensor, {'deep': tensor}]
    assert isinstance(out['a'], Pair) and out['a'].second == 'x'
    assert out['empty'] == [(), {}, []]


def test_a_container_that_was_not_collated_gives_its_content():
    tensor = torch.ones(2, 3)
    assert unpack(DataContainer(tensor), tensor.device) is tensor
    meta = {'id': 1}
    assert unpack(DataContainer(meta, cpu_only=True), tensor.device) is meta


def test_a_container_for_two_devices_is_refused():
    wrapper = MMDataParallel(Echo())
    two = DataContainer([torch.ones(1), torch.ones(1)])
    with pytest.raises(ValueError, match='holds 2 batches'):
        wrapper.train_step({'img': two})


class Recorder(torch.Tensor):
    """A tensor that says where it was sent."""

    def to(self, device, **options):
        return device, options


@pytest.mark.parametrize('index, non_blocking', [(3, True), (None, False)])
def test_tensors_are_sent_without_blocking_to_accelerators_only(
    index, non_blocking
):
    tensor = torch.ones(1).as_subclass(Recorder)
    device = SimpleNamespace(index=index)
    expected = device, {'non_blocking': non_blocking}
    data = {'a': tensor, 'b': DataContainer([[tensor]])}
    assert unpack(data, device) == {'a': expected, 'b': [expected]}
    kept = DataContainer([[tensor]], cpu_only=True)
    assert unpack(kept, device)[0] is tensor


@pytest.mark.parametrize('way', WAYS)
def test_another_way_to_send_serves_all_inputs(way):
    model = Echo()
    wrapper = MMDataParallel(model, device_ids=[-1])
    sent = []
    wrapper.send = lambda tensor, device: sent.append(device) or 'there'
    kept = DataContainer([[torch.ones(1)]], cpu_only=True)
    data = {'a': [torch.ones(1)], 'b': (DataContainer([torch.ones(1)]), kept)}
    _, args, kwargs = call(wrapper, way, data, img=torch.ones(1))
    assert args[0]['a'] == ['there'] and args[0]['b'][0] == 'there'
    assert args[0]['b'][1][0].item() == 1 and kwargs['img'] == 'there'
    assert sent == [torch.device('cpu')] * 3


@pytest.mark.skipif(TORCH < (2, 0), reason='meta device: torch 2')
@pytest.mark.parametrize('way', WAYS)
def test_inputs_follow_the_parameters(way):
    model = Echo().to('meta')
    wrapper = MMDataParallel(model, device_ids=[-1])
    img = torch.ones(1)
    _, args, kwargs = call(wrapper, way, img, img=DataContainer([img]))
    assert args[0].device.type == kwargs['img'].device.type == 'meta'


def test_find_device():
    assert find_device(Echo()) == torch.device('cpu')
    assert find_device(nn.ReLU()) is None
    assert find_device(nn.BatchNorm1d(2, affine=False)).type == 'cpu'


def test_a_model_without_tensors_gets_inputs_as_they_are():
    img = torch.ones(1)
    assert MMDataParallel(nn.Identity(), device_ids=[])(img) is img


def test_a_model_on_the_cpu_stays_there_beside_an_accelerator(monkeypatch):
    """Alone, torch would take every accelerator that it finds."""

    def refuse(*_, **__):
        raise AssertionError('torch has chosen a device')

    monkeypatch.setattr(torch.nn.parallel.DataParallel, '__init__', refuse)
    wrapper = MMDataParallel(Echo())
    assert wrapper.device_ids == [] and wrapper.dim == 0
    assert find_device(wrapper) == torch.device('cpu')
    with pytest.raises(AssertionError, match='torch has chosen'):
        MMDataParallel(Echo(), device_ids=[0])


def on_device(wrapper, device):
    """Make a wrapper look as torch leaves it where ``device`` is there."""
    wrapper.device_ids = [0]
    wrapper.src_device_obj = torch.device(device)
    return wrapper


@pytest.mark.parametrize('way', WAYS)
def test_a_model_that_has_left_its_device_is_refused(way):
    wrapper = on_device(MMDataParallel(Echo()), 'cpu')
    assert call(wrapper, way, 1) == (way, (1,), {})
    on_device(wrapper, 'cuda:1')
    with pytest.raises(RuntimeError, match='must be on cuda:1.*is on cpu'):
        call(wrapper, way, 1)


@pytest.mark.parametrize('way', ['train_step', 'val_step'])
def test_steps_are_for_one_device(way):
    wrapper = on_device(MMDataParallel(Echo()), 'cpu')
    wrapper.device_ids = [0, 1]
    with pytest.raises(AssertionError, match='single device'):
        call(wrapper, way, 1)


def test_scatter_gives_one_call_for_one_device():
    wrapper = MMDataParallel(Echo(), dim=1)
    assert wrapper.dim == 1
    img = torch.ones(1)
    inputs, kwargs = wrapper.scatter((img,), {}, [-1])
    assert len(inputs) == len(kwargs) == 1
    assert inputs[0][0] is img and kwargs[0] == {}


def test_is_a_module_wrapper():
    assert is_module_wrapper(MMDataParallel(Echo()))
