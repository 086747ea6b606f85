"""The lock files: whole, fresh, with hashes, and their licences listed."""

import re
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[2]
LOCKS = sorted(BUNDLE.glob('*/requirements*.lock'))
PIN = re.compile(r'^([\w.-]+)==([^\s;]+)', re.M)


def plain(name):
    """The form in which an index knows a package."""
    return re.sub(r'[-_.]+', '-', name).lower()


def pins(path):
    return {(plain(n), v) for n, v in PIN.findall(path.read_text())}


def test_there_are_some():
    names = [str(path.relative_to(BUNDLE)) for path in LOCKS]
    assert names == [
        'mmpose-master/requirements-source.lock',
        'mmpose-master/requirements.lock',
        'scripts/requirements-build.lock',
        'scripts/requirements-mmcv.lock',
        'scripts/requirements-npu.lock',
        'tests/requirements.lock',
    ]


@pytest.mark.parametrize('lock', LOCKS, ids=lambda p: p.stem)
def test_it_holds_the_pins_that_people_write(lock):
    wanted = pins(lock.with_suffix('.txt'))
    assert wanted and wanted <= pins(lock), 'run scripts/lock.sh'


@pytest.mark.parametrize('lock', LOCKS, ids=lambda p: p.stem)
def test_every_package_has_its_hashes(lock):
    text = re.sub(r'\\\n', ' ', lock.read_text())
    lines = [line for line in text.splitlines() if line[:1] not in '# ']
    assert len(lines) >= len(pins(lock))
    for line in lines:
        assert PIN.match(line), line
        assert re.search(r' --hash=sha256:[0-9a-f]{64}\b', line), line


def test_every_licence_is_listed():
    text = (BUNDLE / 'docs' / 'LICENSES.md').read_text()
    listed = re.findall(r'^\| ([\w-]+) \| \w', text, re.M)
    listed = [name for name in listed if name != 'package']
    assert listed.count('numpy') == 1
    locked = {name for lock in LOCKS for name, _ in pins(lock)}
    assert set(listed) == locked


def test_set_up_installs_nothing_else():
    """But torch and torch_npu, everything comes from a lock file."""
    text = (BUNDLE / 'scripts/setup.sh').read_text()
    text += (BUNDLE / 'scripts/packages.sh').read_text()
    text += (BUNDLE / 'tests/run.sh').read_text()
    text = re.sub(r'\\\n\s*', '', text)
    verbs = 'install|build install|build download|fetch|-m pip install'
    commands = re.findall(rf'(?:{verbs}) (?:-|"\$|").*', text)
    taken = [
        re.search(r'-r "\$(\w+)"(?: ;;)?$', command) for command in commands
    ]
    bare = [c for c, match in zip(commands, taken) if match is None]
    assert bare == [
        # The two ways to install what is asked for.
        'install --python "$py" "$@" && return',
        '-m pip install "$@"',
        'install "torch==${torch#* }" ;;',
        'install --no-deps "$wheel" ||',
        # mmcv's sources, which came by a lock file.
        'build install -v --ignore-installed --no-deps --no-build-isolation '
        '"$folder/mmcv-1.2.7"',
        # The package of this checkout.
        '-m pip install --no-deps --no-build-isolation --editable "$build"',
        'fetch --only-binary :all: "torch==${torch#* }" ;;',
        'fetch --no-deps "torch_npu==${torch_npu#* }" ;;',
    ], bare
    assert len(commands) - len(bare) >= 14
    values = dict(re.findall(r'^(\w*requirements)=(\S+)$', text, re.M))
    names = {match.group(1) for match in taken if match}
    for name in names - {'torch_requirements'}:
        assert name == 'builders' or values[name].endswith('.lock'), name
