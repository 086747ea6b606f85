"""Reads and writes pictures and videos, and says in words what is wrong."""

import contextlib
import io
import os
import warnings

import cv2
import numpy as np
from PIL import Image

from hourglass_npu.errors import UserError
from hourglass_npu.files import replaced
from hourglass_npu.process import silence

PICTURE_SUFFIXES = (
    '.jpg',
    '.jpeg',
    '.png',
    '.bmp',
    '.webp',
    '.tif',
    '.tiff',
)
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm')
# Results lie beside their pictures under this prefix, and a folder of
# pictures is read without them.
RESULT_PREFIX = 'infer_'
# cv2.warpAffine addresses its source with 16-bit integers.
MAX_SIDE = 32766


def read_picture(path):
    """Reads a picture as a viewer would show it.

    Grey and 16-bit pictures become 8-bit colour, the orientation that a
    camera noted (EXIF) is applied, transparent parts are laid on white.

    Args:
        path (str): Any format that OpenCV reads.

    Returns:
        np.ndarray[H, W, 3]: 8-bit BGR.

    Raises:
        ValueError: The file is missing, empty, no picture, or too large.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file')
    # Not cv2.imread: it cannot open every file name on every system, and it
    # writes warnings of its own.
    data = np.fromfile(path, np.uint8)
    picture = None
    if len(data):
        fault = _fault_before(data.tobytes())
        if fault:
            raise UserError(f'{path}: {fault}')
        try:
            picture = _decode(data)
        except (cv2.error, MemoryError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f'{path}: the picture cannot be decoded ({reason})'
            ) from error
    if picture is None:
        raise UserError(
            f'{path}: no picture that OpenCV can read, or a broken one '
            f'({len(data)} bytes)'
        )
    fault = size_fault(picture.shape[1], picture.shape[0])
    if fault:
        raise UserError(f'{path}: {fault}')
    return picture


def size_fault(width, height):
    """Says whether a picture is too large to be decoded.

    Args:
        width (int): Pixels.
        height (int): Pixels.

    Returns:
        str | None: What is wrong.
    """
    if max(width, height) > MAX_SIDE:
        return (
            f'{width} x {height} pixels; sides of up to {MAX_SIDE} can be '
            'handled: make it smaller first'
        )
    return None


def write_picture(path, picture):
    """Writes a picture, as a whole or not at all.

    Args:
        path (str): The suffix decides on the format.
        picture (np.ndarray[H, W, 3]): 8-bit BGR.

    Raises:
        ValueError: The suffix is no format of OpenCV's.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in PICTURE_SUFFIXES:
        raise UserError(
            f'{path}: a picture is written as one of '
            + ' '.join(PICTURE_SUFFIXES)
        )
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix[:3] == '.jp' else []
    _, data = cv2.imencode(suffix, picture, options)
    with replaced(path) as temporary:
        data.tofile(temporary)


def find_pictures(sources):
    """Turns files and folders into a list of files.

    Args:
        sources (Sequence[str]): Files (taken as they are) and folders (their
            pictures in order of name, results of earlier runs left out).

    Returns:
        list[str]: Paths.

    Raises:
        ValueError: A folder without pictures.
    """
    paths = []
    for source in sources:
        if not os.path.isdir(source):
            paths.append(source)
            continue
        names = [
            name
            for name in sorted(os.listdir(source))
            if name.lower().endswith(PICTURE_SUFFIXES)
            and not name.startswith(('.', RESULT_PREFIX))
        ]
        if not names:
            raise UserError(
                f'{source}: no pictures in this folder '
                f'({" ".join(PICTURE_SUFFIXES)})'
            )
        paths.extend(os.path.join(source, name) for name in names)
    return paths


def is_video(source):
    """Whether a source is a video file or the number of a camera.

    Args:
        source (str): Argument of the user's.

    Returns:
        bool: True for a known suffix, or digits that name no file.
    """
    if source.lower().endswith(VIDEO_SUFFIXES):
        return True
    return source.isdigit() and not os.path.exists(source)


class Video:
    """Frames of a video file or camera, in order.

    Args:
        source (str): File, or number of a camera.

    Attributes:
        rate (float): Pictures per second as the source gives it (25 where
            it gives none).

    Raises:
        ValueError: It cannot be opened.
    """

    def __init__(self, source):
        camera = source.isdigit() and not os.path.exists(source)
        if not camera and not os.path.isfile(source):
            raise UserError(f'{source}: there is no such file')
        with silence(2):  # OpenCV and FFmpeg say it in words of their own
            self._capture = cv2.VideoCapture(int(source) if camera else source)
        if not self._capture.isOpened():
            kind = 'camera' if camera else 'video'
            raise UserError(f'{source}: this {kind} cannot be opened')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else 25.0

    def __iter__(self):
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield frame
        finally:
            self._capture.release()


@contextlib.contextmanager
def video_writer(path, rate):
    """Context that writes frames into a video, whole or not at all.

    Args:
        path (str): ``.mp4`` or ``.avi``.
        rate (float): Frames per second.

    Yields:
        Callable: Takes one BGR frame; all must have the first one's size.

    Raises:
        ValueError: Another suffix, or OpenCV lacks the encoder.
    """
    codes = {'.mp4': 'mp4v', '.avi': 'MJPG'}
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in codes:
        raise UserError(f'{path}: a video is written as .mp4 or .avi')
    with replaced(path) as temporary:
        writer = None

        def write(frame):
            nonlocal writer
            if writer is None:
                height, width = frame.shape[:2]
                writer = cv2.VideoWriter(
                    temporary,
                    cv2.VideoWriter_fourcc(*codes[suffix]),
                    rate,
                    (width, height),
                )
                if not writer.isOpened():
                    raise UserError(
                        f'{path}: this OpenCV has no {codes[suffix]} encoder'
                    )
            writer.write(frame)

        try:
            yield write
        finally:
            if writer is not None:
                writer.release()


def _fault_before(data):
    """Says what is wrong with a picture before OpenCV is given it.

    Some kilobytes can claim gigabytes of pixels, and the missing rest of a
    JPEG comes out grey. Of formats that Pillow does not know only OpenCV can
    tell.
    """
    is_jpeg = data[:3] == b'\xff\xd8\xff'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(data)) as picture:
                fault = size_fault(*picture.size)
                if is_jpeg and not fault:
                    picture.load()
                return fault
    except Image.DecompressionBombError as error:
        return str(error)
    except Image.UnidentifiedImageError:
        return None
    except Exception as error:
        return f'broken picture: {error}' if is_jpeg else None


def _decode(data):
    """Decodes an encoded picture; None where OpenCV knows no such format."""
    if not data[:3].tobytes() == b'\xff\xd8\xff':
        # Only asked of formats that can be transparent: the flag that
        # keeps alpha also ignores the orientation.
        raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if raw is not None and raw.ndim == 3 and raw.shape[2] == 4:
            return _on_white(raw)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _on_white(bgra):
    """Lays a picture with an alpha channel, of 8 or 16 bits, on white."""
    full = np.float32(np.iinfo(bgra.dtype).max)
    alpha = bgra[..., 3:].astype(np.float32) / full
    colour = bgra[..., :3].astype(np.float32) * (255 / full)
    return (colour * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
