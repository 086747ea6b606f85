"""mmcv/runner/hooks/iter_timer.py: seconds of iterations, and their sums.

The log buffer gets what mmcv 1.2.7 puts there. The sums are new: a speed is
computed from them. So is what a checkpoint holds of all hooks, their states;
it is here because it belongs to hooks and no file may be added.
"""

import inspect
import io
import time
from numbers import Integral

import torch

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


# States of hooks in checkpoints -------------------------------------------


def states_of(hooks, logger):
    """Return the states of hooks that have one that can be saved.

    Args:
        hooks (Iterable[Hook]): Those with a method ``state_dict`` that needs
            no argument have a state.
        logger (logging.Logger): Told, once for each hook, what is left out:
            what cannot be pickled, or would not be loaded again.

    Returns:
        dict: By class, and its number from the second of a class on.
    """
    # Not at the top: checkpoint.py imports hooks.
    from ..checkpoint import _load_safely

    states = {}
    for key, hook in _keys_of(hooks):
        try:
            if not _takes(getattr(hook, 'state_dict', None), 0):
                continue
            state = hook.state_dict()
            sink = io.BytesIO()
            torch.save(_outline(state), sink)
            sink.seek(0)
            _load_safely(sink, 'cpu')
        except Exception as error:  # of the hook, of pickle, of torch
            if not vars(hook).get('_state_is_left_out'):
                hook._state_is_left_out = True
                reason = str(error).strip().split('\n')[0][:200]
                logger.warning(
                    'The state of %s is in no checkpoint, because it could '
                    'not be loaded again: plain data and tensors can (%s: %s)',
                    key,
                    type(error).__name__,
                    reason,
                )
        else:
            states[key] = state
    return states


def give_states(hooks, states):
    """Give hooks what :func:`states_of` returned.

    Args:
        hooks (Iterable[Hook]): Those with a method ``load_state_dict`` that
            takes one argument get theirs.
        states (dict): By class and number.
    """
    for key, hook in _keys_of(hooks):
        load = getattr(hook, 'load_state_dict', None)
        if key in states and _takes(load, 1):
            load(states[key])


def _keys_of(hooks):
    """Pair hooks with their names in a checkpoint: class, and its count."""
    counts = {}
    for hook in hooks:
        name = type(hook).__name__
        counts[name] = counts.get(name, 0) + 1
        yield name if counts[name] == 1 else f'{name} {counts[name]}', hook


def _takes(method, count):
    """Tell whether a hook's method can be called with so many arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # of C: it does not say
        pass
    return True


def _outline(state):
    """Return a state with small tensors in place of its own."""
    if isinstance(state, torch.Tensor):
        return torch.zeros((), dtype=state.dtype)
    if type(state) is dict:
        return {key: _outline(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_outline(value) for value in state)
    return state
