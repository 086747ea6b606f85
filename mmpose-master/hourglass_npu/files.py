"""Reading and writing files.

What is read is a regular file of a bounded size; what is written is written
as a whole or not at all.
"""

import contextlib
import json
import os
import stat
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
        return file.read(most)


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


def check_folder_of(path):
    """Check that the folder of a file exists.

    Args:
        path (str): The file.

    Raises:
        UserError: The folder does not exist.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f'{path}: the folder {folder} does not exist')


@contextlib.contextmanager
def replaced(path):
    """Context for a file that is written as a whole or not at all.

    Args:
        path (str): File to write or replace.

    Yields:
        str: Temporary name beside it, with the same suffix. At a clean end
        it is renamed to ``path``; after an error it is removed.

    Raises:
        UserError: The folder does not exist or is not writable.
    """
    folder, name = os.path.split(os.path.abspath(path))
    check_folder_of(path)
    if not os.access(folder, os.W_OK):
        raise UserError(f'{path}: the folder {folder} is not writable')
    if os.path.isdir(path):
        raise UserError(f'{path}: this is a folder')
    temporary = os.path.join(folder, f'.{uuid.uuid4().hex[:8]}.{name}')
    try:
        yield temporary
        if os.path.exists(temporary):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_json(path, content, indent=2):
    """Write a JSON file, as a whole or not at all.

    Args:
        path (str): The file.
        content (dict | list): Plain values.
        indent (int): Spaces for each level.

    Raises:
        UserError: The folder does not exist or is not writable.
    """
    with replaced(path) as partial:
        with open(partial, 'w', encoding='utf-8') as file:
            json.dump(content, file, indent=indent)
            file.write('\n')
