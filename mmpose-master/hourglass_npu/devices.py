"""How the device of this process computes, and how data get to it.

Built on the device seam, ``mmcv.runner.dist_utils``.
"""

import functools
import os
import resource

import torch
from mmcv.runner.dist_utils import accelerator_in_use, get_device

from hourglass_npu.errors import UserError

FIRST_A2 = 220
"""Number of the first chip, in torch_npu's counting, that has HF32."""

TORCH = tuple(int(n) for n in torch.__version__.split('.')[:2])


def set_arithmetic(cudnn_benchmark=None, allow_tf32=None):
    """Let the device compute faster, at the price of different last bits.

    Args:
        cudnn_benchmark (bool | None): CUDA only: let cuDNN time its
            algorithms for each shape and take the fastest, which may differ
            from run to run. None changes nothing: off, unless a program has
            set it.
        allow_tf32 (bool | None): Let products of fp32 matrices and
            convolutions round their factors to 10 bits (CUDA's TF32, an
            NPU's HF32). None keeps the defaults: convolutions may, products
            only in torch before 1.12 on CUDA.

    Returns:
        list[str]: What was asked for and has no effect here.
    """
    idle = dict(cudnn_benchmark=cudnn_benchmark, allow_tf32=allow_tf32)
    kind = get_device().type
    if kind == 'cuda' and cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = cudnn_benchmark
    if kind == 'cuda':
        idle = {}
        if allow_tf32 is not None:
            torch.backends.cudnn.allow_tf32 = allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    npu = getattr(torch, 'npu', None) if kind == 'npu' else None
    if hasattr(npu, 'conv') and hasattr(npu, 'matmul'):  # from 1.8.1.post2
        del idle['allow_tf32']
        if allow_tf32 is not None:
            npu.conv.allow_hf32 = npu.matmul.allow_hf32 = allow_tf32
    return [name for name, value in idle.items() if value]


def make_repeatable():
    """Ask the kernels and the collectives of an NPU to be repeatable.

    Call it before the first operator. On CUDA mmcv's ``set_random_seed`` does
    what there is; a CPU is.
    """
    if get_device().type == 'npu':
        os.environ.setdefault('HCCL_DETERMINISTIC', 'true')
        torch.use_deterministic_algorithms(True)


def describe_npu():
    """Say how the NPU executes operators, as far as torch_npu tells."""
    compiles = formats = 'unknown'
    if hasattr(torch.npu, 'is_jit_compile_false'):
        compiles = 'off' if torch.npu.is_jit_compile_false() else 'on'
    if hasattr(torch.npu, 'config'):
        private = getattr(torch.npu.config, 'allow_internal_format', None)
        formats = {True: 'on', False: 'off'}.get(private, formats)
    said = [
        f'{words} {state} ({name if os.environ.get(name) else "the default"})'
        for words, state, name in (
            ('compiling operators', compiles, 'NPU_JIT_COMPILE'),
            ('private formats', formats, 'NPU_INTERNAL_FORMAT'),
        )
    ]
    return f'NPU: {", ".join(said)}'


def halves_convolutions(device):
    """Tell whether a chip computes fp32 convolutions in half precision.

    Args:
        device (torch.device): Any; only NPUs before Ascend's A2 do.

    Returns:
        bool: Whether it does.
    """
    if device.type != 'npu':
        return False

    def find(name):
        # Before 2.1 it is in the utils.
        places = torch.npu, getattr(torch.npu, 'utils', None)
        return next(
            (getattr(p, name) for p in places if hasattr(p, name)), None
        )

    number = find('get_soc_version')
    return number is not None and 0 <= number() < FIRST_A2


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


def let_pin(loader, device):
    """Let a data loader pin memory for a device, as it was told to.

    torch 2.1 to 2.6 pin for CUDA only, unless the device is named.

    Args:
        loader (DataLoader): Whose ``pin_memory`` was asked for or not.
        device (torch.device): Where batches will go.
    """
    told = getattr(loader, 'pin_memory_device', None)
    if told == '' and loader.pin_memory and TORCH < (2, 7):
        if device.type not in ('cpu', 'cuda'):
            loader.pin_memory_device = device.type


def pins(loader):
    """Tell whether the batches of a data loader are put into pinned memory.

    What was asked for says little: torch pins or not, by rules of its own
    that differ from release to release. Its iterator knows. That of a tiny
    loader with the same settings is asked, which starts no workers and draws
    no random number.

    Args:
        loader (DataLoader): After :func:`let_pin`.

    Returns:
        bool: Whether they are.
    """
    if not loader.pin_memory:
        return False
    told = getattr(loader, 'pin_memory_device', '')
    trial = torch.utils.data.DataLoader(
        [0],
        pin_memory=True,
        generator=torch.Generator(),
        **(dict(pin_memory_device=told) if told else {}),
    )
    return bool(getattr(iter(trial), '_pin_memory', True))


def choose_prefetch(wanted, device, pinned=True):
    """Decide whether batches are sent by :func:`send_beside`.

    Args:
        wanted (bool | None): None: where it is possible.
        device (torch.device): Where the model is.
        pinned (bool): What :func:`pins` says of the loaders. Without pinned
            memory the host waits for each copy.

    Returns:
        bool: Whether they are.

    Raises:
        UserError: It is demanded where it is not possible.
    """
    lacking = None
    if device.type not in ('npu', 'cuda'):
        lacking = f'is for a device with streams, not for {device}'
    elif not pinned:
        lacking = (
            'needs pin_memory=True in data.train_dataloader, and a torch that '
            f'pins memory for {device.type}'
        )
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
