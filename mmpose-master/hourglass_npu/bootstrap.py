"""Find this package, and the Python that has what it needs.

For the entry points, which people start with whatever ``python3`` is theirs,
and which load this file by its path. Only the standard library is used here.
"""

import importlib.util
import logging
import os
import sys

PACKAGE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(PACKAGE))
GUARD = 'HOURGLASS_BOOTSTRAPPED'


def use_this_package():
    """Make ``import hourglass_npu`` find the package that lies here.

    Whatever else of that name ``sys.path`` leads to: the entry points of a
    checkout run the code of that checkout.
    """
    name = 'hourglass_npu'
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        name,
        os.path.join(PACKAGE, '__init__.py'),
        submodule_search_locations=[PACKAGE],
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def enter(command, name):
    """Run a command with the package that lies here, and end the process.

    Args:
        command (str): As in ``hourglass COMMAND``.
        name (str): ``__name__`` of the entry point. Processes that it spawns
            import it, too: they find the package, and run no command.
    """
    use_this_package()
    if name == '__main__':
        from hourglass_npu import cli

        cli.start(command)


def look_for(*names):
    """Restart the script with the bundle's Python if packages are missing.

    The running script is started again, with the same arguments, by the
    Python of ``.venv`` (or of the folder in ``VENV``). In that case this
    call does not return.

    Args:
        *names (str): Packages, as they are imported.

    Returns:
        list[str]: Missing packages, if no environment has them.
    """
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    # Removed, so that a script started from here may do the same.
    restarted = os.environ.pop(GUARD, None)
    venv = os.path.abspath(os.environ.get('VENV') or ROOT + '/.venv')
    python = os.path.join(venv, 'bin', 'python')
    if missing and not restarted and os.access(python, os.X_OK):
        os.environ[GUARD] = '1'
        sys.stdout.flush()
        # Without a shell on purpose; VENV is the user's own value.
        os.execv(python, [python] + _script())  # noqa: S606
    return missing


def _script():
    """Return the running script and its arguments, for Python."""
    script, *arguments = sys.argv
    if os.path.isfile(script):
        return sys.argv
    # The name that cli.main has given: 'hourglass COMMAND'.
    return ['-m', 'hourglass_npu'] + script.split()[1:] + arguments


def ensure_packages(*names):
    """Do as :func:`look_for`, and end the process if any is missing.

    To be called before anything else is done: the program may start again.

    Args:
        *names (str): Packages, as they are imported; by default torch, mmcv
            and mmpose.

    Raises:
        SystemExit: Status 2; the message on stderr says what to do.
    """
    missing = look_for(*(names or ('torch', 'mmcv', 'mmpose')))
    if missing:
        sys.stderr.write(
            'error: {} lacks {}. Run: bash {}\n'.format(
                sys.executable,
                ', '.join(missing),
                os.path.join(ROOT, 'scripts', 'setup.sh'),
            )
        )
        sys.exit(2)
    # mmcv imports torch's builder of CUDA extensions, which warns on a host
    # with nvcc and without a GPU. Nothing is built here.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
