"""Trains and tells for each iteration how often the host has waited.

Usage: sync_worker.py OUT ARGUMENT...    arguments of tools/train.py; rank R
    writes OUT.R, a JSON list with a dict of places for each iteration
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch_npu
from mmcv.runner import EpochBasedRunner

TOOLS = Path(__file__).resolve().parents[2] / 'mmpose-master/tools'
sys.path.insert(0, str(TOOLS))

call_hook = EpochBasedRunner.call_hook
marks = []


def call_and_note(self, name):
    """From the start of one iteration to that of the next: all of it."""
    if name in ('before_train_iter', 'after_train_epoch'):
        marks.append(Counter(torch_npu.sim.host_syncs))
    call_hook(self, name)


def main():
    import train

    out, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    EpochBasedRunner.call_hook = call_and_note
    train.main()
    waits = [dict(after - before) for before, after in zip(marks, marks[1:])]
    with open(f'{out}.{os.environ.get("RANK", 0)}', 'w') as stream:
        json.dump(waits, stream)


if __name__ == '__main__':
    main()
