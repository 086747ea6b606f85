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


def make_loader(dataset, workers=2, seed=None, **options):
    cfg = Config(dict(data=dict(train_dataloader=options)))
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
        for options in ({}, dict(persistent_workers=False))
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
        for options in ({}, dict(persistent_workers=False))
    )
    assert lasting[0] != new[0]


def test_hooks_find_in_the_loader_what_they_know():
    dataset = Draws(15)
    loader = make_loader(dataset)
    assert (loader.batch_size, len(loader)) == (2, 7)
    assert isinstance(loader.sampler, torch.utils.data.RandomSampler)
    assert loader.dataset.size == len(loader.dataset) == 15
    assert not hasattr(loader.dataset, 'db')
    assert loader.dataset[3][0] == 3


def test_without_workers_nothing_is_wrapped():
    dataset = Draws(15)
    for options in (dict(workers=0), dict(persistent_workers=False)):
        loader = make_loader(dataset, **options)
        assert loader.dataset is dataset and loader.generator is None
        assert not loader.persistent_workers


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
    loader = make_loader(Pictures(paths))
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
