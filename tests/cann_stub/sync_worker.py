"""Train and tell for each iteration how often the host has waited.

Usage: sync_worker.py OUT ARGUMENT...    arguments of tools/train.py; rank R
    writes OUT.R, a JSON list with a dict of places for each iteration
"""

import json
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

from mmcv.runner import EpochBasedRunner

import counts

TRAIN = Path(__file__).resolve().parents[2] / 'mmpose-master/tools/train.py'

call_hook = EpochBasedRunner.call_hook
marks = []


def call_and_note(self, name):
    """From the start of one iteration to that of the next: all of it."""
    if name in ('before_train_iter', 'after_train_epoch'):
        marks.append(Counter(counts.waits()))
    call_hook(self, name)


def main():
    out, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    EpochBasedRunner.call_hook = call_and_note
    try:
        runpy.run_path(str(TRAIN), run_name='__main__')
    finally:
        waits = [dict(b - a) for a, b in zip(marks, marks[1:])]
        with open(f'{out}.{os.environ.get("RANK", 0)}', 'w') as stream:
            json.dump(waits, stream)


if __name__ == '__main__':
    main()
