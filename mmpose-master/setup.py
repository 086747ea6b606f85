"""Installs mmpose 0.8.0 for this Python and applies the bundle's changes.

usage: python setup.py {develop,install}

The manual way: install requirements.txt and mmcv 1.2.7 first, with the nine
drop-ins of mmcv_need/ or without them. Both commands do the same: they install
mmpose, the package hourglass_npu (editable: it stays in this folder) and the
changes to mmpose and mmcv. scripts/setup.sh does all of it.

For pip, which builds from pyproject.toml, this file is setuptools' own.
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PATCHES = os.path.join(os.path.dirname(HERE), 'scripts', 'patches.py')
MMCV = '1.2.7'


def mmcv_version():
    """Return the version of the mmcv that this Python has, or None.

    mmcv is not imported: before the changes are applied it may not load.
    """
    import importlib.util

    spec = importlib.util.find_spec('mmcv')
    if spec is None or spec.origin is None:
        return None
    path = os.path.join(os.path.dirname(spec.origin), 'version.py')
    with open(path) as stream:
        found = re.search("__version__ = '([^']*)'", stream.read())
    return found and found.group(1)


def main(arguments):
    """Run the command.

    Args:
        arguments (list[str]): The command line without the program.

    Returns:
        int: Exit status: 0; 1 if something fails; 2 if the user has to
        change something.
    """
    if arguments in (['-h'], ['--help']):
        print(__doc__.strip())
        return 0
    if arguments not in (['develop'], ['install']):
        print(
            'setup.py: error: the command is develop or install; '
            'see python setup.py --help',
            file=sys.stderr,
        )
        return 2
    found = mmcv_version()
    if found != MMCV:
        print(
            'setup.py: error: {} has {}; mmcv {} comes first, or let '
            'scripts/setup.sh do it all'.format(
                sys.executable,
                'mmcv ' + found if found else 'no mmcv',
                MMCV,
            ),
            file=sys.stderr,
        )
        return 2
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps']
    pip += ['--no-build-isolation']
    for command in (
        pip + ['-r', os.path.join(HERE, 'requirements-source.txt')],
        pip + ['--editable', HERE],
        [sys.executable, PATCHES, 'apply'],
    ):
        status = subprocess.call(command)
        if status:
            return status
    return 0


# What pip's build asks for.
BUILD_COMMANDS = ('bdist_wheel', 'dist_info', 'editable_wheel', 'egg_info')

if __name__ == '__main__':
    if set(BUILD_COMMANDS) & set(sys.argv):
        import setuptools

        setuptools.setup()
    else:
        sys.exit(main(sys.argv[1:]))
