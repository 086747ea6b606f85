"""State, hooks and resuming, in what all runners share."""

import copy
import logging
from types import SimpleNamespace

import mmcv
import pytest
import torch
from mmcv.runner import (
    BaseRunner,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    LogBuffer,
    TextLoggerHook,
    save_checkpoint,
)
from mmcv.runner.base_runner import DeferredLogBuffer
from tiny_models import Linear
from torch import nn


def sgd(model, **kwargs):
    return torch.optim.SGD(model.parameters(), lr=0.5, **kwargs)


def make(runner_class=EpochBasedRunner, model=None, **kwargs):
    limit = 'max_iters' if runner_class is IterBasedRunner else 'max_epochs'
    kwargs = dict({limit: 2, 'logger': logging.getLogger('base')}, **kwargs)
    return runner_class(model or Linear(2), **kwargs)


@pytest.mark.parametrize(
    'wrong, error, words',
    [
        (dict(optimizer=3), TypeError, 'optimizer must be'),
        (dict(optimizer=dict(a=3)), TypeError, r"optimizer\['a'\]"),
        (dict(logger=None), TypeError, 'logger'),
        (dict(meta=[]), TypeError, 'meta'),
        (dict(work_dir=3), TypeError, 'work_dir'),
        (dict(max_iters=1, max_epochs=2), ValueError, 'Only one of'),
        (dict(samples_per_gpu=0), ValueError, 'samples_per_gpu.*0'),
        (dict(num_of_gpus=-1), ValueError, 'num_of_gpus.*-1'),
        (dict(num_of_gpus=1.5), ValueError, 'num_of_gpus.*1.5'),
    ],
)
def test_refuses_wrong_arguments(wrong, error, words):
    with pytest.raises(error, match=words):
        make(**wrong)


def test_batch_processor():
    class Bare(nn.Linear):
        pass

    bare = Bare(2, 1)
    with pytest.raises(AssertionError):
        make(model=bare)
    with pytest.raises(TypeError):
        make(model=bare, batch_processor=3)
    with pytest.warns(UserWarning, match='batch_processor'):
        runner = make(model=bare, batch_processor=lambda m, d, train_mode: {})
    assert runner.model_name == 'Bare'
    with pytest.warns(UserWarning), pytest.raises(RuntimeError):
        make(batch_processor=lambda m, d, train_mode: {})


def test_counts_of_samples_and_devices():
    runner = make()
    assert runner.samples_per_gpu is None
    assert runner.num_of_gpus == runner.world_size == 1
    runner.data_loader = torch.utils.data.DataLoader([1, 2, 3], batch_size=3)
    assert runner.samples_per_gpu == 3
    runner = make(samples_per_gpu=32, num_of_gpus=8)
    assert (runner.samples_per_gpu, runner.num_of_gpus) == (32, 8)


def test_learning_rates_and_momenta():
    model = Linear(2)
    plain, adam = sgd(model), torch.optim.Adam(model.parameters(), lr=0.1)
    pushed = sgd(model, momentum=0.9)
    runner = make(model=model, optimizer=dict(p=plain, a=adam, m=pushed))
    assert runner.current_lr() == dict(p=[0.5], a=[0.1], m=[0.5])
    assert runner.current_momentum() == dict(p=[0], a=[0.9], m=[0.9])
    assert make(model=model, optimizer=plain).current_lr() == [0.5]
    for ask in (make().current_lr, make().current_momentum):
        with pytest.raises(RuntimeError, match='no optimizer'):
            ask()


CONFIGS = dict(
    lr_config=dict(policy='step', step=[1], warmup='linear', warmup_iters=2),
    optimizer_config=dict(grad_clip=dict(max_norm=1.0)),
    checkpoint_config=dict(interval=1),
    log_config=dict(interval=1, hooks=[dict(type='TextLoggerHook')]),
    momentum_config=dict(policy='CosineAnnealing', min_momentum_ratio=0.5),
)


def describe(hooks):
    """Class and settings of hooks in order."""
    return [
        (type(h).__name__, h.priority)
        + tuple(sorted((k, repr(v)) for k, v in vars(h).items()))
        for h in hooks
    ]


def test_hooks_are_those_of_the_original(stock):
    theirs = stock('mmcv', 'runner/base_runner.py').BaseRunner
    found = []
    for base in (BaseRunner, theirs):
        abstract = ('train', 'val', 'run', 'save_checkpoint')
        made = type('Made', (base,), dict.fromkeys(abstract))
        runner = made(
            Linear(2), logger=logging.getLogger('base'), max_epochs=1
        )
        runner.register_hook_from_cfg(
            dict(
                type='ClosureHook', fn_name='after_run', fn=print, priority=30
            )
        )
        runner.register_training_hooks(**copy.deepcopy(CONFIGS))
        runner.register_hook(Hook(), priority='HIGHEST')
        runner.register_hook(Hook(), priority='LOW')
        runner.register_lr_hook(dict(policy='cyclic'))
        runner.register_checkpoint_hook(dict(type='EMAHook'))
        runner.register_training_hooks(None, timer_config=None)
        found.append(describe(runner.hooks))
    assert found[0] == found[1]
    assert len(found[0]) == 11


@pytest.mark.parametrize('form', [dict, mmcv.ConfigDict])
def test_registering_does_not_change_the_config(form):
    configs = {key: form(value) for key, value in CONFIGS.items()}
    before = copy.deepcopy(configs)
    for _ in range(2):
        make().register_training_hooks(**configs)
    assert configs == before


def test_refuses_a_hook_twice():
    runner, hook = make(), Hook()
    runner.register_hook(hook)
    with pytest.raises(ValueError, match='Hook.*priority'):
        runner.register_hook(hook)
    with pytest.raises(AssertionError):
        runner.register_hook(3)


def test_a_log_that_cannot_be_written_ends_nothing(caplog):
    class Full(TextLoggerHook):
        calls = 0

        def after_train_iter(self, runner):
            self.calls += 1
            raise OSError(28, 'No space left on device')

    class Disk(Hook):
        def after_val_iter(self, runner):
            raise OSError(28, 'No space left on device')

    runner, log = make(), Full()
    runner.register_hook(log)
    runner.register_hook(Disk())
    runner.call_hook('after_train_iter')
    runner.call_hook('after_train_iter')
    assert log.calls == 2
    assert caplog.messages == [
        'Full cannot log: [Errno 28] No space left on device'
    ]
    with pytest.raises(OSError, match='No space'):
        runner.call_hook('after_val_iter')


def step(model, optimizer):
    optimizer.zero_grad()
    model.train_step(torch.ones(3, 2), None)['loss'].backward()
    optimizer.step()


def test_resume_restores_everything(tmp_path):
    model = Linear(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step(model, optimizer)
    path = str(tmp_path / 'c.pth')
    save_checkpoint(model, path, optimizer, dict(epoch=3, iter=7))

    again = Linear(2)
    runner = make(
        model=again, optimizer=torch.optim.Adam(again.parameters(), lr=9.0)
    )
    runner.resume(path)
    assert (runner.epoch, runner.iter) == (3, 7)
    assert runner.current_lr() == [0.1]
    step(model, optimizer)
    step(again, runner.optimizer)
    for mine, theirs in zip(model.parameters(), again.parameters()):
        assert torch.equal(mine, theirs)

    runner = make(model=Linear(2), optimizer=sgd(model))
    runner.resume(path, resume_optimizer=False, map_location='cpu')
    assert runner.current_lr() == [0.5]
    with pytest.raises(TypeError, match='optimizer'):
        make().resume(path)


def test_resume_of_several_optimizers(tmp_path):
    model = Linear(2)
    path = str(tmp_path / 'c.pth')
    both = dict(a=sgd(model, momentum=0.9), b=sgd(model))
    step(model, both['a'])
    save_checkpoint(model, path, both, dict(epoch=1, iter=1))
    runner = make(optimizer=dict(a=sgd(model, momentum=0.1), b=sgd(model)))
    runner.resume(path)
    assert runner.current_momentum() == dict(a=[0.9], b=[0])
    runner = make(optimizer=dict(a=sgd(model), other=sgd(model)))
    with pytest.raises(ValueError, match='other'):
        runner.resume(path)


@pytest.mark.parametrize('meta', [None, dict(epoch=1), dict(iter=1)])
def test_resume_says_that_weights_alone_do_not_do(tmp_path, meta):
    path = str(tmp_path / 'weights.pth')
    model = Linear(2)
    if meta is None:
        torch.save(model.state_dict(), path)
    else:
        save_checkpoint(model, path, meta=meta)
    with pytest.raises(ValueError, match='weights.pth.*load_from'):
        make().resume(path)


def test_names_no_device():
    import inspect

    from mmcv.runner import base_runner, epoch_based_runner

    for module in (base_runner, epoch_based_runner):
        source = inspect.getsource(module)
        assert 'cuda' not in source and 'npu' not in source


def test_iter_based_runner_goes_on_working(tmp_path):
    model = Linear(2)
    loader = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2)
    runner = make(
        IterBasedRunner,
        model=model,
        optimizer=sgd(model),
        work_dir=str(tmp_path),
        max_iters=6,
        samples_per_gpu=2,
    )
    runner.register_training_hooks(
        dict(policy='step', step=[4]),
        dict(grad_clip=None),
        dict(interval=3),
        dict(interval=2, hooks=[dict(type='TextLoggerHook')]),
    )
    runner.run([loader], [('train', 1)])
    assert runner.iter == 6
    assert runner.current_lr() == [pytest.approx(0.05)]
    assert (tmp_path / 'latest.pth').resolve().name == 'iter_6.pth'
    again = make(IterBasedRunner, optimizer=sgd(Linear(2)))
    again.resume(str(tmp_path / 'latest.pth'), map_location='cpu')
    # The counters in the file are one ahead, as mmcv 1.2.7 writes them.
    assert (again.iter, again.epoch) == (6, 2)


def test_log_averages_what_was_deferred_as_plain_numbers():
    plain, deferred = LogBuffer(), DeferredLogBuffer()
    draws = torch.Generator().manual_seed(0)
    for count in (3, 4, 5, 1):
        loss = torch.rand((), generator=draws)
        hits = torch.randint(0, 9, (2,), generator=draws) + 1
        share = SimpleNamespace(tensor=hits, finish=lambda n: n[0] / n[1])
        plain.update(
            dict(
                loss=loss.item(),
                share=hits[0].item() / hits[1].item(),
                time=0.1,
            ),
            count,
        )
        deferred.update(dict(loss=loss, share=share, time=0.1), count)
    for n in (2, 0):
        plain.average(n)
        deferred.average(n)
        assert deferred.output == plain.output
        assert deferred.ready
    deferred.clear()
    assert not deferred.val_history


def test_log_reads_once_for_a_line(monkeypatch):
    buffer, reads = DeferredLogBuffer(), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(
        torch.Tensor, 'tolist', lambda t: reads.append(len(t)) or tolist(t)
    )
    for i in range(5):
        buffer.update(dict(loss=torch.tensor(1.0 * i), other=torch.ones(1)))
    assert not reads
    buffer.average(3)
    assert reads == [10]
    assert buffer.output == dict(loss=3.0, other=1.0)
    # What was read is not read again.
    buffer.average(2)
    assert reads == [10]


def test_log_of_a_run_without_lines_stays_small(monkeypatch):
    monkeypatch.setattr(DeferredLogBuffer, 'MOST_UNREAD', 4)
    buffer, reads = DeferredLogBuffer(), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(
        torch.Tensor, 'tolist', lambda t: reads.append(len(t)) or tolist(t)
    )
    for i in range(10):
        buffer.update(dict(loss=torch.tensor(float(i))))
    assert reads == [4, 4]
    # Who looks at the values finds plain numbers.
    assert buffer.val_history == dict(loss=[float(i) for i in range(10)])
    assert all(type(v) is float for v in buffer.val_history['loss'])
    assert reads == [4, 4, 2]
