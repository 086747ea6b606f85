"""The records of a data set in one block of memory, which workers share."""

import copy
import functools

import numpy as np
import torch

from hourglass_npu.shared import free_bytes, shared_bytes

# Values that cannot be changed need no copy.
_CONSTANT = (str, bytes, int, float, bool, type(None))


def copy_record(record):
    """Copy a record of a data set, so that a pipeline can write into it.

    Args:
        record (dict): Arrays, constants, and values of any other type.

    Returns:
        dict: The result of ``copy.deepcopy``, in a sixth of the time.
    """
    copied = {}
    for key, value in record.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            value = value.copy()
        elif not isinstance(value, _CONSTANT):
            value = copy.deepcopy(value)
        copied[key] = value
    return copied


def compact(records):
    """Put records into one block of memory.

    Args:
        records (list[dict]): Not used by anybody else.

    Returns:
        list[dict]: Equal ones. A :class:`Records` where all have the same
        keys, with arrays of the same shape, texts and equal constants.
    """
    table = _Table.of(records)
    return records if table is None else Records(table)


def _part(value):
    """Say how a table holds the values of a key; None if it cannot."""
    if type(value) is np.ndarray and value.dtype.isbuiltin == 1:
        held = not value.dtype.hasobject
        return (np.ndarray, value.dtype.str, value.shape) if held else None
    if type(value) is str:
        return (str,)
    # Not of floats: 0.0 and -0.0 are equal.
    same = type(value) in (bytes, int, bool, type(None))
    return (type(value), value) if same else None


class _Table:
    """Records that nobody changes, as bytes.

    Args:
        block (Tensor[B]): Bytes: where each text ends, the rows of arrays,
            the texts.
        count (int): How many records.
        form (dict[str, tuple]): :func:`_part` of each key, in order.
    """

    def __init__(self, block, count, form):
        self._given = block, count, form
        memory = block.numpy()
        memory.flags.writeable = False
        parts = form.items()
        texts = [key for key, (kind, *_) in parts if kind is str]
        self._texts = {key: place for place, key in enumerate(texts)}
        arrays = [(k, *p[1:]) for k, p in parts if p[0] is np.ndarray]
        row = np.dtype(arrays or [('none', 'V0')])
        ends = 8 * count * len(texts)
        rows = ends + row.itemsize * count
        self._ends = memory[:ends].view(np.int64)
        self._rows = np.ndarray(count, row, memory, ends)
        self._text = memory[rows:]

    @classmethod
    def of(cls, records):
        """Make a table; None where the records are not of one form."""
        first = records[0] if records else {}
        form = {key: _part(value) for key, value in first.items()}
        if not form or not all(key and type(key) is str for key in form):
            return None
        ends, rows, text = [], bytearray(), bytearray()
        for record in records:
            if list(record) != list(form):
                return None
            for key, value in record.items():
                part = _part(value)
                if part is None or part != form[key]:
                    return None
                if part[0] is np.ndarray:
                    rows += value.tobytes()
                elif part[0] is str:
                    text += value.encode('utf-8', 'surrogatepass')
                    ends.append(len(text))
        whole = np.array(ends, np.int64).tobytes() + rows + text
        size = len(whole)
        # What is not in shared memory is copied for each spawned worker.
        own = functools.partial(torch.empty, dtype=torch.uint8)
        block = (shared_bytes if size < free_bytes() else own)(size)
        block.numpy()[:] = np.frombuffer(whole, np.uint8)
        return cls(block, len(records), form)

    def __reduce__(self):
        # Workers get a handle of the block where it is shared.
        return type(self), self._given

    def __deepcopy__(self, memo):
        return self

    def __len__(self):
        return self._given[1]

    def record(self, index):
        """Make a record anew.

        Args:
            index (int): Its place, not negative.
        """
        row = self._rows[index]
        made = {}
        for key, part in self._given[2].items():
            if part[0] is np.ndarray:
                made[key] = np.array(row[key])
            elif part[0] is str:
                place = index * len(self._texts) + self._texts[key]
                start = self._ends[place - 1] if place else 0
                text = self._text[start : self._ends[place]].tobytes()
                made[key] = text.decode('utf-8', 'surrogatepass')
            else:
                made[key] = part[1]
        return made


class Records(list):
    """A list of records that makes each when it is looked at, and keeps it.

    A record that was handed out stays the same object, so it can be changed.
    Whatever is more than to take single records or to walk over all of them
    makes them all first; after that it is as any other list.

    Args:
        table (_Table): The records.
        made (dict[int, dict]): Those that were handed out, by place.
    """

    def __init__(self, table, made=None):
        super().__init__([None] * len(table))
        self._table = table
        for place, record in (made or {}).items():
            list.__setitem__(self, place, record)

    def copy_of(self, index):
        """Return a copy of a record, to be written into, and keep nothing.

        Args:
            index (int): Its place.
        """
        kept = list.__getitem__(self, index)
        if kept is not None or self._table is None:
            return copy_record(kept)
        return self._table.record(range(len(self))[index])

    def __getitem__(self, index):
        if isinstance(index, slice):
            self._make_all()
        kept = list.__getitem__(self, index)
        if kept is None and self._table is not None:
            index = range(len(self))[index]
            kept = self._table.record(index)
            list.__setitem__(self, index, kept)
        return kept

    def __iter__(self):
        index = 0
        while index < len(self):  # it may change during the loop, as any list
            yield self[index]
            index += 1

    def _make_all(self):
        """Make all records, and be as any other list from now on."""
        table, self._table = self._table, None
        if table is not None:
            for index, kept in enumerate(list.__iter__(self)):
                if kept is None:
                    list.__setitem__(self, index, table.record(index))

    def __radd__(self, other):
        return other + list(self)

    def __reduce_ex__(self, protocol):
        if self._table is None:
            return list, (list(self),)
        made = enumerate(list.__iter__(self))
        made = {place: one for place, one in made if one is not None}
        return type(self), (self._table, made)

    def __copy__(self):
        return self.copy()


def _of_all(method):
    """Return a method of lists that makes all records first."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        self._make_all()
        return method(self, *args, **kwargs)

    return call


_ALL = (
    '__add__ __contains__ __delitem__ __eq__ __ge__ __gt__ __iadd__ __imul__ '
    '__le__ __lt__ __mul__ __ne__ __repr__ __reversed__ __rmul__ __setitem__ '
    'append clear copy count extend index insert pop remove reverse sort'
)
for _name in _ALL.split():
    setattr(Records, _name, _of_all(getattr(list, _name)))
