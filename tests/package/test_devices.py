"""How a device computes and gets its data, by stand-ins for devices."""

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
