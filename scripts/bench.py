#!/usr/bin/env python3
"""Measures the bundle beside stock mmpose, in one run on one machine.

Stock and ours take turns, round after round, each in processes of its own;
tables give medians, quartiles and ratios. Nothing is downloaded.

Examples:
  python3 scripts/bench.py --stock pipeline step
  python3 scripts/bench.py --stock --json bench.json > bench.md
  python3 scripts/bench.py cuda
  python3 scripts/bench.py --device npu
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmark import bundle, measure
from benchmark.areas import AREAS, Bench


def parse(arguments=None):
    """Read the command line."""
    areas = [
        f'  {name:9} {function.__doc__.splitlines()[0]}'
        for name, function in AREAS.items()
    ]
    default = [name for name in AREAS if AREAS[name].default]
    parser = argparse.ArgumentParser(
        prog='bench.py',
        description=__doc__,
        epilog='\n'.join(
            ['areas:', *areas, '', 'example: python3 scripts/bench.py --small']
        ),
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
        '--device',
        choices=('cpu', 'cuda', 'npu'),
        help='where ours trains: then cuda or npu is the default area, '
        'beside which train and ranks can be measured there (default: the '
        'CPU, but for cuda and npu)',
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
    add('--json', metavar='FILE', help='write all numbers')
    args = parser.parse_args(arguments)
    unknown = [name for name in args.areas if name not in AREAS]
    if unknown:
        parser.error(f'no area {", ".join(unknown)}; there are: {[*AREAS]}')
    for name, least in (('rounds', 1), ('workers', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f'--{name} {value}: at least {least}')
    for name in ('annotations/mpii_train.json', 'images'):
        if args.data and not (args.data / name).exists():
            parser.error(f'--data {args.data}: there is no {name} in it')
    if args.device in AREAS:
        default = [args.device]
    args.areas = args.areas or default
    for name in args.areas if args.device else ():
        area = AREAS[name]
        host = args.device == 'cpu'
        if not (host or area.trains) or area.device not in (None, args.device):
            parser.error(f'area {name} does not train on {args.device}')
    if args.stock and 'npu' in (args.device, *args.areas):
        parser.error('stock mmpose knows no NPU: leave --stock out')
    if args.json:
        bundle.check_output(args.json, ['.json'])
    return args


def tell(text):
    """Say on stderr what is going on."""
    print(f'bench.py: {text}', file=sys.stderr, flush=True)


def measure_area(name, args, data, folder):
    """Measure one area in an empty folder.

    Returns:
        tuple[list[dict] | str, list[str]]: Rows, or why it was not measured;
        and the fixes of the baseline.
    """
    from mmcv.runner.dist_utils import device_count

    from benchmark import stock

    area = AREAS[name]
    kind = args.device or area.device or 'cpu'
    tried = not device_count(kind)
    if tried:
        kind = 'cpu'
    workers = args.workers
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        workers = 1 if kind == 'cpu' else min(16, cores)
    site, fixes = None, []
    if args.stock or area.device == 'cuda':
        site = folder / 'stock'
        fixes = stock.make(site, kind)
    small = args.small or tried
    # What is measured on a CPU must not find a GPU; stock would.
    environment = {} if kind == 'cuda' else dict(CUDA_VISIBLE_DEVICES='')
    bench = Bench(folder, data, small, site, workers, environment, kind)
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
        what = dict(cuda='GPU of CUDA', npu='NPU')[area.device]
        why = f'no {what} here; it was tried on the CPU at small size'
        return why, fixes
    return measure.rows_of(bench.subjects), fixes


def main(arguments=None):
    """Run the benchmark.

    Args:
        arguments (list[str], optional): In place of ``sys.argv[1:]``.
    """
    args = parse(arguments)
    # As in a command: data workers need no torch_npu.
    os.environ.setdefault('TORCH_DEVICE_BACKEND_AUTOLOAD', '0')
    bundle.ensure_packages()
    from mmcv.runner.dist_utils import probe

    from benchmark import report

    count, reason = probe(args.device or 'cpu')
    if not count:
        raise bundle.UserError(f'--device {args.device}: {reason}')
    on_npu = 'npu' in (args.device, *args.areas) and probe('npu')[0]
    machine = report.describe_machine('npu' if on_npu else 'cuda')
    result = dict(machine=machine, fixes=[], areas={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = args.data and args.data.resolve()
        if data is None:
            data = folder / 'data'
            count = 4 if args.small else 40
            tell(f'drawing {count} pictures of 1280x720')
            bundle.draw_data(data, train=count, val=4)
        for area in args.areas:
            place = folder / area
            place.mkdir()
            rows, fixes = measure_area(area, args, data, place)
            result['areas'][area] = rows
            result['fixes'] = fixes or result['fixes']
    if args.json:
        bundle.write_json(args.json, result, indent=1)
    print(report.render(result), end='')


if __name__ == '__main__':
    bundle.run(main)
