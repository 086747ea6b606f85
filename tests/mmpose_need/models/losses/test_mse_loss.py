"""Losses of heatmaps: mmpose's gradients bit for bit, in fewer operators."""

import pytest
import torch
from mmpose.models.builder import build_loss
from mmpose.models.losses import JointsMSELoss, JointsOHKMMSELoss
from torch.autograd import forward_ad


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


# What other people do with the losses: each gives a list of tensors.


def gradients_of_all(loss, output, target, weight):
    inputs = [t.clone().requires_grad_() for t in (output, target, weight)]
    return torch.autograd.grad(loss(*inputs), inputs)


def other_criterion(loss, *sample):
    loss.criterion = torch.nn.L1Loss(reduction=loss.criterion.reduction)
    return value_and_gradient(loss, *sample)


def sum_criterion(loss, *sample):
    if loss.criterion.reduction == 'mean':
        loss.criterion = torch.nn.MSELoss(reduction='sum')
    return value_and_gradient(loss, *sample)


def hooked_criterion(loss, *sample):
    seen = []
    loss.criterion.register_forward_hook(
        lambda module, inputs, out: seen.append(inputs[0])
    )
    return [*value_and_gradient(loss, *sample), *seen]


def patched_criterion(loss, *sample):
    own = loss.criterion.forward
    loss.criterion.forward = lambda a, b: own(a, b) * 2
    return value_and_gradient(loss, *sample)


def gradient_penalty(loss, output, target, weight):
    output = output.clone().requires_grad_()
    (grad,) = torch.autograd.grad(
        loss(output, target, weight), output, create_graph=True
    )
    (second,) = torch.autograd.grad(grad.pow(2).sum() * 1e6, output)
    return grad, second


def a_scaled_gradient_penalty(loss, output, target, weight):
    output, scale = output.clone().requires_grad_(), torch.tensor(3.0)
    scale.requires_grad_()
    (grad,) = torch.autograd.grad(
        loss(output, target, weight) * scale, output, create_graph=True
    )
    return torch.autograd.grad(grad.pow(2).sum() * 1e6, [output, scale])


def traced(loss, output, target, weight):
    made = torch.jit.trace(
        lambda *inputs: loss(*inputs), (output, target, weight)
    )
    return [made(output + 1, target, weight)]


def in_float16(loss, *sample):
    if torch.__version__.startswith('1.'):
        pytest.skip('this torch has no half precision on a CPU')
    return value_and_gradient(loss, *[t.half() for t in sample])


def in_two_precisions(loss, output, target, weight):
    return value_and_gradient(loss, output, target.double(), weight)


def functional_gradient(loss, *sample):
    func = pytest.importorskip('torch.func')
    return [func.grad(loss, argnums=0)(*sample)]


def functional_by_sample(loss, *sample):
    func = pytest.importorskip('torch.func')

    def of_one(*one):
        return loss(*(t.unsqueeze(0) for t in one))

    return [func.vmap(func.grad(of_one))(*sample)]


def forward_mode(loss, output, target, weight):
    if torch.__version__.startswith('1.'):
        pytest.skip('this torch has no forward mode')
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(output, torch.ones_like(output))
        return list(forward_ad.unpack_dual(loss(dual, target, weight)))


@pytest.mark.parametrize(
    'use',
    [
        gradients_of_all,
        other_criterion,
        sum_criterion,
        hooked_criterion,
        patched_criterion,
        gradient_penalty,
        a_scaled_gradient_penalty,
        traced,
        in_float16,
        in_two_precisions,
        functional_gradient,
        functional_by_sample,
        forward_mode,
    ],
)
@pytest.mark.parametrize('name', ['JointsMSELoss', 'JointsOHKMMSELoss'])
@pytest.mark.parametrize('weighted', [False, True])
def test_what_others_do_with_it_gives_what_stock_gives(
    theirs, name, weighted, use
):
    ours = dict(
        JointsMSELoss=JointsMSELoss, JointsOHKMMSELoss=JointsOHKMMSELoss
    )[name]
    found = []
    for kind in (ours, getattr(theirs, name)):
        try:
            found.append(
                list(use(kind(use_target_weight=weighted), *batch(9)))
            )
        except (RuntimeError, TypeError) as error:
            found.append(type(error))
    if isinstance(found[1], type):
        assert found[0] is found[1]
        return
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found):
        assert one.dtype == other.dtype
        close = 1e-3 if one.dtype == torch.float16 else 1e-5
        assert torch.allclose(one, other, rtol=close, atol=1e-9)


@pytest.mark.parametrize('kind', [JointsMSELoss, JointsOHKMMSELoss])
def test_weights_that_are_missing_are_not_left_out(kind):
    output, target, _ = batch(9)
    with pytest.raises(TypeError):
        kind(use_target_weight=True)(output, target, None)
    kind(use_target_weight=False)(output, target, None)


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


def test_hooks_for_state_dict_cost_nothing():
    # Mixed precision sets them on each module.
    loss = JointsMSELoss(use_target_weight=True)
    loss.criterion._register_state_dict_hook(lambda *args: None)
    output = torch.rand(2, 3, 4, 4, requires_grad=True)
    value = loss(output, torch.rand(2, 3, 4, 4), torch.ones(2, 3, 1))
    assert '_MeanOfJoints' in type(value.grad_fn).__name__
