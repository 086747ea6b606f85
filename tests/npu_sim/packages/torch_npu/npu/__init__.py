"""What the simulated NPU offers as ``torch.npu``."""

import contextlib
import resource

import torch

from .. import _C, sim
from . import utils
from .utils import (
    clear_npu_overflow_flag,
    get_npu_overflow_flag,
)

__all__ = [
    'Event',
    'Stream',
    'clear_npu_overflow_flag',
    'config',
    'current_device',
    'current_stream',
    'default_stream',
    'device',
    'device_count',
    'empty_cache',
    'get_amp_supported_dtype',
    'get_device_name',
    'get_npu_overflow_flag',
    'get_rng_state',
    'init',
    'is_available',
    'is_initialized',
    'manual_seed',
    'manual_seed_all',
    'set_compile_mode',
    'set_device',
    'set_rng_state',
    'set_stream',
    'stream',
    'synchronize',
    'utils',
]


def _index(device):
    """Number of a device that may be given as a number, a text or nothing."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return _C.current_device() if index is None else index


# Devices --------------------------------------------------------------------


def device_count():
    """Number of visible devices; initialises none."""
    return _C.device_count()


def is_available():
    """Whether there is one."""
    return device_count() > 0


def init():
    """Initialises; refused in a process that was forked after that."""
    _C.init()


def is_initialized():
    """Whether this process has touched a device."""
    return _C.is_initialized()


def _is_in_bad_fork():
    return _C.is_in_bad_fork()


def current_device():
    """Number of this thread's device."""
    return _C.current_device()


def set_device(device):
    """Makes a device current, and initialises."""
    index = _index(device)
    _C.set_device(index)
    sim.record('set_device', index)


class device:  # noqa: N801 (the name is torch's)
    """Context in which another device is current."""

    def __init__(self, device):
        self.index = _index(device)

    def __enter__(self):
        self.before = current_device()
        _C.set_device(self.index)

    def __exit__(self, *error):
        _C.set_device(self.before)


def get_device_name(device=None):
    """Name of a device."""
    return 'Ascend910 (simulated)'


def synchronize(device=None):
    """Waits for a device."""
    _C.synchronize(_index(device))


def empty_cache():
    """Nothing is cached here."""


def max_memory_allocated(device=None):
    """Most memory that was held, in bytes: here that of the whole process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def get_amp_supported_dtype():
    """Types for autocast."""
    return [torch.float16, torch.bfloat16]


# Streams and events ---------------------------------------------------------


class Stream(torch.Stream):
    """A queue of calls; what it waits for is kept track of in device.cpp."""

    def __new__(cls, device=None, priority=0, **kwargs):
        if not kwargs:
            device = torch.device('npu', _index(device))
            return super().__new__(cls, device, priority=priority)
        return super().__new__(cls, **kwargs)

    def record_event(self, event=None):
        """Puts an event at the end."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        """Makes later work wait for an event."""
        event.wait(self)


def _stream(device, number):
    index = _index(device)
    return Stream(
        stream_id=number(index),
        device_index=index,
        device_type=torch._C._autograd.DeviceType.PrivateUse1.value,
    )


def current_stream(device=None):
    """The stream in use."""
    return _stream(device, _C.current_stream)


def default_stream(device=None):
    """The stream that is used unless another is chosen."""
    return _stream(device, lambda index: 0)


def set_stream(stream):
    """Makes a stream that of its device."""
    _C.set_stream(stream.device_index, stream.stream_id)


@contextlib.contextmanager
def stream(stream):
    """Context in which a stream, and its device, are current."""
    with device(stream.device_index):
        before = current_stream()
        set_stream(stream)
        try:
            yield
        finally:
            set_stream(before)


class Event(torch.Event):
    """A mark in a stream.

    Waiting for one that is followed by fewer than :attr:`FRESH` operators
    counts as a wait of the host: a real device would not be so far yet.
    """

    FRESH = 100

    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return super().__new__(
            cls, 'npu', enable_timing=enable_timing, blocking=blocking
        )

    def record(self, stream=None):
        """Puts it at the end of the stream."""
        _C.init()
        self._recorded = _C.operators()
        super().record(stream or current_stream())

    def synchronize(self):
        """Waits until the stream has got here."""
        recorded = getattr(self, '_recorded', None)
        if recorded is None:
            return
        if _C.operators() - recorded < self.FRESH:
            sim.note_host_sync('event')
        super().synchronize()


# Random numbers -------------------------------------------------------------


def manual_seed(seed):
    """Seeds the generator of the current device."""
    _C.default_generator(current_device()).manual_seed(seed)


def manual_seed_all(seed):
    """Seeds the generators of all devices."""
    for index in range(device_count()):
        _C.default_generator(index).manual_seed(seed)


def get_rng_state(device='npu'):
    """State of a device's generator."""
    return _C.default_generator(_index(device)).get_state()


def set_rng_state(state, device='npu'):
    """Gives a device's generator a state back."""
    _C.default_generator(_index(device)).set_state(state)


# Settings -------------------------------------------------------------------


def set_compile_mode(jit_compile=False):
    """Whether operators are compiled when first used; recorded."""
    if not isinstance(jit_compile, bool):
        raise TypeError(f'jit_compile={jit_compile!r} is no bool')
    sim.record('jit_compile', jit_compile)


class _Config:
    """Switches; what is set is recorded."""

    def __setattr__(self, name, value):
        if name != 'allow_internal_format':
            raise AttributeError(name)
        if not isinstance(value, bool):
            raise TypeError(f'{name}={value!r} is no bool')
        sim.record(name, value)


config = _Config()
