"""Mixed precision O2: work on many tensors in few kernels."""

import functools
import importlib

import torch
from torch._utils import (
    _take_tensors,
    _unflatten_dense_tensors,
)

from hourglass_npu.o2.overflow import saturation_flag


@functools.lru_cache(maxsize=None)
def takes_lists(kind):
    """Tell whether a kind of device has kernels for lists of tensors.

    torch_npu puts NPUs on torch's list of such devices, but for the first
    chips and old releases of CANN: their kernels loop, or are faulty. Before
    torch 2.1 there is no list.

    Args:
        kind (str): Such as ``npu``.

    Returns:
        bool: False where tensors are better taken one by one.
    """
    # torch.optim deletes its own name of that module.
    place = importlib.import_module('torch.optim.optimizer')
    find = getattr(place, '_get_foreach_kernels_supported_devices', list)
    return kind != 'npu' or kind in find()


def copy_all(targets, sources):
    """Copy tensor by tensor, converting, in few kernels where torch can."""
    if not targets:
        return
    in_few = hasattr(torch, '_foreach_copy_')
    if in_few and takes_lists(targets[0].device.type):
        torch._foreach_copy_(targets, sources)
        return
    for target, source in zip(targets, sources):
        target.copy_(source)


def to_fp32(tensors):
    """Return fp32 copies of tensors."""
    copies = [torch.empty_like(t, dtype=torch.float32) for t in tensors]
    copy_all(copies, tensors)
    return copies


def any_not_finite(grads):
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


def unscale(grads, factor):
    """Look for overflow in gradients, then multiply them in place.

    Args:
        grads (list[Tensor]): fp32, on one device, at least one.
        factor (float): The inverse of the loss scale.

    Returns:
        Tensor: 1.0 where one of them held inf or NaN, else 0.0; a scalar on
        that device.
    """
    device = grads[0].device
    if has_unscale_kernel(device):
        found = torch.zeros((), device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(
            grads, found, torch.full_like(found, factor)
        )
        return found
    found = any_not_finite(grads)
    if factor != 1.0 and takes_lists(device.type):
        torch._foreach_mul_(grads, factor)
    elif factor != 1.0:
        for grad in grads:
            grad.mul_(factor)
    return found


def add_all(targets, others):
    """Add tensor to tensor in place, in few kernels where torch can."""
    if targets and takes_lists(targets[0].device.type):
        torch._foreach_add_(targets, others)
        return
    for target, other in zip(targets, others):
        target.add_(other)


@functools.lru_cache(maxsize=None)
def has_unscale_kernel(device):
    """Try the kernel of torch's GradScaler, which checks and scales.

    That of torch_npu lets the host wait on chips that saturate, for their
    flag, which it also clears; and once for each gradient where operators are
    compiled. There the two are done one by one.
    """
    if saturation_flag(device) is not None or _compiles(device):
        return False
    one = torch.ones((), device=device)
    try:
        torch._amp_foreach_non_finite_check_and_unscale_(
            [torch.ones(1, device=device)], torch.zeros_like(one), one
        )
    except (AttributeError, NotImplementedError, RuntimeError):
        return False  # the CPU of older releases
    return True


def _compiles(device):
    """Tell whether a device compiles its operators when they are called."""
    accelerator = getattr(torch, device.type, None)
    ready = getattr(accelerator, 'is_jit_compile_false', None)
    return ready is not None and not ready()


def flatten(tensors):
    """Copy tensors into flat ones, block by block.

    Args:
        tensors (Iterable[Tensor]): Of any shapes and dtypes.

    Yields:
        tuple[list[Tensor], Tensor]: Tensors of one dtype, together 64 MiB at
        most unless one alone is larger, and their flat copy.
    """
    for block in _take_tensors(tensors, 2**26):
        yield block, _joined(block)


def _joined(tensors):
    # Not torch's function: of one tensor it makes a view.
    return torch.cat([t.contiguous().view(-1) for t in tensors])


def unflatten(blocks):
    """Copy flat tensors back to the tensors that :func:`flatten` read."""
    for block, flat in blocks:
        copy_all(block, _unflatten_dense_tensors(flat, block))


def written_over(low, master):
    """Return a master's values, with the weight's own where that was written.

    Args:
        low (Tensor): In low precision.
        master (Tensor): fp32. A weight that nobody else has written to is
            its rounded master.

    Returns:
        Tensor: fp32.
    """
    return torch.where(master.to(low.dtype) == low, master, low.float())


def is_rounded(low, master):
    """Tell whether a low-precision weight is its rounded master.

    This waits for the device.
    """
    return torch.equal(master.to(low.dtype), low)


def copy_written(low, masters, on_host):
    """Bring into masters what others have written into their weights.

    Args:
        low (list[Tensor]): In one low precision, on one device.
        masters (list[Tensor]): fp32, in the same order.
        on_host (bool): The host may look at them without a wait.
    """
    if on_host:
        for weight, master in zip(low, masters):
            if not is_rounded(weight, master):
                master.copy_(written_over(weight, master))
        return
    masters = iter(masters)
    for block, flat in flatten(low):
        own = [next(masters) for _ in block]
        unflatten([(own, written_over(flat, _joined(own)))])


def is_on(value, device):
    """Tell whether a value is a tensor on a device."""
    return isinstance(value, torch.Tensor) and value.device == device


def own_floats(module):
    """Return names and values of a module's own float weights, buffers."""
    own = list(module._parameters.items()) + list(module._buffers.items())
    return [
        (name, value)
        for name, value in own
        if value is not None and value.is_floating_point()
    ]
