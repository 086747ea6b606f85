import json

import cv2
import numpy as np
import pytest

from hourglass_npu.commands import browse
from hourglass_npu.config.load import load_config
from hourglass_npu.errors import UserError, is_user_error


@pytest.fixture
def cfg(tiny):
    return load_config(str(tiny))


def test_joints_lie_where_the_heatmaps_peak(cfg):
    samples = browse.take_samples(cfg, 6, seed=1)
    assert len(samples) == 6
    compared = 0
    for crop, joints, target, _ in samples:
        assert crop.shape == (64, 64, 3) and target.shape == (16, 16, 16)
        for (x, y, there), heat in zip(joints, target):
            inside = 0 <= x < 64 and 0 <= y < 64
            if there and inside and heat.max() == 1:
                row, column = np.unravel_index(heat.argmax(), heat.shape)
                assert abs(4 * column - x) <= 2.01
                assert abs(4 * row - y) <= 2.01
                compared += 1
            elif not there:
                assert heat.max() == 0
    assert compared > 30


def test_the_crop_is_the_picture_again(cfg):
    """Without augmentation: what TopDownAffine has cut out, to the byte."""
    from hourglass_npu.pose import decode

    for step in cfg.data.train.pipeline:
        if step['type'] == 'TopDownRandomFlip':
            step.flip_prob = 0
        elif step['type'] == 'TopDownGetRandomScaleRotation':
            step.rot_factor = step.scale_factor = 0
    samples = browse.take_samples(cfg, 2, seed=0)
    names = [text.split()[0] for _, _, _, text in samples]
    assert [text.split()[1:] for *_, text in samples] == [['x', '1.00']] * 2
    with open(cfg.data.train.ann_file) as file:
        notes = {note['image']: note for note in json.load(file)}
    for (crop, *_), name in zip(samples, names):
        picture = cv2.imread(cfg.data.train.img_prefix + name)
        note = notes[name]
        center = np.array(note['center']) + (-1, 15 * note['scale'] - 1)
        scale = np.full(2, note['scale'] * 1.25)
        wanted = decode.crop_person(picture, center, scale, (64, 64))
        assert (crop == wanted).all()


def test_a_seed_decides_and_the_sheet_holds_all(main, tiny, tmp_path):
    sheets = []
    for seed, number in ((0, 4), (0, 4), (1, 4), (0, 99)):
        out = tmp_path / 'sheet.png'
        main(
            *('browse', tiny, f'--seed={seed}', f'--out={out}'),
            f'--number={number}',
        )
        sheets.append(cv2.imread(str(out)))
    assert (sheets[0] == sheets[1]).all() and (sheets[0] != sheets[2]).any()
    # Six people are all there are: two rows of three, as for four.
    assert sheets[3].shape == sheets[0].shape


def test_mistakes_are_said(main, tiny, cfg, tmp_path, capsys):
    cfg.data.train.pipeline[-1].meta_keys = ['image_file']
    with pytest.raises(UserError, match='joints_3d'):
        browse.take_samples(cfg, 1, 0)
    with pytest.raises(SystemExit):
        main('browse', tiny, '--number=0')
    assert 'at least 1' in capsys.readouterr().err
    with pytest.raises(ValueError, match='must end in one of') as caught:
        main('browse', tiny, f'--out={tmp_path}/x.txt')
    assert is_user_error(caught.value)
