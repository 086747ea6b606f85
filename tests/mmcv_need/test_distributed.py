"""MMDistributedDataParallel, by two real gloo processes."""

import pytest
import torch
import wrapper_cases as worker
from launching import TORCH
from mmcv.parallel.distributed import compress_gradients

_ran = []


@pytest.fixture
def found(ranks, original):
    """Return what the two processes found, in order of rank; run once."""
    if not _ran:
        stock = original('mmcv', 'parallel/distributed.py')
        _ran.extend(ranks(2, worker.run_all, stock))
    return _ran


def equal(first, second):
    """Compare two lists of lists of tensors bit by bit."""
    return all(
        torch.equal(a, b)
        for some, others in zip(first, second)
        for a, b in zip(some, others)
    )


def test_two_processes_do_what_one_does_with_the_double_batch(found):
    model = worker.Model()
    alone = worker.train(
        lambda batch: model.train_step(batch)['loss'], model, worker.batches()
    )
    for step in range(worker.STEPS):
        mean = (
            found[0]['plain']['losses'][step]
            + found[1]['plain']['losses'][step]
        ) / 2
        assert torch.allclose(mean, alone['losses'][step], atol=1e-6)
        for a, b in zip(
            found[0]['plain']['weights'][step], alone['weights'][step]
        ):
            assert (a - b).abs().max() <= 1e-6
    # And training did something.
    moved = alone['weights'][-1][0] - alone['weights'][0][0]
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize(
    'case',
    ['plain', 'torch', 'copied_gradients', 'unused', 'static_graph', 'stock'],
)
def test_all_ranks_hold_the_same_weights(found, case):
    first, second = (rank[case] for rank in found)
    if first is None:
        pytest.skip(f'torch {torch.__version__} cannot do this')
    assert equal(first['weights'], second['weights'])
    assert not equal([first['losses']], [second['losses']])


@pytest.mark.parametrize(
    'case', ['torch', 'copied_gradients', 'buckets', 'stock']
)
def test_train_step_does_what_forward_of_torch_does(found, case):
    for rank in found:
        if rank[case] is None:
            pytest.skip(f'torch {torch.__version__} cannot do this')
        assert equal(rank['plain']['weights'], rank[case]['weights'])
        assert equal([rank['plain']['losses']], [rank[case]['losses']])


def test_stock_takes_part_on_torch_1_8(found):
    assert (found[0]['stock'] is not None) == (TORCH < (1, 11))


@pytest.mark.parametrize('case', ['unused', 'static_graph'])
def test_unused_parameters_stay_and_change_nothing(found, case):
    for rank in found:
        if rank[case] is None:
            pytest.skip(f'torch {torch.__version__} has no static_graph')
        used = [weights[:4] for weights in rank[case]['weights']]
        spare = [weights[4:] for weights in rank[case]['weights']]
        assert equal(used, rank['plain']['weights'])
        assert len(spare[0]) == 2
        assert equal(spare, [spare[0]] * worker.STEPS)


@pytest.mark.parametrize('case, bits', [('fp16', 11), ('bf16', 8)])
def test_compressed_gradients_are_rounded_and_alike(found, case, bits):
    if TORCH < (1, 10):
        assert 'needs torch 1.10' in found[0][case]
        return
    plain, first, second = (
        rank['weights'] for rank in (found[0]['plain'], *both(found, case))
    )
    assert equal(first, second)
    assert not equal(first, plain)
    # What a step moves, by the wrong rounding of what moves it.
    start = [p.detach() for p in worker.Model().parameters()]
    for before, after, exact in zip(start, first[0], plain[0]):
        error = (after - exact).abs().max()
        assert error <= (exact - before).abs().max() * 2.0 ** (1 - bits)


def both(found, case):
    return [rank[case] for rank in found]


def test_an_unknown_compression_is_refused():
    with pytest.raises(ValueError, match="compression='int8' must be 'fp16'"):
        compress_gradients(None, 'int8')


def test_accumulation_sums_over_batches_and_averages_over_ranks(found):
    expected = worker.Model()
    for batch in worker.batches()[:2]:
        expected.train_step(batch)['loss'].backward()
    for rank in found:
        for grad, param in zip(rank['accumulation'], expected.parameters()):
            assert torch.allclose(grad, param.grad, atol=1e-6)
    assert equal([found[0]['accumulation']], [found[1]['accumulation']])


@pytest.mark.parametrize('way', ['train', 'val', 'forward'])
def test_containers_are_unpacked(found, way):
    assert all(rank['containers'][way] for rank in found)


def test_forward_of_the_module_is_restored(found):
    assert found[0]['forward_is_restored'] == {
        'error': 'in the step',
        'after error': True,
        'after hook': True,
        'patched stays': True,
        'patched is used': True,
        'patched late': True,
    }


def test_other_threads_reach_the_module_s_own_forward(found):
    assert all(rank['other_threads'] for rank in found)
