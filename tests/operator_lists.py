"""Operators that torch_npu has kernels for; see npu_operators.json."""

import functools
import json
from pathlib import Path

TABLE = Path(__file__).with_name('npu_operators.json')
RELEASES = tuple(json.loads(TABLE.read_text())['releases'])


@functools.lru_cache(maxsize=None)
def load():
    """Return {operator: its letter in each of RELEASES, in one text}."""
    groups = json.loads(TABLE.read_text())['operators']
    return {
        name: letters
        for letters, names in groups.items()
        for name in names.split()
    }
