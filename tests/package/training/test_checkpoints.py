"""Which checkpoint of a training is the latest, and which is whole."""

import logging
import os
from types import SimpleNamespace

import pytest
import torch
from mmcv import Config
from mmcv.runner import CheckpointHook, EpochBasedRunner, save_checkpoint
from mmcv.runner.checkpoint import link_checkpoint
from tiny_models import Linear
from torch import nn
from torch.utils.data import DataLoader

from hourglass_npu.errors import UserError
from hourglass_npu.training import checkpoints
from hourglass_npu.training.checkpoints import (
    Checkpoints,
    ResumableCheckpointHook,
    check_template,
)


def write(folder, name, age, **meta):
    """Write a checkpoint that is older the larger ``age`` is, for the disk."""
    path = str(folder / f'{name}.pth')
    save_checkpoint(nn.Conv2d(1, 1, 1), path, meta=meta)
    os.utime(path, (9000 - age, 9000 - age))
    return path


@pytest.fixture
def training(tmp_path):
    """A work folder with five checkpoints, under a clock that ran back."""
    write(tmp_path, 'epoch_1', 1, epoch=1, iter=10)
    write(tmp_path, 'iter_12', 2, epoch=1, iter=12)
    write(tmp_path, 'epoch_2', 3, epoch=2, iter=20)
    write(tmp_path, 'best_3', 4, epoch=3, iter=30)
    path = write(tmp_path, 'epoch_10', 5, epoch=10, iter=100)
    link_checkpoint(path, str(tmp_path / 'latest.pth'))
    (tmp_path / 'epoch_x.pth').write_bytes(b'')
    (tmp_path / '.epoch_11.pth.7.tmp').write_bytes(b'half of on')
    return tmp_path


def names(folder, *template):
    """List the names of checkpoints, the latest first."""
    found = Checkpoints(str(folder), *template).list()
    return [os.path.basename(saved.path)[: -len('.pth')] for saved in found]


def test_the_order_is_that_of_the_contents(training):
    usual = ['epoch_10', 'epoch_2', 'iter_12', 'epoch_1']
    assert names(training) == names(training, 'iter_{}.pth') == usual
    first = Checkpoints(str(training)).list()[0]
    assert first == (str(training / 'epoch_10.pth'), 0, 100, 10)
    expected = [usual[0], 'best_3'] + usual[1:]
    assert names(training, 'best_{}.pth') == expected
    assert names(training / 'none') == []
    # A later training resumed from epoch 1; what it says counts for more
    # than numbers.
    write(training, 'epoch_2', 9, epoch=2, iter=20, run=1)
    write(training, 'iter_12', 9, epoch=1, iter=12, run='x')
    assert names(training) == ['epoch_2', 'epoch_10', 'iter_12', 'epoch_1']
    assert Checkpoints(str(training)).last_run() == 1
    # Those of mmcv say nothing: there the link does.
    write(training, 'epoch_2', 9, epoch=2, iter=20)
    link = str(training / 'latest.pth')
    link_checkpoint(str(training / 'epoch_2.pth'), link)
    assert names(training)[:2] == ['epoch_2', 'epoch_10']


@pytest.mark.parametrize(
    'template, name',
    [
        ('epoch_{:03d}.pth', 'epoch_007'),
        ('{0}.pth', '7'),
        ('{:x}_{}.pth', None),
        ('newest.pth', 'newest'),
        ('[a]*{:>3}.pth', '[a]*  7'),
        ('deep/{}.pth', 'deep/7'),
    ],
)
def test_names_of_any_form(tmp_path, template, name):
    if name is None:
        with pytest.raises(UserError, match='filename_tmpl is .*{:x}_{}'):
            check_template(template)
        return
    check_template(template)
    (tmp_path / 'deep').mkdir()
    path = write(tmp_path, name, 1, epoch=7, iter=70)
    for other in ('other', '8x', 'epoch_07', 'newest_7', 'latest'):
        write(tmp_path, other, 1, epoch=7, iter=70)
    store = Checkpoints(str(tmp_path), template)
    assert [saved.path for saved in store.list()] == [path]
    (tmp_path / 'latest.pth').unlink()
    assert store.latest() == store.find_whole('silent') == path


@pytest.mark.parametrize(
    'template', ['{', '{a}', '{}{}', '{:q}', '', 'latest.pth', 'a/', 'x/..']
)
def test_names_that_cannot_work_are_refused_at_the_start(template):
    with pytest.raises(UserError, match='filename_tmpl is '):
        ResumableCheckpointHook(filename_tmpl=template)


def test_reading_what_a_file_says_runs_nothing_of_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    path = str(tmp_path / 'iter_5.pth')
    for kind in (True, False):
        content = dict(evil=Evil(), x=torch.ones(3), meta=dict(iter=5))
        torch.save(content, path, _use_new_zipfile_serialization=kind)
        assert Checkpoints(str(tmp_path)).list() == [(path, 0, 5, 0)]
    assert not (tmp_path / 'ran').exists()


def damage(path, how):
    content = path.read_bytes()
    if how == 'gone':
        path.unlink()
    elif how == 'flipped':
        middle = content.index(b'weight') + 2
        flipped = bytes([content[middle] ^ 16])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    else:
        length = dict(empty=0, half=len(content) // 2, truncated=-1)[how]
        path.write_bytes(content[:length])


@pytest.mark.parametrize(
    'how', ['gone', 'flipped', 'empty', 'half', 'truncated']
)
def test_the_latest_whole_checkpoint_is_found(training, caplog, how):
    def find():
        caplog.clear()
        return Checkpoints(str(training)).find_whole(logging.getLogger())

    assert os.path.samefile(find(), str(training / 'epoch_10.pth'))
    assert not caplog.text
    damage(training / 'epoch_10.pth', how)
    damage(training / 'epoch_2.pth', how)
    assert find() == str(training / 'iter_12.pth')
    # latest.pth speaks for the file that it stands for.
    assert len(caplog.messages) == (1 if how == 'gone' else 2)
    assert all(m.startswith('Passed over: ') for m in caplog.messages)
    assert how == 'gone' or 'epoch_2.pth' in caplog.text
    for name in ('iter_12', 'epoch_1'):
        damage(training / f'{name}.pth', how)
    with pytest.raises(UserError, match='no checkpoint in .* is whole'):
        find()
    (training / 'latest.pth').unlink()
    if how == 'gone':
        assert find() is None


def test_a_stale_link_is_not_the_latest(training):
    write(training, 'epoch_11', 9, epoch=11, iter=110, run=1)
    store = Checkpoints(str(training))
    expected = str(training / 'epoch_11.pth')
    assert store.latest() == store.find_whole('silent') == expected


def test_a_bug_in_reading_is_no_damaged_file(training, monkeypatch):
    def fail(path, map_location):
        raise ValueError('too many values to unpack (expected 2)')

    monkeypatch.setattr(checkpoints, 'load_from_local', fail)
    with pytest.raises(ValueError, match='^too many values'):
        Checkpoints(str(training)).find_whole()


def train(folder, epochs, hook, resume=None, runner=EpochBasedRunner):
    """Train epochs of three iterations; returns the runner."""
    model = Linear()
    made = runner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=str(folder),
        logger=logging.getLogger('test_checkpoints'),
        max_epochs=epochs,
        meta={},
    )
    made.register_hook(hook)
    if resume:
        made.resume(str(resume))
    made.run([DataLoader(torch.ones(12, 4), batch_size=4)], [('train', 1)])
    return made


@pytest.mark.parametrize(
    'settings',
    [
        dict(filename_tmpl='epoch_{:03d}.pth'),
        dict(filename_tmpl='{0}', max_keep_ckpts=2),
        dict(filename_tmpl='newest.pth'),
        dict(max_keep_ckpts=2),
        dict(out_dir='elsewhere'),
    ],
)
def test_files_are_those_of_stock(stock, monkeypatch, tmp_path, settings):
    module = stock('mmcv', 'runner/epoch_based_runner.py')
    monkeypatch.setattr(module.time, 'sleep', lambda seconds: None)
    settings = dict(dict(interval=1), **settings)
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    for folder in (ours, theirs):
        if 'out_dir' in settings:
            settings['out_dir'] = str(folder / 'out')
        if folder == ours:
            made = train(ours, 4, ResumableCheckpointHook(**settings))
            continue
        hook = CheckpointHook(**settings)
        runner = train(theirs, 4, hook, runner=module.EpochBasedRunner)

    def files(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))

    assert files(ours) == files(theirs)
    last = runner.meta['hook_msgs']['last_ckpt']
    assert made.meta['hook_msgs']['last_ckpt'] == last.replace(
        str(theirs), str(ours)
    )
    store = Checkpoints.of_runner(made)
    link = store.latest_link
    assert store.latest() == store.find_whole('silent') == link
    assert os.path.samefile(link, made.meta['hook_msgs']['last_ckpt'])


@pytest.mark.parametrize(
    'settings, files',
    [
        (dict(interval=4), ['iter_4.pth', 'iter_8.pth', 'iter_12.pth']),
        (
            dict(interval=6, filename_tmpl='it{:03d}.pth'),
            ['it006.pth', 'it012.pth'],
        ),
        (dict(interval=3, max_keep_ckpts=2), ['iter_9.pth', 'iter_12.pth']),
    ],
)
def test_iterations_give_files_their_numbers(tmp_path, settings, files):
    """Stock names them all by the epoch, and resumes behind its end."""
    hook = ResumableCheckpointHook(by_epoch=False, **settings)
    made = train(tmp_path, 4, hook)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {*files, 'latest.pth'}
    store = Checkpoints.of_runner(made)
    expected = [str(tmp_path / name) for name in files[::-1]]
    assert [saved.path for saved in store.list()] == expected


def test_keep_n_and_the_latest_do_without_a_clock(tmp_path):
    """Each start of a training counts for more than those before it."""

    class BackInTime(CheckpointHook):
        def after_train_epoch(self, runner):
            for i, path in enumerate(tmp_path.glob('*_*.pth')):
                when = 10**6 - 100 * runner.epoch + 7 * i
                os.utime(str(path), (when, when))

    hook = ResumableCheckpointHook(interval=1, max_keep_ckpts=2)
    made = train(tmp_path, 1, hook)
    keeper = ResumableCheckpointHook(interval=1)
    train(tmp_path, 6, keeper, resume=tmp_path / 'epoch_1.pth')
    del made
    assert names(tmp_path)[0] == 'epoch_6'

    class Both(ResumableCheckpointHook):
        def after_train_epoch(self, runner):
            super().after_train_epoch(runner)
            BackInTime.after_train_epoch(self, runner)

    # Epoch 2 and on were given up; files of more iterations stay.
    both = Both(interval=1, max_keep_ckpts=2, create_symlink=False)
    train(tmp_path, 4, both, resume=tmp_path / 'epoch_1.pth')
    assert names(tmp_path) == ['epoch_4', 'epoch_3', 'epoch_6', 'epoch_5']
    runs = [s.run for s in Checkpoints(str(tmp_path)).list()]
    assert runs == [3, 3, 2, 2]


def test_a_save_inside_of_an_epoch_takes_no_name_of_an_epoch(tmp_path):
    class Now(ResumableCheckpointHook):
        def after_train_iter(self, runner):
            super().after_train_iter(runner)
            if runner.iter == 1:
                self._save_checkpoint(runner)

    train(tmp_path, 1, Now(interval=9, filename_tmpl='ep{}.pth'))
    found = [saved[2:] for saved in Checkpoints(str(tmp_path)).list()]
    assert names(tmp_path) == ['iter_2'] and found == [(2, 0)]


def test_a_config_tells_where_they_are():
    cfg = Config(dict(work_dir='w', checkpoint_config=None))
    assert Checkpoints.of_config(cfg).folder == 'w'
    cfg.checkpoint_config = dict(out_dir='o', filename_tmpl='a{}.pth')
    store = Checkpoints.of_config(cfg)
    assert store.latest_link == os.path.join('o', 'latest.pth')
    assert store.templates[0] == 'a{}.pth'
    runner = SimpleNamespace(hooks=[], work_dir='r')
    assert Checkpoints.of_runner(runner).folder == 'r'
