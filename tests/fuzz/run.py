#!/usr/bin/env python3
"""Feeds spoilt input to the bundle and counts how it takes it.

Cases run in processes of their own, some dozens in each: one that crashes or
hangs costs no other its turn, and is named by its number.
``run.py --kind K --first N --cases 1 --show`` runs one again.

Exit status: 0 all cases were used or refused, 1 there were others.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases import KINDS  # noqa: E402

SECONDS_PER_CASE = 30
"""No sound input of this size takes a tenth of it."""
MEMORY = 4 * 2**30
"""Bytes that a process of cases may come to hold."""
ENDS = ('used', 'refused', 'failed')


def parse_args(argv=None):
    """Parse the command line.

    Args:
        argv (list[str] | None): Arguments; None takes ``sys.argv``.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=10000, metavar='N')
    parser.add_argument('--first', type=int, default=0, metavar='N')
    parser.add_argument('--kind', choices=sorted(KINDS), action='append')
    parser.add_argument(
        '--json',
        metavar='FILE',
        help='write the result as it grows; a run that was cut goes on',
    )
    parser.add_argument(
        '--show', action='store_true', help='print what became of each case'
    )
    parser.add_argument('--batch', help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_batch(name, first, count, report):
    """Run cases in this process.

    Args:
        name (str): Kind.
        first (int): Number of the first case.
        count (int): How many.
        report (Callable[[int, str, str], None]): Gets number, end and words
            of each case; ``begun`` before it, then ``used``, ``refused`` or
            ``failed``.
    """
    with tempfile.TemporaryDirectory() as folder:
        kind = KINDS[name](Path(folder))
        # For what a command line names without a folder.
        os.chdir(folder)
        for number in range(first, first + count):
            report(number, 'begun', '')
            signal.alarm(SECONDS_PER_CASE)
            try:
                message = kind.run(number)
            except BaseException:
                report(number, 'failed', traceback.format_exc())
            else:
                report(number, 'refused' if message else 'used', message or '')
            signal.alarm(0)


def _batch_process(text):
    """What the process of a batch does: one line of JSON for each report."""
    name, first, count = text.split(',')
    lines = os.fdopen(os.dup(1), 'w')
    # What the cases print belongs to nobody.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def report(number, end, words):
        print(json.dumps([number, end, words]), file=lines, flush=True)

    def on_alarm(*_):
        raise TimeoutError(f'still at it after {SECONDS_PER_CASE} s')

    signal.signal(signal.SIGALRM, on_alarm)
    run_batch(name, int(first), int(count), report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report(-1, 'memory', str(peak))
    lines.close()
    os._exit(0)


def run_apart(name, first, count):
    """Run cases in a process of their own; in another after a crash.

    Args:
        name (str): Kind.
        first (int): Number of the first case.
        count (int): How many.

    Yields:
        tuple[int, str, str]: Number, end and words of each case.
    """
    end = first + count
    while first < end:
        command = [sys.executable, __file__]
        command += ['--batch', f'{name},{first},{end - first}']
        environment = dict(os.environ, OMP_NUM_THREADS='1')
        limit = 120 + SECONDS_PER_CASE * (end - first)
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                timeout=limit,
                text=True,
            )
            status, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            status, output = 'hung', error.stdout or ''
            output = output if isinstance(output, str) else output.decode()
        reports = [json.loads(line) for line in output.splitlines()]
        running = None
        for number, kind, words in reports:
            if kind == 'memory':
                if int(words) > MEMORY:
                    yield first, 'failed', f'held {words} bytes'
                running = end - 1
                continue
            running = number
            if kind != 'begun':
                yield number, kind, words
        if running is None:
            yield first, 'failed', f'no case has begun: status {status}'
            return
        if reports[-1][1] == 'begun':
            yield running, 'failed', f'the process ended: status {status}'
        first = running + 1


def main():
    """Run as the command line says."""
    args = parse_args()
    if args.batch:
        _batch_process(args.batch)
    kinds = args.kind or list(KINDS)
    total = sum(KINDS[name].share for name in kinds)
    result = {}
    if args.json and os.path.exists(args.json):
        result = json.loads(Path(args.json).read_text())
    for name in kinds:
        # Some ten seconds to a minute for each process.
        batch = 20 * KINDS[name].share
        wanted = -(-args.cases * KINDS[name].share // total)
        empty = dict.fromkeys(('used', 'refused', 'failed', 'seconds'), 0)
        found = result.setdefault(name, dict(empty, failures=[]))
        done = sum(found[end] for end in ENDS)
        for first in range(args.first + done, args.first + wanted, batch):
            begun = time.monotonic()
            count = min(batch, args.first + wanted - first)
            for number, end, words in run_apart(name, first, count):
                found[end] += 1
                if end == 'failed':
                    found['failures'].append([number, words])
                if end == 'failed' or args.show:
                    print(f'{name} {number} {end}: {words}', flush=True)
            found['seconds'] += round(time.monotonic() - begun, 1)
            if args.json:
                Path(args.json).write_text(json.dumps(result, indent=1))
        numbers = {key: found[key] for key in empty}
        print(f'{name}: {numbers}', flush=True)
    cases = sum(result[name][end] for name in kinds for end in ENDS)
    failed = sum(result[name]['failed'] for name in kinds)
    print(f'{cases} cases, {failed} failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
