"""env.sh in bash and zsh, with made-up CANN trees."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[2]

# As CANN's own: unset variables, a command that fails, paths that grow.
SET_ENV = """
export ASCEND_TOOLKIT_HOME={home}
export LD_LIBRARY_PATH={home}/lib64:$LD_LIBRARY_PATH
false
echo $NOBODY_HAS_SET_THIS >/dev/null
"""
OURS = {
    'ASCEND_GLOBAL_LOG_LEVEL': '3',
    'TASK_QUEUE_ENABLE': '2',
    'HCCL_CONNECT_TIMEOUT': '1200',
    'HCCL_WHITELIST_DISABLE': '1',
    'CPU_AFFINITY_CONF': '1',
}


@pytest.fixture(params=['bash', 'zsh'])
def shell(request):
    if shutil.which(request.param) is None:
        pytest.skip(f'there is no {request.param} here')
    return [request.param, '-f' if request.param == 'zsh' else '--norc']


@pytest.fixture
def host(tmp_path):
    """A copy of env.sh, an empty system root and an empty home."""
    for name in ('bundle', 'system', 'home'):
        (tmp_path / name).mkdir()
    (tmp_path / 'bundle/scripts').mkdir()
    for name in ('env.sh', 'scripts/environment.sh'):
        shutil.copy(str(BUNDLE / name), str(tmp_path / 'bundle' / name))
    return tmp_path


def add_cann(folder):
    folder.mkdir(parents=True)
    (folder / 'set_env.sh').write_text(SET_ENV.format(home=folder))
    return folder


def add_venv(bundle):
    (bundle / '.venv/bin').mkdir(parents=True)
    python = bundle / '.venv/bin/python'
    python.write_text('')
    python.chmod(0o755)
    return bundle / '.venv'


def source(shell, host, times=1, before='set -eu', **environment):
    """Source env.sh; return its environment, what it printed, its options."""
    once = f". '{host}/bundle/env.sh'"
    text = '\n'.join(
        [before, 'before=$-']
        + [once] * times
        + ['echo "options: $before $-" >&2', 'set +eu', 'set >&2', 'env -0']
    )
    run = subprocess.run(
        shell + ['-c', text],
        capture_output=True,
        cwd='/',
        env=dict(
            PATH=os.environ['PATH'],
            HOME=str(host / 'home'),
            CANN_SYSROOT=str(host / 'system'),
            **environment,
        ),
    )
    printed, _, rest = run.stderr.decode('utf-8', 'replace').partition(
        'options: '
    )
    assert run.returncode == 0, printed
    options, _, variables = rest.partition('\n')
    before, after = options.split()
    assert before == after
    if 'VIRTUAL_ENV=' in variables:
        assert printed == ''
    else:
        assert printed.count('env.sh: nothing is activated: ') == times
        assert len(printed.splitlines()) == times
    assert '_hg_' not in variables.replace('before', '')
    return dict(
        item.split('=', 1)
        for item in run.stdout.decode().split('\0')
        if '=' in item
    )


@pytest.mark.parametrize('before', ['set -eu', 'set +eu'])
def test_without_cann_nothing_is_set(shell, host, before):
    found = source(shell, host, before=before)
    shells_own = {'PWD', 'OLDPWD', 'SHLVL', '_', 'PATH', 'HOME', 'LOGNAME'}
    assert set(found) - shells_own == {'CANN_SYSROOT'}
    assert found['PATH'] == os.environ['PATH']


@pytest.mark.parametrize(
    'place',
    [
        'system/usr/local/Ascend/ascend-toolkit',
        'system/usr/local/Ascend/nnae',
        'system/usr/local/Ascend/cann',
        'home/Ascend/ascend-toolkit',
        'home/Ascend/nnae',
    ],
)
@pytest.mark.parametrize('before', ['set -eu', 'set +eu'])
def test_cann_is_found(shell, host, place, before):
    cann = add_cann(host / place)
    found = source(shell, host, before=before)
    assert found['ASCEND_TOOLKIT_HOME'] == str(cann)
    assert {name: found[name] for name in OURS} == OURS


def test_the_installers_word_counts_first(shell, host):
    add_cann(host / 'system/usr/local/Ascend/ascend-toolkit')
    cann = add_cann(host / 'opt/Ascend/ascend-toolkit')
    info = host / 'system/etc/Ascend/ascend_cann_install.info'
    info.parent.mkdir(parents=True)
    info.write_text(
        f'Version=6.3\nInstall_Path={host}/opt/Ascend/\nInstall_Path=/x\n'
    )
    found = source(shell, host)
    assert found['ASCEND_TOOLKIT_HOME'] == str(cann)


def test_an_installers_word_that_is_out_of_date_is_passed_over(shell, host):
    cann = add_cann(host / 'system/usr/local/Ascend/nnae')
    info = host / 'system/etc/Ascend/ascend_cann_install.info'
    info.parent.mkdir(parents=True)
    info.write_text('Install_Path=/not/there/any/more\n')
    assert source(shell, host)['ASCEND_TOOLKIT_HOME'] == str(cann)


def test_the_toolkit_is_preferred_to_the_run_time(shell, host):
    add_cann(host / 'system/usr/local/Ascend/nnae')
    cann = add_cann(host / 'system/usr/local/Ascend/ascend-toolkit')
    assert source(shell, host)['ASCEND_TOOLKIT_HOME'] == str(cann)


def test_each_variable_has_its_reason_beside_it():
    lines = (BUNDLE / 'scripts/environment.sh').read_text().splitlines()
    named = {}
    for number, line in enumerate(lines):
        match = re.match(r'\s+_hg_prefer (\w+)', line)
        if match:
            named.setdefault(match.group(1), lines[number - 1].strip())
    assert set(named) == set(OURS)
    assert all(reason.startswith('# ') for reason in named.values()), named


def test_twice_is_once(shell, host):
    cann = add_cann(host / 'home/Ascend/ascend-toolkit')
    add_venv(host / 'bundle')
    once = source(shell, host)
    assert source(shell, host, times=2) == once
    assert once['LD_LIBRARY_PATH'] == f'{cann}/lib64:'


@pytest.mark.parametrize('value', ['42', ''])
def test_what_is_set_stays(shell, host, value):
    add_cann(host / 'home/Ascend/nnae')
    found = source(shell, host, **dict.fromkeys(OURS, value))
    assert {name: found[name] for name in OURS} == dict.fromkeys(OURS, value)


def test_cann_that_is_set_up_stays(shell, host):
    add_cann(host / 'home/Ascend/nnae')
    found = source(shell, host, ASCEND_TOOLKIT_HOME='/opt/x')
    assert found['ASCEND_TOOLKIT_HOME'] == '/opt/x'
    assert found['TASK_QUEUE_ENABLE'] == '2'


def test_no_task_queue_while_launches_block(shell, host):
    add_cann(host / 'home/Ascend/nnae')
    found = source(shell, host, ASCEND_LAUNCH_BLOCKING='1')
    assert found['TASK_QUEUE_ENABLE'] == '0'


def test_venv_is_activated(shell, host):
    venv = add_venv(host / 'bundle')
    found = source(shell, host)
    assert found['VIRTUAL_ENV'] == str(venv)
    assert found['PATH'].split(':')[0] == f'{venv}/bin'


def test_another_venv_is_activated(shell, host):
    add_venv(host / 'bundle')
    venv = add_venv(host / 'home')
    assert source(shell, host, VENV=str(venv))['VIRTUAL_ENV'] == str(venv)
