"""What the simulator has seen: for tests, not part of the real torch_npu."""

import atexit
import collections
import json
import os
import sys

import torch

from . import _C

settings = collections.defaultdict(list)
"""By name, what the program has set (``jit_compile``, ``set_device``, ...)."""

host_syncs = collections.Counter()
"""How often the host has waited, by kind and place."""

_TORCH = os.path.dirname(torch.__file__)
_HERE = os.path.dirname(__file__)


def record(name, value):
    """Remembers what has been set."""
    settings[name].append(value)


def note_host_sync(kind):
    """Counts a wait of the host, under the line that asked for it."""
    host_syncs[f'{kind}: {_place()}'] += 1


def _place():
    """File and line of the innermost frame outside torch and this package."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_TORCH, _HERE, '<')):
            parts = path.split(os.sep)
            return f'{os.sep.join(parts[-2:])}:{frame.f_lineno}'
        frame = frame.f_back
    return 'a thread of torch'


def start():
    """Begins to count, and arranges for the report of ``NPU_SIM_LOG``."""
    _C.on_host_sync(note_host_sync)
    # The extension must not call Python when that is on its way out.
    atexit.register(_C.on_host_sync, None)
    folder = os.environ.get('NPU_SIM_LOG')
    if folder:
        atexit.register(_report, folder, os.getpid())


def _report(folder, pid):
    if os.getpid() != pid:
        return  # a forked child
    os.makedirs(folder, exist_ok=True)
    seen = dict(
        command=sys.argv,
        rank=int(os.environ.get('RANK', 0)),
        initialized=_C.is_initialized(),
        operators=_C.operators(),
        collectives=_C.collectives(),
        streams=_C.streams(),
        settings=settings,
        host_syncs=host_syncs,
    )
    path = os.path.join(folder, f'{pid}.json')
    with open(path + '.new', 'w') as stream:
        json.dump(seen, stream)
    os.rename(path + '.new', path)
