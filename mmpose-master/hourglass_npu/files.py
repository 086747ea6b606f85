"""Writing files: as a whole or not at all."""

import contextlib
import json
import os
import uuid

from hourglass_npu.errors import UserError, UserFileNotFoundError


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


def read_bytes(path):
    """Read a file that the user named.

    Args:
        path (str): The file.

    Returns:
        bytes: Its content.

    Raises:
        UserError: There is no such file. It is a FileNotFoundError as well.
    """
    if not os.path.isfile(path):
        raise UserFileNotFoundError(f'{path}: there is no such file')
    with open(path, 'rb') as file:
        return file.read()


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
