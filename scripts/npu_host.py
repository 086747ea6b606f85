"""What an NPU host has, and which releases belong together on it.

The one reader of ``npu_versions.json``, Ascend's published matrix: a torch_npu
is made for one torch and one CANN. ``doctor.py`` imports this; ``setup.sh``
runs it, with the Python that it builds on, to learn which torch to install::

    npu_host.py --python 3.11 --machine aarch64 [--torch V] [--torch-npu V]

answers in lines of ``torch WHENCE VERSION``, ``torch_npu WHENCE VERSION``,
``say TEXT``. WHENCE is ``host`` (there already), ``install`` or ``default``
(what the requirements name). Exit status 2: nothing fits, and why.

Standard library only, Python 3.7: this runs before anything is installed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import patch_engine

HERE = Path(__file__).resolve().parent
VERSIONS = HERE / 'npu_versions.json'
ENV_SH = HERE.parent / 'env.sh'

Release = namedtuple('Release', 'torch_npu torch cann pythons')
"""One row of the matrix; ``pythons`` is a list such as ['3.9', '3.10']."""


class NothingFits(Exception):
    """No release of the matrix serves this host; the message says why."""


# The matrix ---------------------------------------------------------------


def release_of(version):
    """Return the torch that a version belongs to: 2.6.0.post5 is of 2.6.0."""
    found = re.match(r'\d+\.\d+\.\d+', version)
    return found.group() if found else version


def load_matrix():
    """Read the matrix.

    Returns:
        list[Release]: The newest CANN first; within a CANN, the preferred
        release first.
    """
    with open(VERSIONS, encoding='utf-8') as stream:
        data = json.load(stream)
    return [
        Release(npu, release_of(npu), cann, data['python'][release_of(npu)])
        for cann, versions in data['cann'].items()
        for npu in versions
    ]


def machines():
    """Return the architectures for which there are wheels of torch_npu."""
    with open(VERSIONS, encoding='utf-8') as stream:
        return json.load(stream)['machines']


def table(releases):
    """Put rows of the matrix in words, one to a line."""
    lines = [f'  {"CANN":<11}{"torch":<9}{"torch_npu":<15}Python']
    lines += [
        f'  {row.cann:<11}{row.torch:<9}{row.torch_npu:<15}'
        f'{row.pythons[0]} - {row.pythons[-1]}'.replace(' - 3.7', '')
        for row in releases
    ]
    return '\n'.join(lines)


def cann_in_matrix(version):
    """Find the CANN of the matrix that an installed one counts as.

    A preliminary build (8.2.RC1.alpha003) counts as what it leads to, and
    8.5.1, which has no row of its own, as the 8.5.0 that it mends.

    Args:
        version (str): As the installed CANN states it.

    Returns:
        str | None: A version of the matrix.
    """
    known = {row.cann.upper(): row.cann for row in load_matrix()}
    parts = re.split(r'[.-]', version.upper())
    for end in range(len(parts), 1, -1):
        found = known.get('.'.join(parts[:end]))
        if found:
            return found
    numbers = re.match(r'(\d+\.\d+)\.(\d+)(?![\w])', version)
    if not numbers:
        return None
    series, patch = numbers.groups()
    for earlier in range(int(patch), -1, -1):
        if f'{series}.{earlier}' in known:
            return known[f'{series}.{earlier}']
    return None


def choose(cann, python, machine, torch=None):
    """Pick the release for a host.

    Args:
        cann (str): Version of the installed CANN.
        python (str): Such as '3.11'.
        machine (str): Such as 'aarch64'.
        torch (str, optional): Only a release for this torch will do.

    Returns:
        Release: The preferred one of those that fit.

    Raises:
        NothingFits: With the part of the matrix that shows it.
    """
    if machine not in machines():
        raise NothingFits(
            f'torch_npu is published for {" and ".join(machines())}, not for '
            f'{machine}'
        )
    matrix = load_matrix()
    counts_as = cann_in_matrix(cann)
    rows = [row for row in matrix if row.cann == counts_as]
    if not rows:
        raise NothingFits(
            f'no torch_npu is published for CANN {cann}. These are:\n'
            f'{table(matrix)}'
        )
    for row in rows:
        if python in row.pythons and torch in (None, row.torch):
            return row
    wanted = f'Python {python}' + (f' and torch {torch}' if torch else '')
    raise NothingFits(
        f'for CANN {cann} no torch_npu is published that goes with {wanted}. '
        f'These are:\n{table(rows)}'
    )


def belong_together(torch, torch_npu):
    """Tell whether a torch_npu is made for a torch, by their versions."""
    return release_of(torch) == release_of(torch_npu)


def judge(torch, torch_npu, cann=None, python=None):
    """Hold what is installed against the matrix.

    Args:
        torch (str): Version of torch, a local part such as +cpu included.
        torch_npu (str): Version of torch_npu.
        cann (str, optional): Version of CANN.
        python (str, optional): Such as '3.11'.

    Returns:
        list[tuple[str, str]]: What does not belong together, and what to do
        about it.
    """
    if 'unknown' in (torch, torch_npu):
        return [
            (
                f'torch {torch} and torch_npu {torch_npu}: one of them does '
                'not state its version, so nothing can be said of them',
                'install it afresh: bash scripts/setup.sh',
            )
        ]
    faults = []
    if not belong_together(torch, torch_npu):
        made_for = release_of(torch_npu)
        faults.append(
            (
                f'torch {torch} and torch_npu {torch_npu} do not belong '
                f'together; torch_npu {torch_npu} is made for torch '
                f'{made_for}',
                f'install torch {made_for}, or the torch_npu of torch '
                f'{release_of(torch)}',
            )
        )
    matrix = load_matrix()
    row = next((r for r in matrix if r.torch_npu == torch_npu), None)
    if row is None:
        faults.append(
            (
                f'torch_npu {torch_npu} is not in the matrix that '
                f'{VERSIONS.name} holds',
                "look it up in Ascend's own, COMPATIBILITY.md of torch_npu",
            )
        )
        return faults
    if cann and cann_in_matrix(cann) != row.cann:
        others = [
            r.torch_npu
            for r in matrix
            if r.cann == cann_in_matrix(cann) and r.torch == row.torch
        ]
        faults.append(
            (
                f'torch_npu {torch_npu} is made for CANN {row.cann}, not '
                f'for CANN {cann}',
                f'install CANN {row.cann}'
                + (f', or torch_npu {others[0]}' if others else ''),
            )
        )
    if python and python not in row.pythons:
        faults.append(
            (
                f'torch_npu {torch_npu} is published for Python '
                f'{", ".join(row.pythons)}, not for {python}',
                f'use Python {row.pythons[-1]}',
            )
        )
    return faults


# The host -----------------------------------------------------------------


def environment():
    """Return the environment as ``env.sh`` leaves it (dict).

    Finding CANN is its business and nobody else's.
    """
    shell = ['bash', '-c', '. "$0" >/dev/null 2>&1; env -0', str(ENV_SH)]
    printed = subprocess.run(shell, stdout=subprocess.PIPE).stdout
    lines = printed.decode('utf-8', 'replace').split('\0')
    return dict(line.split('=', 1) for line in lines if '=' in line)


def find_cann(variables):
    """Find the folder and the version of CANN.

    Args:
        variables (dict): From :func:`environment`.

    Returns:
        tuple[Path | None, str | None]: The version is None where the folder
        does not tell it.
    """
    for name in ('ASCEND_HOME_PATH', 'ASCEND_TOOLKIT_HOME', 'HOURGLASS_CANN'):
        if variables.get(name):
            home = Path(variables[name])
            home = home.parent if home.name == 'set_env.sh' else home
            return home, _cann_version(home)
    return None, None


def _cann_version(home):
    """Ask the files that the installers leave, then the folder's name."""
    places = [home, home / 'latest']
    for place in places:
        for kind in ('toolkit', 'nnae', 'nnrt'):
            name = f'ascend_{kind}_install.info'
            files = sorted(place.glob(f'*-linux/{name}')) + [place / name]
            for file in files:
                found = _search(file, r'^version=(\S+)')
                if found:
                    return found
    for place in places:
        found = _search(
            place / 'version.cfg', r'running_version=\[(?:[^:\]]*:)?([^\]]+)\]'
        )
        if found:
            return found
        named = re.match(r'(?:cann-)?(\d+\.\d+\.\w.*)', place.resolve().name)
        if named:
            return named.group(1)
    return None


def _search(file, pattern):
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return None
    found = re.search(pattern, text, re.M)
    return found.group(1) if found else None


def driver_version():
    """Return the version of the NPU driver, or None."""
    root = os.environ.get('CANN_SYSROOT', '')
    file = Path(f'{root}/usr/local/Ascend/driver/version.info')
    return _search(file, r'^(?i:version)=(\S+)')


def installed(name):
    """Return the version of a package of this Python, without importing it.

    Returns:
        str | None: 'unknown' where there is a package that states none.
    """
    root = patch_engine.locate(name)
    return root and (patch_engine.version_of(root) or 'unknown')


# What to install ----------------------------------------------------------


def plan(python, machine, torch=None, torch_npu=None):
    """Decide where torch and torch_npu come from.

    Args:
        python (str): Such as '3.11'.
        machine (str): Such as 'aarch64'.
        torch (str, optional): The user's word on torch.
        torch_npu (str, optional): The same on torch_npu: a version, the path
            of a wheel, or 'none'.

    Returns:
        list[str]: Lines as this module's docstring has them.

    Raises:
        NothingFits: There is CANN, but no torch_npu for it.
    """
    there = {name: installed(name) for name in ('torch', 'torch_npu')}
    if torch is None and torch_npu not in (None, 'none'):
        torch = release_of(_version_in(torch_npu))
    torch_from = 'install' if torch else 'default'
    if there['torch'] and release_of(torch or there['torch']) == release_of(
        there['torch']
    ):
        torch_from, torch = 'host', there['torch']
    npu_from = 'install'
    said = []
    if torch_npu is None and torch_from == 'host' and there['torch_npu']:
        npu_from, torch_npu = 'host', there['torch_npu']
    elif torch_npu is None:
        home, cann = find_cann(environment())
        if home is not None:
            row = _release_for(home, cann, python, machine, torch)
            torch_npu = row.torch_npu
            if torch is None:
                torch_from, torch = 'install', row.torch
            said.append(
                f'CANN {cann} in {home} and Python {python}: torch '
                f'{row.torch} and torch_npu {torch_npu}, by the published '
                'matrix'
            )
    lines = [f'torch {torch_from} {torch}']
    if torch_npu not in (None, 'none'):
        lines.append(f'torch_npu {npu_from} {torch_npu}')
        if not belong_together(torch, _version_in(torch_npu)):
            said.append(
                f'warning: torch {torch} and torch_npu {torch_npu} do not '
                'belong together; a torch_npu is made for the torch of its '
                'own number'
            )
    return lines + [f'say {text}' for text in said]


def _version_in(torch_npu):
    """Return the version in what the user has named: itself, or a wheel."""
    return Path(torch_npu).name.replace('torch_npu-', '', 1)


def _release_for(home, cann, python, machine, torch):
    """Let :func:`choose` choose, and say what else can be done."""
    try:
        if cann is None:
            raise NothingFits(
                f'there is CANN in {home}, but nothing there tells its '
                f'version. This is the matrix:\n{table(load_matrix())}'
            )
        return choose(cann, python, machine, torch and release_of(torch))
    except NothingFits as error:
        raise NothingFits(
            f'{error}\nName a fitting Python with PYTHON=, or what to install '
            'with TORCH= and TORCH_NPU=\n(TORCH_NPU=none: nothing; the NPUs '
            'are then not used).'
        ) from None


def main():
    """Answer set-up."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--python', required=True)
    parser.add_argument('--machine', required=True)
    parser.add_argument('--torch')
    parser.add_argument('--torch-npu')
    args = parser.parse_args()
    try:
        lines = plan(
            args.python,
            args.machine,
            args.torch or None,
            args.torch_npu or None,
        )
    except NothingFits as error:
        sys.stderr.write(f'setup.sh: error: {error}\n')
        return 2
    print('\n'.join(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
