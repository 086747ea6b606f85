"""Real trainings that lose their output, their files or shared memory."""

import os
import subprocess
import sys

import pytest

from hourglass_npu.paths import MMPOSE_ROOT

TRAIN = str(MMPOSE_ROOT / 'tools' / 'train.py')


@pytest.fixture
def bash(run, tiny, tmp_path):
    """Run a line of bash in which "$@" is a training of one epoch."""

    def execute(line, *options, prefix=()):
        command = [
            *(sys.executable, TRAIN, tiny, '--device=cpu', '--no-validate'),
            *(f'--work-dir={tmp_path}/work', '--cfg-options'),
            *('total_epochs=1', *options),
        ]
        return run(
            [*prefix, 'bash', '-c', line, 'bash', *command],
            env=dict(MPII_ROOT=os.environ['MPII_ROOT']),
            timeout=200,
        )

    return execute


@pytest.mark.parametrize(
    'to, lost',
    [
        ('2>&1 | head -1', ['error is lost (Broken pipe)', 'output is lost']),
        ('> /dev/full 2>&1', ['error is lost (No space', 'output is lost']),
        ('>&- 2>&- <&-', []),
    ],
)
def test_lost_output_ends_no_training(bash, tmp_path, to, lost):
    done = bash(f'"$@" {to}; exit ${{PIPESTATUS[0]}}')
    assert done.returncode == 0, done.stderr
    work = tmp_path / 'work'
    assert (work / 'epoch_1.pth').exists()
    (log,) = work.glob('*.log')
    text = log.read_text()
    assert 'Epoch [1][3/3]' in text and 'Done: ' in text
    for words in lost:
        assert text.count(words) == 1
    assert text.count(' is lost (') == len(lost)


@pytest.mark.parametrize('files', [12, 16, 19, 20, 22, 24, 40])
def test_few_files_are_told_or_enough(bash, tmp_path, files):
    """Never a traceback, nor a training that waits for ever."""
    done = bash(f'ulimit -n {files}; "$@"', 'data.workers_per_gpu=2')
    assert 'Traceback' not in done.stderr
    if done.returncode:
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith('error: ')
        assert 'raise the limit (ulimit -n)' in done.stderr
    else:
        assert (tmp_path / 'work/epoch_1.pth').exists()


def test_a_full_shared_memory_is_told(bash):
    prefix = ['unshare', '--mount']
    mount = 'mount -t tmpfs -o size=32k tmpfs /dev/shm'
    if subprocess.run([*prefix, 'sh', '-c', mount], check=False).returncode:
        pytest.skip('cannot mount')
    done = bash(f'{mount}; "$@"', 'data.workers_per_gpu=1', prefix=prefix)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert 'shared memory (/dev/shm) is full: enlarge it, or' in done.stderr
