"""A run in mixed precision O2, stopped and resumed, to the bit."""

import pytest
import torch
from o2_cases import DYNAMIC, BatchNorm, Conv, NativeDriver, make_case
from resume_cases import Net, assert_same, train_from
from torch import nn


class LowNet(Net):
    """Net for mixed precision, on any torch's CPU."""

    def __init__(self):
        nn.Module.__init__(self)
        self.conv, self.bn = Conv(1, 3, 3), BatchNorm(3)
        self.head = Conv(3, 1, 3)

    def forward(self, x):
        x = self.bn(self.conv(x))
        x = nn.functional.dropout(x.double(), 0.3, self.training).to(x.dtype)
        return self.head(x).mean((2, 3))


def prepare(model, optimizer):
    """Start with the highest scale: the first steps overflow."""
    driver = NativeDriver(model, optimizer, make_case('adam', scale=DYNAMIC))
    driver.engine.scaler.loss_scale = 2.0**24


def train(folder, resume=None, **kwargs):
    return train_from(folder, resume, model=LowNet, prepare=prepare, **kwargs)


def test_from_any_iteration(tmp_path):
    whole = train(tmp_path / 'whole')
    scaler = whole[1]['loss_scaler0']
    assert scaler['skipped_steps'] > 3 and scaler['unskipped'] > 3
    assert any(
        not torch.equal(value, value.half().float())
        for value in whole[2].values()
        if value.is_floating_point()
    )
    for name in ('iter_2', 'iter_10', 'epoch_2', 'iter_20'):
        path = tmp_path / 'whole' / f'{name}.pth'
        assert_same(train(tmp_path / name, path), whole, name)


@pytest.mark.parametrize('passes', [2, 3])
def test_where_a_step_of_several_passes_is_complete(tmp_path, passes):
    whole = train(tmp_path / 'whole', passes=passes)
    assert whole[1]['loss_scaler0']['skipped_steps'] > 2
    # An epoch has 7 iterations, and a step ends with it.
    done = [7 * epoch + i for epoch in range(3) for i in (passes, 6, 7)]
    names = [f'iter_{i}' for i in done[:-1]]
    for name in ['epoch_1', 'epoch_2', *names]:
        path = tmp_path / 'whole' / f'{name}.pth'
        assert_same(train(tmp_path / name, path, passes=passes), whole, name)
