"""The clock: what goes into the log, and which iterations are summed up."""

from types import SimpleNamespace

import pytest
from mmcv.runner.hooks import iter_timer
from mmcv.runner.log_buffer import LogBuffer


@pytest.fixture
def clock(monkeypatch):
    """Replace the hook's clock by one that is set by hand."""
    now = SimpleNamespace(seconds=100.0)
    fake = SimpleNamespace(perf_counter=lambda: now.seconds)
    monkeypatch.setattr(iter_timer, 'time', fake)
    return now


def run_epoch(clock, times, samples=None, hook=None):
    """Go through an epoch: pairs of seconds for waiting and working."""
    hook = hook or iter_timer.IterTimerHook()
    runner = SimpleNamespace(log_buffer=LogBuffer(), outputs=None)
    hook.before_train_epoch(runner)
    for i, (waiting, working) in enumerate(times):
        clock.seconds += waiting
        hook.before_train_iter(runner)
        clock.seconds += working
        runner.outputs = {} if samples is None else samples[i]
        hook.after_train_iter(runner)
    return hook, runner


def test_logs_both_times_of_every_iteration(clock):
    _, runner = run_epoch(clock, [(1, 2), (0, 4), (3, 0)])
    history = runner.log_buffer.val_history
    assert history['data_time'] == [1, 0, 3]
    assert history['time'] == [3, 4, 3]


def test_log_is_that_of_the_original(clock, stock, monkeypatch):
    theirs = stock('mmcv', 'runner/hooks/iter_timer.py')
    fake = SimpleNamespace(time=lambda: clock.seconds)
    monkeypatch.setattr(theirs, 'time', fake)
    times = [(1, 2), (0, 4), (3, 0)]
    logs = [
        run_epoch(clock, times, hook=module.IterTimerHook())[1].log_buffer
        for module in (iter_timer, theirs)
    ]
    assert logs[0].val_history == logs[1].val_history
    assert list(logs[0].val_history) == list(logs[1].val_history)


@pytest.mark.parametrize(
    'length, iters', [(0, 0), (1, 1), (5, 5), (6, 1), (7, 2), (20, 15)]
)
def test_leaves_out_the_first_five_of_more_than_five(clock, length, iters):
    times = [(1, 10)] * min(length, 5) + [(1, 1)] * max(0, length - 5)
    hook, _ = run_epoch(clock, times, [{'num_samples': 4}] * length)
    assert hook.counted_iters == iters
    assert hook.counted_time == iters * (11 if length <= 5 else 2)
    assert hook.counted_samples == 4 * iters


def test_every_epoch_starts_anew(clock):
    hook, _ = run_epoch(clock, [(1, 1)] * 9)
    clock.seconds += 1000
    run_epoch(clock, [(0, 3)] * 2, hook=hook)
    assert (hook.counted_iters, hook.counted_time) == (2, 6)


def test_knows_the_time_after_the_last_iteration(clock):
    hook, _ = run_epoch(clock, [(1, 1)] * 7)
    clock.seconds += 0.5
    assert hook.seconds_until_now() == 4.5


@pytest.mark.parametrize('untold', [{}, {'num_samples': None}])
def test_samples_are_unknown_if_one_iteration_does_not_tell(clock, untold):
    samples = [{'num_samples': 2}] * 6 + [untold] + [{'num_samples': 2}]
    hook, _ = run_epoch(clock, [(0, 1)] * 8, samples)
    assert hook.counted_samples is None
    # One that is not counted does not matter.
    samples = [untold] + [{'num_samples': 2}] * 7
    hook, _ = run_epoch(clock, [(0, 1)] * 8, samples)
    assert hook.counted_samples == 6


def test_does_not_ask_a_tensor_for_its_value(clock):
    class OnDevice:
        def __int__(self):
            raise AssertionError('waits for the device')

    hook, _ = run_epoch(clock, [(0, 1)], [{'num_samples': OnDevice()}])
    assert hook.counted_samples is None
