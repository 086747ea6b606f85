"""Draw a small data set in MPII's form: ``hourglass sample``.

hourglass sample                 # data/mpii_sample
hourglass sample --out /tmp/s --train 40 --val 10 --seed 7
hourglass sample --demo          # the demo picture
"""

import os
import time
from pathlib import Path

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import Parser
from hourglass_npu.paths import DEMO_PICTURE, MMPOSE_ROOT


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Draw a small data set in the form of MPII.',
        'hourglass sample',
        'hourglass sample --out /tmp/people',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=MMPOSE_ROOT / 'data/mpii_sample',
        help='folder to make (default: %(default)s)',
    )
    parser.add_argument(
        '--train',
        type=int,
        default=400,
        metavar='N',
        help='training pictures, of one to four people each '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--val',
        type=int,
        default=60,
        metavar='N',
        help='validation pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='seed of the drawing (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar='N',
        help='processes; the result does not depend on them '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace an existing data set'
    )
    parser.add_argument(
        '--demo',
        action='store_true',
        help=f'draw {DEMO_PICTURE.name} and its .json instead',
    )
    args = parser.parse_args(argv)
    for name in ('train', 'val', 'workers'):
        value = getattr(args, name)
        if value < 1:
            parser.error(f'--{name} {value}: must be at least 1')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed {args.seed}: must be from 0 to {2**32 - 1}')
    return args


def main():
    """Draw as the command line says."""
    args = parse_args()
    start = time.time()
    ensure_packages('numpy', 'cv2', 'scipy', 'tqdm')
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
    people = make_sample(out, recipe, args.force, args.workers)
    if people is None:
        known = recipe_text(recipe)
        print(f'  it exists ({known}); replace it with --force')
    else:
        for split in SPLITS:
            count = len(people[split])
            print(f'  {split}: {count} people in {recipe[split]} pictures')
        print(f'  drawn in {time.time() - start:.0f} s')
