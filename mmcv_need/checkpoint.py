"""mmcv/runner/checkpoint.py: read without running code, written whole.

Four things differ from mmcv 1.2.7:

- Reading never runs code of a checkpoint, unless :func:`trust_checkpoints`.
- A checkpoint's name always stands for a whole file.
- Reading compares the file with the checksums in it.
- When several processes load and one fails, all of them fail.
"""

import contextlib
import fcntl
import glob
import io
import os
import os.path as osp
import pickle
import pkgutil
import re
import shutil
import sys
import tarfile
import time
import types
import uuid
import warnings
import zipfile
from collections import OrderedDict, namedtuple
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from importlib import import_module
from tempfile import TemporaryDirectory
from urllib.parse import urlparse

import mmcv
import numpy as np
import torch
from torch import distributed as dist
from torch.optim import Optimizer

from ..fileio import FileClient
from ..fileio import load as load_file
from ..parallel import is_module_wrapper
from ..utils import mkdir_or_exist
from .dist_utils import UserError, get_dist_info, get_host_group
from .hooks.optimizer import engine_of

ENV_MMCV_HOME = 'MMCV_HOME'
ENV_XDG_CACHE_HOME = 'XDG_CACHE_HOME'
DEFAULT_CACHE_DIR = '~/.cache'

_TORCH = tuple(int(n) for n in re.findall(r'\d+', torch.__version__)[:2])


class _UserError:
    """Mark errors of a builtin type as mistakes of the user."""

    is_user_error = True


class NoCheckpointError(_UserError, FileNotFoundError):
    """There is no such file."""


class WrongWeightsError(_UserError, RuntimeError):
    """The weights are those of another model, or no weights at all."""


class OtherRankError(_UserError, RuntimeError):
    """Loading failed in another process, whose message says why."""


class DownloadError(_UserError, OSError):
    """A file could not be fetched."""


class PaviError(_UserError, ImportError):
    """The package ``pavi`` is not installed."""


def _get_mmcv_home():
    """Return mmcv's own cache folder, which exists afterwards."""
    cache = os.environ.get(ENV_XDG_CACHE_HOME, DEFAULT_CACHE_DIR)
    home = os.environ.get(ENV_MMCV_HOME, osp.join(cache, 'mmcv'))
    home = osp.expanduser(home)
    mkdir_or_exist(home)
    return home


# Reading a file without running code --------------------------------------


class _Trust:
    """Whether checkpoints may run code in this process."""

    given = False


def trust_checkpoints(trust=True):
    """Let checkpoints run code while they are loaded, or forbid it again.

    For programs that have asked the user; it holds for this process.

    Args:
        trust (bool): True lets files do whatever the user may do.
    """
    _Trust.given = bool(trust)


class _NumpyDtype:
    """Stands for ``numpy.dtype`` in a checkpoint: plain numbers only.

    A real dtype must not be restored: flags in its ``__setstate__`` make
    numpy follow pointers out of the file. ``code`` is kind and bytes, such as
    ``f8``; the other arguments have no meaning here.
    """

    def __init__(self, code, align=False, copy=False):
        if not re.fullmatch(r'[biufc]\d+', code):
            raise pickle.UnpicklingError(f'numpy dtype {code!r}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        """Take over the byte order, the only state that numbers have."""
        version, order, *rest = state
        if version != 3 or rest != [None, None, None, -1, -1, 0]:
            raise pickle.UnpicklingError(f'numpy dtype with state {state!r}')
        self.dtype = self.dtype.newbyteorder(order)


class _NumpyArray(np.ndarray):
    """Stands for ``numpy.ndarray``; empty until its state comes."""

    def __new__(cls, *unused):
        return super().__new__(cls, 0, np.bool_)

    def __setstate__(self, state):
        version, shape, dtype, is_fortran, data = state
        # numpy multiplies with numbers that overflow.
        size = np.prod([dtype.dtype.itemsize, *shape], dtype=object)
        _need(min(shape, default=0) >= 0 and size == len(data), 'an array')
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
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes encoded as {encoding!r}')
    return text.encode('latin1')


def _plain_globals():
    """List what a checkpoint may name apart from torch's own.

    Returns:
        dict[str, callable]: By the full name in the file. All are free of
        effects whatever the arguments.
    """
    known = {
        'collections.OrderedDict': OrderedDict,
        '_codecs.encode': _latin1_bytes,
        'numpy.ndarray': _NumpyArray,
        'numpy.dtype': _NumpyDtype,
    }
    # The module moved in numpy 2.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        known[module + '.scalar'] = _numpy_scalar
        known[module + '._reconstruct'] = _NumpyArray
    for builtin in (set, frozenset, bytearray, complex):
        known['builtins.' + builtin.__name__] = builtin
    for moment in (date, datetime, time_of_day, timedelta, timezone):
        known['datetime.' + moment.__name__] = moment
    return known


def _torch_globals():
    """List what torch itself writes for tensors, as in :func:`_plain_globals`.

    Only for a torch whose own safe loader is not used.
    """
    known = {
        'torch.Size': torch.Size,
        'torch.device': torch.device,
        'torch.nn.parameter.Parameter': torch.nn.Parameter,
    }
    for kind in ('tensor', 'tensor_v2', 'parameter'):
        name = '_rebuild_' + kind
        known['torch._utils.' + name] = getattr(torch._utils, name)
    for storage in torch._storage_classes:
        known[f'{storage.__module__}.{storage.__name__}'] = storage
    for name, member in vars(torch).items():
        if isinstance(member, torch.dtype):
            known['torch.' + name] = member
    return known


# The unpickler in Python, because the fast one does not let BUILD be watched.
# The numbers of tensors do not go through it, so the speed is enough.
class _Unpickler(pickle._Unpickler):
    """Unpickler that makes nothing but plain data and tensors."""

    dispatch = dict(pickle._Unpickler.dispatch)
    allowed = dict(_plain_globals(), **_torch_globals())
    buildable = (
        OrderedDict,
        torch.Tensor,
        torch.nn.Parameter,
        _NumpyArray,
        _NumpyDtype,
    )

    def find_class(self, module, name):
        """Return an allowed object; names of Python 2 mean those of 3."""
        module = {'__builtin__': 'builtins'}.get(module, module)
        try:
            return self.allowed[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name}') from None

    def load_build(self):
        """Give an object its state; never a class or a function."""
        kind = type(self.stack[-2])
        if kind not in self.buildable:
            raise pickle.UnpicklingError(f'state for a {kind.__name__}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _load_pickle(file, **kwargs):
    return _Unpickler(file, **kwargs).load()


# What torch.load asks of a ``pickle_module``.
_safe_pickle = types.SimpleNamespace(
    __name__='safe_pickle', Unpickler=_Unpickler, load=_load_pickle
)


# Checking a file before torch reads it ------------------------------------

# More than any training has: objects, also those that one list holds twice;
# keys for which Python has no secret hash, so that a file can let all collide.
_MOST_PARTS, _MOST_ODD_KEYS, _MOST_LEVELS = 5 * 10**6, 10**4, 100
_ITEM_SIZES = dict.fromkeys(
    ('Untyped', 'Bool', 'Byte', 'Char', 'QInt8', 'QUInt8', 'QUInt4x2'), 1
)
_ITEM_SIZES.update(Short=2, Half=2, BFloat16=2, Int=4, QInt32=4, Float=4)
_ITEM_SIZES.update(Long=8, Double=8, ComplexFloat=8, ComplexDouble=16)
_MOST_BYTES = 2**37  # of a file
_Storage = namedtuple('_Storage', 'elements item')


def _need(holds, fault):
    if not holds:
        raise ValueError(fault)


class _Made:
    """Stands for anything that a file makes, except lists and tuples."""

    def __init__(self, parts=(), keys=()):
        self.parts = [*parts]
        # Keys, or what may become keys, that a file can let collide.
        self.odd = sum(
            abs(key) >= sys.hash_info.modulus
            if type(key) is int
            else type(key) not in (str, bytes, bool, float, type(None))
            for key in keys
        )
        self.append = self.parts.append

    def __call__(self, *args):
        return _Made(args)

    def __setitem__(self, key, value):
        self.add(key)
        self.append(value)

    def add(self, key):
        """Take a key of a dict, or an element of a set."""
        self.odd += _Made(keys=[key]).odd
        self.append(key)


class _Name(str):
    """Stands for what a file names; a call checks, and runs nothing."""

    def __call__(self, *args):
        first = args[0] if args else None
        if isinstance(first, _Storage):
            _check_view(*args)
        is_count = self.endswith('bytearray') and isinstance(first, int)
        _need(not is_count, 'bytes without content')
        lists = [arg for arg in args if isinstance(arg, (list, tuple))]
        return _Made(args, (key for part in lists for key in part))


def _check_view(storage, offset, sizes, strides, *rest):
    """Check that a tensor is inside of its storage."""
    numbers = [offset, *sizes, *strides]
    sound = all(type(n) is int and n >= 0 for n in numbers)
    _need(sound and len(sizes) == len(strides), 'a tensor of no shape')
    item = storage.item
    if len(rest) > 2 and isinstance(rest[2], _Name):  # its storage has bytes
        dtype = getattr(torch, rest[2].rpartition('.')[2])
        item = torch.empty(0, dtype=dtype).element_size()
    end = 1 + offset + sum((n - 1) * s for n, s in zip(sizes, strides))
    inside = end * item <= storage.elements * storage.item
    _need(inside or 0 in sizes, 'a tensor reaches out of its storage')


class _Checker(pickle._Unpickler):
    """Unpickler that makes stand-ins only, and remembers the storages."""

    dispatch = dict(pickle._Unpickler.dispatch)
    # No torch writes them, and their numbers can be of any size.
    for opcode in (pickle.PUT, pickle.LONG, pickle.DICT, b'\x96'):
        dispatch.pop(opcode[0], None)

    def __init__(self, file):
        super().__init__(file, encoding='latin1')
        self._file_readline = lambda: file.readline(4096)
        self.storages = {}

    def find_class(self, module, name):
        return _Name(f'{module}.{name}')

    def persistent_load(self, saved):
        kind, name, key, _, elements, *view = saved
        item = _ITEM_SIZES[re.search(r'(\w+)Storage$', name).group(1)]
        storage = _Storage(elements, item)
        same = self.storages.setdefault(str(key), storage) == storage
        sound = (
            type(elements) is int and elements >= 0 and view in ([], [None])
        )
        _need(kind == 'storage' and same and sound, f'storage {key}')
        return storage

    def _instantiate(self, name, args):
        self.append(name(*args))

    def load_newobj(self):
        args = self.stack.pop()
        self._instantiate(self.stack.pop(), args)

    def load_build(self):
        state = self.stack.pop()
        self.stack[-1].append(state)

    def load_empty(self):
        self.append(_Made())

    def load_frozenset(self):
        items = self.pop_mark()
        self.append(_Made(items, items))

    for opcode in (pickle.EMPTY_DICT, pickle.EMPTY_SET):
        dispatch[opcode[0]] = load_empty
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load(self):
        """Check a pickle; return it in stand-ins.

        Walking through it ends, and soon: nothing holds itself, and what is
        held twice counts twice.
        """
        root = super().load()
        weights, stack, levels, odd = {}, [root], 0, 0
        while stack:
            part = stack[-1]
            parts = getattr(part, 'parts', part)
            inner = []
            if isinstance(part, (list, tuple, _Made)):
                inner = [
                    p for p in parts if isinstance(p, (list, tuple, _Made))
                ]
            if id(part) not in weights:
                weights[id(part)] = 0
                levels += 1
                odd += getattr(part, 'odd', 0)
                ends = all(weights.get(id(p)) != 0 for p in inner)
                _need(ends and levels <= _MOST_LEVELS, 'nested too deep')
                stack += [p for p in inner if id(p) not in weights]
                continue
            stack.pop()
            if weights[id(part)] == 0:
                levels -= 1
                more = len(parts) if inner or part is not root else 0
                weight = 1 + more + sum(weights[id(p)] for p in inner)
                weights[id(part)] = weight
                _need(weight <= _MOST_PARTS, 'it holds too many parts')
        _need(odd <= _MOST_ODD_KEYS, 'too many keys that can collide')
        return root


def _check_parts(file):
    """Check what an open checkpoint would make, before it is made.

    Its numbers are Python's here, which do not overflow. torch before 2.6
    reads and writes wherever they lead, and every torch takes a legacy file
    that brings no numbers for its storages.

    Args:
        file (io.BufferedIOBase): At its start, where it is left.

    Raises:
        ValueError: It would reach out of its memory or fill the machine's.
    """
    if file.read(2) == b'PK':
        file.seek(0)
        reader = torch._C.PyTorchFileReader(file)
        # torch.load would hand TorchScript to its compiler.
        if 'constants.pkl' in reader.get_all_records():
            raise pickle.UnpicklingError('a TorchScript program')
        checker = _Checker(io.BytesIO(reader.get_record('data.pkl')))
        checker.load()
        for key, (elements, item) in checker.storages.items():
            size = len(reader.get_record(f'data/{key}'))
            _need(size == elements * item, f'record {key} has another size')
    else:
        file.seek(0)
        with contextlib.suppress(tarfile.TarError):
            tarfile.open(fileobj=file, mode='r:').close()
            raise ValueError('tar archives are not read any more')
        file.seek(0)
        for number in (torch.serialization.MAGIC_NUMBER, 1001):
            _need(_Checker(file).load() == number, 'no legacy checkpoint')
        _Checker(file).load()
        checker = _Checker(file)
        checker.load()
        keys = _Checker(file).load()
        same = sorted(keys) == sorted(checker.storages)
        _need(same, 'storages without numbers')
        for key in keys:
            elements, item = checker.storages[key]
            count = int.from_bytes(file.read(8), 'little')
            _need(count == elements, f'storage {key} has another size')
            file.seek(elements * item, 1)
        end = file.tell()
        _need(end <= file.seek(0, 2), 'it is incomplete')
    file.seek(0)


def _load_safely(file, map_location):
    """Unpickle an open checkpoint, plain data and tensors only.

    ``weights_only`` of torch before 2.6 has no allow-list by name, and can be
    circumvented (CVE-2025-32434); there our own unpickler does it.
    """
    _check_parts(file)
    if _TORCH >= (2, 6):
        known = [(value, name) for name, value in _plain_globals().items()]
        with torch.serialization.safe_globals(known):
            return torch.load(
                file, map_location=map_location, weights_only=True
            )
    unsafe = {} if _TORCH < (1, 13) else dict(weights_only=False)
    return torch.load(
        file, map_location=map_location, pickle_module=_safe_pickle, **unsafe
    )


def _load_trusted(file, map_location):
    """Unpickle an open checkpoint with everything that it names."""
    unsafe = {} if _TORCH < (1, 13) else dict(weights_only=False)
    return torch.load(file, map_location=map_location, **unsafe)


def _read_checkpoint(source, map_location, name=None):
    """Read one checkpoint.

    Args:
        source (str | io.BytesIO): Path of a file, or the bytes of one.
        map_location (Any): Same as for :func:`torch.load`.
        name (str | None): What messages call it; the path by default.

    Returns:
        Any: What was saved.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no checkpoint, is damaged, or holds more than plain
            data.
    """
    name = name or source
    opened = open(source, 'rb') if isinstance(source, str) else source
    with opened as file:
        _check_content(file, name)
        trusted = _Trust.given
        load = _load_trusted if trusted else _load_safely
        try:
            return load(file, map_location)
        except Exception as error:  # torch raises many kinds at bad files
            raise UserError(_explain(name, error, trusted)) from error


def _check_content(file, name):
    """Refuse an open file that is no checkpoint, or not a whole one.

    torch writes a CRC-32 of every record into its zip archives, but does not
    compare it when reading. So any checkpoint can be checked without a second
    file. Only files of torch before 1.6 have no checksums.

    Args:
        file (io.BufferedIOBase): At its start, where it is left.
        name (str): What messages call it.

    Raises:
        UserError: It is empty, something else, or damaged.
    """
    start = file.read(2)
    file.seek(0)
    # A zip archive, or a pickle of protocol 2 and up (torch before 1.6).
    # The tar archives of torch before 0.1.10 are not read any more.
    if not start:
        raise UserError(f'{name} is empty: no checkpoint in it')
    if start != b'PK' and start[:1] != b'\x80':
        raise UserError(f'{name} is not a checkpoint')
    if start != b'PK':
        return
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            # torch neither packs nor shares records, which bombs do.
            size = sum(record.file_size for record in records)
            _need(size <= file.seek(0, 2) <= _MOST_BYTES, 'its size')
            stored = not any(record.compress_type for record in records)
            single = len(set(archive.namelist())) == len(records)
            _need(stored and single, 'its records are not as torch writes')
            # All are 0 where checksums were turned off, which torch allows.
            summed = any(record.CRC for record in records)
            damaged = archive.testzip() if summed else None
    except Exception as error:
        # Damaged headers lead to exceptions of many kinds.
        raise UserError(_explain(name, error, trusted=True)) from error
    if damaged is not None:
        raise UserError(
            f'{name} is damaged: {damaged} does not match its checksum'
        )
    file.seek(0)


def _explain(name, error, trusted):
    """Say in one sentence or two why a checkpoint could not be read."""
    reason = str(error).strip()[:2000] or type(error).__name__
    # Without torch's long advice, which is not for our users.
    detail = re.search(r'WeightsUnpickler error:\s*(.+)', reason)
    detail = (detail.group(1) if detail else reason).splitlines()[0][:200]
    found = re.search(r'GLOBAL (\S{1,200})', reason)
    if found and not trusted:
        problem = (
            f'{name} was not loaded: it names {found.group(1)}, which is not '
            'plain data and could run code on this machine.'
        )
    else:
        problem = (
            f'{name} cannot be read; it may be damaged or incomplete '
            f'({detail}).'
        )
        if trusted or not isinstance(error, pickle.UnpicklingError):
            return problem
    return (
        f'{problem} If you trust its source, give the option '
        '--trust-checkpoint, or call mmcv.runner.checkpoint.trust_checkpoints'
        '(): the file may then do anything that you may do.'
    )


# Finding a checkpoint: local files and URL schemes ------------------------


def _load_in_turn(load):
    """Call ``load`` on the first process of each host, then on the others.

    So a file that the first one puts into a cache is fetched once. After each
    of the two turns all processes learn which failed, and all raise if any
    did.

    Args:
        load (callable): Called without arguments, once in each process.

    Returns:
        Any: What ``load`` returned.

    Raises:
        OtherRankError: ``load`` failed in another process. Where it failed,
            the error is its own.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return load()
    is_first = int(os.environ.get('LOCAL_RANK', rank)) == 0
    result = error = None
    for turn_of_first in (True, False):
        if is_first == turn_of_first:
            try:
                result = load()
            except Exception as failure:
                error = failure
        failed = torch.zeros(world_size, dtype=torch.int32)
        failed[rank] = error is not None
        dist.all_reduce(failed, group=get_host_group())
        if error is not None:
            raise error
        if failed.any():
            ranks = ', '.join(str(r) for r in failed.nonzero()[:, 0].tolist())
            raise OtherRankError(
                f'no checkpoint: loading it failed on rank {ranks}, whose '
                'message says why'
            )
    return result


def _look_up(urls, name, scheme):
    """Return the address of a model that is known by name."""
    if name not in urls:
        raise UserError(
            f'{scheme}{name}: there is no such model; known are '
            f'{", ".join(sorted(urls)) or "none"}'
        )
    return urls[name]


def get_torchvision_models():
    """Return where torchvision keeps its weights.

    Returns:
        dict[str, str]: Address by model name; empty without torchvision.
    """
    try:
        models = import_module('torchvision.models')
    except Exception:
        # Not only ImportError: a torchvision that was built for another torch
        # fails with RuntimeError or OSError.
        return {}
    urls = {}
    for module_info in pkgutil.iter_modules(models.__path__):
        if module_info.ispkg:
            continue
        module = import_module(f'torchvision.models.{module_info.name}')
        urls.update(getattr(module, 'model_urls', {}))
        # torchvision 0.13 and up: an enumeration for each model, whose first
        # version is what ``model_urls`` used to name.
        for label, versions in vars(module).items():
            first = getattr(versions, 'IMAGENET1K_V1', None)
            if first is not None and label.endswith('_Weights'):
                model = label[: -len('_Weights')].lower()
                urls.setdefault(model, first.url)
    return urls


def _load_model_zoo(folder, name):
    """Load a table of the model zoo; it must be a mapping."""
    table = load_file(osp.join(folder, name))
    assert isinstance(table, dict)
    return table


def _zoo_folder():
    return osp.join(mmcv.__path__[0], 'model_zoo')


def get_external_models():
    """Return where the models of ``open-mmlab://`` are.

    Returns:
        dict[str, str]: Address, or path in mmcv's cache folder, by name. An
        ``open_mmlab.json`` in that folder adds to mmcv's own and overrides.
    """
    urls = _load_model_zoo(_zoo_folder(), 'open_mmlab.json')
    home = _get_mmcv_home()
    if osp.exists(osp.join(home, 'open_mmlab.json')):
        urls.update(_load_model_zoo(home, 'open_mmlab.json'))
    return urls


def get_mmcls_models():
    """Return the addresses of the models of ``mmcls://`` by name."""
    return _load_model_zoo(_zoo_folder(), 'mmcls.json')


def get_deprecated_model_names():
    """Return the new names of models by their old ones."""
    return _load_model_zoo(_zoo_folder(), 'deprecated.json')


def _process_mmcls_checkpoint(checkpoint):
    """Keep only the backbone of a classifier, without the prefix."""
    prefix = 'backbone.'
    weights = OrderedDict(
        (key[len(prefix) :], value)
        for key, value in checkpoint['state_dict'].items()
        if key.startswith(prefix)
    )
    return dict(state_dict=weights)


class CheckpointLoader:
    """Chooses the function that loads a checkpoint by how its name begins."""

    _schemes = {}

    @classmethod
    def _register_scheme(cls, prefixes, loader, force=False):
        """Add a loader; see :meth:`register_scheme`."""
        if isinstance(prefixes, str):
            prefixes = [prefixes]
        assert isinstance(prefixes, (list, tuple))
        for prefix in prefixes:
            if prefix in cls._schemes and not force:
                raise KeyError(
                    f'a loader for {prefix!r} is registered already: pass '
                    'force=True to replace it'
                )
            cls._schemes[prefix] = loader
        # In this order a longer prefix is met before what it begins with.
        cls._schemes = OrderedDict(
            sorted(cls._schemes.items(), key=lambda s: s[0], reverse=True)
        )

    @classmethod
    def register_scheme(cls, prefixes, loader=None, force=False):
        """Register a loader, directly or as a decorator.

        Args:
            prefixes (str | list[str] | tuple[str]): What the names of its
                checkpoints begin with.
            loader (callable | None): Takes name and ``map_location``, returns
                the checkpoint. None makes this a decorator.
            force (bool): Whether to replace a loader registered before.

        Raises:
            KeyError: The prefix is taken and ``force`` is False.
        """
        if loader is not None:
            cls._register_scheme(prefixes, loader, force=force)
            return None

        def register(decorated):
            cls._register_scheme(prefixes, decorated, force=force)
            return decorated

        return register

    @classmethod
    def _get_checkpoint_loader(cls, path):
        """Return the loader for a name; the local one fits every name."""
        for prefix, loader in cls._schemes.items():
            if path.startswith(prefix):
                return loader
        return None

    @classmethod
    def load_checkpoint(cls, filename, map_location=None, logger=None):
        """Load a checkpoint; see :func:`_load_checkpoint`."""
        loader = cls._get_checkpoint_loader(filename)
        mmcv.print_log(f'checkpoint by {loader.__name__}', logger)
        return loader(filename, map_location)


@CheckpointLoader.register_scheme(prefixes='')
def load_from_local(filename, map_location):
    """Load a checkpoint from a file.

    Args:
        filename (str): Its path; for other loaders its whole address, with
            the prefix.
        map_location (Any): Same as for :func:`torch.load`.

    Returns:
        dict: The checkpoint.

    Raises:
        NoCheckpointError: There is no such file.
        UserError: It cannot be read, see :func:`_read_checkpoint`.
    """
    if not osp.isfile(filename):
        raise NoCheckpointError(f'{filename} is not a checkpoint file')
    return _read_checkpoint(filename, map_location)


def _promised_hash(name):
    """Read the beginning of a file's SHA-256 from its name, or None."""
    found = re.search(r'-([0-9a-f]{8,64})(?:_\d{8})?\.\w+$', name)
    # Figures alone are a date.
    return found.group(1) if found and not found.group(1).isdigit() else None


def _download(url, folder):
    """Bring a file into torch's cache unless it is there.

    Args:
        url (str): Its address.
        folder (str | None): Where to; torch hub's folder by default.

    Returns:
        str: Its path.

    Raises:
        UserError: The address names no file, or what came is not the file
            whose SHA-256 begins as its name says, as in ``a-ae358435.pth``
            or ``a-ae358435_20200812.pth``.
        DownloadError: It could not be fetched or written.
    """
    name = osp.basename(urlparse(url).path)
    if not name:
        raise UserError(f'{url} names no file')
    folder = folder or osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, name)
    if not osp.exists(path):
        mkdir_or_exist(folder)
        sys.stderr.write(f'Downloading {url} to {path}\n')
        try:
            # Writes beside the name and renames, so others see it whole.
            torch.hub.download_url_to_file(url, path, _promised_hash(name))
        except OSError as error:
            raise DownloadError(
                f'{url} was not downloaded: {error}'
            ) from error
        except RuntimeError as error:
            raise UserError(
                f'{url} is not the file that its name promises: {error}'
            ) from error
    return path


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'))
def load_from_http(filename, map_location=None, model_dir=None):
    """Load a checkpoint from the web, downloading it once per host.

    As :func:`load_from_local`. ``model_dir`` is the folder for the download,
    by default that of ``torch.hub``; a file in it is not fetched again.

    Raises:
        DownloadError: The download failed.
        OtherRankError: Another process of this run failed.
    """

    def load():
        path = _download(filename, model_dir)
        try:
            return _read_checkpoint(path, map_location)
        except ValueError as error:
            raise UserError(
                f'{error} It came from {filename}; remove it to have it '
                'downloaded again.'
            ) from error

    return _load_in_turn(load)


def _import_pavi():
    try:
        return import_module('pavi').modelcloud
    except ImportError as error:
        raise PaviError(
            'pavi:// needs the package pavi, which is not installed'
        ) from error


@CheckpointLoader.register_scheme(prefixes='pavi://')
def load_from_pavi(filename, map_location=None):
    """Load a checkpoint from Pavi's model cloud; see :func:`load_from_local`.

    Raises:
        PaviError: The package ``pavi`` is not installed.
        OtherRankError: Another process of this run failed.
    """
    prefix = 'pavi://'
    assert filename.startswith(prefix), f'{filename} is not a {prefix} name'
    modelcloud = _import_pavi()

    def load():
        model = modelcloud.get(filename[len(prefix) :])
        with TemporaryDirectory() as folder:
            path = osp.join(folder, model.name)
            model.download(path)
            return _read_checkpoint(path, map_location, name=filename)

    return _load_in_turn(load)


@CheckpointLoader.register_scheme(prefixes='s3://')
def load_from_ceph(filename, map_location=None, backend='ceph'):
    """Load a checkpoint from a Ceph store; see :func:`load_from_local`.

    Raises:
        UserError: Another backend was asked for.
        OtherRankError: Another process of this run failed.
    """
    if backend != 'ceph':
        raise UserError(f'backend {backend!r} is not supported: use ceph')

    def load():
        content = FileClient(backend=backend).get(filename)
        return _read_checkpoint(io.BytesIO(content), map_location, filename)

    return _load_in_turn(load)


@CheckpointLoader.register_scheme(prefixes=('modelzoo://', 'torchvision://'))
def load_from_torchvision(filename, map_location=None):
    """Load the weights of a model of torchvision by its name.

    As :func:`load_from_local`. ``modelzoo://`` is deprecated.

    Raises:
        UserError: The name is not known, or torchvision cannot be imported.
    """
    scheme, name = re.match(r'(.*?://)(.*)', filename).groups()
    if scheme == 'modelzoo://':
        warnings.warn(
            f'modelzoo:// is deprecated: write torchvision://{name}',
            stacklevel=2,
        )
    urls = get_torchvision_models()
    if not urls:
        raise UserError(
            f'{filename} needs torchvision, which cannot be imported: install '
            'the one that goes with this torch, or give the file itself'
        )
    url = _look_up(urls, name, scheme)
    return load_from_http(url, map_location=map_location)


@CheckpointLoader.register_scheme(prefixes=('open-mmlab://', 'openmmlab://'))
def load_from_openmmlab(filename, map_location=None):
    """Load a model of the OpenMMLab zoo by its name.

    As :func:`load_from_local`.

    Raises:
        UserError: The name is not known.
    """
    scheme, name = re.match(r'(.*?://)(.*)', filename).groups()
    new_name = get_deprecated_model_names().get(name)
    if new_name is not None:
        warnings.warn(
            f'{scheme}{name} is deprecated in favor of {scheme}{new_name}',
            stacklevel=2,
        )
        name = new_name
    url = _look_up(get_external_models(), name, scheme)
    if url.startswith(('http://', 'https://')):
        return load_from_http(url, map_location=map_location)
    return load_from_local(osp.join(_get_mmcv_home(), url), map_location)


@CheckpointLoader.register_scheme(prefixes='mmcls://')
def load_from_mmcls(filename, map_location=None):
    """Load the backbone of a classifier of the mmcls zoo by its name.

    As :func:`load_from_local`, but only the backbone's weights are returned.

    Raises:
        UserError: The name is not known.
    """
    scheme, name = re.match(r'(.*?://)(.*)', filename).groups()
    url = _look_up(get_mmcls_models(), name, scheme)
    return _process_mmcls_checkpoint(
        load_from_http(url, map_location=map_location)
    )


def _load_checkpoint(filename, map_location=None, logger=None):
    """Load a checkpoint from anywhere, without a model to put it into.

    Args:
        filename (str): Path, or address with a registered prefix.
        map_location (Any): Same as for :func:`torch.load`.
        logger (logging.Logger | str | None): As for :func:`mmcv.print_log`.

    Returns:
        dict: The checkpoint: weights alone or with more beside them.
    """
    return CheckpointLoader.load_checkpoint(filename, map_location, logger)


def _load_checkpoint_with_prefix(prefix, filename, map_location=None):
    """Load the weights of one part of a model.

    Args:
        prefix (str): Name of the part; it is cut off the keys.
        filename (str): Path, or address with a registered prefix.
        map_location (Any): Same as for :func:`torch.load`.

    Returns:
        dict[str, Tensor]: The part's weights.
    """
    checkpoint = _load_checkpoint(filename, map_location=map_location)
    weights = checkpoint.get('state_dict', checkpoint)
    prefix = prefix if prefix.endswith('.') else prefix + '.'
    part = {
        key[len(prefix) :]: value
        for key, value in weights.items()
        if key.startswith(prefix)
    }
    assert part, f'{filename} holds no weights under {prefix}'
    return part


# Weights into and out of a model ------------------------------------------


def load_state_dict(module, state_dict, strict=False, logger=None):
    """Put weights into a module, through parallel wrappers at any depth.

    What fits is loaded even if something does not; rank 0 then reports it.
    A missing ``num_batches_tracked`` of batch norm does not count: torch
    before 0.4.1 had none.

    Args:
        module (nn.Module): Where to.
        state_dict (dict[str, Tensor]): The weights.
        strict (bool): Whether a mismatch is an error.
        logger (logging.Logger | None): Told of a mismatch; None prints it.

    Raises:
        WrongWeightsError: ``strict`` and the weights do not fit (on rank 0).
    """
    missing, unexpected, problems = [], [], []
    metadata = getattr(state_dict, '_metadata', None)
    # Modules may change what they are given (older versions of a layer).
    state_dict = state_dict.copy()
    if metadata is not None:
        state_dict._metadata = metadata

    def load(part, prefix):
        if is_module_wrapper(part):
            part = part.module
        versions = (metadata or {}).get(prefix[:-1], {})
        part._load_from_state_dict(
            state_dict, prefix, versions, True, missing, unexpected, problems
        )
        for name, child in part._modules.items():
            if child is not None:
                load(child, f'{prefix}{name}.')

    load(module, '')

    missing = [key for key in missing if 'num_batches_tracked' not in key]
    if unexpected:
        problems.append(f'unexpected keys: {", ".join(unexpected)}')
    if missing:
        problems.append(f'missing keys: {", ".join(missing)}')
    rank, _ = get_dist_info()
    if not problems or rank != 0:
        return
    message = '\n'.join(['the weights do not fit the model:'] + problems)
    if strict:
        raise WrongWeightsError(message)
    if logger is not None:
        logger.warning(message)
    else:
        print(message)


def load_checkpoint(
    model, filename, map_location=None, strict=False, logger=None
):
    """Load a checkpoint and put its weights into a model.

    Args:
        model (nn.Module): Where to.
        filename (str): Path, or address with a registered prefix.
        map_location (Any): Same as for :func:`torch.load`.
        strict (bool): Whether it is an error if the weights do not fit.
        logger (logging.Logger | None): Where a mismatch is told.

    Returns:
        dict: The whole checkpoint.

    Raises:
        WrongWeightsError: The file holds no weights, or, if ``strict``,
            others.
        UserError: The file cannot be read, see :func:`_read_checkpoint`.
    """
    checkpoint = _load_checkpoint(filename, map_location, logger)
    weights = checkpoint
    if isinstance(checkpoint, dict):
        weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) for key in weights
    ):
        raise WrongWeightsError(f'{filename} holds no weights')
    for key, value in weights.items():
        if not (
            isinstance(value, torch.Tensor) or key.endswith('_extra_state')
        ):
            raise WrongWeightsError(
                f'{filename} holds no weights: {key} is a '
                f'{type(value).__name__}'
            )
    # Saved from inside a parallel wrapper.
    prefix = 'module.'
    if next(iter(weights), '').startswith(prefix):
        weights = {
            key[len(prefix) :] if key.startswith(prefix) else key: value
            for key, value in weights.items()
        }
    load_state_dict(model, weights, strict, logger)
    return checkpoint


def weights_to_cpu(state_dict):
    """Return a state dict with its tensors on the CPU."""
    return OrderedDict((key, value.cpu()) for key, value in state_dict.items())


def _save_to_state_dict(module, destination, prefix, keep_vars):
    """Put the parameters and buffers of one module into a state dict.

    As mmcv does, also those that torch regards as not persistent. For the
    arguments see :func:`get_state_dict`.
    """
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                value = tensor if keep_vars else tensor.detach()
                destination[prefix + name] = value


def get_state_dict(module, destination=None, prefix='', keep_vars=False):
    """Return the weights of a module, without parallel wrappers in the keys.

    As :meth:`torch.nn.Module.state_dict`, with the same arguments, but through
    wrappers at any depth. Hooks on state dicts are called.

    Returns:
        OrderedDict[str, Tensor]: The weights.
    """
    if is_module_wrapper(module):
        module = module.module
    if destination is None:
        destination = OrderedDict()
        destination._metadata = OrderedDict()
    metadata = dict(version=module._version)
    destination._metadata[prefix[:-1]] = metadata
    _save_to_state_dict(module, destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            get_state_dict(child, destination, f'{prefix}{name}.', keep_vars)
    for hook in module._state_dict_hooks.values():
        replaced = hook(module, destination, prefix, metadata)
        destination = destination if replaced is None else replaced
    return destination


# Writing ------------------------------------------------------------------


_ATTEMPTS = 10
"""How often a file is written whose folder is removed while it is written."""


class _Sink:
    """File for ``torch.save`` that keeps a failure for later.

    An exception out of ``write`` ends the whole process on torch 1.8 (its C++
    writer throws in a destructor), and loses its reason on later ones.
    """

    def __init__(self, file):
        self.file = file
        self.error = None

    def write(self, data):
        """Write unless writing has failed before."""
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self):
        """Do nothing: what is written counts only after :meth:`finish`."""

    def finish(self):
        """Bring every byte to the disk, or raise the error of ``write``."""
        if self.error is not None:
            raise self.error
        self.file.flush()
        os.fsync(self.file.fileno())


def _temporary(path):
    """Name a temporary file beside ``path``; remove those of killed runs.

    A file that another process still writes is locked, and stays.
    """
    folder, name = osp.split(path)
    for old in glob.glob(
        osp.join(glob.escape(folder), f'.{glob.escape(name)}.*.tmp')
    ):
        with contextlib.suppress(OSError):
            if not osp.islink(old):
                with open(old, 'rb') as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.remove(old)
    # Numbers of processes are not unique where several hosts write.
    return osp.join(folder, f'.{name}.{uuid.uuid4().hex[:12]}.tmp')


def _write_atomically(path, write):
    """Write a file so that its name always stands for a whole file.

    If several processes write it, the last one to end wins.

    Args:
        path (str): The file. Its folder is created if it is missing, also if
            it is removed meanwhile.
        write (callable): Gets a file-like object to write to; it may be
            called again.

    Raises:
        OSError: It could not be written. An earlier file of this name stays,
            and no part of the new one.
    """
    for attempt in range(_ATTEMPTS):
        temporary = _temporary(path)
        try:
            mkdir_or_exist(osp.dirname(path))
            with open(temporary, 'xb') as file:
                with contextlib.suppress(OSError):  # not on every file system
                    fcntl.flock(file, fcntl.LOCK_EX)
                sink = _Sink(file)
                write(sink)
                sink.finish()
                os.replace(temporary, path)
            break
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            if gone and attempt < _ATTEMPTS - 1:
                continue  # the folder was removed, and the file with it
            raise OSError(
                error.errno,
                f'{path} was not written: {error.strerror or error}',
            ) from error
        finally:
            with contextlib.suppress(OSError):
                os.remove(temporary)
    _sync_folder(osp.dirname(path))


def _sync_folder(folder):
    """Put a new name on the disk, where the file system can do so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_checkpoint(path, link):
    """Let a second name such as ``latest.pth`` stand for a checkpoint.

    The name always stands for a whole checkpoint, the earlier or this one. If
    the checkpoint was removed meanwhile, nothing is done.

    Args:
        path (str): The checkpoint.
        link (str): The other name: a relative symbolic link, or a copy where
            the file system has no links.

    Raises:
        OSError: Neither a link nor a copy could be made.
    """
    folder = osp.dirname(link)
    for _ in range(_ATTEMPTS):
        temporary = _temporary(link)
        try:
            os.symlink(osp.relpath(path, folder or os.curdir), temporary)
            os.replace(temporary, link)
            return _sync_folder(folder)
        except FileNotFoundError:
            # Another process has taken it for a dead one's, or the checkpoint
            # was removed.
            if not osp.exists(path):
                return None
        except (OSError, NotImplementedError):
            with contextlib.suppress(OSError):
                os.remove(temporary)
            break

    def copy(sink):
        with open(path, 'rb') as source:
            shutil.copyfileobj(source, sink)

    _write_atomically(link, copy)


def _to_cpu(state):
    """Return an optimizer's state on the CPU: a file names no device."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _to_cpu(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_to_cpu(value) for value in state)
    return state


def save_checkpoint(model, filename, optimizer=None, meta=None, resume=None):
    """Save weights, and what goes with them, to a file.

    The checkpoint holds ``meta`` (with mmcv's version, the time and the
    model's ``CLASSES``), ``state_dict`` (in mixed precision O2 the fp32
    masters), with an optimizer ``optimizer``, and in O2 ``amp``.

    Args:
        model (nn.Module): The model; parallel wrappers are left out.
        filename (str): Where to: a path or a ``pavi://`` name.
        optimizer (Optimizer | dict[str, Optimizer] | None): The optimizer.
        meta (dict | None): More to save. Not changed.
        resume (dict | None): What an exact resume needs beyond that; saved
            under this name. Plain data and tensors.

    Raises:
        TypeError: ``meta`` is no dict.
        OSError: The file could not be written; one of this name from before
            is still there.
    """
    if meta is not None and not isinstance(meta, dict):
        raise TypeError(f'meta must be a dict or None, not {meta!r}')
    if is_module_wrapper(model):
        model = model.module
    meta = dict(meta or {}, mmcv_version=mmcv.__version__, time=time.asctime())
    if getattr(model, 'CLASSES', None) is not None:
        meta['CLASSES'] = model.CLASSES

    checkpoint = dict(
        meta=meta, state_dict=weights_to_cpu(get_state_dict(model))
    )
    if isinstance(optimizer, Optimizer):
        checkpoint['optimizer'] = _to_cpu(optimizer.state_dict())
        if engine_of(optimizer) is not None:
            checkpoint['amp'] = engine_of(optimizer).state_dict()
    elif isinstance(optimizer, dict):
        checkpoint['optimizer'] = {
            name: _to_cpu(single.state_dict())
            for name, single in optimizer.items()
        }
    if resume is not None:
        checkpoint['resume'] = resume

    def write(sink):
        torch.save(checkpoint, sink)

    if filename.startswith('pavi://'):
        _save_to_pavi(filename[len('pavi://') :], write)
    else:
        _write_atomically(filename, write)


def _save_to_pavi(path, write):
    """Write a file and hand it to Pavi's model cloud."""
    modelcloud = _import_pavi()
    not_found = import_module('pavi.exception').NodeNotFoundError
    folder, name = osp.split(path)
    try:
        model = modelcloud.get(folder)
    except not_found:
        model = modelcloud.Folder().create_training_model(folder)
    with TemporaryDirectory() as temporary:
        file = osp.join(temporary, name)
        _write_atomically(file, write)
        model.create_file(file, name=name)
