"""Read a device's memory with host code, which has to crash."""

import ctypes

import torch
import torch_npu  # noqa: F401

values = torch.ones(3, device='npu:2')
torch.npu.synchronize()
print(ctypes.cast(values.data_ptr(), ctypes.POINTER(ctypes.c_float))[0])
