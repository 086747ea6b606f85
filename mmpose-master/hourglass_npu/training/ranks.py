"""What ranks do together: meet, share objects, batch norm and data order."""

import torch
from mmcv.runner import Hook
from mmcv.runner.checkpoint import pack, unpack
from mmcv.runner.dist_utils import (
    allreduce_params,
    get_dist_info,
    get_host_group,
)
from mmcv.utils import _BatchNorm
from torch import distributed as dist


def barrier():
    """Wait until every rank is here. Does not wait for the devices."""
    if get_dist_info()[1] > 1:
        dist.barrier(group=get_host_group())


def broadcast_object(obj):
    """Give every rank a copy of rank 0's object, through host memory.

    Every rank must call it.

    Args:
        obj (Any): Plain data and tensors, so that nobody can send code; that
            of rank 0 counts.

    Returns:
        Any: A copy of rank 0's object; ``obj`` itself on rank 0.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return obj
    packed = pack(obj if rank == 0 else None)
    size = torch.tensor([len(packed)])
    dist.broadcast(size, 0, group=get_host_group())
    packed = packed if rank == 0 else packed.new_empty(int(size))
    dist.broadcast(packed, 0, group=get_host_group())
    return obj if rank == 0 else unpack(packed)


def average_bn_stats(model):
    """Replace batch-norm running statistics by their mean over all ranks.

    Does nothing in a job of one process. ``num_batches_tracked`` stays as it
    is: all ranks do the same number of steps.

    Args:
        model (nn.Module): The model, wrapped or not; changed in place.
    """
    allreduce_params(
        [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
    )


class AverageBNStatsHook(Hook):
    """Give every rank the same batch-norm running statistics.

    Each rank updates ``running_mean`` and ``running_var`` from its own
    batches only, so that after an epoch the ranks hold different models for
    inference. Before such a model is evaluated (by all ranks) and saved (by
    rank 0) the statistics are replaced by their mean over the ranks, in one
    all-reduce. Training itself does not read them.

    Register the hook before the checkpoint and evaluation hooks, which mmcv
    and mmpose register at priority NORMAL.

    Args:
        iter_interval (int): Also average after every so many iterations, for
            checkpoints that are counted in iterations. 0: never.
    """

    def __init__(self, iter_interval=0):
        self.iter_interval = iter_interval

    def after_train_epoch(self, runner):
        """Average at the end of each training epoch."""
        average_bn_stats(runner.model)

    def after_train_iter(self, runner):
        """Average where a checkpoint of this iteration is due."""
        if self.every_n_iters(runner, self.iter_interval):
            average_bn_stats(runner.model)


class ShuffleSeedHook(Hook):
    """Let the order of the data under a launcher depend on the seed.

    mmpose's sampler shuffles by the number of the epoch alone, so that every
    seed would train on the same order. Seed 0 has that order.

    Args:
        seed (int | None): Seed of the run; None stands for 0.
    """

    def __init__(self, seed=None):
        # No run has a million epochs, so no two seeds share an order.
        self.first = (seed or 0) * 1000003

    def before_epoch(self, runner):
        """Shuffle anew for the epoch that begins."""
        sampler = runner.data_loader.sampler
        if not hasattr(sampler, 'set_epoch'):
            sampler = runner.data_loader.batch_sampler.sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(self.first + runner.epoch)
