"""mmcv/runner/dist_utils.py: devices, and processes that work together.

All names of mmcv 1.2.7 are here, and the *device seam*: everything else asks
this module (or looks at where the parameters are) and names no device. Asking
by name for a device that is not there is a :class:`UserError`; nothing falls
back silently.

Environment:
    LOCAL_RANK, LOCAL_WORLD_SIZE: set by torch's launcher; a process takes the
        device of its local rank.
    NPUID: added to the index of an NPU if no index was given.
    NPU_JIT_COMPILE, NPU_INTERNAL_FORMAT: 1 or 0: compile operators at the
        first step; use private layouts. By default the chip decides.
"""

import atexit
import functools
import gc
import os
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from datetime import timedelta

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
        numbered (bool): Whether it was asked for by number.
        timeout (timedelta | None): Limit for collectives, of both groups.
        host_group (tuple): Default group, and the gloo group beside it.
    """

    device = None
    numbered = False
    timeout = None
    host_group = (None, None)


# Devices ------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def _import_npu():
    """Return ``torch.npu`` or None, and the reason for None in words.

    Any exception counts: CANN is missing (ImportError, SystemExit in 1.8.1),
    torch already has another accelerator (RuntimeError), or another torch.
    """
    try:
        import torch_npu  # noqa: F401  (registers torch.npu)

        return torch.npu, ''
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        hint = '' if kind == 'ModuleNotFoundError' else '; source env.sh first'
        return None, f'torch_npu cannot be imported ({kind}: {error}){hint}'


def probe(device_type):
    """Count devices without initialising any; say why if there is none."""
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
        except Exception as error:  # of the driver
            return 0, f'the NPU driver does not answer ({error})'
        return count, '' if count else 'torch_npu sees no NPU'
    return 0, f'{device_type!r} is not a kind of device known here'


def device_count(device_type):
    """Count the devices of one kind, a key of :data:`BACKENDS`.

    The CPU counts as one, whatever its number of cores; 0 where the kind
    cannot be used.
    """
    return probe(device_type)[0]


def _current_kind():
    """Return the kind of the chosen device, else the first one available."""
    chosen = _Process.device
    return _first_available() if chosen is None else chosen.type


def _first_available():
    return next(kind for kind in BACKENDS if device_count(kind))


def _env_int(name, default=None):
    """Read a whole number, at least 0, from the environment."""
    text = os.environ.get(name, '').strip()
    if text.isdigit():
        return int(text)
    if text:
        raise UserError(f'{name}={text!r} must be a whole number, at least 0')
    if default is None:
        raise UserError(
            f'{name} is not set: the launcher that was named has not started '
            'this process'
        )
    return default


def _env_switch(name):
    """Read an on/off switch from the environment; None if it is not set."""
    text = os.environ.get(name, '').strip().lower()
    on, off = ('1', 'true', 'yes', 'on'), ('0', 'false', 'no', 'off')
    if text and text not in on + off:
        raise UserError(f'{name}={text!r} must be 0 or 1')
    return text in on if text else None


def _processes_here(local_rank):
    """Return how many processes run on this host, as far as is known."""
    return max(_env_int('LOCAL_WORLD_SIZE', 0), local_rank + 1)


def _index_for(device_type, local_rank):
    """Return ``local_rank``, plus ``NPUID`` on an NPU, as device index.

    Refuse it if there are fewer devices than processes on this host.
    """
    count = device_count(device_type)
    offset = _env_int('NPUID', 0) if device_type == 'npu' else 0
    processes = _processes_here(local_rank)
    if offset + processes <= count:
        return offset + local_rank
    if processes == 1:
        raise UserError(
            f'NPUID={offset}, but the {count} npu device(s) here are '
            f'numbered 0 to {count - 1}: choose one of these'
        )
    beyond = f' from NPUID={offset} on' if offset else ''
    raise UserError(
        f'{processes} processes on this host need {processes} {device_type} '
        f'devices{beyond}, but there are {count}: start fewer processes with '
        f'NPROC={max(count - offset, 1)}'
    )


def _activate(device_type, index=None, numbered=False):
    """Make a device current, remember it and return it."""
    if device_type == 'cpu':
        device = torch.device('cpu')
    else:
        device = torch.device(device_type, index)
    if device_type == 'npu':
        npu, _ = _import_npu()
        npu.set_device(device)
        compiles = _env_switch('NPU_JIT_COMPILE')
        private = _env_switch('NPU_INTERNAL_FORMAT')
        if compiles is not None and hasattr(npu, 'set_compile_mode'):
            npu.set_compile_mode(jit_compile=compiles)
        if private is not None and hasattr(npu, 'config'):
            npu.config.allow_internal_format = private
    elif device_type == 'cuda':
        torch.cuda.set_device(index)
    _Process.device, _Process.numbered = device, numbered
    return device


def set_device(device=None):
    """Choose the device of this process and make it current.

    Args:
        device (str | torch.device | None): ``npu``, ``cuda`` or ``cpu``, with
            a number (``npu:3``) or without. Without one the number is
            ``LOCAL_RANK``, plus ``NPUID`` on an NPU. None or ``auto`` takes
            the first kind of :data:`BACKENDS` that is there.

    Returns:
        torch.device: The device, with its index unless it is the CPU.

    Raises:
        UserError: The device is not there, or the request is no device.
    """
    request = 'auto' if device is None else str(device)
    if request == 'auto':
        kind, number = _first_available(), None
    else:
        match = re.match(r'([a-z]+)(?::(\d+))?$', request)
        if match is None or match.group(1) not in BACKENDS:
            raise UserError(
                f'device {request!r} is not known: ask for auto, npu, cuda '
                'or cpu, or for one by number as in npu:3'
            )
        kind, number = match.groups()

    count, reason = probe(kind)
    if not count:
        counts = {k: device_count(k) for k in BACKENDS if device_count(k)}
        words = [k if k == 'cpu' else f'{k} ({n})' for k, n in counts.items()]
        raise UserError(
            f'device {request!r} was asked for, but {reason}. Available here: '
            f'{", ".join(words)}'
        )
    if kind == 'cpu':
        return _activate('cpu')
    if number is None:
        return _activate(kind, _index_for(kind, _env_int('LOCAL_RANK', 0)))
    if int(number) >= count:
        raise UserError(
            f'device {request!r} was asked for, but the {count} {kind} '
            f'device(s) here are numbered 0 to {count - 1}'
        )
    return _activate(kind, int(number), numbered=True)


def get_device():
    """Return the device of this process; choose one if none is chosen yet."""
    return set_device() if _Process.device is None else _Process.device


def accelerator_in_use():
    """Return kind and module of the device in use: ``'npu', torch.npu``.

    Both are None on the CPU, and before the device is initialised.
    """
    kind = _current_kind()
    if kind == 'cpu' or not getattr(torch, kind).is_initialized():
        return None, None
    return kind, getattr(torch, kind)


def synchronize():
    """Wait until the device, if one is in use, has done all its work."""
    _, accelerator = accelerator_in_use()
    if accelerator is not None:
        accelerator.synchronize()


def fused_optimizer(kind, device, arguments=()):
    """Find the form of an optimizer that steps over all weights at once.

    Args:
        kind (str): Class of ``torch.optim``, such as ``Adam``.
        device (torch.device): Where the weights are.
        arguments (Iterable[str]): Names of the arguments of that class.

    Returns:
        tuple[str, dict] | None: Class and further arguments. None where the
        device has none, and for a CPU, where torch's gives other last bits.
    """
    if device.type == 'cuda' and 'fused' in arguments:
        return kind, dict(fused=True)
    if device.type == 'npu' and kind == 'Adam':
        return 'NpuFusedAdam', {}
    return None


# Starting the group of processes ------------------------------------------


def init_dist(launcher, backend='nccl', **kwargs):
    """Take this process's device and join the group of all processes.

    The kind of device is the one chosen with :func:`set_device` before, else
    the first one available; its number is the process's local rank.

    From here on data-loader workers are spawned, unless the program has
    chosen a start method before: a process that holds a device, or the
    threads of a collective backend, must not be forked. So a script needs its
    ``__main__`` guard, and a data set must pickle.

    Args:
        launcher (str): ``pytorch`` (torchrun), ``mpi`` (Open MPI) or
            ``slurm``.
        backend (str | None): Collective backend. ``nccl``, which stands in
            every mmcv config, and None mean the device's own.
        **kwargs: Passed to ``torch.distributed.init_process_group``
            (``init_method``, ...). ``timeout`` may be seconds, as configs
            hold no timedelta. For slurm also ``port``.

    Raises:
        UserError: Launcher, environment or arguments are wrong, the backend
            does not serve the device, or there are fewer devices than
            processes on this host.
    """
    starters = dict(
        pytorch=_init_dist_pytorch, mpi=_init_dist_mpi, slurm=_init_dist_slurm
    )
    if launcher not in starters:
        raise UserError(
            f'launcher {launcher!r} is not known: use one of '
            f'{", ".join(starters)}'
        )
    timeout = kwargs.get('timeout')
    if timeout is not None and not isinstance(timeout, timedelta):
        is_number = type(timeout) in (int, float)
        if not is_number or not 0 < timeout < float('inf'):
            raise UserError(
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
    """Join by mpirun's variables, where torch's launcher has set none."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        theirs = 'OMPI_COMM_WORLD_' + name.replace('WORLD_SIZE', 'SIZE')
        if theirs in os.environ:
            os.environ.setdefault(name, os.environ[theirs])
    _init_dist_pytorch(backend, **kwargs)


def _init_dist_slurm(backend, port=None, **kwargs):
    """Join by srun's variables; ``port`` of rank 0 replaces MASTER_PORT."""
    rank = _env_int('SLURM_PROCID')
    local_rank = _env_int('SLURM_LOCALID', -1)
    if 'SLURM_GPUS_PER_TASK' in os.environ or 'SLURM_GPU_BIND' in os.environ:
        # Every task sees only its own devices, numbered from 0.
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
    """Ask slurm for the first host of this job, where rank 0 runs."""
    nodes = os.environ.get('SLURM_NODELIST', '')
    # The list goes through a shell, by the very call that mmcv's own tests
    # look for: allow only names, ranges and commas, and no option.
    if not re.match(r'[\w\[][\w.,\[\]-]*$', nodes):
        raise UserError(f'SLURM_NODELIST={nodes!r} is no list of hosts')
    answer = subprocess.getoutput(  # noqa: S605
        f'scontrol show hostname {nodes} | head -n1'
    )
    if not re.match(r'[\w.:-]+$', answer):
        raise UserError(
            'scontrol does not tell the first host of SLURM_NODELIST='
            f'{nodes!r}; it says {answer!r}. Set MASTER_ADDR to the host of '
            'rank 0'
        )
    return answer


def _complete_rendezvous(kwargs):
    """Fill in the address of rank 0 where all processes share this host."""
    if 'rank' not in kwargs:
        _env_int('RANK')
    world_size = kwargs.get('world_size') or _env_int('WORLD_SIZE')
    if 'MASTER_ADDR' not in os.environ:
        local_size = _env_int('LOCAL_WORLD_SIZE', 1)
        if world_size > local_size:
            raise UserError(
                f'MASTER_ADDR is not set, and of {world_size} processes only '
                f'{local_size} is known to be on this host: set it to the '
                'host of rank 0'
            )
        os.environ['MASTER_ADDR'] = '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', '29500')
    _env_int('MASTER_PORT')


def _listen_on_loopback_only():
    """Keep gloo off the network where rank 0 is reached by loopback.

    By default it listens at the address of the host's name, which may be
    public or not resolve at all.
    """
    if os.environ.get('MASTER_ADDR') not in ('127.0.0.1', 'localhost'):
        return
    if 'lo' in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')


def _join(backend, kwargs):
    """Take the device, then join the group.

    The order matters: object collectives of hccl hang in a process whose
    device is not set.
    """
    device = _take_device()
    _listen_on_loopback_only()
    dist.init_process_group(
        backend=_choose_backend(device.type, backend), **kwargs
    )
    _Process.timeout = kwargs.get('timeout')
    atexit.register(_leave_group)


def _leave_group():
    """Leave all groups before the interpreter ends.

    A thread of gloo releases Python's tensors a moment after its collective
    is done. If the interpreter is shutting down by then, the thread kills the
    process (status -6). A group that nobody holds waits for its threads.

    After an uncaught error leaving could hang: the process just ends.
    """
    if hasattr(sys, 'last_type') or not dist.is_initialized():
        return
    _Process.host_group = (None, None)
    # Wrapped models hold on to their group, often in cycles.
    gc.collect()
    dist.destroy_process_group()


def _take_device():
    """Make the device of this process's local rank current; return it."""
    kind = _current_kind()
    if kind == 'cpu':
        return _activate('cpu')
    local_rank = _env_int('LOCAL_RANK', -1)
    if local_rank < 0:
        local_rank = _env_int('RANK') % device_count(kind)
    if not _Process.numbered:
        return _activate(kind, _index_for(kind, local_rank))
    processes = _processes_here(local_rank)
    if processes > 1:
        raise UserError(
            f'device {str(_Process.device)!r} was asked for by number, but '
            f'{processes} processes on this host take one device each: ask '
            f'for {kind!r}, or start one process with NPROC=1'
        )
    return _Process.device


def _choose_backend(device_type, backend):
    """Return the collective backend; refuse one that cannot serve."""
    own = BACKENDS[device_type]
    if backend in (None, 'nccl', own):
        return own
    reachable = dict(hccl=('npu',), gloo=('cpu', 'cuda'))
    if device_type not in reachable.get(backend, (device_type,)):
        raise UserError(
            f'backend {backend!r} does not serve {device_type} devices: use '
            f'{own!r}'
        )
    return backend


# Working together ---------------------------------------------------------


def get_dist_info():
    """Return rank and number of processes; 0 and 1 without a group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(func):
    """Let a function run on rank 0 only; elsewhere it returns None."""

    @functools.wraps(func)
    def on_master(*args, **kwargs):
        rank, _ = get_dist_info()
        return func(*args, **kwargs) if rank == 0 else None

    return on_master


def get_host_group():
    """Return the gloo group of all processes; the first call is collective.

    The device's own backend lacks some dtypes and needs device memory, which
    does not suit objects of the host.
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

    Every process must call it, with plain data and tensors (never code).

    Returns:
        list | None: The objects in the order of ranks on rank 0, None on the
        others; ``[obj]`` where there is no group.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return [obj]
    from .checkpoint import gather_plain  # which imports this module

    return gather_plain(obj, rank, world_size)


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
    """Replace gradients by their mean; see :func:`allreduce_params`.

    Parameters that are frozen or have no gradient are left out.
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
        # Divided first, as in mmcv: the last bit depends on it.
        dist.all_reduce(_divide(tensor, world_size))


def _allreduce_coalesced(tensors, world_size, bucket_size_mb=-1):
    """Average tensors in place, in buckets of one type each."""
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
