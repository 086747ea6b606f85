"""mmpose/datasets/pipelines/loading.py: pictures from files.

simplejpeg decodes JPEGs where it is installed: the same pixels as OpenCV's in
two thirds of the time. OpenCV decodes everything else, and the JPEGs that it
treats in its own way.
"""

import warnings

import mmcv
import numpy as np
from mmcv.runner.dist_utils import get_dist_info

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes
from hourglass_npu.pose.cache import PictureCache
from hourglass_npu.pose.images import (
    JPEG,
    LARGEST_PICTURE,
    check_size,
    fault_and_size,
    orientation,
)

from ..registry import PIPELINES

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_SPACES = dict(rgb='RGB', bgr='BGR')
# Numbers of JPEG's segments.
_APP1, _SCAN = 0xE1, 0xDA


def _keep_freed_memory():
    """Let glibc keep the memory of one picture for the next.

    Otherwise it returns the memory to the system after each picture and gets
    it again page by page, empty, which takes longer than a warp. glibc sets
    its limit by the largest block ever freed; this one is never written to.
    With another C library this has no effect.
    """
    np.empty(2**24, np.uint8)


# Before workers are forked; workers that are spawned import this file.
_keep_freed_memory()


class _Said:
    """Whether this process has printed the warning."""

    slow = False


def _warn_if_slow():
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
    """Look for an Exif segment before a JPEG's pixels.

    Segment by segment: searching all bytes takes a twentieth of decoding.

    Args:
        content (bytes): A whole file.

    Returns:
        bool: False if there certainly is none.
    """
    at = 2
    while content[at : at + 1] == b'\xff' and at + 8 < len(content):
        if content[at + 1] == _SCAN:
            return False
        if content[at + 1] == _APP1 and content[at + 4 : at + 8] == b'Exif':
            return True
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return True


def _decode_jpeg(content, channel_order, path):
    """Decode a JPEG as OpenCV does.

    Args:
        content (bytes): A whole file.
        channel_order (str): ``rgb`` or ``bgr``.
        path (str): The file, for the message.

    Returns:
        np.ndarray[H, W, 3] | None: Bytes; None where simplejpeg is missing or
        could make other pixels than OpenCV: other formats, turned, damaged
        and four-coloured pictures.

    Raises:
        UserError: The picture is too large.
    """
    space = _SPACES.get(channel_order)
    if simplejpeg is None or space is None or not content.startswith(JPEG):
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
    except ValueError:  # damaged
        return None
    check_size(width, height, path)
    try:
        # OpenCV applies the orientation, simplejpeg does not.
        if _may_have_exif(content) and orientation(content)[0] != 1:
            return None
        return simplejpeg.decode_jpeg(content, space)
    except ValueError:  # damaged
        return None


def read_picture(path, color_type='color', channel_order='rgb'):
    """Read a picture; the same pixels as ``mmcv.imread``.

    Args:
        path (str): File.
        color_type (str): ``color``, ``grayscale`` or ``unchanged``.
        channel_order (str): ``rgb`` or ``bgr``, of a picture in colour.

    Returns:
        np.ndarray: Bytes, np.ndarray[H, W, 3] for ``color``.

    Raises:
        UserError: There is no such file (a FileNotFoundError as well), or it
            holds no picture, or one that is too large.
    """
    content = read_bytes(path, LARGEST_PICTURE)
    fault = None
    if mmcv.image.io.imread_backend == 'pillow':
        # mmcv would let it open anything; ours opens some formats.
        fault, _ = fault_and_size(content, path, decode=False)
        if fault:
            raise UserError(f'{path}: {fault}')
    # mmcv.use_backend may have chosen a decoder with other pixels.
    if color_type == 'color' and mmcv.image.io.imread_backend == 'cv2':
        picture = _decode_jpeg(content, channel_order, path)
        if picture is not None:
            return picture
        # Turned, of four colours, no JPEG: or damaged, which OpenCV hides.
        fault, _ = fault_and_size(content, path)
    try:
        picture = mmcv.imread(path, color_type, channel_order)
    except mmcv.image.io.cv2.error:  # None was passed to its colour change
        picture = None
    if picture is None:
        raise UserError(f'{path}: {fault or "it holds no picture"}')
    if fault:
        # Stock mmpose uses it, too: the missing rest is grey.
        warnings.warn(f'{path}: {fault}', stacklevel=2)
    return picture


@PIPELINES.register_module()
class LoadImageFromFile:
    """Read the picture of ``results['image_file']`` into ``results['img']``.

    Args:
        to_float32 (bool): Accepted and not used, as in mmpose.
        color_type (str): ``color``, ``grayscale`` or ``unchanged``.
        channel_order (str): ``rgb`` or ``bgr``.
        cache (str | None): ``ram`` keeps the pictures given to
            :meth:`prepare` in shared memory, decoded; then steps must not
            write to a picture. Each training process has its own cache.
        cache_limit (int | None): The most bytes to keep; None for what is
            free.

    Raises:
        UserError: ``cache`` has another value or does not fit
            ``color_type``.
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
            raise UserError(
                f'cache={cache!r}, color_type={color_type!r}: cache must be '
                "None or 'ram', and 'ram' needs color_type='color'"
            )
        self.cache = cache
        self.cache_limit = cache_limit
        self._kept = None
        self.to_float32 = to_float32
        self.color_type = color_type
        self.channel_order = channel_order
        if color_type == 'color':
            _warn_if_slow()

    def prepare(self, paths):
        """Make room for pictures, if ``cache`` is set.

        Call this before data workers are started.

        Args:
            paths (Iterable[str]): All pictures.

        Raises:
            UserError: They do not fit, see :class:`PictureCache`.
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
