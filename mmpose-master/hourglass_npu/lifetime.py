"""The life of a process: whom it ends with, and what it leaves in /tmp.

Everything here holds for ``kill -9``, too, which no process can answer: the
kernel ends a process with its launcher, the kernel takes its claims away,
and the next process clears its temporary folder. Standard library only.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import multiprocessing.util
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time

LAUNCHERS = 'HOURGLASS_LAUNCHERS'
"""Variable that lists, as :func:`identify` names them, the processes that
this one must not outlive. The last is its parent, unless a wrapper is."""

LOOK_EVERY = 0.5
"""Seconds between two looks at the launchers."""

FOLDER = 'hourglass-npu-tmp-'
_FOLDER_NAME = re.compile(FOLDER + r'\w{8}')

PR_SET_PDEATHSIG = 1


# Launchers ----------------------------------------------------------------


def identify(pid):
    """Name a process so that no later process has the same name.

    Args:
        pid (int): Its number, which is used again after its end.

    Returns:
        str | None: Number and time of start; None if it has ended, even if
        its parent has not asked for its status yet.
    """
    try:
        with open(f'/proc/{pid}/stat') as file:
            # After the command, which may hold any character.
            fields = file.read().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] in 'ZX' else f'{pid}:{fields[19]}'


def lives(name):
    """Tell whether a process still runs.

    Args:
        name (str): From :func:`identify`.

    Returns:
        bool: Whether it does, on this host.
    """
    return identify(name.partition(':')[0]) == name


def end_with_launchers(leave):
    """End this process soon after any of its launchers, however that ends.

    Launchers are those in :data:`LAUNCHERS` or, under torchrun without our
    scripts, the parent.

    Args:
        leave (Callable[[int, str], None]): Ends this process with a status
            and a message.
    """
    launchers = os.environ.get(LAUNCHERS, '').split()
    if launchers:
        # Our launchers start processes from their main thread. This counts:
        # the kernel sends the signal when the thread ends, not the process.
        if launchers[-1].partition(':')[0] == str(os.getppid()):
            end_with_parent()
    elif 'TORCHELASTIC_RUN_ID' in os.environ:
        launchers = list(filter(None, [identify(os.getppid())]))
    if launchers:
        # This also sees launchers further up, and one that ended before the
        # kernel was told. It does not work in a process that was stopped.
        threading.Thread(
            target=_watch, args=(launchers, leave), daemon=True
        ).start()


def end_with_parent():
    """Have the kernel kill this process when its parent's thread ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _watch(launchers, leave):
    while all(map(lives, launchers)):
        time.sleep(LOOK_EVERY)
    gone = [name for name in launchers if not lives(name)]
    pid = (gone or launchers)[0].partition(':')[0]
    # In a thread: nothing can be printed where nobody reads a full pipe.
    words = f'error: the launcher (process {pid}) is gone, so this ends'
    ending = threading.Thread(target=leave, args=(1, words), daemon=True)
    ending.start()
    ending.join(2)
    os._exit(1)


# Claims -------------------------------------------------------------------

_claimed = set()


def claim(descriptor):
    """Claim an open file or folder for this process.

    A claim ends with the process. Children do not have it: a data worker
    that lives on for a moment must not keep the next run out.

    Args:
        descriptor (int): Of the file or folder, to be given to
            :func:`give_up` later.

    Returns:
        bool: Whether it is ours now; otherwise another process has it.

    Raises:
        OSError: The file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _claimed.add(descriptor)
    return True


def give_up(descriptor):
    """Close a file or folder, and with it end the claim on it.

    Args:
        descriptor (int): Claimed or not.
    """
    _claimed.discard(descriptor)
    os.close(descriptor)


def _forget_claims():
    while _claimed:
        os.close(_claimed.pop())


# Closing a copy does not end a claim.
os.register_at_fork(after_in_child=_forget_claims)


# Temporary files ----------------------------------------------------------


def make_temporary_folder():
    """Make a folder for this process, and clear those of dead ones.

    Returns:
        str: Its path, below the usual place for temporary files. The
        caller removes it at the end; if the caller is killed, the next call
        by any process of the same user does.
    """
    parent = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            if _FOLDER_NAME.fullmatch(name):
                _clear(os.path.join(parent, name))
    while True:
        path = tempfile.mkdtemp(prefix=FOLDER, dir=parent)
        with contextlib.suppress(OSError):
            folder = os.open(path, os.O_RDONLY)
            try:
                claim(folder)
            except OSError:  # no locks, so nobody clears it either
                return path
            # Another process may have cleared it before it was claimed.
            if os.path.isdir(path):
                return path
            give_up(folder)


def _clear(path):
    """Remove a temporary folder if its process is dead."""
    with contextlib.suppress(OSError):
        # Not through a link, which anybody may put there.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        folder = os.open(path, flags)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = os.fstat(folder)
            if facts.st_uid == os.getuid() and stat.S_ISDIR(facts.st_mode):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(folder)


def keep_sockets_together():
    """Give multiprocessing a temporary folder of ours, if it has none yet.

    Its own ones, ``pymp-*``, stay for ever if their process is killed. Data
    workers inherit the folder.

    Returns:
        Callable[[], None]: Removes the folder. It is called at a normal end;
        call it before ``os._exit``.
    """
    # No public way leads there; every Python has it.
    settings = multiprocessing.current_process()._config
    # A socket's path has at most 107 bytes; it is called listener-XXXXXXXX.
    too_long = len(os.fsencode(tempfile.gettempdir())) > 60
    if 'tempdir' in settings or too_long:
        return lambda: None
    settings['tempdir'] = make_temporary_folder()
    # After what removes the sockets, as for pymp-*; not in children.
    return multiprocessing.util.Finalize(
        None,
        shutil.rmtree,
        args=(settings['tempdir'],),
        kwargs=dict(ignore_errors=True),
        exitpriority=-100,
    )
