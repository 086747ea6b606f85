import io
import itertools
import sys
import threading

import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner.dist_utils import get_dist_info
from mmpose.apis import multi_gpu_test
from mmpose.apis import test as apis_test
from mmpose.datasets import build_dataloader
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        torch.manual_seed(index)
        return dict(img=torch.randn(96, 8, 8))


class Net(nn.Module):
    """Sum many products, so that the order of the sums shows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(96, 512, 1), nn.ReLU(), nn.Conv2d(512, 16, 1)
        )
        self.threads = set()

    def forward(self, img, return_loss):
        assert not return_loss
        assert not torch.is_grad_enabled() and not self.training
        self.threads.add((threading.get_ident(), torch.get_num_threads()))
        return self.layers(img)


@pytest.fixture
def threads():
    """Set the number of arithmetic threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def predict(size=7, asks=True):
    torch.manual_seed(0)
    net = Net()
    model = MMDataParallel(net, device_ids=[-1])
    loader = DataLoader(Numbers(size))
    loader.in_threads = asks
    return apis_test.single_gpu_test(model, loader), net


@pytest.fixture
def top_down(monkeypatch):
    """Let the network pass for mmpose's."""
    monkeypatch.setattr(Net, 'forward_test', None, raising=False)
    monkeypatch.setattr(apis_test, 'TopDown', Net)


def test_predictions_do_not_depend_on_the_number_of_threads(
    threads, top_down, capsys
):
    threads(1)
    expected, _ = predict()
    for count in (2, 3):
        threads(count)
        results, net = predict()
        assert torch.get_num_threads() == count
        assert all(torch.equal(a, b) for a, b in zip(results, expected))
        assert len(results) == len(expected) == 7
        # Several at a time, each with one thread of arithmetic.
        assert {n for _, n in net.threads} == {1}
        assert threading.get_ident() not in {t for t, _ in net.threads}


def test_an_error_comes_through_and_leaves_the_threads_as_they_were(
    threads, top_down
):
    threads(2)
    net = Net()
    net.layers = nn.Linear(3, 3)
    loader = DataLoader(Numbers(5))
    loader.in_threads = True
    with pytest.raises(RuntimeError):
        apis_test.single_gpu_test(net, loader)
    assert torch.get_num_threads() == 2


def test_only_our_commands_have_threads_and_only_for_top_down(
    threads, monkeypatch
):
    threads(2)
    here = {threading.get_ident()}
    for asks in (False, True):
        _, net = predict(4, asks)
        assert {thread for thread, _ in net.threads} == here
    monkeypatch.setattr(Net, 'forward_test', None, raising=False)
    monkeypatch.setattr(apis_test, 'TopDown', Net)
    _, net = predict(4, asks=False)
    assert {thread for thread, _ in net.threads} == here
    _, net = predict(4)
    assert not {thread for thread, _ in net.threads} & here


class Stranger(nn.Module):
    """Keep its input in itself, and asks for the modes of its caller."""

    def forward(self, img, return_loss):
        self.img = img
        for _ in range(50):
            img = img @ torch.eye(8)
        modes = getattr(torch, 'is_inference_mode_enabled', bool)()
        return [self.img.double().sum().item(), str(img.dtype), modes]


@pytest.mark.parametrize('mode', ['no_grad', 'inference_mode', 'autocast'])
@pytest.mark.parametrize('batch', [1, 3])
def test_a_strangers_model_gets_what_stock_gives(
    stock, threads, capsys, mode, batch
):
    if not hasattr(torch, mode):
        pytest.skip(f'torch has no {mode}')
    arguments = ('cpu', torch.bfloat16) if mode == 'autocast' else ()
    threads(3)
    found = []
    for module in (stock('mmpose', 'apis/test.py'), apis_test):
        loader = DataLoader(Numbers(6), batch_size=batch)
        loader.in_threads = True
        with getattr(torch, mode)(*arguments):
            found.append(module.single_gpu_test(Stranger(), loader))
    assert found[0] == found[1] and len(found[0]) == 6 // batch
    if mode == 'autocast':
        assert found[1][0][1] == 'torch.bfloat16'


@pytest.mark.parametrize('mode', ['inference_mode', 'autocast'])
def test_modes_of_the_caller_hold_for_top_down_too(threads, top_down, mode):
    if not hasattr(torch, mode):
        pytest.skip(f'torch has no {mode}')
    threads(2)
    arguments = ('cpu', torch.bfloat16) if mode == 'autocast' else ()
    with getattr(torch, mode)(*arguments):
        results, net = predict(3)
    assert {thread for thread, _ in net.threads} == {threading.get_ident()}
    if mode == 'autocast':
        assert results[0].dtype == torch.bfloat16
    else:
        assert results[0].is_inference()


def test_the_stock_functions_give_the_same(stock, threads, capsys):
    theirs = stock('mmpose', 'apis/test.py')
    threads(1)
    results, net = predict()
    for name in ('single_gpu_test', 'multi_gpu_test'):
        args = (net, DataLoader(Numbers(7)))
        ours = getattr(apis_test, name)(*args)
        assert all(torch.equal(a, b) for a, b in zip(ours, results))
    expected = theirs.single_gpu_test(net, DataLoader(Numbers(7)))
    assert all(torch.equal(a, b) for a, b in zip(expected, results))
    assert len(expected) == len(results)


@pytest.mark.parametrize(
    'ranks, size', [*itertools.product((1, 2, 3, 8), (1, 2, 3, 7, 16))]
)
@pytest.mark.parametrize(
    'name', ['collect_results_cpu', 'collect_results_gpu']
)
def test_padding_is_removed_and_order_kept(monkeypatch, name, ranks, size):
    rounds = -(-size // ranks)
    dealt = [i % size for i in range(rounds * ranks)]
    parts = [dealt[rank::ranks] for rank in range(ranks)]
    monkeypatch.setattr(apis_test, 'gather_objects', lambda part: parts)
    assert getattr(apis_test, name)(parts[0], size) == list(range(size))
    monkeypatch.setattr(apis_test, 'gather_objects', lambda part: None)
    assert getattr(apis_test, name)(parts[0], size) is None


def gather_in_a_rank(tmpdir, *sizes):
    """Predict data sets of several sizes in both ways; sums by size."""
    # Ranks of other widths: the result must not depend on them.
    torch.set_num_threads(1 + get_dist_info()[0])
    # As for mmpose's network, several batches at a time.
    Net.forward_test, apis_test.TopDown = None, Net
    found = {}
    for size in map(int, sizes):
        torch.manual_seed(0)
        model = MMDataParallel(Net(), device_ids=[-1])
        loader = build_dataloader(
            Numbers(size),
            samples_per_gpu=1,
            workers_per_gpu=0,
            dist=True,
            shuffle=False,
            pin_memory=False,
        )
        loader.in_threads = True
        found[size] = []
        for settings in (dict(tmpdir=tmpdir), dict(gpu_collect=True)):
            results = multi_gpu_test(model, loader, **settings)
            if results is not None:
                found[size].append([x.double().sum().item() for x in results])
    return found


def test_three_processes_give_what_one_gives(ranks, top_down, tmp_path):
    sizes = [1, 2, 4, 7]
    found, *others = ranks(3, gather_in_a_rank, tmp_path / 'parts', *sizes)
    assert others == [{size: [] for size in sizes}] * 2
    for size in sizes:
        alone, _ = predict(size)
        assert found[size] == [[x.double().sum().item() for x in alone]] * 2
    assert not (tmp_path / 'parts').exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    predict(3)
    text = sys.stderr.getvalue()
    assert text.startswith('Tested 3 samples in ') and text.count('\n') == 1
    assert '\r' not in text


@pytest.mark.parametrize('ranks', [1, 2])
def test_progress_on_a_terminal_is_a_bar(monkeypatch, ranks):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    model = MMDataParallel(Net(), device_ids=[-1])
    # Two ranks: the last round was padded.
    apis_test._predict(model, DataLoader(Numbers(3)), 0, ranks)
    last = sys.stderr.getvalue().split('\r')[-1]
    assert '3/3' in last and 'samples/s' in last and last.endswith('\n')
    assert 'Tested' not in sys.stderr.getvalue()


def test_an_empty_set_ends_too(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    assert predict(0)[0] == []
    assert sys.stderr.getvalue().startswith('Tested 0 samples in ')
