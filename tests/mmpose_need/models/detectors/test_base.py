"""Losses of a step: nothing is read from the device."""

import pytest
import torch
from mmpose.models.detectors.base import BasePose

from hourglass_npu.pose.heatmaps import DeferredNumber


@pytest.fixture
def theirs(stock):
    return stock('mmpose', 'models/detectors/base.py').BasePose


def losses():
    draws = torch.Generator().manual_seed(0)
    return dict(
        heat_loss=torch.randn(3, generator=draws),
        other_loss=[torch.randn(2, generator=draws), torch.tensor(0.25)],
        accuracy=0.75,
        spread=torch.tensor([1.0, 2.0]),
    )


def test_numbers_are_those_of_stock(theirs):
    loss, numbers = BasePose._parse_losses(losses())
    stock_loss, wanted = theirs._parse_losses(losses())
    assert torch.equal(loss, stock_loss)
    assert list(numbers) == list(wanted)
    assert {k: float(v) for k, v in numbers.items()} == wanted


def test_nothing_is_read(monkeypatch):
    read = []
    for name in ('item', 'tolist', '__float__', '__bool__', 'numpy', 'cpu'):
        monkeypatch.setattr(
            torch.Tensor, name, lambda *_, name=name: read.append(name)
        )
    values = losses()
    accuracy = DeferredNumber(torch.tensor([1, 2]), lambda n: n[0] / n[1])
    values['accuracy'] = accuracy
    loss, numbers = BasePose._parse_losses(values)
    assert not read
    assert numbers['accuracy'] is accuracy
    monkeypatch.undo()
    assert float(numbers['accuracy']) == 0.5
    assert not numbers['loss'].requires_grad and loss is not numbers['loss']


def test_another_kind_of_value():
    with pytest.raises(TypeError, match='count must be a tensor'):
        BasePose._parse_losses(dict(count='three'))
