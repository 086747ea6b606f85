"""Trainings that are ended in several ways."""

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAYS = ('SIGTERM', 'SIGKILL', 'worker')


def others():
    """Return the other processes of this session that run."""
    session, found = os.getsid(0), []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            facts = path.read_text().rpartition(')')[2].split()
        except OSError:  # it has just ended
            continue
        if facts[0] not in 'ZX' and int(facts[3]) == session:
            found.append(int(path.parent.name))
    return set(found) - {os.getpid()}


def train(config, work):
    """Train in this process."""
    from hourglass_npu.commands import train as tool
    from hourglass_npu.errors import run

    with open(str(work) + '.stderr', 'w') as stream:
        os.dup2(stream.fileno(), 2)
    sys.argv = ['train', config, '--device=cpu', f'--work-dir={work}']
    sys.argv += ['--cfg-options', 'total_epochs=10000']
    sys.argv += ['data.workers_per_gpu=2']
    sys.argv += ['data.val_dataloader.workers_per_gpu=0']
    run(tool.main)
    sys.exit('it ended by itself')


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def finish(pid, work, way):
    """End a training once an epoch is over, and say what came of it."""
    # While it is evaluated the workers have nothing to do.
    assert wait_for((work / 'epoch_1.pth').exists, 60), way
    workers = list(others() - {pid})
    assert len(workers) == 2, workers
    if way == 'worker':
        os.kill(workers[0], signal.SIGKILL)
    else:
        os.kill(pid, getattr(signal, way))
    status = os.waitpid(pid, 0)[1]
    wait_for(lambda: not others(), 20)
    return dict(
        # Negative: the signal.
        status=os.WEXITSTATUS(status) if status > 255 else -status,
        said=Path(str(work) + '.stderr').read_text(),
        left=sorted(others()),
    )


def end_trainings(config, folder):
    """Train a config in a folder, and end that in each of WAYS.

    Returns:
        dict[str, dict]: By the way of ending the status, what was said on
        stderr, and the processes that were left.
    """
    # One process imports for all.
    import mmpose.apis  # noqa: F401

    from hourglass_npu.training import guards  # noqa: F401

    found = {}
    for way in WAYS:
        work = Path(folder) / way
        pid = os.fork()
        if not pid:
            train(config, work)
        found[way] = finish(pid, work, way)
    return found
