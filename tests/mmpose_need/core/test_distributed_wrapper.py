import pytest
import torch
from mmcv.parallel import (
    DataContainer,
    MMDistributedDataParallel,
    is_module_wrapper,
)
from mmcv.runner.dist_utils import get_dist_info
from mmpose.core.distributed_wrapper import DistributedDataParallelWrapper
from torch import nn


class Gan(nn.Module):
    """A generator and a discriminator with steps of their own."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(3, 3)
        self.discriminator = nn.Linear(3, 1)
        self.fixed = nn.Linear(3, 3)
        self.fixed.requires_grad_(False)
        self.loss = nn.ReLU()

    def forward(self, img):
        return self.discriminator(self.fixed(self.generator(img)))

    def train_step(self, data, optimizers):
        for name in ('generator', 'discriminator'):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            out = self.fixed(self.generator(data['img']))
            if name == 'discriminator':
                out = out.detach()
                self.discriminator(out).square().mean().backward()
            else:
                out.square().mean().backward()
            optimizers[name].step()
        return dict(metas=data['metas'])

    def val_step(self, data, optimizers):
        return data['img']


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(4, 3, generator=generator)


def optimizers_of(gan):
    return {
        name: torch.optim.SGD(getattr(gan, name).parameters(), lr=0.1)
        for name in ('generator', 'discriminator')
    }


def step_in_a_rank():
    """Train three steps on this rank's batch."""
    rank, _ = get_dist_info()
    torch.manual_seed(0 if rank == 0 else 5)
    gan = Gan()
    if rank:
        # Only what is trained is brought into line by the wrapper.
        torch.manual_seed(0)
        gan.fixed.load_state_dict(Gan().fixed.state_dict())
    wrapper = DistributedDataParallelWrapper(gan, None)
    data = dict(
        img=batch(rank),
        metas=DataContainer([f'of rank {rank}'], cpu_only=True),
    )
    optimizers = optimizers_of(gan)
    for _ in range(3):
        out = wrapper.train_step(data, optimizers)
    img = wrapper.val_step(data, None)
    return dict(
        metas=out['metas'],
        equal=torch.equal(img, batch(rank))
        and torch.equal(wrapper(img), gan(img)),
        wrapped=sorted(
            name
            for name, child in gan.named_children()
            if isinstance(child, MMDistributedDataParallel)
        ),
        weights={
            name.replace('.module', ''): parameter.tolist()
            for name, parameter in gan.named_parameters()
        },
    )


def test_two_ranks_step_like_one_with_both_batches(ranks):
    found = ranks(2, step_in_a_rank)
    torch.manual_seed(0)
    gan = Gan()
    optimizers = optimizers_of(gan)
    data = dict(img=torch.cat([batch(0), batch(1)]), metas=None)
    for _ in range(3):
        gan.train_step(data, optimizers)
    for rank, seen in enumerate(found):
        assert seen['wrapped'] == ['discriminator', 'generator']
        assert seen['metas'] == f'of rank {rank}'
        assert seen['equal']
        for name, parameter in gan.named_parameters():
            other = torch.tensor(seen['weights'][name])
            assert torch.allclose(parameter, other, rtol=0, atol=1e-6), name


def test_it_is_a_wrapper_and_wants_one_device():
    wrapper = DistributedDataParallelWrapper(nn.Sequential(nn.ReLU()), None)
    assert is_module_wrapper(wrapper)
    with pytest.raises(AssertionError, match='one device'):
        DistributedDataParallelWrapper(nn.Sequential(), [0, 1])
