"""Other people's hooks and runners do on ours what they do on mmcv 1.2.7."""

import json
import logging
import pickle
import time
from collections import deque

import pytest
import torch
from mmcv.runner import (
    CheckpointHook,
    EMAHook,
    EpochBasedRunner,
    Hook,
    OptimizerHook,
)
from mmcv.runner.checkpoint import _load_checkpoint
from tiny_models import Linear
from torch.utils.data import DataLoader

from hourglass_npu.training.deferred import DeferredNumber, DeferredNumbers

TRAIN = [('train', 1)]


class Net(Linear):
    """It notes the mode and the size of each batch."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.seen = []

    def loss(self, data):
        self.seen.append((self.training, len(data)))
        return super().loss(data)


def loader(batch=4, shuffle=False):
    data = torch.linspace(-1, 1, 48).view(12, 4)
    return DataLoader(data, batch_size=batch, shuffle=shuffle)


def make(kind, folder, epochs=1, hooks=()):
    model = Net()
    runner = kind(
        model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.1),
        work_dir=str(folder),
        logger=logging.getLogger('strangers'),
        max_epochs=epochs,
    )
    runner.register_hook(OptimizerHook())
    for hook in hooks:
        runner.register_hook(hook)
    return runner


@pytest.fixture
def theirs(stock, monkeypatch):
    """Return the released runner, base and all, without its sleeps."""
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    base = stock('mmcv', 'runner/base_runner.py').BaseRunner
    epochs = stock('mmcv', 'runner/epoch_based_runner.py')
    checkpoint = stock('mmcv', 'runner/checkpoint.py')
    monkeypatch.setattr(epochs, 'save_checkpoint', checkpoint.save_checkpoint)
    own = vars(epochs.EpochBasedRunner).items()
    return type('Released', (base,), {k: v for k, v in own if k[0] != '_'})


@pytest.fixture(params=[('train',), ('run',), ('train', 'run')])
def subclass(request, theirs):
    """Return our runner with the released text of some of its methods."""
    methods = {name: vars(theirs)[name] for name in request.param}
    return type('Subclass', (EpochBasedRunner,), methods)


class Swap(Hook):
    """Put another loader in the place of the epoch's own."""

    def __init__(self, event):
        setattr(self, event, self.swap)
        self.lengths = []

    def swap(self, runner):
        runner.data_loader = loader(6)

    def after_iter(self, runner):
        self.lengths.append((len(runner.data_loader), runner.max_iters))


@pytest.mark.parametrize(
    'event', ['before_epoch', 'before_train_epoch', 'before_val_epoch']
)
def test_a_hook_replaces_the_loader(tmp_path, theirs, event):
    found = []
    for kind in (EpochBasedRunner, theirs):
        swap = Swap(event)
        runner = make(kind, tmp_path / kind.__name__, 2, [swap])
        flow = [('train', 1), ('val', 1)]
        runner.run([loader(), loader()], flow)
        found.append((runner.model.seen, swap.lengths, runner.iter))
    assert found[0] == found[1]
    assert any(size == 6 for _, size in found[0][0])


def test_a_run_with_replaced_loaders_resumes(tmp_path):
    def train(name, resume=None):
        torch.manual_seed(3)
        saves = CheckpointHook(interval=1, by_epoch=False)
        hooks = [Swap('before_train_epoch'), saves]
        runner = make(EpochBasedRunner, tmp_path / name, 2, hooks)
        if resume:
            runner.resume(str(tmp_path / resume))
        runner.run([loader(shuffle=True)], TRAIN)
        return runner

    whole = train('whole')
    again = train('again', 'whole/iter_3.pth')
    assert whole.iter == again.iter == 4
    assert [size for _, size in again.model.seen] == [6]
    for one, other in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)


def train_with(kind, folder, resume=None):
    """Train two epochs of three, saving each iteration, from a point."""
    torch.manual_seed(3)
    places = []

    class Watch(Hook):
        def before_train_iter(self, runner):
            places.append((runner.epoch, runner.inner_iter, runner.iter))

    saves = CheckpointHook(interval=1, by_epoch=False)
    runner = make(kind, folder, 2, [Watch(), saves])
    if resume:
        runner.resume(str(resume))
    runner.run([loader(shuffle=True)], TRAIN)
    return places, runner.iter, list(runner.model.parameters())


def test_the_released_methods_resume_inside_an_epoch(tmp_path, subclass):
    places, count, weights = train_with(EpochBasedRunner, tmp_path / 'whole')
    for name in ('iter_2', 'iter_3', 'iter_4'):
        done = int(name[-1])
        again = train_with(
            subclass, tmp_path / name, tmp_path / 'whole' / f'{name}.pth'
        )
        assert again[0] == places[done:]
        assert again[1] == count == 6
        assert all(torch.equal(a, b) for a, b in zip(weights, again[2]))
    # And what they save inside an epoch goes on from there.
    path = tmp_path / 'iter_2' / 'iter_5.pth'
    again = train_with(EpochBasedRunner, tmp_path / 'last', path)
    assert again[0] == places[5:] and torch.equal(again[2][0], weights[0])


def test_a_loop_over_its_argument_begins_the_epoch_anew(tmp_path, caplog):
    class Argument(EpochBasedRunner):
        def train(self, data_loader, **kwargs):
            self.model.train()
            self.mode, self.data_loader = 'train', data_loader
            self.call_hook('before_train_epoch')
            for i, batch in enumerate(data_loader):
                self._inner_iter = i
                self.call_hook('before_train_iter')
                self.run_iter(batch, train_mode=True)
                self.call_hook('after_train_iter')
                self._iter += 1
            self.call_hook('after_train_epoch')
            self._epoch += 1

    train_with(EpochBasedRunner, tmp_path / 'a')
    path = tmp_path / 'a' / 'iter_2.pth'
    places, count, _ = train_with(Argument, tmp_path / 'b', path)
    assert (places[0], count) == ((0, 0, 0), 6)
    assert 'epoch 1 is trained from its start, not from batch 2' in caplog.text


class Reads(Hook):
    """Do to the log buffer what only a dict of floats survives."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner):
        buffer, numbers = runner.log_buffer, runner.outputs['log_vars']
        history = buffer.val_history
        self.seen.append(json.dumps([history, buffer.n_history, numbers]))
        buffer.update(dict(numbers, own=runner.iter), 2)
        buffer.average(2)
        self.seen.append(sorted(buffer.output.items()))
        if runner.iter == 2:
            buffer.clear()
        if runner.iter == 3:
            history['own'].append(5.0)
            buffer.n_history['own'].append(1)
            buffer.average()
            self.seen.append(float(buffer.output['own']))
        self.seen.append(len(pickle.dumps(buffer)) > 0)


class Deferred(Net):
    """The net, with numbers as a detector of mmpose gives them."""

    def train_step(self, data, optimizer, **kwargs):
        outputs = super().train_step(data, optimizer, **kwargs)
        if self.deferred:
            number = DeferredNumber(outputs['loss'])
            outputs['log_vars'] = DeferredNumbers(loss=number)
        return outputs


def test_a_hook_reads_and_writes_the_log_buffer(tmp_path, theirs):
    found = []
    for kind in (EpochBasedRunner, theirs):
        reads = Reads()
        runner = make(kind, tmp_path / kind.__name__, 2, [reads])
        runner.model.__class__ = Deferred
        runner.model.deferred = kind is EpochBasedRunner
        runner.run([loader()], TRAIN)
        found.append((reads.seen, json.dumps(runner.log_buffer.val_history)))
    assert found[0] == found[1]


# --------------------------------------------------------- states of hooks


class Counter(Hook):
    def __init__(self, count):
        self.count = count

    def state_dict(self):
        return dict(count=self.count)

    def load_state_dict(self, state):
        self.count = state['count']


def test_ema_resumes_where_the_run_begins(tmp_path, subclass):
    saving = [EMAHook(), Counter(7), CheckpointHook(interval=1)]
    make(EpochBasedRunner, tmp_path, 1, saving).run([loader()], TRAIN)
    path = str(tmp_path / 'epoch_1.pth')
    for kind in (EpochBasedRunner, subclass):
        counter = Counter(0)
        hooks = [EMAHook(resume_from=path), counter]
        runner = make(kind, tmp_path / kind.__name__, 2, hooks)
        runner.run([loader()], TRAIN)
        assert (runner.epoch, runner.iter, counter.count) == (2, 6, 7)
        assert len(runner.model.seen) == 3


def test_two_hooks_of_one_class_have_their_own_states(tmp_path, subclass):
    hooks = [Counter(1), Counter(2), Counter(3), CheckpointHook(interval=1)]
    make(EpochBasedRunner, tmp_path, 1, hooks).run([loader()], TRAIN)
    for kind in (EpochBasedRunner, subclass):
        hooks = [Counter(0) for _ in range(3)]
        runner = make(kind, tmp_path / 'again', 2, hooks)
        runner.resume(str(tmp_path / 'epoch_1.pth'))
        runner.run([loader()], TRAIN)
        assert [hook.count for hook in hooks] == [1, 2, 3]


class Attribute(Hook):
    state_dict = load_state_dict = None

    def before_run(self, runner):
        self.state_dict = dict(runner.model.state_dict())


class Property(Hook):
    @property
    def state_dict(self):
        raise RuntimeError('only in a run')


class Arguments(Hook):
    def state_dict(self, prefix, keep):
        raise AssertionError

    load_state_dict = state_dict


class Holds(Hook):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        raise AssertionError('there is none')


class Own:
    pass


class Fails(Hook):
    def state_dict(self):
        raise KeyError('no state yet')


def test_states_that_cannot_be_saved_are_named_once(tmp_path, caplog, theirs):
    def hooks():
        return [
            Attribute(),
            Arguments(),
            Property(),
            Holds(lambda: 0),
            Holds(dict(deep=[Own()])),
            Holds(deque([Own()])),
            Fails(),
            Counter(5),
            CheckpointHook(interval=1),
        ]

    weights = []
    for kind in (theirs, EpochBasedRunner):
        runner = make(kind, tmp_path / kind.__name__, 2, hooks())
        runner.run([loader()], TRAIN)
        weights.append(runner.model.layer.weight)
    assert torch.equal(*weights)
    path = str(tmp_path / 'EpochBasedRunner' / 'epoch_2.pth')
    assert _load_checkpoint(path)['resume']['hooks'] == {
        'Counter': dict(count=5)
    }
    for name in ('Holds', 'Holds 2', 'Holds 3', 'Fails', 'Property'):
        assert caplog.text.count(f'The state of {name} is in no') == 1
    runner = make(EpochBasedRunner, tmp_path / 'again', 3, hooks())
    runner.resume(path)
    runner.run([loader()], TRAIN)
