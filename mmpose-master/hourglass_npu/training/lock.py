"""One writer at a time for a work folder."""

import contextlib
import glob
import json
import logging
import os
import socket
import time

from hourglass_npu import lifetime
from hourglass_npu.errors import UserError

NAME = '.lock'
"""File in a work folder that its writer holds, and that says who it is."""

PATIENCE = 5
"""Seconds for which a writer that is about to end is waited for."""


class _State:
    """The work folder of this process.

    Attributes:
        path (str | None): Its file.
        descriptor (int | None): Of the open file, which is claimed.
    """

    path = None
    descriptor = None


def take(folder):
    """Make this job the only writer of a work folder.

    All ranks of a job call this; rank 0 takes the lock for them. The lock
    ends with its process, however that ends; what a killed writer has left
    half-written is removed.

    Args:
        folder (str): The work folder, which exists.

    Raises:
        UserError: Another job writes there; on every rank.
    """
    from mmcv.runner.dist_utils import get_dist_info

    from hourglass_npu.training.ranks import broadcast_object

    problem = None
    if get_dist_info()[0] == 0:
        try:
            _take(folder)
        except UserError as error:
            problem = str(error)
    problem = broadcast_object(problem)
    if problem:
        raise UserError(problem)


def release():
    """Let go of the work folder, if this process has one."""
    descriptor, _State.descriptor = _State.descriptor, None
    if descriptor is not None:
        # First removed, then released: nobody can hold a removed file.
        with contextlib.suppress(OSError):
            os.remove(_State.path)
        lifetime.give_up(descriptor)


def _take(folder):
    release()
    path = os.path.join(os.path.abspath(folder), NAME)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = _open(path)
        except OSError as error:
            # A folder that cannot be written to has no writers.
            logging.getLogger(__name__).warning(
                'The work folder cannot be locked: %s', error
            )
            return
        owner = _read(descriptor)
        try:
            ours = lifetime.claim(descriptor)
        except OSError:  # a file system without locks
            ours = not _lives_here(owner)
        if ours and _is_file(descriptor, path):
            break
        lifetime.give_up(descriptor)
        if not ours:
            if time.monotonic() > end:
                raise UserError(_refusal(folder, owner))
            time.sleep(0.1)
    _State.path, _State.descriptor = path, descriptor
    owner = dict(
        host=socket.gethostname(),
        process=lifetime.identify(os.getpid()),
        since=time.strftime('%Y-%m-%d %H:%M:%S'),
    )
    with contextlib.suppress(OSError):  # no room: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
    for left in glob.glob(os.path.join(glob.escape(folder), '.*.tmp')):
        with contextlib.suppress(OSError):
            os.remove(left)


def _open(path):
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's
        return os.open(path, os.O_RDONLY)


def _is_file(descriptor, path):
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read(descriptor):
    """Return what a lock file says: its owner, or nothing."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0).decode())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives_here(owner):
    return owner.get('host') == socket.gethostname() and lifetime.lives(
        str(owner.get('process'))
    )


def _refusal(folder, owner):
    process = str(owner.get('process', 'unknown')).partition(':')[0]
    return (
        f'another training writes to {folder}: process {process} on host '
        f'{owner.get("host", "unknown")}, since '
        f'{owner.get("since", "an unknown time")}. Stop it or wait for its '
        'end, or give another folder by --work-dir'
    )
