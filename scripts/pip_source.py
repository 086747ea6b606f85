"""Runs the pip that requirements-build.txt pins, with two repairs.

usage: pip_source.py [--for PYTHON-MACHINE] COMMAND ARGUMENT...

From Python 3.13 on, mmcv's setup.py does not find its version, because
``exec`` no longer changes what ``locals()`` returns, and the C file that
xtcocotools brings does not compile: Cython writes it again. With ``--for``,
such as ``--for 3.10-aarch64``, files for another host are downloaded: pip
picks them itself, but would ask this host whether a requirement's condition
(``python_version < '3.9'``) holds.
"""

import sys
from pathlib import Path

from pip._internal.cli.main import main
from pip._internal.distributions.sdist import SourceDistribution
from pip._vendor.packaging import markers

# Minor versions of the C library, as wheels name it, the newest first.
GLIBC = range(28, 16, -1)


def repair(folder):
    """Make unpacked sources fit today's Python.

    Args:
        folder (Path): The sources.
    """
    for written in folder.glob('xtcocotools/_mask.c'):
        written.unlink()
    setup = folder / 'setup.py'
    text = setup.read_text(encoding='utf-8')
    for old, new in (
        ("version_file, 'exec'))", "version_file, 'exec'), globals())"),
        ('locals()[', 'globals()['),
    ):
        text = text.replace(old, new)
    setup.write_text(text, encoding='utf-8')


def repair_sources():
    """Repair sources between unpacking and building."""
    prepare = SourceDistribution.prepare_distribution_metadata

    def repaired(self, *args, **kwargs):
        folder = Path(self.req.unpacked_source_directory)
        if (folder / 'setup.py').is_file():
            repair(folder)
        return prepare(self, *args, **kwargs)

    SourceDistribution.prepare_distribution_metadata = repaired


def look_from(python, machine):
    """Let requirements be judged as on another host.

    Args:
        python (str): Such as '3.10'.
        machine (str): Such as 'aarch64'.

    Returns:
        list[str]: Options for pip's download.
    """
    there = dict(
        markers.default_environment(),
        python_version=python,
        python_full_version=f'{python}.0',
        platform_machine=machine,
    )
    markers.default_environment = lambda: dict(there)
    options = ['--python-version', python, '--implementation', 'cp']
    tags = [f'manylinux_2_{minor}' for minor in GLIBC]
    for tag in tags + ['manylinux2014', 'linux']:
        options += ['--platform', f'{tag}_{machine}']
    return options


def run(arguments):
    """Run pip.

    Args:
        arguments (list[str]): As this module's docstring says.

    Returns:
        int: pip's exit status.
    """
    options = []
    if arguments[0] == '--for':
        options = look_from(*arguments[1].split('-'))
        arguments = arguments[2:]
    repair_sources()
    return main([arguments[0], *options, *arguments[1:]])


if __name__ == '__main__':
    sys.exit(run(sys.argv[1:]))
