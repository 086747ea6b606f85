"""setup.sh: what it refuses, what it skips, what it repairs.

Real installations are made by tests/run.sh itself. Here they are made with a
stand-in for Python that installs empty folders.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

BUNDLE = Path(__file__).resolve().parents[2]

# A Python of version $VERSION for setup.sh: makes environments that hold a
# copy of itself, and installs by making folders, noting it in $LOG. Takes
# $SLOW seconds for what the word $SLOW_AT is in; fails where $FAIL_AT is.
STAND_IN = r"""#!/bin/bash
bin=$(cd "$(dirname "$0")" && pwd)
site=$bin/../lib/python3.11/site-packages
modules='numpy cv2 scipy matplotlib PIL yaml addict yapf json_tricks munkres
  onnx onnxruntime google/protobuf setuptools pip'
printf '%s\n' "$*" >>"$LOG"
case "$*" in
  *"${FAIL_AT:-@@}"*) exit 9 ;;
esac
case "$*" in
  *"${SLOW_AT:-@@}"*) touch "$LOG.slow"; sleep "$SLOW" ;;
esac
case "$*" in
  -m\ venv*)
    venv=${*: -1}
    mkdir -p "$venv"/{bin,lib/python3.11/site-packages}
    cp "$0" "$venv/bin/python"
    ;;
  *install\ -r*/requirements.lock)
    for name in $modules; do mkdir -p "$site/$name"; done
    ;;
  *install\ -r*/requirements-torch.txt | *install\ torch==*)
    mkdir -p "$site/torch"
    ;;
  *npu_host.py*) PYTHONPATH=$site:$HOST exec REAL -S "$@" ;;
  *patches.py* | *doctor.py*) ;;
  *pip\ download*mmcv*)
    mkdir -p "${LOG%/*}/mmcv-1.2.7/mmcv/.originals"
    tar -czf "$VENV/.setup/build/mmcv-1.2.7.tar.gz" -C "${LOG%/*}" mmcv-1.2.7
    ;;
  *--no-binary\ mmcv* | *build/mmcv-1.2.7) mkdir "$site/mmcv" ;;
  *requirements-source*) mkdir "$site"/{mmpose,xtcocotools} ;;
  -m\ pip*) ;;
  -V) echo Python $VERSION ;;
  -c*purelib*) echo "$(cd "$site" && pwd)" ;;
  -*)
    program=$(cat)
    if [[ $program == *version_info* ]]; then
      echo "$VERSION $bin/${0##*/}"
    else
      PYTHONPATH=$site:$HOST exec REAL -S -c "$program" "${@:2}"
    fi
    ;;
esac
"""


class Bundle:
    """A copy of setup.sh and what it reads, with a stand-in for Python."""

    def __init__(self, root):
        self.root = root
        self.log = root / 'log'
        self.venv = root / '.venv'
        for name in ('scripts', 'mmpose-master/mmpose_need', 'mmcv_need'):
            (root / name).mkdir(parents=True)
        for name in (
            'env.sh',
            'scripts/environment.sh',
            'scripts/packages.sh',
            'scripts/common.sh',
            'scripts/setup.sh',
            'scripts/npu_host.py',
            'scripts/npu_versions.json',
            'scripts/patch_engine.py',
            'scripts/requirements-build.lock',
            'scripts/requirements-mmcv.lock',
            'scripts/requirements-npu.lock',
            'scripts/requirements-torch.txt',
            'mmpose-master/requirements.lock',
            'mmpose-master/requirements.txt',
            'mmpose-master/requirements-source.lock',
            'mmpose-master/pyproject.toml',
        ):
            shutil.copy(str(BUNDLE / name), str(root / name))
        (root / 'scripts/patches.py').touch()
        (root / 'mmcv_need/builder.py').touch()
        self.python = root / 'base/python'
        self.python.parent.mkdir()
        self.python.write_text(STAND_IN.replace('REAL', sys.executable))
        self.python.chmod(0o755)
        self.environment = dict(
            os.environ,
            PYTHON=str(self.python),
            VENV=str(self.venv),
            LOG=str(self.log),
            VERSION='3.11',
            HOST=str(root / 'host'),
            # No CANN but the ones that a test makes up.
            HOME=str(root / 'home'),
            CANN_SYSROOT=str(root / 'system'),
            TORCH='',
            TORCH_NPU='',
        )
        for name in ('ASCEND_TOOLKIT_HOME', 'ASCEND_HOME_PATH'):
            self.environment.pop(name, None)

    def start(self, *arguments, **environment):
        return subprocess.Popen(
            ['bash', str(self.root / 'scripts/setup.sh')] + list(arguments),
            env=dict(self.environment, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **environment):
        """Run set-up; what it had the stand-in do is in ``did``."""
        if self.log.exists():
            self.log.unlink()
        process = self.start(*arguments, **environment)
        process.out, process.err = process.communicate(timeout=60)
        process.did = self.log.read_text() if self.log.exists() else ''
        return process


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path)


def is_whole(bundle):
    site = bundle.venv / 'lib/python3.11/site-packages'
    return all(
        (site / name).is_dir()
        for name in ('torch', 'numpy', 'pip', 'mmcv', 'mmpose', 'xtcocotools')
    )


# Refusals ----------------------------------------------------------------


def test_an_unknown_option_is_refused(bundle):
    run = bundle.run('--with-opps')
    assert run.returncode == 2
    assert run.err == (
        'setup.sh: error: unknown option --with-opps; --help lists all\n'
    )
    assert not bundle.venv.exists()


def test_help(bundle):
    run = bundle.run('--help')
    assert run.returncode == 0
    for word in ('usage: ', '--with-ops', 'VENV=', 'PYTHON='):
        assert word in run.out


@pytest.mark.parametrize('version', ['2.7', '3.6', '3.8', '3.14'])
def test_other_pythons_are_refused(bundle, version):
    run = bundle.run(VERSION=version)
    assert run.returncode == 2
    assert run.err.startswith(
        f'setup.sh: error: PYTHON={bundle.python} is Python {version}; '
        'use Python 3.7 or 3.9 to 3.13 (to get one: '
    )
    assert len(run.err.splitlines()) == 1
    assert not bundle.venv.exists()


def test_a_python_that_is_not_there_is_refused(bundle):
    run = bundle.run(PYTHON='python9.9')
    assert run.returncode == 2
    assert run.err == (
        'setup.sh: error: PYTHON=python9.9 cannot be run; '
        'use Python 3.7 or 3.9 to 3.13\n'
    )


def test_a_folder_of_somebody_else_is_left_alone(bundle):
    bundle.venv.mkdir()
    (bundle.venv / 'precious').touch()
    run = bundle.run()
    assert run.returncode == 2
    assert 'was not made by this script' in run.err
    assert os.listdir(str(bundle.venv)) == ['precious']


# Interpreters ------------------------------------------------------------


def test_a_version_that_only_pyenv_has_is_found(bundle):
    shims = bundle.root / 'shims'
    shims.mkdir()
    (shims / 'python3.7').write_text('#!/bin/sh\nexit 127\n')
    (shims / 'python3.7').chmod(0o755)
    real = bundle.root / 'pyenv/versions/3.7.9/bin/python3.7'
    real.parent.mkdir(parents=True)
    shutil.copy(str(bundle.python), str(real))
    run = bundle.run(
        PYTHON='python3.7',
        VERSION='3.7',
        PATH=f'{shims}:{os.environ["PATH"]}',
        PYENV_ROOT=str(bundle.root / 'pyenv'),
    )
    assert run.returncode == 0, run.err
    assert (bundle.venv / '.setup/python').read_text() == f'3.7 {real}\n'


def test_another_python_makes_the_environment_anew(bundle):
    bundle.run()
    (bundle.venv / 'old').touch()
    assert bundle.run(VERSION='3.12').returncode == 0
    assert not (bundle.venv / 'old').exists()
    assert is_whole(bundle)


def test_without_a_word_the_environment_keeps_its_python(bundle):
    bundle.run()
    run = bundle.run(PYTHON='')
    assert run.returncode == 0, run.err
    assert 'pip install' not in run.did


# Torch of the host --------------------------------------------------------


def add_host_package(bundle, name, version):
    package = bundle.root / 'host' / name
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'version.py').write_text(
        f"from typing import Any\n__version__ = '{version}'\n"
    )


def test_torch_is_installed_where_there_is_none(bundle):
    run = bundle.run()
    assert 'requirements-torch.txt' in run.did
    assert '--system-site-packages' not in run.did


@pytest.mark.parametrize(
    'torch, npu, warned',
    [
        ('2.6.0+cpu', None, False),
        ('2.6.0', '2.6.0.post5', False),
        ('1.8.1', '1.8.1', False),
        ('2.7.1', '2.6.0.post5', True),
    ],
)
def test_torch_of_the_host_is_used(bundle, torch, npu, warned):
    add_host_package(bundle, 'torch', torch)
    if npu:
        add_host_package(bundle, 'torch_npu', npu)
    run = bundle.run()
    assert run.returncode == 0, run.err
    assert 'requirements-torch.txt' not in run.did
    assert '-m venv --system-site-packages' in run.did
    assert f'using torch {torch.partition("+")[0]}' in run.err
    assert ('do not belong together' in run.err) is warned


# CANN of the host ---------------------------------------------------------


def add_cann(bundle, version, kind='toolkit'):
    """Make up an installed CANN as its installers lay it out."""
    name = {'toolkit': 'ascend-toolkit', 'nnae': 'nnae'}[kind]
    root = bundle.root / 'system/usr/local/Ascend' / name
    info = root / version / 'aarch64-linux' / f'ascend_{kind}_install.info'
    info.parent.mkdir(parents=True)
    info.write_text(f'package_name=Ascend\nversion={version}\npath=/x\n')
    (root / 'latest').symlink_to(version)
    (root / 'set_env.sh').write_text(
        f'export ASCEND_TOOLKIT_HOME={root}/latest\n'
    )
    return root / 'latest'


def set_machine(bundle, machine):
    """Return a PATH on which uname says so."""
    tools = bundle.root / 'tools'
    tools.mkdir(exist_ok=True)
    (tools / 'uname').write_text(f'#!/bin/sh\necho {machine}\n')
    (tools / 'uname').chmod(0o755)
    return f'{tools}:{os.environ["PATH"]}'


@pytest.mark.parametrize(
    'cann, kind, python, machine, torch, npu',
    [
        ('9.1.0', 'toolkit', '3.12', 'aarch64', '2.12.0', '2.12.0'),
        ('8.5.0', 'nnae', '3.9', 'x86_64', '2.8.0', '2.8.0.post2'),
        ('6.3.RC2', 'nnae', '3.7', 'aarch64', '1.8.1', '1.8.1.post2'),
    ],
)
def test_cann_decides_on_torch(
    bundle, cann, kind, python, machine, torch, npu
):
    home = add_cann(bundle, cann, kind)
    run = bundle.run(
        '--dry-run', VERSION=python, PATH=set_machine(bundle, machine)
    )
    assert run.returncode == 0, run.err
    assert (
        f'setup.sh: CANN {cann} in {home} and Python {python}: torch {torch} '
        f'and torch_npu {npu}, by the published matrix\n'
    ) in run.err
    assert f'torch_npu {npu}: would be installed\n' in run.err
    assert not bundle.venv.exists()
    assert '-m' not in run.did.split()


def test_what_cann_wants_is_installed(bundle):
    add_cann(bundle, '8.3.RC1')
    run = bundle.run()
    assert run.returncode == 0, run.err
    did = run.did.splitlines()
    assert '-m pip install torch==2.8.0' in did
    assert '-m pip install --no-deps torch_npu==2.8.0' in did
    assert any(line.endswith('requirements-npu.lock') for line in did)
    assert '--system-site-packages' not in run.did
    assert '-m' not in bundle.run().did.split()


@pytest.mark.parametrize(
    'cann, python, machine, words',
    [
        ('5.0.2', '3.11', 'x86_64', 'no torch_npu is published for CANN'),
        ('99.1.0', '3.11', 'x86_64', 'no torch_npu is published for CANN'),
        ('8.5.0', '3.7', 'x86_64', 'goes with Python 3.7'),
        ('8.3.RC1', '3.12', 'riscv64', 'not for riscv64'),
    ],
)
def test_where_nothing_fits_the_table_is_shown(
    bundle, cann, python, machine, words
):
    add_cann(bundle, cann)
    run = bundle.run(VERSION=python, PATH=set_machine(bundle, machine))
    assert run.returncode == 2
    assert words in run.err
    assert 'Traceback' not in run.err
    assert not bundle.venv.exists()
    if machine == 'x86_64':
        rows = [line.split() for line in run.err.splitlines()]
        assert ['CANN', 'torch', 'torch_npu', 'Python'] in rows
        assert ['8.5.0', '2.6.0', '2.6.0.post5', '3.9', '-', '3.11'] in rows
    for way_out in ('PYTHON=', 'TORCH=', 'TORCH_NPU=none'):
        assert way_out in run.err


def test_a_cann_that_does_not_tell_its_version_is_refused(bundle):
    home = add_cann(bundle, '8.5.0')
    next(home.glob('*/*.info')).unlink()
    (home.parent / '8.5.0').rename(home.parent / 'somewhere')
    home.unlink()
    home.symlink_to('somewhere')
    run = bundle.run()
    assert run.returncode == 2
    assert 'nothing there tells its version' in run.err
    assert bundle.run(TORCH='2.6.0', TORCH_NPU='none').returncode == 0


def test_torch_of_the_host_stays_and_gets_its_torch_npu(bundle):
    add_cann(bundle, '8.5.0')
    add_host_package(bundle, 'torch', '2.6.0+cpu')
    run = bundle.run()
    assert run.returncode == 0, run.err
    assert '--system-site-packages' in run.did
    assert 'torch_npu==2.6.0.post5' in run.did
    assert ' torch==' not in run.did


def test_torch_of_the_host_may_not_fit(bundle):
    add_cann(bundle, '8.5.0')
    add_host_package(bundle, 'torch', '2.3.1')
    run = bundle.run()
    assert run.returncode == 2
    assert 'goes with Python 3.11 and torch 2.3.1' in run.err
    run = bundle.run(TORCH='2.8.0')
    assert run.returncode == 0, run.err
    assert '--system-site-packages' not in run.did
    assert 'torch_npu==2.8.0.post2' in run.did


@pytest.mark.parametrize(
    'torch, npu, installed, left_out',
    [
        ('2.6.0', '', ['torch==2.6.0', 'torch_npu==2.6.0.post5'], []),
        ('', '2.7.1', ['torch==2.7.1', 'torch_npu==2.7.1'], []),
        ('', 'none', ['requirements-torch.txt'], ['torch_npu']),
        ('2.7.1', '2.7.1', ['torch==2.7.1', 'torch_npu==2.7.1'], []),
        (
            '',
            '/w/torch_npu-2.6.0.post3-cp311-cp311-linux_aarch64.whl',
            ['torch==2.6.0', '/w/torch_npu-2.6.0.post3-cp311'],
            ['torch_npu=='],
        ),
    ],
)
def test_the_users_word_counts(bundle, torch, npu, installed, left_out):
    add_cann(bundle, '8.5.0')
    bundle.run(TORCH='2.9.0', TORCH_NPU='none')
    run = bundle.run(TORCH=torch, TORCH_NPU=npu)
    assert run.returncode == 0, run.err
    assert '-m venv' in run.did
    for word in installed:
        assert word in run.did
    for word in left_out:
        assert word not in run.did
    # ... and is remembered.
    assert '-m' not in bundle.run().did.split()


def test_a_pair_that_does_not_belong_together_is_said(bundle):
    run = bundle.run('--dry-run', TORCH='2.6.0', TORCH_NPU='2.7.1')
    assert run.returncode == 0
    assert 'do not belong together' in run.err


@pytest.mark.parametrize(
    'machine, npu, said',
    [
        ('x86_64', '2.6.0.post5', 'torch_npu ends the process beside another'),
        ('aarch64', '2.6.0.post5', ''),
        ('x86_64', 'none', 'which is a tenth as large'),
    ],
)
def test_an_index_without_a_torch_for_cpus(bundle, machine, npu, said):
    if npu == 'none' and shutil.which('nvidia-smi'):
        pytest.skip('the torch for GPUs is wanted here')
    uname = bundle.root / 'bin/uname'
    uname.parent.mkdir(exist_ok=True)
    uname.write_text(f'#!/bin/sh\necho {machine}\n')
    uname.chmod(0o755)
    path = f'{uname.parent}:{os.environ["PATH"]}'
    run = bundle.run(TORCH='2.6.0', TORCH_NPU=npu, PATH=path)
    assert run.returncode == 0, run.err
    assert said in run.err
    assert ('no torch for CPUs alone' in run.err) is bool(said)


def test_a_torch_npu_that_pip_does_not_get_is_named(bundle):
    add_cann(bundle, '6.3.RC2')
    run = bundle.run(VERSION='3.7', FAIL_AT='--no-deps torch_npu')
    assert run.returncode == 1
    assert 'error: pip cannot install torch_npu==1.8.1.post2' in run.err
    assert 'TORCH_NPU=/PATH/OF.whl' in run.err


def test_a_dry_run_does_nothing(bundle):
    run = bundle.run('--dry-run')
    assert run.returncode == 0, run.err
    assert f'Python 3.11, {bundle.python}' in run.err
    assert 'environment packages mmcv patches' in run.err
    assert not bundle.venv.exists()
    assert not (bundle.root / 'scripts/__pycache__').exists()
    bundle.run()
    assert f'steps to do in {bundle.venv}: none' in bundle.run('--dry-run').err


# Second runs --------------------------------------------------------------


def test_the_real_environment_is_ready_within_a_second():
    venv = Path(sys.prefix)
    if not (venv / '.setup').is_dir():
        pytest.skip('the tests do not run in an environment of setup.sh')
    environment = dict(os.environ, VENV=str(venv))
    environment.pop('PYTHON', None)
    # Of the processor: the machine may be busy with something else.
    before = os.times()
    run = subprocess.run(
        ['bash', str(BUNDLE / 'scripts/setup.sh')],
        env=environment,
        capture_output=True,
        text=True,
    )
    after = os.times()
    took = after.children_user - before.children_user
    assert took + after.children_system - before.children_system < 1
    assert run.returncode == 0
    assert run.stdout == ''
    assert run.stderr.startswith(f'setup.sh: ready: {venv} ')


def test_a_second_run_does_nothing(bundle):
    first = bundle.run()
    assert first.returncode == 0, first.err
    for step in ('[1/5]', '[2/5]', '[3/5]', '[4/5]', '[5/5]', 'ready'):
        assert f'setup.sh: {step}' in first.err
    assert is_whole(bundle)
    second = bundle.run()
    assert second.returncode == 0
    assert len(second.err.splitlines()) == 1
    assert '-m' not in second.did
    assert bundle.run('--if-needed').err == ''


def test_the_doctor_looks_at_what_has_been_made(bundle):
    run = bundle.run(FAIL_AT='doctor.py')
    assert run.returncode == 0, run.err
    assert run.did.count('doctor.py --brief') == 1
    assert 'not finished' not in run.err
    assert 'doctor.py' not in bundle.run().did


def test_changed_drop_ins_are_applied_and_nothing_else(bundle):
    bundle.run()
    (bundle.root / 'mmcv_need/builder.py').write_text('# new\n')
    run = bundle.run()
    assert 'patches.py apply' in run.did
    assert '-m pip' not in run.did


def test_changed_requirements_are_installed_over_the_old_ones(bundle):
    bundle.run()
    with open(str(bundle.root / 'mmpose-master/requirements.lock'), 'a') as f:
        f.write('another==1\n')
    run = bundle.run()
    assert '-m pip install -r' in run.did
    assert '-m venv' not in run.did


def test_operators_are_built_when_asked_for_and_then_kept(bundle):
    bundle.run()
    run = bundle.run('--with-ops')
    assert run.returncode == 0, run.err
    did = run.did.splitlines()
    edit = f'patches.py apply --mmcv {bundle.venv}/.setup/build/mmcv-1.2.7'
    build = f'{bundle.venv}/.setup/build/mmcv-1.2.7'
    order = [
        next(i for i, line in enumerate(did) if line.endswith(end))
        for end in (
            edit,
            f'--no-build-isolation {build}',
            f'apply --inside {bundle.venv}',
        )
    ]
    assert order == sorted(order)
    assert '-m venv' not in run.did
    site = bundle.venv / 'lib/python3.11/site-packages'
    assert (site / 'mmcv/.originals').is_dir()
    assert not os.path.exists(build)
    assert '-m' not in bundle.run('--with-ops').did
    assert '-m' not in bundle.run().did
    (site / 'mmpose').rmdir()
    assert edit in bundle.run().did


@pytest.mark.parametrize(
    'module, again', [('scipy', '-m venv'), ('mmpose', 'requirements-source')]
)
def test_what_is_missing_comes_back(bundle, module, again):
    bundle.run()
    site = bundle.venv / 'lib/python3.11/site-packages'
    (site / module).rmdir()
    run = bundle.run()
    assert run.returncode == 0, run.err
    assert again in run.did
    assert (site / module).is_dir()


@pytest.mark.parametrize(
    'step', ['-m venv', 'install -r', 'no-binary', 'source.lock', 'apply']
)
def test_a_step_that_fails_is_done_again(bundle, step):
    run = bundle.run(FAIL_AT=step)
    assert run.returncode != 0
    assert run.err.splitlines()[-1] == (
        'setup.sh: not finished; run it again to continue'
    )
    run = bundle.run()
    assert run.returncode == 0, run.err
    assert step in run.did
    assert is_whole(bundle)


@pytest.mark.parametrize(
    'step', ['-m venv', 'install -r', 'no-binary', 'apply']
)
def test_a_killed_run_is_repaired(bundle, step):
    process = bundle.start(SLOW_AT=step, SLOW='60')
    wait_until((bundle.root / 'log.slow').exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # A half-written package, which pip would treat as complete.
    site = bundle.venv / 'lib/python3.11/site-packages'
    if step == 'install -r':
        (site / 'half-written').mkdir()
    run = bundle.run()
    assert run.returncode == 0, run.err
    assert step in run.did
    assert is_whole(bundle)
    assert not (site / 'half-written').exists()


def test_of_two_runs_one_waits(bundle):
    if shutil.which('flock') is None:
        pytest.skip('there is no flock here')
    first = bundle.start(SLOW_AT='install -r', SLOW='2')
    wait_until((bundle.root / 'log.slow').exists)
    second = bundle.start()
    for process in (first, second):
        _, process.err = process.communicate(timeout=60)
        assert process.returncode == 0, process.err
    assert 'another set-up is running' in second.err
    assert '[1/5]' not in second.err
    assert bundle.log.read_text().count('-m venv') == 1


def wait_until(condition):
    end = time.time() + 30
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


# The manual way -----------------------------------------------------------


@pytest.fixture
def manual(tmp_path):
    """Run mmpose-master/setup.py beside a made-up mmcv; pip only notes."""
    tools = tmp_path / 'mmpose-master'
    tools.mkdir()
    shutil.copy(str(BUNDLE / 'mmpose-master/setup.py'), str(tools))
    (tmp_path / 'scripts').mkdir()
    note = "import sys; print('{}', *sys.argv[1:], flush=True)\n"
    (tmp_path / 'scripts/patches.py').write_text(note.format('patches'))
    (tmp_path / 'path').mkdir()
    (tmp_path / 'path/pip.py').write_text(note.format('pip'))

    def run(*arguments, mmcv=None):
        if mmcv:
            package = tmp_path / 'path/mmcv'
            package.mkdir()
            (package / '__init__.py').write_text("raise ImportError('stock')")
            (package / 'version.py').write_text(f"__version__ = '{mmcv}'\n")
        return subprocess.run(
            [sys.executable, '-S', str(tools / 'setup.py')] + list(arguments),
            env=dict(os.environ, PYTHONPATH=str(tmp_path / 'path')),
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize('command', ['develop', 'install'])
def test_setup_py(manual, command):
    run = manual(command, mmcv='1.2.7')
    assert run.returncode == 0, run.stderr
    source, package, patches = run.stdout.splitlines()
    flags = 'pip install --no-deps --no-build-isolation '
    assert source.startswith(f'{flags}-r ')
    assert source.endswith('mmpose-master/requirements-source.txt')
    assert package.startswith(f'{flags}--editable ')
    assert package.endswith('mmpose-master')
    assert patches == 'patches apply'


@pytest.mark.parametrize(
    'arguments, mmcv, message',
    [
        ((), '1.2.7', 'the command is develop or install'),
        (('bdist',), '1.2.7', 'the command is develop or install'),
        (('develop',), None, 'has no mmcv; mmcv 1.2.7 comes first'),
        (('develop',), '1.3.0', 'has mmcv 1.3.0; mmcv 1.2.7 comes first'),
    ],
)
def test_setup_py_refuses(manual, arguments, mmcv, message):
    run = manual(*arguments, mmcv=mmcv)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ''
