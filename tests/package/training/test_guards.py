"""Guards of a training, in one process where that can show it."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import Config
from mmcv.runner.checkpoint import _load_checkpoint
from mmpose.models.losses.mse_loss import JointsMSELoss

from benchmark.stock_form import to_stock_form
from hourglass_npu import errors
from hourglass_npu.errors import Stopped, UserError
from hourglass_npu.training import guards


@pytest.fixture
def handlers():
    """Put back what handles signals."""
    numbers = [*guards.SignalGuard.SIGNALS, signal.SIGCHLD]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    errors.note_signal(0)


@pytest.fixture
def train(main, tiny, tmp_path, handlers):
    """Run train.py on the tiny network: three iterations in an epoch."""

    def execute(*options, validate=False, config=tiny):
        more = [] if validate else ['--no-validate']
        work = tmp_path / 'work'
        main(
            'train',
            config,
            '--device=cpu',
            '--seed=1',
            f'--work-dir={work}',
            *more,
            '--cfg-options',
            *options,
        )
        return work

    return execute


class At:
    """Calls something in one of the calls of a function."""

    def __init__(self, monkeypatch, owner, name, number, action):
        self.calls = 0
        real = getattr(owner, name)

        def counting(*args, **kwargs):
            self.calls += 1
            result = real(*args, **kwargs)
            if self.calls == number:
                return action(result) or result
            return result

        monkeypatch.setattr(owner, name, counting)


def saved(work):
    """Name and places of the checkpoints of a folder."""
    found = {}
    for path in work.glob('*_*.pth'):
        state = _load_checkpoint(str(path))
        batches = state['resume']['batches_done']
        found[path.name] = (state['meta']['iter'], batches)
    return found


def test_sigterm_finishes_the_iteration_and_saves(train, monkeypatch):
    kill = lambda _: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with monkeypatch.context() as patch:
        losses = At(patch, JointsMSELoss, 'forward', 4, kill)
        with pytest.raises(Stopped) as stop:
            train('checkpoint_config.interval=2')
    assert stop.value.number == signal.SIGTERM == errors._State.signal
    assert losses.calls == 4
    errors.note_signal(0)
    work = Path(os.environ['MPII_ROOT']).parent / 'work'
    assert saved(work) == {'iter_4.pth': (4, 1)}
    train('checkpoint_config.interval=2', f'resume_from={work}/iter_4.pth')
    assert saved(work)['epoch_2.pth'] == (6, 0)


def test_a_stop_waits_for_the_end_of_a_step(train, monkeypatch, tmp_path):
    # An epoch has three iterations: a step of two, and one of one.
    passes = 'optimizer_config.cumulative_iters=2'
    kill = lambda _: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    At(monkeypatch, JointsMSELoss, 'forward', 4, kill)
    with pytest.raises(Stopped):
        train(passes)
    assert saved(tmp_path / 'work')['iter_5.pth'] == (5, 2)
    assert 'iter_4.pth' not in saved(tmp_path / 'work')


def test_sigusr1_saves_and_goes_on(train, monkeypatch):
    ask = lambda _: os.kill(os.getpid(), signal.SIGUSR1)  # noqa: E731
    At(monkeypatch, JointsMSELoss, 'forward', 2, ask)
    work = train('checkpoint_config.interval=2')
    assert saved(work) == {'iter_2.pth': (2, 2), 'epoch_2.pth': (6, 0)}
    # The signals are given back.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize('interval, name', [(1, None), (5, 'epoch_1.pth')])
def test_an_evaluation_is_not_waited_for(train, monkeypatch, interval, name):
    from mmpose.models import TopDown

    kill = lambda _: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    calls = At(monkeypatch, TopDown, 'forward_test', 2, kill)
    begun = time.time()
    with pytest.raises(Stopped):
        train(f'checkpoint_config.interval={interval}', validate=True)
    assert calls.calls < 5
    # What was not saved before the evaluation is saved now.
    work = Path(os.environ['MPII_ROOT']).parent / 'work'
    assert saved(work) == {'epoch_1.pth': (3, 0)}
    assert name is None or (work / name).stat().st_mtime >= begun


def test_a_second_signal_ends_at_once(run, tmp_path):
    script = tmp_path / 'twice.py'
    script.write_text(
        'import os, signal, time\n'
        'from hourglass_npu.training import guards\n'
        'guard = guards.SignalGuard()\n'
        'guard.before_run(None)\n'
        'guard._evaluating = False\n'
        'def ask():\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n'
        'ask(); ask()\n'  # one Ctrl-C that comes twice
        'time.sleep(1.1)\n'
        'print("still there", flush=True)\n'
        'ask()\n'
        'time.sleep(60)\n'
    )
    done = run([sys.executable, script])
    assert done.returncode == 143, done.stderr
    assert done.stdout.endswith('still there\n')
    assert 'stopped at once' in done.stderr


def test_data_workers_outlive_sigterm(run, tmp_path):
    script = tmp_path / 'worker.py'
    script.write_text(
        'import os, signal, time\n'
        'from hourglass_npu.training import guards\n'
        'guards._outlive_signals(lambda worker: print(worker), 3)\n'
        'os.kill(os.getpid(), signal.SIGINT)\n'
        'os.kill(os.getpid(), signal.SIGTERM)\n'
        'left = signal.alarm(1)\n'
        'print(left, flush=True)\n'
        'time.sleep(60)\n'
    )
    done = run([sys.executable, script])
    assert done.stdout.split()[-2] == '3'
    assert 15 <= int(done.stdout.split()[-1]) <= 20
    assert done.returncode == -signal.SIGALRM


# ------------------------------------------------------------------- losses


def test_a_broken_loss_stops_the_run_before_its_step(
    train, monkeypatch, tmp_path
):
    At(monkeypatch, JointsMSELoss, 'forward', 5, lambda loss: loss * np.inf)
    with pytest.raises(UserError) as stop:
        train('checkpoint_config.interval=1', 'optimizer.lr=0.25')
    message = str(stop.value)
    assert 'the loss is inf in iteration 5 (epoch 2, learning' in message
    work = tmp_path / 'work'
    assert f'Last good checkpoint: {work}/epoch_1.pth. Lower' in message
    report = json.loads((work / 'nonfinite_iter5_rank0.json').read_text())
    assert f'the 2 people are listed in {work}' in message
    for person in report['people']:
        assert os.path.isfile(person['image_file'])
        (number,) = person['annotations']
        assert person['image_file'].endswith(f'train{number}.jpg')
        assert len(person['center']) == 2 and not person['broken_inputs']
    for tensor in _load_checkpoint(str(work / 'epoch_1.pth'))[
        'state_dict'
    ].values():
        assert torch.isfinite(tensor.float()).all()


def test_broken_inputs_are_told(train, tiny, monkeypatch, tmp_path):
    from mmpose.datasets.pipelines import TopDownGenerateTarget

    def spoil(results):
        results['img'][0, 3, 3] = np.nan

    At(monkeypatch, TopDownGenerateTarget, '__call__', 2, spoil)
    cfg = Config.fromfile(str(tiny))
    to_stock_form(cfg)
    floats = tmp_path / 'floats.py'
    floats.write_text(cfg.pretty_text)
    with pytest.raises(UserError, match='iteration 1 .*checkpoint: n'):
        train('total_epochs=1', config=floats)
    report = tmp_path / 'work/nonfinite_iter1_rank0.json'
    people = json.loads(report.read_text())['people']
    assert [person['broken_inputs'] for person in people] == [[], ['img']]


def test_nothing_is_read_before_the_next_iteration_on_a_device():
    """The flag is read an iteration late, or before a checkpoint."""
    reads = []

    class Flag:
        def read(self):
            reads.append(1)

    guard = guards.LossGuard()
    guard._open = Flag(), None, None, None
    assert not reads
    guard.before_save(None)
    guard.before_save(None)
    assert len(reads) == 1


# -------------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    'before, now, words',
    [
        ([[5, 9, 'a'], [5, 9, 'b']], [[7, 9, 'a'], [5, 9, 'b']], 'Rank 1 is'),
        ([[5, 9, 'a'], None], [[7, 9, 'a'], None], 'Rank 1 is stuck: it does'),
        (
            [[5, 9, 'a'], [5, 8, 'b'], [5, 9, 'c']],
            [[7, 9, 'a'], [7, 8, 'b'], [7, 9, 'c']],
            'Rank 1 is stuck: the others wait for it. .*rank 1: b',
        ),
        ([[5, 9, 'a'], [5, 9, 'b']], [[7, 9, 'a'], [7, 9, 'b']], 'All ranks'),
        ([None, None], [None, None], 'last seen in no place'),
    ],
)
def test_the_rank_that_is_waited_for_is_named(before, now, words):
    import re

    text = guards.describe_hang(before, now, me=0, timeout=6)
    assert text.startswith('no progress for 6 s (dist_params.timeout). ')
    assert re.search(words, text), text


def test_a_place_is_three_functions():
    place = guards._place(threading.get_ident())
    assert place.startswith('_place (guards.py:')
    assert 'test_a_place_is_three_functions' in place
    assert guards._place(-1) == ''
