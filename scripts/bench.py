#!/usr/bin/env python3
"""Measures the bundle beside stock mmpose, in one run on one machine.

Stock and ours take turns, round after round, each in processes of its own;
tables give medians, quartiles and ratios. Nothing is downloaded.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmark import bundle, measure
from benchmark.areas import AREAS, Bench
from benchmark.worker import WorkerError

EXAMPLES = """
Examples:
  python3 scripts/bench.py --stock pipeline step
  python3 scripts/bench.py --stock --json bench.json --markdown bench.md
  python3 scripts/bench.py cuda
"""


class BenchError(Exception):
    """Something that the person at the keyboard can put right."""


def parse(arguments):
    """Read the command line."""
    areas = [
        f'  {name:9} {function.__doc__.splitlines()[0]}'
        for name, function in AREAS.items()
    ]
    default = [name for name in AREAS if AREAS[name].default]
    parser = argparse.ArgumentParser(
        prog='bench.py',
        description=__doc__,
        epilog='\n'.join(['areas:', *areas, EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        'areas',
        nargs='*',
        metavar='AREA',
        help=f'what to measure (default: {" ".join(default)})',
    )
    add(
        '--stock',
        action='store_true',
        help='measure stock mmpose, too; cuda always does',
    )
    add(
        '--small',
        action='store_true',
        help='small network and few rounds, to see that everything runs',
    )
    add('--rounds', type=int, metavar='N', help='rounds of each area')
    add(
        '--workers',
        type=int,
        metavar='N',
        help='data workers of each training process (default: 1; cuda: as '
        'many as there are cores, up to 16)',
    )
    add(
        '--data',
        type=Path,
        metavar='DIR',
        help="a data set in MPII's form (default: pictures of 1280x720, "
        'drawn for the run)',
    )
    add('--json', type=Path, metavar='FILE', help='write all numbers')
    add('--markdown', type=Path, metavar='FILE', help='write the tables')
    args = parser.parse_args(arguments)
    unknown = [name for name in args.areas if name not in AREAS]
    if unknown:
        parser.error(f'no area {", ".join(unknown)}; there are: {[*AREAS]}')
    for name, least in (('rounds', 1), ('workers', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f'--{name} {value}: at least {least}')
    args.areas = args.areas or default
    return args


def tell(text):
    """Say on stderr what is going on."""
    print(f'bench.py: {text}', file=sys.stderr, flush=True)


def find_data(args, folder):
    """Return the data set to measure with; draws one if none is named.

    Raises:
        BenchError: The named one is no data set.
    """
    if args.data is None:
        count = 4 if args.small else 40
        tell(f'drawing {count} pictures of 1280x720')
        bundle.draw_data(folder / 'data', train=count, val=4)
        return folder / 'data'
    for name in ('annotations/mpii_train.json', 'images'):
        if not (args.data / name).exists():
            raise BenchError(f'--data {args.data}: there is no {name} in it')
    return args.data.resolve()


def has_cuda():
    """Tell whether torch finds a GPU of CUDA."""
    import torch

    return torch.cuda.is_available()


def measure_area(name, args, data, folder):
    """Measure one area.

    Returns:
        tuple[list[dict] | str, list[str]]: Rows, or why it was not measured;
        and the fixes of the baseline.
    """
    from benchmark import stock

    area = AREAS[name]
    on_gpu = area.on_gpu and has_cuda()
    tried = area.on_gpu and not on_gpu
    workers = args.workers
    if workers is None:
        workers = min(16, len(os.sched_getaffinity(0))) if on_gpu else 1
    place = folder / name
    place.mkdir()
    site, fixes = None, []
    if args.stock or area.on_gpu:
        site = place / 'stock'
        site.mkdir()
        fixes = stock.make(site, 'cuda' if on_gpu else 'cpu')
    # What is measured on a CPU must not find a GPU.
    environment = {} if on_gpu else dict(CUDA_VISIBLE_DEVICES='')
    small = args.small or tried
    bench = Bench(place, data, small, site, workers, environment)
    rounds = args.rounds or area.rounds
    if small:
        rounds = min(rounds, 2)
    try:
        area(bench)
        measure.measure(
            bench.subjects,
            rounds,
            area.warm_up,
            lambda text: tell(f'{name}: {text}'),
        )
    finally:
        bench.stop()
    if tried:
        why = 'no GPU of CUDA here; it was tried on the CPU at small size'
        return why, fixes
    return measure.rows_of(bench.subjects), fixes


def main(arguments=None):
    """Run the benchmark.

    Args:
        arguments (list[str], optional): In place of ``sys.argv[1:]``.

    Returns:
        int: Exit status: 0 done, 1 something failed, 2 a wrong request.
    """
    args = parse(arguments)
    bundle.ensure_packages('torch', 'mmcv', 'mmpose')
    from benchmark import report

    result = dict(machine=report.describe_machine(), fixes=[], areas={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            data = find_data(args, folder)
            for area in args.areas:
                found = measure_area(area, args, data, folder)
                result['areas'][area], fixes = found
                result['fixes'] = fixes or result['fixes']
        except (BenchError, WorkerError) as error:
            print(f'bench.py: error: {error}', file=sys.stderr)
            return 2 if isinstance(error, BenchError) else 1
    text = report.render(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n')
    if args.markdown:
        args.markdown.write_text(text)
    print(text, end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
