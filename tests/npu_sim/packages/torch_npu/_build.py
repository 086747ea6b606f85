"""Builds the device's extension once for each torch, and finds it again.

It lies in the user's cache (``NPU_SIM_CACHE``, else
``$XDG_CACHE_HOME/npu_sim``, else ``~/.cache/npu_sim``), under a name that
depends on the source, on torch, Python and the compiler. Processes that want
it at the same time wait for the one that builds it.

Usage: python3 _build.py    builds, if need be, and prints the file's path
"""

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name('device.cpp')
NAME = '_npu_sim'


class CannotBuild(RuntimeError):
    """There is no simulated NPU on this host; the message says why."""


def find_compiler():
    """Returns the command of the C++ compiler.

    Raises:
        CannotBuild: If there is none.
    """
    command = shlex.split(os.environ.get('CXX', 'g++'))
    if shutil.which(command[0]) is None:
        raise CannotBuild(
            f'no C++ compiler: {command[0]} is not on PATH. Install g++ 10 or '
            'later (package g++ or gcc-c++), or name a compiler with CXX='
        )
    return command


def find_headers():
    """Returns the folders of torch's and Python's headers.

    Raises:
        CannotBuild: If Python's are not installed.
    """
    python = sysconfig.get_paths()['include']
    if not os.path.exists(os.path.join(python, 'Python.h')):
        raise CannotBuild(
            f'no Python.h in {python}: install the headers of Python '
            f'{platform.python_version()} (package python3-dev or '
            'python3-devel)'
        )
    root = Path(torch.__file__).parent / 'include'
    return [str(root), str(root / 'torch/csrc/api/include'), python]


def cache_folder():
    """Returns the folder that keeps what has been built."""
    own = os.environ.get('NPU_SIM_CACHE')
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(own or os.path.join(base, 'npu_sim'))


def build():
    """Returns the path of the extension; compiles it if that is needed.

    Returns:
        Path: A shared library, importable as ``_npu_sim``.

    Raises:
        CannotBuild: If compiler or headers are missing, or it failed.
    """
    compiler = find_compiler()
    version = subprocess.run(
        compiler + ['-dumpfullversion', '-dumpversion'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout
    command = compiler + [
        *('-std=c++20', '-fPIC', '-shared', '-w'),
        f'-DTORCH_EXTENSION_NAME={NAME}',
        f'-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}',
    ]
    key = hashlib.sha256(SOURCE.read_bytes() + version)
    key.update(
        repr(
            (torch.__version__, torch.__file__, sys.version, command)
        ).encode()
    )
    folder = cache_folder()
    done = folder / key.hexdigest()[:16] / f'{NAME}.so'
    if done.exists():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    with open(done.parent / 'lock', 'w') as lock:
        # The kernel lets go of it when the process ends, whatever way.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _compile(command, done)
    return done


def _compile(command, done):
    libraries = str(Path(torch.__file__).parent / 'lib')
    command = command + [f'-I{folder}' for folder in find_headers()]
    with tempfile.TemporaryDirectory(dir=str(done.parent)) as scratch:
        made = os.path.join(scratch, done.name)
        command += [str(SOURCE), '-o', made, f'-L{libraries}']
        command += ['-ltorch_python', '-ltorch', '-ltorch_cpu', '-lc10']
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if run.returncode:
            errors = run.stdout.decode('utf-8', 'replace').splitlines()
            shown = [line for line in errors if 'error' in line] or errors
            raise CannotBuild(
                f'{command[0]} cannot compile {SOURCE}:\n'
                + '\n'.join(shown[:20])
            )
        os.replace(made, str(done))


if __name__ == '__main__':
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f'simulated NPU: {error}')
