"""Batches in memory that is used again are those of mmcv, and stay so."""

import functools
import os

import numpy as np
import pytest
import torch
from mmcv.parallel import DataContainer, collate

from hourglass_npu.shared import shared_bytes
from hourglass_npu.training import collate as module
from hourglass_npu.training.collate import ReusingCollate, reuse_memory


class Samples(torch.utils.data.Dataset):
    """Samples as of the stock config, each with numbers of its own."""

    def __init__(self, count=16, change=None):
        self.count, self.change = count, change

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        draw = np.random.RandomState(index)
        sample = dict(
            img=torch.from_numpy(draw.rand(3, 96, 96).astype(np.float32)),
            target=draw.rand(16, 48, 48).astype(np.float32),
            weight=draw.rand(16, 1),
            img_metas=DataContainer(dict(number=index), cpu_only=True),
            turned=torch.from_numpy(draw.rand(3, 96, 96)).transpose(0, 2),
        )
        if self.change:
            self.change(sample, index)
        return sample


def make_loader(data, workers=1, samples=2, reuse=True, **options):
    loader = torch.utils.data.DataLoader(
        data,
        samples,
        num_workers=workers,
        collate_fn=functools.partial(collate, samples_per_gpu=samples),
        **options,
    )
    if reuse:
        reuse_memory(loader)
        assert type(loader.collate_fn) is ReusingCollate
    return loader


def plain(value):
    if isinstance(value, torch.Tensor):
        shape = value.dtype, value.shape, value.stride()
        return shape, value.numpy().tobytes()
    if isinstance(value, DataContainer):
        return type(value), value.data, value.cpu_only, value.stack
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    return value


def in_block(tensor):
    """Say whether a tensor is in a block: torch's own are shared."""
    return not tensor.is_shared()


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('count', [16, 15])
def test_batches_are_those_of_mmcv(workers, count):
    data = Samples(count)
    wanted = map(plain, make_loader(data, workers, reuse=False))
    found = 0
    for batch, want in zip(make_loader(data, workers), wanted):
        assert plain(batch) == want
        assert in_block(batch['img']) and in_block(batch['target'])
        assert not in_block(batch['weight'])
        found += 1
    assert found == 8


KEEP = {
    'batch': lambda batch: batch,
    'tensor': lambda batch: batch['img'],
    'view': lambda batch: batch['img'][1, :, 3:5],
    'detached': lambda batch: batch['target'].detach()[0, :1],
    'array': lambda batch: batch['img'].numpy()[0],
    'element': lambda batch: batch['turned'].numpy()[:1, :1],
    'saved for backward': lambda batch: (
        batch['img'] * torch.ones(1, requires_grad=True)
    ).sum(),
    'storage': lambda batch: batch['img'].storage(),
}


def content(kept):
    if isinstance(kept, dict):
        return plain(kept)
    if isinstance(kept, torch.Tensor) and kept.requires_grad:
        return kept.grad_fn.next_functions[0][0]._saved_self.numpy().tobytes()
    if isinstance(kept, (torch.Tensor, np.ndarray)):
        return np.asarray(kept).tobytes()
    return [kept[i] for i in range(1000)]


@pytest.mark.parametrize('what', KEEP)
def test_what_is_kept_is_not_written_over(what):
    if what == 'saved for backward' and not hasattr(
        torch.ones(1, requires_grad=True).mul(2).grad_fn, '_saved_self'
    ):
        pytest.skip('this torch does not show it')
    kept = []
    for batch in make_loader(Samples(40)):
        kept.append(KEEP[what](batch))
        del batch
    wanted = [
        content(KEEP[what](batch))
        for batch in make_loader(Samples(40), reuse=False)
    ]
    assert [content(one) for one in kept] == wanted


class Marks(ReusingCollate):
    """Tells how many blocks the worker has, in the batch."""

    def __call__(self, samples):
        found = super().__call__(samples)
        if isinstance(found, module._Parcel):
            found.parts[2]['blocks'] = len(self._kept)
            found.parts[3].append('blocks')
        return found


@pytest.mark.parametrize('keep', [0, 1, 99])
def test_memory_is_used_again_when_nobody_has_it(keep):
    loader = make_loader(Samples(60))
    loader.collate_fn = Marks(2, blocks=4)
    kept, blocks = [], []
    for batch in loader:
        blocks.append(batch.get('blocks'))
        kept = (kept + [batch['img']])[-keep:] if keep else []
        del batch
    if keep == 99:
        # The first four; all later ones are where torch has them.
        assert blocks[:4] == [1, 2, 3, 4] and set(blocks[4:]) == {None}
    else:
        assert None not in blocks and len(blocks) == 30


def test_a_forked_process_gives_nothing_back():
    block = shared_bytes(128)
    block[0] = 1
    places = dict(a=(64, '<f4', (8,)))
    batch = module._unpack(block, places, {}, ['a'])
    pid = os.fork()
    if not pid:
        batch.clear()
        os._exit(0)
    os.waitpid(pid, 0)
    assert block[0] == 1
    batch.clear()
    assert block[0] == 0


@pytest.mark.parametrize(
    'values',
    [
        [torch.zeros(2**15), torch.zeros(2**15 + 1)],
        [torch.zeros(2**15), torch.zeros(2**15).double()],
        [torch.zeros(2**15), np.zeros(2**15, np.float32)],
        [torch.zeros(2**15, requires_grad=True)] * 2,
        [torch.zeros(2**15, dtype=torch.bool)] * 2,
        [torch.zeros(2**15, dtype=torch.complex64)] * 2,
        [torch.zeros(2**15).to_sparse()] * 2,
        [np.zeros(2**15, '>f4')] * 2,
        [np.zeros(2**15, object)] * 2,
        [torch.zeros(8)] * 2,
        [[0.0] * 2**15] * 2,
        ['a'] * 2,
    ],
)
def test_what_is_not_plain_is_left_to_mmcv(values):
    assert not module._fit(values)


def test_samples_of_other_forms_are_left_to_mmcv():
    big = torch.zeros(2**15)
    assert module._large_arrays([dict(a=big), dict(a=big)])
    for samples in (
        [dict(a=big), dict(a=big, b=1)],
        [[big], [big]],
        [big, big],
        [torch.tensor(1), torch.tensor(2)],
        [1, 2],
    ):
        assert not module._large_arrays(samples)


def test_another_collate_is_left_alone():
    for options in (
        dict(collate_fn=list, num_workers=1),
        dict(num_workers=1),
        dict(collate_fn=functools.partial(collate, samples_per_gpu=2)),
        dict(collate_fn=functools.partial(max, key=1), num_workers=1),
    ):
        loader = torch.utils.data.DataLoader(Samples(), **options)
        before = loader.collate_fn
        reuse_memory(loader)
        assert loader.collate_fn is before
