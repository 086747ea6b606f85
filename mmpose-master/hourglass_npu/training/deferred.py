"""Numbers for the log that are computed when they are read.

Reading a number from a device waits for all its queued work. The losses and
accuracies of a step are read where somebody asks for them, and by the runner's
log buffer where a line is due; otherwise never.
"""

import functools
from collections import OrderedDict


class DeferredNumber:
    """A number on a device, in a :class:`DeferredNumbers`.

    Args:
        tensor (Tensor): The values to compute it from, on any device.
        finish (Callable[[list], float]): Computes the number from them; by
            default the tensor holds that number alone.
    """

    def __init__(self, tensor, finish=sum):
        self.tensor = tensor.detach()
        self.finish = finish

    def __float__(self):
        return float(self.finish(self.tensor.reshape(-1).tolist()))


class DeferredNumbers(OrderedDict):
    """A dict whose :class:`DeferredNumber` values are floats when read.

    Whatever looks at one value reads all of them, at once. Copies and pickles
    are of plain floats.
    """

    def unread(self):
        """Return keys and values as they are, without a wait.

        Returns:
            list[tuple]: In their order.
        """
        return [(key, dict.__getitem__(self, key)) for key in self]

    def read(self):
        """Replace all deferred numbers by floats."""
        found = {k: v for k, v in self.unread() if type(v) is DeferredNumber}
        if found:
            # Not at the top: inference needs no runner.
            from mmcv.runner.base_runner import read_numbers

            self.update(zip(found, read_numbers(found.values())))

    def __reduce__(self):
        return OrderedDict, (list(self.items()),)


def _reading(name):
    """Return OrderedDict's method of that name, after a read."""
    method = getattr(OrderedDict, name)

    @functools.wraps(method)
    def read_first(self, *args, **kwargs):
        self.read()
        return method(self, *args, **kwargs)

    return read_first


for _name in (
    '__getitem__',
    '__eq__',
    '__ne__',
    '__repr__',
    'copy',
    'get',
    'items',
    'pop',
    'popitem',
    'setdefault',
    'values',
):
    setattr(DeferredNumbers, _name, _reading(_name))
