"""One writer at a time for a work folder, with real processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from hourglass_npu import lifetime
from hourglass_npu.errors import UserError
from hourglass_npu.training import lock

HOLDER = """
import os, sys, time
from hourglass_npu.training import lock
lock.PATIENCE = 0
lock._take(sys.argv[1])
if 'fork' in sys.argv and not os.fork():
    time.sleep(60)
print(os.getpid(), flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds a folder until its input ends."""
    holders = []

    def execute(*options):
        holder = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(tmp_path), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        holders.append(holder)
        assert holder.stdout.readline()
        return holder

    yield execute
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(lock, 'PATIENCE', 0)
    yield
    lock.release()


def test_a_second_writer_is_refused_and_both_are_named(hold, tmp_path):
    holder = hold()
    with pytest.raises(UserError) as refusal:
        lock.take(str(tmp_path))
    assert (
        f'writes to {tmp_path}: process {holder.pid} on host '
        f'{socket.gethostname()}, since 2' in str(refusal.value)
    )
    holder.stdin.close()
    holder.wait(30)
    assert not list(tmp_path.iterdir())
    lock.take(str(tmp_path))
    lock.take(str(tmp_path))  # of one process: nothing is in the way
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_about_to_end_is_waited_for(
    hold, tmp_path, monkeypatch
):
    monkeypatch.setattr(lock, 'PATIENCE', 60)
    hold().stdin.close()
    lock.take(str(tmp_path))


def test_a_killed_writers_folder_is_taken_over(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'PATIENCE', 30)  # for its end; not its child's
    holder = hold('fork')  # a data worker that is still there
    (tmp_path / '.epoch_3.pth.0123456789ab.tmp').write_bytes(b'half')
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / '.lock').read_text())
    lock.take(str(tmp_path))
    owner = json.loads((tmp_path / '.lock').read_text())
    assert owner['process'] == lifetime.identify(os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@pytest.mark.parametrize('content', [b'', b'\xff', b'[1]', b'{"host": 1}'])
def test_what_a_stale_file_holds_does_not_matter(tmp_path, content):
    (tmp_path / '.lock').write_bytes(content)
    lock.take(str(tmp_path))


@pytest.mark.parametrize(
    'host, process, refused',
    [
        (socket.gethostname(), lifetime.identify(os.getpid()), True),
        (socket.gethostname(), f'{os.getpid()}:1', False),
        ('elsewhere', lifetime.identify(os.getpid()), False),
    ],
    ids=['this process', 'an earlier one', 'another host'],
)
def test_a_file_system_without_locks(
    tmp_path, monkeypatch, host, process, refused
):
    def no_locks(*unused):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(lifetime.fcntl, 'flock', no_locks)
    (tmp_path / '.lock').write_text(
        json.dumps(dict(host=host, process=process))
    )
    if refused:
        with pytest.raises(UserError, match=f'process {os.getpid()} on host'):
            lock.take(str(tmp_path))
    else:
        lock.take(str(tmp_path))


def test_what_cannot_be_written_is_not_locked(tmp_path, caplog):
    lock.take(str(tmp_path / 'gone'))
    assert 'The work folder cannot be locked: [Errno 2]' in caplog.text
