"""What each rank is given to train on, as train_model asks for it."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from mmcv import Config
from mmcv.runner import DistSamplerSeedHook
from mmpose.apis.train import _train_loader

from hourglass_npu.training.ranks import ShuffleSeedHook


class Numbers(torch.utils.data.Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


def deal(size, ranks, batch, epoch, seed=0, hook=None):
    """Return for each rank the numbers of an epoch, in their order."""
    cfg = Config(dict(data=dict()))
    settings = dict(
        samples_per_gpu=batch,
        workers_per_gpu=0,
        num_gpus=1,
        dist=True,
        seed=seed,
        pin_memory=False,
    )
    dealt = []
    for rank in range(ranks):
        place = 'mmpose.datasets.builder.get_dist_info'
        with patch(place, return_value=(rank, ranks)):
            loader = _train_loader(Numbers(size), cfg, settings)
        runner = SimpleNamespace(data_loader=loader, epoch=epoch)
        (hook or ShuffleSeedHook(seed)).before_epoch(runner)
        dealt.append([number for part in loader for number in part.tolist()])
    return dealt


@pytest.mark.parametrize('ranks', [1, 2, 3, 8])
def test_ranks_share_the_set_without_overlap(ranks):
    for epoch in range(3):
        dealt = deal(48, ranks, batch=2, epoch=epoch)
        assert {len(part) for part in dealt} == {48 // ranks}
        assert sorted(sum(dealt, [])) == list(range(48))


@pytest.mark.parametrize('size, ranks', [(10, 3), (17, 8), (3, 8)])
def test_what_does_not_divide_is_filled_up(size, ranks):
    dealt = deal(size, ranks, batch=1, epoch=0)
    rounds = -(-size // ranks)
    assert {len(part) for part in dealt} == {rounds}
    every = sum(dealt, [])
    assert set(every) == set(range(size))
    # No more than the last round is there twice.
    assert len(every) - size < ranks


def test_each_epoch_has_an_order_of_its_own_that_comes_again():
    epochs = [deal(48, 2, batch=2, epoch=epoch) for epoch in range(4)]
    for number, dealt in enumerate(epochs):
        assert dealt not in epochs[:number]
        assert dealt == deal(48, 2, batch=2, epoch=number)
        assert sum(dealt, []) != list(range(48))
        # The ranks get other people, too, not just another order of theirs.
        others = [set(epoch[0]) for epoch in epochs[:number]]
        assert set(dealt[0]) not in others


def test_the_seed_decides_about_the_order():
    orders = [
        deal(48, 2, 2, epoch, seed) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all(orders.count(order) == 1 for order in orders)
    assert orders[3] == deal(48, 2, batch=2, epoch=1, seed=1)
    # Seed 0 and none are mmpose's own order.
    stock = deal(48, 2, batch=2, epoch=1, hook=DistSamplerSeedHook())
    assert orders[1] == stock == deal(48, 2, batch=2, epoch=1, seed=None)
