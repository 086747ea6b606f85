"""A process of the fixtures ``ranks`` and ``apart``: calls one function.

``in_rank.py LAUNCHER OUT FILE FUNCTION ARG ...`` joins the gloo group of a
launcher, as ``init_dist`` names it ('none': no group), calls the function
of a Python file, and saves what it returns as ``OUT/RANK.pt``.
"""

import atexit
import importlib
import os
import sys
import warnings
from datetime import timedelta

import torch
from torch import distributed as dist


def threads():
    """Return the number of this process's threads; None if unknown."""
    tasks = '/proc/self/task'
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else None


def say_left(before):
    """Say at the very end that the group and its threads are gone.

    They would need the interpreter, and take the process along without it.
    """
    if not dist.is_initialized() and threads() == before:
        # In one piece: where output is unbuffered, as under torch's launcher,
        # print's line and its end are two, and another rank's may come
        # between.
        sys.stdout.write('left\n')


def main(launcher, out, file, function, *arguments):
    """Call the function with strings for arguments."""
    rank = 0
    folder, name = os.path.split(file)
    sys.path.insert(0, folder)
    if launcher != 'none':
        from mmcv.runner import dist_utils

        warnings.simplefilter('ignore')
        # What is registered first is called last.
        atexit.register(say_left, threads())
        dist_utils.set_device('cpu')
        dist_utils.init_dist(launcher, timeout=timedelta(seconds=60))
        rank = dist_utils.get_dist_info()[0]
    module = importlib.import_module(name[: -len('.py')])
    found = getattr(module, function)(*arguments)
    torch.save(found, os.path.join(out, f'{rank}.pt'))


if __name__ == '__main__':
    main(*sys.argv[1:])
