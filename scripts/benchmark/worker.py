"""Processes that measure: both ends of the pipe to them."""

import contextlib
import multiprocessing
import os
import socket
import sys
import traceback
from datetime import timedelta
from pathlib import Path

CONTEXT = multiprocessing.get_context('spawn')


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for."""


class Worker:
    """A process that measures cases.

    Args:
        site (Path | None): Folder whose packages go before the installed
            ones; None measures what is installed.
        log (Path): File for what the process prints.
        environment (dict): Variables beside the present ones.
    """

    def __init__(self, site, log, environment=None):
        self.log = Path(log).resolve()
        self.pipe, end = CONTEXT.Pipe()
        given = end, site, self.log, environment or {}
        self.process = CONTEXT.Process(target=_serve, args=given)
        self.process.start()
        end.close()

    def send(self, *request):
        """Send a request, see :func:`_serve`, without waiting."""
        with contextlib.suppress(BrokenPipeError):  # receive() says why
            self.pipe.send(request)

    def receive(self):
        """Wait for an answer and return what it holds.

        Raises:
            WorkerError: The request failed, or the process has ended.
        """
        try:
            error, result = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            error = self.log.read_text(errors='replace')[-2000:]
            error = f'a worker ended with status {status}\n{error}'
        if error is not None:
            raise WorkerError(error)
        return result

    def stop(self):
        """End the process."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def ask_all(workers, *request):
    """Send one request to several workers and return their answers."""
    for worker in workers:
        worker.send(*request)
    return [worker.receive() for worker in workers]


def form_group(workers):
    """Let workers join each other as the ranks of one process group."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    for rank, worker in enumerate(workers):
        worker.send('join', rank, len(workers), port)
    for worker in workers:
        worker.receive()


def _join(rank, ranks, port):
    import torch

    variables = dict(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE=ranks,
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=port,
    )
    os.environ.update({key: str(value) for key, value in variables.items()})
    torch.distributed.init_process_group(
        'gloo', timeout=timedelta(seconds=300)
    )


def _serve(pipe, site, log, environment):
    """Answer requests until the pipe is closed: what the process does.

    - ``'make', KEY, CASE, SOURCE, OPTIONS`` prepares a case, see
      :func:`.case.start`, and answers its facts;
    - ``'round', KEY, SEED`` measures it once and answers what it found;
    - ``'join', RANK, RANKS, PORT`` joins other workers as a process group.

    An answer is a traceback or None, and what was found.
    """
    # All before torch is imported. Stock mmpose writes its log into the
    # working directory.
    os.environ.update(environment)
    os.chdir(str(log.parent))
    with open(str(log), 'a') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.dont_write_bytecode = True
    if site is not None:
        sys.path.insert(0, str(site))
    cases = {}

    def answer(word, *given):
        if word == 'join':
            return _join(*given)
        key, *given = given
        if word == 'round':
            return cases[key].send(*given)
        from benchmark.case import start

        cases[key] = start(*given)
        return next(cases[key])

    with contextlib.suppress(EOFError):
        while True:
            request = pipe.recv()
            try:
                pipe.send((None, answer(*request)))
            except Exception:
                pipe.send((traceback.format_exc(), None))
    # Threads of a process group can abort an orderly end.
    sys.stderr.flush()
    os._exit(0)
