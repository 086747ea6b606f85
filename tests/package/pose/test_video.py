"""Videos: what is taken for one, what is written, what is told."""

import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image
from pose_model import picture

from hourglass_npu.errors import UserError
from hourglass_npu.pose import video


@pytest.fixture(autouse=True)
def no_encoders(monkeypatch):
    """Packages for H.264 that this host may have."""
    for name in ('av', 'imageio_ffmpeg'):
        monkeypatch.setitem(sys.modules, name, None)


def write(path, frames, rate=12.0):
    with video.video_writer(str(path), rate) as write_frame:
        for frame in frames:
            write_frame(frame)
    return str(path)


@pytest.mark.parametrize('suffix', sorted(video.CODES))
def test_a_video_comes_back_as_it_was_written(tmp_path, suffix):
    frames = [picture(75, 101, seed) for seed in range(4)]
    path = write(tmp_path / f'a{suffix}', frames)
    opened = video.Video(path)
    assert opened.rate == pytest.approx(12) and opened.count == 4
    read = list(opened)
    assert len(read) == 4
    for ours, theirs in zip(read, frames):
        # Encoders need even sides.
        assert ours.shape == (76, 102, 3)
        assert np.abs(ours[:75, :101].astype(int) - theirs).mean() < 9
    assert not opened.live


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    path = write(tmp_path / 'a.avi', [picture(60, 80), picture(120, 160)])
    assert [f.shape for f in video.Video(path)] == [(60, 80, 3)] * 2


def test_a_video_of_another_kind_is_not_written(tmp_path):
    for name in ('a.webm', 'a.gif', 'a'):
        with pytest.raises(UserError, match='must end in one of'):
            write(tmp_path / name, [picture()])
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_said_to_be_none(tmp_path):
    path = tmp_path / 'a.mp4'
    with pytest.raises(ValueError, match='no such file'):
        video.Video(str(path))
    path.write_bytes(b'no video')
    with pytest.raises(ValueError, match='this video cannot be opened'):
        video.Video(str(path))


def test_a_video_is_known_by_its_content(tmp_path):
    film = write(tmp_path / 'a.mp4', [picture()] * 3)
    other = tmp_path / 'film.dat'
    other.write_bytes(open(film, 'rb').read())
    assert video.is_video(str(other))
    assert len(list(video.Video(str(other)))) == 3
    Image.fromarray(picture()).save(str(tmp_path / 'b.xyz'), 'JPEG')
    (tmp_path / 'c.txt').write_text('text')
    (tmp_path / '7').write_text('text')
    for name in ('b.xyz', 'c.txt', '7', 'none.xyz', ''):
        assert not video.is_video(str(tmp_path / name))
    for name in ('none.m4v', 'rtsp://host/live', '/dev/video0', '12345'):
        assert video.is_video(name)


@pytest.mark.parametrize(
    'source, name',
    [
        ('x/clip.mp4', ('x', 'clip')),
        ('0', ('', 'camera0')),
        ('/dev/video2', ('', 'video2')),
        ('rtsp://me:secret@host:554/live/door.sdp?x=1', ('', 'stream_door')),
    ],
)
def test_results_are_named_after_the_source(source, name):
    assert video.result_name(source) == name


def test_a_playlist_reaches_no_address(tmp_path):
    """A file that names a stream, in the place of a video."""
    path = tmp_path / 'a.mp4'
    path.write_text(
        '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n'
        'http://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n'
    )
    with pytest.raises(UserError, match='cannot be opened'):
        video.Video(str(path))


def test_mp4v_is_said(tmp_path, capsys):
    write(tmp_path / 'a.mp4', [picture()])
    assert 'a.mp4 is written as MPEG-4' in capsys.readouterr().err
    write(tmp_path / 'a.avi', [picture()])
    assert not capsys.readouterr().err


def test_a_package_for_h264_is_used(tmp_path, monkeypatch, capsys):
    """Stand-ins for the calls of PyAV and imageio-ffmpeg."""
    calls = []

    def frames(path, size, **settings):
        calls.append((size, settings['codec'], settings['pix_fmt_in']))
        with open(path, 'wb') as file:
            while True:
                data = yield
                if data is not None:
                    file.write(data)

    program = types.SimpleNamespace(
        get_ffmpeg_exe=lambda: 'ffmpeg', write_frames=frames
    )
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', program)
    write(tmp_path / 'a.mp4', [np.full((9, 15, 3), 7, np.uint8)] * 2, 29.97)
    assert calls == [((16, 10), 'libx264', 'bgr24')]
    assert (tmp_path / 'a.mp4').read_bytes() == bytes([7]) * 16 * 10 * 3 * 2
    assert not capsys.readouterr().err


def test_progress_has_rate_and_time_left():
    told = video.describe_progress
    assert told(50, 200, 10) == '50 of 200 frames, 5.0 frames/s, 00:30 left'
    assert told(1, 7201, 1).endswith('1.0 frames/s, 2:00:00 left')
    assert told(50, None, 10) == '50 frames, 5.0 frames/s'


def test_progress_is_told_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr(video.time, 'monotonic', lambda: next(clock))
    progress = video.Progress(100)
    for done in (10, 20, 30, 40):
        progress(done)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(',')[0] for line in lines] == [
        '20 of 100 frames',
        '40 of 100 frames',
    ]


def test_a_camera_is_a_number_or_device(monkeypatch):
    asked = []

    class Capture:
        def __init__(self, *source):
            asked.append(source)

        def isOpened(self):
            return False

    monkeypatch.setattr(cv2, 'VideoCapture', Capture)
    for source in ('3', '/dev/video0', 'rtsp://host/a'):
        with pytest.raises(UserError, match='camera or stream cannot be'):
            video.Video(source)
    assert asked == [(3,), ('/dev/video0',), ('rtsp://host/a',)]
