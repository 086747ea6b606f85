"""train.py stopped in the middle, and resumed, ends with the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from launching import TORCH
from mmcv.runner.checkpoint import _load_checkpoint
from mpii_data import write_mpii, write_tiny_config
from resume_cases import assert_same

from hourglass_npu.paths import MMPOSE_ROOT

TRAIN = str(MMPOSE_ROOT / 'tools' / 'train.py')

# 16 people in pairs: 8 iterations in an epoch of one process.
MORE = """
checkpoint_config = dict(interval=3, by_epoch=False)
log_config = dict(interval=3)
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return a folder with a data set, and the config that goes with it."""
    folder = tmp_path_factory.mktemp('resume')
    write_mpii(folder / 'mpii', train=16, val=4)
    return folder, write_tiny_config(folder, MORE)


@pytest.fixture
def environment(data):
    return dict(MPII_ROOT=str(data[0] / 'mpii'))


def arguments(data, work_dir, *more):
    return [data[1], '--device', 'cpu', '--work-dir', work_dir, *more]


def assert_same_files(one, other):
    """Two checkpoints hold the same weights, moments and random states."""
    for part in ('state_dict', 'optimizer', 'resume'):
        found = [_load_checkpoint(str(path))[part] for path in (one, other)]
        if part == 'resume':
            for point in found:
                for hook in point['hooks'].values():
                    # The folder is another.
                    hook.get('best', {}).pop('best_ckpt', None)
        assert_same(*found, path=part)


def kill_when(path, command, environment):
    """Start a command, and kills it and its workers when a file is there."""
    names = ('PATH', 'PYTHONPATH', 'HOME')
    inherited = {k: os.environ[k] for k in names if k in os.environ}
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


def scores(folder):
    """Scores of the evaluations in the last log of a folder."""
    text = sorted(folder.glob('*.log.json'))[-1].read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        {key: value for key, value in line.items() if 'PCK' in key}
        for line in lines
        if line.get('mode') == 'val'
    ]


def test_kill_9_inside_of_an_epoch(run, data, environment, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    settings = ['--seed', '5', '--cfg-options', 'data.workers_per_gpu=2']
    command = [sys.executable, TRAIN]
    # Nor does it matter whether data workers outlive an epoch.
    new = 'data.train_dataloader.persistent_workers=False'
    done = run(command + arguments(data, whole, *settings, new), environment)
    assert done.returncode == 0, done.stderr

    # Iteration 12 is the fourth of the second epoch.
    command += arguments(data, parts, *settings)
    kill_when(parts / 'iter_12.pth', command, environment)
    assert not (parts / 'iter_15.pth').exists()
    done = run(command + ['--resume-from', 'auto'], environment)
    assert done.returncode == 0, done.stderr
    # It was killed before or after latest.pth moved on from iteration 9.
    assert re.search('first [14] of 8 batches are loaded again', done.stderr)
    assert 'run without a stop' not in done.stderr

    assert_same_files(whole / 'iter_15.pth', parts / 'iter_15.pth')
    assert scores(whole)[1:] == scores(parts) != []
    best = [json.loads((d / 'best.json').read_text()) for d in (whole, parts)]
    assert best[0]['best_score'] == best[1]['best_score']


def test_two_processes_without_a_seed(
    launch,  # noqa: F811
    data,
    environment,
    tmp_path,
):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    # torch 1.8 has no bfloat16 on a CPU.
    settings = ['--amp'] if TORCH >= (2, 0) else []
    settings += ['--no-validate', '--cfg-options']
    settings += ['data.samples_per_gpu=2', 'data.workers_per_gpu=1']
    settings += ['optimizer_config.cumulative_iters=2', 'total_epochs=2']
    # In each iteration: it is time as soon as the ranks ask.
    settings += ['checkpoint_config.interval_minutes=1e-9']
    # 8 people for each process make 4 batches of 2, and these 2 steps.
    launch(2, TRAIN, *arguments(data, whole, *settings), env=environment)
    # By number every third, where its step is complete; the last by time.
    kept = {path.name for path in whole.glob('*.pth')}
    assert kept == {'iter_4.pth', 'iter_6.pth', 'iter_8.pth', 'latest.pth'}
    resume = ['--resume-from', whole / 'iter_6.pth']
    again = arguments(data, parts, *settings, *resume)
    done = launch(2, TRAIN, *again, env=environment)
    assert 'run without a stop' not in done.stderr
    assert done.stderr.count('inside of epoch 2: its first 2 of 4') == 1
    assert_same_files(whole / 'iter_8.pth', parts / 'iter_8.pth')
    kept = {path.name for path in parts.glob('*.pth')}
    assert kept == {'iter_8.pth', 'latest.pth'}
