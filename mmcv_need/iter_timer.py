"""mmcv/runner/hooks/iter_timer.py: seconds of iterations, and their sums.

The log buffer gets what mmcv 1.2.7 puts there. The sums are new: a speed is
computed from them.
"""

import time
from numbers import Integral

from .hook import HOOKS, Hook


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Times iterations into the log buffer, and sums them up.

    ``data_time`` and ``time`` go into the buffer for every iteration: the
    seconds until its batch was there, and until it was done.

    The sums are those of the current epoch. They leave out its first
    :attr:`WARMUP_ITERS` iterations, in which workers start and kernels are
    chosen or compiled; an epoch that is not longer than that counts whole.
    Times are the host's: on a device that works asynchronously
    :attr:`counted_time` lags behind what has been queued until the device is
    waited for, see :meth:`seconds_until_now`.

    Attributes:
        WARMUP_ITERS (int): Iterations left out at the start of an epoch.
        t (float): Reading of the clock when the iteration before ended.
        counted_iters (int): Iterations in the sums.
        counted_time (float): Their seconds, waiting for data included.
        counted_samples (int | None): Their samples on this process, by
            ``num_samples`` of the runner's outputs; None if an iteration did
            not tell.
    """

    WARMUP_ITERS = 5

    t = 0.0
    counted_iters = 0
    counted_time = 0.0
    counted_samples = 0
    _epoch_iters = 0

    def before_epoch(self, runner):
        """Start the clock and the sums."""
        self._restart_sums()
        self._epoch_iters = 0
        self.t = time.perf_counter()

    def before_iter(self, runner):
        """Log the time for which the batch was waited for."""
        seconds = time.perf_counter() - self.t
        runner.log_buffer.update({'data_time': seconds})

    def after_iter(self, runner):
        """Log the time of the iteration and add it up."""
        now = time.perf_counter()
        seconds = now - self.t
        self.t = now
        runner.log_buffer.update({'time': seconds})

        if self._epoch_iters == self.WARMUP_ITERS:
            # The epoch is long enough: what was counted was the warm-up.
            self._restart_sums()
        self._epoch_iters += 1
        self.counted_iters += 1
        self.counted_time += seconds
        samples = (getattr(runner, 'outputs', None) or {}).get('num_samples')
        # A tensor is not asked for its value: that would wait for the device.
        if isinstance(samples, Integral) and self.counted_samples is not None:
            self.counted_samples += int(samples)
        else:
            self.counted_samples = None

    def seconds_until_now(self):
        """Return :attr:`counted_time` and the time since the last iteration.

        After the device has been waited for, this is the true time of the
        counted iterations.
        """
        return self.counted_time + time.perf_counter() - self.t

    def _restart_sums(self):
        self.counted_iters = 0
        self.counted_time = 0.0
        self.counted_samples = 0
