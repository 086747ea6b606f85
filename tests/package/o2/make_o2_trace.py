#!/usr/bin/env python3
"""Writes down what Apex computes, for the tests of mixed precision O2.

    git clone --branch 25.05 https://github.com/NVIDIA/apex APEX_TREE
    python make_o2_trace.py APEX_TREE [FILE]

Every case of ``o2_cases.py`` is run by Apex's own ``amp`` on CPU tensors.
The records are stored under the release of torch that ran them, beside those
of other releases in FILE (default: data/o2_trace.json). They hold numbers
only, nothing of Apex. Run it once with each release that the tests are run
with; run it again after a change of a case.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import torch
from apex_tree import load_apex
from o2_cases import CASES, OPTIMIZERS, ApexDriver, probe, read_trace, run_case

TRACE = Path(__file__).resolve().parent / 'data' / 'o2_trace.json'


def record(amp):
    """Run all cases.

    Args:
        amp (module): Of Apex.

    Returns:
        dict: ``probe`` by optimiser, ``cases`` by name.
    """
    driver = functools.partial(ApexDriver, amp=amp)
    return dict(
        probe={name: probe(name) for name in OPTIMIZERS},
        cases={name: run_case(case, driver) for name, case in CASES.items()},
    )


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description='Record what Apex computes.')
    parser.add_argument('tree', help='source tree of Apex, up to 25.05')
    parser.add_argument('file', nargs='?', default=str(TRACE))
    args = parser.parse_args()
    path = Path(args.file)
    trace = read_trace(path) if path.exists() else {}
    try:
        with load_apex(args.tree) as amp:
            trace[torch.__version__.split('+')[0]] = record(amp)
    except ValueError as error:
        sys.exit(f'error: {error}')
    path.write_text(json.dumps(trace, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
    main()
