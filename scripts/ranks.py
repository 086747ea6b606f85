"""Torch's launcher, whose last words are for people.

usage: ranks.py LAUNCHER [OPTION ...] PROGRAM [ARGUMENT ...]

LAUNCHER is torch.distributed.run, or torch.distributed.launch where torch has
no other. Either ends in a traceback of its own when one of its processes has
failed. Here the exit status is that of the process that failed first, as a
shell gives it; what went wrong that process has said itself, and where it had
no time to, one line tells which it was and how it ended.

Ranks end with this process, and this process with the script that started it.
"""

import contextlib
import importlib
import logging
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

BOOTSTRAP = os.path.join(
    os.path.dirname(os.path.realpath(__file__)),
    '../mmpose-master/hourglass_npu/bootstrap.py',
)
runpy.run_path(BOOTSTRAP)['use_this_package']()

from hourglass_npu import errors, lifetime  # noqa: E402

USERS_MISTAKE = 2
"""Exit status of a process that has said all that there is to say."""


def conclude(status, rank=None):
    """End this process as one of its own has ended.

    Args:
        status (int): Its exit status, or the negative number of the signal
            that has ended it.
        rank (int | None): Its number, where it is known.
    """
    who = 'a process' if rank is None else f'rank {rank}'
    if status < 0:
        name = signal.Signals(-status).name
        hint = ''
        if name == 'SIGKILL':
            hint = '; unless somebody killed it, memory may have run out'
        say(f'error: {who} was ended by {name}{hint}')
        sys.exit(128 - status)
    if status != USERS_MISTAKE:
        say(
            f'error: {who} has failed with status {status}; what it said is '
            'above'
        )
    sys.exit(status)


def say(text):
    """Print a line on standard error, unless nobody reads it any more."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def listen_at_loopback():
    """Keep the ranks' store off the network where they share this host.

    The store through which ranks find each other asks nobody who they are,
    and torch lets it listen at every address of the host. Older torch, such
    as 1.8, cannot be told otherwise.
    """
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import static_tcp_rendezvous

    known = str(TCPStore.__init__.__doc__)
    if 'master_listen_fd' not in known:
        return

    def make_store(host, port, world_size, is_master, *args, **kwargs):
        if is_master and host in ('127.0.0.1', 'localhost'):
            listener = socket.create_server(('127.0.0.1', port), backlog=2048)
            kwargs['master_listen_fd'] = listener.detach()
            if 'use_libuv' in known:
                # The newer kind, torch's default, takes no socket in 2.7.
                kwargs['use_libuv'] = False
        return TCPStore(host, port, world_size, is_master, *args, **kwargs)

    static_tcp_rendezvous.TCPStore = make_store


def run_elastic(launcher, arguments):
    """Run ``torch.distributed.run``.

    Args:
        launcher (module): That module.
        arguments (list[str]): Its command line.
    """
    from torch.distributed.elastic.multiprocessing.errors import (
        ChildFailedError,
    )
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    # It tells of each process that it ends since another has failed.
    log = logging.getLogger('torch.distributed.elastic.multiprocessing.api')
    log.setLevel(logging.CRITICAL)
    listen_at_loopback()
    try:
        launcher.run(launcher.parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        conclude(failure.exitcode, rank)
    except RendezvousError as error:
        say(
            f'error: the hosts did not find each other ({error}). Compare '
            'the --rdzv options on all of them'
        )
        sys.exit(1)


def run_plain(launcher, arguments):
    """Run ``torch.distributed.launch`` of torch 1.8.

    Args:
        launcher (module): That module.
        arguments (list[str]): Its command line.
    """
    sys.argv[1:] = arguments
    try:
        launcher.main()
    except subprocess.CalledProcessError as error:
        conclude(error.returncode)


@contextlib.contextmanager
def stops_heard():
    """Context after which the process ends as its stopped ranks would.

    Torch's launcher would take a rank's status 143 for a failure. So ranks
    that stop on a signal end with status 0, and write its number to this
    pipe: no file that could be left behind.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.environ['STOPPED_FILE'] = f'/proc/{os.getpid()}/fd/{writer}'
    try:
        yield
    finally:
        with contextlib.suppress(BlockingIOError):
            number = os.read(reader, 100).split()[0]
            # Also if a rank has failed, as one does whose peers are gone.
            sys.exit(128 + int(number))


def main():
    """Do what the command line says."""
    name, *arguments = sys.argv[1:]
    me = lifetime.identify(os.getpid())
    launchers = f'{os.environ.get(lifetime.LAUNCHERS, "")} {me}'
    os.environ[lifetime.LAUNCHERS] = launchers
    # Torch's launcher, too, leaves folders behind when it is killed.
    tempfile.tempdir = lifetime.make_temporary_folder()
    start = run_elastic if name == 'torch.distributed.run' else run_plain
    try:
        with stops_heard():
            start(importlib.import_module(name), arguments)
    finally:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


if __name__ == '__main__':
    errors.run(main)
