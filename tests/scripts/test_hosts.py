"""Hosts on which set-up and scripts have to work, played here."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_setup_sh import Bundle

import doctor_checks

pytestmark = pytest.mark.processes

BUNDLE = Path(__file__).resolve().parents[2]
SCRIPTS = BUNDLE / 'scripts'


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path)


@pytest.fixture
def foreign(tmp_path):
    """A checkout of somebody else's mmcv and mmpose."""
    folder = tmp_path / 'foreign'
    for name in ('mmcv', 'mmpose'):
        (folder / name).mkdir(parents=True)
        (folder / name / '__init__.py').touch()
    return folder


def bash(text, **environment):
    """Run a shell script; return what it prints."""
    return subprocess.run(
        ['bash', '-c', text, str(SCRIPTS / 'x.sh')],
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


# Python's variables -------------------------------------------------------


def test_scripts_are_isolated(foreign):
    run = bash(
        f'source {SCRIPTS}/common.sh; env',
        PYTHONPATH=f'{foreign}:/opt/Ascend/python/site-packages:/mine',
        PYTHONHOME='/nowhere',
        ASCEND_TOOLKIT_HOME='/opt/Ascend',
        HOURGLASS_PYTHONPATH='/mine',
    )
    found = dict(
        line.split('=', 1) for line in run.stdout.splitlines() if '=' in line
    )
    # CANN's own folders and those that the user names for us are kept.
    assert found['PYTHONPATH'] == '/mine:/opt/Ascend/python/site-packages'
    assert found['PYTHONNOUSERSITE'] == '1'
    assert 'PYTHONHOME' not in found
    assert f'note: PYTHONPATH={foreign} is not used' in run.stderr


def test_set_up_does_not_see_a_foreign_mmpose(bundle, foreign):
    run = bundle.run(PYTHONPATH=str(foreign), PYTHONHOME='/nowhere')
    assert run.returncode == 0, run.err
    site = bundle.venv / 'lib/python3.11/site-packages'
    assert (site / 'mmpose').is_dir()
    assert f'apply --inside {bundle.venv}\n' in run.did


def test_nothing_is_patched_outside_the_environment(tmp_path):
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / 'patches.py'), 'apply']
        + ['--inside', str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    for name in ('mmcv', 'mmpose'):
        assert re.search(
            rf'error: {name} in \S+/{name} is not inside {tmp_path}',
            run.stderr,
        )
    assert 'Nothing was written.' in run.stderr


def test_a_command_goes_on_without_a_foreign_mmpose(foreign):
    venv = Path(sys.prefix)
    run = subprocess.run(
        [sys.executable, str(BUNDLE / 'demo.py'), '--checkpoint', '/none'],
        env=dict(os.environ, PYTHONPATH=str(foreign), VENV=str(venv)),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    for name in ('mmcv', 'mmpose'):
        note = f"note: {name} in {foreign}/{name} is not the bundle's: going"
        assert note in run.stderr
    # The error of the command itself: it has read its own packages.
    assert run.stderr.splitlines()[-1].startswith('error: ')
    assert '/none' in run.stderr


def test_where_nothing_else_is_there_the_foreign_one_is_named(foreign):
    run = subprocess.run(
        [sys.executable, str(BUNDLE / 'demo.py')],
        env=dict(os.environ, PYTHONPATH=str(foreign), VENV='/nowhere'),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert f"mmpose in {foreign}/mmpose is not the bundle's" in line
    assert line.endswith('Run: unset PYTHONPATH')


def test_the_doctor_names_what_was_passed_over(monkeypatch):
    monkeypatch.setattr(doctor_checks, 'PASSED_OVER', ['/x/mmpose'])
    found = list(doctor_checks.check_patched_packages(None))
    assert found[0].severity == 'warning'
    assert '/x/mmpose' in found[0].text
    assert found[0].remedy == 'unset PYTHONPATH'


# The shell and the file system --------------------------------------------


def test_a_cd_that_prints(bundle):
    (bundle.root / 'elsewhere/scripts').mkdir(parents=True)
    run = bundle.run(
        CDPATH=str(bundle.root / 'elsewhere'),
        **{'BASH_FUNC_cd%%': '() { builtin cd "$@"; pwd; }'},
    )
    assert run.returncode == 0, run.err
    assert run.out == ''


@pytest.mark.parametrize('name', ['a\nb', 'a:b'])
def test_a_path_that_environments_cannot_have(bundle, tmp_path, name):
    run = bundle.run(VENV=str(tmp_path / name))
    assert run.returncode == 2
    assert 'a colon or a line break' in run.err
    assert len(run.err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_to(bundle):
    (bundle.root / 'file').touch()
    run = bundle.run(VENV=str(bundle.root / 'file/venv'))
    assert run.returncode == 2
    assert run.err == (
        f'setup.sh: error: {bundle.root}/file/venv cannot be written to: name '
        'another folder with VENV=\n'
    )


def test_a_symbolic_link_to_a_script(tmp_path):
    for name in ('demo.py', 'scripts/train_1p.sh'):
        link = tmp_path / Path(name).name
        link.symlink_to(BUNDLE / name)
        program = 'bash' if name.endswith('.sh') else sys.executable
        run = subprocess.run(
            [program, str(link), '--help'],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert run.returncode == 0
        assert 'usage: ' in run.stdout


def test_a_checkout_of_another_user(monkeypatch):
    if not (BUNDLE / '.git').exists():
        pytest.skip('this is no git checkout')
    monkeypatch.setenv('GIT_TEST_ASSUME_DIFFERENT_OWNER', '1')
    (line,) = doctor_checks.check_bundle(None)
    assert 'no git checkout' not in line.text


@pytest.mark.parametrize('shell', ['dash', 'ksh', 'fish'])
def test_env_sh_in_other_shells(shell):
    if shutil.which(shell) is None:
        pytest.skip(f'there is no {shell} here')
    run = subprocess.run(
        [shell, '-c', f'. {BUNDLE}/env.sh; echo goes on'],
        capture_output=True,
        text=True,
    )
    assert run.stdout == 'goes on\n'
    assert run.stderr == (
        'env.sh: source it in bash or zsh; nothing is activated\n'
    )


def test_env_sh_that_is_run():
    run = bash(f'bash {BUNDLE}/env.sh')
    assert run.returncode == 2
    assert 'this shell ends at once; type: source ' in run.stderr


def test_env_sh_drops_the_home_of_another_python(tmp_path):
    (tmp_path / 'bin').mkdir()
    shutil.copy(shutil.which('true'), str(tmp_path / 'bin/python'))
    run = bash(
        f'. {BUNDLE}/env.sh; echo "${{PYTHONHOME-gone}}"',
        PYTHONHOME='/x',
        VENV=str(tmp_path),
    )
    assert (run.stdout, run.stderr) == ('gone\n', '')


# pip's configuration, and the network -------------------------------------


def test_of_pips_configuration_only_the_sources_count(tmp_path):
    config = tmp_path / 'pip.conf'
    config.write_text(
        '[global]\nindex-url = http://mirror.test/simple\nuser = true\n'
        'extra-index-url =\n  http://a.test/x\n  http://b.test/y\n'
        '[install]\ntarget = /t\nrequire-hashes = true\n'
        'find-links = /wheels\n'
    )
    run = bash(
        f'source {SCRIPTS}/common.sh; source {SCRIPTS}/packages.sh\n'
        f'configure_pip {sys.executable}; env | grep -E "^(PIP|UV)_"',
        PIP_CONFIG_FILE=str(config),
        PIP_CONSTRAINT='/c.txt',
        PIP_PREFIX='/p',
        PIP_INDEX_URL='',
        PIP_FIND_LINKS='',
        PIP_EXTRA_INDEX_URL='',
        UV_CONSTRAINT='/c.txt',
    )
    found = dict(line.split('=', 1) for line in run.stdout.splitlines())
    assert found['PIP_CONFIG_FILE'] == '/dev/null'
    assert found['PIP_INDEX_URL'] == 'http://mirror.test/simple'
    assert found['PIP_EXTRA_INDEX_URL'].split() == [
        'http://a.test/x',
        'http://b.test/y',
    ]
    assert found['PIP_FIND_LINKS'] == '/wheels'
    assert found['UV_DEFAULT_INDEX'] == 'http://mirror.test/simple'
    assert found['UV_FIND_LINKS'] == '/wheels'
    unwanted = ('USER', 'TARGET', 'PREFIX', 'HASHES', 'CONSTRAINT')
    assert not [name for name in found if name.endswith(unwanted)]


def test_uv_installs_where_it_is(bundle):
    tools = bundle.root / 'tools'
    tools.mkdir()
    uv = tools / 'uv'
    uv.write_text(
        '#!/bin/bash\nprintf "uv %s\\n" "$*" >>"$LOG"\n'
        '[ -z "${UV_FAILS:-}" ] || exit 1\nexec "$5" -m pip install "${@:6}"\n'
    )
    uv.chmod(0o755)
    path = f'{tools}:{os.environ["PATH"]}'
    run = bundle.run(PATH=path)
    assert run.returncode == 0, run.err
    lock = bundle.root / 'mmpose-master/requirements.lock'
    python = bundle.venv / 'bin/python'
    command = f'pip install --python {python} -r {lock}\n'
    assert f'uv --no-config {command}' in run.did
    # Where it fails, pip goes on.
    (bundle.venv / 'lib/python3.11/site-packages/scipy').rmdir()
    run = bundle.run(PATH=path, UV_FAILS='1')
    assert run.returncode == 0, run.err


def test_a_step_is_one_line_and_its_text_is_in_a_file(bundle):
    run = bundle.run(FAIL_AT='requirements-source')
    assert run.returncode == 9
    for line in run.err.splitlines()[:2]:
        assert re.match(r'setup.sh: \[[12]/5\] .+: \d+ MB, \d+ s$', line)
    assert f'is in {bundle.venv}/.setup/setup.log' in run.err
    assert 'Collecting' not in run.err


def test_no_network(bundle, tmp_path):
    """The real pip, at an address that refuses."""
    run = bundle.run(
        VERSION='3.11',
        FAIL_AT='@@',
        PYTHON=sys.executable,
        PIP_CONFIG_FILE='/dev/null',
        PIP_INDEX_URL='http://127.0.0.1:9/simple',
        PIP_EXTRA_INDEX_URL='',
        PIP_FIND_LINKS=str(tmp_path),
        PIP_RETRIES='0',
    )
    assert run.returncode == 1
    assert run.err.count('no package index can be reached') == 1
    assert '--download DIR' in run.err and '--from DIR' in run.err
    assert 'Traceback' not in run.err


def add_wheel(folder, tag):
    name = folder / f'thing-1.0-{tag}.whl'
    info = 'thing-1.0.dist-info'
    with zipfile.ZipFile(str(name), 'w') as archive:
        archive.writestr(
            f'{info}/METADATA',
            'Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n',
        )
        archive.writestr(
            f'{info}/WHEEL',
            f'Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n',
        )
        archive.writestr(f'{info}/RECORD', '')
    return name.name


def test_downloads_for_another_python_and_machine(tmp_path):
    wheels = tmp_path / 'wheels'
    wheels.mkdir()
    add_wheel(wheels, 'cp310-cp310-manylinux_2_17_x86_64')
    wanted = add_wheel(wheels, 'cp310-cp310-manylinux_2_17_aarch64')
    (tmp_path / 'r.txt').write_text(
        "thing==1.0; python_version == '3.10' and "
        "platform_machine == 'aarch64'\n"
        "nothing==1.0; python_version != '3.10'\n"
    )
    subprocess.run(
        [sys.executable, str(SCRIPTS / 'pip_source.py'), '--for']
        + ['3.10-aarch64', 'download', '--no-index', '--find-links']
        + [str(wheels), '--dest', str(tmp_path / 'out'), '--no-deps', '-r']
        + [str(tmp_path / 'r.txt')],
        check=True,
        stdout=subprocess.PIPE,
    )
    assert os.listdir(str(tmp_path / 'out')) == [wanted]


def test_a_folder_for_another_python_is_refused(bundle, tmp_path):
    (tmp_path / 'for-3.7-aarch64').touch()
    run = bundle.run('--from', str(tmp_path))
    assert run.returncode == 2
    assert 'has no packages for Python 3.11 on' in run.err
    assert 'only for-3.7-aarch64' in run.err


@pytest.mark.processes
@pytest.mark.training
def test_set_up_without_a_network(tmp_path):
    """The recipe of README: download here, install where there is no network.

    torch and what else this environment has are used as a host's.
    """
    if sys.version_info < (3, 9):
        pytest.skip('once is enough')
    folder, venv = tmp_path / 'wheels', tmp_path / 'venv'
    setup = ['bash', str(SCRIPTS / 'setup.sh')]
    environment = dict(os.environ, PYTHON=sys.executable, VENV=str(venv))
    cut = ['unshare', '--net']
    if subprocess.call(cut + ['true'], stderr=subprocess.DEVNULL):
        pytest.skip('no network namespaces here')

    def run(command):
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = run(setup + ['--download', str(folder)])
    if 'no package index can be reached' in done.stderr:
        pytest.skip('there is no package index')
    assert done.returncode == 0, done.stderr
    done = run(cut + setup + ['--from', str(folder)])
    assert done.returncode == 0, done.stderr
    code = 'import mmcv, mmpose; print(mmcv.__file__, mmpose.__file__)'
    done = run([str(venv / 'bin/python'), '-c', code])
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(venv)) for path in done.stdout.split())
