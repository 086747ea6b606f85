"""The process: its device, its share of the cores, its output."""

import contextlib
import os
import sys
from importlib.util import find_spec

from hourglass_npu import lifetime
from hourglass_npu.errors import UserError, call_last
from hourglass_npu.options import apply_trust


@contextlib.contextmanager
def silence(number):
    """Context in which nothing that libraries print is seen, by C++ too.

    For what would be said twice, or at length, before an error of ours.

    Args:
        number (int): 1 for standard output, 2 for standard error.
    """
    stream = {1: sys.stdout, 2: sys.stderr}[number]
    stream.flush()
    kept = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
        yield
    finally:
        stream.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


def start(args, cfg):
    """Take the device and, under a launcher, join the process group.

    Args:
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): The number of data-loader workers is bounded in
            it where processes share the cores.

    Returns:
        tuple[torch.device, bool]: The device; whether this process is one
        of a group.

    Raises:
        UserError: The device is not there, or the group cannot be.
    """
    from mmcv.runner.dist_utils import init_dist, set_device

    from hourglass_npu.devices import set_arithmetic

    apply_trust(args)
    call_last(lifetime.keep_sockets_together())
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    launcher = args.launcher
    if launcher is None:
        launched = {'RANK', 'WORLD_SIZE', 'LOCAL_RANK'} <= set(os.environ)
        launcher = 'pytorch' if launched else 'none'
    device = set_device(args.device)
    if device.type == 'cpu' and args.device in (None, 'auto'):
        tell_of_idle_npus()
    if launcher != 'none':
        params = dict(cfg.dist_params)
        timeout = params.get('timeout')
        if isinstance(timeout, (int, float)) and timeout > 0:
            # RankGuard reports first: the libraries name no rank.
            params['timeout'] = timeout + 60
        init_dist(launcher, **params)
    idle = set_arithmetic(cfg.get('cudnn_benchmark'), cfg.get('allow_tf32'))
    if idle and os.environ.get('RANK', '0') == '0':
        print(
            f'note: {" and ".join(idle)} has no effect on {device.type}',
            file=sys.stderr,
        )
    share_cores(device, args, cfg)
    return device, launcher != 'none'


def tell_of_idle_npus():
    """Say why a torch_npu that is installed does not serve."""
    from mmcv.runner.dist_utils import probe

    if find_spec('torch_npu') and os.environ.get('RANK', '0') == '0':
        print(f'warning: no NPU is used: {probe("npu")[1]}', file=sys.stderr)


def check_enough_devices(args):
    """Refuse more processes than this host has devices for, once for all.

    scripts/launch.sh asks for that before it starts them.

    Args:
        args (argparse.Namespace): Options of :func:`add_options`.

    Raises:
        UserError: There are too few devices of the kind.
    """
    from mmcv.runner.dist_utils import BACKENDS, device_count

    kind = (args.device or 'auto').partition(':')[0]
    if kind == 'auto':
        kind = next(kind for kind in BACKENDS if device_count(kind))
    processes = int(os.environ.get('HOURGLASS_NPROC') or 1)
    count = device_count(kind) if kind in BACKENDS else 0
    if kind != 'cpu' and 0 < count < processes:
        raise UserError(
            f'{processes} processes need a device each, and this host has '
            f'{count} {kind} device(s): ask for {count}, with the first '
            'argument of eval.sh or with NPROC='
        )


def share_cores(device, args, cfg):
    """Divide the host's cores among the processes on it.

    Arithmetic threads are set only where several processes compute on the
    CPU, and OMP_NUM_THREADS does not say how many; there too a batch is no
    larger than ``data.samples_per_cpu``, if the config has that: processes
    that share the cores gain nothing from more, and share the memory. What
    was asked for by ``--cfg-options`` stays as it is.

    Args:
        device (torch.device): What this process computes on.
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): ``data.workers_per_gpu`` and
            ``data.samples_per_gpu`` are lowered in place.
    """
    import cv2
    import torch

    processes = int(
        os.environ.get('LOCAL_WORLD_SIZE') or os.environ.get('WORLD_SIZE', 1)
    )
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    on_cpu = device.type == 'cpu'
    if on_cpu and processes > 1:
        if 'OMP_NUM_THREADS' not in os.environ:
            torch.set_num_threads(cores)
        cv2.setNumThreads(0)
    asked = {
        text.partition('=')[0]
        for group in args.cfg_options or ()
        for text in group
    }
    most = cfg.data.get('samples_per_cpu')
    if most and on_cpu and processes > 1 and 'samples_per_gpu' in cfg.data:
        if 'data.samples_per_gpu' not in asked:
            cfg.data.samples_per_gpu = min(cfg.data.samples_per_gpu, most)
    if 'data.workers_per_gpu' not in asked:
        # On the CPU one core of each process is busy with the model itself.
        most = cores - 1 if on_cpu else cores
        cfg.data.workers_per_gpu = min(
            cfg.data.get('workers_per_gpu', most), most
        )
