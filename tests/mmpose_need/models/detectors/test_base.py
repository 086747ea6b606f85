"""Losses of a step: floats where they are read, and no wait where not."""

import copy
import json
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner.base_runner import DeferredLogBuffer
from mmpose.models.detectors.base import BasePose

from hourglass_npu.training.deferred import DeferredNumber, DeferredNumbers


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
    assert numbers == wanted and wanted == numbers


def gives(numbers):
    raised = dict(numbers)
    raised['loss'] += 1
    return raised


# What other people do with the numbers of a step.
READERS = [
    lambda n: n['loss'],
    lambda n: [type(v) for v in n.values()],
    lambda n: n.get('loss'),
    lambda n: n.pop('loss'),
    lambda n: n.popitem(),
    lambda n: n.setdefault('loss', 3),
    lambda n: list(n.items()),
    lambda n: f'{n["loss"]:.4f} {n}'.split('(')[1:],
    lambda n: '{loss:.4f}'.format(**n),
    lambda n: '%(loss).4f' % n,  # noqa: UP031
    lambda n: n['loss'] > 1.0 and max(n.values()) + 1,
    lambda n: (
        round(n['loss'], 2),
        sum(n.values()),
        -n['loss'],
        2 / n['loss'],
    ),
    lambda n: json.dumps(n),
    lambda n: json.dumps(dict(outputs=n), indent=1),
    lambda n: (
        type(pickle.loads(pickle.dumps(n))),
        pickle.loads(pickle.dumps(n)),
    ),
    lambda n: pickle.loads(pickle.dumps(n, 2)),
    lambda n: (dict(n), {**n}, OrderedDict(n), n.copy()),
    lambda n: (copy.copy(n), copy.deepcopy(n)),
    lambda n: sorted(n.items()),
    lambda n: {**n, 'loss': 1} != n,
    lambda n: OrderedDict(a=1.0, **n),
    lambda n: (n.update(lr=0.1), n['lr'], n['loss'], len(n), 'lr' in n),
    lambda n: (n.move_to_end('loss', last=False), list(n), n['spread']),
    lambda n: torch.tensor(list(n.values())).tolist(),
    lambda n: [isinstance(v, float) for v in n.values()],
    lambda n: isinstance(n, dict) and isinstance(n, OrderedDict),
    gives,
]


@pytest.mark.parametrize('read', READERS)
def test_a_reader_gets_what_stock_gives(theirs, read):
    numbers, wanted = (
        kind._parse_losses(losses())[1] for kind in (BasePose, theirs)
    )
    assert read(numbers) == read(wanted)


def test_nothing_is_read(monkeypatch):
    read = []
    for name in ('item', 'tolist', '__float__', '__bool__', 'numpy', 'cpu'):
        monkeypatch.setattr(
            torch.Tensor, name, lambda *_, name=name: read.append(name)
        )
    values = losses()
    accuracy = DeferredNumber(torch.tensor([1, 2]), lambda n: n[0] / n[1])
    values = DeferredNumbers(values, accuracy=accuracy)
    loss, numbers = BasePose._parse_losses(values)
    DeferredLogBuffer().update(numbers, 3)
    assert not read
    monkeypatch.undo()
    assert numbers['accuracy'] == 0.5
    assert numbers['loss'] == loss.item()


def test_a_detector_of_somebody_else_adds_a_loss():
    tensor = torch.tensor(0.5, requires_grad=True)
    share = DeferredNumber(torch.tensor([1, 2]), lambda n: n[0] / n[1])
    found = DeferredNumbers(mse_loss=tensor, acc_pose=share)
    assert found['mse_loss'] is tensor
    assert isinstance(found['acc_pose'], float) and found['acc_pose'] < 0.6
    found['other_loss'] = tensor * (1 - found['acc_pose'])
    loss, numbers = BasePose._parse_losses(found)
    assert loss.item() == numbers['loss'] == 0.75 and loss.requires_grad
    assert numbers['acc_pose'] == 0.5


class Watched(DeferredNumbers):
    reads = 0

    def read(self):
        Watched.reads += 1
        super().read()


class Weighs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)

    def train_step(self, data, optimizer):
        loss = self.used(data).mean()
        return dict(
            loss=loss,
            log_vars=Watched(loss=DeferredNumber(loss)),
            num_samples=len(data),
        )


def steps_of_a_rank():
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        # As train_model does: torch has deprecated the second.
        model = MMDistributedDataParallel(
            Weighs(), find_unused_parameters=True, broadcast_buffers=False
        )
    assert not [w for w in said if 'broadcast_buffers' in str(w.message)]
    for _ in range(3):
        outputs = model.train_step(torch.ones(2, 2), None)
        outputs['loss'].backward()
    reads = Watched.reads
    number, kind = outputs['log_vars']['loss'], type(outputs['log_vars'])
    assert kind is Watched and number == outputs['loss'].item()
    return [reads, list(outputs)]


def test_torch_reads_nothing_as_it_looks_for_gradients(ranks):
    for found in ranks(2, steps_of_a_rank):
        assert found == [0, ['loss', 'log_vars', 'num_samples']]


def test_another_kind_of_value():
    with pytest.raises(TypeError, match='count must be a tensor'):
        BasePose._parse_losses(dict(count='three'))
