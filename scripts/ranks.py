"""Torch's launcher, whose last words are for people.

usage: ranks.py LAUNCHER [OPTION ...] PROGRAM [ARGUMENT ...]

LAUNCHER is torch.distributed.run, or torch.distributed.launch where torch has
no other. Either ends in a traceback of its own when one of its processes has
failed. Here the exit status is that of the process that failed first, as a
shell gives it; what went wrong that process has said itself, and where it had
no time to, one line tells which it was and how it ended.
"""

import importlib
import logging
import signal
import socket
import subprocess
import sys

USERS_MISTAKE = 2
"""Exit status of a process that has said all that there is to say."""


def conclude(status, rank=None):
    """Ends this process as one of its own has ended.

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
            hint = '; if nobody did it, memory may have run out'
        print(f'error: {who} was ended by {name}{hint}', file=sys.stderr)
        sys.exit(128 - status)
    if status != USERS_MISTAKE:
        print(
            f'error: {who} has failed with status {status}; what it said is '
            'above',
            file=sys.stderr,
        )
    sys.exit(status)


def listen_at_loopback():
    """Keeps the ranks' store off the network where they share this host.

    The store through which ranks find each other asks nobody who they are,
    and torch lets it listen at every address of the host. Older torch, such
    as 1.8, cannot be told otherwise.
    """
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import static_tcp_rendezvous

    if 'master_listen_fd' not in str(TCPStore.__init__.__doc__):
        return

    def make_store(host, port, world_size, is_master, *args, **kwargs):
        if is_master and host in ('127.0.0.1', 'localhost'):
            listener = socket.create_server(('127.0.0.1', port), backlog=2048)
            kwargs['master_listen_fd'] = listener.detach()
        return TCPStore(host, port, world_size, is_master, *args, **kwargs)

    static_tcp_rendezvous.TCPStore = make_store


def run_elastic(launcher, arguments):
    """Runs ``torch.distributed.run``.

    Args:
        launcher (module): That module.
        arguments (list[str]): Its command line.
    """
    from torch.distributed.elastic.multiprocessing import errors
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    # It tells of each process that it ends since another has failed.
    log = logging.getLogger('torch.distributed.elastic.multiprocessing.api')
    log.setLevel(logging.CRITICAL)
    listen_at_loopback()
    try:
        launcher.run(launcher.parse_args(arguments))
    except errors.ChildFailedError as error:
        rank, failure = error.get_first_failure()
        conclude(failure.exitcode, rank)
    except RendezvousError as error:
        print(
            f'error: the hosts did not find each other ({error}). Compare '
            'the --rdzv options on all of them',
            file=sys.stderr,
        )
        sys.exit(1)


def run_plain(launcher, arguments):
    """Runs ``torch.distributed.launch`` of torch 1.8.

    Args:
        launcher (module): That module.
        arguments (list[str]): Its command line.
    """
    sys.argv[1:] = arguments
    try:
        launcher.main()
    except subprocess.CalledProcessError as error:
        conclude(error.returncode)


def main():
    """Does what the command line says."""
    name, *arguments = sys.argv[1:]
    start = run_elastic if name == 'torch.distributed.run' else run_plain
    start(importlib.import_module(name), arguments)


if __name__ == '__main__':
    main()
