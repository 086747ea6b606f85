import logging
import re

import pytest
from mmcv.runner import HOOKS

from hourglass_npu.training import log

LINE = {
    'mode': 'train',
    'epoch': 2,
    'iter': 20,
    'lr': 0.002,
    'time': 0.5,
    'data_time': 0.1,
    'mse_loss': 0.0012345,
    'acc_pose': 0.8765,
    'loss': 0.0012345,
}


class Runner:
    """What the hook reads of a runner, 20 iterations into epoch 2."""

    iter, max_iters = 292, 1092
    data_loader = range(273)
    samples_per_gpu, num_of_gpus = 4, 3
    optimizer = object()
    logger = logging.getLogger('test_log')


def line_of(caplog, **changes):
    hook = HOOKS.get('ReadableLogHook')(interval=20)
    hook.start_iter, hook._started = 273, log.time.time() - 10
    entry = dict(LINE, **changes)
    caplog.clear()
    with caplog.at_level('INFO', 'test_log'):
        hook._log_info(entry, Runner)
    (record,) = caplog.records
    return record.getMessage(), entry


def test_a_line_of_training_is_readable(caplog):
    line, entry = line_of(caplog)
    memory = re.search(r'memory: (\d+) MiB', line).group(1)
    # 20 of 819 iterations took 10 s, so 799 are left for 399.5 s.
    assert line == (
        'Epoch [2][20/273]\tlr: 2.000e-03, 24.0 images/s, eta: 0:06:39, '
        f'data: 20 %, memory: {memory} MiB, acc_pose: 87.65 %, '
        'loss: 0.001234'
    )
    assert 50 < int(memory) == entry['memory']
    assert entry['step'] == 293 and entry['fps'] == 24
    assert 'skipped_steps' not in entry


def test_several_losses_and_skipped_steps_are_said(caplog, monkeypatch):
    monkeypatch.setattr(log, 'engine_of', lambda optimizer: Engine)

    class Engine:
        skipped_steps = 0

    line, entry = line_of(caplog, heat_loss=1.0, loss=1.0012345)
    assert 'mse_loss: 0.001234' in line and 'heat_loss: 1' in line
    assert 'skipped' not in line and entry['skipped_steps'] == 0
    Engine.skipped_steps = 3
    line, entry = line_of(caplog)
    assert line.endswith('skipped steps: 3') and entry['skipped_steps'] == 3


def test_scores_of_an_evaluation_are_percentages(caplog):
    hook = HOOKS.get('ReadableLogHook')()
    entry = dict(mode='val', epoch=2, iter=273, lr=0.002)
    entry.update({'Head': 95.125, 'Hip': float('nan'), 'PCKh': 88.0})
    with caplog.at_level('INFO', 'test_log'):
        hook._log_info(entry, Runner)
    assert caplog.records[-1].getMessage() == (
        'Epoch(val) [2][273]\tHead: 95.12 %, Hip: n/a, PCKh: 88.00 %'
    )
    assert entry['step'] == 292


def test_the_hook_stands_beside_mmcvs():
    assert HOOKS.get('ReadableLogHook') is log.ReadableLogHook
    assert HOOKS.get('TextLoggerHook') is not log.ReadableLogHook


@pytest.mark.parametrize('by_epoch', [True, False])
def test_both_ways_of_counting(caplog, by_epoch):
    hook = HOOKS.get('ReadableLogHook')(by_epoch=by_epoch)
    hook.start_iter, hook._started = 0, log.time.time()
    with caplog.at_level('INFO', 'test_log'):
        hook._log_info(dict(LINE), Runner)
    head = caplog.records[-1].getMessage().split('\t')[0]
    assert head == ('Epoch [2][20/273]' if by_epoch else 'Iter [20/1092]')


def test_the_time_left_goes_by_the_recent_rate(caplog, monkeypatch):
    """Ten fast lines, then slow ones: the fast ones are soon forgotten."""
    clock = [1000.0]
    monkeypatch.setattr(log.time, 'time', lambda: clock[0])
    hook = HOOKS.get('ReadableLogHook')(interval=20)
    hook.start_iter, hook._started = 0, clock[0]
    runner = type('Slowing', (Runner,), {'max_iters': 1000})
    left = None
    with caplog.at_level('INFO', 'test_log'):
        for line in range(25):
            clock[0] += 2 if line < 10 else 20
            runner.iter = 20 * (line + 1) - 1
            hook._log_info(dict(LINE), runner)
            left = re.search(r'eta: (\S+),', caplog.messages[-1]).group(1)
    # 500 iterations of one second; by the mean since the start, 5:20.
    assert left == '0:08:20'


def test_the_first_rate_comes_before_the_first_line(caplog, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(log.time, 'time', lambda: clock[0])
    monkeypatch.setattr(
        log.TextLoggerHook, 'after_train_iter', lambda self, runner: None
    )
    hook = HOOKS.get('ReadableLogHook')(interval=20)
    hook.start_iter = 0
    runner = type('Starting', (Runner,), {})
    with caplog.at_level('INFO', 'test_log'):
        for runner.iter in range(15):
            # The first step also compiles.
            clock[0] += 60 if runner.iter == 0 else 0.5
            hook.after_train_iter(runner)
    # 12 images in half a second; 273 steps.
    assert caplog.messages == [
        'First 10 steps: 24.0 images/s, 0:02:16 for an epoch'
    ]
