"""A real training of two ranks, stopped from the outside in the middle."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from mpii_data import write_mpii, write_tiny_config
from test_launch_sh import BUNDLE, Bundle

# What the issue grants; it takes a tenth of that.
SECONDS = 30


class Job:
    """``scripts/launch.sh train 2`` on tiny data, and all its processes.

    Args:
        folder (Path): For everything.
        workers (int): Data workers of each rank.
    """

    def __init__(self, folder, workers):
        self.mark = f'JOB={folder}'.encode()
        self.work = folder / 'work'
        bundle = Bundle(folder / 'bundle')
        shutil.rmtree(str(bundle.mmpose))
        bundle.mmpose.symlink_to(BUNDLE / 'mmpose-master')
        self.process = bundle.start(
            'scripts/launch.sh',
            'train',
            2,
            write_tiny_config(folder),
            '--device=cpu',
            '--no-validate',
            '--work-dir',
            self.work,
            '--cfg-options',
            f'data.workers_per_gpu={workers}',
            'total_epochs=10000',
            'checkpoint_config=none',
            JOB=str(folder),
            # Four iterations in an epoch: data workers start anew in each.
            MPII_ROOT=str(write_mpii(folder / 'mpii', train=16)),
            OMP_NUM_THREADS='1',
        )

    def processes(self):
        """Return the running processes, wherever they have gone to.

        Returns:
            dict[int, tuple[list[bytes], list[bytes]]]: By process id the
            command line and the environment it was started with.
        """
        found = {}
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                command, environment = (
                    (folder / name).read_bytes().split(b'\0')
                    for name in ('cmdline', 'environ')
                )
            except OSError:  # it has just ended, or is not ours
                continue
            if self.mark in environment:
                found[int(folder.name)] = command, environment
        return found

    def rank(self, number):
        """Return the process id of a rank."""
        (pid,) = (
            pid
            for pid, (command, environment) in self.processes().items()
            if f'RANK={number}'.encode() in environment
            and any(word.endswith(b'/train.py') for word in command)
        )
        return pid

    def wait_for_training(self):
        """Return when some iterations are done."""
        end = time.monotonic() + 200
        lines = []
        while sum('"mode": "train"' in line for line in lines) < 2:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, 'training did not begin'
            time.sleep(0.1)
            lines = [
                line
                for path in self.work.glob('*.log.json')
                for line in path.read_text().splitlines()
            ]

    def wait_for_end(self):
        """Return what was printed on stderr, once nothing runs any more."""
        end = time.monotonic() + SECONDS
        _, errors = self.process.communicate(timeout=SECONDS)
        while self.processes():
            assert time.monotonic() < end, f'still run: {self.processes()}'
            time.sleep(0.1)
        return errors


@pytest.fixture
def start(tmp_path):
    """Starts a job, and returns it when it trains."""
    jobs = []

    def execute(workers):
        jobs.append(Job(tmp_path, workers))
        jobs[0].wait_for_training()
        return jobs[0]

    yield execute
    for job in jobs:
        for pid in job.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        job.process.communicate()


def test_a_killed_rank_ends_the_job(start):
    job = start(workers=1)
    # The launcher, two ranks and their workers, which lose their parent.
    assert len(job.processes()) >= 5
    os.kill(job.rank(1), signal.SIGKILL)
    errors = job.wait_for_end()
    assert job.process.returncode not in (0, None)
    # The launcher says which, and the other rank does not speak of its loss.
    assert len(re.findall(r'Signals?[. ](?:SIGKILL|9)\b', errors)) == 1
    assert 'train.py", line' not in errors


def test_ctrl_c_ends_the_job(start):
    job = start(workers=0)
    # As a terminal does: to the launcher, which passes it on, and to all.
    os.killpg(job.process.pid, signal.SIGINT)
    errors = job.wait_for_end()
    assert job.process.returncode not in (0, None)
    assert errors.count('interrupted\n') <= 1
    assert 'train.py", line' not in errors


def test_sigterm_to_the_launcher_ends_the_job(start):
    job = start(workers=0)
    job.process.terminate()
    errors = job.wait_for_end()
    assert job.process.returncode not in (0, None)
    assert 'train.py", line' not in errors
