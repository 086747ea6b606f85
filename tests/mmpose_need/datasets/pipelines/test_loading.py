"""Pictures from files: the pixels are mmpose's own, whoever decodes."""

import io
import os
import pickle
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmpose.datasets.pipelines import LoadImageFromFile, loading
from PIL import Image
from pose_model import picture

from hourglass_npu.pose import cache

TURNED = 0x0112


def pillow_jpeg(mode='RGB', **options):
    file = io.BytesIO()
    pixels = Image.fromarray(picture(61, 83)).convert(mode)
    pixels.save(file, 'JPEG', **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[TURNED] = orientation
    return tags.tobytes()


def with_padding(content):
    """JPEG allows bytes 0xff before a segment."""
    return content[:2] + b'\xff' + content[2:]


def encoded(suffix, *options):
    return cv2.imencode(suffix, picture(61, 83), list(options))[1].tobytes()


FILES = dict(
    plain=encoded('.jpg'),
    progressive=encoded('.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    gray=pillow_jpeg('L'),
    cmyk=pillow_jpeg('CMYK'),
    full_colour=pillow_jpeg(subsampling=0),
    upright=pillow_jpeg(exif=exif(1)),
    mirrored=pillow_jpeg(exif=exif(2)),
    turned=pillow_jpeg(exif=exif(6)),
    turned_padded=with_padding(pillow_jpeg(exif=exif(8))),
    odd_exif=pillow_jpeg(exif=b'Exif\0\0MM no tags'),
    truncated=encoded('.jpg')[:-400],
    png=encoded('.png'),
)


@pytest.fixture
def stock_loader(stock):
    return stock('mmpose', 'datasets/pipelines/loading.py').LoadImageFromFile


def assert_same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
@pytest.mark.parametrize('name', sorted(FILES))
def test_pixels_are_those_of_stock(tmp_path, stock_loader, name, order):
    path = tmp_path / 'picture.jpg'
    path.write_bytes(FILES[name])
    for kind in ('color', 'grayscale', 'unchanged'):
        options = dict(color_type=kind, channel_order=order)
        ours, theirs = (
            loader(**options)(dict(image_file=str(path)))['img']
            for loader in (LoadImageFromFile, stock_loader)
        )
        assert_same(ours, theirs)


def test_real_pictures(real_mpii, stock_loader):
    paths = sorted((real_mpii / 'images').glob('*.jpg'))
    assert len(paths) == 5
    for path in paths:
        sample = dict(image_file=str(path))
        theirs = stock_loader()(dict(sample))['img']
        assert_same(LoadImageFromFile()(sample)['img'], theirs)


def test_opencv_is_asked_only_where_it_differs(tmp_path, monkeypatch):
    pytest.importorskip('simplejpeg')
    asked = []
    imread = mmcv.imread

    def listening(path, *args):
        asked.append(path)
        return imread(path, *args)

    monkeypatch.setattr(mmcv, 'imread', listening)
    for name in FILES:
        (tmp_path / name).write_bytes(FILES[name])
        loading.read_picture(str(tmp_path / name))
    asked = {Path(path).name for path in asked}
    assert asked.isdisjoint(
        ('plain', 'progressive', 'gray', 'full_colour', 'upright')
    )
    assert asked >= {'mirrored', 'turned', 'turned_padded', 'truncated', 'png'}


def test_without_simplejpeg_it_says_so_once(tmp_path, monkeypatch):
    path = tmp_path / 'picture.jpg'
    path.write_bytes(FILES['plain'])
    wanted = loading.read_picture(str(path))
    monkeypatch.setattr(loading, 'simplejpeg', None)
    monkeypatch.setattr(loading._Said, 'slow', False)
    with pytest.warns(UserWarning, match='simplejpeg is not installed'):
        loader = LoadImageFromFile()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        LoadImageFromFile()
        found = loader(dict(image_file=str(path)))['img']
    assert_same(found, wanted)


def test_another_backend_is_honoured(tmp_path, monkeypatch):
    path = tmp_path / 'picture.jpg'
    path.write_bytes(FILES['turned'])
    monkeypatch.setattr(mmcv.image.io, 'imread_backend', 'pillow')
    pillow = mmcv.imread(str(path), 'color', 'rgb')
    assert_same(loading.read_picture(str(path)), pillow)


@pytest.mark.parametrize('content', [b'', b'\xff\xd8', b'no picture'])
@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_no_picture(tmp_path, content, order):
    path = tmp_path / 'picture.jpg'
    path.write_bytes(content)
    message = 'picture.jpg: (the file is empty|no picture of a known format)'
    with pytest.raises(ValueError, match=message):
        loading.read_picture(str(path), channel_order=order)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.jpg'):
        loading.read_picture(str(tmp_path / 'gone.jpg'))


def test_a_damaged_picture_is_used_and_said(tmp_path):
    path = tmp_path / 'picture.jpg'
    path.write_bytes(FILES['truncated'])
    with pytest.warns(UserWarning, match='picture.jpg: broken picture: image'):
        loading.read_picture(str(path))


@pytest.mark.parametrize('side', [31000, 60000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    data = bytearray(FILES['plain'])
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = side.to_bytes(2, 'big') * 2
    path = tmp_path / 'picture.jpg'
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match='picture.jpg: too large'):
        loading.read_picture(str(path))


@pytest.fixture
def files(tmp_path):
    """All kinds of pictures but the truncated one, by path."""
    paths = {}
    for name in set(FILES) - {'truncated'}:
        path = tmp_path / f'{name}.jpg'
        path.write_bytes(FILES[name])
        paths[str(path)] = loading.read_picture(str(path))
    return paths


@pytest.fixture
def decoded(monkeypatch):
    """Paths of what is decoded in this process."""
    seen, read = [], loading.read_picture

    def listening(path, *args):
        seen.append(path)
        return read(path, *args)

    monkeypatch.setattr(loading, 'read_picture', listening)
    return seen


def load_all(loader, files):
    for path, wanted in files.items():
        assert_same(loader(dict(image_file=path))['img'], wanted)


def test_cached_pictures_are_decoded_once(files, decoded, capsys):
    loader = LoadImageFromFile(cache='ram')
    loader.prepare(files)
    said = capsys.readouterr().out
    assert f'{len(files)} decoded pictures' in said and 'GB' in said
    load_all(loader, files)
    load_all(loader, files)
    assert sorted(decoded) == sorted(files)
    # A spawned data worker gets the same memory, not a copy of it.
    sent = pickle.loads(ForkingPickler.dumps(loader))
    load_all(sent, files)
    assert sorted(decoded) == sorted(files)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, loader, files):
        self.loader, self.files = loader, sorted(files)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        picture = self.loader(dict(image_file=self.files[i]))['img']
        return torch.tensor([int(picture.sum()), os.getpid()])


def test_all_workers_of_all_epochs_share_the_cache(files):
    loader = LoadImageFromFile(cache='ram')
    loader.prepare(files)
    batches = torch.utils.data.DataLoader(
        Pictures(loader, files), num_workers=2
    )
    wanted = [int(files[path].sum()) for path in sorted(files)]
    first = torch.cat(list(batches))
    assert first[:, 0].tolist() == wanted
    for path in files:
        os.remove(path)
    second = torch.cat(list(batches))
    assert second[:, 0].tolist() == wanted
    assert not set(first[:, 1].tolist()) & set(second[:, 1].tolist())


def test_cached_pictures_cannot_be_spoiled(files):
    loader = LoadImageFromFile(cache='ram')
    loader.prepare(files)
    path = sorted(files)[0]
    with pytest.raises(ValueError, match='read-only'):
        loader(dict(image_file=path))['img'][:] = 0


def test_too_small_a_cache_is_refused(files, monkeypatch):
    loader = LoadImageFromFile(cache='ram', cache_limit=1000)
    with pytest.raises(ValueError, match='cache_limit is 0.0 GB: leave the'):
        loader.prepare(files)
    monkeypatch.setattr(cache, 'free_bytes', lambda: 2000)
    loader = LoadImageFromFile(cache='ram')
    with pytest.raises(ValueError, match='of shared memory are free: leave'):
        loader.prepare(files)


@pytest.mark.parametrize(
    'options', [dict(cache='disk'), dict(cache='ram', color_type='grayscale')]
)
def test_another_cache_is_refused(options):
    with pytest.raises(ValueError, match="None or 'ram'"):
        LoadImageFromFile(**options)


def test_free_memory_is_shared_by_the_ranks_of_a_host(monkeypatch):
    alone = cache.free_bytes()
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert 0 < cache.free_bytes() < alone
