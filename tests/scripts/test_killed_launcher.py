"""``kill -9`` of what started a training ends the training, at each level."""

import json
import os
import signal
import time

import pytest
from mpii_data import write_mpii, write_tiny_config
from test_launch_sh import BUNDLE, Bundle
from test_stopped_training import Job

pytestmark = pytest.mark.processes

SECONDS = 30


def wait_until(condition, what, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def pid_of(job, word):
    (pid,) = (
        pid
        for pid, (command, _) in job.processes().items()
        if word in b' '.join(command)
    )
    return pid


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path, 1)
    yield job
    job.end()


@pytest.mark.parametrize('killed', ['launch.sh', 'ranks.py'])
def test_ranks_end_with_their_launcher(job, killed):
    job.wait_for_training()
    # Two scripts, two ranks, and their data workers.
    assert len(job.processes()) >= 6
    # One that hangs hears nothing; the kernel must end it.
    os.kill(job.rank(1), signal.SIGSTOP)
    os.kill(pid_of(job, killed.encode()), signal.SIGKILL)
    wait_until(lambda: not job.processes(), job.processes())


class Sample:
    """``scripts/train_1p.sh --sample`` on tiny data.

    Args:
        folder (Path): For everything.
    """

    def __init__(self, folder):
        self.folder = folder
        self.work = folder / 'work'
        self.data = write_mpii(folder / 'mpii', train=16)
        self.config = write_tiny_config(folder)
        self.bundle = Bundle(folder / 'bundle')
        tool = self.bundle.mmpose / 'tools/train.py'
        tool.unlink()
        tool.symlink_to(BUNDLE / 'mmpose-master/tools/train.py')
        (self.bundle.mmpose / 'data/mpii_sample').mkdir(parents=True)
        self.mark = f'JOB={folder}'.encode()

    def start(self, *options):
        return self.bundle.start(
            *('scripts/train_1p.sh', '--sample', '--config', self.config),
            *('--device=cpu', '--no-validate', f'--work-dir={self.work}'),
            *options,
            **dict(JOB=str(self.folder), MPII_ROOT=str(self.data)),
            **dict(OMP_NUM_THREADS='1'),
        )

    processes = Job.processes


@pytest.fixture
def sample(tmp_path):
    sample = Sample(tmp_path)
    yield sample
    Job.end(sample)


def test_one_process_ends_with_its_script_and_leaves_the_folder(sample):
    endless = ['--cfg-options', 'total_epochs=10000']
    sample.process = sample.start(
        *endless, 'checkpoint_config.interval=1', 'data.workers_per_gpu=1'
    )
    wait_until((sample.work / 'epoch_1.pth').exists, 'no checkpoint', 200)
    (script,) = (
        pid
        for pid, (command, _) in sample.processes().items()
        if b'train_1p.sh' in b' '.join(command)
    )
    # A second one is refused, and names the first.
    second = sample.start(*endless)
    _, errors = second.communicate(timeout=100)
    assert second.returncode == 2
    (line,) = [x for x in errors.splitlines() if x.startswith('error: ')]
    owner = json.loads((sample.work / '.lock').read_text())
    trainer = int(owner['process'].partition(':')[0])
    assert trainer in sample.processes()
    assert f'process {trainer} on host {os.uname().nodename}, since' in line
    # The group of the script; the training has its own.
    os.killpg(script, signal.SIGKILL)
    wait_until(lambda: not sample.processes(), 'it still runs')
    sample.process.communicate()
    assert (sample.work / '.lock').exists()
    sample.process = sample.start(
        *('--resume-from=auto', '--cfg-options', 'total_epochs=3')
    )
    _, errors = sample.process.communicate(timeout=200)
    assert sample.process.returncode == 0, errors
    assert 'resumed epoch' in errors
    assert not list(sample.work.glob('.*'))


def test_sighup_saves_and_stops(sample):
    sample.process = sample.start(
        '--cfg-options', 'total_epochs=10000', 'checkpoint_config.interval=1'
    )
    wait_until((sample.work / 'epoch_1.pth').exists, 'no checkpoint', 200)
    sample.process.send_signal(signal.SIGHUP)
    _, errors = sample.process.communicate(timeout=60)
    assert sample.process.returncode == 128 + signal.SIGHUP
    # What it saves is another test's: between two epochs there is nothing to.
    assert 'stopped by SIGHUP' in errors
    wait_until(lambda: not sample.processes(), 'it still runs')
    assert not list(sample.work.glob('.*'))


def test_sighup_stops_two_ranks(job):
    job.wait_for_training()
    job.process.send_signal(signal.SIGHUP)
    errors = job.wait_for_end()
    assert job.process.returncode == 128 + signal.SIGHUP
    assert errors.count('stopped by SIGHUP\n') == 1
    assert (job.work / 'latest.pth').exists()


def test_nohup_survives_sighup(sample):
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        sample.process = sample.start(
            *('--cfg-options', 'total_epochs=3'),
            'checkpoint_config.interval=1',
        )
    finally:
        signal.signal(signal.SIGHUP, old)
    wait_until((sample.work / 'epoch_1.pth').exists, 'no checkpoint', 200)
    for pid in sample.processes():
        os.kill(pid, signal.SIGHUP)
    _, errors = sample.process.communicate(timeout=200)
    assert sample.process.returncode == 0, errors
    assert (sample.work / 'epoch_3.pth').exists()
