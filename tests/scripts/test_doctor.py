"""doctor.py on this host, on made-up ones, and on Pythons with nothing."""

import getpass
import json
import os
import re
import socket
import subprocess
import sys
import types
from pathlib import Path

import doctor_data
import pytest

import doctor
import doctor_checks
import npu_host
import patch_engine

ROOT = Path(__file__).resolve().parents[2]
DOCTOR = ROOT / 'scripts' / 'doctor.py'
IN_WORDS = re.compile(r'^(ok|note|warning|error) +([a-z_]+(?: memory)?)\b')


def found_by(check, host=None):
    """Return a check's findings as {severity: [text and remedy]}."""
    found = {}
    for finding in check(host or types.SimpleNamespace()):
        assert finding.severity in doctor.SEVERITIES
        assert finding.remedy or finding.severity == 'ok', finding
        words = f'{finding.check}: {finding.text} -> {finding.remedy}'
        found.setdefault(finding.severity, []).append(words)
    return found


# This host ----------------------------------------------------------------


@pytest.fixture(scope='module')
def here():
    """Run the doctor as people do, once in words and once in JSON."""
    environment = dict(os.environ, VENV=sys.prefix)
    environment.pop('MPII_ROOT', None)
    runs = [
        subprocess.run(
            [sys.executable, str(DOCTOR)] + options,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        for options in ([], ['--json'])
    ]
    assert [run.stderr for run in runs] == ['', '']
    return runs


@pytest.mark.processes
def test_the_environment_of_the_tests_is_in_order(here):
    account = json.loads(here[1].stdout)
    found = {f['check']: f for f in account['findings']}
    for check in ('python', 'torch', 'devices', 'mmcv', 'mmpose'):
        assert found[check]['severity'] == 'ok', found[check]
    assert 'works in a group of one' in found['collective']['text']
    assert account['status'] == here[1].returncode < 2


@pytest.mark.processes
def test_words_and_json_agree(here):
    words, machine = here
    assert words.returncode == machine.returncode
    account = json.loads(machine.stdout)
    expected = [(f['severity'], f['check']) for f in account['findings']]
    lines = [IN_WORDS.match(line) for line in words.stdout.splitlines()]
    assert [line.groups() for line in lines if line] == expected


@pytest.mark.processes
def test_the_block_holds_no_secrets(here):
    for run in here:
        assert os.path.expanduser('~') not in run.stdout
        assert not re.search(
            rf'(?<![\w.-]){re.escape(socket.gethostname())}(?![\w-])',
            run.stdout,
        )
        if getpass.getuser() != 'root':
            assert getpass.getuser() not in run.stdout


def test_a_python_with_nothing_is_told_what_to_do(run, tmp_path):
    done = run(
        [sys.executable, '-S', DOCTOR],
        env=dict(VENV=str(tmp_path / 'none'), PYTHONPATH=''),
    )
    assert done.returncode == 2
    assert done.stderr == ''
    assert 'this Python has no torch, numpy' in done.stdout
    assert '-> bash scripts/setup.sh' in done.stdout
    assert 'Traceback' not in done.stdout


def test_the_environment_of_the_bundle_is_looked_at_instead(run):
    done = run(
        [sys.executable, '-S', DOCTOR, '--json'], env={'PYTHONPATH': ''}
    )
    account = json.loads(done.stdout)
    assert 'torch' in {finding['check'] for finding in account['findings']}


def test_brief_says_only_what_asks_for_something():
    found = [
        doctor.Finding('a', 'ok', 'fine', ''),
        doctor.Finding('b', 'note', 'so so', 'perhaps'),
        doctor.Finding('c', 'warning', 'slow', 'do this'),
        doctor.Finding('d', 'error', 'broken', 'do that'),
    ]
    assert list(doctor.render_brief(found)) == [
        'warning: c: slow -> do this',
        'error: d: broken -> do that',
    ]


@pytest.mark.parametrize(
    'severity, status', [('ok', 0), ('note', 0), ('warning', 1), ('error', 2)]
)
def test_the_exit_status_is_that_of_the_worst(
    monkeypatch, capsys, severity, status
):
    found = [doctor.Finding('x', 'ok', 'y', '')] * 2
    found.insert(1, doctor.Finding('x', severity, 'y', 'z'))
    monkeypatch.setattr(doctor, 'examine', lambda devices: found)
    assert doctor.main(['--json']) == status
    account = json.loads(capsys.readouterr().out)
    verdict = 'not ready to train' if status == 2 else 'ready to train'
    assert account['status'] == status and account['verdict'] == verdict
    # The last thing that is said, too.
    assert doctor.main([]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f'; {verdict} ---')


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch):
    def check_broken(host):
        raise OSError('gone')
        yield

    checks = (check_broken, doctor_checks.check_system)
    monkeypatch.setattr(doctor, 'CHECKS', checks)
    broken, system = doctor.examine()
    assert broken[:2] == ('broken', 'warning') and 'gone' in broken.text
    assert system.severity == 'ok'


def test_the_pythons_are_those_of_set_up():
    text = (ROOT / 'scripts/common.sh').read_text()
    supported = re.search(r'is_supported\(\) {\n.*\n +(.*)\) ;;', text)
    assert tuple(supported.group(1).split(' | ')) == doctor_checks.PYTHONS


# Made-up NPU hosts --------------------------------------------------------


@pytest.fixture
def host(tmp_path, monkeypatch):
    """An NPU host in good order: CANN 8.5.0, torch 2.6.0, eight devices."""
    system = tmp_path / 'system'
    cann = system / 'usr/local/Ascend/ascend-toolkit'
    files = {
        cann / 'aarch64-linux/ascend_toolkit_install.info': 'version=8.5.0\n',
        cann / 'set_env.sh': f'export ASCEND_HOME_PATH={cann}\n',
        system / 'usr/local/Ascend/driver/version.info': 'Version=25.5.0\n',
    }
    files.update({system / f'dev/davinci{i}': '' for i in range(8)})
    files[system / 'dev/davinci_manager'] = ''
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv('CANN_SYSROOT', str(system))
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('ASCEND_HOME_PATH', 'ASCEND_TOOLKIT_HOME'):
        monkeypatch.delenv(name, raising=False)
    installed = {'torch': '2.6.0+cpu', 'torch_npu': '2.6.0.post5'}
    monkeypatch.setattr(npu_host, 'installed', installed.get)
    monkeypatch.setattr(doctor_checks.platform, 'machine', lambda: 'aarch64')

    def make(python='3.11', remove=None, text=None, **packages):
        installed.update(packages)
        for path in files:
            if remove and remove in str(path):
                path.unlink()
        for name, content in (text or {}).items():
            (cann / name).write_text(content)
        host = doctor_checks.Host()
        host.python = python
        return host

    return make


def test_a_host_in_good_order(host):
    found = found_by(doctor_checks.check_npu_software, host())
    assert set(found) == {'ok'}
    texts = ' '.join(found['ok'])
    for fact in ('2.6.0.post5', '8.5.0', '25.5.0', 'ascend-toolkit'):
        assert fact in texts
    assert 'cann: 8.5.0' in texts
    found = found_by(doctor_checks.check_device_nodes, host())
    assert found == {'ok': ['nodes: 8 in /dev -> ']}


@pytest.mark.parametrize(
    'changes, severity, words',
    [
        (dict(torch='2.7.1'), 'error', ['do not belong together', '2.6.0']),
        (dict(torch_npu=None), 'error', ['torch 2.9.0 and torch_npu 2.9.0']),
        (
            dict(torch_npu=None, python='3.7'),
            'error',
            ['goes with Python 3.7', '2.6.0.post5'],
        ),
        (dict(torch_npu='2.6.0'), 'warning', ['install CANN 8.2.RC1, or']),
        (dict(python='3.12'), 'warning', ['use Python 3.11']),
        (dict(torch_npu='unknown'), 'warning', ['not state its version']),
        (
            dict(torch='2.99.0', torch_npu='2.99.0'),
            'warning',
            ['not in the matrix', 'COMPATIBILITY.md'],
        ),
        (dict(remove='driver'), 'error', ['driver', 'mount']),
        (dict(remove='set_env'), 'error', ['cann: not found', 'set_env.sh']),
    ],
)
def test_what_does_not_belong_together_is_said(host, changes, severity, words):
    found = found_by(doctor_checks.check_npu_software, host(**changes))
    (only,) = found[severity]
    assert set(found) <= {'ok', severity}
    for word in words:
        assert word in only


def test_without_anything_for_npus_none_is_missed(host):
    bare = host(torch_npu=None)
    bare.cann = bare.driver = None
    bare.nodes = []
    assert set(found_by(doctor_checks.check_npu_software, bare)) == {'ok'}
    assert found_by(doctor_checks.check_device_nodes, bare) == {}


def test_devices_that_are_not_there_or_locked(host, monkeypatch):
    (none,) = found_by(
        doctor_checks.check_device_nodes, host(remove='davinci')
    )['error']
    assert '/dev/davinci0' in none and '--device' in none
    locked = host()
    locked.nodes = [Path('/dev/davinci3')]
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    (one,) = found_by(doctor_checks.check_device_nodes, locked)['error']
    assert 'davinci3' in one and 'group' in one


DEVICES = {'npu': 0, 'cuda': 0, 'cpu': 1}
TORCH = {'torch': {'version': '2.6.0', 'build': 'CPU'}}


@pytest.mark.parametrize(
    'facts, status, errors, words',
    [
        ({}, 1, 'OSError: libfoo.so is missing', ['importing torch failed']),
        ({}, 'time', '', ['importing torch did not end within']),
        (
            dict(
                TORCH,
                devices=DEVICES,
                absent={'npu': 'no libhccl.so', 'cuda': 'none'},
            ),
            0,
            '',
            ['no libhccl.so', 'source env.sh'],
        ),
        (
            dict(TORCH, devices=dict(DEVICES, npu=8), absent={}),
            1,
            'RuntimeError: EJ0001 failed to set device',
            ['a collective', 'EJ0001', 'wait half a minute'],
        ),
        (
            dict(TORCH, devices=dict(DEVICES, npu=8), absent={}),
            1,
            'RuntimeError: call aclnnAdd failed, detail:EZ1001: Get path and '
            'read binary_info_config.json failed, please check if the '
            'opp_kernel package is installed!\n    TraceBack (most recent '
            'call last):',
            ['a collective', 'Ascend-cann-kernels-', 'of the same version'],
        ),
    ],
)
def test_what_keeps_devices_from_working(
    host, monkeypatch, facts, status, errors, words
):
    answer = lambda variables: (facts, status, errors)  # noqa: E731
    monkeypatch.setattr(doctor_checks, 'probe', answer)
    (only,) = found_by(doctor_checks.check_devices, host())['error']
    for word in words:
        assert word in only


def test_devices_that_work_are_listed(host, monkeypatch):
    used = {'kind': 'npu', 'backend': 'hccl', 'name': 'Ascend910B2'}
    facts = dict(
        TORCH, devices=dict(DEVICES, npu=8), absent={}, collective=used
    )
    monkeypatch.setattr(
        doctor_checks, 'probe', lambda variables: (facts, 0, '')
    )
    found = found_by(doctor_checks.check_devices, host())
    assert set(found) == {'ok'}
    assert 'npu (8), cpu (1)' in ' '.join(found['ok'])
    assert 'hccl works in a group of one on Ascend910B2' in found['ok'][-1]


# The probe ----------------------------------------------------------------


@pytest.mark.processes
def test_a_probe_that_hangs_is_ended(tmp_path, monkeypatch):
    script = tmp_path / 'probe.py'
    script.write_text(
        'import os, time\n'
        f'open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))\n'
        'print(\'{"torch": 1}\', flush=True)\n'
        'time.sleep(60)\n'
    )
    monkeypatch.setattr(doctor_checks, 'PROBE', script)
    monkeypatch.setattr(doctor_checks, 'PROBE_LIMIT', 2)
    assert doctor_checks.probe(dict(os.environ)) == ({'torch': 1}, 'time', '')
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)


@pytest.mark.processes
def test_a_probe_that_crashes_gives_no_addresses_away(tmp_path, monkeypatch):
    script = tmp_path / 'probe.py'
    script.write_text(
        'import socket, sys\n'
        'print("a banner of CANN")\n'
        'sys.exit(f"{socket.gethostname()}: no route to 10.1.2.3:29500, '
        'fe80:0:0:1, driver 24.1.0")\n'
    )
    monkeypatch.setattr(doctor_checks, 'PROBE', script)
    facts, status, errors = doctor_checks.probe(dict(os.environ))
    assert (facts, status) == ({}, 1)
    assert errors.strip() == (
        'HOST: no route to ADDRESS:29500, ADDRESS, driver 24.1.0'
    )


# Several devices -----------------------------------------------------------

FAKE_PROBE = """
import json, os, sys, time
rank = os.environ['RANK']
card = dict(kind='npu', name='Ascend910B3')
if rank == os.environ.get('BROKEN'):
    sys.exit('RuntimeError: EJ0001 of ' + rank)
print(json.dumps(dict(card=card)), flush=True)
if 'BROKEN' in os.environ:
    time.sleep(60)
sums = dict(kind='npu', backend='hccl', name='', gb_per_s=12.345)
print(json.dumps(dict(collective=sums)))
"""


@pytest.fixture
def several(host, tmp_path, monkeypatch):
    """A host of which three devices are to be tried; its probe is a fake."""
    script = tmp_path / 'probe.py'
    script.write_text(FAKE_PROBE)
    monkeypatch.setattr(doctor_checks, 'PROBE', script)
    monkeypatch.setattr(doctor_checks, 'PEER_LIMIT', 0.5)
    made = host()
    made.devices = 3
    return made


@pytest.mark.processes
def test_devices_that_work_together_are_said_with_their_speed(several):
    found = found_by(doctor_checks.check_cards, several)
    assert found == {
        'ok': [
            'cards: 3 x npu (Ascend910B3): hccl sums 1 to 3 at 12.3 GB/s -> '
        ]
    }


@pytest.mark.processes
def test_the_device_that_fails_is_named_and_no_other(several):
    several.variables['BROKEN'] = '1'
    (only,) = found_by(doctor_checks.check_cards, several)['error']
    assert 'process 1 of 3: its own device failed' in only
    assert 'EJ0001 of 1' in only and 'wait half a minute' in only


@pytest.mark.processes
def test_two_processes_sum_on_this_host(run):
    done = run(
        [sys.executable, DOCTOR, '--devices', 2, '--json'],
        env=dict(VENV=sys.prefix),
        timeout=200,
    )
    (cards,) = [
        finding
        for finding in json.loads(done.stdout)['findings']
        if finding['check'] == 'cards'
    ]
    assert cards['severity'] == 'ok', cards
    assert re.match(
        r'2 x cpu: gloo sums 1 to 2 at [\d.]+ GB/s$', cards['text']
    )


@pytest.mark.processes
def test_ctrl_c_leaves_no_process(several, monkeypatch):
    several.variables['BROKEN'] = 'none'
    made = []
    stop = doctor_checks._Probe.stop

    def note(process, reason):
        stop(process, reason)
        made.append(process.poll())

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_checks._Probe, 'stop', note)
    monkeypatch.setattr(doctor_checks.time, 'sleep', interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(doctor_checks.check_cards(several))
    assert len(made) == 3 and None not in made


def test_no_devices_at_all_are_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        doctor.main(['--devices', '0'])
    assert exit_.value.code == 2
    assert '--devices 0: at least 1' in capsys.readouterr().err


# Packages -----------------------------------------------------------------


def test_changes_that_are_not_applied(released, monkeypatch):
    locate = patch_engine.locate
    monkeypatch.setattr(
        patch_engine,
        'locate',
        lambda name, directory=None: locate(name, directory or released),
    )
    found = found_by(doctor_checks.check_patched_packages)
    assert [words.split(':')[0] for words in found['error']] == [
        'mmcv',
        'mmpose',
    ]
    for words in found['error']:
        assert 'not applied' in words
        assert words.endswith('-> python3 scripts/patches.py apply')


@pytest.mark.parametrize(
    'content, severity, words',
    [
        ({'interfaces/__init__.py': ''}, 'warning', 'pip uninstall apex'),
        ({'multi_tensor_apply/__init__.py': ''}, 'ok', '25.07'),
        ({'amp/utils.py': '# unknown\n'}, 'warning', 'docs/PATCHES.md'),
        (
            {
                'amp/utils.py': 'if cached_x.grad_fn.next_functions[1][0]'
                '.variable is not x:\n'
            },
            'warning',
            'patches.py apply',
        ),
    ],
)
def test_which_apex_this_is(tmp_path, monkeypatch, content, severity, words):
    for name, text in dict(content, **{'__init__.py': ''}).items():
        path = tmp_path / 'apex' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    locate = patch_engine.locate

    def found(name, directory=None):
        if name == 'torch':
            return None
        return locate(name, tmp_path if name == 'apex' else directory)

    monkeypatch.setattr(patch_engine, 'locate', found)
    (apex,) = [
        line
        for line in found_by(doctor_checks.check_patched_packages)[severity]
        if line.startswith('apex:')
    ]
    assert words in apex


# Environment, data, room --------------------------------------------------


@pytest.mark.parametrize(
    'variables, severity, words',
    [
        ({}, 'ok', 'nothing is set'),
        ({'ASCEND_RT_VISIBLE_DEVICES': '0,2,5'}, 'ok', 'DEVICES=0,2,5'),
        ({'ASCEND_RT_VISIBLE_DEVICES': '2,1'}, 'error', 'rising'),
        ({'ASCEND_RT_VISIBLE_DEVICES': 'npu:0'}, 'error', 'rising'),
        ({'HCCL_CONNECT_TIMEOUT': '60'}, 'warning', '120 to 7200'),
        (
            {'ASCEND_LAUNCH_BLOCKING': '1', 'TASK_QUEUE_ENABLE': '2'},
            'warning',
            'slow',
        ),
        ({'HCCL_IF_IP': '10.0.0.1', 'SECRET': 'x'}, 'ok', 'nothing is set'),
    ],
)
def test_variables(variables, severity, words):
    host = types.SimpleNamespace(variables=variables)
    found = found_by(doctor_checks.check_variables, host)
    assert words in found[severity][0]
    assert set(found) <= {'ok', severity}


@pytest.fixture
def mpii(tmp_path, monkeypatch):
    """A data set of five people in MPII's form."""
    root = tmp_path / 'mpii'
    (root / 'images').mkdir(parents=True)
    (root / 'annotations').mkdir()
    for name, pictures in dict(mpii_train='aab', mpii_val='cd').items():
        people = [{'image': f'{picture}.jpg'} for picture in pictures]
        path = root / 'annotations' / f'{name}.json'
        path.write_text(json.dumps(people))
    (root / 'annotations/mpii_gt_val.mat').write_text('truth')
    for picture in 'abcd':
        (root / f'images/{picture}.jpg').write_text('jpeg')
    monkeypatch.setattr(doctor_data, 'PEOPLE', dict(train=3, val=2))
    monkeypatch.setenv('MPII_ROOT', str(root))
    return root


def test_data_that_are_whole(mpii):
    (line,) = found_by(doctor_checks.check_data)['ok']
    assert '3 people in mpii_train.json, 2 people in mpii_val.json' in line


def test_annotations_may_have_a_byte_order_mark(mpii):
    path = mpii / 'annotations/mpii_val.json'
    path.write_text(path.read_text(), encoding='utf-8-sig')
    assert set(found_by(doctor_checks.check_data)) == {'ok'}


@pytest.mark.parametrize(
    'file, content, words',
    [
        ('images/d.jpg', None, '1 pictures of mpii_val.json are missing'),
        ('images/a.jpg', '', 'such as a.jpg'),
        ('annotations/mpii_train.json', None, 'mpii_train.json is missing'),
        ('annotations/mpii_train.json', '[{', 'not what mmpose publishes'),
        ('annotations/mpii_train.json', '[1]', 'not what mmpose publishes'),
        ('annotations/mpii_gt_val.mat', '', 'mpii_gt_val.mat is empty'),
    ],
)
def test_data_that_are_not_whole(mpii, file, content, words):
    if content is None:
        (mpii / file).unlink()
    else:
        (mpii / file).write_text(content)
    found = found_by(doctor_checks.check_data)
    assert set(found) == {'error'}
    assert words in found['error'][0]
    assert 'check_mpii.py' in found['error'][0]


def test_a_ground_truth_that_is_missing_is_a_warning(mpii):
    (mpii / 'annotations/mpii_gt_val.mat').unlink()
    (only,) = found_by(doctor_checks.check_data)['warning']
    assert 'mpii_gt_val.mat is missing' in only and 'PCKh' in only


def test_data_of_other_people_are_not_taken_for_mpii(mpii):
    (mpii / 'annotations/mpii_val.json').write_text('[{"image": "c.jpg"}]')
    found = found_by(doctor_checks.check_data)
    assert 'holds 1 people; of MPII it is 2' in found['warning'][0]
    assert 'error' not in found


def test_data_that_are_not_there(mpii, monkeypatch):
    monkeypatch.setenv('MPII_ROOT', str(mpii / 'elsewhere'))
    assert set(found_by(doctor_checks.check_data)) == {'error'}
    monkeypatch.delenv('MPII_ROOT')
    monkeypatch.setattr(doctor_checks, 'ROOT', mpii)
    (note,) = found_by(doctor_checks.check_data)['note']
    assert '--sample' in note


@pytest.mark.parametrize(
    'free, severities',
    [(100e9, {'ok'}), (5e9, {'ok', 'warning'}), (1e9, {'error', 'ok'})],
)
def test_room_for_checkpoints(monkeypatch, free, severities):
    def usage(path):
        in_memory = path == '/dev/shm'
        return types.SimpleNamespace(free=8e9 if in_memory else free)

    monkeypatch.setattr(doctor_data.shutil, 'disk_usage', usage)
    assert set(found_by(doctor_checks.check_room)) == severities


def test_room_for_batches(monkeypatch):
    usage = lambda path: types.SimpleNamespace(free=64e6)  # noqa: E731
    monkeypatch.setattr(doctor_data.shutil, 'disk_usage', usage)
    monkeypatch.setattr(doctor_data, 'CHECKPOINT', 1)
    if not os.path.isdir('/dev/shm'):
        pytest.skip('there is no /dev/shm here')
    (line,) = found_by(doctor_checks.check_room)['warning']
    assert '--shm-size' in line
