"""Decoded pictures in shared memory, for LoadImageFromFile."""

import os

from hourglass_npu.errors import UserError
from hourglass_npu.pose.images import orientation
from hourglass_npu.shared import free_bytes, shared_bytes
from hourglass_npu.training.workers import current_epoch


def _upright_size(path):
    """Return height and width of a picture once it is decoded."""
    turn, (width, height) = orientation(path)
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


class PictureCache:
    """Decoded pictures in memory, for all workers and all epochs.

    A worker writes what it decodes. It reads its own pictures, and those that
    were there when it started or when its epoch began: so it reads no page
    that another core has not finished.

    Args:
        paths (Iterable[str]): All pictures.
        limit (int | None): The most bytes to take; None for what is free.

    Raises:
        UserError: The pictures do not fit.
    """

    def __init__(self, paths, limit=None):
        self.places, total = {}, 0
        for path in sorted(set(paths)):
            shape = _upright_size(path) + (3,)
            start, total = total, total + shape[0] * shape[1] * 3
            self.places[path] = len(self.places), slice(start, total), shape
        free = free_bytes()
        room = free if limit is None else min(limit, free)
        if total > room:
            raise UserError(
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
        self._pixels = shared_bytes(max(total, 1))
        self._written = shared_bytes(max(len(self.places), 1)).zero_()
        self._readable = None, None

    def _may_read(self):
        """Return which pictures this process may read: np.ndarray[N] bool."""
        now = os.getpid(), current_epoch()
        if self._readable[0] != now:
            self._readable = now, self._written.numpy() != 0
        return self._readable[1]

    def get(self, path, read):
        """Return a picture, from memory if it is there.

        Args:
            path (str): One of the paths given to the constructor.
            read (Callable): Reads ``path``, np.ndarray[H, W, 3] of bytes.

        Returns:
            np.ndarray[H, W, 3]: The picture; do not write to it.
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
