"""Processes that end with others, and what they leave in /tmp."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hourglass_npu import lifetime

pytestmark = pytest.mark.processes

SECONDS = 30


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_is_named_by_its_start():
    mine = lifetime.identify(os.getpid())
    assert mine.startswith(f'{os.getpid()}:') and lifetime.lives(mine)
    assert not lifetime.lives(f'{os.getpid()}:1')
    child = subprocess.Popen(['sleep', '60'])
    name = lifetime.identify(child.pid)
    assert lifetime.lives(name)
    child.kill()
    # Before its parent has asked for the status, too.
    wait_until(lambda: not lifetime.lives(name))
    child.wait()
    assert lifetime.identify(child.pid) is None


# Starts a command below a launcher of the form that is asked for.
LAUNCHER = """
import os, subprocess, sys, threading, time
from hourglass_npu import lifetime
form, program = sys.argv[1:]
os.environ['HOURGLASS_LAUNCHERS'] = lifetime.identify(os.getpid())
command = [sys.executable, '-c', program]
if form == 'wrapper':
    command = ['sh', '-c', '"$0" "$@"; :', *command]
if form == 'late':
    command = ['sh', '-c', 'sleep 1; exec "$0" "$@"', *command]
if form == 'torchrun':
    del os.environ['HOURGLASS_LAUNCHERS']
    os.environ['TORCHELASTIC_RUN_ID'] = 'none'
subprocess.Popen(command)
print('started', flush=True)
time.sleep(100)
"""
# In C, where no thread of Python's runs, unless a wrapper is between.
PROGRAM = """
import os, sys, time
from hourglass_npu import errors
def main():
    print(os.getpid(), flush=True)
    time.sleep(100)
errors.run(main)
"""


@pytest.mark.parametrize('form', ['plain', 'wrapper', 'late', 'torchrun'])
def test_a_command_ends_with_its_launcher(form, tmp_path):
    out = tmp_path / 'out'
    with out.open('w') as stream:
        launcher = subprocess.Popen(
            [sys.executable, '-c', LAUNCHER, form, PROGRAM],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        lines = lambda: out.read_text().split()  # noqa: E731
        wait_until(lambda: len(lines()) >= 1 + (form != 'late'))
        launcher.kill()
        launcher.wait()
        if form == 'late':  # it comes to life after its launcher's end
            wait_until(lambda: 'launcher' in out.read_text())
        else:
            pid = int(lines()[1])
            wait_until(lambda: lifetime.identify(pid) is None)
        if form != 'plain':
            words = f'the launcher (process {launcher.pid}) is gone'
            assert words in out.read_text()
    finally:
        try:
            os.killpg(launcher.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_a_command_without_a_launcher_outlives_its_parent(run):
    program = PROGRAM.replace('100', '2; print("done")').replace(
        '2; p', '2); p'
    )
    program = program.replace('print("done"))', 'print("done")')
    done = run(
        ['sh', '-c', '"$0" -c "$1" & exit 0', sys.executable, program],
        timeout=60,
    )
    assert done.stdout.endswith('done\n'), done.stderr


FOLDER_OWNER = """
import sys, time
from hourglass_npu import lifetime
print(lifetime.make_temporary_folder(), flush=True)
time.sleep(100)
"""


@pytest.fixture
def short(monkeypatch):
    """Set an empty folder for temporary files, with a short path."""
    with tempfile.TemporaryDirectory(prefix='t', dir='/tmp') as folder:
        monkeypatch.setattr(tempfile, 'tempdir', folder)
        yield Path(folder)


def test_folders_of_dead_processes_are_cleared(short):
    foreign = short / 'hourglass-npu-tmp-results'
    foreign.mkdir()
    link = short / 'hourglass-npu-tmp-abcdefgh'
    link.symlink_to(foreign)
    (foreign / 'kept').touch()
    owner = subprocess.Popen(
        [sys.executable, '-c', FOLDER_OWNER],
        env=dict(os.environ, TMPDIR=str(short)),
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs = Path(owner.stdout.readline().strip())
    assert theirs.parent == short
    (theirs / 'listener-1').touch()
    ours = [Path(lifetime.make_temporary_folder())]
    assert theirs.exists() and (theirs / 'listener-1').exists()
    owner.kill()
    owner.communicate()
    ours.append(Path(lifetime.make_temporary_folder()))
    assert not theirs.exists()
    assert all(path.exists() for path in ours)
    assert (foreign / 'kept').exists()


SOCKETS = """
import os, sys, torch
from hourglass_npu import lifetime
from torch.utils.data import DataLoader
if __name__ == '__main__':
    remove = lifetime.keep_sockets_together()
    loader = DataLoader(list(range(8)), batch_size=2, num_workers=2,
                        multiprocessing_context=sys.argv[1])
    print(sum(len(batch) for batch in loader), os.listdir(sys.argv[2]))
    if sys.argv[3] == 'kill':
        os.kill(os.getpid(), 9)
    if sys.argv[3] == 'leave':
        remove()
        os._exit(0)
"""


@pytest.mark.parametrize('start', ['fork', 'spawn'])
@pytest.mark.parametrize('end', ['kill', 'leave', 'return'])
def test_data_workers_leave_no_folders(run, short, tmp_path, start, end):
    script = tmp_path / 'sockets.py'
    script.write_text(SOCKETS)
    done = run(
        [sys.executable, '-u', script, start, short, end],
        env=dict(TMPDIR=str(short)),
    )
    assert done.stdout.startswith("8 ['hourglass-npu-tmp-"), done.stderr
    assert 'Error' not in done.stderr
    left = [path.name for path in short.iterdir()]
    assert [name[:18] for name in left] == ['hourglass-npu-tmp-'] * (
        end == 'kill'
    )
    os.rmdir(lifetime.make_temporary_folder())
    assert not list(short.iterdir())
