"""Reads pictures from files.

JPEGs are decoded by simplejpeg where it is installed: libjpeg-turbo without
OpenCV's detour over a second picture, with the same pixels in two thirds of
the time. Everything that OpenCV treats in a way of its own is left to it.
"""

import io
import os
import shutil
import warnings

import mmcv
import numpy as np
import torch
from mmcv.runner.dist_utils import get_dist_info
from PIL import Image

from hourglass_npu.training.workers import current_epoch

from ..registry import PIPELINES

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MAX_SIDE = 32766
"""cv2.warpAffine addresses its source with 16-bit integers."""
TOO_LARGE = 'too large'
MAX_PIXELS = 178956970
"""Where Pillow, too, takes a picture for an attack on the memory."""

_SPACES = dict(rgb='RGB', bgr='BGR')
# Numbers of JPEG's segments, and of an Exif tag.
_APP1, _SCAN = 0xE1, 0xDA
_ORIENTATION = 0x0112


def _keep_freed_memory():
    """Let glibc keep the memory of one picture for the next.

    Otherwise it goes back to the system after each and comes again page by
    page, empty, which takes longer than a warp. glibc sets its limit by the
    largest block that was ever freed; this one is never written to. Elsewhere
    it does nothing.
    """
    np.empty(2**24, np.uint8)


# Before workers are forked; started afresh, they import this file.
_keep_freed_memory()


class _Said:
    """What has been said and need not be said again in this process."""

    slow = False


def _say_if_slow():
    if simplejpeg is None and not _Said.slow:
        _Said.slow = True
        if get_dist_info()[0] == 0:
            warnings.warn(
                'simplejpeg is not installed: OpenCV decodes the JPEGs, with '
                'the same pixels in half as much time again. It is in '
                'requirements.txt',
                stacklevel=3,
            )


def _may_have_exif(content):
    """Look for an Exif segment ahead of a JPEG's pixels.

    Segment after segment: to search all bytes takes a twentieth of decoding.

    Returns:
        bool: False if there is none for certain.
    """
    at = 2
    while content[at : at + 1] == b'\xff' and at + 8 < len(content):
        if content[at + 1] == _SCAN:
            return False
        if content[at + 1] == _APP1 and content[at + 4 : at + 8] == b'Exif':
            return True
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return True


def _orientation(picture):
    """Return a Pillow image's Exif orientation, None if that is broken."""
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # OpenCV makes of it what it likes
        return None


def _is_upright(content):
    """Tell whether nothing in a JPEG asks for it to be turned.

    OpenCV follows the Exif tag for orientation, simplejpeg does not know it.
    """
    if not _may_have_exif(content):
        return True
    with Image.open(io.BytesIO(content)) as picture:
        return _orientation(picture) == 1


def _decode_jpeg(content, channel_order):
    """Decode a JPEG as OpenCV does.

    Args:
        content (bytes): A whole file.
        channel_order (str): ``rgb`` or ``bgr``.

    Returns:
        np.ndarray | None: uint8, (H, W, 3); None where simplejpeg is missing,
        or where it cannot promise the pixels that OpenCV makes: other
        formats, turned, damaged and four-coloured pictures.
    """
    space = _SPACES.get(channel_order)
    if simplejpeg is None or space is None or content[:2] != b'\xff\xd8':
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
        if not size_fault(width, height) and _is_upright(content):
            return simplejpeg.decode_jpeg(content, space)
    except (ValueError, OSError):  # damaged
        pass
    return None


def size_fault(width, height):
    """Say whether a picture is too large to be decoded.

    Some kilobytes can claim to be gigabytes of pixels.

    Args:
        width (int): Pixels.
        height (int): Pixels.

    Returns:
        str | None: What is wrong.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return (
            f'{TOO_LARGE}: {width} x {height} pixels (sides of {MAX_SIDE} and '
            f'{MAX_PIXELS // 10**6} million in all can be handled)'
        )
    return None


def fault_and_size(content):
    """Decode a picture to its end, and say what is wrong with it.

    By Pillow, because OpenCV paints the rest of a broken picture grey.

    Args:
        content (bytes): A whole file.

    Returns:
        tuple[str | None, tuple[int, int] | None]: What is wrong, None if
        nothing is; width and height as they are stored, None if something is.
    """
    if not content:
        return 'the file is empty', None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(content)) as picture:
                fault = size_fault(*picture.size)
                if fault:
                    return fault, None
                picture.load()
                return None, picture.size
    except Image.DecompressionBombError as error:
        return f'{TOO_LARGE}: {error}', None
    except Image.UnidentifiedImageError:
        return f'no picture of a known format ({len(content)} bytes)', None
    except Exception as error:
        # Pillow's readers raise what they like at broken files.
        return f'broken picture: {error or type(error).__name__}', None


def read_picture(path, color_type='color', channel_order='rgb'):
    """Read a picture; the same pixels as ``mmcv.imread``.

    Args:
        path (str): File.
        color_type (str): ``color``, ``grayscale`` or ``unchanged``.
        channel_order (str): ``rgb`` or ``bgr``, of a picture in colour.

    Returns:
        np.ndarray: uint8, (H, W, 3) for ``color``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no picture, or a damaged or too large one.
    """
    fault = None
    # mmcv.use_backend may have chosen a decoder with other pixels.
    if color_type == 'color' and mmcv.image.io.imread_backend == 'cv2':
        with open(path, 'rb') as file:
            content = file.read()
        picture = _decode_jpeg(content, channel_order)
        if picture is not None:
            return picture
        # Turned, of four colours, no JPEG: or damaged, which OpenCV hides.
        fault, _ = fault_and_size(content)
        if fault and fault.startswith(TOO_LARGE):
            raise ValueError(f'{path}: {fault}')
    try:
        picture = mmcv.imread(path, color_type, channel_order)
    except mmcv.image.io.cv2.error:  # None went on to its change of colours
        picture = None
    if picture is None:
        raise ValueError(f'{path}: {fault or "it holds no picture"}')
    if fault:
        # Used all the same, as by stock mmpose: the rest of it is grey.
        warnings.warn(f'{path}: {fault}', stacklevel=2)
    return picture


def _shared_bytes(count):
    """Make a tensor that all processes of a data loader share.

    Its memory is taken page by page as it is written to, and given back with
    the last process, however that ends.
    """
    kind = getattr(torch, 'UntypedStorage', torch.ByteStorage)
    return torch.empty(0, dtype=torch.uint8).set_(kind._new_shared(count))


def _free_bytes():
    """Return how much shared memory this process may take.

    Processes that train on one host are taken to ask for as much each.
    """
    # Nothing is opened there by name.
    free = [shutil.disk_usage('/dev/shm').free]  # noqa: S108
    with open('/proc/meminfo') as file:
        facts = dict(line.split(':') for line in file)
    free.append(int(facts['MemAvailable'].split()[0]) * 1024)
    return min(free) // int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def _upright_size(path):
    """Return height and width of a picture, as it will be decoded."""
    with Image.open(path) as picture:
        width, height = picture.size
        on_its_side = _orientation(picture) in (5, 6, 7, 8)
    return (width, height) if on_its_side else (height, width)


class PictureCache:
    """Decoded pictures in memory, for all workers and all epochs.

    A worker writes what it decodes. What it reads was there when it started
    or when its epoch began, or is its own: so no page is read that another
    core has not written yet.

    Args:
        paths (Iterable[str]): All pictures there will be.
        limit (int | None): The most bytes to take; None: what is free.

    Raises:
        ValueError: They do not fit.
    """

    def __init__(self, paths, limit=None):
        self.places, total = {}, 0
        for path in sorted(set(paths)):
            shape = _upright_size(path) + (3,)
            start, total = total, total + shape[0] * shape[1] * 3
            self.places[path] = len(self.places), slice(start, total), shape
        free = _free_bytes()
        room = free if limit is None else min(limit, free)
        if total > room:
            raise ValueError(
                f"cache='ram': {len(self.places)} decoded pictures take "
                f'{total / 1e9:.1f} GB, but '
                + (
                    f'{free / 1e9:.1f} GB of shared memory are free'
                    if room == free
                    else f'cache_limit is {limit / 1e9:.1f} GB'
                )
                + ': leave the cache out, or give it more'
            )
        self.size = total
        self._pixels = _shared_bytes(max(total, 1))
        self._written = _shared_bytes(max(len(self.places), 1)).zero_()
        self._readable = None, None

    def _may_read(self):
        """Return what this process may read, by number: bool."""
        now = os.getpid(), current_epoch()
        if self._readable[0] != now:
            self._readable = now, self._written.numpy() != 0
        return self._readable[1]

    def get(self, path, read):
        """Return a picture, from memory if it is there.

        Args:
            path (str): One of those that were announced.
            read (callable): Makes it of ``path``, uint8, (H, W, 3).

        Returns:
            np.ndarray: The picture; not to be written to.
        """
        number, place, shape = self.places[path]
        kept = self._pixels.numpy()[place].reshape(shape)
        if not self._may_read()[number]:
            picture = read(path)
            if picture.shape != shape:
                return picture  # broken tags, or a file that has changed
            kept[:] = picture
            self._written[number] = 1
            self._may_read()[number] = True
        kept.flags.writeable = False
        return kept


@PIPELINES.register_module()
class LoadImageFromFile:
    """Put the picture of ``results['image_file']`` into ``results['img']``.

    Args:
        to_float32 (bool): Accepted for mmpose's sake, which does not heed it.
        color_type (str): ``color``, ``grayscale`` or ``unchanged``.
        channel_order (str): ``rgb`` or ``bgr``.
        cache (str | None): ``ram`` keeps decoded pictures in shared memory,
            once :meth:`prepare` has been told of them; then pictures are not
            to be written to. Each training process has a cache of its own.
        cache_limit (int | None): The most bytes to keep; None: what is free.

    Raises:
        ValueError: ``cache`` is another, or not for this ``color_type``.
    """

    def __init__(
        self,
        to_float32=False,
        color_type='color',
        channel_order='rgb',
        cache=None,
        cache_limit=None,
    ):
        if cache not in (None, 'ram') or (cache and color_type != 'color'):
            raise ValueError(
                f"cache={cache!r}, color_type={color_type!r}: None or 'ram', "
                "which is for 'color'"
            )
        self.cache = cache
        self.cache_limit = cache_limit
        self._kept = None
        self.to_float32 = to_float32
        self.color_type = color_type
        self.channel_order = channel_order
        if color_type == 'color':
            _say_if_slow()

    def prepare(self, paths):
        """Make room for pictures, if there is to be a cache.

        To be called before data workers are started.

        Args:
            paths (Iterable[str]): All of them.

        Raises:
            ValueError: They do not fit, see :class:`PictureCache`.
        """
        if self.cache is None:
            return
        self._kept = PictureCache(paths, self.cache_limit)
        if get_dist_info()[0] == 0:
            print(
                f'Cache: {len(self._kept.places)} decoded pictures will take '
                f'{self._kept.size / 1e9:.2f} GB of shared memory'
            )

    def __call__(self, results):
        """Read the picture of one sample.

        Args:
            results (dict): The sample; ``img`` is set in it, see
                :func:`read_picture`.

        Returns:
            dict: ``results``.
        """
        path = results['image_file']
        if self._kept is None:
            results['img'] = self._read(path)
        else:
            results['img'] = self._kept.get(path, self._read)
        return results

    def _read(self, path):
        return read_picture(path, self.color_type, self.channel_order)
