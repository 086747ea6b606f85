"""A simulated Ascend NPU that presents itself as torch_npu.

Put the parent folder on PYTHONPATH, and ``import torch_npu`` gives torch the
device ``npu`` with eight indices and the collective backend ``hccl``, on the
memory and the arithmetic of the CPU. docs/NPU_SIMULATOR.md says what it is
strict about and what it does not model.

Environment, beside what the real one reads (``ASCEND_RT_VISIBLE_DEVICES``):
    NPU_SIM_SATURATE: 1 makes overflow saturate, as on the first Ascend 910.
    NPU_SIM_LOG: a folder; each process leaves a JSON file in it when it ends.
    NPU_SIM_CACHE: where the compiled extension is kept.
"""

import importlib.util
import os
import sys

import torch

from . import _build

__version__ = torch.__version__.split('+')[0]


def _load():
    """Loads the compiled device; builds it if that has not been done."""
    path = _build.build()
    spec = importlib.util.spec_from_file_location(_build.NAME, str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _visible_devices():
    """Returns the devices' numbers that ASCEND_RT_VISIBLE_DEVICES leaves.

    Raises:
        RuntimeError: If it is not a list as CANN wants it.
    """
    text = os.environ.get('ASCEND_RT_VISIBLE_DEVICES')
    if text is None:
        return list(range(8))
    numbers = [part.strip() for part in text.split(',')]
    if not all(number.isdigit() and int(number) < 8 for number in numbers):
        raise RuntimeError(f'ASCEND_RT_VISIBLE_DEVICES={text!r} is invalid')
    numbers = [int(number) for number in numbers]
    if numbers != sorted(set(numbers)):
        raise RuntimeError(
            f'ASCEND_RT_VISIBLE_DEVICES={text!r} is not in ascending order'
        )
    return numbers


# The order matters from here on.
torch.utils.rename_privateuse1_backend('npu')
_C = _load()
_C.set_up(_visible_devices(), os.environ.get('NPU_SIM_SATURATE') == '1')

from . import npu, optim, sim  # noqa: E402

torch._register_device_module('npu', npu)
sys.modules['torch.npu'] = npu
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


def _create_hccl(store, rank, size, timeout):
    gloo = torch.distributed.ProcessGroupGloo(
        store, rank, size, timeout=timeout
    )
    return _C.hccl(gloo, rank, size)


torch.distributed.Backend.register_backend(
    'hccl', _create_hccl, devices=['npu']
)
sim.start()

__all__ = ['npu', 'optim', 'sim']
