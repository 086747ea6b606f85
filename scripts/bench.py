#!/usr/bin/env python3
"""Measures the bundle beside stock mmpose, in one run on one machine.

Stock and ours take turns, round after round, each in processes of its own;
tables give medians, quartiles and ratios. Nothing is downloaded.

areas:
  pipeline  input: samples, their steps, whole loaders, beside the floor
  step      training step without the network, and the optimiser
  eval      evaluation with flip test
  train     training end to end on one device, fp32 and low precision
  ranks     training end to end in 1, 2, 4 and 8 processes
  epochs    from the end of an epoch to the first batch of the next
  onnx      inference in torch and in ONNX Runtime
  cuda      training on a GPU, from JPEGs and from memory, with a profile
  scaling   what docs/SCALING.md predicts, against throttled links

Examples:
  python3 scripts/bench.py --stock pipeline step
  python3 scripts/bench.py --stock --json bench.json --markdown bench.md
  python3 scripts/bench.py cuda
"""

import argparse
import contextlib
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AREAS = 'pipeline step eval train ranks epochs onnx cuda scaling'.split()
DEFAULT_AREAS = ['pipeline', 'step', 'eval', 'train', 'onnx']


class BenchError(Exception):
    """Something that the person at the keyboard can put right."""


def parse(arguments):
    """Read the command line."""
    summary, _, rest = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='bench.py',
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        'areas',
        nargs='*',
        metavar='AREA',
        help=f'what to measure (default: {" ".join(DEFAULT_AREAS)})',
    )
    parser.add_argument(
        '--stock',
        action='store_true',
        help='measure stock mmpose, too; cuda always does',
    )
    parser.add_argument(
        '--small',
        action='store_true',
        help='small network and few rounds, to see that everything runs',
    )
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        help='cuda measures train as the area cuda (default: cpu)',
    )
    parser.add_argument(
        '--rounds', type=int, metavar='N', help='rounds of each area'
    )
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='data workers of each training process (default: 1; cuda: as '
        'many as there are cores, up to 16)',
    )
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DIR',
        help="a data set in MPII's form (default: pictures of 1280x720, "
        'drawn for the run)',
    )
    parser.add_argument('--json', type=Path, metavar='FILE')
    parser.add_argument('--markdown', type=Path, metavar='FILE')
    args = parser.parse_args(arguments)
    unknown = [name for name in args.areas if name not in AREAS]
    if unknown:
        parser.error(f'no area {", ".join(unknown)}; there are: {AREAS}')
    if args.rounds is not None and args.rounds < 1:
        parser.error(f'--rounds {args.rounds}: at least 1')
    if args.workers is not None and args.workers < 0:
        parser.error(f'--workers {args.workers}: at least 0')
    args.areas = args.areas or list(DEFAULT_AREAS)
    if args.device == 'cuda':
        args.areas = [
            'cuda' if name == 'train' else name for name in args.areas
        ]
    return args


def tell(text):
    """Say on stderr what is going on."""
    print(f'bench.py: {text}', file=sys.stderr, flush=True)


def find_data(args, folder):
    """Return the data set to measure with; draws one if none is named.

    Raises:
        BenchError: The named one is no data set, or drawing failed.
    """
    if args.data is not None:
        for name in ('annotations/mpii_train.json', 'images'):
            if not (args.data / name).exists():
                raise BenchError(
                    f'--data {args.data}: there is no {name} in it'
                )
        return args.data.resolve()
    data = folder / 'data'
    count = 4 if args.small else 40
    tell(f'drawing {count} pictures of 1280x720')
    tool = ROOT / 'mmpose-master' / 'tools' / 'make_sample_mpii.py'
    command = [sys.executable, str(tool), '--out', str(data)]
    command += ['--train', str(count), '--val', '4']
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise BenchError(f'drawing the data failed:\n{done.stdout}')
    return data


def has_cuda():
    """Tell whether torch finds a GPU of CUDA."""
    import torch

    return torch.cuda.is_available()


@functools.lru_cache(maxsize=None)
def make_stock(folder, device):
    """Make the baseline for a kind of device, once for all areas.

    Returns:
        tuple[Path, list[str]]: Its folder, and what was changed in it.
    """
    from benchmark import stock

    site = folder / f'stock-{device}'
    site.mkdir()
    return site, stock.make(site, device)


def measure_area(name, args, data, folder):
    """Measure one area.

    Returns:
        tuple[list[dict], list[str]]: Rows, and the fixes of the baseline.
    """
    from benchmark import areas, measure

    on_gpu = name == 'cuda' or args.device == 'cuda'
    tried = on_gpu and not has_cuda()
    workers = args.workers
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        workers = min(16, cores) if on_gpu and not tried else 1
    device = 'cuda' if on_gpu and not tried else 'cpu'
    site, fixes = None, []
    if args.stock or name == 'cuda':
        site, fixes = make_stock(folder, device)
    place = folder / name
    place.mkdir()
    bench = areas.Bench(
        place,
        data,
        small=args.small or tried,
        site=site,
        device=device,
        workers=workers,
    )
    rounds = args.rounds or areas.ROUNDS.get(name, 7)
    if bench.small:
        rounds = min(rounds, 2)
    try:
        subjects = areas.AREAS[name](bench)
        measure.measure(
            subjects,
            rounds,
            # What is long warms itself up, and skips its first iterations.
            warm_up=name not in areas.ROUNDS,
            progress=lambda text: tell(f'{name}: {text}'),
        )
    finally:
        bench.stop()
    rows = measure.rows_of(subjects)
    compare(rows)
    if name == 'cuda':
        say_share(rows)
    if tried:
        why = 'no GPU of CUDA here; it was tried on the CPU at small size'
        rows = [
            dict(what=row['what'], variant=row['variant'], why=why)
            for row in rows
        ]
    return rows, fixes


def measure_scaling(args):
    """Compare steps of ranks on throttled links with the model on paper.

    Returns:
        list[dict]: Rows.
    """
    from benchmark import scaling
    from benchmark.measure import SCRIPTS, WorkerError

    why = scaling.why_not()
    if why:
        return [dict(why=f'links cannot be throttled here: {why}')]
    tell('scaling: ranks on throttled links')
    command = [*scaling.NAMESPACE, sys.executable, '-m', 'benchmark.scaling']
    done = subprocess.run(
        command + ['small'] * args.small,
        env=dict(os.environ, PYTHONPATH=str(SCRIPTS)),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise WorkerError(f'scaling ended with status {done.returncode}')
    return json.loads(done.stdout)


def compare(rows):
    """Add to each row whether it made what stock made, where that is known."""
    for row in rows:
        for other in rows:
            if (other['what'], other['variant']) == (row['what'], 'stock'):
                for key in ('digest', 'joints', 'loss'):
                    found = row['facts'].get(key)
                    wanted = other['facts'].get(key)
                    if other is row or found is None or wanted is None:
                        continue
                    row['facts']['same'] = 'yes' if found == wanted else 'NO'
                    if key == 'loss' and found != wanted:
                        # Another order of summation, or another loss?
                        off = abs(found / wanted - 1)
                        row['facts']['same'] = f'to {off:.0e}'


def say_share(rows):
    """Add to each training row its share of the arithmetic limit."""
    limit = [row for row in rows if row['what'] == 'arithmetic limit']
    for row in rows:
        if row['what'].startswith('image'):
            row['facts']['share'] = (
                limit[0]['wall']['median'] / row['wall']['median']
            )


def main(arguments=None):
    """Run the benchmark.

    Args:
        arguments (list[str], optional): In place of ``sys.argv[1:]``.

    Returns:
        int: Exit status: 0 done, 1 something failed, 2 a wrong request.
    """
    args = parse(arguments)
    bootstrap = ROOT / 'mmpose-master/hourglass_npu/bootstrap.py'
    runpy.run_path(str(bootstrap))['ensure_packages']()
    from benchmark import report
    from benchmark.measure import WorkerError

    result = dict(machine=report.describe_machine(), fixes=[], areas={})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            data = find_data(args, folder)
            for name in args.areas:
                if name == 'scaling':
                    result['areas'][name] = measure_scaling(args)
                    continue
                rows, fixes = measure_area(name, args, data, folder)
                result['areas'][name] = rows
                result['fixes'] = fixes or result['fixes']
        except BenchError as error:
            print(f'bench.py: error: {error}', file=sys.stderr)
            return 2
        except WorkerError as error:
            print(f'bench.py: error: {error}', file=sys.stderr)
            return 1
    text = report.render(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n')
    if args.markdown:
        args.markdown.write_text(text)
    print(text, end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
