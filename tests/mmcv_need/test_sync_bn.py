"""Two processes with SyncBN compute what one with the double batch does.

torch has kernels for ``SyncBatchNorm`` on accelerators only. Here are those
for the CPU, from the formulas of batch normalisation; the layer, its
communication and its place in autograd are torch's own.
"""

from unittest.mock import patch

import pytest
import torch
import wrapper_cases
from mmcv.cnn import ConvModule
from mmcv.parallel import MMDistributedDataParallel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

if not hasattr(torch._C, '_get_privateuse1_backend_name'):
    pytest.skip(
        f'SyncBatchNorm of torch {torch.__version__} is for CUDA alone',
        allow_module_level=True,
    )


LEARNING_RATE = 0.1


class Model(nn.Module):
    """Two blocks of convolution, batch norm and ReLU, and a regression."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(1)
        norm = dict(type=norm)
        self.layers = nn.Sequential(
            ConvModule(3, 6, 3, norm_cfg=norm),
            ConvModule(6, 5, 1, norm_cfg=norm),
            nn.Conv2d(5, 2, 3),
        )

    def forward(self, img):
        return self.layers(img)

    def train_step(self, data, optimizer=None):
        loss = (self(data['img']) - data['target']).pow(2).mean()
        return {'loss': loss, 'num_samples': len(data['img'])}


def train(model, wrapped, batches):
    """Train with SGD.

    Args:
        model (nn.Module): The bare model.
        wrapped (nn.Module): What has the ``train_step`` to call.
        batches (list[dict]): One for each step.

    Returns:
        list[dict]: After each step the loss, and by name the gradients, the
        weights and the running statistics.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9
    )
    steps = []
    for batch in batches:
        optimizer.zero_grad()
        loss = wrapped.train_step(batch, optimizer)['loss']
        loss.backward()
        optimizer.step()
        found = {'loss': loss.detach()}
        for name, value in model.state_dict().items():
            found[name] = value.clone()
        for name, value in model.named_parameters():
            found[name + '.grad'] = value.grad.clone()
        steps.append(found)
    return steps


# ------------------------------------------------- the operators, on the CPU
#
# Tensors are (batch, channels, ...); statistics are (channels,), of all
# processes (processes, channels).


def other_axes(tensor):
    return [axis for axis in range(tensor.dim()) if axis != 1]


def spread(values, tensor):
    """View values of channels so that they fit the tensor."""
    return values.view([1, -1] + [1] * (tensor.dim() - 2))


def batch_norm_stats(x, eps):
    var, mean = torch.var_mean(x, other_axes(x), unbiased=False)
    return mean, (var + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x, means, invstds, running_mean, running_var, momentum, eps, counts
):
    total = counts.sum()
    share = (counts / total).view(-1, 1)
    mean = (means * share).sum(0)
    spread_within = invstds.pow(-2) - eps
    var = ((spread_within + (means - mean).pow(2)) * share).sum(0)
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (total / (total - 1)), momentum)
    return mean, (var + eps).rsqrt()


def batch_norm_elemt(x, weight, bias, mean, invstd, eps):
    return (x - spread(mean, x)) * spread(invstd * weight, x) + spread(bias, x)


def batch_norm_backward_reduce(
    grad, x, mean, invstd, weight, for_input, for_weight, for_bias
):
    sum_dy = grad.sum(other_axes(grad))
    sum_dy_xmu = (grad * (x - spread(mean, x))).sum(other_axes(x))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def batch_norm_backward_elemt(
    grad, x, mean, invstd, weight, sum_dy, sum_dy_xmu, counts
):
    total = counts.sum()
    slope = invstd.pow(2) * sum_dy_xmu / total
    centred = grad - spread(sum_dy / total, x)
    centred = centred - (x - spread(mean, x)) * spread(slope, x)
    return centred * spread(invstd * weight, x)


OPERATORS = [
    batch_norm_stats,
    batch_norm_gather_stats_with_counts,
    batch_norm_elemt,
    batch_norm_backward_reduce,
    batch_norm_backward_elemt,
]


def train_in_a_rank():
    """Train both models on this rank's batches."""
    library = torch.library.Library('aten', 'IMPL')
    for operator in OPERATORS:
        library.impl(operator.__name__, operator, 'CPU')
    models = {norm: Model(norm) for norm in ('SyncBN', 'BN')}
    results = {}
    # The layer takes the device of a plug-in; here that is the CPU, and DDP
    # must not look again whether it is one.
    with patch.object(
        torch._C, '_get_privateuse1_backend_name', lambda: 'cpu'
    ), patch.object(
        DistributedDataParallel,
        '_passing_sync_batchnorm_handle',
        lambda *args: None,
    ):
        for norm, model in models.items():
            # As train_model wraps it.
            wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
            results[norm] = train(model, wrapped, wrapper_cases.my_batches())
    return results


@pytest.fixture(scope='module')
def alone():
    """Return what one process finds that has the whole batches."""
    model = Model('BN')
    return train(model, model, wrapper_cases.batches())


_ran = []


@pytest.fixture
def found(ranks):
    """Return what the two processes found, in order of rank; run once."""
    _ran.extend(ranks(2, train_in_a_rank) if not _ran else ())
    return _ran


PARTS = ['.grad', '.weight', '.bias', '.running_mean', '.running_var']


def distance(step, other, part):
    """Return the largest difference among the values with such a name."""
    names = [name for name in step if name.endswith(part)]
    assert names and set(step) == set(other)
    return max((step[name] - other[name]).abs().max() for name in names)


def test_gradients_weights_and_statistics_are_those_of_one(found, alone):
    for rank in found:
        for step, expected in zip(rank['SyncBN'], alone):
            for part in PARTS + ['.num_batches_tracked']:
                assert distance(step, expected, part) <= 1e-6, part
    for first, second, expected in zip(*(r['SyncBN'] for r in found), alone):
        mean = (first['loss'] + second['loss']) / 2
        assert abs(mean - expected['loss']) <= 1e-6
    # And training did something, to each kind of value.
    for part in PARTS:
        assert distance(alone[0], alone[-1], part) > 1e-3


def test_all_ranks_hold_the_same_model(found):
    for first, second in zip(*(rank['SyncBN'] for rank in found)):
        assert first['loss'] != second['loss']
        for name in set(first) - {'loss'}:
            assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize('part', PARTS)
def test_without_it_each_rank_normalises_for_itself(found, alone, part):
    assert distance(found[0]['BN'][-1], alone[-1], part) > 1e-3
