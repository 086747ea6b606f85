"""Data workers of a process that must not be forked come from a server."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mpii_data import write_mpii

import hourglass_npu
from hourglass_npu.lifetime import identify
from hourglass_npu.training import workers

JOB = """
import json, os, sys, time
import torch

class Reports(torch.utils.data.Dataset):
    def __init__(self, people):
        self.people = people

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.people[index]
        with open('/proc/self/smaps_rollup') as file:
            facts = dict(line.split(':') for line in list(file)[1:])
        own = int(facts['Private_Dirty'].split()[0]) / 1024
        return dict(own=own, pid=os.getpid(), parent=os.getppid())

if __name__ == '__main__':
    from mmcv import Config
    from mmpose.datasets import build_dataset
    from hourglass_npu.paths import CONFIGS
    from hourglass_npu.training.workers import start_from_server

    cfg = Config.fromfile(str(CONFIGS / 'hourglass_mpii_sample_96x96.py'))
    cfg.data.train.ann_file = sys.argv[1] + '/annotations/mpii_train.json'
    cfg.data.train.img_prefix = sys.argv[1] + '/images/'
    people = build_dataset(cfg.data.train)
    torch.multiprocessing.set_start_method('spawn')
    loader = torch.utils.data.DataLoader(Reports(people), None, num_workers=2)
    start_from_server(loader)
    batches = iter(loader)
    seen = [next(batches) for _ in range(8)]
    print(json.dumps(seen), flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_workers_share_what_they_import_and_end_with_the_training(tmp_path):
    script = tmp_path / 'job.py'
    script.write_text(JOB)
    data = write_mpii(tmp_path / 'mpii', train=16, val=1)
    job = subprocess.Popen(
        [sys.executable, str(script), str(data)],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        start_new_session=True,
    )
    try:
        lines = iter(job.stdout.readline, '')
        seen = json.loads(next(line for line in lines if line[0] == '['))
        pids = {one['pid'] for one in seen}
        (server,) = {one['parent'] for one in seen}
        assert len(pids) == 2 and server != job.pid
        # Spawned ones have 190 MiB and more.
        assert max(one['own'] for one in seen) < 40
        # Nobody is asked to clear up.
        job.kill()
        job.wait()
        end = time.monotonic() + 30
        while any(map(identify, [server, *pids])):
            assert time.monotonic() < end, 'they outlive the training'
            time.sleep(0.1)
    finally:
        try:
            os.killpg(job.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        job.stdout.close()


@pytest.fixture
def make(monkeypatch):
    """Make a loader in a process whose start method is the given one."""

    def make_loader(method, **options):
        monkeypatch.setattr(
            multiprocessing, 'get_start_method', lambda **_: method
        )
        loader = torch.utils.data.DataLoader([0], **options)
        workers.start_from_server(loader)
        return loader.multiprocessing_context

    return make_loader


def test_only_what_would_be_spawned(make):
    two = dict(num_workers=2)
    assert make('spawn', **two).get_start_method() == 'forkserver'
    assert make('spawn') is None
    assert make('fork', **two) is make(None, **two) is None
    asked = multiprocessing.get_context('spawn')
    assert make('spawn', multiprocessing_context=asked, **two) is asked


def test_not_where_the_server_would_load_another_package(
    make, monkeypatch, tmp_path
):
    other = tmp_path / 'hourglass_npu'
    other.mkdir()
    (other / '__init__.py').touch()
    monkeypatch.chdir(tmp_path)
    assert make('spawn', num_workers=2) is None
    monkeypatch.chdir('/')
    monkeypatch.setattr(hourglass_npu, '__file__', str(other / '__init__.py'))
    assert make('spawn', num_workers=2) is None
