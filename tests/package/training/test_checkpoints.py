"""Which checkpoint of a training is the latest, and which is whole."""

import logging
import os

import pytest
from mmcv.runner import save_checkpoint
from mmcv.runner.checkpoint import link_checkpoint
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.training import checkpoints
from hourglass_npu.training.checkpoints import (
    find_whole_checkpoint,
    list_checkpoints,
)


@pytest.fixture
def training(tmp_path):
    """A work folder with five checkpoints; returns it and their paths."""
    names = ['epoch_1', 'iter_12', 'epoch_2', 'best_3', 'epoch_10']
    for age, name in enumerate(names):
        path = str(tmp_path / f'{name}.pth')
        save_checkpoint(nn.Conv2d(1, 1, 1), path, meta=dict(number=age))
        os.utime(path, (1000 + age, 1000 + age))
    link_checkpoint(path, str(tmp_path / 'latest.pth'))
    (tmp_path / 'epoch_x.pth').write_bytes(b'')
    (tmp_path / '.epoch_11.pth.7.tmp').write_bytes(b'half of on')
    return tmp_path


def test_checkpoints_of_a_training_are_listed_by_age(training):
    def listed(*template):
        found = list_checkpoints(str(training), *template)
        return [(os.path.basename(p), t, n) for p, t, n in found]

    usual = [
        ('epoch_10.pth', 'epoch_{}.pth', 10),
        ('epoch_2.pth', 'epoch_{}.pth', 2),
        ('iter_12.pth', 'iter_{}.pth', 12),
        ('epoch_1.pth', 'epoch_{}.pth', 1),
    ]
    assert listed() == listed('iter_{}.pth') == usual
    first, *_ = list_checkpoints(str(training))
    assert first[0] == str(training / 'epoch_10.pth')
    best = ('best_3.pth', 'best_{}.pth', 3)
    assert listed('best_{}.pth') == [usual[0], best] + usual[1:]
    assert list_checkpoints(str(training / 'none')) == []


def damage(path, how):
    content = path.read_bytes()
    if how == 'gone':
        path.unlink()
    elif how == 'flipped':
        middle = content.index(b'weight') + 2
        flipped = bytes([content[middle] ^ 16])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    else:
        length = dict(empty=0, half=len(content) // 2, truncated=-1)[how]
        path.write_bytes(content[:length])


@pytest.mark.parametrize(
    'how', ['gone', 'flipped', 'empty', 'half', 'truncated']
)
def test_the_latest_whole_checkpoint_is_found(training, caplog, how):
    def find():
        caplog.clear()
        return find_whole_checkpoint(str(training), logger=logging.getLogger())

    assert find() == str(training / 'latest.pth') and not caplog.text
    damage(training / 'epoch_10.pth', how)
    damage(training / 'epoch_2.pth', how)
    assert find() == str(training / 'iter_12.pth')
    # latest.pth speaks for the file that it stands for.
    assert len(caplog.messages) == (1 if how == 'gone' else 2)
    assert all(m.startswith('Passed over: ') for m in caplog.messages)
    assert how == 'gone' or 'epoch_2.pth' in caplog.text
    for name in ('iter_12', 'epoch_1'):
        damage(training / f'{name}.pth', how)
    with pytest.raises(UserError, match='no checkpoint in .* is whole'):
        find()
    (training / 'latest.pth').unlink()
    if how == 'gone':
        assert find() is None


def test_a_bug_in_reading_is_no_damaged_file(training, monkeypatch):
    def fail(path, map_location):
        raise ValueError('too many values to unpack (expected 2)')

    monkeypatch.setattr(checkpoints, 'load_from_local', fail)
    with pytest.raises(ValueError, match='^too many values'):
        find_whole_checkpoint(str(training))
