"""Runs Apex's own ``amp`` on CPU tensors, from an unpacked source tree.

Or what stands in for it in every run, ``tests/apex_contract``.

Apex wants CUDA tensors and compiled kernels, yet its O2 is plain Python over
torch. Nothing of it is changed: it is shown a package without the kernels,
tensors that name a CUDA type, and told to warn where it would refuse.
"""

import importlib
import os
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import torch

CONTRACT = str(Path(__file__).resolve().parents[2] / 'apex_contract')
APEXES = [CONTRACT, *filter(None, [os.environ.get('APEX_TREE')])]
"""Trees to test with: the stand-in's, and the one that was named."""


@contextmanager
def _importable():
    """Forget afterwards what was imported as ``apex``."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name == 'apex' or name.startswith('apex.'):
                del sys.modules[name]


@contextmanager
def load_apex(tree, plain=False):
    """Make ``apex.amp`` of a source tree importable for a while.

    Args:
        tree (str): Folder that holds ``apex/amp``: :data:`CONTRACT`, or
            NVIDIA's tags up to 25.05.
        plain (bool): Whether to leave it as it is: nothing is imported yet,
            and nothing is shown to it that is not there.

    Yields:
        module | None: ``apex.amp``; None if it is left as it is.

    Raises:
        ValueError: There is no ``apex/amp`` in the folder.
    """
    if not os.path.isfile(os.path.join(tree, 'apex', 'amp', '__init__.py')):
        raise ValueError(f'{tree} holds no apex/amp')
    if plain or tree == CONTRACT:
        with _importable():
            sys.path.insert(0, tree)
            try:
                yield None if plain else importlib.import_module('apex.amp')
            finally:
                sys.path.remove(tree)
        return
    package = types.ModuleType('apex')
    package.__path__ = [os.path.join(tree, 'apex')]
    package.deprecated_warning = lambda *args, **kwargs: None
    plain_type, plain_int = torch.Tensor.type, torch.cuda.IntTensor

    def type_on_cuda(self, *args, **kwargs):
        answer = plain_type(self, *args, **kwargs)
        if isinstance(answer, str):
            return answer.replace('torch.', 'torch.cuda.')
        return answer

    torch.Tensor.type = type_on_cuda
    torch.cuda.IntTensor = torch.IntTensor
    with _importable():
        sys.modules['apex'] = package
        try:
            from apex import amp
            from apex.amp._amp_state import _amp_state

            _amp_state.hard_override = True
            yield amp
        finally:
            torch.Tensor.type, torch.cuda.IntTensor = plain_type, plain_int
