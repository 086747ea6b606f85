"""mmcv/runner/hooks/iter_timer.py: seconds of iterations, and their sums.

The log buffer gets what mmcv 1.2.7 puts there. The sums are new: a speed is
computed from them. So are two things that are here because no file may be
added, for :mod:`mmcv.runner.checkpoint`: what a checkpoint may hold, and the
states of random generators that it holds.
"""

import functools
import pickle
import random
import re
import sys
import time
import types
from collections import OrderedDict, namedtuple
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from numbers import Integral
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import numpy as np
import torch

from ..dist_utils import UserError, accelerator_in_use
from .hook import HOOKS, Hook


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Times iterations into the log buffer, and sums them up.

    ``data_time`` and ``time`` go into the buffer for every iteration: the
    seconds until its batch was there, and until it was done.

    The sums are those of the current epoch. They leave out its first
    :attr:`WARMUP_ITERS` iterations, in which workers start and kernels are
    chosen or compiled; an epoch that is not longer than that counts whole.
    Times are the host's: on a device that works asynchronously
    :attr:`counted_time` lags behind what has been queued until the device is
    waited for, see :meth:`seconds_until_now`.

    Attributes:
        WARMUP_ITERS (int): Iterations left out at the start of an epoch.
        t (float): Reading of the clock when the iteration before ended.
        counted_iters (int): Iterations in the sums.
        counted_time (float): Their seconds, waiting for data included.
        counted_samples (int | None): Their samples on this process, by
            ``num_samples`` of the runner's outputs; None if an iteration did
            not tell.
    """

    WARMUP_ITERS = 5

    t = 0.0
    counted_iters = 0
    counted_time = 0.0
    counted_samples = 0
    _epoch_iters = 0

    def before_epoch(self, runner):
        """Start the clock and the sums."""
        self._restart_sums()
        self._epoch_iters = 0
        self.t = time.perf_counter()

    def before_iter(self, runner):
        """Log the time for which the batch was waited for."""
        seconds = time.perf_counter() - self.t
        runner.log_buffer.update({'data_time': seconds})

    def after_iter(self, runner):
        """Log the time of the iteration and add it up."""
        now = time.perf_counter()
        seconds = now - self.t
        self.t = now
        runner.log_buffer.update({'time': seconds})

        if self._epoch_iters == self.WARMUP_ITERS:
            # The epoch is long enough: what was counted was the warm-up.
            self._restart_sums()
        self._epoch_iters += 1
        self.counted_iters += 1
        self.counted_time += seconds
        samples = (getattr(runner, 'outputs', None) or {}).get('num_samples')
        # A tensor is not asked for its value: that would wait for the device.
        if isinstance(samples, Integral) and self.counted_samples is not None:
            self.counted_samples += int(samples)
        else:
            self.counted_samples = None

    def seconds_until_now(self):
        """Return :attr:`counted_time` and the time since the last iteration.

        After the device has been waited for, this is the true time of the
        counted iterations.
        """
        return self.counted_time + time.perf_counter() - self.t

    def _restart_sums(self):
        self.counted_iters = 0
        self.counted_time = 0.0
        self.counted_samples = 0


# What a checkpoint may hold: plain data and tensors -------------------------

# More than any training has. Of text and bytes Python hides the hashes; a
# file could let all other keys collide, which takes the square of their count.
_MOST_PARTS, _MOST_LEVELS, _MOST_ODD_KEYS = 5 * 10**6, 100, 2000
_MOST_ELEMENTS = 2**37
_CONTAINERS = (dict, list, tuple, set, frozenset, types.SimpleNamespace)
_LONG = (str, bytes, bytearray, dict, list, tuple)


class NotPlainError(pickle.UnpicklingError):
    """A file may be intact, but holds more than plain data."""


def need(holds, fault):
    """Refuse a file; torch would believe its numbers."""
    if not holds:
        raise ValueError(fault)


def is_count(value):
    """Tell whether a value is a whole number that can count something."""
    return type(value) is int and 0 <= value < 2**53


def take_up(what, load, *args):
    """Call ``load`` for a part of a checkpoint, which may be spoilt.

    Args:
        what (str): The part, for the message.
        load (callable): Uses it, with ``args``.
        *args: For ``load``.

    Raises:
        UserError: ``load`` has failed.
    """
    try:
        load(*args)
    except Exception as error:
        if getattr(error, 'is_user_error', False):
            raise
        reason = str(error).strip()[:200].split('\n')[0]
        raise UserError(
            f'{what} cannot be used to go on from: it is damaged or of '
            f'another training ({type(error).__name__}: {reason})'
        ) from error


class _NumpyDtype:
    """Stands for ``numpy.dtype`` in a checkpoint: numbers, text and bytes.

    A real dtype must not be restored: flags in its ``__setstate__`` make
    numpy follow pointers out of the file. ``code`` is kind and size, such as
    ``f8``; the other arguments have no meaning here.
    """

    def __init__(self, code, align=False, copy=False):
        if not re.fullmatch(r'[biufcSU]\d+', code):
            raise NotPlainError(f'it holds an array of numpy dtype {code!r}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        """Take over the byte order, the only state that is needed."""
        version, order, *parts, size, alignment, flags = state
        sound = version == 3 and parts == [None] * 3
        if self.dtype.kind in 'SU':
            sound &= size == self.dtype.itemsize
        else:
            sound &= (size, alignment, flags) == (-1, -1, 0)
        need(sound, f'a numpy dtype with state {state!r}')
        self.dtype = self.dtype.newbyteorder(order)


class _NumpyArray(np.ndarray):
    """Stands for ``numpy.ndarray``; empty until its state comes."""

    def __new__(cls, *unused):
        return super().__new__(cls, 0, np.bool_)

    def __setstate__(self, state):
        version, shape, dtype, is_fortran, data = state
        # numpy multiplies with numbers that overflow.
        size = np.prod([dtype.dtype.itemsize, *shape], dtype=object)
        need(min(shape, default=0) >= 0 and size == len(data), 'an array')
        super().__setstate__((version, shape, dtype.dtype, is_fortran, data))

    def __reduce__(self):
        return self.view(np.ndarray).__reduce__()


def _numpy_scalar(dtype, data):
    """Stand for numpy's ``scalar``."""
    (value,) = np.frombuffer(data, dtype.dtype)
    return value


def _latin1_bytes(text, encoding):
    """Stand for ``_codecs.encode``, which takes any codec, even unpacking.

    Pickle protocol 2 writes bytes by it.
    """
    if encoding not in ('latin1', 'latin-1'):
        raise NotPlainError(f'it holds bytes encoded as {encoding!r}')
    return text.encode('latin1')


def _bytearray(content=b'', encoding='latin1'):
    """Stand for ``bytearray``, which takes a length, too."""
    need(isinstance(content, (str, bytes)), 'bytes without content')
    is_text = isinstance(content, str)
    return bytearray(_latin1_bytes(content, encoding) if is_text else content)


def _slice(*numbers):
    need(all(type(n) in (int, type(None)) for n in numbers), 'a slice')
    return slice(*numbers)


def _list(items=(), *unused):
    """Stand for a deque."""
    need(isinstance(items, (list, tuple)), 'a deque')
    return list(items)


class _Dict:
    """Stands for kinds of dict; becomes a plain one."""

    def __new__(cls, first=None, *unused):
        return dict(first) if isinstance(first, dict) else {}


class _Text:
    """Stands for torch's version; becomes a plain string."""

    def __new__(cls, text):
        need(isinstance(text, str), 'a version')
        return text


# A storage that torch has made, its bytes, and those of an element.
_Storage = namedtuple('_Storage', 'made size item')
# Stands for a class of storages, whose call would give a storage of any size.
_StorageKind = namedtuple('_StorageKind', 'kind')


def _checked(rebuild):
    """Let a function of torch make tensors inside of their storage only."""

    def make(storage, offset, sizes, strides, *rest):
        numbers = [offset, *sizes, *strides]
        sound = all(type(n) is int and n >= 0 for n in numbers)
        sound &= len(sizes) <= 64
        need(sound and len(sizes) == len(strides), 'a tensor of no shape')
        item = storage.item
        if len(rest) > 2 and isinstance(rest[2], torch.dtype):
            item = torch.empty(0, dtype=rest[2]).element_size()
        end = 1 + offset + sum((n - 1) * s for n, s in zip(sizes, strides))
        inside = 0 in sizes or end * item <= storage.size
        count = np.prod(sizes, dtype=object)
        need(inside and count <= _MOST_ELEMENTS, 'a tensor out of its storage')
        need(rest[1:2] in ((), (None,), (OrderedDict(),)), 'a hook')
        return rebuild(storage.made, offset, sizes, strides, *rest)

    return make


def _parameter(data, requires_grad, *unused):
    return torch.nn.Parameter(data, requires_grad)


def _allowed_globals():
    """List what a checkpoint may name.

    Returns:
        dict[str, Any]: By the full name in the file. All that can be called
        is free of effects whatever the arguments.
    """
    known = {
        'collections.OrderedDict': OrderedDict,
        '_codecs.encode': _latin1_bytes,
        'numpy.ndarray': _NumpyArray,
        'numpy.dtype': _NumpyDtype,
        'builtins.bytearray': _bytearray,
        'builtins.xrange': range,
        'builtins.slice': _slice,
        'collections.deque': _list,
        'argparse.Namespace': types.SimpleNamespace,
        'types.SimpleNamespace': types.SimpleNamespace,
        'torch.Size': torch.Size,
        'torch.device': torch.device,
        'torch.torch_version.TorchVersion': _Text,
        'torch.Tensor': 'torch.Tensor',
        'torch.nn.parameter.Parameter': torch.nn.Parameter,
        'torch._utils._rebuild_parameter': _parameter,
        # Attributes of tensors are left out.
        'torch._utils._rebuild_parameter_with_state': _parameter,
        'torch._tensor._rebuild_from_type_v2': (
            lambda rebuild, kind, args, state: rebuild(*args)
        ),
    }
    # The module moved in numpy 2.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        known[module + '.scalar'] = _numpy_scalar
        known[module + '._reconstruct'] = _NumpyArray
    for name in (
        'collections.defaultdict collections.Counter addict.addict.Dict '
        'easydict.EasyDict mmcv.utils.config.ConfigDict '
        'mmengine.config.config.ConfigDict'
    ).split():
        known[name] = _Dict
    # What a defaultdict makes; it is a plain dict here.
    for kind in (bool, int, float, str, list, tuple, dict):
        known['builtins.' + kind.__name__] = kind.__name__
    for kind in (set, frozenset, complex, range):
        known['builtins.' + kind.__name__] = kind
    for kind in (date, datetime, time_of_day, timedelta, timezone):
        known['datetime.' + kind.__name__] = kind
    for module in ('pathlib.', 'pathlib._local.'):
        for kind in (PurePosixPath, PureWindowsPath):
            known[module + kind.__name__] = kind
            known[module + kind.__name__[len('Pure') :]] = kind
    for kind in ('tensor', 'tensor_v2', 'tensor_v3'):
        name = '_rebuild_' + kind
        if hasattr(torch._utils, name):
            rebuild = _checked(getattr(torch._utils, name))
            known['torch._utils.' + name] = rebuild
    for kind in torch._storage_classes:
        known[f'{kind.__module__}.{kind.__name__}'] = _StorageKind(kind)
    for name, member in vars(torch).items():
        if isinstance(member, torch.dtype):
            known['torch.' + name] = member
    return known


# The unpickler in Python, because the fast one does not let opcodes be
# watched. The numbers of tensors do not go through it, so it is fast enough.
class Unpickler(pickle._Unpickler):
    """Unpickler that makes nothing but plain data and tensors.

    torch believes what a pickle says of storages. Here their numbers are
    Python's, which do not overflow, and are compared with the file.

    Attributes:
        records (dict[str, int] | None): Bytes of each record of a zip
            archive; None for the older format.
        storages (dict): By key, bytes of the storage and of an element.
        left (int): Bytes that further storages may have.
        work (int): Parts of arguments that further calls may have.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    allowed = _allowed_globals()
    hashed = (str, bytes, int, float, complex, type(None), frozenset, date)
    hashed += (np.generic, torch.dtype, torch.device, PurePath)
    odd_keys = 0

    def __init__(self, file, **kwargs):
        super().__init__(file, **kwargs)
        self._file_readline = lambda: file.readline(4096)

    def find_class(self, module, name):
        """Return an allowed object; names of Python 2 mean those of 3."""
        module = {'__builtin__': 'builtins'}.get(module, module)
        try:
            found = self.allowed[f'{module}.{name}']
        except KeyError:
            raise NotPlainError(f'it names {module}.{name}') from None
        if found in (set, frozenset, OrderedDict):
            return functools.partial(self._collect, found)
        return found

    def _collect(self, kind, items=()):
        """Make a set, or a dict of pairs."""
        need(isinstance(items, (list, tuple)), f'a {kind.__name__}')
        is_dict = kind is OrderedDict
        self._check_keys([item[0] for item in items] if is_dict else items)
        return kind(items)

    def _check_keys(self, keys):
        for key in keys:
            if type(key) is int and abs(key) < sys.hash_info.modulus:
                continue
            if type(key) in (str, bytes, float, bool, type(None)):
                continue
            parts = key if isinstance(key, tuple) else [key]
            sound = all(isinstance(part, self.hashed) for part in parts)
            self.odd_keys += 1 + len(parts)
            few = self.odd_keys <= _MOST_ODD_KEYS
            need(sound and few, 'keys that can collide')

    def _set_items(self, keys, values):
        target = self.stack[-1]
        need(isinstance(target, dict), 'an item of no dict')
        self._check_keys(keys)
        target.update(zip(keys, values))

    def load_setitem(self):
        """Take one item of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key], [value])

    def load_setitems(self):
        """Take several items of a dict."""
        items = self.pop_mark()
        self._set_items(items[::2], items[1::2])

    def _spend(self, args):
        """Let work on arguments, which may be the same, end with the file."""
        need(isinstance(args, tuple), 'a call without arguments')
        self.work -= sum(len(a) for a in args if isinstance(a, _LONG))
        need(self.work >= 0, 'it makes more than it holds')

    def _instantiate(self, kind, args):
        self._spend(tuple(args))
        super()._instantiate(kind, args)

    def load_reduce(self):
        """Call what a file names."""
        self._spend(self.stack[-1])
        super().load_reduce()

    def load_newobj(self):
        """Make an object of a class that a file names."""
        self._spend(self.stack[-1])
        super().load_newobj()

    def load_build(self):
        """Give an object its state; never a class or a function."""
        state = self.stack.pop()
        made = self.stack[-1]
        kind = type(made)
        if kind in (_NumpyArray, _NumpyDtype):
            self._spend(state)
            made.__setstate__(state)
        elif kind in (OrderedDict, types.SimpleNamespace):
            hides = any(hasattr(kind, key) for key in state)
            need(isinstance(state, dict) and not hides, 'a state of methods')
            vars(made).update(state)
        elif kind is torch.nn.Parameter:  # of torch before 0.4
            if len(state) == 5:
                made.data = state[0]
            made.requires_grad = state[3 if len(state) == 5 else 0]
        elif kind is not dict:  # kinds of dict repeat their items
            raise NotPlainError(f'it holds the state of a {kind.__name__}')

    def load_binpersid(self):
        """Let torch make a storage if the file holds as many bytes."""
        word, kind, key, location, elements, *view = self.stack.pop()
        kind = getattr(kind, 'kind', kind)
        is_class = isinstance(kind, type)
        one = kind(0) if is_class else torch.empty(0, dtype=kind.dtype)
        item = one.element_size()
        sound = type(elements) is int and elements >= 0
        sound &= word == 'storage' and not any(view) and isinstance(key, str)
        need(sound, 'a storage of no known form')
        size = elements * item
        if key not in self.storages:
            self.storages[key] = size, item
            self.left -= size
        same = self.storages[key] == (size, item) and self.left >= 0
        if self.records is not None:
            same &= self.records.get(f'data/{key}') == size
        need(same, f'storage {key} has another size')
        saved = (word, kind, key, location, elements, *view)
        self.append(_Storage(self.persistent_load(saved), size, item))

    def load_foreign(self):
        """Refuse an opcode that makes dicts, sets and numbers unseen."""
        raise ValueError('it is no pickle of torch')

    dispatch.update(
        dict.fromkeys(b'PpdL\x8b\x8f\x90\x91\x92\x96', load_foreign)
    )
    dispatch.update(
        {
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.BINPERSID[0]: load_binpersid,
        }
    )


def check_extent(root):
    """Refuse what would take very long to go through.

    What is held twice counts twice, and what holds itself without end.
    """
    count, stack = 0, [(root, 0)]
    while stack:
        part, level = stack.pop()
        need(not isinstance(part, _Storage), 'a storage without a tensor')
        if isinstance(part, dict):
            inner = [*part.values(), *getattr(part, '__dict__', {}).values()]
        elif isinstance(part, types.SimpleNamespace):
            inner = [*vars(part).values()]
        else:
            inner = [*part]
        count += 1 + len(inner)
        fits = count <= _MOST_PARTS and level <= _MOST_LEVELS
        need(fits, 'it holds too many parts or levels')
        stack += [(p, level + 1) for p in inner if isinstance(p, _CONTAINERS)]


# Random states ------------------------------------------------------------

_NUMPY_KEYS = ('position', 'has_gauss', 'cached_gaussian')


def get_random_state():
    """Return the state of every random generator of this process.

    Returns:
        dict: ``python``, ``numpy``, ``torch`` (the CPU's) and, by its kind,
        that of the device in use. Only numbers and tensors on the CPU, so
        that a checkpoint can hold it.
    """
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    state = dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            zip(_NUMPY_KEYS, rest),
            keys=torch.from_numpy(keys.astype(np.int64)),
        ),
        torch=torch.get_rng_state(),
    )
    kind, accelerator = accelerator_in_use()
    if hasattr(accelerator, 'get_rng_state'):
        state[kind] = accelerator.get_rng_state()
    return state


def set_random_state(state):
    """Restore the random generators of this process, if the state is sound.

    Args:
        state (dict): From :func:`get_random_state`. A device's part counts
            only if the device in use is of the same kind.
    """
    python, numpy = state['python'], state['numpy']
    position, gauss = numpy['position'], python['gauss']
    # With a larger one numpy would read beyond its words.
    need(is_count(position) and position <= 624, 'a state of numpy')
    numbers = (numpy['cached_gaussian'], 0.0 if gauss is None else gauss)
    need(all(type(n) is float for n in numbers), 'a random state')
    words = tuple(python['words'].tolist())
    random.setstate((python['version'], words, python['gauss']))
    keys = numpy['keys'].numpy().astype(np.uint32)
    rest = [numpy[key] for key in _NUMPY_KEYS]
    np.random.set_state(('MT19937', keys, *rest))
    torch.set_rng_state(state['torch'])
    kind, accelerator = accelerator_in_use()
    if kind in state and hasattr(accelerator, 'set_rng_state'):
        accelerator.set_rng_state(state[kind])
