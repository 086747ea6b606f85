"""What is measured is what it is called."""

import cv2
import numpy as np
import pytest
import torch
from mpii_data import write_mpii

from benchmark.bundle import SMALL
from benchmark.case import start

COUNT = 4


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = write_mpii(tmp_path_factory.mktemp('data') / 'mpii')
    return dict(config=str(SMALL), data=str(folder))


@pytest.fixture(autouse=True)
def threads():
    before = cv2.getNumThreads(), torch.get_num_threads()
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


def measured(name, source, **options):
    case = start(name, source, dict(count=COUNT, **options))
    next(case)
    return case.send(3)


def test_the_floor_warps_what_the_samples_warp(source, monkeypatch):
    warp, seen = cv2.warpAffine, []

    def listening(picture, matrix, *args, **kwargs):
        seen.append((picture.shape, matrix.tolist()))
        return warp(picture, matrix, *args, **kwargs)

    def warps(name, **options):
        measured(name, source, **options)
        return seen[-COUNT:]

    def scales(warps):
        return {
            round(float(np.linalg.det(np.array(matrix)[:, :2])), 9)
            for _, matrix in warps
        }

    monkeypatch.setattr(cv2, 'warpAffine', listening)
    samples = warps('samples.sample', flip=0.0)
    assert warps('samples.floor') == samples
    assert len(scales(samples)) == COUNT


@pytest.mark.parametrize('stock_form', [False, True])
def test_steps_that_are_done_in_one_go_have_one_row(source, stock_form):
    source = dict(source, stock_form=stock_form)
    found = measured('samples.steps', source)
    spent = found['account']
    assert ('ToTensor, NormalizeTensor' in spent) == stock_form
    assert ('ToPlanes' in spent) != stock_form
    assert not {'ToTensor', 'NormalizeTensor'} & set(spent)
    assert all(value > 0 for value in spent.values())
    assert sum(spent.values()) <= found['cpu'] * 1.1
