"""One rank of the fixture ``ranks``: ``in_rank.py OUT FILE FUNCTION ARG ...``.

Joins a gloo group, calls a function of a Python file, and saves what it
returns as ``OUT/RANK.pt``. Torch's launcher starts it.
"""

import importlib
import os
import sys
import warnings

import torch
from mmcv.runner.dist_utils import get_dist_info, init_dist, set_device


def main(out, file, function, *arguments):
    """Call the function with strings for arguments."""
    warnings.simplefilter('ignore')
    folder, name = os.path.split(file)
    sys.path.insert(0, folder)
    set_device('cpu')
    init_dist('pytorch')
    module = importlib.import_module(name[: -len('.py')])
    found = getattr(module, function)(*arguments)
    torch.save(found, os.path.join(out, f'{get_dist_info()[0]}.pt'))


if __name__ == '__main__':
    main(*sys.argv[1:])
