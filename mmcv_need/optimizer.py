"""Hooks that turn a loss into a step of the optimiser.

Replaces ``mmcv/runner/hooks/optimizer.py`` of mmcv 1.2.7: the plain hook, and
mmcv's own mixed precision. Both are written as the same sequence of small
methods, so that a hook for another precision replaces the ones that differ.
"""

import copy
import functools
import importlib.util
import inspect
import logging
import os
import time
import types
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch._utils import (
    _flatten_dense_tensors,
    _take_tensors,
    _unflatten_dense_tensors,
)
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad

from ..dist_utils import allreduce_grads, get_dist_info
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


# --------------------------------------------------------------------------
# Mixed precision O2: settings
# --------------------------------------------------------------------------


class AmpOverflow(ValueError):
    """Gradients overflowed in too many iterations in a row."""


class AmpOptions:
    """The checked ``amp`` section of a config.

    Args:
        opt_level (str): ``O0`` trains in fp32. ``O2`` is Apex's: model in low
            precision, batch norm and the optimiser's weights in fp32.
        loss_scale (float | str): A static scale, or ``'dynamic'``.
        backend (str): ``apex``, ``native`` or ``auto``; ``auto`` takes Apex
            on an accelerator where a usable one is installed and the dtype
            is its float16.
        dtype (str | torch.dtype | None): ``float16`` or ``bfloat16``; None
            takes the device's own (see :func:`default_dtype`).
        loss_in_half (bool): Let a loss inside the model's ``forward`` run in
            low precision, as in Apex. By default it gets fp32 outputs and
            targets.
        max_consecutive_overflows (int): Training stops with an error when
            that many steps in a row were skipped; 0 never stops it.
        min_loss_scale (float | None): Floor of a dynamic scale.
        max_loss_scale (float): Ceiling of a dynamic scale.
        enabled (bool | None): None is on for accelerators and off on a CPU.
        **unknown: Refused by name.

    Raises:
        ValueError: A setting has no such value, or there is no such setting.
    """

    DTYPES = dict(
        float16=torch.float16,
        fp16=torch.float16,
        half=torch.float16,
        bfloat16=torch.bfloat16,
        bf16=torch.bfloat16,
    )

    def __init__(
        self,
        opt_level='O2',
        loss_scale=2.0**15,
        backend='auto',
        dtype=None,
        loss_in_half=False,
        max_consecutive_overflows=20,
        min_loss_scale=None,
        max_loss_scale=2.0**24,
        enabled=None,
        **unknown,
    ):
        if unknown:
            known = [
                name
                for name in inspect.signature(AmpOptions).parameters
                if name != 'unknown'
            ]
            raise ValueError(
                f'amp has no setting {", ".join(sorted(unknown))}: there are '
                f'{", ".join(known)}'
            )
        self.opt_level = self._one_of('opt_level', opt_level, ('O0', 'O2'))
        self.backend = self._one_of(
            'backend', backend, ('auto', 'apex', 'native')
        )
        self.loss_in_half = self._one_of(
            'loss_in_half', loss_in_half, (False, True)
        )
        self.enabled = self._one_of('enabled', enabled, (None, False, True))
        self.loss_scale = loss_scale
        if loss_scale != 'dynamic':
            self.loss_scale = self._positive(
                'loss_scale', loss_scale, "a positive number or 'dynamic'"
            )
        self.min_loss_scale = min_loss_scale
        if min_loss_scale is not None:
            self.min_loss_scale = self._positive(
                'min_loss_scale', min_loss_scale
            )
        self.max_loss_scale = self._positive('max_loss_scale', max_loss_scale)
        if (self.min_loss_scale or 0) > self.max_loss_scale:
            raise ValueError(
                f'amp.min_loss_scale={min_loss_scale!r} is above '
                f'amp.max_loss_scale={max_loss_scale!r}'
            )
        limit = max_consecutive_overflows
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(
                f'amp.max_consecutive_overflows={limit!r} must be a whole '
                'number; 0 is no limit'
            )
        self.max_consecutive_overflows = limit
        self.dtype = self._dtype(dtype)

    @staticmethod
    def _one_of(name, value, allowed):
        # With the type: 0 equals False and is not meant.
        if any(type(value) is type(a) and value == a for a in allowed):
            return value
        raise ValueError(
            f'amp.{name}={value!r} must be one of '
            f'{", ".join(map(repr, allowed))}'
        )

    @staticmethod
    def _positive(name, value, wanted='a positive number'):
        number = isinstance(value, (int, float)) and not isinstance(
            value, bool
        )
        if not number or not 0 < value < float('inf'):
            raise ValueError(f'amp.{name}={value!r} must be {wanted}')
        return float(value)

    @classmethod
    def _dtype(cls, value):
        if value is None or value in cls.DTYPES.values():
            return value
        name = str(value)
        if name not in cls.DTYPES:
            raise ValueError(
                f"amp.dtype={value!r} must be 'float16' or 'bfloat16', or "
                'None for that of the device'
            )
        return cls.DTYPES[name]

    def describe_scale(self):
        """Put the loss scale in words."""
        if self.loss_scale == 'dynamic':
            return 'dynamic'
        return f'{self.loss_scale:g} (static)'


def default_dtype(device):
    """Return the low precision of a kind of device.

    Args:
        device (torch.device): Where the model is.

    Returns:
        torch.dtype: bfloat16 on a CPU, which has units for it and none for
        float16; float16, the one of Apex, elsewhere.
    """
    return torch.bfloat16 if device.type == 'cpu' else torch.float16


def find_apex():
    """Look for an Apex that has ``apex.amp``, without importing any.

    Returns:
        tuple[bool, str]: Whether there is one, and if not, why in words.
    """
    try:
        spec = importlib.util.find_spec('apex')
    except (ImportError, ValueError):
        spec = None
    folders = list(getattr(spec, 'submodule_search_locations', None) or [])

    def has(name):
        return any(
            os.path.isfile(os.path.join(folder, name, '__init__.py'))
            for folder in folders
        )

    if spec is None:
        return False, 'no apex is installed'
    if has('amp'):
        return True, ''
    if has('multi_tensor_apply'):
        return False, (
            'the installed apex is one of NVIDIA after 25.05, which has no '
            'apex.amp'
        )
    return False, (
        "the installed apex is not NVIDIA's: PyPI's package of that name "
        'is a web toolkit of 2013'
    )


# --------------------------------------------------------------------------
# Mixed precision O2: the model
# --------------------------------------------------------------------------


def _stays_fp32(module):
    """Tell the modules that O2 does not cast: batch norm with weights."""
    return isinstance(module, _BatchNorm) and module.affine


def cast_model(model, dtype, keep=()):
    """Cast weights and buffers to low precision, in place.

    The ``Parameter`` objects stay, so an optimiser goes on knowing them.
    Batch norm without weights, and every other kind of normalisation, are
    cast like the rest: that is O2.

    Args:
        model (nn.Module): In fp32.
        dtype (torch.dtype): float16 or bfloat16.
        keep (Iterable[nn.Module]): Left as they are, with all inside them.
    """
    kept = {id(inner) for module in keep for inner in module.modules()}
    for module in model.modules():
        if _stays_fp32(module) or id(module) in kept:
            continue
        for param in module.parameters(recurse=False):
            if param.is_floating_point():
                param.data = param.data.to(dtype)
                if param.grad is not None:
                    param.grad.data = param.grad.data.to(dtype)
        for buffer in module.buffers(recurse=False):
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(dtype)
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def cast_floats(value, dtype):
    """Cast every float tensor in nested dicts, lists and tuples.

    Args:
        value (Any): Whatever is no such container or tensor is returned as
            it is: numbers, strings, ndarrays, integer tensors.
        dtype (torch.dtype | None): None changes nothing.

    Returns:
        Any: The same nesting.
    """
    if dtype is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast_floats(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(cast_floats(item, dtype) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(cast_floats(item, dtype) for item in value)
    return value


class _CastForward:
    """A module's ``forward`` between casts of what goes in and comes out.

    It is an attribute of the instance, as Apex makes it: mmpose calls
    ``forward`` directly and with keywords, where module hooks do not reach.
    """

    def __init__(self, module, inward, outward):
        self._forward = module.forward
        self._inward = inward
        self._outward = outward
        functools.update_wrapper(self, module.forward)

    def __call__(self, *args, **kwargs):
        out = self._forward(
            *cast_floats(args, self._inward),
            **cast_floats(kwargs, self._inward),
        )
        return cast_floats(out, self._outward)


def _split_loss(model):
    """Divide a model that computes its own loss.

    mmpose's detectors hold network and loss side by side, the latter in
    attributes such as ``loss`` and ``loss_mesh``.

    Args:
        model (nn.Module): Any model.

    Returns:
        tuple[list, list]: Its direct children that make up the network, and
        those that are a loss. Both are empty where it cannot be divided.
    """
    children = list(model.named_children())
    losses = [child for name, child in children if 'loss' in name]
    if not losses or any(True for _ in model.parameters(recurse=False)):
        return [], []
    network = [
        child
        for name, child in children
        if 'loss' not in name and any(True for _ in child.parameters())
    ]
    return network, losses


def _wrap_forward(model, dtype, loss_in_half):
    """Put the casts around the network, or around the whole model.

    With the loss in fp32 the casts go around the parts of the network, so
    that the loss sees fp32 outputs beside targets that were never rounded.
    Between two parts values pass through fp32 unchanged.

    Args:
        model (nn.Module): The cast model.
        dtype (torch.dtype): Its low precision.
        loss_in_half (bool): Around the whole of ``forward``, as Apex does.
    """
    network, _ = _split_loss(model)
    for part in network:
        # Half outputs would be refused by numpy (bfloat16), where mmpose
        # computes accuracy and decodes joints.
        outward = None if loss_in_half else torch.float32
        part.forward = _CastForward(part, dtype, outward)
    if loss_in_half or not network:
        model.forward = _CastForward(model, dtype, torch.float32)


def cast_for_inference(model):
    """Let a model compute in the device's low precision, as O2 trains it.

    Heatmaps come out in fp32. There are no masters: it cannot be trained
    any more, nor give its weights back unrounded.

    Args:
        model (nn.Module): In fp32, on its device; changed in place.

    Returns:
        torch.dtype: The low precision.

    Raises:
        ValueError: This torch lacks operators of it.
    """
    device = next(model.parameters()).device
    dtype = default_dtype(device)
    if device.type == 'cpu':
        _check_cpu(dtype, logging.getLogger(__name__))
    cast_model(model, dtype, _split_loss(model)[1])
    _wrap_forward(model, dtype, loss_in_half=False)
    return dtype


# --------------------------------------------------------------------------
# Mixed precision O2: many tensors at once
# --------------------------------------------------------------------------


def _copy_all(targets, sources):
    """Copy tensor by tensor, converting, in few kernels where torch can."""
    if not targets:
        return
    if hasattr(torch, '_foreach_copy_'):
        torch._foreach_copy_(targets, sources)
        return
    for target, source in zip(targets, sources):
        target.copy_(source)


def _to_fp32(tensors):
    """Return fp32 copies of tensors."""
    copies = [torch.empty_like(t, dtype=torch.float32) for t in tensors]
    _copy_all(copies, tensors)
    return copies


def _any_not_finite(grads):
    """Look for inf and NaN.

    Args:
        grads (list[Tensor]): fp32, on one device, at least one.

    Returns:
        Tensor: 1.0 or 0.0, a scalar on that device.
    """
    # A sum takes one pass and no memory. Inf and NaN never leave it; it
    # overflows by itself only where gradients are of the order of 1e30.
    total = torch.stack([grad.sum() for grad in grads]).sum()
    return (~torch.isfinite(total)).float()


def _unscale(grads, factor):
    """Multiply gradients in place, and look for overflow before.

    Args:
        grads (list[Tensor]): fp32, on one device, at least one.
        factor (float): The inverse of the loss scale.

    Returns:
        Tensor: 1.0 where one of them held inf or NaN, else 0.0; a scalar on
        that device.
    """
    device = grads[0].device
    if _has_unscale_kernel(device):
        found = torch.zeros((), device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(
            grads, found, torch.full_like(found, factor)
        )
        # On a chip that saturates torch_npu gives it a shape of (1,).
        return found.reshape(())
    found = _any_not_finite(grads)
    if factor != 1.0:
        torch._foreach_mul_(grads, factor)
    return found


@functools.lru_cache(maxsize=None)
def _has_unscale_kernel(device):
    """Try the kernel of torch's GradScaler: it looks and scales in one go."""
    one = torch.ones((), device=device)
    try:
        torch._amp_foreach_non_finite_check_and_unscale_(
            [torch.ones(1, device=device)], torch.zeros_like(one), one
        )
    except (AttributeError, NotImplementedError, RuntimeError):
        return False  # the CPU of older releases
    return True


def _flatten(tensors):
    """Copy tensors into flat ones, block by block.

    Args:
        tensors (Iterable[Tensor]): Of any shapes and dtypes.

    Yields:
        tuple[list[Tensor], Tensor]: Tensors of one dtype, together 64 MiB at
        most unless one alone is larger, and their flat copy.
    """
    for block in _take_tensors(tensors, 2**26):
        yield block, _flatten_dense_tensors(block)


def _unflatten(blocks):
    """Copy flat tensors back to where :func:`_flatten` has them from."""
    for block, flat in blocks:
        _copy_all(block, _unflatten_dense_tensors(flat, block))


# --------------------------------------------------------------------------
# Mixed precision O2: scale and overflow
# --------------------------------------------------------------------------


class AmpLossScaler:
    """Apex's loss scale: static, or halved and doubled.

    Args:
        options (AmpOptions): ``loss_scale`` and the limits of a dynamic one.

    Attributes:
        loss_scale (float): The factor on the loss.
        unskipped (int): Backward passes without overflow, since the last one
            with it or the last doubling.
    """

    INIT = 2.0**16
    FACTOR = 2.0
    WINDOW = 2000

    def __init__(self, options):
        self.dynamic = options.loss_scale == 'dynamic'
        self._min = options.min_loss_scale or 0.0
        self._max = options.max_loss_scale
        self.loss_scale = options.loss_scale
        if self.dynamic:
            self.loss_scale = min(self._max, self.INIT)
        self.unskipped = 0

    def update(self, overflow):
        """Take in the outcome of one backward pass.

        Args:
            overflow (bool): Whether its gradients held inf or NaN.
        """
        if not overflow:
            self.unskipped += 1
        elif self.dynamic:
            self.loss_scale = max(self._min, self.loss_scale / self.FACTOR)
            self.unskipped = 0
        if self.dynamic and self.unskipped == self.WINDOW:
            self.loss_scale = min(self._max, self.loss_scale * self.FACTOR)
            self.unskipped = 0


class _OverflowFlag:
    """What one backward pass found, on the device and later on the host.

    The copy to the host is put into the device's queue and read when it has
    long arrived, so that nobody waits for the queue to run dry.

    Args:
        found (Tensor): 1.0 or 0.0, a scalar on any device.
    """

    def __init__(self, found):
        self.found = found
        self._arrived = None
        self._on_host = found
        accelerator = getattr(torch, found.device.type, None)
        if found.device.type != 'cpu' and hasattr(accelerator, 'Event'):
            self._on_host = torch.empty((), dtype=found.dtype).pin_memory()
            self._on_host.copy_(found, non_blocking=True)
            self._arrived = accelerator.Event()
            self._arrived.record()

    def read(self):
        """Return it as a bool, waiting until it is here."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return bool(self._on_host.item())


def _saturation_flag(device):
    """Return the switch that tells overflow on a chip that saturates.

    The first Ascend 910 turns inf into 65504 and NaN into 0, so that nothing
    is seen in the gradients; torch_npu then knows by a flag of the device.

    Args:
        device (torch.device): Any.

    Returns:
        tuple | None: Functions that clear and that read the flag; None where
        inf and NaN show.
    """
    accelerator = getattr(torch, device.type, None)
    places = [accelerator, getattr(accelerator, 'utils', None)]

    def find(name):
        found = [getattr(place, name, None) for place in places]
        return next((f for f in found if f is not None), None)

    read = find('get_npu_overflow_flag')
    shows_inf = find('is_support_inf_nan')
    if read is None or (shows_inf is not None and shows_inf()):
        return None
    return find('clear_npu_overflow_flag'), read


# --------------------------------------------------------------------------
# Mixed precision O2: the engines
# --------------------------------------------------------------------------


class O2Engine:
    """What both engines do around a step: overflow, counts, state.

    An engine takes the place of methods of its optimiser, so that code which
    knows nothing of it (hooks, schedules, checkpoints) goes on as before::

        with engine.scale_loss(loss) as scaled_loss:
            scaled_loss.backward()
        optimizer.step()

    A step whose gradients overflowed changes nothing: neither weights nor
    what the optimiser keeps. On a CPU the host decides. On an accelerator
    the device selects between old and new values, and the host learns of it
    an iteration later, without a stop.

    Args:
        model (nn.Module): Bare, in fp32, on its device.
        optimizer (torch.optim.Optimizer): Of its parameters.
        options (AmpOptions): Checked settings.
        dtype (torch.dtype): The low precision.
        logger (logging.Logger | None): Told of skipped steps.

    Attributes:
        skipped_steps (int): Since the beginning of training.
        consecutive_overflows (int): Skipped steps since the last real one.
    """

    name = None

    def __init__(self, model, optimizer, options, dtype, logger=None):
        self.model = model
        self.optimizer = optimizer
        self.options = options
        self.dtype = dtype
        self.logger = logger or logging.getLogger(__name__)
        self.skipped_steps = 0
        self.consecutive_overflows = 0
        self.device = next(model.parameters()).device
        self.selects_on_device = self.device.type != 'cpu'
        self._saturation = _saturation_flag(self.device)
        # Tried now: on a chip that saturates, the kernel clears the flag, and
        # must not do so between a backward pass and its own use.
        _has_unscale_kernel(self.device)
        self._flags = []  # of the passes since the last step
        self._open_step = None  # taken, outcome not read yet
        self._stepped = set()  # ids of weights whose state exists
        self._by_param = {}
        self._set_up()
        self._give_masters_to_state_dict()
        self._take_over_optimizer()

    # What differs between the engines.

    def _set_up(self):
        """Cast the model and wrap its forward."""
        raise NotImplementedError

    def pairs(self):
        """Return the trained low-precision weights and their fp32 masters.

        Creates the masters if need be.

        Returns:
            tuple[list[Parameter], list[Parameter]]: In the same order.
        """
        raise NotImplementedError

    def scale_loss(self, loss):
        """Scale a loss; afterwards unscale what its backward pass left.

        Args:
            loss (Tensor): In any precision, usually a scalar.

        Returns:
            ContextManager: Gives the scaled fp32 loss. At its end the
            masters' gradients are unscaled and added to what was there.
        """
        raise NotImplementedError

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        raise NotImplementedError

    def _scaler_state(self):
        raise NotImplementedError

    def _load_scaler_state(self, state):
        raise NotImplementedError

    def _make_step(self):
        """Step, and bring the masters' new values into the model."""
        raise NotImplementedError

    def _drop_grads(self):
        """Forget the masters' gradients."""
        for master in self.pairs()[1]:
            master.grad = None

    # The weights that the optimiser has.

    def master_params(self):
        """Return the weights that are stepped, all in fp32: clip these."""
        self.pairs()
        return _weights_of(self.optimizer)

    def _take_over_optimizer(self):
        optimizer = self.optimizer
        optimizer._amp_engine = self
        self._plain_step = optimizer.step
        self._plain_state_dict = optimizer.state_dict
        self._plain_load = optimizer.load_state_dict

        # Bound methods, since torch's schedules want ``__func__``.
        def step(optimizer, closure=None):
            return self._step(closure)

        def state_dict(optimizer):
            self.settle()
            return self._plain_state_dict()

        def load_state_dict(optimizer, state_dict):
            # torch casts moments to the precision of the weights: these have
            # to be the masters.
            self.pairs()
            self.settle()
            result = self._plain_load(state_dict)
            self._stepped.clear()
            return result

        for method in (step, state_dict, load_state_dict):
            name = method.__name__
            setattr(optimizer, name, types.MethodType(method, optimizer))

    # Stepping.

    def _step(self, closure):
        if closure is not None:
            raise ValueError('mixed precision O2 steps without a closure')
        self.pairs()
        self._close_step()
        self._stop_if_hopeless()
        flags, self._flags = self._flags, []
        ready = all(
            id(param) in self._stepped
            for param in _weights_of(self.optimizer)
            if param.grad is not None
        )
        if flags and self.selects_on_device and ready:
            self._step_by_device(flags)
            return
        overflow = self._learn(flags)
        if overflow:
            self._drop_grads()
        else:
            self._stepped.update(
                id(param)
                for param in _weights_of(self.optimizer)
                if param.grad is not None
            )
            self._make_step()
        self._count(overflow)
        self._stop_if_hopeless()

    def _step_by_device(self, flags):
        """Step, then take back on the device what must not have been.

        Args:
            flags (list[_OverflowFlag]): Those of this step's passes.
        """
        found = flags[0].found
        for flag in flags[1:]:
            found = torch.max(found, flag.found)
        scalars, numbers = self._on_host()
        scalars = list(_flatten(scalars))
        if getattr(self.optimizer, '_step_supports_amp_scaling', False):
            # torch's fused optimisers do nothing where this is 1.
            self.optimizer.grad_scale = None
            self.optimizer.found_inf = found
            try:
                self._make_step()
            finally:
                del self.optimizer.grad_scale, self.optimizer.found_inf
        else:
            overflow = found != 0
            kept = list(_flatten(self._values()))
            self._make_step()
            for (_, old), (block, new) in zip(kept, _flatten(self._values())):
                _unflatten([(block, torch.where(overflow, old, new))])
        # What lies on the host has gone on. Should the step turn out not to
        # have been, what has changed is set back.
        numbers = [
            (place, key, old)
            for place, key, old in numbers
            if place[key] != old
        ]
        self._open_step = (flags, scalars, numbers)

    def _values(self):
        """Return all tensors on the device that a step changes."""
        weights = _weights_of(self.optimizer)
        values = [weight.data for weight in weights if weight.requires_grad]
        values += [param.data for param in self.pairs()[0]]
        for weight in weights:
            values += [
                value
                for value in self.optimizer.state.get(weight, {}).values()
                if _is_on(value, self.device)
            ]
        return values

    def _on_host(self):
        """Return what a step changes on the host, such as its number.

        Returns:
            tuple[list, list]: Scalar tensors; and place, key and value of
            plain numbers.
        """
        places = list(self.optimizer.param_groups)
        places += [
            self.optimizer.state[weight]
            for weight in _weights_of(self.optimizer)
            if weight in self.optimizer.state
        ]
        scalars, numbers = [], []
        for place in places:
            for key, value in place.items():
                if isinstance(value, (int, float)):
                    numbers.append((place, key, value))
                elif isinstance(value, torch.Tensor):
                    if not _is_on(value, self.device):
                        scalars.append(value)
        return scalars, numbers

    def settle(self):
        """Learn all that the host does not know yet, waiting for it.

        Called before something depends on it, such as a checkpoint.
        """
        self._close_step()

    def finish(self):
        """Learn the outcome of the last step of a run.

        Raises:
            AmpOverflow: It was one skipped step too many.
        """
        self.settle()
        self._stop_if_hopeless()

    def _close_step(self):
        """Learn the outcome of a step that the device decided upon.

        By the time of the next step it has long arrived.
        """
        if self._open_step is None:
            return
        (flags, scalars, numbers), self._open_step = self._open_step, None
        overflow = self._learn(flags)
        if overflow:
            _unflatten(scalars)
            for place, key, old in numbers:
                place[key] = old
        self._count(overflow)

    def _with_saturation(self, found):
        """Join what a saturating chip knows to what the gradients show.

        There the flag is one process's own, while an inf would have come to
        all of them with the averaged gradients.
        """
        if self._saturation is None:
            return found
        if self._saturation[1]():
            found = torch.ones_like(found)
        if get_dist_info()[1] > 1:
            torch.distributed.all_reduce(
                found, op=torch.distributed.ReduceOp.MAX
            )
        return found

    def _learn(self, flags):
        """Read flags in the order of their passes.

        Returns:
            bool: Whether there was an overflow in one of them.
        """
        # All of them, hence no generator.
        return any([flag.read() for flag in flags])

    def overflow_waits(self):
        """Tell whether one of the passes since the last step overflowed.

        Returns:
            bool: Then the next step will be skipped.
        """
        return any([flag.read() for flag in self._flags])

    def expect_overflow(self):
        """Skip the next step: one of its passes, before a stop, overflowed."""
        self._flags.append(_OverflowFlag(torch.ones((), device=self.device)))

    def _count(self, overflow):
        if not overflow:
            self.consecutive_overflows = 0
            return
        self.skipped_steps += 1
        self.consecutive_overflows += 1
        self.logger.warning(
            f'Gradients overflow: step skipped ({self.skipped_steps} so far, '
            f'{self.consecutive_overflows} in a row), loss scale '
            f'{self.loss_scale:g}'
        )

    def _stop_if_hopeless(self):
        limit = self.options.max_consecutive_overflows
        if limit and self.consecutive_overflows >= limit:
            remedy = 'Look at the learning rate and the data'
            if self.options.loss_scale != 'dynamic':
                remedy = (
                    "Lower amp.loss_scale or set it to 'dynamic', or look at "
                    'the learning rate and the data'
                )
            raise AmpOverflow(
                f'gradients overflowed in {self.consecutive_overflows} steps '
                f'in a row at loss scale {self.loss_scale:g}; all of them '
                f'were skipped (amp.max_consecutive_overflows). {remedy}'
            )

    # State.

    def state_dict(self):
        """Return the scaler's state in Apex's form, and more.

        Returns:
            dict: ``loss_scaler0`` with ``loss_scale``, ``unskipped`` (all
            that Apex reads), ``skipped_steps``, ``consecutive_overflows`` and
            ``configured``, the scale that the config asks for.
        """
        self.settle()
        return {
            'loss_scaler0': dict(
                self._scaler_state(),
                skipped_steps=self.skipped_steps,
                consecutive_overflows=self.consecutive_overflows,
                configured=self.options.loss_scale,
            )
        }

    def load_state_dict(self, state_dict):
        """Take over a state, Apex's own too.

        As in Apex, even a static scale is overwritten; but not if the config
        asks for another scale than it did when the state was saved.

        Args:
            state_dict (dict): As from :meth:`state_dict` or ``apex.amp``.

        Raises:
            ValueError: It is neither.
        """
        state = state_dict.get('loss_scaler0', {})
        if not {'loss_scale', 'unskipped'} <= set(state):
            raise ValueError(
                'the mixed-precision state of the checkpoint has no '
                "'loss_scaler0' with 'loss_scale' and 'unskipped'; it has "
                f'{sorted(state_dict)}'
            )
        self.settle()
        self._flags = []
        self.skipped_steps = state.get('skipped_steps', 0)
        if state.get('configured', self.options.loss_scale) != (
            self.options.loss_scale
        ):
            self.consecutive_overflows = 0
            self.logger.info(
                f'Loss scale {self.options.describe_scale()} as the config '
                f'asks now, not {state["loss_scale"]:g} of the checkpoint'
            )
            return
        before = self.loss_scale
        self._load_scaler_state(state)
        # A run that has stopped for them may go on with one more try.
        count = state.get('consecutive_overflows', 0)
        limit = self.options.max_consecutive_overflows
        self.consecutive_overflows = min(count, limit - 1) if limit else count
        if self.loss_scale != before:
            self.logger.info(
                f'Loss scale {self.loss_scale:g} from the checkpoint instead '
                f'of {before:g}'
            )

    def __deepcopy__(self, memo):
        # A model's hooks lead here. Its copy has no masters of its own.
        return self

    def _masters_by_param(self):
        low, masters = self.pairs()
        if len(self._by_param) != len(low):
            self._by_param = {id(p): m for p, m in zip(low, masters)}
        return self._by_param

    def _give_masters_to_state_dict(self):
        """Let the model save and load its weights in fp32.

        What is saved are the masters, not their rounded copies; and what is
        loaded goes into the masters unrounded. So a resumed run goes on from
        the very bits.
        """
        for module in self.model.modules():
            module._register_state_dict_hook(self._save_fp32)
            module._register_load_state_dict_pre_hook(
                functools.partial(self._load_fp32, module)
            )

    def _save_fp32(self, module, state_dict, prefix, local_metadata):
        self.settle()
        masters = self._masters_by_param() if self._has_masters() else {}
        for name, value in _own_floats(module):
            if prefix + name in state_dict and value.dtype == self.dtype:
                value = masters.get(id(value), value)
                state_dict[prefix + name] = value.detach().float()

    def _load_fp32(self, module, state_dict, prefix, *_):
        self.settle()
        masters = self._masters_by_param()
        for name, value in _own_floats(module):
            loaded = state_dict.get(prefix + name)
            master = masters.get(id(value))
            if master is not None and loaded is not None:
                if loaded.shape == master.shape:
                    master.data.copy_(loaded)

    def _has_masters(self):
        return True


def _is_on(value, device):
    return isinstance(value, torch.Tensor) and value.device == device


def _own_floats(module):
    """Return names and values of a module's own float weights, buffers."""
    own = list(module._parameters.items()) + list(module._buffers.items())
    return [
        (name, value)
        for name, value in own
        if value is not None and value.is_floating_point()
    ]


class NativeO2(O2Engine):
    """O2 on stock torch, in Apex's arithmetic to the bit.

    Low-precision gradients are converted to fp32 *and then* multiplied by
    the inverse of the scale; those of several backward passes are added in
    the masters. Weights that are in fp32 already (batch norm) have no
    masters.
    """

    name = 'native'

    def _set_up(self):
        self.scaler = AmpLossScaler(self.options)
        self._low, self._masters, self._full = [], [], []
        self._ready = False
        keep = []
        if not self.options.loss_in_half:
            keep = _split_loss(self.model)[1]
        cast_model(self.model, self.dtype, keep)
        _wrap_forward(self.model, self.dtype, self.options.loss_in_half)
        self._unread = []  # flags that the scaler does not know yet

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        return self.scaler.loss_scale

    def _has_masters(self):
        return self._ready

    def pairs(self):
        """Return the trained low-precision weights and their masters."""
        if not self._ready:
            self._ready = True
            for group in self.optimizer.param_groups:
                self._adopt(group)
        return self._low, self._masters

    def _adopt(self, group):
        """Put masters into a parameter group, and note what it trains.

        What the optimiser knows of a weight goes over to its master. Frozen
        weights stay.

        Args:
            group (dict): Of the optimiser; its ``params`` is a list.
        """
        for i, param in enumerate(group['params']):
            if not param.requires_grad:
                continue
            param_is_low = param.dtype == self.dtype
            if not param_is_low and param.dtype != torch.float32:
                raise ValueError(
                    'mixed precision O2 trains weights in fp32 or '
                    f'{self.dtype}, not in {param.dtype}'
                )
            if not param_is_low:
                param.grad = None
                self._full.append(param)
                continue
            master = param.detach().clone().float().requires_grad_()
            group['params'][i] = master
            self._low.append(param)
            self._masters.append(master)
            if param in self.optimizer.state:
                self.optimizer.state[master] = cast_floats(
                    self.optimizer.state.pop(param), torch.float32
                )

    def _take_over_optimizer(self):
        super()._take_over_optimizer()
        optimizer = self.optimizer
        plain_add = optimizer.add_param_group

        def zero_grad(optimizer, set_to_none=False):
            self.pairs()
            for param in self._low + self._full:
                if param.grad is None:
                    continue
                if set_to_none:
                    param.grad = None
                else:
                    # Not detach_(): it may be a view of DDP's bucket.
                    param.grad.requires_grad_(False)
                    param.grad.zero_()
            self._drop_grads()

        def add_param_group(optimizer, param_group):
            self.pairs()
            group = dict(param_group)
            params = group['params']
            single = isinstance(params, torch.Tensor)
            if not single and not isinstance(params, (list, tuple)):
                params = list(params)
            group['params'] = [params] if single else list(params)
            self._adopt(group)
            plain_add(group)

        for method in (zero_grad, add_param_group):
            name = method.__name__
            setattr(optimizer, name, types.MethodType(method, optimizer))

    @contextmanager
    def scale_loss(self, loss):
        """Scale a loss; afterwards unscale what its backward pass left."""
        self.pairs()
        if self.scaler.dynamic:
            self._learn(list(self._unread))
        for param in self._low:
            param.grad = None
        stash = self._take_full_grads()
        if self._saturation is not None:
            self._saturation[0]()
        yield loss.float() * self.scaler.loss_scale
        found = self._unscale_grads(stash)
        if found is not None:
            flag = _OverflowFlag(self._with_saturation(found))
            self._flags.append(flag)
            self._unread.append(flag)
        if not self.selects_on_device:
            self._learn(list(self._unread))

    def _take_full_grads(self):
        """Take away what the fp32 weights have gathered in earlier passes.

        Returns:
            list[Tensor | None]: Copies, since DistributedDataParallel may
            have moved them into its buckets, which are written over.
        """
        taken = [param for param in self._full if param.grad is not None]
        copies = dict(zip(taken, _to_fp32([p.grad for p in taken])))
        for param in taken:
            param.grad = None
        return [copies.get(param) for param in self._full]

    def _unscale_grads(self, stash):
        """Bring gradients into the masters, unscaled.

        Args:
            stash (list[Tensor | None]): What the fp32 weights had before.

        Returns:
            Tensor | None: 1.0 or 0.0: whether there was an overflow, a
            scalar on the device; None if there was no gradient.
        """
        fresh, owners, before = [], [], []
        for param, master in zip(self._low, self._masters):
            if param.grad is not None:
                fresh.append(param.grad)
                owners.append(master)
                before.append(master.grad)
        for param, earlier in zip(self._full, stash):
            if param.grad is None:
                param.grad = earlier
            else:
                fresh.append(param.grad)
                owners.append(param)
                before.append(earlier)
        if not fresh:
            return None
        fresh = _to_fp32(fresh)
        with torch.no_grad():
            found = _unscale(fresh, 1.0 / self.scaler.loss_scale)
            sums = [(f, b) for f, b in zip(fresh, before) if b is not None]
            if sums:
                torch._foreach_add_(
                    [new for new, _ in sums], [old for _, old in sums]
                )
        for owner, grad in zip(owners, fresh):
            owner.grad = grad
        return found

    def _learn(self, flags):
        """Read flags, and let the scale follow those that are new to it."""
        for flag in flags:
            if flag in self._unread:
                self._unread.remove(flag)
                self.scaler.update(flag.read())
        return super()._learn(flags)

    def settle(self):
        """Learn all that the host does not know yet, waiting for it."""
        super().settle()
        self._learn(list(self._unread))

    def _make_step(self):
        self._plain_step()
        with torch.no_grad():
            _copy_all([param.data for param in self._low], self._masters)
        self._drop_grads()

    def _scaler_state(self):
        return dict(
            loss_scale=self.scaler.loss_scale, unskipped=self.scaler.unskipped
        )

    def _load_scaler_state(self, state):
        self.scaler.loss_scale = state['loss_scale']
        self.scaler.unskipped = state['unskipped']


class ApexO2(O2Engine):
    """O2 by an installed Apex, with what this module does better around it.

    These are the loss in fp32, the check of a static scale, and the masters
    in checkpoints.
    """

    name = 'apex'

    def _set_up(self):
        from apex import amp

        self._amp = amp
        self._before_skip = None  # the step that Apex will put back
        # The fused optimisers of Ascend's Apex hold gradients in one block
        # for good, and count steps where only the host can take them back.
        self._gathers = getattr(
            self.optimizer, 'is_npu_fused_optimizer', False
        )
        self.selects_on_device &= not self._gathers
        options = self.options
        amp.initialize(
            self.model,
            self.optimizer,
            opt_level='O2',
            loss_scale=options.loss_scale,
            min_loss_scale=options.min_loss_scale,
            max_loss_scale=options.max_loss_scale,
            verbosity=0,
        )
        if not options.loss_in_half and _split_loss(self.model)[0]:
            # Ours instead of the casts that Apex has put around everything.
            del self.model.forward
            _wrap_forward(self.model, self.dtype, False)

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        return self._scaler_state()['loss_scale']

    def _stash(self):
        return self.optimizer._amp_stash

    def _has_masters(self):
        # Not its lazy_init_called: that is late for the load_state_dict by
        # which Apex itself ends the making of masters.
        return hasattr(self._stash(), 'all_fp32_from_fp32_grad_stash')

    def pairs(self):
        """Return the trained low-precision weights and their masters."""
        if not self._has_masters():
            self.optimizer._amp_lazy_init()
        stash = self._stash()
        return stash.all_fp16_params, stash.all_fp32_from_fp16_params

    @contextmanager
    def scale_loss(self, loss):
        """Scale a loss; afterwards look at what its backward pass left."""
        step = vars(self.optimizer)['step']
        if self._before_skip is step:
            self._before_skip = None  # the step that does nothing was made
        static = self.options.loss_scale != 'dynamic'
        if static and self._saturation is not None:
            self._saturation[0]()
        self._leave_buckets()
        with self._amp.scale_loss(loss, self.optimizer) as scaled_loss:
            yield scaled_loss
        self._leave_buckets(forget=True)
        if vars(self.optimizer)['step'] is not step:
            # Apex has seen an overflow, and has replaced the next step.
            self._before_skip, self._flags = step, []
            self._count(True)
            self._stop_if_hopeless()
        elif static and self._before_skip is None:
            self._check_static_scale()

    def _leave_buckets(self, forget=False):
        """Take gradients out of the buckets of DistributedDataParallel.

        These are written over while Apex keeps what lies in them; and Apex
        detaches gradients in place, which views of a bucket refuse.

        Args:
            forget (bool): Drop the half gradients, after they were used;
                else copy the fp32 ones, before they are kept.
        """
        if get_dist_info()[1] == 1 or self._gathers:
            return
        low = self.pairs()[0]
        full = self._stash().all_fp32_from_fp32_params
        for param in low if forget else full:
            if param.grad is not None:
                param.grad = None if forget else param.grad.clone()

    def _check_static_scale(self):
        """Look for the overflow that Apex looks for in a dynamic one only."""
        grads = [w.grad for w in self.master_params() if w.grad is not None]
        if grads:
            found = self._with_saturation(_any_not_finite(grads))
            self._flags.append(_OverflowFlag(found))

    def _drop_grads(self):
        if not self._gathers:
            super()._drop_grads()

    def _make_step(self):
        self._plain_step()

    def _scaler_state(self):
        return self._amp.state_dict()['loss_scaler0']

    def _load_scaler_state(self, state):
        state = {key: state[key] for key in ('loss_scale', 'unskipped')}
        self._amp.load_state_dict({'loss_scaler0': state})


def engine_of(optimizer):
    """Return the engine that :func:`initialize` has given an optimiser.

    Returns:
        O2Engine | None: None where training is in the model's own precision.
    """
    return getattr(optimizer, '_amp_engine', None)


def initialize(model, optimizer, logger=None, **amp):
    """Prepare a model and its optimiser for mixed precision, in place.

    To be called after the model has gone to its device, and before it goes
    into a parallel wrapper and before a checkpoint is loaded.

    Args:
        model (nn.Module): Bare, in fp32.
        optimizer (torch.optim.Optimizer): Of its parameters.
        logger (logging.Logger | None): Told which engine, precision and scale
            are used, and later of skipped steps.
        **amp: As for :class:`AmpOptions`.

    Returns:
        O2Engine | None: None where the settings or the device say fp32.

    Raises:
        ValueError: A setting is wrong, what was asked for is not there, or
            model or optimiser are not as they should be.
    """
    options = AmpOptions(**amp)
    logger = logger or logging.getLogger(__name__)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            'mixed precision O2 takes one optimiser, not '
            f'{type(optimizer).__name__}: set amp.opt_level to O0'
        )
    if engine_of(optimizer) is not None or hasattr(optimizer, '_amp_stash'):
        raise ValueError('this optimiser has been through initialize before')
    if hasattr(model, 'module'):
        raise ValueError(
            f'initialize takes the bare model; wrap it in '
            f'{type(model).__name__} afterwards'
        )
    device = next(model.parameters()).device
    if options.opt_level == 'O0' or options.enabled is False:
        logger.info(f'Mixed precision: off, fp32 on {device}')
        return None
    if options.enabled is None and device.type == 'cpu':
        logger.info(
            'Mixed precision: off on a CPU unless asked for (amp.enabled, '
            '--amp); fp32'
        )
        return None
    for name, param in model.named_parameters():
        if param.is_floating_point() and param.dtype != torch.float32:
            raise ValueError(
                f'{name} is in {param.dtype}: mixed precision starts from a '
                'model in fp32'
            )

    _share_weights(model)
    dtype = options.dtype or default_dtype(device)
    engine_class = _choose_engine(options, optimizer, device, dtype)
    if device.type == 'cpu':
        _check_cpu(dtype, logger)
    engine = engine_class(model, optimizer, options, dtype, logger)
    network, _ = _split_loss(model)
    loss = 'in fp32' if network and not options.loss_in_half else 'as in Apex'
    logger.info(
        f'Mixed precision: O2, {engine.name} engine, '
        f'{str(dtype).split(".")[1]} on {device}, loss scale '
        f'{options.describe_scale()}, loss {loss}'
    )
    return engine


def _share_weights(model):
    """Give every process the weights and buffers of rank 0.

    DistributedDataParallel does so too, but in torch 1.8 by way of the state
    dict, which under O2 holds copies.

    Args:
        model (nn.Module): In fp32; changed in place.
    """
    if get_dist_info()[1] == 1:
        return
    tensors = [p.data for p in model.parameters()] + list(model.buffers())
    for block, flat in _flatten(tensors):
        torch.distributed.broadcast(flat, 0)
        _unflatten([(block, flat)])


def _choose_engine(options, optimizer, device, dtype):
    """Decide between Apex and the native engine.

    Raises:
        ValueError: The engine that was asked for cannot do it.
    """
    kind = type(optimizer).__name__
    if getattr(optimizer, 'is_fused_optimizer', False):
        # It gathers weights and gradients in one block at its first step, and
        # never looks at gradients that are made later.
        raise ValueError(
            f'{kind} of torch_npu cannot serve mixed precision O2: use the '
            'optimiser of torch of that kind, or set amp to None'
        )
    there, reason = find_apex()
    if options.backend == 'native':
        there = False
    if there and device.type == 'cpu':
        there, reason = False, 'Apex does not run on a CPU'
    if there and dtype != torch.float16:
        there, reason = False, f'O2 of Apex is float16, not {dtype}'
    if there:
        return ApexO2
    if options.backend == 'apex':
        raise ValueError(
            f"amp.backend='apex', but {reason}. Use 'native' or 'auto', or "
            "install Ascend's Apex, or NVIDIA's up to 25.05"
        )
    if getattr(optimizer, 'is_npu_fused_optimizer', False):
        raise ValueError(
            f"{kind} works with Ascend's Apex only, and amp.backend='apex': "
            'use the optimiser of torch of that kind'
        )
    return NativeO2


def _check_cpu(dtype, logger):
    """See whether a CPU can do O2, and whether it will be fast.

    Args:
        dtype (torch.dtype): The low precision.
        logger (logging.Logger): Warned where it will be slow.

    Raises:
        ValueError: This torch lacks operators.
    """
    name = str(dtype).split('.')[1]
    try:
        _try_operators(dtype)
    except RuntimeError as error:
        raise ValueError(
            f'torch {torch.__version__} has no mixed precision in {name} on '
            f'a CPU ({error}): use a newer torch, or leave amp off'
        ) from None
    gain = _cpu_gain(dtype)
    if gain < 1:
        logger.warning(
            f'Convolutions in {name} take {1 / gain:.1f} times as long as in '
            'fp32 on this CPU, which has no fast units for it: training '
            'without mixed precision will be faster'
        )
    else:
        logger.info(
            f'Convolutions in {name} are {gain:.1f} times as fast as in fp32 '
            'on this CPU'
        )


@torch.enable_grad()
def _try_operators(dtype):
    """Run the operators of a network once, tiny, drawing no random number."""
    image = torch.ones(2, 2, 4, 4, dtype=dtype, requires_grad=True)
    kernel = torch.ones(2, 2, 3, 3, dtype=dtype, requires_grad=True)
    ones = torch.ones(2)
    maps = nn.functional.conv2d(image, kernel, padding=1)
    maps = nn.functional.batch_norm(
        maps, torch.zeros(2), ones.clone(), ones, ones, training=True
    )
    maps = nn.functional.max_pool2d(maps.relu(), 2)
    maps = nn.functional.interpolate(maps, scale_factor=2) + maps.mean()
    maps.float().sum().backward()


def _cpu_gain(dtype):
    """Measure how much faster a convolution is than in fp32.

    The names of a CPU's features do not tell: one and the same bfloat16 unit
    gains twofold in one chip and loses in the next.

    Returns:
        float: Above 1 if it is faster. Takes some 0.1 s.
    """
    best = {}
    for _ in range(4):  # in turn, and the best of it: others compute too
        for kind in (torch.float32, dtype):
            image = torch.ones(1, 128, 32, 32, dtype=kind)
            kernel = torch.ones(128, 128, 3, 3, dtype=kind)
            start = time.perf_counter()
            nn.functional.conv2d(image, kernel, padding=1)
            spent = time.perf_counter() - start
            best[kind] = min(spent, best.get(kind, spent))
    return best[torch.float32] / best[dtype]


@HOOKS.register_module()
class AmpOptimizerHook(OptimizerHook):
    """Backward pass and step in mixed precision O2, by either engine.

    Works with an optimiser that has been through :func:`initialize`. Where
    that left it in fp32, this is :class:`OptimizerHook` with accumulation.

    Args:
        grad_clip (dict | None): As for :class:`OptimizerHook`. The unscaled
            fp32 gradients of the masters are clipped.
        cumulative_iters (int): Iterations whose gradients make one step; the
            loss of each is divided by their number.

    Raises:
        ValueError: ``cumulative_iters`` is not a positive whole number.
    """

    def __init__(self, grad_clip=None, cumulative_iters=1):
        super().__init__(grad_clip)
        if not isinstance(cumulative_iters, int) or cumulative_iters < 1:
            raise ValueError(
                f'cumulative_iters={cumulative_iters!r} must be a whole '
                'number from 1 on'
            )
        self.cumulative_iters = cumulative_iters
        self._waiting = None  # optimiser and next iteration, amid a step
        self._resumed = {}  # state_dict() of the run that goes on

    def after_train_iter(self, runner):
        """Compute scaled gradients, and step if this iteration completes one.

        Raises:
            AmpOverflow: Too many steps in a row have been skipped.
        """
        first, count, last = self._place(runner)
        engine = engine_of(runner.optimizer)
        if first:
            runner.optimizer.zero_grad()
        elif self._waiting is None:
            self._put_back(runner, engine)
        loss = runner.outputs['loss']
        if count > 1:
            loss = loss / count
        if engine is None:
            loss.backward()
            weights = runner.model.parameters()
        else:
            with engine.scale_loss(loss) as scaled_loss:
                scaled_loss.backward()
            weights = engine.master_params()
        self._waiting = None if last else (runner.optimizer, runner.iter + 1)
        if last:
            self._clip_and_log(runner, weights)
            with _naming_checkpoint(runner):
                runner.optimizer.step()

    def state_dict(self):
        """Return the gradients that wait for more passes.

        They are the same on all ranks: each pass averages them.

        Returns:
            dict: Empty between steps. Else ``gradients``, fp32 on the CPU, in
            the order of the optimiser's weights; ``overflow``, whether they
            are void; ``passes``, the iterations of a step; and ``iter``, the
            number of the next iteration, from 0.
        """
        if self._waiting is None:
            return {}
        optimizer, iteration = self._waiting
        engine = engine_of(optimizer)
        return dict(
            # Copies: a view of DDP's bucket would be saved with all of it.
            gradients=[
                None if w.grad is None else w.grad.detach().cpu().clone()
                for w in _weights_of(optimizer)
            ],
            overflow=engine is not None and engine.overflow_waits(),
            passes=self.cumulative_iters,
            iter=iteration,
        )

    def load_state_dict(self, state):
        """Take over what :meth:`state_dict` returned."""
        self._resumed = state

    def _put_back(self, runner, engine):
        """Begin in the midst of a step with what was gathered for it."""
        state = self._resumed
        weights = (
            _weights_of(runner.optimizer)
            if engine is None
            else engine.master_params()
        )
        place = (runner.iter, self.cumulative_iters, len(weights))
        saved = state.get('gradients', ())
        if place != (state.get('iter'), state.get('passes'), len(saved)):
            runner.logger.warning(
                'The checkpoint holds no gradients for iteration %d, which '
                'is not the first of a step of %d: this step is made of those '
                'that follow',
                runner.iter + 1,
                self.cumulative_iters,
            )
            return
        for weight, grad in zip(weights, saved):
            weight.grad = None if grad is None else grad.to(weight.device)
        if state['overflow']:
            engine.expect_overflow()

    def after_run(self, runner):
        """Learn the outcome of the last step."""
        engine = engine_of(runner.optimizer)
        if engine is not None:
            with _naming_checkpoint(runner):
                engine.finish()

    def _place(self, runner):
        """Find the iteration's place in its group.

        Returns:
            tuple[bool, int, bool]: Whether it is the first one, how many
            there are, whether it is the last one. The last group of the run
            may be shorter.
        """
        size = self.cumulative_iters
        index = runner.iter % size
        count = min(size, max(runner.max_iters - runner.iter + index, 1))
        return index == 0, count, index + 1 == count


@contextmanager
def _naming_checkpoint(runner):
    """Add to an overflow error where the last good checkpoint is."""
    try:
        yield
    except AmpOverflow as error:
        latest = os.path.join(runner.work_dir or '', 'latest.pth')
        where = 'There is no checkpoint of this run'
        if os.path.exists(latest):
            where = f'The last good checkpoint is {os.path.realpath(latest)}'
        raise AmpOverflow(f'{error}. {where}') from None
