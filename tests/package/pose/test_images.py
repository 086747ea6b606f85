"""Pictures of every kind come in right, results go out whole or not."""

import os
import struct
from contextlib import suppress

import cv2
import mmcv
import numpy as np
import pytest
from mmpose.datasets.pipelines import loading
from PIL import Image
from pose_model import picture

from hourglass_npu.commands.check import look_at_picture
from hourglass_npu.errors import UserError
from hourglass_npu.mpii.people import read_people
from hourglass_npu.mpii.truth import load_truth
from hourglass_npu.pose import images as pictures


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return str(path)


def test_grey_16_bit_and_colour_show_the_same(tmp_path):
    grey = picture()[..., 0]
    expected = np.dstack([grey] * 3)
    deep = grey.astype(np.uint16) * 257
    for name, array in (
        ('colour.png', expected),
        ('grey.png', grey),
        ('deep.png', deep),
        ('deep.tif', deep),
        ('grey.bmp', grey),
    ):
        read = pictures.read_picture(write(tmp_path / name, array))
        assert read.dtype == np.uint8 and read.shape == expected.shape, name
        np.testing.assert_allclose(
            read.astype(int), expected.astype(int), atol=1, err_msg=name
        )


@pytest.mark.parametrize('kind, full', [(np.uint8, 255), (np.uint16, 65535)])
def test_what_is_transparent_is_white(tmp_path, kind, full):
    bgra = np.zeros((4, 6, 4), kind)
    bgra[..., 2] = full  # red
    bgra[:, 3:, 3] = full
    bgra[0, 0, 3] = full // 2
    read = pictures.read_picture(write(tmp_path / 'a.png', bgra))
    assert (read[:, 3:] == [0, 0, 255]).all()
    assert (read[1:, :3] == 255).all()
    np.testing.assert_allclose(read[0, 0], [128, 128, 255], atol=1)


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    upright = picture(240, 360)
    # Orientation 6: the camera was turned; show rotated clockwise.
    stored = cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE)
    _, data = cv2.imencode('.jpg', stored, [cv2.IMWRITE_JPEG_QUALITY, 98])
    tag = struct.pack('<HHIHH', 0x0112, 3, 1, 6, 0)
    exif = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 1) + tag + b'\0' * 4
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    data = data.tobytes()
    path = tmp_path / 'turned.jpg'
    path.write_bytes(data[:2] + segment + data[2:])
    read = pictures.read_picture(str(path))
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 3


UPRIGHT = np.zeros((60, 40, 3), np.uint8)
UPRIGHT[:30], UPRIGHT[30:] = (0, 0, 255), (255, 0, 0)
UPRIGHT[:30, :20] = (0, 255, 0)  # B, G, R
STORED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize('turn', sorted(STORED))
@pytest.mark.parametrize(
    'suffix, mode',
    [
        ('webp', 'RGB'),
        ('webp', 'RGBA'),
        ('png', 'RGB'),
        ('png', 'RGBA'),
        ('tif', 'RGB'),
        ('tif', 'RGBA'),
    ],
)
def test_the_orientation_is_applied_in_every_format(
    tmp_path, suffix, mode, turn
):
    path = str(tmp_path / f'a.{suffix}')
    stored = Image.fromarray(
        np.ascontiguousarray(STORED[turn](UPRIGHT)[..., ::-1])
    ).convert(mode)
    if suffix == 'tif':
        stored.save(path, tiffinfo={0x0112: turn})
    else:
        exif = Image.Exif()
        exif[0x0112] = turn
        stored.save(
            path, exif=exif, **dict(webp=dict(lossless=True)).get(suffix, {})
        )
    read = pictures.read_picture(path)
    np.testing.assert_array_equal(read, UPRIGHT)


@pytest.mark.parametrize(
    'brand, name', [(b'heic', 'HEIC'), (b'mif1', 'HEIC'), (b'avis', 'AVIF')]
)
def test_formats_of_telephones_are_named_with_what_to_do(
    tmp_path, brand, name
):
    path = tmp_path / 'a.jpg'
    path.write_bytes(b'\0\0\0\x18ftyp' + brand + b'\0' * 40)
    with pytest.raises(UserError, match=f'format {name}: convert it to JPEG'):
        pictures.read_picture(str(path))


def test_those_in_a_folder_are_named(tmp_path, capsys):
    for name in ('a.jpg', 'b.HEIC', 'c.avif'):
        (tmp_path / name).write_bytes(b'')
    found = pictures.find_pictures([str(tmp_path)])
    assert found == [str(tmp_path / 'a.jpg')]
    error = capsys.readouterr().err
    assert 'b.HEIC: convert it' in error and 'c.avif: convert it' in error


@pytest.mark.parametrize(
    'content', [b'', b'\xff\xd8\xff', b'no picture', b'\x89PNG\r\n\x1a\n']
)
def test_what_is_no_picture_is_said_to_be_none(tmp_path, content):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.jpg: no picture'):
        pictures.read_picture(str(path))


def test_a_missing_picture_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / 'none.jpg', tmp_path):
        with pytest.raises(ValueError, match='there is no such file'):
            pictures.read_picture(str(path))


def test_a_picture_that_opencv_cannot_address_is_refused(tmp_path):
    path = write(tmp_path / 'long.png', np.zeros((1, 32767, 3), np.uint8))
    with pytest.raises(ValueError, match='32767 x 1 pixels.*32766'):
        pictures.read_picture(path)


def test_a_folder_is_read_in_order_without_earlier_results(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'infer_a.jpg', '.hidden.jpg', 'a.txt'):
        (tmp_path / name).write_bytes(b'')
    found = pictures.find_pictures([str(tmp_path)])
    assert [p[len(str(tmp_path)) + 1 :] for p in found] == ['a.PNG', 'b.jpg']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no pictures in this folder'):
        pictures.find_pictures([str(tmp_path / 'empty')])


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError):
        with pictures.replaced(str(path)) as temporary:
            with open(temporary, 'w') as file:
                file.write('ne')
            raise RuntimeError
    assert path.read_text() == 'old'
    with pictures.replaced(str(path)) as temporary:
        with open(temporary, 'w') as file:
            file.write('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


@pytest.mark.parametrize(
    'name, reason',
    [('a.gif', 'must end in one of'), ('no/a.jpg', 'does not exist')],
)
def test_a_result_that_cannot_be_written_is_refused(tmp_path, name, reason):
    with pytest.raises(ValueError, match=reason):
        pictures.write_picture(str(tmp_path / name), picture())
    assert not list(tmp_path.iterdir())


def test_no_picture_starts_another_program(tmp_path, monkeypatch):
    """Pillow hands PostScript to ``gs``; here it is one that tells."""
    told = tmp_path / 'told'
    gs = tmp_path / 'bin/gs'
    gs.parent.mkdir()
    gs.write_text(f'#!/bin/sh\necho run >> {told}\n')
    gs.chmod(0o755)
    monkeypatch.setenv('PATH', f'{gs.parent}:/usr/bin:/bin')
    path = tmp_path / 'a.jpg'
    path.write_text(
        '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
        'showpage\n'
    )
    with suppress(Exception), Image.open(str(path)) as opened:
        opened.load()
    assert told.read_text().startswith('run')  # else this test shows nothing
    told.unlink()
    assert 'no picture' in look_at_picture(str(path))[0]
    for read in (pictures.read_picture, pictures.orientation):
        with pytest.raises(UserError, match='a.jpg'):
            read(str(path))
    for backend in ('cv2', 'pillow'):
        monkeypatch.setattr(mmcv.image.io, 'imread_backend', backend)
        with pytest.raises(UserError, match='a.jpg: no picture'):
            loading.read_picture(str(path))
    assert not told.exists()


def test_only_regular_files_of_a_size_are_read(tmp_path):
    pipe = tmp_path / 'pipe.jpg'
    os.mkfifo(str(pipe))
    sparse = tmp_path / 'sparse.jpg'
    with sparse.open('wb') as file:
        file.truncate(2**32)
    for path, words in (
        (pipe, 'a device or a pipe'),
        (tmp_path, 'no such file'),
        (tmp_path / 'none', 'no such file'),
        ('/dev/zero', 'a device or a pipe'),
        (sparse, 'too large'),
    ):
        readers = [pictures.read_picture, pictures.orientation, read_people]
        readers += [load_truth, loading.read_picture]
        for read in readers:
            with pytest.raises(UserError, match=words):
                read(str(path))
        assert words in look_at_picture(str(path))[0]
