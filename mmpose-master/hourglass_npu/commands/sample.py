"""Draw a small data set in MPII's form: ``hourglass sample``.

hourglass sample                 # data/mpii_sample
hourglass sample --out /tmp/s --train 40 --val 10 --seed 7
hourglass sample --demo          # the picture of demo.py
"""

import argparse
import os
import time
from pathlib import Path

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import parse
from hourglass_npu.paths import DEMO_PICTURE, MMPOSE_ROOT


def _tell_progress(done, total):
    """Says about every tenth of the work that it is done."""
    if done == total or done * 10 // total > (done - 1) * 10 // total:
        print(f'  {done} of {total} pictures', flush=True)


def parse_args(argv=None):
    """Parses the command line.

    Args:
        argv (list[str] | None): Arguments; None for the process's own.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        description='Draw a small data set in the form of MPII.',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=MMPOSE_ROOT / 'data/mpii_sample',
        help='folder to be made (default: %(default)s)',
    )
    parser.add_argument(
        '--train',
        type=int,
        default=400,
        metavar='N',
        help='pictures to train on, of one to four people each '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--val',
        type=int,
        default=60,
        metavar='N',
        help='pictures held out (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='another number draws other people (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar='N',
        help='processes; they change nothing but the time '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--force', action='store_true', help='make anew what is there'
    )
    parser.add_argument(
        '--demo',
        action='store_true',
        help=f'make {DEMO_PICTURE.name} and its .json instead',
    )
    args = parse(parser, argv)
    for name in ('train', 'val', 'workers'):
        value = getattr(args, name)
        if value < 1:
            parser.error(f'--{name} must be at least 1, not {value}')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed must be from 0 to {2**32 - 1}, not {args.seed}')
    return args


def main():
    """Draw as the command line says."""
    args = parse_args()
    start = time.time()
    ensure_packages('numpy', 'cv2', 'scipy')
    from hourglass_npu.sample.dataset import (
        SPLITS,
        make_demo,
        make_sample,
        recipe_text,
    )

    if args.demo:
        print(f'{DEMO_PICTURE}: {make_demo(DEMO_PICTURE)} people')
        return
    recipe = dict(seed=args.seed, train=args.train, val=args.val)
    out = args.out.absolute()
    print(f'Sample data: {out}', flush=True)
    people = make_sample(out, recipe, args.force, args.workers, _tell_progress)
    if people is None:
        known = recipe_text(recipe)
        print(f'  there already ({known}); --force makes it anew')
    else:
        for split in SPLITS:
            count = len(people[split])
            print(f'  {split}: {count} people in {recipe[split]} pictures')
        print(f'  made in {time.time() - start:.0f} s')
