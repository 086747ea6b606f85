"""How a command ends: one line for a mistake, a traceback for a bug."""

import io
import sys
import time

import pytest
import torch

from hourglass_npu.errors import (
    UserError,
    describe,
    explain_failure,
    is_user_error,
)


def error_of(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError('no error')


class Picky(torch.utils.data.Dataset):
    """A data set that cannot give anything."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.kind('a.jpg: the file\nis empty')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_mistake_in_a_data_worker_is_said_without_its_traceback(workers):
    loader = torch.utils.data.DataLoader(Picky(UserError), num_workers=workers)
    error = error_of(next, iter(loader))
    assert is_user_error(error)
    assert describe(error) == 'a.jpg: the file\nis empty'


@pytest.mark.parametrize('kind', [ValueError, KeyError, FileNotFoundError])
@pytest.mark.parametrize('workers', [0, 1])
def test_what_python_raises_is_a_bug_wherever_it_comes_from(kind, workers):
    loader = torch.utils.data.DataLoader(Picky(kind), num_workers=workers)
    error = error_of(next, iter(loader))
    assert not is_user_error(error) and explain_failure(error) is None


def test_a_registry_keeps_the_class_of_what_was_raised():
    from mmcv.utils import Registry, build_from_cfg

    registry = Registry('people')

    @registry.register_module()
    class Wrong:
        def __init__(self, kind):
            raise kind('give more')

    for kind in (UserError, AttributeError):
        wanted = dict(type='Wrong', kind=kind)
        error = error_of(build_from_cfg, wanted, registry)
        assert is_user_error(error) is (kind is UserError)


def _end_at_once():
    import os

    os._exit(3)


class Dying(Picky):
    def __getitem__(self, index):
        _end_at_once()


@pytest.mark.processes
def test_a_lost_data_worker_is_told_by_torchs_real_message():
    loader = torch.utils.data.DataLoader(Dying(None), num_workers=1)
    error = error_of(next, iter(loader))
    assert 'lost a data worker (process ' in explain_failure(error)

    class Sink(io.BytesIO):
        """Is interrupted by torch's handler of SIGCHLD, once."""

        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes == 2:
                raise error
            return super().write(data)

    failed = error_of(torch.save, torch.ones(3), Sink())
    assert 'lost a data worker (process ' in explain_failure(failed)
    bug = KeyError('of a hook, later')
    bug.__context__ = error
    assert explain_failure(bug) is None


# A command line that ends as the body says.
PROGRAM = """
import sys
from hourglass_npu import errors
errors.OTHERS_SPEAK_AFTER = {wait}
def main():
    {body}
errors.run(main)
print('went on')
"""


def run_main(run, body, wait=0, **env):
    program = PROGRAM.format(body=body, wait=wait)
    return run([sys.executable, '-c', program], env=env)


@pytest.mark.parametrize(
    'body, status, first',
    [
        ("raise errors.UserError('give more')", 2, 'error: give more'),
        ("raise OSError(28, 'c.pth: No space')", 1, 'error: [Errno 28] c.'),
        ('raise errors.Stopped(15)', 143, 'stopped by SIGTERM'),
        ('return 1', 1, None),
        ('raise KeyboardInterrupt', 130, 'interrupted'),
    ],
)
def test_statuses(run, body, status, first):
    done = run_main(run, body)
    assert done.returncode == status and done.stdout == ''
    if first is None:
        assert done.stderr == ''
    else:
        assert done.stderr.startswith(first)
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    'body, last',
    [
        ("raise ValueError('mine')", 'ValueError: mine'),
        ("open('/nowhere/x')", 'FileNotFoundError: [Errno 2]'),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("int('x')", 'ValueError: invalid literal'),
        ('1 / 0', 'ZeroDivisionError'),
        ("raise RuntimeError('connection')", 'RuntimeError: connection'),
    ],
)
def test_everything_else_prints_its_traceback(run, body, last):
    done = run_main(run, body)
    assert done.returncode == 1 and done.stdout == ''
    lines = done.stderr.splitlines()
    assert lines[0].startswith('Traceback')
    assert lines[-1].startswith(last)
    assert 'File "<string>", line 6, in main' in done.stderr


def test_a_mistakes_traceback_is_there_for_whom_asks(run, tmp_path):
    log = tmp_path / 'run.log'
    body = f"errors.log_tracebacks({str(log)!r}); raise errors.UserError('x')"
    quiet = run_main(run, body)
    assert quiet.stderr == 'error: x\n'
    assert 'in main\n' in log.read_text() and 'UserError: x' in log.read_text()
    loud = run_main(run, body, HOURGLASS_TRACEBACK='1')
    assert loud.returncode == 2
    assert 'in main\n' in loud.stderr and loud.stderr.endswith('error: x\n')


def test_a_stopped_rank_tells_the_launcher_by_a_file(run, tmp_path):
    path = tmp_path / 'stopped'
    done = run_main(run, 'raise errors.Stopped(15)', STOPPED_FILE=str(path))
    assert (done.returncode, path.read_text()) == (0, '15\n')


def test_success_goes_on(run):
    done = run_main(run, 'pass')
    assert (done.returncode, done.stdout) == (0, 'went on\n')


@pytest.mark.parametrize(
    'rank, body, waits',
    [
        (0, "raise errors.UserError('x')", False),
        (1, "raise errors.UserError('x')", True),
        (0, '1 / 0', False),
        (0, "raise RuntimeError('[gloo] Connection closed by peer')", True),
        (0, "raise RuntimeError('out of memory')", False),
    ],
)
def test_the_rank_that_knows_most_speaks_first(run, rank, body, waits):
    begun = time.time()
    run_main(run, body, wait=0, RANK=str(rank), WORLD_SIZE='2')
    quick = time.time() - begun
    begun = time.time()
    done = run_main(run, body, wait=3, RANK=str(rank), WORLD_SIZE='2')
    assert (time.time() - begun - quick > 1.5) is waits
    assert done.stderr


# Ctrl-C comes twice: from the terminal, and once more from the launcher.
INTERRUPTED = """
    import os, signal, threading
    for seconds in (0.3, 0.31):
        interrupt = os.kill, (os.getpid(), signal.SIGINT)
        threading.Timer(seconds, *interrupt).start()
    raise RuntimeError('[gloo] Connection closed by peer')
"""


@pytest.mark.parametrize('rank, message', [(0, 'interrupted\n'), (1, '')])
def test_ctrl_c_while_an_error_waits_is_said_by_one(run, rank, message):
    env = dict(RANK=str(rank), WORLD_SIZE='2')
    done = run_main(run, INTERRUPTED, wait=20, **env)
    assert (done.returncode, done.stderr) == (130, message)


@pytest.mark.parametrize('kind', ['NPU', 'CUDA'])
def test_a_full_device_is_told_with_the_size_of_a_batch(kind):
    error = RuntimeError(f'{kind} out of memory. Tried to allocate 2 GiB\nx')
    text = explain_failure(error)
    assert 'Tried to allocate 2 GiB' in text and '\n' not in text
    assert 'lower data.samples_per_gpu' in text
