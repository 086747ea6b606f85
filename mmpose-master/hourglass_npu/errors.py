"""How a command ends: exit status, message, traceback.

A mistake of the user is an exception whose class has a true ``is_user_error``:
:class:`UserError`, and classes of the same mark in the drop-ins of mmcv, which
cannot import this package. It is raised on purpose, where the user's value is
read, and it becomes one line. So do a few failures that are nobody's bug, see
:func:`explain_failure`. Everything else is a bug and prints its traceback.
"""

import errno
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from contextlib import suppress

from hourglass_npu import lifetime, output

OTHERS_SPEAK_AFTER = 8
"""Seconds for which a rank other than 0 keeps an error to itself. Rank 0
usually reports the same error, and the launcher then ends this process."""

DISK_ERRORS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EROFS,
    errno.ESTALE,
)
"""Caused by the disk or its permissions: the error's own text says enough."""


class UserError(ValueError):
    """A mistake of the user: the message names the value and what to do.

    Attributes:
        exit_status (int): Of the command that it ends.
    """

    is_user_error = True
    exit_status = 2


class UserTypeError(UserError, TypeError):
    """A mistake of the user, where the original raises a TypeError."""


class UserKeyError(UserError, KeyError):
    """A mistake of the user, where the original raises a KeyError."""


class UserFileNotFoundError(FileNotFoundError, UserError):
    """A file that the user named and that does not exist."""


class Stopped(BaseException):
    """A signal has ended the run in good order.

    Args:
        number (int): The signal.
    """

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class _State:
    """What a running command has told this module.

    Attributes:
        signal (int): Signal that asked for the end; 0 for none.
        log (str | None): File that gets tracebacks.
        last (list[Callable[[], None]]): What :func:`leave` calls.
    """

    signal = 0
    log = None
    last = []


def note_signal(number):
    """Note that a signal asks for the end, obeyed yet or not.

    Args:
        number (int): The signal.
    """
    _State.signal = number


def log_tracebacks(path):
    """Have tracebacks appended to a file from now on.

    Args:
        path (str | None): The run's log; None for no file.
    """
    _State.log = path


def call_last(function):
    """Have something done at the end, even if the process leaves at once.

    Args:
        function (Callable[[], None]): Called without the data workers.
    """
    _State.last.append(function)


def run(main):
    """Run a command and end the process with the right status.

    0: done. 1: failed; a bug prints its traceback. 2: a mistake of the user,
    one line. 129, 130, 143: stopped by SIGHUP, SIGINT or SIGTERM. 141: nobody
    reads the output any more; nothing is said. HOURGLASS_TRACEBACK=1
    prints the traceback of one-line errors, too. If STOPPED_FILE names a
    file, a stopped rank writes the signal's number there and returns 0:
    torch's launcher would count a stopped rank as failed and end the others.

    The process also ends with its launcher, see
    :func:`hourglass_npu.lifetime.end_with_launchers`.

    Args:
        main (Callable[[], int | None]): The command; it may return a status.
    """
    output.plug()
    lifetime.end_with_launchers(leave)
    try:
        try:
            try:
                status = main()
            except SystemExit as stop:  # of argparse, which has printed help
                if stop.code:
                    leave(stop.code if isinstance(stop.code, int) else 1)
                status = 0
            _flush()
        except Exception as error:
            _end(error)
    except Stopped as stop:
        status = 128 + stop.number
        if os.environ.get('STOPPED_FILE'):
            status = 0
            with suppress(OSError):  # the launcher has gone, too
                with open(os.environ['STOPPED_FILE'], 'w') as stream:
                    stream.write(f'{stop.number:d}\n')
        name = signal.Signals(stop.number).name
        leave(status, f'stopped by {name}' if _rank() == 0 else None)
    except KeyboardInterrupt:
        # Ctrl-C reaches all ranks, from the terminal and from the launcher,
        # and it can interrupt the report of an error.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave(130, 'interrupted' if _rank() == 0 else None)
    if status:
        sys.exit(status)


def _flush():
    """Write what is held back; at its end Python would ignore failures."""
    try:
        sys.stdout.flush()
    except OSError as error:
        text = f'standard output: {error.strerror}'
        raise OSError(error.errno, text) from error


def _end(error):
    """Report an error, and end the process."""
    if output.is_cut(error):
        leave(128 + signal.SIGPIPE)
    if _State.signal and (_lost_worker(error) or _lost_peer(error)):
        # The signal reached the data workers or the other ranks first.
        alone = int(os.environ.get('WORLD_SIZE', 1)) == 1
        leave(128 + _State.signal, 'stopped at once' if alone else None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trace = ''.join(
        traceback.format_exception(type(error), error, error.__traceback__)
    )
    _log(trace)
    _wait_for_rank_0(error)
    if is_user_error(error):
        status, message = getattr(error, 'exit_status', 2), describe(error)
    else:
        status, message = 1, explain_failure(error)
    if message is None or os.environ.get('HOURGLASS_TRACEBACK') == '1':
        with suppress(OSError):
            sys.stderr.write(trace)
    leave(status, message and f'error: {message}')


def _log(trace):
    """Append a traceback to the run's log, if there is one."""
    if _State.log is None:
        return
    with suppress(OSError):
        with open(_State.log, 'a', encoding='utf-8') as file:
            file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} failed\n{trace}')


def is_user_error(error):
    """Tell a mistake of the user from a bug.

    Args:
        error (BaseException): Any exception.

    Returns:
        bool: Whether its class is marked, see the module's docstring. mmcv's
        registry and torch's data workers raise anew what a part of theirs
        has raised, and keep the class.
    """
    return bool(getattr(type(error), 'is_user_error', False))


def describe(error):
    """Return the message of a user's mistake.

    Args:
        error (Exception): See :func:`is_user_error`.

    Returns:
        str: Without the traceback that torch adds in a data worker.
    """
    # str() of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    kind = type(error)
    name = f'\n{kind.__module__}.{kind.__qualname__}: '
    return str(text).rpartition(name)[2].strip()


def explain_failure(error):
    """Find words for a failure that is nobody's bug.

    Args:
        error (Exception): Any exception.

    Returns:
        str | None: A message where a disk, shared memory or a device's memory
        is full or forbidden, where there are too many open files, or where a
        data worker or a rank was lost; None for everything else.
    """
    # First: torch's data workers keep the class of an error, not its number.
    if isinstance(error, (OSError, RuntimeError)):
        for pattern, text in _USED_UP:
            if pattern.search(str(error)):
                return text
    if _is_about_semaphore(error):
        return _USED_UP[0][1]
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return str(error)
    if _is_out_of_device_memory(error):
        return (
            'the device is out of memory '
            f'({str(error).strip().splitlines()[0][:200]}): lower '
            'data.samples_per_gpu, the number of samples in a batch, or free '
            'the device of other processes'
        )
    lost = _lost_worker(error)
    if lost:
        return (
            f'lost a data worker (process {lost.group(1)}, '
            f'{lost.group(2)}). If it was killed, memory probably ran out: '
            'lower data.workers_per_gpu or data.samples_per_gpu. A bus error '
            f'means that {_USED_UP[0][1]}'
        )
    if _lost_peer(error):
        reason = (str(error).strip().splitlines() or [''])[0]
        return f'lost the connection to another rank ({reason})'
    return None


# What torch and Python say where the host has no more to give.
_USED_UP = (
    (
        re.compile(r'</torch_\w+>.*No space left on device', re.DOTALL),
        'shared memory (/dev/shm) is full: enlarge it, or set '
        'data.workers_per_gpu=0',
    ),
    (
        re.compile(r'Too many open files|received \d+ items of ancdata'),
        'too many open files: raise the limit (ulimit -n), or lower '
        'data.workers_per_gpu',
    ),
)


def _is_out_of_device_memory(error):
    """Tell whether CUDA or torch_npu could not allocate; no common class."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        'NPU out of memory' in text or 'CUDA out of memory' in text
    )


def _is_about_semaphore(error):
    """Tell whether shared memory has no room for multiprocessing's locks."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
        return False
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return bool(last) and last[0].filename.endswith('synchronize.py')


# torch has no class for it: RuntimeError in every release.
_WORKER_IS_GONE = re.compile(
    r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) '
    r'(exited unexpectedly|is killed by signal: [\w ]+)'
)
# Up to torch 2.0 only the text tells a lost rank; a later DistBackendError
# covers NCCL and HCCL, but not gloo.
_PEER_IS_GONE = re.compile(
    r'gloo|nccl|hccl|connection (closed|reset|refused)|broken pipe|'
    r'socket timeout',
    re.IGNORECASE,
)


def _lost_worker(error):
    # torch raises from a signal handler: what it interrupts, such as a
    # checkpoint's writing, can fail in turn.
    while isinstance(error, (RuntimeError, OSError)):
        lost = _WORKER_IS_GONE.match(str(error))
        if lost:
            return lost
        error = error.__context__
    return None


def _lost_peer(error):
    return (
        int(os.environ.get('WORLD_SIZE', 1)) > 1
        and isinstance(error, RuntimeError)
        and _PEER_IS_GONE.search(str(error))
    )


def _wait_for_rank_0(error):
    """Let one rank speak for all, and the first to fail before the others.

    Ranks that meet the same error would print it once each; ranks whose peer
    has died see a broken connection, which explains nothing. Both wait for
    the launcher to end them, and speak only if it does not.
    """
    several = int(os.environ.get('WORLD_SIZE', 1)) > 1
    if several and (_rank() or _lost_peer(error)):
        time.sleep(OTHERS_SPEAK_AFTER)


def _rank():
    return int(os.environ.get('RANK', 0))


def leave(status, message=None):
    """End this process and its data workers at once.

    Args:
        status (int): Exit status.
        message (str | None): For standard error.
    """
    # In a signal's handler the stream may be in use; or nobody reads it.
    for number, stream in enumerate((sys.stdout, sys.stderr), 1):
        with suppress(RuntimeError, OSError):
            if message and number == 2:
                print(message, file=stream)
            stream.flush()
    for worker in multiprocessing.active_children():
        worker.kill()
    while _State.last:
        _State.last.pop()()
    # Not sys.exit(): threads of a process group whose peer is gone can keep
    # the process alive.
    os._exit(status)
