"""Mixed precision O2: whether this torch can do it on a CPU."""

import torch
from torch import nn

from hourglass_npu.errors import UserError


def check_operators(dtype):
    """Refuse a precision that this torch cannot compute in on a CPU.

    Args:
        dtype (torch.dtype): The low precision.

    Raises:
        UserError: This torch lacks operators.
    """
    try:
        try_operators(dtype)
    except RuntimeError as error:
        name = str(dtype).split('.')[1]
        raise UserError(
            f'torch {torch.__version__} has no mixed precision in {name} on '
            f'a CPU ({error}): use a newer torch, or leave amp off'
        ) from None


@torch.enable_grad()
def try_operators(dtype):
    """Run the operators of a tiny network once; draw no random number."""
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
