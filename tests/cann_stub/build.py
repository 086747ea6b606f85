#!/usr/bin/env python3
"""Installs torch_npu in a folder of its own and builds CANN's stand-in.

Usage: build.py [--torch-npu VERSION] [--show]

Prints the folder of a small root file system with CANN in it. --show prints
the variables that a process needs instead, a NAME=VALUE each.

Both lie in ``.cann_stub`` of this Python's environment (CANN_STUB_CACHE names
another place), are made once for each torch and each state of the sources,
and are never on the path of a process that has not asked for them. pip gets
the wheel from where it gets everything else; TORCH_NPU_WHEELS names a folder
of wheels in place of that. Status 3: there is no torch_npu for this torch or
this Python, or the torch is one for CUDA.
"""

import argparse
import concurrent.futures
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = {
    'libascendcl.so': ('runtime', 'hccl'),
    'libopapi.so': ('operators',),
}
# Under these names the wheel looks for what lies in libascendcl.so here.
SIBLINGS = (
    'acl_op_compiler acl_tdt_channel ascend_hal atb ge_runner graph hccl '
    'msprofiler nnopbase runtime'
).split()
OLDEST_TORCH = (2, 6)

TOOLKIT = Path('usr/local/Ascend/ascend-toolkit')
LIBRARIES = TOOLKIT / 'latest/lib64'
CANN_VERSION = '9.1.0'  # as in settings.cpp
DEVICES = 8

# As CANN's own: what it needs for torch_npu to be imported.
SET_ENV = """\
# The stand-in for CANN; see docs/CANN_STUB.md.
_cann=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/latest
export ASCEND_TOOLKIT_HOME=$_cann ASCEND_HOME_PATH=$_cann
export ASCEND_OPP_PATH=$_cann/opp
export LD_LIBRARY_PATH=$_cann/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
unset _cann
"""

# Functions that may do nothing: profiling, dumps, descriptions of arguments.
# What else the wheel wants and the sources lack fails by name when called.
IDLE = re.compile(
    r'Msprof|aclmdl(Init|Set|Finalize)Dump|aclSetTensor|aclopSetAttr'
    r'|aclGetTensorDesc'
)
# Symbols that Python, the loader and libc define.
FOREIGN = re.compile(r'_?Py|_ITM|__gmon|_ZT[HW]|__tls|.*@')


class Unable(Exception):
    """What is missing here, in one line."""


class NotServed(Unable):
    """There is no torch_npu that this torch and this Python can load."""


def torch_version():
    """Return the version of torch, such as '2.13.0', without importing it.

    Raises:
        Unable: There is none.
    """
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:
        raise NotServed('torch_npu has no wheel for Python 3.7') from None
    try:
        return version('torch').partition('+')[0]
    except PackageNotFoundError:
        raise Unable('there is no torch here') from None


def site_packages():
    """Return the folder that torch lies in."""
    from importlib.util import find_spec

    return Path(find_spec('torch').origin).parent.parent


def cache():
    """Return the folder for wheels and libraries."""
    given = os.environ.get('CANN_STUB_CACHE')
    return Path(given) if given else Path(sys.prefix) / '.cann_stub'


# The wheel -------------------------------------------------------------------


def pip(folder, *requirements):
    """Installs into a folder, whatever the environment has already.

    Raises:
        Unable: pip cannot; with the last line of what it says.
    """
    command = [sys.executable, '-m', 'pip', 'install', '--quiet']
    command += ['--disable-pip-version-check', '--no-deps', '--only-binary']
    command += [':all:', '--target', str(folder)]
    wheels = os.environ.get('TORCH_NPU_WHEELS')
    if wheels:
        command += ['--find-links', wheels]
    done = subprocess.run(
        command + list(requirements),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ['pip has failed']
        # Other versions are there, so the index has answered.
        found = re.search(r'from versions: (?!none)', done.stdout)
        kind = NotServed if found else Unable
        raise kind(f'no {requirements[0]}: {lines[-1]}')


def install(version):
    """Installs torch_npu, unless it is there.

    Args:
        version (str): Of torch_npu, or a pattern such as '2.13.0.*'.

    Returns:
        Path: The folder that it can be imported from.
    """
    place = cache() / 'torch_npu-{}'.format(version.replace('.*', ''))
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=str(cache())) as scratch:
        pip(Path(scratch) / 'new', f'torch_npu=={version}')
        os.rename(str(Path(scratch) / 'new'), str(place))
    return place


# The libraries ---------------------------------------------------------------


def sources(part):
    """Return the C++ files of a part, in the order of their names."""
    return sorted((HERE / part).glob('*.cpp'))


def fingerprint(place, compiler):
    """Return what the libraries depend on, as a short hash."""
    digest = hashlib.sha256()
    parts = [part for parts in PARTS.values() for part in parts]
    files = [path for part in parts for path in (HERE / part).iterdir()]
    files = [path for path in files if path.suffix in ('.cpp', '.h')]
    for path in sorted(files) + [Path(__file__)]:
        digest.update(path.name.encode() + b'\0' + path.read_bytes())
    told = subprocess.run(
        [compiler, '--version'], stdout=subprocess.PIPE, check=True
    ).stdout
    digest.update(told + torch_version().encode() + place.name.encode())
    return digest.hexdigest()[:16]


def call(command):
    """Run a tool of the build.

    Raises:
        Unable: It fails; with what it prints.
    """
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        words = ' '.join(str(word) for word in command[:1] + command[-1:])
        raise Unable(f'{words} has failed:\n{done.stdout[-4000:]}')
    return done.stdout


def symbols(path, kind):
    """Return names of a library or object; kind as for nm."""
    flags = [] if path.suffix == '.o' else ['-D']
    names = set()
    for line in call(['nm', *flags, f'--{kind}-only', path]).splitlines():
        *_, letter, name = line.split()
        if kind == 'defined' or letter == 'U':
            names.add(name)
    return names


def missing_symbols(place, objects):
    """Return what the wheel's libraries want and nobody defines."""
    wheel = sorted((place / 'torch_npu').glob('_C*.so'))
    wheel += sorted((place / 'torch_npu/lib').glob('*.so'))
    wanted, there = set(), set()
    for path in wheel:
        wanted |= symbols(path, 'undefined')
        there |= symbols(path, 'defined')
    for path in (site_packages() / 'torch/lib').glob('*.so*'):
        there |= symbols(path, 'defined')
    for path in objects:
        there |= symbols(path, 'defined')
    # CANN's names and atb's; what else is left over is libc's.
    own = re.compile(r'acl|Hccl|Hcom|Msprof|rt[A-Z]|ge|_ZN3atb|_ZNK?2ge')
    return sorted(
        name
        for name in wanted - there
        if own.match(name) and not FOREIGN.match(name)
    )


def write_missing(path, names):
    """Write a function for each name that the sources do not have."""
    lines = ['long cann_stub_missing(const char *name);']
    for name in names:
        result = '0' if IDLE.match(name) else f'cann_stub_missing("{name}")'
        lines.append(f'long {name}(void) {{ return {result}; }}')
    path.write_text('\n'.join(lines) + '\n')


def compile_all(folder, root, place, compiler):
    """Compiles everything in ``folder`` and links it below ``root``."""
    torch = site_packages() / 'torch'
    headers = place / 'torch_npu/include'
    third = headers / 'third_party'
    common = [compiler, '-O1', '-fPIC', '-Wall', '-std=c++20']
    for path in (third / 'acl/inc', third / 'hccl/inc', headers):
        common += ['-isystem', path]
    operators = ['-isystem', torch / 'include', '-Wno-attribute-alias']
    operators += ['-isystem', torch / 'include/torch/csrc/api/include']
    operators += [f'-D_GLIBCXX_USE_CXX11_ABI={cxx11_abi(torch)}']
    # The files of a part are compiled as one: torch's headers take most of
    # the time. The longest begins; two run at a time.
    jobs = {}
    for part in ('operators', 'runtime', 'hccl'):
        unit = folder / f'{part}.cpp'
        lines = [f'#include "{source}"' for source in sources(part)]
        unit.write_text('\n'.join(lines) + '\n')
        more = operators if part == 'operators' else []
        target = folder / f'{part}.o'
        jobs[part] = [*common, *more, '-c', '-o', target, unit]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(call, job) for job in jobs.values()]:
            done.result()
    objects = {
        name: [folder / f'{part}.o' for part in parts]
        for name, parts in PARTS.items()
    }
    names = missing_symbols(place, objects['libascendcl.so'])
    write_missing(folder / 'missing.c', names)
    target = folder / 'missing.o'
    call(
        [compiler, '-x', 'c', '-fPIC', '-o', target, '-c']
        + [folder / 'missing.c']
    )
    link(root / LIBRARIES, compiler, objects, target, torch)


def link(lib, compiler, objects, missing, torch):
    """Links the objects, and the names under which they are looked for."""
    beside = ['-Wl,-rpath,$ORIGIN', '-L', lib]
    shared = [compiler, '-shared', *beside]
    runtime, operators = PARTS
    call(
        [*shared, f'-Wl,-soname,{runtime}', *objects[runtime], missing]
        + ['-lpthread', '-ldl', '-o', lib / runtime]
    )
    call(
        [*shared, f'-Wl,-soname,{operators}', *objects[operators]]
        + ['-lascendcl', '-L', torch / 'lib', '-ltorch_cpu', '-lc10']
        + [f'-Wl,-rpath,{torch / "lib"}', '-o', lib / operators]
    )
    for name in SIBLINGS:
        call(
            [*shared, f'-Wl,-soname,lib{name}.so', '-Wl,--no-as-needed']
            + ['-lascendcl', '-o', lib / f'lib{name}.so']
        )


def write_root(folder):
    """Write what an installed CANN and its driver leave on a host."""
    latest = folder / TOOLKIT / 'latest'
    for name in ('lib64', 'runtime', 'compiler', 'opp'):
        (latest / name).mkdir(parents=True)
    info = latest / 'ascend_toolkit_install.info'
    info.write_text(f'version={CANN_VERSION}\n')
    (folder / TOOLKIT / 'set_env.sh').write_text(SET_ENV)
    driver = folder / 'usr/local/Ascend/driver/version.info'
    driver.parent.mkdir()
    driver.write_text('Version=stub\n')
    (folder / 'dev').mkdir()
    for number in range(DEVICES):
        (folder / f'dev/davinci{number}').touch()


def cxx11_abi(torch):
    """Return 1 unless this torch was built with the old C++ ABI."""
    names = call(['nm', '-D', '--defined-only', torch / 'lib/libc10.so'])
    return int('__cxx11' in names)


def build(version=None):
    """Make what is not there yet.

    Args:
        version (str | None): Of torch_npu; by default the newest for this
            torch.

    Returns:
        tuple[Path, Path]: Folders of the wheel and of the file system.

    Raises:
        Unable: It cannot be done here.
    """
    numbers = torch_version()
    if tuple(map(int, numbers.split('.')[:2])) < OLDEST_TORCH:
        raise NotServed(f'torch {numbers}: the stand-in serves 2.6 and later')
    if (site_packages() / 'torch/lib/libtorch_cuda.so').exists():
        raise NotServed(
            f'torch {numbers} is built for CUDA, beside which torch_npu does '
            'not load: install the build for CPUs, whose version ends in +cpu'
        )
    compiler = os.environ.get('CXX') or 'g++'
    for tool in (compiler, 'nm'):
        if shutil.which(tool) is None:
            raise Unable(f'{tool} is not on PATH')
    cache().mkdir(parents=True, exist_ok=True)
    with open(str(cache() / 'lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # What a build that was killed has left.
        for left in cache().glob('tmp*'):
            shutil.rmtree(str(left))
        place = install(version or numbers + '.*')
        name = f'{place.name}-{fingerprint(place, compiler)}'
        folder = cache() / name
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=str(cache())) as scratch:
                made = Path(scratch) / 'new'
                made.mkdir()
                root = made / 'host'
                write_root(root)
                compile_all(made, root, place, compiler)
                for path in made.iterdir():
                    if path.is_file():
                        path.unlink()
                os.rename(str(made), str(folder))
            # States of the sources that are no more.
            for old in cache().glob(f'{place.name}-*'):
                if old != folder:
                    shutil.rmtree(str(old))
    return place, folder / 'host'


def environment(place, root):
    """Return the variables of a process with eight NPUs.

    Args:
        place (Path): Folder of the wheel.
        root (Path): Folder of the file system.
    """
    latest = str(root / TOOLKIT / 'latest')

    def first(path, name):
        given = os.environ.get(name)
        return os.pathsep.join([str(path)] + ([given] if given else []))

    return {
        'CANN_SYSROOT': str(root),
        'ASCEND_TOOLKIT_HOME': latest,
        'ASCEND_HOME_PATH': latest,
        'ASCEND_OPP_PATH': latest + '/opp',
        'LD_LIBRARY_PATH': first(root / LIBRARIES, 'LD_LIBRARY_PATH'),
        'PYTHONPATH': first(place, 'PYTHONPATH'),
        # The launchers take no other folders.
        'HOURGLASS_PYTHONPATH': first(place, 'HOURGLASS_PYTHONPATH'),
    }


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition('\n\n')[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--torch-npu', metavar='VERSION')
    parser.add_argument('--show', action='store_true')
    args = parser.parse_args()
    try:
        place, root = build(args.torch_npu)
    except Unable as reason:
        print(f'build.py: error: {reason}', file=sys.stderr)
        return 3 if isinstance(reason, NotServed) else 1
    if args.show:
        for name, value in environment(place, root).items():
            print(f'{name}={value}')
    else:
        print(root)
    return 0


if __name__ == '__main__':
    sys.exit(main())
