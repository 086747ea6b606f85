"""The launcher and the three commands over it, with stand-ins for the tools.

The scripts are copied to a folder where setup.sh has nothing to do and
train.py, test.py and make_sample_mpii.py only note how they were started.
Torch's launcher is the real one; with DRY set its command line is printed
instead, for it takes seconds to start.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.processes

BUNDLE = Path(__file__).resolve().parents[2]
ELASTIC = (
    hasattr(torch.distributed, 'run')
    or (Path(torch.__file__).parent / 'distributed' / 'run.py').exists()
)

# What each stand-in notes goes to $NOTES, one file for each process.
TOOL = """
import argparse, json, os, sys, time

def parse_args():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('arguments', nargs='*')
    for name in ('work-dir', 'device', 'launcher', 'seed'):
        parser.add_argument('--' + name)
    parser.add_argument('--cfg-options', nargs='+')
    parser.add_argument('--check-request', action='store_true')
    parser.add_argument('--dry-run', action='store_true')
    parser.add_argument('--profile')
    return parser.parse_args()

if __name__ == '__main__':
    args = parse_args()
    if args.check_request:
        sys.exit()
    rank = os.environ.get('RANK', '0')
    program = os.path.basename(__file__)[:-3]
    note = dict(os.environ, argv=sys.argv[1:], cwd=os.getcwd(),
                pid=os.getpid(), program=program)
    path = os.path.join(os.environ['NOTES'], '%s-%s-%d' % (
        program, rank, os.getpid()))
    with open(path + '.new', 'w') as stream:
        json.dump(note, stream)
    os.rename(path + '.new', path + '.json')
    if os.environ.get('HANG') == program and rank != os.environ.get('FAIL'):
        time.sleep(300)
    if rank == os.environ.get('FAIL'):
        if 'KILL' in os.environ:
            os.kill(os.getpid(), 9)
        once = os.path.join(os.environ['NOTES'], 'failed-once')
        if not (os.environ.get('ONCE') and os.path.exists(once)):
            open(once, 'w').close()
            sys.exit(int(os.environ.get('STATUS', 7)))
"""
SAMPLE = """
import os, pathlib
data = pathlib.Path(__file__).resolve().parents[1] / 'data/mpii_sample'
data.mkdir(parents=True)
open(os.path.join(os.environ['NOTES'], 'sample'), 'a').write('x')
"""


class Bundle:
    """A copy of the shell scripts among stand-ins."""

    def __init__(self, root):
        self.root = root
        self.notes = root / 'notes'
        self.mmpose = root / 'mmpose-master'
        for folder in ('scripts', 'notes', 'mmpose-master/tools', '.venv/bin'):
            (root / folder).mkdir(parents=True)
        for name in ('env.sh', 'scripts/environment.sh'):
            shutil.copy(str(BUNDLE / name), str(root / name))
        for source, target in (
            ('scripts', root / 'scripts'),
            ('mmpose-master/tools', self.mmpose / 'tools'),
        ):
            for path in (BUNDLE / source).glob('*.sh'):
                shutil.copy(str(path), str(target))
        shutil.copy(str(BUNDLE / 'scripts/ranks.py'), str(root / 'scripts'))
        (self.mmpose / 'hourglass_npu').symlink_to(
            BUNDLE / 'mmpose-master/hourglass_npu'
        )
        (root / 'scripts/setup.sh').write_text('exit 0\n')
        for name in ('train', 'test'):
            (self.mmpose / 'tools' / (name + '.py')).write_text(TOOL)
        (self.mmpose / 'tools/make_sample_mpii.py').write_text(SAMPLE)
        python = root / '.venv/bin/python'
        python.write_text(
            '#!/bin/sh\n'
            'case $DRY$1 in\n'
            '  yes*/ranks.py) shift; env; echo "$@"; exit;;\n'
            'esac\n'
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name
            not in (
                'VENV',
                'PYTHON',
                'NPROC',
                'NNODES',
                'NODE_RANK',
                'MASTER_ADDR',
                'MASTER_PORT',
                'OMP_NUM_THREADS',
                'RANK',
                'WORLD_SIZE',
            )
        }
        self.environment['NOTES'] = str(self.notes)

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            ['bash', str(self.root / script)] + list(map(str, arguments)),
            env=dict(self.environment, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=str(self.root / 'notes'),
            start_new_session=True,
            # Ctrl-C is not ignored, as it is for what a shell has put in the
            # background.
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.default_int_handler
            ),
        )

    def run(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        try:
            process.out, process.err = process.communicate(timeout=90)
        finally:
            process.kill()
        return process

    def read_notes(self, program='*'):
        return [
            json.loads(path.read_text())
            for path in sorted(self.notes.glob(f'{program}-*.json'))
        ]

    def wait_for_notes(self, count):
        end = time.time() + 90
        while len(self.read_notes()) < count:
            assert time.time() < end, 'the processes did not start'
            time.sleep(0.05)
        return self.read_notes()


@pytest.fixture
def bundle(tmp_path):
    bundle = Bundle(tmp_path / 'the bundle')
    yield bundle
    for note in bundle.read_notes():
        assert not is_running(note['pid']), 'a process was left behind'


def is_running(pid):
    """Tell whether a process is there, for at most two seconds yes."""
    for _ in range(40):
        try:
            state = Path(f'/proc/{pid}/stat').read_text().split()[2]
        except OSError:
            return False
        if state == 'Z':
            return False
        time.sleep(0.05)
    return True


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


# One process -------------------------------------------------------------


def test_one_process_is_the_program_itself(bundle):
    run = bundle.run('scripts/launch.sh', 'train', 1, 'c.py', '--seed', '1 2')
    (note,) = bundle.read_notes()
    assert run.returncode == 0, run.err
    assert note['argv'] == ['c.py', '--seed', '1 2']
    assert note['pid'] == run.pid
    assert note['cwd'] == str(bundle.notes)
    assert 'RANK' not in note


def test_exit_status_is_the_programs(bundle):
    assert bundle.run('scripts/train_1p.sh', FAIL='0').returncode == 7


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_one_process(bundle, number):
    process = bundle.start('scripts/train_1p.sh', HANG='train')
    bundle.wait_for_notes(1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0


def test_options_go_on_and_the_default_config_is_the_large_model(bundle):
    bundle.run(
        'scripts/train_1p.sh', '--work-dir', 'w', '--cfg-options', 'a=1'
    )
    (note,) = bundle.read_notes()
    configs = bundle.mmpose / 'configs/top_down/hourglass/mpii'
    assert note['argv'] == [
        str(configs / 'hourglass52_mpii_384x384.py'),
        '--work-dir',
        'w',
        '--cfg-options',
        'a=1',
    ]


@pytest.mark.parametrize('form', [['--config', 'x.py'], ['--config=x.py']])
def test_config_is_named(bundle, form):
    bundle.run('scripts/train_1p.sh', '--seed', '1', *form)
    assert bundle.read_notes()[0]['argv'] == ['x.py', '--seed', '1']


@pytest.mark.parametrize('changed', [True, False])
def test_what_was_installed_by_hand_serves_too(bundle, changed):
    for name in ('torch', 'mmcv', 'mmpose'):
        (bundle.root / 'site' / name).mkdir(parents=True)
        (bundle.root / 'site' / name / '__init__.py').touch()
    if changed:
        for name in ('mmcv', 'mmpose'):
            (bundle.root / 'site' / name / '.originals').mkdir()
    python = bundle.root / 'python'
    (bundle.root / '.venv/bin/python').rename(python)
    shutil.rmtree(str(bundle.root / '.venv'))
    (bundle.root / 'scripts/setup.sh').write_text('exit 3\n')
    run = bundle.run(
        'scripts/train_1p.sh',
        PYTHON=str(python),
        HOURGLASS_PYTHONPATH=str(bundle.root / 'site'),
    )
    assert run.returncode == (0 if changed else 3), run.err
    assert len(bundle.read_notes()) == changed


# Mistakes ----------------------------------------------------------------


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['fit', 1, 'c.py'], "train or test, not 'fit'"),
        ([], "train or test, not ''"),
        (['train', 1], 'NPROC and CONFIG are missing'),
        (['train', 0, 'c.py'], 'NPROC=0: must be a whole number'),
        (['train', 'two', 'c.py'], 'NPROC=two: must be a whole number'),
        (['train', 2, 'c.py', '--max-restarts'], 'needs a value'),
    ],
)
def test_the_launcher_refuses(bundle, arguments, message):
    run = bundle.run('scripts/launch.sh', *arguments)
    assert run.returncode == 2
    assert message in run.err.splitlines()[0]
    assert len(run.err.splitlines()) == 1
    assert not bundle.read_notes()


@pytest.mark.parametrize(
    'environment, message',
    [
        ({'NNODES': '2'}, 'NNODES=2 needs MASTER_ADDR'),
        ({'NNODES': '2', 'MASTER_ADDR': '127.0.0.1'}, 'NODE_RANK'),
        ({'NNODES': 'two'}, 'NNODES=two'),
        ({'NNODES': '1:2'}, 'needs --rdzv-backend'),
    ],
)
def test_several_hosts_need_an_address(bundle, environment, message):
    run = bundle.run('scripts/launch.sh', 'train', 1, 'c.py', **environment)
    assert run.returncode == 2
    assert message in run.err
    assert not bundle.read_notes()


@pytest.mark.parametrize(
    'script', ['scripts/train_1p.sh', 'scripts/train_8p.sh']
)
def test_an_unknown_option_is_refused_once(bundle, script):
    run = bundle.run(script, '--bogus')
    assert run.returncode == 2
    assert run.err.count('unrecognized arguments: --bogus') == 1
    assert not bundle.read_notes()


@pytest.mark.parametrize('script', ['train_1p.sh', 'train_8p.sh', 'eval.sh'])
def test_an_option_without_its_value_is_refused(bundle, script):
    run = bundle.run('scripts/' + script, '--config')
    assert run.returncode == 2
    assert run.err == f'{script}: error: --config needs a value\n'


@pytest.mark.parametrize(
    'script',
    [
        'scripts/launch.sh',
        'scripts/train_1p.sh',
        'scripts/train_8p.sh',
        'scripts/eval.sh',
        'mmpose-master/tools/dist_train.sh',
        'mmpose-master/tools/dist_test.sh',
    ],
)
def test_help(bundle, script):
    run = bundle.run(script, '--help')
    assert run.returncode == 0
    assert 'usage: ' in run.out
    assert os.path.basename(script) in run.out
    assert 'set -euo' not in run.out
    assert not bundle.read_notes()


# Several processes -------------------------------------------------------


def test_several_processes(bundle):
    run = bundle.run('scripts/train_8p.sh', '--config', 'c.py', NPROC='2')
    notes = bundle.read_notes()
    assert run.returncode == 0, run.err
    assert [note['RANK'] for note in notes] == ['0', '1']
    assert [note['LOCAL_RANK'] for note in notes] == ['0', '1']
    for note in notes:
        assert note['WORLD_SIZE'] == '2'
        assert note['MASTER_ADDR'] == '127.0.0.1'
        assert note['argv'] == ['c.py', '--launcher', 'pytorch']
        cores = len(os.sched_getaffinity(0))
        assert note['OMP_NUM_THREADS'] == str(max(1, cores // 2))


def test_threads_and_port_that_are_set_stay(bundle):
    run = bundle.run(
        'mmpose-master/tools/dist_train.sh',
        'c.py',
        2,
        '--seed=3',
        PORT='2345',
        OMP_NUM_THREADS='5',
        DRY='yes',
    )
    command = run.out.splitlines()[-1]
    assert '--nproc_per_node=2' in command
    assert '--master_port=2345' in command
    assert command.endswith('train.py c.py --seed=3 --launcher pytorch')
    assert 'OMP_NUM_THREADS=5' in run.out.splitlines()


def test_ports_are_free_ones(bundle):
    commands = [
        bundle.run('scripts/launch.sh', 'train', 2, 'c.py', DRY='yes').out
        for _ in range(2)
    ]
    ports = [re.search(r'--master_port=(\d+)', text)[1] for text in commands]
    assert ports[0] != ports[1]


def test_one_failing_rank_ends_all_soon(bundle):
    # The other rank would go on for longer than run() waits.
    run = bundle.run(
        'scripts/launch.sh', 'train', 2, 'c.py', FAIL='1', HANG='train'
    )
    assert run.returncode == 7
    assert len(bundle.read_notes()) == 2
    (line,) = run.err.splitlines()
    assert re.match('error: (rank 1|a process) has failed with status 7', line)


def test_a_mistake_that_a_rank_has_told_of_is_not_told_again(bundle):
    run = bundle.run(
        *('scripts/launch.sh', 'train', 2, 'c.py'),
        **dict(FAIL='0', HANG='train', STATUS='2'),
    )
    assert run.returncode == 2
    assert run.err == ''


def test_a_killed_rank_is_named(bundle):
    run = bundle.run(
        *('scripts/launch.sh', 'train', 2, 'c.py'),
        **dict(FAIL='1', HANG='train', KILL=''),
    )
    assert run.returncode == 128 + 9
    (line,) = run.err.splitlines()
    assert re.match('error: (rank 1|a process) was ended by SIGKILL', line)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes(bundle, number):
    process = bundle.start(
        'scripts/launch.sh', 'train', 2, 'c.py', HANG='train'
    )
    bundle.wait_for_notes(2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0


def test_two_hosts(bundle):
    environment = dict(
        NNODES='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port()
    )
    hosts = [
        bundle.start(
            'scripts/launch.sh',
            'train',
            1,
            'c.py',
            NODE_RANK=str(rank),
            **environment,
        )
        for rank in (0, 1)
    ]
    for host in hosts:
        _, errors = host.communicate(timeout=90)
        assert host.returncode == 0, errors
    notes = bundle.read_notes()
    assert [note['RANK'] for note in notes] == ['0', '1']
    assert {note['WORLD_SIZE'] for note in notes} == {'2'}
    assert {note['LOCAL_RANK'] for note in notes} == {'0'}


@pytest.mark.skipif(not ELASTIC, reason='torch 1.8 has no elastic launcher')
def test_elastic_options_are_the_launchers(bundle):
    run = bundle.run(
        'scripts/train_8p.sh',
        '--max_restarts',
        '1',
        '--seed=3',
        '--rdzv-backend=c10d',
        '--rdzv-endpoint=127.0.0.1:0',
        '--local-addr=127.0.0.1',
        NNODES='1:4',
        DRY='yes',
    )
    command = run.out.splitlines()[-1]
    launcher, _, program = command.partition('/mmpose-master/')
    assert launcher.split()[:2] == [
        'torch.distributed.run',
        '--nproc_per_node=8',
    ]
    assert '--nnodes=1:4 ' in launcher
    assert '--max_restarts=1 ' in launcher
    assert '--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 ' in launcher
    assert '--local-addr=127.0.0.1 ' in launcher
    assert 'master' not in launcher
    assert program.endswith(' --seed=3 --launcher pytorch')


@pytest.mark.skipif(ELASTIC, reason='for torch 1.8')
def test_elastic_options_are_refused_where_there_is_no_such_launcher(bundle):
    run = bundle.run(
        'scripts/launch.sh', 'train', 2, 'c.py', '--max-restarts=1'
    )
    assert run.returncode == 2
    assert '--max-restarts needs torch 1.9' in run.err


# The sample --------------------------------------------------------------


def test_sample_is_drawn_once_trained_and_evaluated(bundle):
    for _ in range(2):
        run = bundle.run(
            'scripts/train_1p.sh',
            '--sample',
            '--work-dir=w',
            '--seed',
            '1',
            '--device',
            'cpu',
            '--cfg-options',
            'a=1',
            'b=2',
        )
        assert run.returncode == 0, run.err
    assert (bundle.notes / 'sample').read_text() == 'x'
    config = str(
        bundle.mmpose
        / 'configs/top_down/hourglass/mpii/hourglass_mpii_sample_96x96.py'
    )
    assert bundle.read_notes('train')[0]['argv'][0] == config
    tests = bundle.read_notes('test')
    assert len(tests) == 2
    assert tests[0]['argv'] == [
        config,
        '--work-dir=w',
        '--device',
        'cpu',
        '--cfg-options',
        'a=1',
        'b=2',
    ]


def test_several_devices_have_a_recipe_of_the_sample(bundle):
    run = bundle.run('scripts/train_8p.sh', '--sample', NPROC='2')
    assert run.returncode == 0, run.err
    folder = bundle.mmpose / 'configs/top_down/hourglass/mpii'
    config = str(folder / 'hourglass_mpii_sample_96x96_8p.py')
    for name in ('train', 'test'):
        notes = bundle.read_notes(name)
        assert [note['argv'][0] for note in notes] == [config] * 2
    bundle.run(
        'scripts/train_8p.sh', '--sample', '--config', 'own.py', NPROC='1'
    )
    configs = [note['argv'][0] for note in bundle.read_notes('train')]
    assert sorted(configs) == sorted([config] * 2 + ['own.py'])


def test_a_failed_sample_training_is_not_evaluated(bundle):
    run = bundle.run('scripts/train_1p.sh', '--sample', FAIL='0')
    assert run.returncode == 7
    assert not bundle.read_notes('test')


@pytest.mark.parametrize('option', ['--dry-run', '--profile=2'])
def test_a_short_training_of_the_sample_is_not_evaluated(bundle, option):
    run = bundle.run('scripts/train_1p.sh', '--sample', option)
    assert run.returncode == 0, run.err
    assert bundle.read_notes('train') and not bundle.read_notes('test')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_sample_run(bundle, number):
    process = bundle.start('scripts/train_1p.sh', '--sample', HANG='train')
    bundle.wait_for_notes(1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not bundle.read_notes('test')


# Evaluation --------------------------------------------------------------


def test_evaluation_leaves_the_checkpoint_to_the_program(bundle):
    run = bundle.run('scripts/eval.sh', 1, '--seed', '1')
    assert run.returncode == 0, run.err
    config = 'configs/top_down/hourglass/mpii/hourglass52_mpii_384x384.py'
    assert bundle.read_notes('test')[0]['argv'] == [
        str(bundle.mmpose / config),
        '--seed',
        '1',
    ]


def test_evaluation_of_what_is_named(bundle):
    bundle.run(
        'scripts/eval.sh',
        '--checkpoint=../k.pth',
        '--config',
        'x.py',
        NPROC='1',
    )
    assert bundle.read_notes('test')[0]['argv'] == ['x.py', '../k.pth']


def test_evaluation_on_several_devices(bundle):
    for arguments in (
        ('scripts/eval.sh', 3, '--config=c.py', '--checkpoint=../k.pth'),
        ('mmpose-master/tools/dist_test.sh', 'c.py', '../k.pth', 3),
    ):
        run = bundle.run(*arguments, DRY='yes')
        command = run.out.splitlines()[-1]
        assert '--nproc_per_node=3 ' in command
        assert command.endswith('test.py c.py ../k.pth --launcher pytorch')


def test_evaluation_takes_the_devices_that_are_there(bundle):
    """Without a number, and on a host without devices."""
    run = bundle.run('scripts/eval.sh', '--config=c.py', '--checkpoint=k.pth')
    assert run.returncode == 0, run.err
    assert 'one process evaluates on the CPU' in run.err
    (note,) = bundle.read_notes('test')
    assert note['argv'] == ['c.py', 'k.pth']


def test_a_number_that_this_script_does_not_take_is_named(bundle):
    run = bundle.run('scripts/train_1p.sh', NPROC='2')
    assert run.returncode == 0, run.err
    assert 'NPROC=2 has no effect: train_8p.sh' in run.err
