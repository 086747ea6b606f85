"""What a config may ask of train_model: hooks, sizes, and where to begin."""

import copy
import logging
import random

import numpy as np
import pytest
import torch
from mmcv import Config
from mmcv.runner import HOOKS, Hook, load_checkpoint
from mmpose.apis import train as apis_train
from mmpose.datasets import build_dataset
from mmpose.models import build_posenet
from mpii_data import make_tiny_config

from hourglass_npu.errors import UserError

pytestmark = pytest.mark.training


@pytest.fixture
def cfg(tmp_path):
    """The tiny network on six people, in pairs."""
    cfg = make_tiny_config(tmp_path, val=1)
    cfg.total_epochs = 1
    return cfg


def train(cfg):
    cfg = Config(copy.deepcopy(cfg._cfg_dict.to_dict()))
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = build_posenet(cfg.model)
    apis_train.train_model(model, build_dataset(cfg.data.train), cfg)
    return model


class Seen(Hook):
    """Notes when it is called, and what hooks there are."""

    calls = []

    def __init__(self, name):
        self.name = name

    def before_run(self, runner):
        self.calls.append((self.name, self.priority))


@pytest.fixture
def seen():
    HOOKS.register_module(name='SeenHook', module=Seen)
    del Seen.calls[:]
    yield Seen.calls
    del HOOKS._module_dict['SeenHook']


def test_custom_hooks_have_their_priorities(cfg, seen):
    cfg.custom_hooks = [
        dict(type='SeenHook', name='usual'),
        dict(type='SeenHook', name='late', priority='BELOW_NORMAL'),
        dict(type='SeenHook', name='first', priority=1),
        dict(type='SeenHook', name='early', priority='HIGH'),
    ]
    train(cfg)
    assert seen == [('first', 1), ('early', 30), ('usual', 50), ('late', 60)]


def test_averages_of_weights_go_on_after_a_stop(cfg):
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.total_epochs = 2
    whole = train(cfg).state_dict()
    assert any(key.startswith('ema_') for key in whole)
    cfg.resume_from = cfg.work_dir + '/epoch_1.pth'
    cfg.work_dir += '_2'
    again = train(cfg).state_dict()
    assert list(again) == list(whole)
    for key in whole:
        assert torch.equal(again[key], whole[key]), key


def test_sizes_may_stand_with_the_loader_alone(cfg):
    expected = train(cfg).state_dict()
    size = cfg.data.pop('samples_per_gpu')
    workers = cfg.data.pop('workers_per_gpu')
    cfg.data.train_dataloader = dict(
        samples_per_gpu=size, workers_per_gpu=workers
    )
    found = train(cfg).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_training_is_resumed_with_its_own_model(cfg):
    train(cfg)
    cfg.resume_from = cfg.work_dir + '/epoch_1.pth'
    cfg.model.backbone.feat_channel = 8
    with pytest.raises(UserError, match='another model .* give load_from'):
        train(cfg)


def test_load_from_tells_how_much_was_loaded(cfg, caplog):
    model = train(cfg)
    logging.getLogger('mmpose').propagate = True
    cfg.load_from = cfg.work_dir + '/epoch_1.pth'
    size = len(load_checkpoint(model, cfg.load_from)['state_dict'])
    with caplog.at_level(logging.INFO):
        train(cfg)
        assert f'{size} of the {size} tensors of the model' in caplog.text
        caplog.clear()
        cfg.model.keypoint_head.in_channels = 8
        cfg.model.backbone.feat_channel = 8
        train(cfg)
    assert f'of the {size} tensors of the model were loaded' in caplog.text
    assert f'{size} of the {size}' not in caplog.text
