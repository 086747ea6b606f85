"""Run a command of the package in this process, as errors.run would."""

import importlib
import sys
from unittest import mock

from hourglass_npu.cli import COMMANDS
from hourglass_npu.errors import describe, is_user_error


def command(name):
    """Import a command.

    Args:
        name (str): As in ``hourglass NAME``.

    Returns:
        module: With ``parse_args`` and ``main``.
    """
    return importlib.import_module(
        f'hourglass_npu.commands.{COMMANDS[name][0]}'
    )


def call(name, *arguments):
    """Run a command; a mistake of the user becomes its line and status.

    Args:
        name (str): As in ``hourglass NAME``.
        *arguments: Its command line.

    Returns:
        int: Exit status. A bug is raised.
    """
    argv = [f'hourglass {name}', *map(str, arguments)]
    with mock.patch.object(sys, 'argv', argv):
        try:
            return command(name).main() or 0
        except Exception as error:
            if not is_user_error(error):
                raise
            print(f'error: {describe(error)}', file=sys.stderr)
            return getattr(type(error), 'exit_status', 2)
