"""Data workers that outlive an epoch and draw what new ones would draw."""

import collections
import random

import numpy as np
import torch

_Draw = collections.namedtuple('_Draw', 'epoch seed worker index')
"""What lasting workers get in place of an index."""


def current_epoch():
    """Return the number of the epoch that this data worker works for.

    Returns:
        int: Different for each epoch, counted from 1. 0 in a process that is
        not a lasting worker.
    """
    return _Worker.epoch


class _Worker:
    """What this process knows as a data worker."""

    epoch = 0


def seed_worker(worker_id):
    """Seed Python's and numpy's generators of a data worker from torch's.

    For a run without ``seed``. torch before 1.9 does not seed numpy: every
    worker would have the parent's state, or, if it is spawned, one that
    cannot be reproduced.

    Args:
        worker_id (int): Number of the worker; torch's seed contains it.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class _Wrapper:
    """Have the attributes of a wrapped object in addition to one's own."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        # A copy that is being unpickled has nothing inside yet.
        if name == 'inner' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.inner, name)


class ReseededData(_Wrapper):
    """A data set whose worker is seeded when an epoch begins.

    Set ``start_worker``: it is called with the worker's number, as
    ``worker_init_fn`` is when torch starts a worker. It has to seed numpy,
    which torch does only from 1.9 on, in a way of its own.

    Args:
        inner (Dataset): The data set.
    """

    _epoch = None

    def __getitem__(self, index):
        return self.inner[self._begin(index)]

    def __getitems__(self, indices):
        indices = [self._begin(index) for index in indices]
        if hasattr(self.inner, '__getitems__'):
            return self.inner.__getitems__(indices)
        return [self.inner[index] for index in indices]

    def _begin(self, draw):
        """Return the index that was drawn; seed if it begins an epoch."""
        if not isinstance(draw, _Draw):  # not from the sampler
            return draw
        if draw.epoch != self._epoch:
            self._epoch = _Worker.epoch = draw.epoch
            # As torch does in a worker that starts.
            random.seed(draw.seed + draw.worker)
            torch.manual_seed(draw.seed + draw.worker)
            self.start_worker(draw.worker)
        return draw.index


class _SeedingSampler(_Wrapper):
    """Send the seed of the epoch with each index.

    Workers that outlive an epoch carry their random states into the next.
    With this and :class:`ReseededData` they begin each epoch as new workers
    would: the same numbers are drawn from the training's generator, in the
    same order, as torch draws them for an iterator with new workers.

    Args:
        loader (DataLoader): Its sampler is wrapped. It deals its batches to
            the workers in turn.
    """

    def __init__(self, loader):
        super().__init__(loader.batch_sampler.sampler)
        self.batch_size = loader.batch_size
        self.num_workers = loader.num_workers
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        seed = torch.empty((), dtype=torch.int64).random_().item()
        for place, index in enumerate(self.inner):
            # The number that a new worker would have. torch 1.8 begins an
            # epoch with the worker whose turn it is, not with the first.
            worker = place // self.batch_size % self.num_workers
            yield _Draw(self.epoch, seed, worker, index)


def reseed_each_epoch(loader):
    """Let the workers of a loader begin each epoch as new ones would.

    Args:
        loader (DataLoader): With ``persistent_workers``, a ``worker_init_fn``
            and a :class:`ReseededData`; changed in place.
    """
    loader.dataset.start_worker = loader.worker_init_fn
    loader.batch_sampler.sampler = _SeedingSampler(loader)
    # From here on torch draws the seed of the workers that it starts from
    # here; the sampler draws the one that counts, from the training's
    # generator.
    loader.generator = torch.Generator()


def stop_workers(loader):
    """End the workers of a loader, where they outlive an epoch.

    Args:
        loader (DataLoader): Its workers start again when it is used.
    """
    loader._iterator = None  # torch has no public way
