"""The scaling model is right where it can be worked out by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import scaling

ROOT = Path(__file__).resolve().parents[3]

MIB = scaling.MIB


def test_ring_allreduce():
    assert scaling.allreduce_seconds(800, 1, 100) == 0
    assert scaling.allreduce_seconds(800, 2, 100) == 8
    assert scaling.allreduce_seconds(800, 8, 100) == 14
    # One medium for all: what every rank sends goes through it in turn.
    assert scaling.allreduce_seconds(800, 8, 100, shared=True) == 8 * 14
    assert scaling.allreduce_seconds(0, 8, 100, latency=0.5) == 7


def test_buckets_are_those_of_ddp():
    pytest.importorskip('torch')
    import torch
    from torch.distributed import _compute_bucket_assignment_by_size

    sizes = [3, 1, 9, 30, 2, 2, 26, 1]
    tensors = [torch.empty(size * MIB // 4) for size in sizes]
    limits = [scaling.FIRST_BUCKET, scaling.BUCKET]
    found = _compute_bucket_assignment_by_size(tensors, limits)
    if isinstance(found[0][0], list):  # newer torch adds the limits
        found = found[0]
    expected = [sum(sizes[i] * MIB for i in bucket) for bucket in found]
    assert scaling.buckets_of([s * MIB for s in sizes]) == expected


def test_only_what_the_backward_pass_does_not_hide_is_exposed():
    # Quick: all but the last bucket is hidden.
    assert scaling.exposed_seconds([1, 1, 2], 4, lambda size: size / 2) == 1
    # Slow: starts after the first bucket, at 1, and then never waits.
    assert scaling.exposed_seconds([1, 1, 2], 4, lambda size: 3 * size) == 9
    assert scaling.exposed_seconds([4], 0, lambda size: size) == 4


def test_the_term_that_binds():
    quick = dict(forward=1, backward=2, batch=10)
    alone = scaling.predict(1, **quick)
    assert (alone['step'], alone['images'], alone['efficiency']) == (
        3,
        10 / 3,
        1,
    )
    assert alone['bound'] == 'compute'
    # 8 x 10 samples of 1 s on 16 cores.
    fed = scaling.predict(8, host_seconds=1, cores=16, **quick)
    assert (fed['host'], fed['step'], fed['bound']) == (5, 5, 'host')
    assert fed['efficiency'] == 0.6
    # As many cores for each device as before: nothing is lost.
    spread = scaling.predict(8, host_seconds=1, cores=16, hosts=8, **quick)
    assert spread['efficiency'] == 1
    slow = scaling.predict(8, gradients=[800], bandwidth=100, **quick)
    assert slow['exposed'] == 14 and slow['bound'] == 'communication'
    late = scaling.predict(
        2, gradients=[100] * 2, bandwidth=100, overlap=False, **quick
    )
    assert late['step'] == 3 + 2


def test_real_ranks_on_a_throttled_network():
    why = scaling.why_not()
    if why:
        pytest.skip(f'links cannot be throttled here: {why}')
    before = os.listdir('/sys/class/net')
    done = subprocess.run(
        [
            *scaling.NAMESPACE,
            sys.executable,
            '-m',
            'benchmark.scaling',
            'small',
        ],
        env=dict(os.environ, PYTHONPATH=str(ROOT / 'scripts')),
        stdout=subprocess.PIPE,
        timeout=120,
    )
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    # A busy machine may be slower, but bytes don't pass sooner than they can.
    assert row['measured']['median'] > 0.7 * row['predicted']
    assert os.listdir('/sys/class/net') == before
