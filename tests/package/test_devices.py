"""How a device computes and gets its data, by stand-ins for devices."""

import os
from types import SimpleNamespace

import pytest
import torch
from device_stand_ins import Device, fresh_process, host_with  # noqa: F401
from mmcv.runner import dist_utils

from hourglass_npu import devices
from hourglass_npu.errors import UserError


@pytest.fixture(autouse=True)
def no_stream():
    """A process that has not made a stream yet."""
    devices._copy_stream.cache_clear()
    yield
    devices._copy_stream.cache_clear()


def arithmetic():
    backends = torch.backends
    return [
        backends.cudnn.benchmark,
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
    ]


def test_arithmetic_of_cuda_is_set_on_request_only(host, monkeypatch):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    for place, name in (
        (cudnn, 'benchmark'),
        (cudnn, 'allow_tf32'),
        (matmul, 'allow_tf32'),
    ):
        # Given back afterwards.
        monkeypatch.setattr(place, name, getattr(place, name))
    host(cuda=1)
    before = arithmetic()
    assert devices.set_arithmetic() == []
    assert arithmetic() == before
    for wanted in (True, False):
        assert devices.set_arithmetic(wanted, wanted) == []
        assert arithmetic() == [wanted] * 3
    dist_utils.set_device('cpu')
    assert devices.set_arithmetic(False, True) == ['allow_tf32']
    assert arithmetic() == [False] * 3


def test_channels_last_is_refused_on_an_npu(host):
    host(npu=1)
    devices.check_channels_last(Device('cuda', 0))
    with pytest.raises(UserError, match='channels_last is not for an NPU'):
        devices.check_channels_last(dist_utils.set_device('npu'))


@pytest.mark.parametrize('kind', ['npu', 'cuda', 'cpu'])
@pytest.mark.parametrize('pinned', [True, False])
@pytest.mark.parametrize('wanted', [None, True, False])
def test_prefetch_is_had_or_refused(kind, pinned, wanted):
    able = pinned and kind != 'cpu'
    words = 'device_prefetch (needs pin_memory|is for .* not for cpu)'
    if wanted and not able:
        with pytest.raises(UserError, match=words):
            devices.choose_prefetch(wanted, Device(kind), pinned)
        return
    found = devices.choose_prefetch(wanted, Device(kind), pinned)
    assert found is (able and wanted is not False)


class Stream:
    """Stand in for a stream, and notes in a list what is asked of it."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __enter__(self):
        self.calls.append(f'in {self.name}')

    def __exit__(self, *error):
        self.calls.append(f'out of {self.name}')

    def wait_stream(self, other):
        self.calls.append(f'{self.name} waits for {other.name}')


class Sent(torch.Tensor):
    """A tensor that only says where it would go."""

    def to(self, device, **options):
        self.calls.append(f'to {device} {options}')
        return self

    def record_stream(self, stream):
        self.calls.append(f'used by {stream.name}')


@pytest.mark.parametrize('kind', ['npu', 'cuda'])
def test_a_copy_goes_beside_and_what_follows_waits(host, monkeypatch, kind):
    host(**{kind: 2})
    calls, made = [], []

    def make(device):
        made.append(str(device))
        return Stream('copies', calls)

    for name, function in dict(
        Stream=make,
        stream=lambda stream: stream,
        current_stream=lambda device: Stream('computation', calls),
    ).items():
        module = getattr(torch, kind)
        monkeypatch.setattr(module, name, function, raising=False)
    tensor = torch.ones(1).as_subclass(Sent)
    tensor.calls = calls
    device = Device(kind, 1)
    for _ in range(2):
        assert devices.send_beside(tensor, device) is tensor
    assert calls == 2 * [
        'in copies',
        f"to {kind}:1 {{'non_blocking': True}}",
        'out of copies',
        'computation waits for copies',
        'used by computation',
    ]
    # Streams are dear on an NPU: there is one.
    assert made == [f'{kind}:1']


def test_arithmetic_of_an_npu_has_its_own_switches(host):
    npu = host(npu=1)['npu']
    dist_utils.set_device('npu')
    # The first torch_npu 1.8.1 has none.
    assert devices.set_arithmetic(True, True) == [
        'cudnn_benchmark',
        'allow_tf32',
    ]
    npu.conv = SimpleNamespace(allow_hf32=True)
    npu.matmul = SimpleNamespace(allow_hf32=False)
    assert devices.set_arithmetic() == []
    assert (npu.conv.allow_hf32, npu.matmul.allow_hf32) == (True, False)
    for wanted in (True, False):
        assert devices.set_arithmetic(allow_tf32=wanted) == []
        assert (npu.conv.allow_hf32, npu.matmul.allow_hf32) == (wanted,) * 2


def test_an_npu_is_asked_to_be_repeatable(host, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, 'use_deterministic_algorithms', asked.append)
    host(npu=1)
    dist_utils.set_device('cpu')
    devices.make_repeatable()
    assert asked == [] and 'HCCL_DETERMINISTIC' not in os.environ
    dist_utils.set_device('npu')
    devices.make_repeatable()
    assert asked == [True] and os.environ['HCCL_DETERMINISTIC'] == 'true'


@pytest.mark.parametrize(
    'number, halves', [(102, True), (202, True), (222, False), (-1, False)]
)
def test_first_chips_halve_convolutions(host, number, halves):
    npu = host(npu=1)['npu']
    device = dist_utils.set_device('npu')
    assert not devices.halves_convolutions(device)  # it does not tell
    npu.utils = SimpleNamespace(get_soc_version=lambda: number)  # 1.8.1
    assert devices.halves_convolutions(device) is halves
    del npu.utils
    npu.get_soc_version = lambda: number
    assert devices.halves_convolutions(device) is halves
    assert not devices.halves_convolutions(dist_utils.set_device('cpu'))


def test_the_modes_of_an_npu_are_said(host):
    npu = host(npu=1)['npu']
    os.environ['NPU_INTERNAL_FORMAT'] = '1'
    npu.is_jit_compile_false = lambda: False
    dist_utils.set_device('npu')
    assert devices.describe_npu() == (
        'NPU: compiling operators on (the default), private formats on '
        '(NPU_INTERNAL_FORMAT)'
    )


class Iterator:
    def __init__(self, pinned):
        self._pin_memory = pinned

    def __next__(self):
        raise AssertionError('nothing is loaded')


class Loader:
    """What counts of a DataLoader; up to 2.6 its iterator pins like this."""

    cuda = False  # whether torch finds one

    def __init__(
        self,
        dataset=(),
        pin_memory=True,
        pin_memory_device='',
        generator=None,
    ):
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device

    def __iter__(self):
        pinned = self.pin_memory and self.cuda
        if self.pin_memory_device:
            assert self.pin_memory, 'torch warns'
            pinned = True
        return Iterator(pinned)


def test_a_loader_is_told_what_to_pin_for(monkeypatch):
    npu, cuda, cpu = (SimpleNamespace(type=t) for t in ('npu', 'cuda', 'cpu'))
    monkeypatch.setattr(devices, 'TORCH', (2, 6))
    monkeypatch.setattr(torch.utils.data, 'DataLoader', Loader)
    for device, loader, told in (
        (npu, Loader(), 'npu'),
        (npu, Loader(pin_memory=False), ''),
        (npu, Loader(pin_memory_device='cuda'), 'cuda'),
        (cuda, Loader(), ''),
        (cpu, Loader(), ''),
    ):
        devices.let_pin(loader, device)
        assert loader.pin_memory_device == told
        monkeypatch.setattr(Loader, 'cuda', device is cuda)
        assert devices.pins(loader) is (
            loader.pin_memory and device is not cpu
        )
    # Later ones know by themselves, and warn of the argument.
    monkeypatch.setattr(devices, 'TORCH', (2, 7))
    loader = Loader()
    devices.let_pin(loader, npu)
    assert loader.pin_memory_device == ''
    devices.let_pin(SimpleNamespace(pin_memory=True), npu)  # torch 1.8


def test_whether_memory_is_pinned_is_asked_of_the_iterator():
    """The wish is one thing: without an accelerator torch pins nothing."""
    state = torch.get_rng_state()
    wished = torch.utils.data.DataLoader([0], pin_memory=True)
    assert devices.pins(wished) is torch.cuda.is_available()
    assert not devices.pins(torch.utils.data.DataLoader([0]))
    assert torch.equal(state, torch.get_rng_state())
