"""A run that was stopped and resumed equals one that never was, to the bit."""

import itertools
import logging
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.runner import Hook
from mmcv.runner.checkpoint import _load_checkpoint
from mmcv.runner.epoch_based_runner import get_random_state, set_random_state
from resume_cases import (
    TRAIN,
    Net,
    Noise,
    assert_same,
    make_loader,
    make_runner,
    resume_in_ranks,
    scramble,
)
from resume_cases import train_from as train

PER_EPOCH = 7


@pytest.mark.training
@pytest.mark.parametrize('workers', [0, 2])
def test_from_any_iteration_and_any_epoch(tmp_path, workers):
    whole = train(tmp_path / 'whole', workers=workers)
    names = {p.stem for p in (tmp_path / 'whole').glob('*_*.pth')}
    assert names == {f'iter_{i}' for i in range(1, 22)} | {
        f'epoch_{i}' for i in (1, 2, 3)
    }
    if workers:  # they take their time to start
        names = {'epoch_1', 'iter_2', 'iter_7', 'iter_12'}
    for name in sorted(names):
        path = tmp_path / 'whole' / f'{name}.pth'
        again = train(tmp_path / name, path, workers)
        assert_same(again, whole, name)
        # What it saves is what the other has saved.
        last = [
            _load_checkpoint(str(tmp_path / folder / 'epoch_3.pth'))
            for folder in ('whole', name)
            if name != 'epoch_3'
        ]
        for part in ('state_dict', 'optimizer', 'resume'):
            assert_same(*[saved[part] for saved in last] or (0, 0))


def test_where_a_step_of_several_passes_is_complete(tmp_path):
    whole = train(tmp_path / 'whole', passes=3)
    # An epoch has 7 iterations: 3, 3 and 1 make its steps.
    names = [f'iter_{i}' for i in (3, 6, 7, 10, 13, 14, 20)]
    for name in ['epoch_1', 'epoch_2', *names]:
        path = tmp_path / 'whole' / f'{name}.pth'
        assert_same(train(tmp_path / name, path, passes=3), whole, name)


def test_a_file_saved_amid_a_step_is_named(tmp_path, caplog):
    train(tmp_path, passes=2, epochs=1)
    # After iterations 1, 3 and 5 of 7.
    assert caplog.text.count('lacks the gradients so far') == 3


def test_a_resume_of_a_resume(tmp_path):
    whole = train(tmp_path / 'a')
    train(tmp_path / 'b', tmp_path / 'a' / 'iter_2.pth', epochs=1)
    train(tmp_path / 'c', tmp_path / 'b' / 'epoch_1.pth', epochs=2)
    path = tmp_path / 'c' / 'latest.pth'
    assert path.resolve().name == 'epoch_2.pth'
    assert_same(train(tmp_path / 'd', path), whole)


@pytest.mark.parametrize(
    'workflow',
    [
        [('train', 1), ('val', 1)],
        [('val', 1), ('train', 2), ('val', 2), ('train', 1)],
    ],
)
def test_the_workflow_goes_on_in_its_place(tmp_path, workflow):
    whole = train(tmp_path / 'whole', workflow=workflow, epochs=4)
    for name in ('epoch_1', 'epoch_2', 'epoch_3', 'iter_3', 'iter_17'):
        path = tmp_path / 'whole' / f'{name}.pth'
        again = train(tmp_path / name, path, workflow=workflow, epochs=4)
        assert_same(again, whole, name)


@pytest.mark.parametrize('missing', ['now', 'epoch_start', 'batches_done'])
def test_nothing_in_the_section_is_needless(tmp_path, missing):
    whole = train(tmp_path / 'whole')
    path = tmp_path / 'whole' / 'iter_10.pth'
    saved = _load_checkpoint(str(path))
    if missing == 'batches_done':
        saved['resume'][missing] = 0
    else:
        saved['resume']['random'][0][missing] = get_random_state()
    torch.save(saved, str(tmp_path / 'changed.pth'))
    with pytest.raises(AssertionError):
        assert_same(train(tmp_path / 'b', tmp_path / 'changed.pth'), whole)


def test_generators_come_back_whole():
    random.gauss(0, 1)  # leaves half of a pair behind
    np.random.randn()
    state = get_random_state()

    def draw():
        return (
            [random.random(), random.gauss(0, 1), random.gauss(0, 1)],
            [np.random.rand(), np.random.randn(), np.random.randn()],
            torch.rand(3).tolist(),
        )

    first = draw()
    assert draw() != first
    scramble()
    set_random_state(state)
    assert draw() == first


def test_counters_name_and_link_inside_of_an_epoch(tmp_path):
    class Stop(Hook):
        def after_train_iter(self, runner):
            if runner.iter == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, hooks=[Stop()])
    assert (tmp_path / 'latest.pth').resolve().name == 'iter_10.pth'
    saved = _load_checkpoint(str(tmp_path / 'latest.pth'))
    assert (saved['meta']['epoch'], saved['meta']['iter']) == (1, 10)
    assert saved['resume']['batches_done'] == 3
    runner = make_runner(tmp_path)
    runner.resume(str(tmp_path / 'latest.pth'))
    assert (runner.epoch, runner.iter) == (1, 10)


def test_old_files_inside_of_epochs_are_removed(tmp_path):
    runner = make_runner(tmp_path)
    runner.register_checkpoint_hook(
        dict(interval=3, by_epoch=False, max_keep_ckpts=2)
    )
    runner.run([make_loader()], TRAIN)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ['iter_18.pth', 'iter_21.pth', 'latest.pth']


def test_batches_that_are_done_are_loaded_and_not_trained_on(tmp_path, caplog):
    train(tmp_path)
    loaded, trained = [], []

    class Watch(Hook):
        def before_train_iter(self, runner):
            trained.append((runner.epoch, runner.inner_iter, runner.iter))

    runner = make_runner(tmp_path, epochs=2)
    runner.register_hook(Watch())
    runner.resume(str(tmp_path / 'iter_12.pth'))
    with caplog.at_level(logging.INFO, logger='resume'):
        runner.run([make_loader(loaded=loaded)], TRAIN)
    assert trained == [(1, 5, 12), (1, 6, 13)]
    assert sorted(loaded) == list(range(14))
    assert 'first 5 of 7 batches are loaded again' in caplog.text

    # After the last iteration nothing is left but the end of the epoch.
    loaded.clear()
    runner = make_runner(tmp_path, epochs=2)
    runner.resume(str(tmp_path / 'iter_14.pth'))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger='resume'):
        runner.run([make_loader(loaded=loaded)], TRAIN)
    assert (loaded, runner.epoch, runner.iter) == ([], 2, 14)
    assert 'FPS' not in caplog.text


class Counter(Hook):
    """A hook with something to remember."""

    count = 0

    def after_train_iter(self, runner):
        self.count += 1

    def state_dict(self):
        return dict(count=self.count)

    def load_state_dict(self, state):
        self.count = state['count']


def test_hooks_that_remember(tmp_path):
    train(tmp_path, hooks=[Counter()])
    for name, expected in (('iter_10', 20), ('epoch_2', 21)):
        # Saved before the counter had its turn, in the first case.
        counter = Counter()
        train(tmp_path / 'b', tmp_path / f'{name}.pth', hooks=[counter])
        assert counter.count == expected
    counter = Counter()
    train(tmp_path / 'b', hooks=[counter])
    assert counter.count == 21


def test_a_hook_may_resume_when_the_run_starts(tmp_path):
    """As mmcv's EMAHook does."""

    class Resume(Hook):
        def before_run(self, runner):
            runner.resume(str(tmp_path / 'epoch_1.pth'))

    whole = train(tmp_path)
    assert_same(train(tmp_path / 'b', hooks=[Resume()]), whole)


# ------------------------------------------------- what is not exact is said


def warnings_of(caplog, path, loader=None, **kwargs):
    caplog.clear()
    runner = make_runner(path.parent / 'again', **kwargs)
    with caplog.at_level(logging.WARNING, logger='resume'):
        runner.resume(str(path))
        runner.run([loader or make_loader()], TRAIN)
    return caplog.text, runner


def test_the_same_setting_is_no_reason_for_a_warning(tmp_path, caplog):
    train(tmp_path)
    assert warnings_of(caplog, tmp_path / 'iter_4.pth')[0] == ''
    assert warnings_of(caplog, tmp_path / 'epoch_1.pth')[0] == ''


def test_a_checkpoint_of_mmcv_goes_on_as_in_mmcv(tmp_path, caplog, stock):
    runner = make_runner(tmp_path)
    stock('mmcv', 'runner/checkpoint.py').save_checkpoint(
        Net(),
        str(tmp_path / 'stock.pth'),
        runner.optimizer,
        dict(epoch=1, iter=7),
    )
    text, runner = warnings_of(caplog, tmp_path / 'stock.pth')
    assert re.search(r'stock.pth holds no random states.*not to the bit', text)
    assert (runner.epoch, runner.iter) == (3, 21)


def test_changes_of_the_setting_are_named(tmp_path, caplog):
    train(tmp_path)
    path = tmp_path / 'epoch_1.pth'
    text, _ = warnings_of(
        caplog, path, make_loader(workers=1), meta=dict(seed=3)
    )
    assert 'workers 0 -> 1, seed None -> 3' in text
    assert 'ranks' not in text and 'iteration is' not in text


@pytest.mark.parametrize(
    'fact, before, now',
    [
        ('device', 'npu', 'cpu'),
        ('precision', 'torch.float16', 'torch.float32'),
        ('threads', 99, torch.get_num_threads()),
        ('torch', '0.4', torch.__version__),
    ],
)
def test_what_moves_the_last_bits_is_named(
    tmp_path, caplog, fact, before, now
):
    train(tmp_path)
    path = tmp_path / 'epoch_1.pth'
    saved = _load_checkpoint(str(path))
    saved['resume']['setup'][fact] = before
    torch.save(saved, str(path))
    text, runner = warnings_of(caplog, path)
    assert f'without a stop: {fact} {before} -> {now}' in text
    # The precision is that of mixed precision, where there is one.
    runner.optimizer.amp_engine = SimpleNamespace(dtype=torch.bfloat16)
    assert runner._setup(make_loader())['precision'] == 'torch.bfloat16'


@pytest.mark.parametrize(
    'name, epoch, expected', [('epoch_1', 1, 3), ('iter_10', 1, 5)]
)
def test_other_batches_keep_the_place_in_the_epoch(
    tmp_path, caplog, name, epoch, expected
):
    train(tmp_path)
    path = tmp_path / f'{name}.pth'
    text, runner = warnings_of(
        caplog, path, make_loader(batch_size=4), epochs=2
    )
    assert 'samples_per_gpu 2 -> 4' in text
    assert f'4 samples now, it was 2: going on with iter {expected}' in text
    # Of the 4 batches of 4 in an epoch 1 is done by iteration 10.
    assert runner.iter == expected + (4 if name == 'epoch_1' else 3)


def test_other_ranks_are_allowed_and_told(tmp_path, caplog):
    train(tmp_path)
    path = tmp_path / 'iter_10.pth'
    saved = _load_checkpoint(str(path))
    saved['resume']['setup']['ranks'] = 2
    saved['resume']['random'] *= 2
    torch.save(saved, str(path))
    text, runner = warnings_of(caplog, path)
    assert 'ranks 2 -> 1' in text and 'iter 20' in text
    assert 'random states of other ranks are not used' in text
    assert runner.epoch == 3

    saved['resume'].update(random=None)
    torch.save(saved, str(path))
    assert 'were not saved' in warnings_of(caplog, path)[0]


def test_two_ranks(ranks, tmp_path):
    names = ['iter_2', 'iter_4', 'epoch_1', 'iter_6']
    failed = ranks(2, resume_in_ranks, tmp_path, *names)
    assert failed == [{}, {}]
    saved = _load_checkpoint(str(tmp_path / '1' / 'whole' / 'iter_2.pth'))
    one, other = saved['resume']['random']
    assert not torch.equal(one['now']['torch'], other['now']['torch'])


def test_ranks_that_did_not_gather_save_no_random_states(tmp_path):
    runner = make_runner(tmp_path, epochs=1)
    runner.run([make_loader()], TRAIN)
    runner._world_size = 2
    runner.save_checkpoint(str(tmp_path))
    saved = _load_checkpoint(str(tmp_path / 'latest.pth'))
    assert saved['resume']['random'] is None


def test_what_is_gathered_is_used_once(tmp_path):
    runner = make_runner(tmp_path, epochs=1)
    runner.run([make_loader()], TRAIN)
    runner.gather_random_states()
    states = []
    for _ in range(2):
        torch.rand(1)
        runner.save_checkpoint(str(tmp_path))
        saved = _load_checkpoint(str(tmp_path / 'latest.pth'))
        states.append(saved['resume']['random'][0]['now']['torch'])
    assert not torch.equal(*states)


def test_data_would_show_a_wrong_order():
    """The tests above rest on samples that differ."""
    pairs = itertools.combinations([Noise()[i] for i in range(3)], 2)
    assert not any(torch.equal(a, b) for a, b in pairs)
