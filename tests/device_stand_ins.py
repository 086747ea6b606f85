"""Stand-ins for devices that cannot be here, and fixtures that set them up."""

import os
import sys
import types

import pytest
import torch
from mmcv.runner import dist_utils

LAUNCHED = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'NPUID')


class Device:
    """Stand in for torch.device, which lacks ``npu`` without torch_npu."""

    def __init__(self, kind, index=None):
        self.type, self.index = kind, index

    def __str__(self):
        suffix = '' if self.index is None else f':{self.index}'
        return self.type + suffix


class Accelerator(types.SimpleNamespace):
    """Stand in for ``torch.npu`` or ``torch.cuda``; keep what was called."""

    def __init__(self, count):
        super().__init__(count=count, current=None, calls=[])
        self.config = types.SimpleNamespace()

    def device_count(self):
        return self.count

    def set_device(self, device):
        self.current = str(device)

    def set_compile_mode(self, jit_compile):
        self.calls.append(('jit_compile', jit_compile))

    def is_initialized(self):
        return self.current is not None

    def synchronize(self):
        self.calls.append(('synchronize',))


@pytest.fixture(autouse=True, name='fresh')
def fresh_process(monkeypatch):
    """A process that has decided nothing, with an environment to itself."""
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHED}
    monkeypatch.setattr(os, 'environ', kept)
    monkeypatch.setattr(dist_utils, '_Process', type('_Process', (), {}))
    for name, value in dict(
        device=None, numbered=False, timeout=None, host_group=(None, None)
    ).items():
        setattr(dist_utils._Process, name, value)
    dist_utils._import_npu.cache_clear()
    yield
    dist_utils._import_npu.cache_clear()


@pytest.fixture(name='host')
def host_with(monkeypatch):
    """Return a function that makes this a host with such devices."""

    def equip(npu=0, cuda=0):
        devices = {'npu': Accelerator(npu), 'cuda': Accelerator(cuda)}
        monkeypatch.setattr(torch, 'device', Device)
        monkeypatch.setattr(torch, 'npu', devices['npu'], raising=False)
        for name in ('device_count', 'set_device', 'is_initialized'):
            monkeypatch.setattr(
                torch.cuda, name, getattr(devices['cuda'], name)
            )
        monkeypatch.setattr(
            torch.cuda, 'synchronize', devices['cuda'].synchronize
        )
        module = types.ModuleType('torch_npu') if npu else None
        monkeypatch.setitem(sys.modules, 'torch_npu', module)
        return devices

    return equip
