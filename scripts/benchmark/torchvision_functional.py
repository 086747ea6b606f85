"""Stand in for ``torchvision.transforms.functional`` in the baseline.

Only where torchvision is missing. The operations, their order and their
copies are torchvision's, so that they take as long as there.
"""

import torch


def to_tensor(picture):
    """Turn a picture [H, W, 3] of bytes into numbers [3, H, W] up to 1."""
    tensor = torch.from_numpy(picture.transpose((2, 0, 1))).contiguous()
    return tensor.to(dtype=torch.get_default_dtype()).div(255)


def normalize(tensor, mean, std):
    """Subtract the mean and divide by the deviation of each channel."""
    tensor = tensor.clone()
    mean, std = (
        torch.as_tensor(value, dtype=tensor.dtype).view(-1, 1, 1)
        for value in (mean, std)
    )
    return tensor.sub_(mean).div_(std)
