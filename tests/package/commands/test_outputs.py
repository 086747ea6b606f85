"""Every command says before its work where it cannot write."""

import os
import runpy
from pathlib import Path

import pytest
from calling import call

from hourglass_npu.errors import UserError
from hourglass_npu.paths import ROOT


def commands(folder, tiny, out):
    """Return command lines that name an output."""
    return dict(
        check=['check', folder, '--json', out],
        plot=['plot', folder, '--out', out],
        browse=['browse', tiny, '--out', out],
        demo=['demo', '--img', folder / 'a.png', '--json', out],
        eval=['eval', tiny, folder / 'a.pth', '--json', out],
        raw=['eval', tiny, folder / 'a.pth', '--out', out],
        export=['export', '--out', out],
    )


NAMES = sorted(commands(Path(), '', ''))


@pytest.fixture
def folder(tmp_path):
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / 'a.pth').write_bytes(b'x')
    return tmp_path


@pytest.mark.parametrize('name', NAMES)
def test_another_suffix(name, folder, tiny, capsys):
    out = folder / 'holiday.text'
    out.write_text('mine')
    try:
        status = call(*commands(folder, tiny, out)[name])
    except SystemExit as stop:  # of argparse
        status = stop.code
    assert status == 2
    assert 'holiday.text: the name must end in' in capsys.readouterr().err
    assert out.read_text() == 'mine'


@pytest.mark.parametrize('name', NAMES)
def test_a_folder_that_is_not_there(name, folder, tiny, capsys):
    suffix = dict(plot='.png', browse='.png', export='.onnx', raw='.pkl')
    out = folder / 'none' / ('a' + suffix.get(name, '.json'))
    assert call(*commands(folder, tiny, out)[name]) == 2
    assert 'none does not exist' in capsys.readouterr().err


def test_the_demo_keeps_its_pictures(folder, capsys):
    picture = str(folder / 'a.png')
    os.symlink(picture, str(folder / 'b.json'))
    before = (folder / 'a.png').read_bytes()
    out = folder / 'b.json'
    assert call('demo', '--img', picture, '--json', out) == 2
    assert 'is read by this run' in capsys.readouterr().err
    assert (folder / 'a.png').read_bytes() == before


def test_browsing_keeps_the_pictures(tiny, capsys):
    from hourglass_npu.config.load import load_config

    folder = load_config(str(tiny)).data.train.img_prefix
    name = sorted(os.listdir(folder))[0]
    assert call('browse', tiny, '--out', os.path.join(folder, name)) == 2
    assert 'is read by this run' in capsys.readouterr().err


def test_the_benchmark(tmp_path, monkeypatch):
    scripts = ROOT / 'scripts'
    monkeypatch.syspath_prepend(str(scripts))
    parse = runpy.run_path(str(scripts / 'bench.py'))['parse']
    for name, words in (
        ('a.txt', 'must end in .json'),
        ('none/a.json', 'does not exist'),
    ):
        with pytest.raises(UserError, match=words):
            parse(['--json', str(tmp_path / name)])
