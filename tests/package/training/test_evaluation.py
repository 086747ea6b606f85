"""What train_model adds to a runner that resumes to the bit."""

import copy
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import Config
from mmcv.runner import CheckpointHook
from mmcv.runner.checkpoint import _load_checkpoint
from mmpose.apis import train as apis_train
from mmpose.datasets import build_dataset
from mmpose.models import build_posenet
from mpii_data import make_tiny_config

from hourglass_npu.training.evaluation import ResumableEvalHook
from hourglass_npu.training.workers import seed_worker

pytestmark = pytest.mark.training


@pytest.fixture
def cfg(tmp_path):
    """The tiny network on six people, in pairs."""
    return make_tiny_config(tmp_path, val=1)


@pytest.fixture
def scores(monkeypatch):
    """Dictates the scores by epoch; returns what has been asked for."""
    asked = []

    def evaluate(hook, runner, results):
        asked.append(runner.epoch + 1)
        return np.float32([0, 0.25, 0.75, 0.5, 0.5][runner.epoch + 1])

    monkeypatch.setattr(ResumableEvalHook, 'evaluate', evaluate)
    return asked


def train(cfg, validate=True, **changes):
    """Train from a fixed start; returns the weights."""
    cfg = Config(copy.deepcopy(dict(cfg._cfg_dict, **changes)))
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = build_posenet(cfg.model)
    dataset = build_dataset(cfg.data.train)
    apis_train.train_model(model, dataset, cfg, validate=validate)
    return model.state_dict()


def assert_equal(one, other):
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def best(cfg):
    record = json.loads((Path(cfg.work_dir) / 'best.json').read_text())
    return record['best_score'], Path(record['best_ckpt']).name


def test_validation_changes_nothing_in_training(cfg, scores):
    without = train(cfg, validate=False)
    assert_equal(train(cfg, validate=True), without)
    assert scores == [1, 2]


def test_best_score_goes_on(cfg, scores):
    cfg.checkpoint_config.max_keep_ckpts = -1
    whole = train(cfg, total_epochs=4)
    assert (best(cfg), scores) == ((0.75, 'epoch_2.pth'), [1, 2, 3, 4])
    folder = cfg.work_dir

    # Epoch 3 was the last one saved, and its evaluation may not have been
    # over. Epoch 2 is still the best, in another folder too.
    del scores[:]
    cfg.work_dir = folder + '_new'
    cfg.resume_from = folder + '/epoch_3.pth'
    assert_equal(train(cfg, total_epochs=4), whole)
    assert (best(cfg), scores) == ((0.75, 'epoch_2.pth'), [3, 4])

    # What comes after epoch 1 was given up, and knows no epoch 2 yet. Nor
    # does it fall over the half of a file.
    del scores[:]
    cfg.work_dir = folder
    (Path(folder) / 'best.json').write_text('{"best_sc')
    cfg.resume_from = folder + '/epoch_1.pth'
    train(cfg, total_epochs=1)
    assert (best(cfg), scores) == ((0.25, 'epoch_1.pth'), [1])


def test_the_best_checkpoint_is_kept_beside_the_latest(cfg, scores):
    cfg.checkpoint_config.max_keep_ckpts = 1
    # Of a run that was given up, and of nobody.
    for name in ('epoch_9.pth', 'mine_1.pth'):
        (Path(cfg.work_dir) / name).parent.mkdir(exist_ok=True)
        (Path(cfg.work_dir) / name).write_bytes(b'')
    train(cfg, total_epochs=4)
    assert best(cfg) == (0.75, 'epoch_2.pth')
    work = Path(cfg.work_dir)
    names = ['epoch_2', 'epoch_4', 'epoch_9', 'latest', 'mine_1']
    assert [path.stem for path in sorted(work.glob('*.pth'))] == names
    assert os.path.samefile(
        str(work / 'latest.pth'), str(work / 'epoch_4.pth')
    )
    last = _load_checkpoint(str(work / 'latest.pth'))
    assert last['resume']['hooks']['ResumableEvalHook']['evaluated'] == 3


def test_best_score_of_another_measure_is_left(cfg, scores):
    train(cfg)
    cfg.resume_from = cfg.work_dir + '/epoch_2.pth'
    cfg.evaluation.key_indicator = 'PCKh@0.1'
    train(cfg, total_epochs=3)
    assert best(cfg)[0] == 0.75  # of epoch 2, evaluated again


def test_a_fresh_start_forgets_the_best_of_an_earlier_run(cfg, scores):
    train(cfg, total_epochs=2)
    train(cfg, total_epochs=1)
    assert best(cfg) == (0.25, 'epoch_1.pth')


def test_only_due_epochs_are_evaluated_again(cfg, scores):
    cfg.evaluation.interval = 2
    train(cfg, total_epochs=4)
    assert scores == [2, 4]
    del scores[:]
    cfg.resume_from = cfg.work_dir + '/epoch_3.pth'
    train(cfg, total_epochs=3)
    assert scores == []
    cfg.resume_from = cfg.work_dir + '/epoch_2.pth'
    train(cfg, total_epochs=3)
    assert scores == [2]


def test_checkpoint_of_mmpose_leaves_the_best_to_the_file(cfg, scores):
    train(cfg)
    path = Path(cfg.work_dir) / 'epoch_1.pth'
    saved = _load_checkpoint(str(path))
    del saved['resume']
    torch.save(saved, str(path))
    record = dict(best_score=0.8, best_ckpt='x.pth', key_indicator='PCKh')
    (Path(cfg.work_dir) / 'best.json').write_text(json.dumps(record))
    cfg.resume_from = str(path)
    train(cfg)
    assert best(cfg) == (0.8, 'x.pth')


@pytest.mark.parametrize('seed', [None, 3])
def test_workers_draw_from_the_seed_or_from_the_training(cfg, seed):
    cfg.seed = seed
    cfg.data.workers_per_gpu = 1
    cfg.data.train_dataloader = dict(persistent_workers=False)
    whole = train(cfg, validate=False)
    # Whether they outlive an epoch makes no difference.
    del cfg.data['train_dataloader']
    cfg.resume_from = cfg.work_dir + '/epoch_1.pth'
    np.random.seed(77)
    cfg.work_dir += '_new'
    assert_equal(train(cfg, validate=False), whole)


def test_worker_seeds_differ_and_come_again():
    draws = []
    for start in (1, 2, 1):
        torch.manual_seed(start)
        seed_worker(0)
        draws.append((random.random(), np.random.rand()))
    assert draws[0] == draws[2] != draws[1]


def test_checkpoint_hook_of_the_config_is_respected():
    assert apis_train._checkpoint_hook(None) is None
    named = dict(type='CheckpointHook', interval=2)
    assert apis_train._checkpoint_hook(named) is named
    ours = apis_train._checkpoint_hook(dict(interval=2))
    assert isinstance(ours, CheckpointHook) and ours.interval == 2


@pytest.mark.parametrize(
    'settings, name',
    [
        (dict(filename_tmpl='e{:03d}.pth'), 'e002.pth'),
        (dict(filename_tmpl='newest.pth'), 'epoch_2.pth'),
        (dict(interval=3), 'epoch_2.pth'),
        (dict(by_epoch=False, interval=3, max_keep_ckpts=1), 'iter_6.pth'),
        (dict(by_epoch=False, interval=4, max_keep_ckpts=1), 'iter_6.pth'),
        (dict(out_dir=None, max_keep_ckpts=1), 'epoch_2.pth'),
    ],
)
def test_the_best_checkpoint_is_there(cfg, scores, settings, name):
    if 'out_dir' in settings:
        settings = dict(settings, out_dir=cfg.work_dir + '/else/where')
    cfg.checkpoint_config = dict(dict(interval=1), **settings)
    train(cfg, total_epochs=4)
    assert best(cfg) == (0.75, name)
    record = json.loads((Path(cfg.work_dir) / 'best.json').read_text())
    folder = Path(settings.get('out_dir') or cfg.work_dir)
    assert Path(record['best_ckpt']) == folder / name
    meta = _load_checkpoint(record['best_ckpt'])['meta']
    assert (meta['epoch'], meta['iter']) == (2, 6) or name == 'iter_6.pth'
    assert meta['iter'] == 6
    # A resume from it says so, too, and needs no other file.
    weights = train(cfg, resume_from=str(folder / name), total_epochs=4)
    assert best(cfg) == (0.75, name)
    assert weights
