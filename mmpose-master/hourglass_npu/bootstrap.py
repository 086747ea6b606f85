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

PATCHED = ('mmcv', 'mmpose')
"""Packages that scripts/patches.py changes."""

PASSED_OVER = []
"""Folders of such packages, not ours, before this process was restarted."""


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


def find_strangers():
    """Find an mmcv and an mmpose that this Python would import, not ours.

    Ours have a folder ``.originals``, which scripts/patches.py makes.

    Returns:
        dict[str, str]: Folder of each by its name.
    """
    found = {}
    for name in PATCHED:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or [spec.origin])
        if not os.path.isdir(os.path.join(places[0], '.originals')):
            found[name] = places[0]
    return found


def look_for(*names):
    """Restart the script with the bundle's Python if packages are missing.

    Missing is also an mmcv or mmpose that is not the bundle's. The running
    script is started again, with the same arguments, by the Python of
    ``.venv`` (or of the folder in ``VENV``), without the folders of
    PYTHONPATH that hold such packages. In that case this call does not
    return.

    Args:
        *names (str): Packages, as they are imported.

    Returns:
        list[str]: Missing packages, if no environment has them.
    """
    strangers = {n: p for n, p in find_strangers().items() if n in names}
    missing = [
        n
        for n in names
        if n in strangers or importlib.util.find_spec(n) is None
    ]
    # Removed, so that a script started from here may do the same.
    restarted = os.environ.pop(GUARD, None)
    PASSED_OVER.extend(filter(None, (restarted or '').split(os.pathsep)[1:]))
    venv = os.path.abspath(os.environ.get('VENV') or ROOT + '/.venv')
    python = os.path.join(venv, 'bin', 'python')
    if missing and not restarted and os.access(python, os.X_OK):
        for name, place in sorted(strangers.items()):
            sys.stderr.write(
                f"note: {name} in {place} is not the bundle's: going on with "
                f'{python}\n'
            )
        places = sorted(strangers.values())
        os.environ[GUARD] = os.pathsep.join(['1', *places])
        if places:
            _hide({os.path.realpath(os.path.dirname(p)) for p in places})
        sys.stdout.flush()
        # Without a shell on purpose; VENV is the user's own value.
        os.execv(python, [python] + _script())  # noqa: S606
    return missing


def _hide(folders):
    """Take folders out of what a Python started from here looks at."""
    os.environ.pop('PYTHONHOME', None)
    os.environ['PYTHONNOUSERSITE'] = '1'
    entries = os.environ.pop('PYTHONPATH', '').split(os.pathsep)
    kept = [e for e in entries if e and os.path.realpath(e) not in folders]
    if kept:
        os.environ['PYTHONPATH'] = os.pathsep.join(kept)


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
        places = find_strangers()
        absent = [name for name in missing if name not in places]
        faults = [
            f"{name} in {places[name]} is not the bundle's"
            for name in missing
            if name in places
        ]
        if absent:
            faults.insert(0, f'{sys.executable} lacks {", ".join(absent)}')
        if places and os.environ.get('PYTHONPATH'):
            advice = 'unset PYTHONPATH'
        elif places and os.path.isdir(os.path.join(sys.prefix, '.setup')):
            advice = f'{sys.executable} {ROOT}/scripts/patches.py apply'
        else:
            advice = f'bash {ROOT}/scripts/setup.sh'
        sys.stderr.write(f'error: {"; ".join(faults)}. Run: {advice}\n')
        sys.exit(2)
    # mmcv imports torch's builder of CUDA extensions, which warns on a host
    # with nvcc and without a GPU. Nothing is built here.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
