"""Processes that measure, and what they are asked to do."""

import multiprocessing
import os
import socket
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path

_cases = {}  # of a worker, by key


class Worker(ProcessPoolExecutor):
    """A process that measures cases.

    Args:
        site (Path | None): Folder whose packages go before the installed
            ones; None measures what is installed.
        log (Path): File for what the process prints.
        environment (dict): Variables beside the present ones.
        device (str): Kind of the device that ours uses. What stock uses
            depends on what it finds.
    """

    def __init__(self, site, log, environment=None, device='cpu'):
        self.log = Path(log).resolve()
        spawn = multiprocessing.get_context('spawn')
        given = site, self.log, dict(environment or {}), device
        super().__init__(1, spawn, _set_up, given)


def _set_up(site, log, environment, device):
    """Prepare a worker's process, before torch is imported."""
    os.environ.update(environment)
    # Stock mmpose writes its log into the working directory.
    os.chdir(str(log.parent))
    with open(str(log), 'a') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.dont_write_bytecode = True
    if site is not None:
        sys.path.insert(0, str(site))
    backend = 'gloo'
    if site is None:
        from mmcv.runner.dist_utils import BACKENDS, set_device

        set_device(device)
        backend = BACKENDS[device]
    if 'RANK' in environment:
        import torch

        limit = timedelta(seconds=300)
        torch.distributed.init_process_group(backend, timeout=limit)
    # Data workers are started as in any other process.
    multiprocessing.set_start_method(None, force=True)


def start_group(ranks, site, logs, environment, device='cpu'):
    """Return so many workers, which form a process group if they are several.

    Their logs are ``logs`` with rank and ending; see :class:`Worker`.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    group = []
    for rank in range(ranks):
        own = dict(
            RANK=f'{rank}',
            LOCAL_RANK=f'{rank}',
            WORLD_SIZE=f'{ranks}',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=f'{port}',
        )
        own = dict(environment, **(own if ranks > 1 else {}))
        group.append(Worker(site, f'{logs}-{rank}.log', own, device))
    return group


def ask_all(workers, function, *arguments):
    """Call a function in several workers at once; return what they return.

    Raises:
        RuntimeError: One has ended. What the function raises comes through.
    """
    futures = [worker.submit(function, *arguments) for worker in workers]
    try:
        return [future.result() for future in futures]
    except BrokenProcessPool:
        tails = [w.log.read_text(errors='replace')[-2000:] for w in workers]
        raise RuntimeError('\n'.join(['a worker has ended', *tails])) from None


def make(key, case, source, options):
    """Prepare a case, see :mod:`.case`, and return its facts."""
    from benchmark.case import start

    _cases[key] = start(case, source, options)
    return next(_cases[key])


def play(key, seed):
    """Measure a case once and return what it found."""
    return _cases[key].send(seed)
