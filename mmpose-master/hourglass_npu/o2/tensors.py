"""Mixed precision O2: work on many tensors in few kernels."""

import functools
import importlib

import torch
from torch._utils import _take_tensors

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


def zero_all(tensors):
    """Set tensors to 0, those of one precision in few kernels."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        chosen = [tensor for tensor in tensors if tensor.dtype == dtype]
        if takes_lists(chosen[0].device.type):
            torch._foreach_zero_(chosen)
            continue
        for tensor in chosen:
            tensor.zero_()


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


ALIGNED = 128
"""Elements: where a tensor begins in a block, kernels read fast."""


def is_dense(tensor):
    """Tell whether a tensor fills its memory without gap or overlap."""
    if tensor.layout != torch.strided:
        return False
    if tensor.is_contiguous():
        return True
    end = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size != 1 and stride != end:
            return False
        end *= size
    return True


def is_part(tensor):
    """Tell whether a tensor's memory is part of something larger."""
    if tensor.layout != torch.strided:
        return False
    if hasattr(tensor, 'untyped_storage'):
        held = tensor.untyped_storage().nbytes()
    else:
        held = tensor.storage().size() * tensor.element_size()
    return held != tensor.numel() * tensor.element_size()


def own_copy(value):
    """Return a value, or its copy if it is a tensor in part of a block.

    A file of a part would hold the whole block.
    """
    if isinstance(value, torch.Tensor) and is_part(value):
        return value.clone()
    return value


def in_line(tensor):
    """Return all of a dense tensor as one dimension, in memory's order."""
    if tensor.dim() == 1:
        return tensor
    if tensor.is_contiguous():
        return tensor.view(-1)
    return tensor.as_strided((tensor.numel(),), (1,))


@torch.no_grad()
def join(tensors, dtype=None):
    """Copy tensors into one piece of memory.

    Args:
        tensors (list[Tensor]): Of one dtype and device, at least one.
        dtype (torch.dtype | None): Of the copies; None keeps it.

    Returns:
        tuple[Tensor, list[Tensor]]: The flat block, with zeros between its
        parts so that all begin at a multiple of ``ALIGNED``; and the parts,
        which have shapes and strides of the tensors.
    """
    tensors = [t if is_dense(t) else t.contiguous() for t in tensors]
    lines, sizes, gaps = [], [], {}
    for tensor in tensors:
        size = tensor.numel()
        gap = -size % ALIGNED
        lines.append(in_line(tensor))
        sizes += [size, gap]
        if gap:
            if gap not in gaps:
                gaps[gap] = tensor.new_zeros(gap)
            lines.append(gaps[gap])
    if dtype is None:
        flat = torch.cat(lines)
    else:
        # In turns: what is joined before it is converted stays small.
        flat = lines[0].new_empty(sum(sizes), dtype=dtype)
        end = 0
        for some in _take_tensors(lines, 2**26):
            start, end = end, end + sum(line.numel() for line in some)
            flat[start:end].copy_(torch.cat(some))
    lines = flat.split(sizes)[::2]
    return flat, [like(line, t) for line, t in zip(lines, tensors)]


def to_fp32(tensors):
    """Copy tensors, converted to fp32.

    Args:
        tensors (list[Tensor]): Of any float dtypes, on one device.

    Returns:
        tuple[list[Tensor], list[Tensor]]: The copies; and the flat blocks in
        which they lie, one for each dtype, see :func:`join`.
    """
    places, blocks = {}, []
    for i, tensor in enumerate(tensors):
        places.setdefault(tensor.dtype, []).append(i)
    copies = [None] * len(tensors)
    for chosen in places.values():
        flat, parts = join([tensors[i] for i in chosen], torch.float32)
        blocks.append(flat)
        for i, part in zip(chosen, parts):
            copies[i] = part
    return copies, blocks


def like(line, tensor):
    """Give a part of a flat tensor the form of a dense tensor."""
    if tensor.dim() == 1:
        return line
    if tensor.is_contiguous():
        return line.view(tensor.shape)
    return line.as_strided(tensor.shape, tensor.stride())


def flatten(tensors):
    """Copy tensors into flat ones, block by block.

    Args:
        tensors (Iterable[Tensor]): Of any shapes and dtypes.

    Yields:
        tuple[list[Tensor], Tensor]: Tensors of one dtype, together 64 MiB at
        most unless one alone is larger, and their flat copy.
    """
    for block in _take_tensors(tensors, 2**26):
        flat = _line(block)
        yield block, flat if len(block) > 1 else flat.clone()


def _line(tensors):
    """Return the values of tensors, flat; not a copy if it is one alone."""
    if len(tensors) > 1 and all(tensor.dim() == 0 for tensor in tensors):
        return torch.stack(tensors)
    lines = [in_line(tensor.contiguous()) for tensor in tensors]
    return torch.cat(lines) if len(lines) > 1 else lines[0]


def unflatten(blocks):
    """Copy flat tensors back to the tensors that :func:`flatten` read."""
    for block, flat in blocks:
        if all(tensor.dim() == 0 for tensor in block):
            copy_all(block, flat.unbind())
            continue
        lines = flat.split([tensor.numel() for tensor in block])
        parts = [
            line if t.dim() == 1 else line.view(t.shape)
            for line, t in zip(lines, block)
        ]
        copy_all(block, parts)


def choose(overflow, kept, tensors):
    """Give tensors back what they were if there was an overflow.

    Args:
        overflow (Tensor): A bool on the device, a scalar.
        kept (list): From :func:`flatten`, before the tensors changed.
        tensors (list[Tensor]): The same, in the same order.
    """
    for (_, old), block in zip(kept, _take_tensors(tensors, 2**26)):
        unflatten([(block, torch.where(overflow, old, _line(block)))])


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
    for block in _take_tensors(low, 2**26):
        own = [next(masters) for _ in block]
        unflatten([(own, written_over(_line(block), _line(own)))])


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
