"""The log of a training: lines for people, and numbers for plot_log.py.

In a config: ``dict(type='ReadableLogHook')``. ``mmpose.apis.train`` imports
this module, which registers the hook.
"""

import collections
import datetime
import math
import time

from mmcv.runner import HOOKS, TextLoggerHook
from mmcv.runner.hooks.optimizer import engine_of

from hourglass_npu.devices import peak_memory

FIRST_STEPS = 10
"""Steps after which the rate is told for the first time."""

RECENT_LINES = 10
"""Lines of training over which the time left is reckoned."""

# What the head of a line says already, or what is said in another form.
_SAID = ('mode', 'epoch', 'iter', 'lr', 'time', 'data_time', 'memory')


@HOOKS.register_module()
class ReadableLogHook(TextLoggerHook):
    """mmcv's text log with rate, time left, memory and percentages.

    A line of training says, after mmcv's ``Epoch [1][20/273]``: learning
    rate, images per second over all devices, time left, the share of the
    time in which data were waited for, the most memory that was held (of
    rank 0: of its device, on a CPU of the process), losses, accuracies in
    percent, and steps that were skipped for overflow, if any. A line of
    evaluation on MPII gives percentages.

    ``.log.json`` holds what mmcv writes and, in lines of training, ``step``
    (iterations since the very first), ``memory`` (MiB) and, where known,
    ``fps`` and ``skipped_steps``; in those of evaluation ``step``.

    Args:
        **kwargs: As for mmcv's hook.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Time and iteration of the first step and of the last lines.
        self._marks = collections.deque(maxlen=RECENT_LINES)

    def before_run(self, runner):
        """Start the clock of the time left and open the log."""
        # First: where there is no room for the log, training goes on.
        self._started = time.time()
        super().before_run(runner)

    def after_train_iter(self, runner):
        """Tells the rate of the first steps, before the first line is due."""
        steps = runner.iter + 1 - self.start_iter
        per_device = getattr(runner, 'samples_per_gpu', None)
        if steps == 1:
            # Before, data workers started and operators were compiled.
            self._started = time.time()
            self._marks.append((self._started, runner.iter + 1))
        elif steps == FIRST_STEPS < self.interval and per_device:
            seconds = (time.time() - self._started) / (steps - 1)
            images = per_device * runner.num_of_gpus / max(seconds, 1e-9)
            epoch = datetime.timedelta(
                seconds=int(seconds * len(runner.data_loader))
            )
            runner.logger.info(
                f'First {steps} steps: {images:.1f} images/s, {epoch} for an '
                'epoch'
            )
        super().after_train_iter(runner)

    def _log_info(self, log_dict, runner):
        # The same dict goes into .log.json afterwards.
        if log_dict['mode'] == 'train':
            self._add_figures(log_dict, runner)
            items = self._training_items(log_dict, runner)
            total = f'/{len(runner.data_loader)}'
        else:
            # After an epoch its last iteration has been counted.
            log_dict['step'] = runner.iter
            items = _evaluation_items(log_dict)
            total = ''
        if not self.by_epoch:
            total = f'/{runner.max_iters}' if total else ''
            where = f'[{log_dict["iter"]}{total}]'
        else:
            where = f'[{log_dict["epoch"]}][{log_dict["iter"]}{total}]'
        kind = 'Epoch' if self.by_epoch else 'Iter'
        kind += ' ' if log_dict['mode'] == 'train' else '(val) '
        runner.logger.info('%s%s\t%s', kind, where, ', '.join(items))

    def _round_float(self, items):
        # mmcv keeps five digits behind the point; a loss begins there.
        return float(f'{items:.5g}') if isinstance(items, float) else items

    def _add_figures(self, log_dict, runner):
        """Add what mmcv does not measure."""
        log_dict['step'] = runner.iter + 1
        log_dict['memory'] = peak_memory() // 2**20
        per_device = getattr(runner, 'samples_per_gpu', None)
        if per_device and log_dict.get('time'):
            images = per_device * runner.num_of_gpus
            log_dict['fps'] = images / log_dict['time']
        engine = engine_of(runner.optimizer)
        if engine is not None:
            log_dict['skipped_steps'] = engine.skipped_steps

    def _training_items(self, log_dict, runner):
        rates = log_dict['lr']
        if not isinstance(rates, dict):
            rates = {'': rates}
        items = [
            f'lr{"_" * bool(name)}{name}: {rate:.3e}'
            for name, rate in rates.items()
        ]
        if 'fps' in log_dict:
            items.append(f'{log_dict["fps"]:.1f} images/s')
        # By the recent rate: evaluations, or another job, slow a training.
        marks = self._marks or [(self._started, self.start_iter)]
        since, first = marks[0]
        done = runner.iter + 1 - first
        self._marks.append((time.time(), runner.iter + 1))
        left = (time.time() - since) / max(done, 1)
        left *= runner.max_iters - runner.iter - 1
        items.append(f'eta: {datetime.timedelta(seconds=int(left))}')
        if log_dict.get('time'):
            waited = 100 * log_dict['data_time'] / log_dict['time']
            items.append(f'data: {waited:.0f} %')
        items.append(f'memory: {log_dict["memory"]} MiB')
        losses = [k for k in log_dict if k.endswith('_loss')]
        for name, value in log_dict.items():
            # One loss alone is the sum already.
            if name in _SAID + ('step', 'fps', 'skipped_steps') or (
                losses == [name] and 'loss' in log_dict
            ):
                continue
            items.append(f'{name}: {_number(name, value)}')
        if log_dict.get('skipped_steps'):
            items.append(f'skipped steps: {log_dict["skipped_steps"]}')
        return items


def _evaluation_items(log_dict):
    return [
        f'{name}: {_percent(value)}'
        if 'PCKh' in log_dict  # MPII's rows are percentages
        else f'{name}: {_number(name, value)}'
        for name, value in log_dict.items()
        if name not in _SAID + ('step',)
    ]


def _number(name, value):
    if name == 'acc_pose':
        return _percent(100 * value)
    return f'{value:.4g}' if isinstance(value, float) else value


def _percent(value):
    return 'n/a' if math.isnan(value) else f'{value:.2f} %'
