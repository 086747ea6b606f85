"""Runs pip's download for another Python and machine.

usage: pip_for.py PYTHON-MACHINE download ARGUMENT...

Such as ``3.10-aarch64``. pip picks files for another host itself, but asks
this host whether a requirement's condition (``python_version < '3.9'``)
holds. For the pip that requirements-build.txt pins.
"""

import sys

from pip._internal.cli.main import main
from pip._vendor.packaging import markers

# The oldest and the newest C library of the hosts, as wheels name it; numbers
# below are those of older names, which pip adds itself.
GLIBC = range(28, 16, -1)


def platforms(machine):
    """Return the platform tags of a machine, the best first (list[str])."""
    tags = [f'manylinux_2_{minor}_{machine}' for minor in GLIBC]
    return tags + [f'manylinux2014_{machine}', f'linux_{machine}']


def run(target, arguments):
    """Run pip for a target.

    Args:
        target (str): Such as '3.10-aarch64'.
        arguments (list[str]): Command and arguments of pip.

    Returns:
        int: pip's exit status.
    """
    python, _, machine = target.partition('-')
    here = markers.default_environment()
    there = dict(
        here,
        python_version=python,
        python_full_version=f'{python}.0',
        platform_machine=machine,
    )
    markers.default_environment = lambda: dict(there)
    command, *rest = arguments
    options = ['--python-version', python, '--implementation', 'cp']
    for tag in platforms(machine):
        options += ['--platform', tag]
    return main([command, *options, *rest])


if __name__ == '__main__':
    sys.exit(run(sys.argv[1], sys.argv[2:]))
