"""Data workers that outlive an epoch and draw what new ones would draw."""

import collections
import copyreg
import hashlib
import importlib.machinery
import multiprocessing
import os
import pickle
import random
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

import hourglass_npu

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
    """A data set as lasting workers have it: seeded when an epoch begins.

    Args:
        inner (Dataset): The data set.
        start_worker (callable | None): Called with the worker's number when
            an epoch begins, as torch calls ``worker_init_fn`` when a worker
            starts. It has to seed numpy, which torch does only from 1.9 on,
            in a way of its own.
    """

    _epoch = None

    def __init__(self, inner, start_worker):
        super().__init__(inner)
        self.start_worker = start_worker

    def __getitem__(self, index):
        return self.inner[self._begin(index)]

    def __getitems__(self, indices):
        indices = [self._begin(index) for index in indices]
        if hasattr(self.inner, '__getitems__'):
            return self.inner.__getitems__(indices)
        return [self.inner[index] for index in indices]

    def _begin(self, draw):
        """Return the index that was drawn; seed if it begins an epoch."""
        if draw.epoch != self._epoch:
            self._epoch = _Worker.epoch = draw.epoch
            seed = draw.seed + draw.worker
            # As torch does in a worker that starts.
            random.seed(seed)
            torch.manual_seed(seed)
            info = get_worker_info()
            # Past its own, which refuses: others look for their data set.
            object.__setattr__(info, 'dataset', self.inner)
            object.__setattr__(info, 'seed', seed)
            if self.start_worker is not None:
                self.start_worker(draw.worker)
        return draw.index


class _SeedingBatches(_Wrapper):
    """A batch sampler that sends the seed of the epoch with each index.

    Workers that outlive an epoch carry their random states into the next.
    With this and :class:`ReseededData` they begin each epoch as new workers
    would: the same numbers are drawn from the same generator, in the same
    order, as torch draws them for an iterator with new workers.

    Args:
        loader (DataLoader): It deals its batches to the workers in turn.
    """

    def __init__(self, loader):
        super().__init__(loader.batch_sampler)
        self.generator = loader.generator
        self.num_workers = loader.num_workers
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        seed = torch.empty((), dtype=torch.int64)
        seed = seed.random_(generator=self.generator).item()
        for place, batch in enumerate(self.inner):
            # The number that a new worker would have. torch 1.8 begins an
            # epoch with the worker whose turn it is, not with the first.
            worker = place % self.num_workers
            yield [_Draw(self.epoch, seed, worker, index) for index in batch]


class _Digest:
    """A file that keeps nothing of what is written but its hash."""

    def __init__(self):
        self._hash = hashlib.blake2b()
        self.write = self._hash.update
        self.value = self._hash.hexdigest


def _reduce_tensor(tensor):
    """Describe a tensor: workers share what is in shared memory."""
    if tensor.is_shared():
        return tuple, ((tensor.data_ptr(), *tensor.shape),)
    return bytes, (tensor.detach().numpy().tobytes(),)


def _fingerprint(value):
    """Return a hash that changes with a value.

    Args:
        value (Any): What data workers get when they start.

    Returns:
        str: The same for equal values in most cases, never for others.

    Raises:
        Exception: A part cannot be pickled, so nothing is known.
    """
    digest = _Digest()
    pickler = pickle.Pickler(digest, protocol=4)
    pickler.dispatch_table = collections.ChainMap(
        {torch.Tensor: _reduce_tensor}, copyreg.dispatch_table
    )
    pickler.dump(value)
    return digest.value()


class LastingLoader(DataLoader):
    """A data loader whose workers outlive an epoch, as if they were new.

    All that others see of it is their own: the data set, the samplers, the
    generator. Where any of it has changed since the workers were started,
    new ones are started for the epoch. If this cannot be told, because a
    part cannot be pickled, it is so for each epoch, and the log says so.
    """

    _started_with = None

    def __iter__(self):
        if self._has_changed():
            stop_workers(self)
        own = {
            name: vars(self)[name]
            for name in (
                'dataset',
                'batch_sampler',
                'generator',
                'worker_init_fn',
            )
        }
        # Past torch's own, which refuses. The iterator takes what it needs
        # at once. From this generator torch draws the seed of the workers
        # that it starts; the one that counts comes with the batches.
        vars(self).update(
            dataset=ReseededData(self.dataset, self.worker_init_fn),
            batch_sampler=_SeedingBatches(self),
            generator=torch.Generator(),
            worker_init_fn=None,  # it is called when an epoch begins
        )
        try:
            return super().__iter__()
        finally:
            vars(self).update(own)

    def _has_changed(self):
        """Tell whether workers now would get what those that run have not."""
        before = self._started_with
        parts = (
            self.dataset,
            self.collate_fn,
            self.worker_init_fn,
            self.num_workers,
        )
        # The samplers and the generator stay in this process.
        which = [id(self.batch_sampler), id(self.generator)]
        try:
            self._started_with = which, _fingerprint(parts)
        except Exception as error:  # of the data set, of pickle
            if before is not _UNKNOWN:
                self.logger.warning(
                    'Data workers start anew in each epoch: whether a '
                    'hook has changed the data set cannot be told, because '
                    'it cannot be pickled (%s: %s)',
                    type(error).__name__,
                    str(error).split('\n')[0][:200],
                )
            self._started_with = _UNKNOWN
        return self._started_with is _UNKNOWN or self._started_with != before


_UNKNOWN = object()


def keep_workers(loader, logger):
    """Let the workers of a loader outlive an epoch.

    Args:
        loader (DataLoader): With ``persistent_workers``; changed in place to
            a :class:`LastingLoader`.
        logger (logging.Logger): Told where workers cannot last.
    """
    loader.__class__ = LastingLoader
    loader.logger = logger


def stop_workers(loader):
    """End the workers of a loader, where they outlive an epoch.

    Args:
        loader (DataLoader): Its workers start again when it is used.
    """
    loader._iterator = None  # torch has no public way


def start_from_server(loader):
    """Fork the workers of a loader from one process that has all they import.

    Only where they would be spawned, as the training process must not be
    forked, and where no other context was asked for. Each then starts at once
    and shares what was imported, where a spawned one takes seconds and 200 MB.

    Args:
        loader (DataLoader): Changed in place.
    """
    spawned = multiprocessing.get_start_method(allow_none=True) == 'spawn'
    asked = loader.multiprocessing_context is not None
    if spawned and loader.num_workers and not asked and _will_be_imported():
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['hourglass_npu.training.server'])
        loader.multiprocessing_context = context


def _will_be_imported():
    """Tell whether a new Python imports this package, not another of its name.

    Entry points load the one beside them, wherever else the name leads.
    """
    name = hourglass_npu.__name__
    paths = importlib.machinery.PathFinder
    found = paths.find_spec(name, ['', *sys.path])
    for finder in sys.meta_path:
        found = found or finder.find_spec(name, None)
    return found is not None and os.path.samefile(
        found.origin, hourglass_npu.__file__
    )
