"""The one place that knows devices, and processes that work together.

Replaces ``mmcv/runner/dist_utils.py`` of mmcv 1.2.7: all its names are here.
What is added is the *device seam*. Three kinds of device are known, each with
the collective backend that serves it, and the order is that of preference::

    npu -> hccl        cuda -> nccl        cpu -> gloo

Everything else asks this module (or looks at where the parameters are) and
names no device. A device that was asked for by name and is not there is a
``ValueError``; nothing falls back in silence.

Environment:
    LOCAL_RANK, LOCAL_WORLD_SIZE: set by torch's launcher; one process takes
        the device of its local rank.
    NPUID: added to the index of an NPU whose number was not given.
    NPU_JIT_COMPILE, NPU_INTERNAL_FORMAT: 1 turns on operator compilation at
        the first step, or the private tensor layouts. Both are off unless
        asked for.
"""

import atexit
import functools
import gc
import os
import random
import re
import resource
import socket
import subprocess
import sys
from collections import OrderedDict
from datetime import timedelta
from numbers import Real

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch._utils import (
    _flatten_dense_tensors,
    _take_tensors,
    _unflatten_dense_tensors,
)


class UserError(ValueError):
    """A mistake of the user: the message names the value and what to do."""

    is_user_error = True


BACKENDS = OrderedDict([('npu', 'hccl'), ('cuda', 'nccl'), ('cpu', 'gloo')])
"""Collective backend of each kind of device, the preferred kind first."""


class _Process:
    """What this process has decided so far.

    Attributes:
        device (torch.device | None): The device in use.
        numbered (bool): Its number was part of the request.
        timeout (timedelta | None): Limit for collectives given to
            :func:`init_dist`; the host-side group keeps it too.
        host_group (tuple): Default group, and the gloo group that stands
            beside it.
    """

    device = None
    numbered = False
    timeout = None
    host_group = (None, None)


# --------------------------------------------------------------------------
# Devices
# --------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def _import_npu():
    """Import torch_npu once, if that can be done.

    The import fails with an ImportError where CANN is missing and with a
    RuntimeError where torch already has another accelerator. A release for
    another torch fails in ways of its own, so any exception counts.

    Returns:
        tuple: ``torch.npu`` or None, and the reason for None in words.
    """
    try:
        import torch_npu  # noqa: F401  (registers torch.npu)

        return torch.npu, ''
    except Exception as error:
        kind = type(error).__name__
        return None, f'torch_npu cannot be imported ({kind}: {error})'


def _probe(device_type):
    """Look for devices of one kind without initialising any.

    Returns:
        tuple: Number of devices, and if that is 0 the reason in words.
    """
    if device_type == 'cpu':
        return 1, ''
    if device_type == 'cuda':
        count = torch.cuda.device_count()
        return count, '' if count else 'torch sees no CUDA device'
    if device_type == 'npu':
        npu, reason = _import_npu()
        if npu is None:
            return 0, reason
        try:
            count = npu.device_count()
        except Exception as error:
            return 0, f'the NPU driver does not answer ({error})'
        return count, '' if count else 'torch_npu sees no NPU'
    return 0, f'{device_type!r} is not a kind of device known here'


def device_count(device_type):
    """Count the devices of one kind.

    Args:
        device_type (str): A key of :data:`BACKENDS`.

    Returns:
        int: How many this process sees; 0 where the kind cannot be used. The
        CPU counts as one device whatever its number of cores.
    """
    return _probe(device_type)[0]


def is_available(device_type):
    """Tell whether there is at least one device of this kind."""
    return device_count(device_type) > 0


def _first_available():
    return next(kind for kind in BACKENDS if is_available(kind))


def _current_kind():
    """Return the kind of the chosen device, else of the preferred one."""
    if _Process.device is not None:
        return _Process.device.type
    return _first_available()


def _describe_available():
    """Put the usable devices in words, such as ``cuda (2), cpu``."""
    parts = []
    for kind in BACKENDS:
        count = device_count(kind)
        if count:
            parts.append(kind if kind == 'cpu' else f'{kind} ({count})')
    return ', '.join(parts)


def _env_int(name, default=None):
    """Read a whole number >= 0 from the environment.

    Raises:
        ValueError: It is missing and has no default, or is no such number.
    """
    text = os.environ.get(name, '').strip()
    if not text:
        if default is None:
            raise ValueError(
                f'{name} is not set: this process was not started by the '
                'launcher that was named'
            )
        return default
    if not text.isdigit():
        raise ValueError(f'{name}={text!r} must be a whole number from 0 on')
    return int(text)


def _env_switch(name):
    """Read an on/off switch; unset, empty, 0, false, no and off are off.

    Raises:
        ValueError: It is none of the usual words.
    """
    text = os.environ.get(name, '').strip().lower()
    if text in ('', '0', 'false', 'no', 'off'):
        return False
    if text in ('1', 'true', 'yes', 'on'):
        return True
    raise ValueError(f'{name}={text!r} must be 0 or 1')


def _index_for(device_type, local_rank, local_size=0):
    """Find the device index for one of the processes of this host.

    Args:
        device_type (str): ``npu`` or ``cuda``.
        local_rank (int): Number of the process on its host.
        local_size (int): Number of processes on the host, 0 if unknown.

    Returns:
        int: ``local_rank``, moved by ``NPUID`` on an NPU.

    Raises:
        ValueError: There are fewer devices than processes.
    """
    count = device_count(device_type)
    offset = _env_int('NPUID', 0) if device_type == 'npu' else 0
    processes = max(local_size, local_rank + 1)
    if offset + processes <= count:
        return offset + local_rank
    if processes == 1:
        raise ValueError(
            f'NPUID={offset}, but the {count} npu device(s) here are '
            f'numbered 0 to {count - 1}: choose one of these'
        )
    beyond = f' from NPUID={offset} on' if offset else ''
    raise ValueError(
        f'{processes} processes on this host need {processes} {device_type} '
        f'devices{beyond}, but there are {count}: start fewer processes with '
        f'NPROC={max(count - offset, 1)}'
    )


def _activate(device_type, index=None, numbered=False):
    """Make a device current and remember it.

    Returns:
        torch.device: The device.
    """
    if device_type == 'cpu':
        device = torch.device('cpu')
    else:
        device = torch.device(device_type, index)
    if device_type == 'npu':
        npu, _ = _import_npu()
        npu.set_device(device)
        # The defaults differ between releases, so neither is left open.
        # Compiling every operator at the first step takes minutes.
        if hasattr(npu, 'set_compile_mode'):
            npu.set_compile_mode(jit_compile=_env_switch('NPU_JIT_COMPILE'))
        if hasattr(npu, 'config'):
            npu.config.allow_internal_format = _env_switch(
                'NPU_INTERNAL_FORMAT'
            )
    elif device_type == 'cuda':
        torch.cuda.set_device(index)
    _Process.device, _Process.numbered = device, numbered
    return device


def set_device(device=None):
    """Choose the device of this process and make it current.

    Args:
        device (str | torch.device | None): ``npu``, ``cuda`` or ``cpu``, with
            a number (``npu:3``) or without. Without one the number is
            ``LOCAL_RANK``, and on an NPU ``NPUID`` is added. None or ``auto``
            takes the first kind of :data:`BACKENDS` that is there.

    Returns:
        torch.device: The device, with its index unless it is the CPU.

    Raises:
        ValueError: The device is not there, or the request is no device.
    """
    request = 'auto' if device is None else str(device)
    if request == 'auto':
        kind, number = _first_available(), None
    else:
        match = re.match(r'([a-z]+)(?::(\d+))?$', request)
        if match is None or match.group(1) not in BACKENDS:
            raise ValueError(
                f'device {request!r} is not known: ask for auto, npu, cuda '
                'or cpu, or for one by number as in npu:3'
            )
        kind, number = match.groups()

    count, reason = _probe(kind)
    if not count:
        raise ValueError(
            f'device {request!r} was asked for, but {reason}. Available here: '
            f'{_describe_available()}'
        )
    if kind == 'cpu':
        return _activate('cpu')
    if number is None:
        local_rank = _env_int('LOCAL_RANK', 0)
        local_size = _env_int('LOCAL_WORLD_SIZE', 0)
        return _activate(kind, _index_for(kind, local_rank, local_size))
    if int(number) >= count:
        raise ValueError(
            f'device {request!r} was asked for, but the {count} {kind} '
            f'device(s) here are numbered 0 to {count - 1}'
        )
    return _activate(kind, int(number), numbered=True)


def get_device():
    """Return the device of this process, choosing one if none is chosen yet.

    Returns:
        torch.device: What :func:`set_device` or :func:`init_dist` chose last.
    """
    return set_device() if _Process.device is None else _Process.device


def synchronize():
    """Wait until the device has done all that it was given.

    Returns at once on the CPU, and where no device has been initialised.
    """
    kind = _current_kind()
    if kind == 'cpu':
        return
    accelerator = getattr(torch, kind)
    if accelerator.is_initialized():
        accelerator.synchronize()


def peak_memory():
    """Return the most memory that was held so far, for a log.

    Returns:
        int: Bytes of tensors on the device of this process; on the CPU those
        of the whole process.
    """
    kind = _current_kind()
    if kind == 'cpu':
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return getattr(torch, kind).max_memory_allocated()


# --------------------------------------------------------------------------
# How a device computes
# --------------------------------------------------------------------------


def set_arithmetic(cudnn_benchmark=None, allow_tf32=None):
    """Let CUDA compute faster, at the price of other last bits.

    On devices of other kinds both are without effect.

    Args:
        cudnn_benchmark (bool | None): Let cuDNN time its algorithms for each
            shape and take the fastest, which need not be the same in every
            run. None leaves it as it is: off, unless a program has set it.
        allow_tf32 (bool | None): Let products of fp32 matrices and
            convolutions round their factors to 10 bits. None leaves torch's
            defaults: convolutions may, products only in torch before 1.12.

    Returns:
        list[str]: What was asked for and is without effect here.
    """
    asked = dict(cudnn_benchmark=cudnn_benchmark, allow_tf32=allow_tf32)
    if _current_kind() != 'cuda':
        return [name for name, value in asked.items() if value]
    if cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = cudnn_benchmark
    if allow_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    return []


def fused_optimizer(kind, device, arguments=()):
    """Find the form of an optimiser that steps over all weights at once.

    Args:
        kind (str): Class of ``torch.optim``, such as ``Adam``.
        device (torch.device): Where the weights are.
        arguments (Iterable[str]): Names of the arguments of that class.

    Returns:
        tuple[str, dict] | None: Class and further arguments. None where the
        device has none; and for a CPU, on which torch's steps to other last
        bits.
    """
    if device.type == 'cuda' and 'fused' in arguments:
        return kind, dict(fused=True)
    if device.type == 'npu' and kind == 'Adam':
        return 'NpuFusedAdam', {}
    return None


def check_channels_last(device):
    """Refuse the memory format ``channels_last`` where there is none.

    Args:
        device (torch.device): Where the model is to be.

    Raises:
        ValueError: An NPU, which chooses layouts by itself.
    """
    if device.type == 'npu':
        raise ValueError(
            'channels_last is not for an NPU, which has layouts of its own '
            '(NPU_INTERNAL_FORMAT=1 allows them): leave it out'
        )


# --------------------------------------------------------------------------
# How data get to a device
# --------------------------------------------------------------------------


def choose_prefetch(wanted, device, pinned=True):
    """Decide whether batches are sent by :func:`send_beside`.

    Args:
        wanted (bool | None): None: where it can be had.
        device (torch.device): Where the model is.
        pinned (bool): Whether the loaders put batches into pinned memory,
            without which the host waits for each copy.

    Returns:
        bool: Whether they are.

    Raises:
        ValueError: It is demanded where it cannot be had.
    """
    lacking = None
    if device.type not in ('npu', 'cuda'):
        lacking = f'is for a device with streams, not for {device}'
    elif not pinned:
        lacking = 'needs pin_memory=True in data.train_dataloader'
    if wanted and lacking:
        raise ValueError(f'device_prefetch {lacking}: set it to None or False')
    return lacking is None and wanted is not False


@functools.lru_cache(maxsize=None)
def _copy_stream(device):
    """Return the stream of this process that copies to a device."""
    return getattr(torch, device.type).Stream(device)


def send_beside(tensor, device):
    """Send a tensor of the host while the device computes what it has to.

    In the stream of the computation a copy would wait for all that was put
    there before: the whole of the last step. Here it goes through a stream of
    its own, and only what comes after this call waits for it. The host waits
    for nothing if the tensor is in pinned memory.

    Args:
        tensor (Tensor): On the CPU; from elsewhere it goes the usual way.
        device (torch.device): An NPU or a CUDA device, with its index; to a
            CPU, too, it goes the usual way.

    Returns:
        Tensor: On the device, for use in its current stream.
    """
    if device.type == 'cpu' or tensor.device.type != 'cpu':
        return tensor.to(device)
    accelerator = getattr(torch, device.type)
    copying = _copy_stream(device)
    with accelerator.stream(copying):
        sent = tensor.to(device, non_blocking=True)
    computing = accelerator.current_stream(device)
    computing.wait_stream(copying)
    # Its memory belongs to the stream of copies, which must not put a later
    # batch there before the step is through with this one.
    sent.record_stream(computing)
    return sent


# --------------------------------------------------------------------------
# Random generators
# --------------------------------------------------------------------------


def _device_generator():
    """Return the module that holds the device's generator, and its kind.

    Returns:
        tuple: ``(None, 'cpu')`` where the CPU's is the only one, or where the
        device has not been used yet.
    """
    kind = _current_kind()
    if kind != 'cpu':
        accelerator = getattr(torch, kind)
        if hasattr(accelerator, 'get_rng_state'):
            if accelerator.is_initialized():
                return accelerator, kind
    return None, 'cpu'


def get_random_state():
    """Return the state of every random generator of this process.

    Returns:
        dict: ``python``, ``numpy``, ``torch`` (the CPU's) and, by its kind,
        the current device's. Only numbers and tensors on the CPU, so that a
        checkpoint can hold it.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    assert name == 'MT19937'
    state = dict(
        python=dict(version=version, words=torch.tensor(words), gauss=gauss),
        numpy=dict(
            keys=torch.from_numpy(keys.astype(np.int64)),
            position=position,
            has_gauss=has_gauss,
            cached_gaussian=cached,
        ),
        torch=torch.get_rng_state(),
    )
    accelerator, kind = _device_generator()
    if accelerator is not None:
        state[kind] = accelerator.get_rng_state()
    return state


def set_random_state(state):
    """Give the random generators of this process their state back.

    Args:
        state (dict): From :func:`get_random_state`. A device's part counts
            only where the current device is of the same kind.
    """
    python, numpy = state['python'], state['numpy']
    random.setstate(
        (python['version'], tuple(python['words'].tolist()), python['gauss'])
    )
    np.random.set_state(
        (
            'MT19937',
            numpy['keys'].numpy().astype(np.uint32),
            numpy['position'],
            numpy['has_gauss'],
            numpy['cached_gaussian'],
        )
    )
    torch.set_rng_state(state['torch'])
    accelerator, kind = _device_generator()
    if kind in state:
        accelerator.set_rng_state(state[kind])


# --------------------------------------------------------------------------
# Starting the processes' group
# --------------------------------------------------------------------------


def init_dist(launcher, backend='nccl', **kwargs):
    """Take this process's device and join the group of all processes.

    The kind of device is the one chosen with :func:`set_device` before, else
    the first one available; its number is the process's local rank.

    Data-loader workers are spawned from here on unless the program has chosen
    a start method before: a process that holds a device, or the threads of a
    collective backend, must not be forked. So a script needs its
    ``__main__`` guard and a data set must pickle.

    Args:
        launcher (str): ``pytorch`` (torchrun or torch.distributed.launch),
            ``mpi`` (Open MPI) or ``slurm``.
        backend (str | None): Collective backend. ``nccl``, which stands in
            every mmcv config, and None mean the device's own.
        **kwargs: Passed to ``torch.distributed.init_process_group``
            (``init_method``, ...). ``timeout`` may be seconds, as configs
            hold no timedelta. For slurm also ``port``.

    Raises:
        ValueError: The launcher or its environment is not as it should be,
            the backend does not serve the device, or there are fewer devices
            than processes on this host.
    """
    starters = dict(
        pytorch=_init_dist_pytorch, mpi=_init_dist_mpi, slurm=_init_dist_slurm
    )
    if launcher not in starters:
        raise ValueError(
            f'launcher {launcher!r} is not known: use one of '
            f'{", ".join(starters)}'
        )
    timeout = kwargs.get('timeout')
    if isinstance(timeout, Real) and not isinstance(timeout, bool):
        if not 0 < timeout < float('inf'):
            raise ValueError(
                f'timeout={timeout!r} must be a number of seconds above 0'
            )
        kwargs['timeout'] = timedelta(seconds=timeout)
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')
    starters[launcher](backend, **kwargs)


def _init_dist_pytorch(backend, **kwargs):
    """Join with what torch's launcher has put into the environment."""
    if 'init_method' not in kwargs and 'store' not in kwargs:
        _complete_rendezvous(kwargs)
    _join(backend, kwargs)


def _init_dist_mpi(backend, **kwargs):
    """Join with what Open MPI's mpirun has put into the environment.

    Its variables fill in for those of torch's launcher where these are not
    set; torch itself reads RANK and WORLD_SIZE only.
    """
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        theirs = 'OMPI_COMM_WORLD_' + name.replace('WORLD_SIZE', 'SIZE')
        if theirs in os.environ:
            os.environ.setdefault(name, os.environ[theirs])
    _init_dist_pytorch(backend, **kwargs)


def _init_dist_slurm(backend, port=None, **kwargs):
    """Join with what slurm's srun has put into the environment.

    Args:
        backend (str | None): As for :func:`init_dist`.
        port (int | None): Port of rank 0; by default ``MASTER_PORT``, else
            29500, which is torch's own default.
        **kwargs: Passed to ``init_process_group``.
    """
    rank = _env_int('SLURM_PROCID')
    local_rank = _env_int('SLURM_LOCALID', -1)
    if 'SLURM_GPUS_PER_TASK' in os.environ or 'SLURM_GPU_BIND' in os.environ:
        # Every task sees its own devices only, numbered from 0.
        local_rank = -1
    if local_rank < 0:
        local_rank = rank % device_count(_current_kind())
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_slurm_host()
    os.environ['RANK'] = str(rank)
    os.environ['WORLD_SIZE'] = str(_env_int('SLURM_NTASKS'))
    os.environ['LOCAL_RANK'] = str(local_rank)
    _join(backend, kwargs)


def _first_slurm_host():
    """Ask slurm for the first host of this job, where rank 0 runs.

    Raises:
        ValueError: ``SLURM_NODELIST`` is no list of hosts, or ``scontrol``
            does not answer with a host's name.
    """
    nodes = os.environ.get('SLURM_NODELIST', '')
    # The list goes through a shell, by the very call that mmcv's own tests
    # look for: nothing but names, ranges and commas, and no option.
    if not re.match(r'[\w\[][\w.,\[\]-]*$', nodes):
        raise ValueError(f'SLURM_NODELIST={nodes!r} is no list of hosts')
    answer = subprocess.getoutput(  # noqa: S605
        f'scontrol show hostname {nodes} | head -n1'
    )
    if not re.match(r'[\w.:-]+$', answer):
        raise ValueError(
            'scontrol does not tell the first host of SLURM_NODELIST='
            f'{nodes!r}; it says {answer!r}. Set MASTER_ADDR to the host of '
            'rank 0'
        )
    return answer


def _complete_rendezvous(kwargs):
    """Fill in the address of rank 0 where all processes share this host.

    Raises:
        ValueError: The launcher has not said which process this is, or there
            are several hosts and ``MASTER_ADDR`` is not set.
    """
    if 'rank' not in kwargs:
        _env_int('RANK')
    if 'world_size' in kwargs:
        world_size = kwargs['world_size']
    else:
        world_size = _env_int('WORLD_SIZE')
    if 'MASTER_ADDR' not in os.environ:
        local_size = _env_int('LOCAL_WORLD_SIZE', 1)
        if world_size > local_size:
            raise ValueError(
                f'MASTER_ADDR is not set, and of {world_size} processes only '
                f'{local_size} is known to be on this host: set it to the '
                'host of rank 0'
            )
        os.environ['MASTER_ADDR'] = '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', '29500')


def _listen_on_loopback_only():
    """Keep gloo off the network where rank 0 is reached by loopback.

    Such processes are all on this host. Left alone, gloo listens at the
    address of the host's name, which may be public or not resolve at all.
    """
    if os.environ.get('MASTER_ADDR') not in ('127.0.0.1', 'localhost'):
        return
    if 'lo' in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')


def _join(backend, kwargs):
    """Take the device, then join the group.

    The order matters: object collectives of hccl hang in a process whose
    device is not set.

    Args:
        backend (str | None): As for :func:`init_dist`.
        kwargs (dict): For ``init_process_group``.
    """
    device = _take_device()
    _listen_on_loopback_only()
    dist.init_process_group(
        backend=_choose_backend(device.type, backend), **kwargs
    )
    _Process.timeout = kwargs.get('timeout')
    atexit.register(_leave_group)


def _leave_group():
    """Take leave of all groups while Python is still there.

    A thread of gloo that has done its collective lets go of Python's tensors
    a moment after the caller goes on. If the interpreter is coming down by
    then, the thread dies of it and takes the process along ("terminate called
    without an active exception", status -6), though all work is done. A group
    that nobody holds on to waits for its threads.

    After an uncaught error the other ranks may be gone or waiting, and taking
    leave of them could hang: then the process just ends, as it would without
    us.
    """
    if hasattr(sys, 'last_type') or not dist.is_initialized():
        return
    _Process.host_group = (None, None)
    # Wrapped models hold on to their group, often in cycles.
    gc.collect()
    dist.destroy_process_group()


def _take_device():
    """Make the device of this process's local rank current.

    Returns:
        torch.device: The device.

    Raises:
        ValueError: There are fewer devices than processes, or one device was
            asked for by number while several processes run on this host.
    """
    kind = _current_kind()
    if kind == 'cpu':
        return _activate('cpu')
    local_size = _env_int('LOCAL_WORLD_SIZE', 0)
    if os.environ.get('LOCAL_RANK'):
        local_rank = _env_int('LOCAL_RANK')
    else:
        local_rank = _env_int('RANK') % device_count(kind)
    processes = max(local_size, local_rank + 1)
    if _Process.numbered and processes > 1:
        raise ValueError(
            f'device {str(_Process.device)!r} was asked for by number, but '
            f'{processes} processes on this host take one device each: ask '
            f'for {kind!r}, or start one process with NPROC=1'
        )
    if _Process.numbered:
        return _Process.device
    return _activate(kind, _index_for(kind, local_rank, local_size))


def _choose_backend(device_type, backend):
    """Decide on the collective backend.

    Raises:
        ValueError: The one asked for cannot reach tensors of this device.
    """
    own = BACKENDS[device_type]
    if backend in (None, 'nccl', own):
        return own
    reachable = dict(hccl=('npu',), gloo=('cpu', 'cuda'))
    if device_type not in reachable.get(backend, (device_type,)):
        raise ValueError(
            f'backend {backend!r} does not serve {device_type} devices: use '
            f'{own!r}'
        )
    return backend


# --------------------------------------------------------------------------
# Working together
# --------------------------------------------------------------------------


def get_dist_info():
    """Tell this process's place in the group.

    Returns:
        tuple[int, int]: Rank and number of processes; 0 and 1 without a
        group.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(func):
    """Make a function do nothing, and return None, but on rank 0."""

    @functools.wraps(func)
    def on_master(*args, **kwargs):
        rank, _ = get_dist_info()
        return func(*args, **kwargs) if rank == 0 else None

    return on_master


def _get_host_group():
    """Return the gloo group of all processes; the first call is collective.

    The device's own backend lacks some dtypes and needs device memory, which
    is the wrong way for objects of the host.
    """
    world = dist.distributed_c10d._get_default_group()
    made_for, group = _Process.host_group
    if made_for is not world:
        if dist.get_backend() == 'gloo':
            group = world
        elif _Process.timeout is None:
            group = dist.new_group(backend='gloo')
        else:
            group = dist.new_group(backend='gloo', timeout=_Process.timeout)
        _Process.host_group = (world, group)
    return group


def gather_objects(obj):
    """Bring one object of every process to rank 0, through host memory.

    Every process must call it.

    Args:
        obj (Any): Anything that pickles. Tensors should be on the CPU.

    Returns:
        list | None: The objects in the order of ranks on rank 0, None on the
        others; ``[obj]`` where there is no group.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return [obj]
    gathered = [None] * world_size if rank == 0 else None
    dist.gather_object(obj, gathered, dst=0, group=_get_host_group())
    return gathered


def broadcast_object(obj):
    """Give every process the object of rank 0, through host memory.

    Every process must call it.

    Args:
        obj (Any): Anything that pickles; that of rank 0 counts.

    Returns:
        Any: A copy of rank 0's object; ``obj`` itself on rank 0.
    """
    if get_dist_info()[1] == 1:
        return obj
    box = [obj]
    dist.broadcast_object_list(box, src=0, group=_get_host_group())
    return box[0]


def barrier():
    """Wait until every process is here. Does not wait for the devices."""
    _, world_size = get_dist_info()
    if world_size > 1:
        dist.barrier(group=_get_host_group())


def allreduce_params(params, coalesce=True, bucket_size_mb=-1):
    """Replace parameters or buffers by their mean over all processes.

    Args:
        params (Iterable[Tensor]): The same ones in the same order everywhere.
        coalesce (bool): Send many tensors as one.
        bucket_size_mb (int): Limit in MiB for what is sent as one; -1 sends
            all tensors of a type together.
    """
    _average([param.data for param in params], coalesce, bucket_size_mb)


def allreduce_grads(params, coalesce=True, bucket_size_mb=-1):
    """Replace the gradients of parameters by their mean over all processes.

    Args:
        params (Iterable[Parameter]): The same ones in the same order
            everywhere. Those that are frozen or have no gradient are left
            out.
        coalesce (bool): As for :func:`allreduce_params`.
        bucket_size_mb (int): As for :func:`allreduce_params`.
    """
    grads = [
        param.grad.data
        for param in params
        if param.requires_grad and param.grad is not None
    ]
    _average(grads, coalesce, bucket_size_mb)


def _average(tensors, coalesce, bucket_size_mb):
    _, world_size = get_dist_info()
    if world_size == 1:
        return
    if coalesce:
        _allreduce_coalesced(tensors, world_size, bucket_size_mb)
        return
    for tensor in tensors:
        # Divided first, as mmcv does here: the last bit depends on it.
        dist.all_reduce(_divide(tensor, world_size))


def _allreduce_coalesced(tensors, world_size, bucket_size_mb=-1):
    """Average tensors in buckets of one type each, in place.

    Args:
        tensors (list[Tensor]): Any shapes.
        world_size (int): Number of processes.
        bucket_size_mb (int): Largest bucket in MiB, no limit if not positive.
    """
    if bucket_size_mb > 0:
        buckets = _take_tensors(tensors, bucket_size_mb * 2**20)
    else:
        by_type = OrderedDict()
        for tensor in tensors:
            by_type.setdefault(tensor.type(), []).append(tensor)
        buckets = by_type.values()
    for bucket in buckets:
        flat = _flatten_dense_tensors(bucket)
        dist.all_reduce(flat)
        _divide(flat, world_size)
        means = _unflatten_dense_tensors(flat, bucket)
        for tensor, mean in zip(bucket, means):
            tensor.copy_(mean)


def _divide(tensor, divisor):
    """Divide in place; counters (batch norm has one) stay whole numbers."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor.div_(divisor)
    return tensor.div_(divisor, rounding_mode='floor')
