"""Count what costs time on an accelerator whatever the clock says.

A CPU hides the cost of launching many small operators and of waiting for
the device; counted, they can be held by a test on any machine.
"""

import collections
import contextlib
from unittest import mock

import torch
from torch.autograd import profiler


class HostReads:
    """Context manager that records when tensors are read by the host.

    On an accelerator each such read waits until the device has done all that
    was asked of it, and copies the values.

    Attributes:
        names (list[str]): Methods of ``torch.Tensor`` that were called, one
            for each read.
        bytes (int): Size of what was read.
    """

    # Not numpy(): without cpu() before it, it does not exist off the CPU.
    METHODS = '__bool__ __float__ __int__ cpu item tolist'.split()

    def __init__(self):
        self.names = []
        self.bytes = 0
        self._depth = 0
        self._seen = []

    def _watched(self, name, method):
        def read(tensor, *args, **kwargs):
            # `.cpu().tolist()` is one read, and so is what item() calls.
            known = any(tensor is result for result in self._seen)
            if not self._depth and not known:
                self.names.append(name)
                self.bytes += tensor.numel() * tensor.element_size()
            self._depth += 1
            try:
                result = method(tensor, *args, **kwargs)
            finally:
                self._depth -= 1
            if name == 'cpu':
                self._seen.append(result)
            return result

        return read

    def __enter__(self):
        self._patches = contextlib.ExitStack()
        for name in self.METHODS:
            method = self._watched(name, getattr(torch.Tensor, name))
            patch = mock.patch.object(torch.Tensor, name, method)
            self._patches.enter_context(patch)
        return self

    def __exit__(self, *_):
        self._patches.close()
        self._seen.clear()


def count_operators(function):
    """Count the operators that a function runs, backward passes included.

    Args:
        function (callable): Called once without arguments.

    Returns:
        int: Calls of ATen operators, those inside of others included.
    """
    with profiler.profile() as profile:
        function()
    return sum(
        event.name.startswith('aten::') for event in profile.function_events
    )


def can_listen():
    """Tell whether this torch can list the operators that it dispatches."""
    try:
        listen()
    except ImportError:
        return False
    return True


def listen():
    """Return a context manager that counts what torch dispatches.

    Returns:
        TorchDispatchMode: Its ``counts`` are calls by operator, backward
        passes included; not what an operator calls inside.

    Raises:
        ImportError: This torch, before 1.13, cannot list its operators.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dispatches(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.counts = collections.Counter()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.counts[func] += 1
            return func(*args, **(kwargs or {}))

    return Dispatches()


WITHOUT_KERNEL = ('empty', 'lift_fresh', 'profiler', '_local_scalar_dense')
"""Beginnings of the names of operators that compute nothing, beside views."""


def is_kernel(operator):
    """Tell whether an operator computes: it is no view and no bookkeeping.

    Args:
        operator (OpOverload): Of :func:`listen`.
    """
    name = str(operator)
    name = name[len('aten.') :] if name.startswith('aten.') else name
    return not operator.is_view and not name.startswith(WITHOUT_KERNEL)
