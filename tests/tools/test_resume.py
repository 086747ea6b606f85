"""train.py stopped in the middle, and resumed, ends with the same bits."""

import os
import signal
import subprocess
import sys
import time

import mmcv
import pytest
import torch
from mmcv.runner.checkpoint import _load_checkpoint
from mpii_data import write_mpii, write_tiny_config

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TRAIN = os.path.join(ROOT, 'mmpose-master', 'tools', 'train.py')

# 8 iterations in an epoch of one process; a draw of the model's own.
MORE = """
checkpoint_config = dict(interval=3, by_epoch=False)
evaluation = dict(interval=1, metric='PCKh', key_indicator='PCKh')
log_config = dict(interval=3)
total_epochs = 2
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('resume')
    write_mpii(folder / 'mpii', train=16, val=4)
    return folder, write_tiny_config(folder, MORE)


@pytest.fixture
def environment(data):
    return dict(MPII_ROOT=str(data[0] / 'mpii'))


def options(data, work_dir, *more):
    return [data[1], '--device', 'cpu', '--work-dir', work_dir, *more]


def assert_same_end(one, other, name):
    """Two runs have saved the same weights, moments and random states."""
    saved = [_load_checkpoint(str(folder / name)) for folder in (one, other)]
    for part in ('state_dict', 'optimizer', 'resume'):
        assert_same(saved[0][part], saved[1][part], part)
    assert [s['meta']['iter'] for s in saved][0] == int(name[5:-4])


def assert_same(one, other, path):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert set(one) == set(other), path
        for key in set(one) - {'best_ckpt'}:  # the folder is another
            assert_same(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (mine, its) in enumerate(zip(one, other)):
            assert_same(mine, its, f'{path}[{i}]')
    else:
        assert one == other, path


def kill_when(path, command, environment):
    """Starts a command and kills it, and its workers, when a file is there."""
    inherited = {
        k: os.environ[k] for k in ('PATH', 'PYTHONPATH') if k in os.environ
    }
    process = subprocess.Popen(
        [str(word) for word in command],
        env=dict(inherited, OMP_NUM_THREADS='1', **environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.time() + 100
        while not path.exists() and process.poll() is None:
            assert time.time() < end, f'{path} did not come'
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_kill_9_inside_of_an_epoch(run, data, environment, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    command = [sys.executable, TRAIN]
    settings = ['--seed', '5', '--cfg-options', 'data.workers_per_gpu=2']
    done = run(
        command + options(data, whole, *settings), environment, timeout=200
    )
    assert done.returncode == 0, done.stderr

    # Iteration 12 is the fourth of the second epoch.
    command += options(data, parts, *settings)
    kill_when(parts / 'iter_12.pth', command, environment)
    assert not (parts / 'iter_15.pth').exists()
    resume = ['--resume-from', 'auto']
    done = run(command + resume, environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert 'first 4 of 8 batches are loaded again' in done.stderr
    assert_same_end(whole, parts, 'iter_15.pth')
    best = [mmcv.load(str(d / 'best.json')) for d in (whole, parts)]
    for record in best:
        record['best_ckpt'] = os.path.basename(record['best_ckpt'])
    assert best[0] == best[1]
    logs = [sorted(d.glob('*.log.json'))[-1].read_text() for d in (whole, parts)]
    scores = [mmcv_scores(text) for text in logs]
    assert scores[0][-1] == scores[1][-1]


def mmcv_scores(text):
    """The scores of the evaluations in a log."""
    import json

    lines = [json.loads(line) for line in text.splitlines()]
    return [
        {k: v for k, v in line.items() if 'PCK' in k}
        for line in lines
        if line.get('mode') == 'val'
    ]


def test_two_processes_without_a_seed(run, launch, data, environment, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    settings = ['--no-validate', '--cfg-options']
    settings += ['checkpoint_config.interval=2', 'data.samples_per_gpu=3']
    launch(2, TRAIN, *options(data, whole, *settings), env=environment)
    # 2 iterations in an epoch of 16 people: 3 for each process.
    resume = ['--resume-from', whole / 'iter_2.pth']
    done = launch(2, TRAIN, *options(data, parts, *settings, *resume), env=environment)
    assert 'not to the bit' not in done.stderr
    assert_same_end(whole, parts, 'iter_4.pth')

    settings += ['total_epochs=1']
    done = run([sys.executable, TRAIN, *options(data, parts, *settings, *resume)], environment)
    assert done.returncode == 0 and 'ranks 2 -> 1' in done.stderr
