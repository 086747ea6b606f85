"""The sample's network is HourglassNet, but for the width of its stem."""

import pytest
import torch
from mmpose.models.backbones.hourglass import HourglassNet

from hourglass_npu.sample.network import SmallHourglassNet

SIZES = dict(
    downsample_times=2,
    num_stacks=2,
    stage_blocks=(1, 1, 1),
    feat_channel=24,
)


def names_and_shapes(net):
    return {
        name: tuple(value.shape)
        for name, value in net.state_dict().items()
        if not name.startswith('stem.')
    }


def test_only_the_stem_differs():
    # mmpose's stem ends in 256 channels, so that is where both can be built.
    small = SmallHourglassNet(stage_channels=(256, 16, 32), **SIZES)
    stock = HourglassNet(stage_channels=(256, 16, 32), **SIZES)
    assert names_and_shapes(small) == names_and_shapes(stock)
    assert set(small.state_dict()) == set(stock.state_dict())
    # Same width, same stem.
    stock.load_state_dict(small.state_dict())
    picture = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(small(picture), stock(picture)):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize('width', [8, 64])
def test_any_even_width(width):
    net = SmallHourglassNet(stage_channels=(width, 16, 32), **SIZES)
    outputs = net(torch.randn(2, 3, 32, 48))
    assert [tuple(out.shape) for out in outputs] == [(2, 24, 8, 12)] * 2
    sum(out.sum() for out in outputs).backward()
    assert net.stem[0].conv.weight.grad is not None
