"""Read and write pictures, and explain what is wrong with them."""

import io
import os
import sys
import warnings

import cv2
import numpy as np
from PIL import Image

from hourglass_npu.errors import UserError
from hourglass_npu.files import (
    is_stream,
    open_regular,
    read_bytes,
    replaced,
)

PICTURE_SUFFIXES = (
    '.jpg',
    '.jpeg',
    '.png',
    '.bmp',
    '.webp',
    '.tif',
    '.tiff',
)
UNREAD = {
    'HEIC': (b'heic', b'heix', b'heim', b'heis', b'hevc', b'mif1', b'msf1'),
    'AVIF': (b'avif', b'avis'),
}
"""Formats of telephones that OpenCV seldom reads, and their brands."""

UNREAD_SUFFIXES = ('.heic', '.heif', '.avif')

RESULT_PREFIX = 'infer_'
"""Results are written beside their pictures under this prefix, and are left
out when the folder is read again."""

MAX_SIDE = 32766
"""cv2.warpAffine addresses its source with 16-bit integers."""

MAX_PIXELS = 178956970
"""Pillow refuses larger pictures, too, as an attack on the memory."""

LARGEST_PICTURE = 2**29
"""Bytes of a file: MAX_PIXELS of three bytes, not compressed."""

FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP', 'TIFF', 'PPM')
"""Formats that Pillow may decode, whatever a file is called. It knows more,
and runs Ghostscript, another program, for some of them."""

JPEG = b'\xff\xd8'
"""First bytes of a JPEG."""

TIFF = (b'II', b'MM')
"""First bytes of a TIFF."""


def read_picture(path):
    """Read a picture as a viewer would show it.

    Grey and 16-bit pictures become 8-bit colour, the orientation that a
    camera noted (EXIF) is applied, transparent parts become white.

    Args:
        path (str): Any format that OpenCV reads.

    Returns:
        np.ndarray[H, W, 3]: 8-bit BGR.

    Raises:
        UserError: The file is missing, empty, no picture, or too large.
    """
    # Not cv2.imread: it cannot open every file name on every system, and it
    # prints warnings of its own.
    content = read_bytes(path, LARGEST_PICTURE)
    picture = None
    if content:
        is_jpeg = content.startswith(JPEG)
        # OpenCV paints the missing rest of a JPEG grey, so Pillow decodes
        # it first. Pillow's word on other formats does not count: it knows
        # fewer of them.
        fault, _ = fault_and_size(content, path, decode=is_jpeg)
        if fault and is_jpeg:
            raise UserError(f'{path}: {fault}')
        picture = _decode(content, path)
    if picture is None:
        raise UserError(
            f'{path}: no picture that OpenCV can read, or a broken one '
            f'({len(content)} bytes){_what_to_do(content)}'
        )
    check_size(picture.shape[1], picture.shape[0], path)
    return picture


def _what_to_do(content):
    """Say how to get a picture that can be read, for formats of telephones."""
    for name, brands in UNREAD.items():
        if content[4:8] == b'ftyp' and content[8:12] in brands:
            return (
                f'. It is a picture in the format {name}: convert it to JPEG, '
                'for example with `heif-convert` of libheif, ImageMagick or '
                'the program that shows it'
            )
    return ''


def check_size(width, height, path):
    """Check that a picture is not too large. A few kilobytes can claim more.

    Args:
        width (int): Pixels.
        height (int): Pixels.
        path (str): The file, for the message.

    Raises:
        UserError: It is too large.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UserError(
            f'{path}: too large: {width} x {height} pixels; the limit is '
            f'{MAX_SIDE} for a side and {MAX_PIXELS // 10**6} million in all'
        )


def fault_and_size(content, path, decode=True):
    """Decode a picture with Pillow, and find out what is wrong with it.

    Args:
        content (bytes): A whole file.
        path (str): The file, for the message.
        decode (bool): Decode to the last pixel; otherwise read the header.

    Returns:
        tuple[str | None, tuple[int, int] | None]: What is wrong, None for a
        sound picture; width and height as stored, None for others.

    Raises:
        UserError: It is too large to be decoded.
    """
    if not content:
        return 'the file is empty', None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UserError(f'{path}: too large: {error}') from error
        except Image.UnidentifiedImageError:
            size = len(content)
            return f'no picture of a known format ({size} bytes)', None
        except Exception as error:  # Pillow raises anything at broken files
            return _broken(error), None
        with picture:
            check_size(*picture.size, path)
            try:
                if decode:
                    picture.load()
            except Exception as error:  # see above
                return _broken(error), None
            return None, picture.size


def _broken(error):
    return f'broken picture: {error or type(error).__name__}'


def orientation(source):
    """Return the Exif orientation of a picture.

    Args:
        source (bytes | str): A whole file, or its path.

    Returns:
        tuple[int | None, tuple[int, int]]: The orientation, None if the tag
        is broken; width and height as stored.

    Raises:
        UserError: The file does not exist, or Pillow cannot read it.
    """
    if isinstance(source, bytes):
        name, file = 'a picture', io.BytesIO(source)
    else:
        name, file = source, open_regular(source, LARGEST_PICTURE)
    with file:
        try:
            picture = Image.open(file, formats=FORMATS)
        except Exception as error:  # Pillow raises anything at broken files
            raise UserError(f'{name}: {_broken(error)}') from error
        try:
            return picture.getexif().get(0x0112, 1), picture.size
        except Exception:  # likewise at broken tags
            return None, picture.size


def write_picture(path, picture):
    """Write a picture, as a whole or not at all.

    Args:
        path (str): The suffix decides on the format.
        picture (np.ndarray[H, W, 3]): 8-bit BGR.

    Raises:
        UserError: OpenCV does not write this format.
    """
    suffix = os.path.splitext(path)[1].lower()
    if not suffix and is_stream(path):
        suffix = '.png'
    if suffix not in PICTURE_SUFFIXES:
        raise UserError(
            f'{path}: the name of a picture must end in one of '
            + ' '.join(PICTURE_SUFFIXES)
        )
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix[:3] == '.jp' else []
    _, data = cv2.imencode(suffix, picture, options)
    with replaced(path) as temporary:
        data.tofile(temporary)


def find_pictures(sources):
    """Turn files and folders into a list of files.

    Args:
        sources (Sequence[str]): Files, which are taken as given, and folders,
            whose pictures are taken in order of name, without the results of
            earlier runs.

    Returns:
        list[str]: Paths.

    Raises:
        UserError: A folder has no pictures.
    """
    paths = []
    for source in sources:
        if not os.path.isdir(source):
            paths.append(source)
            continue
        everything = sorted(os.listdir(source))
        for name in everything:
            if name.lower().endswith(UNREAD_SUFFIXES):
                path = os.path.join(source, name)
                print(f'{path}: convert it to JPEG; skipped', file=sys.stderr)
        names = [
            name
            for name in everything
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


def _decode(content, path):
    """Decode a picture; return None for a format that OpenCV does not know."""
    data = np.frombuffer(content, np.uint8)
    try:
        if content.startswith(JPEG):
            return cv2.imdecode(data, cv2.IMREAD_COLOR)
        # Only for formats that can be transparent: the flag that keeps
        # alpha ignores the orientation.
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if picture is None:
            return None
        if picture.ndim == 3 and picture.shape[2] == 4:
            picture = _on_white(picture)
        else:
            as_stored = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            picture = cv2.imdecode(data, as_stored)
        # OpenCV turns a TIFF in any case, and a WebP in none.
        return picture if content[:2] in TIFF else _upright(picture, content)
    except (cv2.error, MemoryError) as error:
        reason = (str(error).strip() or 'no memory').splitlines()[-1]
        raise UserError(
            f'{path}: the picture cannot be decoded ({reason})'
        ) from error


def _upright(picture, content):
    """Turn a picture as the camera noted it in the file."""
    try:
        turn, _ = orientation(content)
    except UserError:  # a format that OpenCV knows and Pillow does not
        return picture
    if turn in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if turn in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _on_white(bgra):
    """Blend a picture with an alpha channel, 8 or 16 bits, with white."""
    full = np.float32(np.iinfo(bgra.dtype).max)
    alpha = bgra[..., 3:].astype(np.float32) / full
    colour = bgra[..., :3].astype(np.float32) * (255 / full)
    return (colour * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
