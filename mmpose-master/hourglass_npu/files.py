"""Reading and writing files.

What is read is a regular file of a bounded size; what is written is written
as a whole or not at all.
"""

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import uuid

from hourglass_npu.errors import UserError, UserFileNotFoundError

LARGEST_FILE = 2**30
"""Bytes of a file that is read into memory: many times those of any sound
one."""


def make_folder(path):
    """Make a folder, with its parents, unless it exists.

    Args:
        path (str): The folder.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {path}: {error}') from error


def open_regular(path, most=LARGEST_FILE):
    """Open a file that the user named.

    Args:
        path (str): A regular file.
        most (int): Its largest size in bytes.

    Returns:
        io.BufferedReader: The file, open for reading.

    Raises:
        UserError: There is no such file (a FileNotFoundError as well), it is
            a device or a pipe, which might have no end, or it is too large.
    """
    if os.path.isfile(path):
        # A file that becomes a pipe in between must not block.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        file = open(os.open(path, flags), 'rb')
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= most:
            return file
        file.close()
        if stat.S_ISREG(facts.st_mode):
            raise UserError(
                f'{path} is too large: {facts.st_size} bytes; the limit is '
                f'{most}'
            )
    fault = 'there is no such file'
    if os.path.exists(path) and not os.path.isdir(path):
        fault = 'this is a device or a pipe, not a file'
    raise UserFileNotFoundError(f'{path}: {fault}')


def read_bytes(path, most=LARGEST_FILE):
    """Read a file that the user named.

    Args:
        path (str): A regular file.
        most (int): Its largest size in bytes.

    Returns:
        bytes: Its content.

    Raises:
        UserError: See :func:`open_regular`.
    """
    with open_regular(path, most) as file:
        # Not read(most): that would take so much memory for each file. Files
        # of the kernel's have no size.
        return file.read(os.fstat(file.fileno()).st_size or most)


def read_json(path):
    """Read a JSON file that the user named.

    Args:
        path (str): The file.

    Returns:
        Any: Its content.

    Raises:
        UserError: As :func:`read_bytes`, or the file is not valid JSON.
    """
    try:
        return json.loads(read_bytes(path).decode('utf-8-sig'))
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f'{path} is not valid JSON: {error}') from error


def read_json_lines(path):
    """Read the objects of a log in JSON, one a line.

    Args:
        path (str): The file.

    Returns:
        list[dict]: Without lines that are cut off or spoilt.

    Raises:
        UserError: As :func:`read_bytes`.
    """
    entries = []
    for line in read_bytes(path).decode('utf-8', 'replace').splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def is_stream(path):
    """Tell whether a name stands for a device or a pipe.

    Args:
        path (str): Destination of output.

    Returns:
        bool: Whether it is written to, and not replaced: ``/dev/stdout``,
        ``/dev/null``, a FIFO.
    """
    path = os.path.abspath(path)
    if path.startswith(('/dev/', '/proc/')) and os.path.exists(path):
        return not os.path.isdir(path)
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


def check_output(path, suffixes=(), inputs=()):
    """Check the destination of output before computing it.

    Args:
        path (str): A file to write or replace, or a device or a pipe, which
            will be written to.
        suffixes (Sequence[str]): What the name of a file must end in, as
            ``'.json'``; none: anything.
        inputs (Iterable[str]): What the same run reads.

    Raises:
        UserError: The folder does not exist or is not writable, the name is
            that of a folder, of a disk or of an input, or it has another
            suffix.
    """
    if is_stream(path):
        if stat.S_ISBLK(os.stat(path).st_mode):
            raise UserError(f'{path}: this is a disk')
        return
    if suffixes and not path.lower().endswith(tuple(suffixes)):
        words = 'one of ' if len(suffixes) > 1 else ''
        raise UserError(
            f'{path}: the name must end in {words}{", ".join(suffixes)}'
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f'{path}: the folder {folder} does not exist')
    if not os.access(folder, os.W_OK):
        raise UserError(f'{path}: the folder {folder} is not writable')
    if os.path.isdir(path):
        raise UserError(f'{path}: this is a folder')
    for name in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(name, path):
                raise UserError(f'{path} is read by this run, too')


@contextlib.contextmanager
def replaced(path):
    """Context for output that is written as a whole or not at all.

    Args:
        path (str): File to write or replace; a device or a pipe gets the
            whole content at the end.

    Yields:
        str: Temporary name beside it, with the same suffix. At a clean end
        it is renamed to ``path``; after an error it is removed.

    Raises:
        UserError: See :func:`check_output`.
    """
    check_output(path)
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = os.path.join(folder, os.path.basename(path))
            yield temporary
            if os.path.exists(temporary):
                _pour(temporary, path)
        return
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f'.{uuid.uuid4().hex[:8]}.{name}')
    try:
        yield temporary
        if os.path.exists(temporary):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _pour(source, path):
    """Append a file to a device or a pipe."""
    try:
        # What this process has printed there comes first.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        target = path
        for number in (1, 2):
            # A file that is opened again would be written over later.
            if os.path.samestat(os.stat(path), os.fstat(number)):
                target = os.dup(number)
                break
        with open(source, 'rb') as file, open(target, 'ab', 0) as stream:
            shutil.copyfileobj(file, stream)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f'{path} cannot be written to: {error}') from error


def write_json(path, content, indent=2):
    """Write a JSON file, as a whole or not at all.

    Args:
        path (str): The file.
        content (dict | list): Plain values, no NaN.
        indent (int): Spaces for each level.

    Raises:
        UserError: See :func:`check_output`.
    """
    with replaced(path) as partial:
        with open(partial, 'w', encoding='utf-8') as file:
            json.dump(content, file, indent=indent, allow_nan=False)
            file.write('\n')
