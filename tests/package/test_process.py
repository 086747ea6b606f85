"""Cores and memory that processes share; unknown options."""

import os
from argparse import Namespace

import cv2
import pytest
import torch
from mpii_data import CONFIGS

from hourglass_npu.config.load import load_config
from hourglass_npu.errors import UserError
from hourglass_npu.options import Parser, add_options
from hourglass_npu.process import check_enough_devices, share_cores

LARGE = str(CONFIGS / 'hourglass52_mpii_384x384.py')


def load(*overrides):
    return load_config(LARGE, [list(overrides)])


@pytest.mark.parametrize(
    'device, ranks, omp, asked, threads, workers',
    [
        ('cpu', 1, None, None, None, 2),
        ('cpu', 4, None, None, 4, 2),
        ('cpu', 8, None, None, 2, 1),
        ('cpu', 16, None, None, 1, 0),
        ('cpu', 99, None, None, 1, 0),
        ('cpu', 8, '1', None, None, 1),
        ('cpu', 16, None, 'data.workers_per_gpu=2', 1, 2),
        ('cuda', 8, None, None, None, 2),
        ('cuda', 16, None, None, None, 1),
    ],
)
def test_cores_are_shared(
    monkeypatch, device, ranks, omp, asked, threads, workers
):
    set_to = []
    monkeypatch.setattr(torch, 'set_num_threads', set_to.append)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(16))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    if omp:
        monkeypatch.setenv('OMP_NUM_THREADS', omp)
    else:
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    cfg = load()
    args = Namespace(cfg_options=[[asked]] if asked else None)
    before = cv2.getNumThreads()
    share_cores(torch.device(device), args, cfg)
    cv2.setNumThreads(before)
    assert set_to == ([threads] if threads else [])
    assert cfg.data.workers_per_gpu == workers


@pytest.mark.parametrize(
    'device, ranks, asked, samples',
    [
        ('cpu', 1, None, 32),
        ('cpu', 2, None, 1),
        ('cpu', 8, 'data.samples_per_gpu=4', 4),
        ('cpu', 8, 'data.samples_per_cpu=3', 3),
        ('cpu', 8, 'data.samples_per_cpu=none', 32),
        ('cuda', 8, None, 32),
    ],
)
def test_memory_is_shared(monkeypatch, device, ranks, asked, samples):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    args = Namespace(cfg_options=[[asked]] if asked else None)
    cfg = load_config(LARGE, args.cfg_options)
    before = cv2.getNumThreads()
    share_cores(torch.device(device), args, cfg)
    cv2.setNumThreads(before)
    assert cfg.data.samples_per_gpu == samples


def test_an_unknown_option_is_answered_by_the_nearest(capsys):
    parser = Parser('Try it.')
    add_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(['--work_dirs=x'])
    assert caught.value.code == 2
    assert 'did you mean --work-dir?' in capsys.readouterr().err
    args = parser.parse_args(['--local-rank=3', '--options', 'a=1'])
    assert args.local_rank == 3 and args.cfg_options == [['a=1']]


@pytest.mark.parametrize(
    'device, processes, refused',
    [
        (None, '8', True),
        ('npu', '3', True),
        (None, '2', False),
        ('cpu', '8', False),
        (None, None, False),
    ],
)
def test_too_few_devices_are_said_once(
    monkeypatch, device, processes, refused
):
    from mmcv.runner import dist_utils

    counts = dict(npu=2, cuda=0, cpu=1)
    monkeypatch.setattr(dist_utils, 'device_count', counts.get)
    if processes:
        monkeypatch.setenv('HOURGLASS_NPROC', processes)
    args = Namespace(device=device)
    if not refused:
        check_enough_devices(args)
        return
    with pytest.raises(UserError, match=r'2 npu device\(s\): ask for 2'):
        check_enough_devices(args)
