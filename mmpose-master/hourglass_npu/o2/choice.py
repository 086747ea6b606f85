"""Mixed precision O2: prepare model and optimizer, choose an engine."""

import logging

import torch
from mmcv.runner.dist_utils import get_dist_info
from mmcv.runner.hooks.optimizer import engine_of

from hourglass_npu.errors import UserError
from hourglass_npu.o2.apex import ApexO2
from hourglass_npu.o2.casting import split_loss
from hourglass_npu.o2.native import NativeO2
from hourglass_npu.o2.operators import check_operators
from hourglass_npu.o2.settings import AmpOptions, default_dtype, find_apex
from hourglass_npu.o2.tensors import flatten, unflatten


def initialize(model, optimizer, logger=None, **amp):
    """Prepare a model and its optimizer for mixed precision, in place.

    Call it when the model is on its device: before a parallel wrapper takes
    the model, and before a checkpoint is loaded. The engine becomes
    ``optimizer.amp_engine``, where mmcv's hooks and runners find it.

    Args:
        model (nn.Module): Bare, in fp32.
        optimizer (torch.optim.Optimizer): Of its parameters.
        logger (logging.Logger | None): Gets engine, precision and scale now,
            and skipped steps later.
        **amp: As for :class:`AmpOptions`.

    Returns:
        O2Engine | None: None where the settings or the device say fp32.

    Raises:
        UserError: A setting is wrong or cannot be met here, or the model or
            the optimizer does not fit.
    """
    options = AmpOptions(**amp)
    logger = logger or logging.getLogger(__name__)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            'mixed precision O2 takes one optimizer, not '
            f'{type(optimizer).__name__}: set amp to None'
        )
    if engine_of(optimizer) is not None or hasattr(optimizer, '_amp_stash'):
        raise UserError('this optimizer has been through initialize before')
    if hasattr(model, 'module'):
        raise UserError(
            f'initialize takes the bare model; wrap it in '
            f'{type(model).__name__} afterwards'
        )
    optimizer.amp_engine = None  # prepared: fp32, unless an engine follows
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
            raise UserError(
                f'{name} is in {param.dtype}: mixed precision starts from a '
                'model in fp32'
            )

    _share_weights(model)
    dtype = options.dtype or default_dtype(device)
    engine_class = choose_engine(options, optimizer, device, dtype)
    if device.type == 'cpu':
        check_operators(dtype)
    engine = engine_class(model, optimizer, options, dtype, logger)
    network, _ = split_loss(model)
    loss = 'in fp32' if network and not options.loss_in_half else 'as in Apex'
    logger.info(
        f'Mixed precision: O2, {engine.name} engine, '
        f'{str(dtype).split(".")[1]} on {device}, loss scale '
        f'{options.describe_scale()}, loss {loss}'
    )
    return engine


def choose_engine(options, optimizer, device, dtype):
    """Decide between Apex and the native engine.

    Args:
        options (AmpOptions): Checked settings.
        optimizer (torch.optim.Optimizer): Some kinds need a certain engine.
        device (torch.device): Where the model is.
        dtype (torch.dtype): The low precision.

    Returns:
        type: A subclass of ``O2Engine``.

    Raises:
        UserError: The engine that the settings or the optimizer need cannot
            do it.
    """
    kind = type(optimizer).__name__
    if getattr(optimizer, 'is_fused_optimizer', False):
        # It gathers weights and gradients in one block at its first step, and
        # never looks at gradients that are made later.
        raise UserError(
            f'{kind} of torch_npu cannot serve mixed precision O2: use '
            "torch's optimizer of that kind, or set amp to None"
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
        raise UserError(
            f"amp.backend='apex', but {reason}. Use 'native' or 'auto', or "
            "install Ascend's Apex, or NVIDIA's up to 25.05"
        )
    if getattr(optimizer, 'is_npu_fused_optimizer', False):
        raise UserError(
            f"{kind} needs Ascend's Apex and amp.backend='apex': use torch's "
            'optimizer of that kind'
        )
    return NativeO2


def _share_weights(model):
    """Give every process the weights and buffers of rank 0.

    DistributedDataParallel does so too, but torch 1.8 goes through the state
    dict, which holds copies under O2.

    Args:
        model (nn.Module): In fp32; changed in place.
    """
    if get_dist_info()[1] == 1:
        return
    tensors = [p.data for p in model.parameters()] + list(model.buffers())
    for block, flat in flatten(tensors):
        torch.distributed.broadcast(flat, 0)
        unflatten([(block, flat)])
