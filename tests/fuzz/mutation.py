"""Spoils files and values, always in the same way for the same generator."""

import copy
import math

STRANGE = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    0.5,
    -0.25,
    10**6,
    2**63,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    '',
    'x',
    '3',
    'nan',
    '../../x',
    '\0',
    'ä' * 300,
    [],
    [1],
    [1, 2, 3],
    [[]],
    ['a'],
    {},
    {'type': 'x'},
    {'a': 1},
)
"""Values that somebody may put where another belongs."""

OTHER_FILES = (
    b'',
    b'\0',
    b'\n',
    b'<html><body>404 Not Found</body></html>',
    b'version https://git-lfs.github.test/spec/v1\noid sha256:00\nsize 9\n',
    b'\x89PNG\r\n\x1a\n' + bytes(40),
    b'PK\x03\x04' + bytes(40),
    b'\x80\x02}q\x00.',
    b'\x1f\x8b\x08\x00' + bytes(20),
    b'MATLAB 5.0 MAT-file' + bytes(200),
    b'{"images": []}',
    b'[]',
    b'import os\n',
    bytes(range(256)) * 8,
)
"""What may lie under a name instead of what belongs there."""


def spoil_bytes(data, random):
    """Spoils a file.

    Args:
        data (bytes): A whole file.
        random (random.Random): Of the case.

    Returns:
        bytes: Truncated, overwritten, with parts missing or double, or
        another kind of file.
    """
    kind = random.randrange(8)
    if kind == 0 or not data:
        return random.choice(OTHER_FILES)
    if kind == 1:
        return data[: random.randrange(len(data))]
    start = random.randrange(len(data))
    # The beginning of a file says the most.
    if random.random() < 0.5:
        start = random.randrange(min(len(data), 400))
    end = min(start + random.choice((1, 1, 2, 4, 30, 500)), len(data))
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    if kind == 4:
        return data + bytes(random.randrange(1, 100))
    middle = bytearray(data[start:end])
    for i in range(len(middle)):
        if kind == 5:
            middle[i] ^= 1 << random.randrange(8)
        elif kind == 6:
            middle[i] = random.randrange(256)
        else:
            middle[i] = random.choice((0, 255))
    return data[:start] + bytes(middle) + data[end:]


def places(value, path=()):
    """Go through all places of a tree of dicts and lists.

    Args:
        value (Any): The tree.
        path (tuple): Where it is itself.

    Yields:
        tuple: Keys and indices that lead to a place.
    """
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def spoil_value(value, random, at=None):
    """Spoils a tree of dicts and lists at one place.

    Args:
        value (Any): The tree; left as it is.
        random (random.Random): Of the case.
        at (Sequence[tuple]): Places to choose from; all by default.

    Returns:
        Any: Another tree: a place is missing, strange, twice there, or new.
    """
    at = at or list(places(value))
    value = copy.deepcopy(value)
    if not at or random.random() < 0.02:
        return copy.deepcopy(random.choice(STRANGE))
    path = random.choice(at)
    node = value
    for key in path[:-1]:
        node = node[key]
    kind = random.randrange(6)
    if kind == 0:
        del node[path[-1]]
    elif kind == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[path[-1]]))
    elif kind == 1:
        node[misspelt(str(path[-1]), random)] = node.pop(path[-1])
    elif kind == 2 and type(node[path[-1]]) in (int, float):
        node[path[-1]] *= random.choice((-1, 0, 0.5, 2, 1000, 1e30))
    else:
        node[path[-1]] = copy.deepcopy(random.choice(STRANGE))
    return value


def misspelt(word, random):
    """Slips a key of the keyboard.

    Args:
        word (str): As it should be.
        random (random.Random): Of the case.

    Returns:
        str: With a letter too many, too few, or another.
    """
    if not word:
        return 'x'
    at = random.randrange(len(word))
    return word[:at] + random.choice(('', 'x', word[at] * 2)) + word[at + 1 :]
