"""Runs Apex's own ``amp`` on CPU tensors, from an unpacked source tree.

Apex wants CUDA tensors and compiled kernels, yet its O2 is plain Python over
torch. Nothing of it is changed: it is shown a package without the kernels,
tensors that name a CUDA type, and told to warn where it would refuse.
"""

import os
import sys
import types
from contextlib import contextmanager

import torch


@contextmanager
def load_apex(tree):
    """Make ``apex.amp`` of a source tree importable for a while.

    Args:
        tree (str): Folder that holds ``apex/amp``; NVIDIA's tags up to
            25.05.

    Yields:
        module: ``apex.amp``.

    Raises:
        ValueError: There is no ``apex/amp`` in the folder.
    """
    if not os.path.isfile(os.path.join(tree, 'apex', 'amp', '__init__.py')):
        raise ValueError(f'{tree} holds no apex/amp')
    before = set(sys.modules)
    package = types.ModuleType('apex')
    package.__path__ = [os.path.join(tree, 'apex')]
    package.deprecated_warning = lambda *args, **kwargs: None
    sys.modules['apex'] = package
    plain_type, plain_int = torch.Tensor.type, torch.cuda.IntTensor

    def type_on_cuda(self, *args, **kwargs):
        answer = plain_type(self, *args, **kwargs)
        if isinstance(answer, str):
            return answer.replace('torch.', 'torch.cuda.')
        return answer

    torch.Tensor.type = type_on_cuda
    torch.cuda.IntTensor = torch.IntTensor
    try:
        from apex import amp
        from apex.amp._amp_state import _amp_state

        _amp_state.hard_override = True
        yield amp
    finally:
        torch.Tensor.type, torch.cuda.IntTensor = plain_type, plain_int
        for name in set(sys.modules) - before:
            if name == 'apex' or name.startswith('apex.'):
                del sys.modules[name]
