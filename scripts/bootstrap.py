"""Finds the Python that has the bundle's packages.

For entry points that people start with whatever ``python3`` is theirs. Only
the standard library is used here, so that this runs before any set-up.
"""

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GUARD = 'HOURGLASS_BOOTSTRAPPED'


def look_for(*names):
    """Goes on in the bundle's environment if packages are missing here.

    The running script is started again, with the same arguments, by the
    Python of ``.venv`` (or of what ``VENV`` names). This call does not return
    then.

    Args:
        *names (str): Packages, as they are imported.

    Returns:
        list[str]: Those that are missing, and no environment has them.
    """
    missing = [n for n in names if importlib.util.find_spec(n) is None]
    # Taken away, so that a script that this one starts may do the same.
    restarted = os.environ.pop(GUARD, None)
    venv = os.path.abspath(os.environ.get('VENV') or ROOT + '/.venv')
    python = os.path.join(venv, 'bin', 'python')
    if missing and not restarted and os.access(python, os.X_OK):
        os.environ[GUARD] = '1'
        sys.stdout.flush()
        # Without a shell on purpose; VENV is the user's own word.
        os.execv(python, [python] + sys.argv)  # noqa: S606
    return missing


def ensure_packages(*names):
    """Does as :func:`look_for`, and ends the process if any is missing.

    Args:
        *names (str): Packages, as they are imported.

    Raises:
        SystemExit: Status 2; what to do is said on stderr.
    """
    missing = look_for(*names)
    if not missing:
        return
    sys.stderr.write(
        '{}: error: {} lacks {}. Run: bash {}\n'.format(
            os.path.basename(sys.argv[0]),
            sys.executable,
            ', '.join(missing),
            os.path.join(ROOT, 'scripts', 'setup.sh'),
        )
    )
    sys.exit(2)
