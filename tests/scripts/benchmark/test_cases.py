"""What is measured is what it is called."""

import cv2
import numpy as np
import pytest
import torch
from mpii_data import write_mpii

from benchmark.areas import SMALL
from benchmark.cases import CASES, Account


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    folder = write_mpii(tmp_path_factory.mktemp('data') / 'mpii')
    return dict(config=str(SMALL), data=str(folder), count=4)


@pytest.fixture(autouse=True)
def threads():
    before = cv2.getNumThreads(), torch.get_num_threads()
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


def measured(name, **options):
    case = CASES[name](**options)
    next(case)
    return case.send(3)


def test_the_floor_warps_what_the_samples_warp(source, monkeypatch):
    warp, seen = cv2.warpAffine, []

    def listening(picture, matrix, *args, **kwargs):
        seen.append((picture.shape, matrix.tolist()))
        return warp(picture, matrix, *args, **kwargs)

    def warps(name, **options):
        measured(name, **source, **options)
        return seen[-source['count'] :]

    def scales(warps):
        return {
            round(float(np.linalg.det(np.array(matrix)[:, :2])), 9)
            for _, matrix in warps
        }

    monkeypatch.setattr(cv2, 'warpAffine', listening)
    samples = warps('sample', flip=0.0)
    assert warps('floor') == samples
    assert len(scales(samples)) == source['count']
    middle = warps('floor', middle=True)
    shapes = [[shape for shape, _ in one] for one in (samples, middle)]
    assert shapes[0] == shapes[1]
    assert len(scales(middle)) == len(set(shapes[0]))


@pytest.mark.parametrize('stock_form', [False, True])
def test_an_account_is_complete(source, stock_form):
    before = cv2.warpAffine
    found = measured(
        'sample', account=True, flip=1.0, stock_form=stock_form, **source
    )
    assert set(found['account']) == {*Account.PARTS, 'rest'}
    assert all(value > 0 for value in found['account'].values())
    assert sum(found['account'].values()) == pytest.approx(found['cpu'])

    found = measured('floor', account=True, **source)
    spent = {part for part, value in found['account'].items() if value}
    assert spent == {'decode', 'warp', 'rest'}
    assert cv2.warpAffine is before


def test_steps_that_are_done_in_one_go_have_one_row(source):
    parts = measured('parts', stock_form=True, **source)['parts']
    assert 'ToTensor, NormalizeTensor' in parts
    assert not {'ToTensor', 'NormalizeTensor'} & set(parts)
