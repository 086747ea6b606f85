"""Two processes with SyncBN compute what one with the double batch does."""

from pathlib import Path

import pytest
import sync_bn_worker as worker
import torch
import wrapper_worker
from launching import torch_launcher

if not hasattr(torch._C, '_get_privateuse1_backend_name'):
    pytest.skip(
        f'SyncBatchNorm of torch {torch.__version__} is for CUDA alone',
        allow_module_level=True,
    )


@pytest.fixture(scope='module')
def alone():
    """Return what one process finds that has the whole batches."""
    model = worker.Model('BN')
    return worker.train(model, model, wrapper_worker.batches())


_ran = []


@pytest.fixture
def ranks(run, free_port, tmp_path):
    """Return what the two processes found, in order of rank; run once."""
    if not _ran:
        script = Path(worker.__file__)
        done = run(torch_launcher(script, 2, free_port, tmp_path))
        assert done.returncode == 0, done.stderr
        _ran.extend(torch.load(str(tmp_path / f'{r}.pt')) for r in (0, 1))
    return _ran


PARTS = ['.grad', '.weight', '.bias', '.running_mean', '.running_var']


def distance(step, other, part):
    """Return the largest difference among the values with such a name."""
    names = [name for name in step if name.endswith(part)]
    assert names and set(step) == set(other)
    return max((step[name] - other[name]).abs().max() for name in names)


def test_gradients_weights_and_statistics_are_those_of_one(ranks, alone):
    for rank in ranks:
        for step, expected in zip(rank['SyncBN'], alone):
            for part in PARTS + ['.num_batches_tracked']:
                assert distance(step, expected, part) <= 1e-6, part
    for first, second, expected in zip(*(r['SyncBN'] for r in ranks), alone):
        mean = (first['loss'] + second['loss']) / 2
        assert abs(mean - expected['loss']) <= 1e-6
    # And training did something, to each kind of value.
    for part in PARTS:
        assert distance(alone[0], alone[-1], part) > 1e-3


def test_all_ranks_hold_the_same_model(ranks):
    for first, second in zip(*(rank['SyncBN'] for rank in ranks)):
        assert first['loss'] != second['loss']
        for name in set(first) - {'loss'}:
            assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize('part', PARTS)
def test_without_it_each_rank_normalises_for_itself(ranks, alone, part):
    assert distance(ranks[0]['BN'][-1], alone[-1], part) > 1e-3
