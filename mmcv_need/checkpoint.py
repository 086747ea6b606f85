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
import hashlib
import io
import os
import os.path as osp
import pkgutil
import re
import shutil
import sys
import time
import types
import uuid
import warnings
import zipfile
import zlib
from collections import OrderedDict
from importlib import import_module
from tempfile import TemporaryDirectory
from urllib.parse import urlparse

import mmcv
import torch
from torch import distributed as dist
from torch.optim import Optimizer

from ..fileio import FileClient
from ..fileio import load as load_file
from ..parallel import is_module_wrapper
from ..utils import mkdir_or_exist
from .dist_utils import UserError, get_dist_info, get_host_group
from .hooks.iter_timer import NotPlainError, Unpickler, check_extent, need
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


_MOST_BYTES = 2**37
"""Of a checkpoint: more than any training has."""


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


def _open_archive(file):
    """Check a zip archive: its form, and each record by its checksum.

    torch writes a CRC-32 of every record, but does not compare it when
    reading. So any checkpoint can be checked without a second file. Only files
    of torch before 1.6 have no checksums.

    Returns:
        tuple: torch's reader of the archive, and the bytes of each record by
        name (dict[str, int]).

    Raises:
        ValueError: A record is damaged, or not as torch writes it: packed or
            there twice.
    """
    with zipfile.ZipFile(file) as archive:
        listed = archive.infolist()
    records = {r.filename.partition('/')[2]: r for r in listed}
    packed = any(record.compress_type for record in listed)
    size = sum(record.file_size for record in listed)
    sound = len(records) == len(listed) and not packed
    need(sound and size <= file.seek(0, 2), 'not as torch writes it')
    # All are 0 where checksums were turned off, which torch allows.
    summed = any(record.CRC for record in listed)
    file.seek(0)
    reader = torch._C.PyTorchFileReader(file)
    need(set(reader.get_all_records()) == set(records), 'its records')
    for name, record in records.items():
        content = reader.get_record(name)
        same = not summed or zlib.crc32(content) == record.CRC
        same &= len(content) == record.file_size
        need(same, f'{name} does not match its checksum')
    return reader, {name: r.file_size for name, r in records.items()}


def _load_safely(file, map_location):
    """Unpickle an open checkpoint, plain data and tensors only.

    torch's own ``weights_only`` is not used: before 2.6 it can be circumvented
    (CVE-2025-32434), and later ones still take a file of the older format
    that brings no numbers for its storages.

    Args:
        file (io.BufferedIOBase): At its start.
        map_location (Any): Same as for :func:`torch.load`.

    Returns:
        Any: What was saved.

    Raises:
        Exception: It cannot be read; of many kinds.
    """
    torchs = torch.serialization
    if _is_archive(file):
        reader, records = _open_archive(file)
        size = records['data.pkl']
    else:
        reader = records = None
        size = file.seek(0, 2)
    limits = dict(
        records=records,
        storages={},
        left=file.seek(0, 2),
        work=10 * size + 10**6,
    )
    kind = type('Unpickler', (Unpickler,), limits)
    parts = []

    def load(part, **kwargs):
        parts.append(kind(part, **kwargs).load())
        if len(parts) == 4:  # the last: which storages follow
            same = sorted(parts[3]) == sorted(limits['storages'])
            need(type(parts[3]) is list and same, 'other storages follow')
        return parts[-1]

    module = types.SimpleNamespace(Unpickler=kind, load=load)
    if reader is not None:
        content = torchs._load(reader, map_location, module, encoding='utf-8')
    else:
        file.seek(0)
        # From memory, because torch would take a file for a tar archive.
        content = torchs._legacy_load(
            io.BytesIO(file.read()), map_location, module, encoding='utf-8'
        )
    check_extent((content,))
    return content


def _load_trusted(file, map_location):
    """Unpickle an open checkpoint with everything that it names."""
    if _is_archive(file):
        _open_archive(file)
        file.seek(0)
    unsafe = {} if _TORCH < (1, 13) else dict(weights_only=False)
    return torch.load(file, map_location=map_location, **unsafe)


def _is_archive(file):
    """Tell a zip archive from a pickle (torch before 1.6)."""
    start = file.read(2)
    file.seek(0)
    return start == b'PK'


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
        start = file.read(2)
        size = file.seek(0, 2)
        file.seek(0)
        if not start:
            raise UserError(f'{name} is empty: no checkpoint in it')
        # The tar archives of torch before 0.1.10 are not read any more.
        if start != b'PK' and start[:1] != b'\x80':
            raise UserError(f'{name} is not a checkpoint')
        if size > _MOST_BYTES:
            raise UserError(f'{name} is too large for a checkpoint: {size} B')
        load = _load_trusted if _Trust.given else _load_safely
        try:
            return load(file, map_location)
        except Exception as error:  # torch raises many kinds at bad files
            raise UserError(_explain(name, error)) from error


def _explain(name, error):
    """Say in one sentence or two why a checkpoint could not be read."""
    reason = str(error).strip()[:2000] or type(error).__name__
    reason = reason.splitlines()[0][:200]
    if not isinstance(error, NotPlainError):
        return (
            f'{name} cannot be read; it may be damaged or incomplete '
            f'({reason}).'
        )
    return (
        f'{name} was not loaded: {reason}, which is not plain data and could '
        'run code on this machine. If you trust its source, give the option '
        '--trust-checkpoint, or call mmcv.runner.checkpoint.trust_checkpoints'
        '(): the file may then do anything that you may do.'
    )


def pack(content):
    """Return plain data and tensors as bytes (uint8 Tensor) for a process.

    In the older format, because its end shows: more bytes may follow.
    """
    sink = io.BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=False)
    packed = torch.empty(sink.tell(), dtype=torch.uint8)
    packed.numpy().data[:] = sink.getbuffer()
    return packed


def unpack(packed):
    """Return what :func:`pack` got; whatever the bytes, no code runs."""
    try:
        return _load_safely(io.BytesIO(packed.numpy()), 'cpu')
    except NotPlainError as error:
        raise UserError(
            f'what processes give to each other must be plain, but {error}'
        ) from error


def gather_plain(content, rank, world_size):
    """Do the work of :func:`gather_objects`."""
    packed, group = pack(content), get_host_group()
    size = torch.tensor([len(packed)])
    dist.all_reduce(size, dist.ReduceOp.MAX, group=group)
    own = torch.zeros(int(size), dtype=torch.uint8)
    own[: len(packed)] = packed
    parts = [torch.empty_like(own) for _ in range(world_size)]
    dist.gather(own, None if rank else parts, dst=0, group=group)
    return None if rank else [unpack(part) for part in parts]


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


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(2**20), b''):
            digest.update(block)
    return digest.hexdigest()


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
    promise = _promised_hash(name)
    if promise is None:
        # Other addresses have files of the same name.
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}'
    path = osp.join(folder, name)
    if promise and osp.isfile(path) and not _sha256(path).startswith(promise):
        raise UserError(
            f'{path} is not the file that its name promises (SHA-256): remove '
            f'it to have it downloaded again from {url}'
        )
    if not osp.exists(path):
        mkdir_or_exist(folder)
        sys.stderr.write(f'Downloading {url} to {path}\n')
        try:
            # Writes beside the name and renames, so others see it whole.
            torch.hub.download_url_to_file(url, path, promise)
        except OSError as error:
            raise DownloadError(
                f'{url} was not downloaded: {error}. A file at {path} would '
                'be taken instead'
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
            another process removes it during the write.
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
    another process has removed the checkpoint, nothing is done.

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
