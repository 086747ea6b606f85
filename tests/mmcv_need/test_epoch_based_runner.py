"""Epochs: the order of things, the same numbers as mmcv, speed, files."""

import copy
import logging
import os
import time

import pytest
import torch
from mmcv.runner import EpochBasedRunner, Hook, IterTimerHook, OptimizerHook
from mmcv.runner import epoch_based_runner as ours
from tiny_models import Convolutions
from torch.utils.data import DataLoader

EVENTS = [
    f'{when}_{what}'
    for what in (
        'run',
        'train_epoch',
        'val_epoch',
        'train_iter',
        'val_iter',
    )
    for when in ('before', 'after')
]


class Net(Convolutions):
    """Its steps take a while, if wanted."""

    def __init__(self):
        super().__init__(2, 4)
        self.seconds = 0

    def loss(self, data):
        time.sleep(self.seconds)
        return super().loss(data)


class Recorder(Hook):
    """Write down what is called, when, and with which loss."""

    def __init__(self):
        self.events = []
        for event in EVENTS:
            setattr(self, event, self._recorder(event))

    def _recorder(self, event):
        def record(runner):
            loss = None
            if event.endswith('iter') and event.startswith('after'):
                loss = runner.outputs['log_vars']['loss']
            self.events.append(
                (
                    event,
                    runner.mode,
                    runner.epoch,
                    runner.iter,
                    runner.inner_iter,
                    runner.max_iters,
                    runner.model.training,
                    loss,
                )
            )

        return record


def loader(images=7, batch_size=2):
    pictures = torch.randn(
        images, 2, 5, 5, generator=torch.Generator().manual_seed(1)
    )
    return DataLoader(pictures, batch_size=batch_size)


def make(runner_class=EpochBasedRunner, **kwargs):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kwargs.setdefault('max_epochs', 2)
    kwargs.setdefault('logger', logging.getLogger('epochs'))
    return runner_class(model, optimizer=optimizer, **kwargs)


@pytest.fixture
def originals(stock, monkeypatch):
    """Return the original runner, timer and optimizer hook.

    A single original imports ours of the others, so they are put together
    here: runner on original base, saving by the original function.
    """
    base = stock('mmcv', 'runner/base_runner.py').BaseRunner
    epochs = stock('mmcv', 'runner/epoch_based_runner.py')
    checkpoint = stock('mmcv', 'runner/checkpoint.py')
    monkeypatch.setattr(epochs, 'save_checkpoint', checkpoint.save_checkpoint)
    own = vars(epochs.EpochBasedRunner).items()
    methods = {name: value for name, value in own if name[0] != '_'}
    return (
        type('Original', (base,), methods),
        stock('mmcv', 'runner/hooks/iter_timer.py').IterTimerHook,
        stock('mmcv', 'runner/hooks/optimizer.py').OptimizerHook,
    )


@pytest.fixture
def no_sleep(monkeypatch):
    """Spare the sleeps of the original."""
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)


def train(runner, timer, optimizer_hook, work_dir, workflow, max_epochs=None):
    recorder = Recorder()
    runner.register_training_hooks(
        dict(policy='step', step=[1], warmup='linear', warmup_iters=3),
        optimizer_hook,
        dict(interval=1, out_dir=str(work_dir)),
        timer_config=timer,
    )
    runner.register_hook(recorder)
    torch.manual_seed(5)
    runner.run([loader() for _ in workflow], workflow, max_epochs)
    return recorder.events


@pytest.mark.parametrize(
    'workflow',
    [
        [('train', 1)],
        [('train', 1), ('val', 1)],
        [('train', 3), ('val', 2)],
        [('val', 1), ('train', 2)],
    ],
)
def test_same_course_losses_weights_and_files_as_the_original(
    workflow, tmp_path, originals, no_sleep
):
    installed = (EpochBasedRunner, IterTimerHook, OptimizerHook)
    runs = []
    for folder, parts in (('ours', installed), ('theirs', originals)):
        runner_class, timer, hook = parts
        runner = make(runner_class, meta=dict(seed=3))
        hook = hook(grad_clip=dict(max_norm=0.5))
        events = train(runner, timer(), hook, tmp_path / folder, workflow)
        files = sorted(p.name for p in (tmp_path / folder).iterdir())
        link = os.readlink(str(tmp_path / folder / 'latest.pth'))
        saved = torch.load(str(tmp_path / folder / 'latest.pth'))
        saved['meta'].pop('time')
        saved['meta'].pop('hook_msgs', None)
        saved.pop('resume', None)  # ours only
        runs.append((events, files, link, saved, runner.model.state_dict()))

    (events, files, link, saved, weights), original = runs
    assert events == original[0] and len(events) > 8
    assert (files, link) == original[1:3]
    assert list(saved) == list(original[3])
    assert saved['meta'] == original[3]['meta']
    assert set(weights) == set(original[4])
    for name, tensor in weights.items():
        assert torch.equal(tensor, original[4][name]), name
        assert torch.equal(saved['state_dict'][name], tensor), name
    assert_same(saved['optimizer'], original[3]['optimizer'])


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_resumed_training_ends_like_one_in_one_go(tmp_path):
    def run(epochs, folder, resume=None):
        runner = make(max_epochs=epochs)
        # Dropout's randomness is not in a checkpoint of mmcv.
        runner.model.body[3].p = 0.0
        if resume:
            runner.resume(str(resume))
        train(runner, None, dict(), folder, [('train', 1)])
        return runner.model.state_dict()

    whole = run(4, tmp_path / 'whole')
    run(2, tmp_path / 'parts')
    resumed = run(4, tmp_path / 'parts', tmp_path / 'parts' / 'latest.pth')
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_wrong_workflows_are_named():
    with pytest.raises(ValueError, match="'tarin'.*train or val"):
        make().run([loader()], [('tarin', 1)])
    with pytest.raises(TypeError, match='3'):
        make().run([loader()], [(3, 1)])
    with pytest.raises(AssertionError, match='max_epochs'):
        make(max_epochs=None).run([loader()], [('train', 1)])
    with pytest.warns(DeprecationWarning, match='max_epochs'):
        make(max_epochs=None).run([loader()], [('train', 1)], max_epochs=1)


def test_step_must_return_a_dict():
    runner = make()
    runner.model.train_step = lambda data, optimizer: 3
    with pytest.raises(TypeError, match='must return a dict'):
        runner.run([loader()], [('train', 1)])


def test_old_name_of_the_runner():
    with pytest.warns(UserWarning, match='EpochBasedRunner'):
        assert isinstance(make(ours.Runner), EpochBasedRunner)


# ------------------------------------------------------------------ speed


def speeds(caplog, runner, images=7, batch_size=2, timer=True):
    """Train, and return the values of the FPS lines."""
    caplog.clear()
    if timer:
        runner.register_timer_hook(dict(type='IterTimerHook'))
    with caplog.at_level(logging.INFO, logger='epochs'):
        runner.run([loader(images, batch_size)], [('train', 1)])
    lines = [r.getMessage() for r in caplog.records]
    return [float(ln[len('FPS: ') :]) for ln in lines if ln[:5] == 'FPS: ']


def test_speed_is_that_of_the_wall_clock(caplog):
    runner = make(max_epochs=2)
    runner.model.seconds = 0.02
    values = speeds(caplog, runner, images=16)
    assert len(values) == 2
    # 2 images in a little more than 0.02 s; a busy machine is slower.
    assert all(10 < value <= 100 for value in values)


def test_first_five_iterations_do_not_count(caplog):
    runner = make(max_epochs=1)
    step = runner.model.train_step

    def slow_at_first(data, optimizer):
        time.sleep(0.3 if runner.inner_iter < 5 else 0.001)
        return step(data, optimizer)

    runner.model.train_step = slow_at_first
    (value,) = speeds(caplog, runner, images=20)
    # With the first five it could not be more than 20 / 1.5.
    assert value > 20


@pytest.mark.parametrize('images', [1, 2, 9, 10, 11])
def test_short_epochs_have_a_speed(caplog, images):
    (value,) = speeds(caplog, make(max_epochs=1), images)
    assert value > 0


def test_an_epoch_without_iterations_has_none(caplog):
    assert speeds(caplog, make(max_epochs=1), images=0) == [0.0]


class FixedTimer(IterTimerHook):
    """Say that the counted iterations took two seconds."""

    def seconds_until_now(self):
        return 2.0


@pytest.mark.parametrize(
    'tells, kwargs, world_size, expected',
    [
        # 9 batches, of which 4 count: 2, 2, 2 and the last 1.
        (True, {}, 1, 7 / 2),
        (True, dict(samples_per_gpu=50, num_of_gpus=50), 1, 7 / 2),
        (True, {}, 3, 21 / 2),
        (False, {}, 1, 8 / 2),
        (False, {}, 3, 24 / 2),
        (False, dict(samples_per_gpu=5, num_of_gpus=4), 1, 80 / 2),
    ],
)
def test_images_of_all_devices_count(
    caplog, tells, kwargs, world_size, expected
):
    runner = make(max_epochs=1, **kwargs)
    runner._world_size = world_size
    step = runner.model.train_step
    if not tells:
        runner.model.train_step = lambda *args: dict(loss=step(*args)['loss'])
    runner.register_hook(FixedTimer())
    assert speeds(caplog, runner, images=17, timer=False) == [expected]


def test_only_rank_0_tells_the_speed(caplog):
    runner = make(max_epochs=1)
    runner._rank = 1
    assert speeds(caplog, runner) == []


def test_without_a_clock_or_a_count_nothing_is_told(caplog):
    assert speeds(caplog, make(max_epochs=1), timer=False) == []
    runner = make(max_epochs=1)
    runner.model.train_step = lambda data, optimizer: {}
    runner.register_hook(IterTimerHook())
    with caplog.at_level(logging.INFO, logger='epochs'):
        runner.run([list(loader())], [('train', 1)])
    assert 'FPS' not in caplog.text


def test_waits_for_the_device_once_an_epoch_before_hooks(monkeypatch):
    calls = []

    class Evaluation(Hook):
        def after_train_epoch(self, runner):
            calls.append('hook')

    monkeypatch.setattr(ours, 'synchronize', lambda: calls.append('wait'))
    runner = make(max_epochs=2)
    runner.register_hook(IterTimerHook())
    runner.register_hook(Evaluation())
    runner.run([loader()], [('train', 1)])
    assert calls == ['wait', 'hook'] * 2


def test_does_not_sleep(monkeypatch):
    def sleep(seconds):
        raise AssertionError(f'slept {seconds} s')

    runner = make(max_epochs=1)
    runner.model.seconds = 0
    monkeypatch.setattr(Net, 'train_step', lambda *args: {})
    monkeypatch.setattr(Net, 'val_step', lambda *args: {})
    monkeypatch.setattr(time, 'sleep', sleep)
    runner.run([loader(), loader()], [('train', 1), ('val', 1)])


def test_epochs_of_workers_follow_without_a_pause():
    """What the sleep was for: new workers while old ones end."""
    runner = make(max_epochs=4)
    data = torch.randn(8, 2, 5, 5)
    workers = DataLoader(data, batch_size=2, num_workers=2)
    runner.run([workers], [('train', 1)])
    assert runner.iter == 16


# ------------------------------------------------------------------ files


def test_meta_of_the_runner_goes_over_the_given_one(tmp_path):
    runner = make(meta=dict(seed=1, note='runner'))
    given = dict(note='given', more=2)
    before = copy.deepcopy(given)
    runner.save_checkpoint(str(tmp_path), meta=given)
    meta = torch.load(str(tmp_path / 'epoch_1.pth'))['meta']
    assert (meta['note'], meta['more'], meta['seed']) == ('runner', 2, 1)
    assert (meta['epoch'], meta['iter']) == (1, 0)
    assert given == before
    with pytest.raises(TypeError, match='meta'):
        runner.save_checkpoint(str(tmp_path), meta=3)


def test_what_is_saved_can_be_chosen(tmp_path):
    runner = make()
    runner.save_checkpoint(
        str(tmp_path),
        'some_{}.pth',
        save_optimizer=False,
        create_symlink=False,
    )
    assert [p.name for p in tmp_path.iterdir()] == ['some_1.pth']
    assert 'optimizer' not in torch.load(str(tmp_path / 'some_1.pth'))


def test_latest_is_replaced(tmp_path):
    runner = make()
    for epoch in range(3):
        runner._epoch = epoch
        runner.save_checkpoint(str(tmp_path))
    assert os.readlink(str(tmp_path / 'latest.pth')) == 'epoch_3.pth'
    assert torch.load(str(tmp_path / 'latest.pth'))['meta']['epoch'] == 3
    assert len(list(tmp_path.iterdir())) == 4
