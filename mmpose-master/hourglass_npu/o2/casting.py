"""Mixed precision O2: a model in low precision, and the casts around it."""

import functools
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hourglass_npu.o2.operators import check_operators
from hourglass_npu.o2.settings import default_dtype
from hourglass_npu.training.deferred import DeferredNumbers


def stays_fp32(module):
    """Tell whether O2 leaves a module in fp32: batch norm with weights."""
    return isinstance(module, _BatchNorm) and module.affine


def cast_model(model, dtype, keep=()):
    """Cast weights and buffers to low precision, in place.

    The ``Parameter`` objects stay, so an optimizer goes on knowing them.
    Batch norm without weights, and every other kind of normalization, are
    cast like the rest: that is O2.

    Args:
        model (nn.Module): In fp32.
        dtype (torch.dtype): float16 or bfloat16.
        keep (Iterable[nn.Module]): Left as they are, with all inside them.
    """
    kept = {id(inner) for module in keep for inner in module.modules()}
    for module in model.modules():
        if stays_fp32(module) or id(module) in kept:
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
        value (Any): Everything else (numbers, strings, ndarrays, integer
            tensors) is returned as it is.
        dtype (torch.dtype | None): None changes nothing.

    Returns:
        Any: The same nesting.
    """
    if dtype is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, DeferredNumbers):
        casted = [(k, cast_floats(v, dtype)) for k, v in value.unread()]
        return DeferredNumbers(casted)
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


def split_loss(model):
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


def wrap_forward(model, dtype, loss_in_half):
    """Put the casts around the network, or around the whole model.

    With the loss in fp32 the casts go around the parts of the network, so
    that the loss sees fp32 outputs beside targets that were never rounded.
    Between two parts values pass through fp32 unchanged.

    Args:
        model (nn.Module): The cast model.
        dtype (torch.dtype): Its low precision.
        loss_in_half (bool): Around the whole of ``forward``, as Apex does.
    """
    network, _ = split_loss(model)
    for part in network:
        # Half outputs would be refused by numpy (bfloat16), where mmpose
        # computes accuracy and decodes joints.
        outward = None if loss_in_half else torch.float32
        part.forward = _CastForward(part, dtype, outward)
    if loss_in_half or not network:
        model.forward = _CastForward(model, dtype, torch.float32)


def cast_for_inference(model):
    """Let a model compute in the device's low precision, as O2 trains it.

    Heatmaps come out in fp32. There are no masters: the model can no longer
    be trained, and its unrounded weights are gone.

    Args:
        model (nn.Module): In fp32, on its device; changed in place.

    Returns:
        torch.dtype: The low precision.

    Raises:
        UserError: This torch lacks operators for it.
    """
    device = next(model.parameters()).device
    dtype = default_dtype(device)
    if device.type == 'cpu':
        check_operators(dtype)
    cast_model(model, dtype, split_loss(model)[1])
    wrap_forward(model, dtype, loss_in_half=False)
    return dtype
