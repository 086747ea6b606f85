"""Mixed precision O2: prepare model and optimizer, choose an engine."""

import functools
import logging

import torch
from mmcv.runner.dist_utils import get_dist_info
from mmcv.runner.hooks.optimizer import engine_of
from mmcv.runner.optimizer.builder import fused_by

from hourglass_npu.errors import UserError
from hourglass_npu.o2.apex import ApexO2
from hourglass_npu.o2.casting import split_loss
from hourglass_npu.o2.native import NativeO2
from hourglass_npu.o2.operators import check_operators
from hourglass_npu.o2.overflow import saturation_flag
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
    if not options.trains_low(device):
        asked = options.opt_level == 'O0' or options.enabled is False
        logger.info(
            f'Mixed precision: off, fp32 on {device}'
            if asked
            else 'Mixed precision: off on a CPU unless asked for '
            '(amp.enabled, --amp); fp32'
        )
        return None
    for name, param in model.named_parameters():
        if param.is_floating_point() and param.dtype != torch.float32:
            raise UserError(
                f'{name} is in {param.dtype}: mixed precision starts from a '
                'model in fp32'
            )

    dtype = options.dtype or default_dtype(device)
    accelerator = getattr(torch, device.type, None)
    has_bf16 = getattr(accelerator, 'is_bf16_supported', None)
    if dtype == torch.bfloat16 and has_bf16 is not None and not has_bf16():
        raise UserError(
            f"amp.dtype='bfloat16': {device} has none; use 'float16' or None"
        )
    engine_class = choose_engine(options, optimizer, device, dtype, logger)
    if device.type == 'cpu':
        check_operators(dtype)
    _share_weights(model)
    engine = engine_class(model, optimizer, options, dtype, logger)
    network, _ = split_loss(model)
    loss = 'in fp32' if network and not options.loss_in_half else 'as in Apex'
    logger.info(
        f'Mixed precision: O2, {engine.name} engine, '
        f'{str(dtype).split(".")[1]} on {device}, loss scale '
        f'{options.describe_scale()}, loss {loss}'
    )
    return engine


def choose_engine(options, optimizer, device, dtype, logger=None):
    """Decide between Apex and the native engine.

    Args:
        options (AmpOptions): Checked settings.
        optimizer (torch.optim.Optimizer): Some kinds need a certain engine.
        device (torch.device): Where the model is.
        dtype (torch.dtype): The low precision.
        logger (logging.Logger | None): Told why ``auto`` leaves an installed
            Apex alone.

    Returns:
        type: A subclass of ``O2Engine``.

    Raises:
        UserError: The engine that the settings or the optimizer need cannot
            do it.
    """
    kind = type(optimizer).__name__
    owner = fused_by(optimizer)
    if owner == 'torch_npu':
        # It gathers weights and gradients in one block at its first step, and
        # never looks at gradients that are made later.
        raise UserError(
            f'{kind} of torch_npu cannot serve mixed precision O2: use '
            "torch's optimizer of that kind, or set amp to None"
        )
    usable, reason = find_usable_apex(options, device, dtype)
    if usable:
        return ApexO2
    if options.backend == 'apex':
        raise UserError(
            f"amp.backend='apex', but {reason}. Use 'native' or 'auto', or "
            "install Ascend's Apex, or NVIDIA's up to 25.05"
        )
    if owner == 'apex':
        raise UserError(
            f"{kind} needs Ascend's Apex and amp.backend='apex', but "
            f"{reason}: use torch's optimizer of that kind"
        )
    if logger and options.backend == 'auto' and find_apex()[0]:
        logger.info(f'Apex is installed, but not used: {reason}')
    return NativeO2


def apex_will_serve(options, device):
    """Tell whether :func:`initialize` will choose Apex.

    Its own fused optimizers then serve, and those of torch_npu do not.

    Args:
        options (AmpOptions): Checked settings.
        device (torch.device): Where the model is.

    Returns:
        bool: False where training is in fp32, too.
    """
    if not options.trains_low(device):
        return False
    dtype = options.dtype or default_dtype(device)
    return find_usable_apex(options, device, dtype)[0]


def find_usable_apex(options, device, dtype):
    """Look for an Apex that can do what the settings ask for.

    Args:
        options (AmpOptions): Checked settings.
        device (torch.device): Where the model is.
        dtype (torch.dtype): The low precision.

    Returns:
        tuple[bool, str]: Whether there is one; if not, why in words.
    """
    if options.backend == 'native':
        return False, "amp.backend='native'"
    there, reason = find_apex()
    if not there:
        return False, reason
    if device.type == 'cpu':
        return False, 'Apex does not run on a CPU'
    if dtype != torch.float16:
        return False, f'O2 of Apex is float16, not {dtype}'
    dynamic = options.loss_scale == 'dynamic'
    if (
        options.backend == 'auto'
        and dynamic
        and device.type == 'npu'
        and saturation_flag(device) is None
    ):
        return False, (
            "Ascend's Apex with a dynamic scale unscales in half precision "
            'on this chip'
        )
    problem = try_apex(device, dynamic)
    return not problem, problem


class _TwoWeights(torch.nn.Module):
    """The least that O2 can train; it draws no random number."""

    def __init__(self, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2,), 0.5, device=device))

    def forward(self, x):
        return x * self.weight


@functools.lru_cache(maxsize=None)
def try_apex(device, dynamic):
    """Let the installed Apex make a step: only that tells whether it can.

    One for another torch fails when it is imported, one for another device
    when it makes its masters, one without its extension in the first step.
    The model that is to be trained would be half cast by then.

    Args:
        device (torch.device): An accelerator.
        dynamic (bool): Whether with a dynamic scale, which needs more of it.

    Returns:
        str: Why it cannot, in words; empty if it can.
    """
    options = AmpOptions(loss_scale='dynamic' if dynamic else 2.0**15)
    quiet = logging.Logger('apex is tried')
    quiet.disabled = True
    try:
        model = _TwoWeights(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
        engine = ApexO2(model, optimizer, options, torch.float16, quiet)
        optimizer.zero_grad()
        image = torch.full((2,), 2.0**-9, device=device)
        with engine.scale_loss(model(image).mean()) as scaled_loss:
            scaled_loss.backward()
        optimizer.step()
        engine.finish()
        found = engine.master_params()[0].tolist()
    except (Exception, SystemExit) as error:
        text = (str(error).strip().splitlines() or [''])[0]
        return (
            'the installed apex cannot be used here '
            f'({type(error).__name__}: {text})'
        )
    if found != [0.5 - 2.0**-13] * 2:
        return f'the installed apex computes wrongly here ({found})'
    return ''


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
