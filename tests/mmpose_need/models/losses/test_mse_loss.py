"""Losses of heatmaps: mmpose's gradients bit for bit, in fewer operators."""

import pytest
import torch
from mmpose.models.builder import build_loss
from mmpose.models.losses import JointsMSELoss, JointsOHKMMSELoss


@pytest.fixture
def theirs(stock):
    return stock('mmpose', 'models/losses/mse_loss.py')


def batch(joints, kind=torch.float32):
    draws = torch.Generator().manual_seed(joints)
    output, target = torch.randn(2, 5, joints, 12, 9, generator=draws).to(kind)
    # Weights of joints that are hidden, half sure, seen, and stressed.
    choices = torch.tensor([0, 0.3, 1, 1, 1.2], dtype=kind)
    weight = choices[torch.randint(5, (5, joints, 1), generator=draws)]
    return output, target, weight


def value_and_gradient(loss, output, target, weight, scale=1.0):
    output = output.clone().requires_grad_()
    value = loss(output, target, weight)
    (value * scale).backward()
    return value.detach(), output.grad


@pytest.mark.parametrize('name', ['JointsMSELoss', 'JointsOHKMMSELoss'])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('joints', [16, 17])
@pytest.mark.parametrize('scale', [1.0, 32768.0])
def test_gradients_are_those_of_stock(theirs, name, weighted, joints, scale):
    ours = dict(
        JointsMSELoss=JointsMSELoss, JointsOHKMMSELoss=JointsOHKMMSELoss
    )[name](use_target_weight=weighted)
    stock_loss = getattr(theirs, name)(use_target_weight=weighted)
    sample = batch(joints)
    value, gradient = value_and_gradient(ours, *sample, scale=scale)
    wanted, stock_gradient = value_and_gradient(
        stock_loss, *sample, scale=scale
    )
    assert torch.equal(gradient, stock_gradient)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_gradient_is_the_derivative():
    output, target, weight = batch(3, torch.float64)
    loss = build_loss(dict(type='JointsMSELoss', use_target_weight=True))
    assert torch.autograd.gradcheck(
        lambda o: loss(o, target, weight), output.requires_grad_()
    )


def operators(loss, sample):
    with torch.autograd.profiler.profile() as profile:
        value_and_gradient(loss, *sample)
    return sum(event.count for event in profile.key_averages())


def test_operators(theirs):
    sample = batch(16)
    ours = operators(JointsMSELoss(use_target_weight=True), sample)
    stock_loss = theirs.JointsMSELoss(use_target_weight=True)
    assert ours * 8 < operators(stock_loss, sample)


def test_too_few_joints():
    loss = JointsOHKMMSELoss(topk=8)
    with pytest.raises(ValueError, match=r'topk \(8\) must not be larger'):
        loss(*batch(7))


def test_heatmaps_of_another_shape_are_named():
    output, target, weight = batch(16)
    # As many cells: flattened they would fit, and mean nothing.
    turned = target.transpose(2, 3)
    with pytest.raises(ValueError, match=r'16, 12, 9\), but .* 16, 9, 12\)'):
        JointsMSELoss()(output, turned, weight)
    flat = target.flatten(2)
    loss = JointsMSELoss()(output, target, weight)
    assert torch.equal(JointsMSELoss()(output, flat, weight), loss)
    with pytest.raises(ValueError, match=r'the targets have shape .* 107\)'):
        JointsMSELoss()(output, flat[..., 1:], weight)
