"""Hooks that turn a loss into a step of the optimiser.

Replaces ``mmcv/runner/hooks/optimizer.py`` of mmcv 1.2.7: the plain hook, and
mmcv's own mixed precision. Both are written as the same sequence of small
methods, so that a hook for another precision replaces the ones that differ.
"""

import copy
from collections import defaultdict

from torch.nn.utils import clip_grad

from ..dist_utils import allreduce_grads
from ..fp16_utils import LossScaler, wrap_fp16_model
from .hook import HOOKS, Hook


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
    """mmcv's mixed precision: half weights, fp32 weights in the optimiser.

    The loss is scaled before the backward pass; gradients are copied to the
    fp32 weights, averaged over processes, unscaled and clipped there; after
    the step the fp32 weights are copied to the model. Normalisation layers
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
        ValueError: ``loss_scale`` is none of these.
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
        """Give the optimiser its fp32 weights, then halve the model.

        What the optimiser knows about a weight goes on with its copy.
        """
        optimizer = runner.optimizer
        ours = _weights_of(optimizer)
        optimizer.param_groups = copy.deepcopy(optimizer.param_groups)
        copy_of = dict(zip(ours, _weights_of(optimizer)))
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
        # Both: the optimiser holds weights of its own.
        runner.model.zero_grad()
        runner.optimizer.zero_grad()
        (runner.outputs['loss'] * scaler.loss_scale).backward()

        weights = _weights_of(runner.optimizer)
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


def _weights_of(optimizer):
    """Return the weights in all groups of an optimiser, in their order."""
    return [p for group in optimizer.param_groups for p in group['params']]


def _make_scaler(loss_scale):
    """Make what the argument of :class:`Fp16OptimizerHook` describes."""
    options = loss_scale
    if isinstance(loss_scale, float):
        options = dict(mode='static', init_scale=loss_scale)
    elif loss_scale == 'dynamic':
        options = dict(mode='dynamic')
    if not isinstance(options, dict):
        raise ValueError(
            "loss_scale must be a float, 'dynamic' or a dict of LossScaler's "
            f'arguments, not {loss_scale!r}'
        )
    return LossScaler(**options)
