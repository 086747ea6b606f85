"""Mixed precision O2: weights of one precision in one piece of memory."""

import torch

from hourglass_npu.o2.tensors import is_dense, is_part, join, like

PIECE = 2**25
"""Elements of a block that are worked on at once: what that needs beside the
block stays small."""


class Block:
    """Tensors that lie one after another in one piece of memory.

    They stay the objects they are; what one call does to :attr:`pieces` it
    does to all of them. Others may put other memory into one of them
    (``weight.data = ...``), and then that no longer holds: ask
    :meth:`is_whole` first.

    Args:
        tensors (list[Tensor]): Those for which :func:`fits` is true, of one
            dtype and device, at least one. Their memory is replaced.

    Attributes:
        tensors (list[Tensor]): As given.
        pieces (tuple[Tensor]): All of the memory, flat.
    """

    def __init__(self, tensors):
        flat, parts = join(tensors)
        self._take(flat, tensors, parts)

    def _take(self, flat, tensors, parts):
        self.tensors, self._flat = list(tensors), flat
        self.pieces = flat.split(PIECE)
        for tensor, part in zip(tensors, parts):
            tensor.data = part
        self._places = self._find()

    def _find(self):
        start = self._flat.data_ptr()
        return [
            (t.data_ptr() - start, t.dtype, t.shape, t.stride())
            for t in self.tensors
        ]

    def is_whole(self):
        """Tell whether all tensors still lie where they were put."""
        return self._find() == self._places

    def converted(self, dtype):
        """Return a block of new tensors with these values, in that dtype."""
        flat = self._flat.to(dtype)
        start, size = self._flat.data_ptr(), self._flat.element_size()
        tensors, parts = [], []
        for tensor in self.tensors:
            place = (tensor.data_ptr() - start) // size
            part = flat[place : place + tensor.numel()]
            parts.append(like(part, tensor))
            tensors.append(flat.new_empty(0))
        block = Block.__new__(Block)
        block._take(flat, tensors, parts)
        return block

    def within(self, tensors):
        """Return tensors as few: the pieces, then what is not in the block.

        Args:
            tensors (list[Tensor]): Among them all that are in the block.

        Returns:
            list[Tensor]: Their values.
        """
        inside = {id(tensor) for tensor in self.tensors}
        rest = [t.data for t in tensors if id(t) not in inside]
        return [*self.pieces, *rest]


def fits(tensor):
    """Tell whether nobody will miss a tensor's own memory.

    That is, whether no other tensor is known to share it.
    """
    return is_dense(tensor) and not is_part(tensor) and not tensor.is_shared()
