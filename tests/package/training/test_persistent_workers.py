"""Data workers that outlive an epoch give what new ones would have given."""

import os
import random

import cv2
import numpy as np
import pytest
import torch
from mmcv import Config
from mmpose.apis import train as apis_train
from mmpose.datasets.pipelines import LoadImageFromFile

from hourglass_npu.errors import UserError
from hourglass_npu.training import workers as lasting_workers


class Draws(torch.utils.data.Dataset):
    """Samples that hold their number, and draws of every generator."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        draws = [random.random(), np.random.rand(), torch.rand(1).item()]
        return torch.tensor([index, *draws, os.getpid()], dtype=torch.float64)


class Batches(Draws):
    """The same, fetched by torch 2 in whole batches."""

    def __getitems__(self, indices):
        random.random()
        return [self[index] for index in indices]


LASTING = dict(persistent_workers=True)


def make_loader(dataset, workers=2, seed=None, wished=False, **options):
    data = dict(train_dataloader=options)
    cfg = Config(dict(data=data, lasting_workers=wished))
    return apis_train._train_loader(
        dataset,
        cfg,
        dict(
            samples_per_gpu=2,
            workers_per_gpu=workers,
            num_gpus=1,
            dist=False,
            seed=seed,
            pin_memory=False,
        ),
    )


def epochs_of(loader, leave=None):
    """Load four epochs; the second can be left early.

    Returns:
        tuple[list, list[set]]: What was loaded, with what this process draws
        afterwards; the process ids of the workers of each epoch.
    """
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    loaded, processes = [], []
    for epoch in range(4):
        processes.append(set())
        for number, batch in enumerate(loader):
            loaded.append(batch[:, :-1].tolist())
            processes[-1] |= set(batch[:, -1].tolist())
            torch.rand(1)  # as training may
            if (epoch, number) == (1, leave):
                break
        loaded.append([random.random(), np.random.rand(), torch.rand(1)])
    lasting_workers.stop_workers(loader)
    return loaded, processes


@pytest.mark.parametrize('seed', [None, 3])
@pytest.mark.parametrize(
    'workers, data, leave',
    [(1, Draws, None), (2, Draws, None), (2, Batches, None), (3, Draws, 1)],
)
def test_each_epoch_is_that_of_new_workers(workers, data, leave, seed):
    # Seven batches: the next epoch could begin with another worker.
    lasting, new = (
        epochs_of(make_loader(data(15), workers, seed, **options), leave)
        for options in (LASTING, {})
    )
    assert lasting[0] == new[0]
    batches = 28 if leave is None else 21 + leave + 1
    assert len(lasting[0]) == batches + 4
    assert len(set.union(*lasting[1])) == workers
    assert not any(a & b for a, b in zip(new[1], new[1][1:]))


def test_the_tests_would_notice_workers_that_are_not_seeded(monkeypatch):
    monkeypatch.setattr(
        lasting_workers.ReseededData,
        '_begin',
        lambda self, draw: draw.index,
    )
    lasting, new = (
        epochs_of(make_loader(Draws(15), **options))
        for options in (LASTING, {})
    )
    assert lasting[0] != new[0]


def test_hooks_find_in_the_loader_what_they_know():
    dataset = Draws(15)
    loader = make_loader(dataset, **LASTING)

    def what_others_see():
        return loader.dataset, loader.batch_sampler, loader.generator

    before = what_others_see()
    assert loader.dataset is dataset and len(loader) == 7
    assert loader.batch_sampler.sampler is loader.sampler
    batches = iter(loader)
    assert what_others_see() == before
    next(batches)
    assert what_others_see() == before
    lasting_workers.stop_workers(loader)


def test_without_workers_nothing_is_wrapped():
    dataset = Draws(15)
    for options in (
        {},
        dict(workers=0),
        dict(persistent_workers=False),
        dict(workers=0, wished=True),
        dict(wished=True, persistent_workers=False),
    ):
        loader = make_loader(dataset, **options)
        assert type(loader) is torch.utils.data.DataLoader
        assert not loader.persistent_workers
    assert make_loader(dataset, wished=True).persistent_workers


class Scaled(torch.utils.data.Dataset):
    """Samples that tell what the data set was like, and who made them."""

    def __init__(self):
        self.pipeline = [dict(amount=0)]
        self.table = torch.zeros(3)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        own = torch.utils.data.get_worker_info().dataset
        assert own is self
        amount = self.pipeline[0]['amount'] + self.table.sum().item()
        return torch.tensor([amount, os.getpid()], dtype=torch.float64)


def seen_of(loader, change):
    """Load four epochs; change the data set before the second and third."""
    seen, workers = [], []
    for epoch in range(4):
        if epoch in (1, 2):
            change(loader, epoch)
        batches = torch.cat(list(loader))
        seen.append(set(batches[:, 0].tolist()))
        workers.append(set(batches[:, 1].tolist()))
    lasting_workers.stop_workers(loader)
    return seen, [a == b for a, b in zip(workers, workers[1:])]


def in_place(loader, epoch):
    loader.dataset.pipeline[0]['amount'] = epoch


def new_pipeline(loader, epoch):
    loader.dataset.pipeline = [dict(amount=epoch)]


def in_a_tensor(loader, epoch):
    loader.dataset.table[1] = epoch


def in_an_array(loader, epoch):
    loader.dataset.table.numpy()[1] = epoch


class Adds:
    def __init__(self, number):
        self.number = number

    def __call__(self, items):
        return torch.stack(items) + torch.tensor([self.number, 0])


def other_collate(loader, epoch):
    loader.collate_fn = Adds(epoch)


@pytest.mark.parametrize(
    'change', [in_place, new_pipeline, in_a_tensor, in_an_array, other_collate]
)
def test_a_hook_changes_the_data_set(change):
    lasting, new = (
        seen_of(make_loader(Scaled(), **options), change)
        for options in (LASTING, {})
    )
    assert lasting[0] == new[0] == [{0}, {1}, {2}, {2}]
    # New workers only where there was a change.
    assert lasting[1] == [False, False, True]


def test_what_cannot_be_told_is_said_once(caplog):
    dataset = Scaled()
    dataset.opaque = lambda: None
    loader = make_loader(dataset, **LASTING)
    with caplog.at_level('WARNING', loader.logger.name):
        seen, same = seen_of(loader, in_place)
    assert seen == [{0}, {1}, {2}, {2}] and not any(same)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and 'start anew in each epoch' in said[0]


def test_what_workers_share_is_no_change():
    dataset = Scaled()
    dataset.shared = torch.zeros(3).share_memory_()
    loader = make_loader(dataset, **LASTING)

    def write(loader, epoch):
        loader.dataset.shared.fill_(epoch)

    assert seen_of(loader, write)[1] == [True, True, True]


class Pictures(Draws):
    def __init__(self, paths):
        super().__init__(len(paths))
        self.paths = paths
        self.load = LoadImageFromFile(cache='ram')
        self.load.prepare(paths)

    def __getitem__(self, index):
        picture = self.load(dict(image_file=self.paths[index]))['img']
        return torch.tensor(int(picture[0, 0, 0]))


def test_workers_find_in_the_cache_what_others_have_decoded(tmp_path):
    paths = [str(tmp_path / f'{i}.png') for i in range(8)]
    for i, path in enumerate(paths):
        cv2.imwrite(path, np.full((2, 2, 3), i, np.uint8))
    torch.manual_seed(0)
    loader = make_loader(Pictures(paths), **LASTING)
    for epoch in range(4):
        seen = torch.cat(list(loader)).tolist()
        assert sorted(seen) == list(range(8))
        if not epoch:
            for path in paths:
                os.remove(path)


def test_they_are_refused_where_there_are_none():
    with pytest.raises(UserError, match='set data.workers_per_gpu to 1'):
        make_loader(Draws(4), workers=0, persistent_workers=True)
    make_loader(Draws(4), workers=0)
