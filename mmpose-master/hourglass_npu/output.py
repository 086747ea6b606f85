"""Standard output and standard error that may go away; standard library."""

import contextlib
import os
import select
import sys

NAMES = {1: 'standard output', 2: 'standard error'}


def plug():
    """Open the standard streams that this process was started without.

    Otherwise the next file that is opened gets the number of one, and with
    it whatever libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(('stdout', 'stderr'), 1):
        if getattr(sys, name) is None:
            stream = open(number, 'w', closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f'__{name}__', stream)


def is_cut(error):
    """Tell whether an error means that nobody reads what is printed.

    Args:
        error (BaseException): Any exception.

    Returns:
        bool: Whether a standard stream is a pipe without a reader. Other
        broken pipes, as to a data worker, are something else.
    """
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    for number in NAMES:
        poll.register(number, 0)
    cut = select.POLLERR | select.POLLHUP
    return any(event & cut for _, event in poll.poll(0))


class _Lasting:
    """A text stream whose failures end nothing.

    Args:
        stream (io.TextIOBase): What is written to.
        number (int): 1 or 2.
        tell (Callable[[str], None]): Told once, if something is lost.
    """

    def __init__(self, stream, number, tell):
        self._stream = stream
        self._number = number
        self._tell = tell
        self._process = os.getpid()
        self._told = False

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write text, if that is possible.

        Args:
            text (str): The text.

        Returns:
            int: Its length.
        """
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines):
        """Write several texts.

        Args:
            lines (Iterable[str]): The texts.
        """
        for line in lines:
            self.write(line)

    def flush(self):
        """Write what is still held back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error):
        # What a slow terminal cannot take is lost, but later text is not.
        if not isinstance(error, BlockingIOError):
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        if self._told or os.getpid() != self._process:
            return
        self._told = True
        self._tell(
            f'{NAMES[self._number]} is lost ({error.strerror or error}): '
            'nothing more is printed there. The training and this log go on'
        )


class _Losses:
    """What was lost, until there is a log.

    Attributes:
        logger (logging.Logger | None): The log, once there is one.
        untold (list[str]): For the log.
    """

    logger = None
    untold = []

    @classmethod
    def tell(cls, text):
        if cls.logger is None:
            cls.untold.append(text)
        else:
            cls.logger.warning(text)


def tell_losses_to(logger):
    """Say in a log what output is lost, from now on and what was before.

    Args:
        logger (logging.Logger): The log.
    """
    _Losses.logger = logger
    while _Losses.untold:
        logger.warning(_Losses.untold.pop(0))


@contextlib.contextmanager
def lasting():
    """Context in which lost output ends nothing, but is said in the log."""
    before = sys.stdout, sys.stderr
    sys.stdout = _Lasting(sys.stdout, 1, _Losses.tell)
    sys.stderr = _Lasting(sys.stderr, 2, _Losses.tell)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        _Losses.logger = None
