"""mmcv/runner/hooks/optimizer.py: hooks that turn a loss into a step.

The plain hook and mmcv's own mixed precision, as in mmcv 1.2.7, and a hook
for mixed precision O2. All three run the same small methods in sequence, so
that a hook for another precision replaces only those that differ.

What a checkpoint holds of all hooks, their states, is here, too, because it
belongs to hooks and no file may be added.

The engine of O2 is an attribute of the optimizer, ``amp_engine``: nothing is
imported for it here.
"""

import copy
import inspect
import io
from collections import defaultdict

import torch
from torch.nn.utils import clip_grad

from ..dist_utils import UserError, allreduce_grads
from ..fp16_utils import LossScaler, wrap_fp16_model
from .hook import HOOKS, Hook
from .iter_timer import take_up


def engine_of(optimizer):
    """Return the mixed-precision engine that is attached to an optimizer.

    Args:
        optimizer (Optimizer | dict): Of a runner.

    Returns:
        object | None: An ``O2Engine`` of the package hourglass_npu; None
        where training is in the model's own precision.
    """
    return getattr(optimizer, 'amp_engine', None)


def weights_of(optimizer):
    """Return the weights in all groups of an optimizer, in their order."""
    return [p for group in optimizer.param_groups for p in group['params']]


def amid_step(runner):
    """Tell whether gradients wait for further iterations of a step.

    They are in no checkpoint: save, and stop, when the step is complete.

    Args:
        runner (BaseRunner): In its training.

    Returns:
        bool: The same on all ranks.
    """
    return any(getattr(hook, 'amid_step', False) for hook in runner.hooks)


@HOOKS.register_module()
class OptimizerHook(Hook):
    """Backward pass and step in the model's own precision.

    Args:
        grad_clip (dict | None): Arguments of
            ``torch.nn.utils.clip_grad_norm_`` (``max_norm``, ``norm_type``).
            None does not clip.
    """

    def __init__(self, grad_clip=None):
        self.grad_clip = grad_clip

    def clip_grads(self, params):
        """Scale gradients down to the norm of ``grad_clip``.

        Args:
            params (Iterable[Parameter]): Those that are frozen or have no
                gradient are left out.

        Returns:
            Tensor | None: The norm before, a scalar; None where there is no
            gradient.
        """
        params = [p for p in params if p.requires_grad and p.grad is not None]
        if not params:
            return None
        return clip_grad.clip_grad_norm_(params, **self.grad_clip)

    def after_train_iter(self, runner):
        """Compute gradients from ``runner.outputs['loss']`` and step."""
        runner.optimizer.zero_grad()
        runner.outputs['loss'].backward()
        self._clip_and_log(runner, runner.model.parameters())
        runner.optimizer.step()

    def _clip_and_log(self, runner, params):
        """Clip if the hook was told to, and log the norm before."""
        if self.grad_clip is None:
            return
        norm = self.clip_grads(params)
        if norm is not None:
            # The log buffer averages numbers; this waits for the device.
            runner.log_buffer.update(
                {'grad_norm': float(norm)}, runner.outputs['num_samples']
            )


@HOOKS.register_module()
class Fp16OptimizerHook(OptimizerHook):
    """mmcv's mixed precision: half weights, fp32 weights in the optimizer.

    The loss is scaled before the backward pass; gradients are copied to the
    fp32 weights, averaged over processes, unscaled and clipped there; after
    the step the fp32 weights are copied to the model. Normalization layers
    stay in fp32. An iteration whose gradients overflow makes no step, if the
    scale is dynamic: a static one is not checked.

    Args:
        grad_clip (dict | None): As for :class:`OptimizerHook`, applied to the
            fp32 gradients.
        coalesce (bool): Average many gradients as one.
        bucket_size_mb (int): Limit in MiB for what is averaged as one; -1 is
            none.
        loss_scale (float | str | dict): A static scale; ``'dynamic'``; or the
            arguments of ``LossScaler``.
        distributed (bool): Average gradients over processes here.

    Raises:
        UserError: ``loss_scale`` is none of these.
    """

    def __init__(
        self,
        grad_clip=None,
        coalesce=True,
        bucket_size_mb=-1,
        loss_scale=512.0,
        distributed=True,
    ):
        super().__init__(grad_clip)
        self.loss_scaler = _make_scaler(loss_scale)
        self.distributed = distributed
        self.coalesce, self.bucket_size_mb = coalesce, bucket_size_mb

    def before_run(self, runner):
        """Give the optimizer its fp32 weights, then halve the model.

        What the optimizer knows about a weight goes on with its copy.
        """
        optimizer = runner.optimizer
        ours = weights_of(optimizer)
        optimizer.param_groups = copy.deepcopy(optimizer.param_groups)
        copy_of = dict(zip(ours, weights_of(optimizer)))
        optimizer.state = defaultdict(
            dict, {copy_of[p]: state for p, state in optimizer.state.items()}
        )
        wrap_fp16_model(runner.model)

    def copy_grads_to_fp32(self, fp16_net, fp32_weights):
        """Copy the model's gradients to the fp32 weights.

        Args:
            fp16_net (nn.Module): The model.
            fp32_weights (list[Parameter]): In the order of its parameters.
        """
        for weight, param in zip(fp32_weights, fp16_net.parameters()):
            if param.grad is None:
                continue
            if weight.grad is None:
                weight.grad = weight.data.new_empty(weight.size())
            weight.grad.copy_(param.grad)

    def copy_params_to_fp16(self, fp16_net, fp32_weights):
        """Copy the fp32 weights to the model, rounding them.

        Args:
            fp16_net (nn.Module): The model.
            fp32_weights (list[Parameter]): In the order of its parameters.
        """
        for param, weight in zip(fp16_net.parameters(), fp32_weights):
            param.data.copy_(weight.data)

    def after_train_iter(self, runner):
        """Compute gradients from ``runner.outputs['loss']`` and step."""
        scaler = self.loss_scaler
        # Both: the optimizer holds weights of its own.
        runner.model.zero_grad()
        runner.optimizer.zero_grad()
        (runner.outputs['loss'] * scaler.loss_scale).backward()

        weights = weights_of(runner.optimizer)
        self.copy_grads_to_fp32(runner.model, weights)
        if self.distributed:
            allreduce_grads(weights, self.coalesce, self.bucket_size_mb)

        overflow = scaler.has_overflow(weights)
        if not overflow:
            for weight in weights:
                if weight.grad is not None:
                    weight.grad.div_(scaler.loss_scale)
            self._clip_and_log(runner, weights)
            runner.optimizer.step()
            self.copy_params_to_fp16(runner.model, weights)
        scaler.update_scale(overflow)
        if overflow:
            runner.logger.warning(
                'Gradients overflow: no step in this iteration, the loss '
                f'scale goes down to {scaler.cur_scale}'
            )


def _make_scaler(loss_scale):
    """Make what the argument of :class:`Fp16OptimizerHook` describes."""
    options = loss_scale
    if isinstance(loss_scale, float):
        options = dict(mode='static', init_scale=loss_scale)
    elif loss_scale == 'dynamic':
        options = dict(mode='dynamic')
    if not isinstance(options, dict):
        raise UserError(
            "loss_scale must be a float, 'dynamic' or a dict of LossScaler's "
            f'arguments, not {loss_scale!r}'
        )
    return LossScaler(**options)


@HOOKS.register_module()
class AmpOptimizerHook(OptimizerHook):
    """Backward pass and step in mixed precision O2.

    The optimizer must have been through
    ``hourglass_npu.o2.choice.initialize``. Where that chose fp32, this is
    :class:`OptimizerHook` with accumulation. A step ends with the epoch at
    the latest.

    Args:
        grad_clip (dict | None): As for :class:`OptimizerHook`. The unscaled
            fp32 gradients of the masters are clipped.
        cumulative_iters (int): Iterations whose gradients make one step; the
            loss of each is divided by their number.

    Attributes:
        amid_step (bool): Whether gradients wait for further iterations.

    Raises:
        UserError: ``cumulative_iters`` is not a positive whole number.
    """

    def __init__(self, grad_clip=None, cumulative_iters=1):
        super().__init__(grad_clip)
        if not isinstance(cumulative_iters, int) or cumulative_iters < 1:
            raise UserError(
                f'cumulative_iters={cumulative_iters!r} must be a whole '
                'number, at least 1'
            )
        self.cumulative_iters = cumulative_iters
        self._size = self._done = 0  # iterations of the step

    @property
    def amid_step(self):
        """bool: Whether gradients wait for further iterations."""
        return self._done > 0

    def before_run(self, runner):
        """Begin with a new step.

        Raises:
            UserError: The optimizer was not prepared.
        """
        if not hasattr(runner.optimizer, 'amp_engine'):
            raise UserError(
                'AmpOptimizerHook needs an optimizer that '
                'hourglass_npu.o2.choice.initialize(model, optimizer, **amp) '
                'has prepared: call it before you make the runner, after '
                '`pip install -e mmpose-master` where the package is missing'
            )
        self._done = 0
        engine = engine_of(runner.optimizer)
        if engine is not None:
            engine.work_dir = runner.work_dir

    def after_train_iter(self, runner):
        """Compute scaled gradients, and step if this iteration completes one.

        Raises:
            AmpOverflow: Too many steps in a row have been skipped.
        """
        engine = engine_of(runner.optimizer)
        if not self._done:
            self._size = min(self.cumulative_iters, _iterations_left(runner))
            runner.optimizer.zero_grad()
        loss = runner.outputs['loss']
        if self._size > 1:
            loss = loss / self._size
        if engine is None:
            loss.backward()
            weights = runner.model.parameters()
        else:
            with engine.scale_loss(loss) as scaled_loss:
                scaled_loss.backward()
            weights = engine.master_params()
        self._done += 1
        if self._done == self._size:
            self._done = 0
            self._clip_and_log(runner, weights)
            runner.optimizer.step()

    def after_run(self, runner):
        """Learn the outcome of the last step."""
        engine = engine_of(runner.optimizer)
        if engine is not None:
            engine.finish()


def _iterations_left(runner):
    """Return the iterations that a step may still have, this one included."""
    if runner.max_epochs is None:
        return runner.max_iters - runner.iter
    return len(runner.data_loader) - runner.inner_iter


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
            take_up(f'the state of {key} in the checkpoint', load, states[key])


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
