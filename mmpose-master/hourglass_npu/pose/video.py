"""Read and write videos: files, streams and cameras."""

import contextlib
import os
import sys
import time
from fractions import Fraction
from unittest import mock

import cv2

from hourglass_npu.errors import UserError
from hourglass_npu.files import replaced
from hourglass_npu.pose.images import PICTURE_SUFFIXES, fault_and_size
from hourglass_npu.process import silence

CODES = {
    '.mp4': 'mp4v',
    '.m4v': 'mp4v',
    '.mov': 'mp4v',
    '.mkv': 'mp4v',
    '.avi': 'MJPG',
}
"""What a video's name can end in, and how OpenCV writes it."""

VIDEO_SUFFIXES = (
    *CODES,
    '.webm',
    '.mpg',
    '.mpeg',
    '.wmv',
    '.flv',
    '.ts',
    '.mts',
    '.3gp',
)
"""Names that are taken for a video even where it cannot be opened."""

QUALITY = '20'
"""H.264's rate factor: lower is better and larger; 18 to 23 are usual."""


def is_video(source):
    """Return whether a source is a video, a stream or a camera.

    Args:
        source (str): Value of ``--img``.

    Returns:
        bool: True for an address, a camera's number or device, and a file
        that FFmpeg knows as a video. A file is asked for unless its name is
        that of a picture.
    """
    if is_live(source):
        return True
    if os.path.isdir(source) or source.lower().endswith(PICTURE_SUFFIXES):
        return False
    if source.lower().endswith(VIDEO_SUFFIXES):
        return True
    if not os.path.isfile(source):
        return False
    with open(source, 'rb') as file:
        fault, _ = fault_and_size(file.read(2**16), source, decode=False)
    return fault is not None and _open(source).isOpened()


def is_live(source):
    """Return whether a source may have no end.

    Args:
        source (str): Value of ``--img``.

    Returns:
        bool: True for an address such as rtsp://host/path, the number of a
        camera, and a device such as /dev/video0.
    """
    if '://' in source:
        return True
    if source.isdigit():
        return not os.path.exists(source)
    return os.path.realpath(source).startswith('/dev/video')


def result_name(source):
    """Return the stem of a result's name.

    Args:
        source (str): A video, stream or camera.

    Returns:
        tuple[str, str]: Folder and stem: those of a file, and the current
        folder for what is no file.
    """
    if not is_live(source):
        folder, name = os.path.split(source)
        return folder, os.path.splitext(name)[0]
    if source.isdigit():
        return '', f'camera{source}'
    last = source.rstrip('/').rpartition('/')[2].partition('?')[0]
    name = os.path.splitext(last)[0]
    plain = ''.join(c if c.isalnum() or c in '-_' else '_' for c in name)
    return '', plain if '://' not in source else f'stream_{plain}'


def _open(source):
    """Open a source with OpenCV, without a word of FFmpeg's."""
    camera = source.isdigit() and not os.path.exists(source)
    options = {}
    if not is_live(source):
        # A playlist in the place of a video may name other files, not
        # addresses.
        options['OPENCV_FFMPEG_CAPTURE_OPTIONS'] = 'protocol_whitelist;file'
    with silence(2), mock.patch.dict(os.environ, options):
        if camera or is_live(source):
            return cv2.VideoCapture(int(source) if camera else source)
        # Not OpenCV's reader of numbered pictures, which takes any file.
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG)


class Video:
    """Frames of a video file, stream or camera, in order.

    Args:
        source (str): File, address, device, or number of a camera.

    Attributes:
        rate (float): Frames per second that the source states, 25 if it
            states none.
        count (int | None): Frames, if the source says so.
        live (bool): Whether it may have no end.

    Raises:
        UserError: It cannot be opened.
    """

    def __init__(self, source):
        self.live = is_live(source)
        if not self.live and not os.path.isfile(source):
            raise UserError(f'{source}: there is no such file')
        self._capture = _open(source)
        if not self._capture.isOpened():
            kind = 'camera or stream' if self.live else 'video'
            raise UserError(f'{source}: this {kind} cannot be opened')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not self.live and 0 < count < 1e9
        self.count = int(count) if known else None

    def __iter__(self):
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield frame
        finally:
            self._capture.release()


class Progress:
    """Tell how far a video is, on standard error.

    A terminal gets one line that is written over each second, anything else
    a line every ten seconds.

    Args:
        count (int | None): Frames in all, if that is known.
    """

    def __init__(self, count):
        self._count = count
        self._screen = sys.stderr.isatty()
        self._start = self._told = time.monotonic()
        self._open = False

    def __call__(self, done):
        """Tell of a frame.

        Args:
            done (int): Frames so far.
        """
        now = time.monotonic()
        if now - self._told < (1 if self._screen else 10):
            return
        self._told = now
        text = describe_progress(done, self._count, now - self._start)
        if self._screen:
            print(f'\r{text:60}', end='', file=sys.stderr, flush=True)
            self._open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self):
        """End the line."""
        if self._open:
            print(file=sys.stderr)
            self._open = False


def describe_progress(done, count, seconds):
    """Say how far a video is.

    Args:
        done (int): Frames so far.
        count (int | None): Frames in all, if that is known.
        seconds (float): Since the start.

    Returns:
        str: Frames, rate and the time that is left.
    """
    rate = done / max(seconds, 1e-9)
    if count is None or count <= done:
        return f'{done} frames, {rate:.1f} frames/s'
    left = round((count - done) / max(rate, 1e-9))
    hours, rest = divmod(left, 3600)
    clock = f'{rest // 60:02}:{rest % 60:02}'
    if hours:
        clock = f'{hours}:{clock}'
    return f'{done} of {count} frames, {rate:.1f} frames/s, {clock} left'


@contextlib.contextmanager
def video_writer(path, rate):
    """Context that writes frames into a video, as a whole or not at all.

    The video is H.264 where the package ``av`` (PyAV) or ``imageio-ffmpeg``
    is installed and has that encoder. Otherwise OpenCV writes MPEG-4 (mp4v),
    which browsers do not play; that is said on standard error.

    Args:
        path (str): Its end, see :data:`CODES`, is that of the format; .avi
            is Motion JPEG in any case.
        rate (float): Frames per second.

    Yields:
        Callable: Takes one BGR frame. Frames of another size than the first
        are scaled to it.

    Raises:
        UserError: Another suffix, or OpenCV lacks the encoder.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in CODES:
        raise UserError(
            f'{path}: the name of a video must end in one of '
            + ' '.join(CODES)
        )
    with replaced(path) as temporary, contextlib.ExitStack() as stack:
        size = encode = None

        def write(frame):
            nonlocal size, encode
            frame = _even(frame)
            if encode is None:
                size = frame.shape[1::-1]
                encode = stack.enter_context(
                    _encoder(temporary, path, suffix, rate, size)
                )
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size)
            encode(frame)

        yield write


def _encoder(temporary, path, suffix, rate, size):
    """Return the context of the best encoder that is there."""
    if CODES[suffix] == 'mp4v':
        exact = Fraction(rate).limit_denominator(1001)
        for find in (_with_pyav, _with_imageio):
            made = find(temporary, exact, size)
            if made is not None:
                return made
        print(
            f'note: {path} is written as MPEG-4 (mp4v), which browsers do '
            'not play; for H.264: pip install av',
            file=sys.stderr,
        )
    return _with_opencv(temporary, path, CODES[suffix], rate, size)


@contextlib.contextmanager
def _with_opencv(temporary, path, code, rate, size):
    fourcc = cv2.VideoWriter_fourcc(*code)
    with silence(2):
        writer = cv2.VideoWriter(temporary, fourcc, rate, size)
    try:
        if not writer.isOpened():
            raise UserError(f'{path}: this OpenCV has no {code} encoder')
        yield writer.write
    finally:
        writer.release()


def _with_pyav(temporary, rate, size):
    """Return a context that encodes with PyAV; None where it cannot."""
    try:
        import av

        av.codec.Codec('libx264', 'w')
    except Exception:  # not installed, or built without the encoder
        return None

    @contextlib.contextmanager
    def encoding():
        with av.open(temporary, 'w') as container:
            stream = container.add_stream('libx264', rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = 'yuv420p'
            stream.options = {'crf': QUALITY}

            def write(frame):
                picture = av.VideoFrame.from_ndarray(frame, 'bgr24')
                for packet in stream.encode(picture):
                    container.mux(packet)

            yield write
            for packet in stream.encode():
                container.mux(packet)

    return encoding()


def _with_imageio(temporary, rate, size):
    """Return a context that encodes with FFmpeg's program; or None."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except Exception:  # not installed, or its program is missing
        return None

    @contextlib.contextmanager
    def encoding():
        frames = imageio_ffmpeg.write_frames(
            temporary,
            size,
            pix_fmt_in='bgr24',
            fps=float(rate),
            codec='libx264',
            quality=None,
            macro_block_size=2,
            output_params=['-crf', QUALITY],
        )
        frames.send(None)
        try:
            yield lambda frame: frames.send(frame.tobytes())
        finally:
            frames.close()

    return encoding()


def _even(frame):
    """Give a frame even sides: other encoders refuse or cut it."""
    height, width = frame.shape[:2]
    return cv2.copyMakeBorder(
        frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE
    )
