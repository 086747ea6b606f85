"""A checkpoint fits its model to the last tensor."""

import pytest
import torch

from hourglass_npu.errors import UserError
from hourglass_npu.weights import load_weights


@pytest.fixture
def net():
    return torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)
    )


def test_weights_come_with_or_without_a_wrappers_prefix(net, tmp_path):
    path = str(tmp_path / 'a.pth')
    wanted = {k: torch.ones_like(v) for k, v in net.state_dict().items()}
    for content in (
        wanted,
        dict(state_dict=wanted, meta={}),
        dict(state_dict={f'module.{k}': v for k, v in wanted.items()}),
    ):
        torch.save(content, path)
        for parameter in net.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(net, path)
        assert all(bool((v == 1).all()) for v in net.state_dict().values())


def test_another_models_checkpoint_is_refused_with_both_numbers(net, tmp_path):
    path = str(tmp_path / 'a.pth')
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    other.add_module('5', torch.nn.Linear(1, 1))
    torch.save(dict(state_dict=other.state_dict()), path)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(net, path)
    text = str(caught.value)
    assert 'holds 4 tensors, the model has 9' in text
    assert '7 missing, such as 1.weight' in text
    assert '2 unknown, such as 5.weight' in text
    assert (
        '2 of another shape, such as 0.weight: (3, 2) instead of (2, 2)'
        in text
    )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
