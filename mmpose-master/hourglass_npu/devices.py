"""How the device of this process computes, and how data get to it.

Built on the device seam, ``mmcv.runner.dist_utils``.
"""

import functools
import resource

import torch
from mmcv.runner.dist_utils import accelerator_in_use, get_device

from hourglass_npu.errors import UserError


def set_arithmetic(cudnn_benchmark=None, allow_tf32=None):
    """Let CUDA compute faster, at the price of different last bits.

    Neither has an effect on other devices.

    Args:
        cudnn_benchmark (bool | None): Let cuDNN time its algorithms for each
            shape and take the fastest, which may differ from run to run.
            None changes nothing: off, unless a program has set it.
        allow_tf32 (bool | None): Let products of fp32 matrices and
            convolutions round their factors to 10 bits. None keeps torch's
            defaults: convolutions may, products only in torch before 1.12.

    Returns:
        list[str]: What was asked for and has no effect here.
    """
    asked = dict(cudnn_benchmark=cudnn_benchmark, allow_tf32=allow_tf32)
    if get_device().type != 'cuda':
        return [name for name, value in asked.items() if value]
    if cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = cudnn_benchmark
    if allow_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    return []


def peak_memory():
    """Return the most memory held so far, in bytes, for a log.

    Returns:
        int: Of tensors on the device in use; on the CPU of the whole process.
    """
    _, accelerator = accelerator_in_use()
    if accelerator is None:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return accelerator.max_memory_allocated()


def check_channels_last(device):
    """Refuse the memory format ``channels_last`` where there is none.

    Args:
        device (torch.device): Where the model will be.

    Raises:
        UserError: The device is an NPU, which chooses layouts by itself.
    """
    if device.type == 'npu':
        raise UserError(
            'channels_last is not for an NPU, which has layouts of its own '
            '(NPU_INTERNAL_FORMAT=1 allows them): leave it out'
        )


def choose_prefetch(wanted, device, pinned=True):
    """Decide whether batches are sent by :func:`send_beside`.

    Args:
        wanted (bool | None): None: where it is possible.
        device (torch.device): Where the model is.
        pinned (bool): Whether the loaders put batches into pinned memory.
            Without it the host waits for each copy.

    Returns:
        bool: Whether they are.

    Raises:
        UserError: It is demanded where it is not possible.
    """
    lacking = None
    if device.type not in ('npu', 'cuda'):
        lacking = f'is for a device with streams, not for {device}'
    elif not pinned:
        lacking = 'needs pin_memory=True in data.train_dataloader'
    if wanted and lacking:
        raise UserError(f'device_prefetch {lacking}: set it to None or False')
    return lacking is None and wanted is not False


@functools.lru_cache(maxsize=None)
def _copy_stream(device):
    """Return the stream of this process that copies to a device."""
    return getattr(torch, device.type).Stream(device)


def send_beside(tensor, device):
    """Send a tensor of the host while the device is busy computing.

    In the stream of the computation a copy would wait for everything queued
    before it: the whole last step. Here it goes through a stream of its own,
    and only what comes after this call waits for it. The host waits for
    nothing if the tensor is in pinned memory.

    Args:
        tensor (Tensor): On the CPU; from elsewhere it goes the usual way.
        device (torch.device): An NPU or a CUDA device, with its index; to a
            CPU, too, it goes the usual way.

    Returns:
        Tensor: On the device, for use in its current stream.
    """
    if device.type == 'cpu' or tensor.device.type != 'cpu':
        return tensor.to(device)
    accelerator = getattr(torch, device.type)
    copying = _copy_stream(device)
    with accelerator.stream(copying):
        sent = tensor.to(device, non_blocking=True)
    computing = accelerator.current_stream(device)
    computing.wait_stream(copying)
    # Its memory belongs to the stream of copies, which must not put a later
    # batch there before the step is done with this one.
    sent.record_stream(computing)
    return sent
