"""Batches of large arrays in memory that is used again.

torch takes fresh shared memory for each tensor of each batch: the system
clears its pages, maps them and takes them back, in two processes. Here a data
worker keeps a few blocks and writes the next batch where an earlier one was.

A block is free as soon as the training process holds no tensor of it any
more: not the batch, nor a view of it, nor an array. As long as anything is
left, the worker takes other memory.
"""

import contextlib
import ctypes
import functools
import os
import weakref

import numpy as np
import torch
from mmcv.parallel import collate
from torch.utils.data import get_worker_info

from hourglass_npu.shared import shared_bytes

LARGE = 2**16
"""Bytes: arrays of a batch that take less go torch's way."""

ALIGNED = 64
"""Bytes: multiples of it are where arrays begin in a block, behind the mark
that it is taken."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``."""

_KINDS = {
    getattr(torch, name): np.dtype(name)
    for name in 'uint8 int8 int16 int32 int64 float16 float32 float64'.split()
}


class ReusingCollate:
    """mmcv's ``collate``, but for where the large arrays of a batch are.

    Args:
        samples_per_gpu (int): For mmcv's ``collate``.
        blocks (int): The most blocks that a worker keeps.
    """

    def __init__(self, samples_per_gpu, blocks):
        self.samples_per_gpu, self.blocks = samples_per_gpu, blocks
        self._kept = []  # of this worker

    def __getstate__(self):
        return dict(vars(self), _kept=[])

    def __call__(self, samples):
        """Collate samples; from a worker they arrive as mmcv collates them."""
        small, places = samples, {}
        large = _large_arrays(samples) if get_worker_info() else {}
        block = self._take(large, places) if large else None
        if block is not None:
            memory = block.numpy()
            for key, place in places.items():
                values = [torch.as_tensor(value) for value in large[key]]
                torch.stack(values, out=_tensor(memory, *place))
            small = [
                {key: one[key] for key in one if key not in large}
                for one in samples
            ]
        batch = collate(small, samples_per_gpu=self.samples_per_gpu)
        if block is None:
            return batch
        return _Parcel(block, places, batch, list(samples[0]))

    def _take(self, large, places):
        """Return a block for arrays, and fill in where each belongs.

        Returns:
            Tensor | None: None where all blocks are in use.
        """
        size = ALIGNED
        for key, values in large.items():
            shape = (len(values), *values[0].shape)
            kind = _KINDS.get(values[0].dtype, values[0].dtype)
            places[key] = size, kind.str, shape
            size += int(np.prod(shape)) * kind.itemsize
            size += -size % ALIGNED
        for block in self._kept:
            if not block[0] and len(block) >= size:
                break
        else:
            if len(self._kept) == self.blocks:
                return None
            if not self._kept:
                _keep_memory()
            block = shared_bytes(size)
            self._kept.append(block)
        block[0] = 1
        return block


def _keep_memory():
    """Have this process keep what it frees, for the samples of a next batch.

    The C library would give it back to the system, which then has to clear
    each page anew. Only glibc can be told.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes
        library.mallopt(M_TRIM_THRESHOLD, 2**30)


def _large_arrays(samples):
    """Find the arrays of samples that are large together and of one form.

    Returns:
        dict[str, list[Tensor | np.ndarray]]: Those of the samples by key.
    """
    first = samples[0]
    if not all(
        type(one) is dict and one.keys() == first.keys() for one in samples
    ):
        return {}
    columns = {key: [one[key] for one in samples] for key in first}
    return {key: values for key, values in columns.items() if _fit(values)}


def _fit(values):
    first = values[0]
    if type(first) is torch.Tensor:
        size, known = first.numel() * first.element_size(), _KINDS
    elif type(first) is np.ndarray:
        size, known = first.nbytes, _KINDS.values()
    else:
        return False
    return size * len(values) >= LARGE and all(
        type(one) is type(first)
        and one.shape == first.shape
        and one.dtype == first.dtype
        and one.dtype in known
        and _plain(one)
        for one in values
    )


def _plain(value):
    """Tell whether numpy can have a value's memory and nobody its gradient."""
    if type(value) is np.ndarray:
        return value.dtype.isnative
    layout = value.layout is torch.strided and value.device.type == 'cpu'
    return layout and not value.requires_grad


def _tensor(memory, start, kind, shape):
    """Return the tensor at a place of a block.

    Args:
        memory (np.ndarray): Of the block. It lives as long as the tensor, its
            views and whatever else needs the memory.
        start (int): First byte.
        kind (str): Type of the elements.
        shape (tuple[int]): Of the tensor.
    """
    return torch.from_numpy(np.ndarray(shape, kind, memory, start))


class _Parcel:
    """A batch on its way from a worker, which arrives as a dict.

    Args:
        block (Tensor): Shared memory with large arrays.
        places (dict[str, tuple]): Of each, for :func:`_tensor`.
        rest (dict): The rest of the batch.
        keys (list[str]): Those of the batch, in order.
    """

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return _unpack, self.parts


def _unpack(block, places, rest, keys):
    memory = block.numpy()
    end = weakref.finalize(memory, _give_back, block, os.getpid())
    end.atexit = False
    large = {key: _tensor(memory, *place) for key, place in places.items()}
    return {key: large[key] if key in large else rest[key] for key in keys}


def _give_back(block, owner):
    # A forked process has a copy of the batch, and the owner still reads.
    if os.getpid() == owner:
        block[0] = 0


def reuse_memory(loader):
    """Let the workers of a loader use their shared memory again.

    Args:
        loader (DataLoader): Changed in place, if it has workers and mmcv's
            ``collate``.
    """
    given = loader.collate_fn
    if (
        loader.num_workers
        and isinstance(given, functools.partial)
        and given.func is collate
        and not given.args
        and set(given.keywords) == {'samples_per_gpu'}
    ):
        # A worker has so many on their way; the rest is with the training.
        blocks = loader.prefetch_factor + 3
        loader.collate_fn = ReusingCollate(blocks=blocks, **given.keywords)
