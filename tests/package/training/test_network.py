"""Layers that are frozen, and networks that are compiled."""

import pytest
import torch
from mmcv import Config
from mmpose.models import build_posenet
from mpii_data import CONFIGS

from hourglass_npu.errors import UserError
from hourglass_npu.training.network import (
    check_sync_bn,
    compile_network,
    freeze_parameters,
)


def test_large_network_freezes_just_what_gets_no_gradient():
    cfg = Config.fromfile(str(CONFIGS / 'hourglass52_mpii_384x384.py'))
    model = build_posenet(cfg.model)
    out = model.keypoint_head(model.backbone(torch.randn(2, 3, 128, 128)))
    sum(o.sum() for o in out).backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None}
    freeze_parameters(model, cfg.frozen_parameters)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == idle and len(idle) == 6


def test_unknown_prefix_is_refused_with_the_valid_ones():
    cfg = Config.fromfile(str(CONFIGS / 'hourglass52_mpii_384x384.py'))
    cfg.model.backbone.update(
        downsample_times=1, stage_channels=(256, 16), stage_blocks=(1, 1)
    )
    model = build_posenet(cfg.model)
    for wrong in ('backbone.inter', 'inters', 'backbone.inters.'):
        with pytest.raises(UserError, match='backbone.inters.*keypoint_head'):
            freeze_parameters(model, ['backbone.stem', wrong])
        assert all(p.requires_grad for p in model.parameters())


def test_sync_bn_is_refused_where_torch_has_none(monkeypatch):
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(3))
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(3))

    def forward(self, x):
        raise ValueError('expected input tensor to be on GPU')

    # As it is in several processes, and in old torch.
    monkeypatch.setattr(torch.nn.SyncBatchNorm, 'forward', forward)
    with pytest.raises(UserError, match='SyncBN.*on GPU.*norm_cfg=dict'):
        check_sync_bn(model, torch.device('cpu'))
    check_sync_bn(model, torch.device('cuda', 0))
    check_sync_bn(plain, torch.device('cpu'))


@pytest.mark.parametrize('options', [dict(backend='no'), dict(speed=9)])
def test_what_the_compiler_does_not_know_is_refused(options):
    if not hasattr(torch.nn.Module, 'compile'):
        pytest.skip('this torch has no compiler')
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match='torch.compile does not take'):
        compile_network(model, options)
