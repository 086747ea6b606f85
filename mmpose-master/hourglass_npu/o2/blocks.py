"""Mixed precision O2: tensors of one precision in one piece of memory."""

from hourglass_npu.o2.tensors import is_dense, is_part, join

PIECE = 2**25
"""Elements of a block that are worked on at once: what that needs beside the
block stays small."""


class Block:
    """Tensors that lie one after another in one piece of memory.

    What one call does to :attr:`pieces` it does to all of them. Others may
    put other memory into one of them (``weight.data = ...``), and then that
    no longer holds: ask :meth:`is_whole` first.

    Args:
        tensors (list[Tensor]): Of one dtype and device, at least one.
        dtype (torch.dtype | None): None moves the tensors into the block:
            they stay the objects they are, and :func:`can_move` must be true
            of each. Otherwise the block is of copies in that dtype.

    Attributes:
        tensors (list[Tensor]): As given, or the copies.
        pieces (tuple[Tensor]): All of the memory, flat.
    """

    def __init__(self, tensors, dtype=None):
        flat, parts = join(tensors, dtype)
        if dtype is None:
            self.tensors = list(tensors)
            for tensor, part in zip(tensors, parts):
                tensor.data = part
        else:
            self.tensors = [part.data for part in parts]
        self.pieces = flat.split(PIECE)
        self._flat = flat
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

    def among(self, tensors):
        """Return tensors as few: the pieces, then what is not in the block.

        Args:
            tensors (list[Tensor]): Among them all that are in the block.

        Returns:
            list[Tensor]: For use without gradients.
        """
        inside = {id(tensor) for tensor in self.tensors}
        rest = [t for t in tensors if id(t) not in inside]
        return [*self.pieces, *rest]


def can_move(tensor):
    """Tell whether nobody will miss a tensor's own memory.

    That is, whether no other tensor and no process is known to share it.
    """
    if not is_dense(tensor) or is_part(tensor):
        return False
    # Of what is on a CUDA device, is_shared() is always true.
    return tensor.device.type != 'cpu' or not tensor.is_shared()


def steps_in_place(optimizer):
    """Tell whether a step leaves weights and state in the memory they have.

    Torch's own optimizers are known to.
    """
    return type(optimizer).__module__.startswith('torch.optim')
