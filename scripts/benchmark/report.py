"""Say what was measured, and on what kind of machine."""

import os
import platform
import re
from pathlib import Path

from benchmark.measure import QUOTIENTS

NOTES = dict(
    decoder='{}',
    operators='{} operators',
    host_reads='{} host reads',
    host_bytes='{} bytes read',
    dispatches='{} dispatches',
    kernels='{} kernels',
    memory='{:.0f} MiB',
    same='same result as stock: {}',
)
"""Facts that a table shows, in words."""


_FLOOR, _STOCK = 'CPU / floor', 'CPU, stock / this'
BARS = {
    ('sample', 'ours, stock config', _FLOOR): 1.12,
    ('sample', 'ours', _FLOOR): 1.06,
    ('whole loader', 'ours', _FLOOR): 1.2,
    ('whole loader', 'ours, stock config', _FLOOR): 1.5,
    ('sample', 'ours, stock config, cache', _STOCK): 7,
    ('iteration', 'ours, fp32', 'dispatches / stock'): 1.0,
    ('iteration', 'ours, bf16', _STOCK): 0.83,
}
for _variant in ('ours, bf16', 'ours, bf16, undone on the device'):
    BARS['iteration', _variant, 'dispatches / fp32'] = 1.15
    BARS['iteration', _variant, 'kernels / fp32'] = 1.05
    BARS['iteration', _variant, 'CPU / fp32'] = 1.2
"""What is wanted of the quotient of a row: at least, where it is of stock's
time over this one's; else at most."""


def describe_machine(device='cuda'):
    """Describe the machine in general terms, as text by name.

    Args:
        device (str): Kind of the device that is used, or looked for.
    """
    import cv2
    import numpy
    import torch

    found = re.findall(
        'model name\\s*: (.*)', Path('/proc/cpuinfo').read_text()
    )
    pages, size = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    there = device == 'npu' or torch.cuda.is_available()
    module = torch.npu if device == 'npu' else torch.cuda
    return dict(
        processor=found[0] if found else platform.machine(),
        cores=f'{len(os.sched_getaffinity(0))}',
        memory=f'{pages * size / 2**30:.0f} GiB',
        accelerator=module.get_device_name() if there else 'none',
        Python=platform.python_version(),
        torch=str(torch.__version__),
        numpy=numpy.__version__,
        OpenCV=cv2.__version__,
    )


def _number(value):
    """Write a number with three digits that count."""
    if value >= 100:
        return f'{value:.0f}'
    return f'{value:.{1 if value >= 10 else 2 if value >= 0.1 else 3}f}'


def _spread(summary, scale=1.0):
    low, median, high = (
        _number(summary[name] * scale) for name in ('low', 'median', 'high')
    )
    return f'{median} ({low}-{high})'


def _table(heads, lines):
    """Write a Markdown table."""
    return '\n'.join(
        '| ' + ' | '.join(cells) + ' |'
        for cells in (heads, ['---'] * len(heads), *lines)
    )


def time_table(rows):
    """Write rows of :func:`.measure.rows_of` as a Markdown table.

    That is median and quartiles of the milliseconds of one unit; CPU time;
    units per second; then quotients as far as there are any.
    """
    shown = [
        name
        for name in QUOTIENTS
        if any(name in row['quotients'] for row in rows)
    ]
    lines = []
    for row in rows:
        found = row['quotients']
        lines.append(
            [
                row['what'],
                row['variant'],
                _spread(row['wall'], 1000),
                _number(row['cpu']['median'] * 1000),
                _number(1 / max(row['wall']['median'], 1e-9)),
                *(_spread(found[n]) if n in found else '' for n in shown),
                ', '.join(
                    text.format(row['facts'][name])
                    for name, text in NOTES.items()
                    if row['facts'].get(name) is not None
                ),
            ]
        )
    heads = ['what', 'variant', 'ms', 'CPU ms', 'per second', *shown, '']
    return _table(heads, lines)


def account_table(rows):
    """Write what the time of rows was spent on as a Markdown table.

    Rows are those of :func:`.measure.rows_of` with ``account``; shown are
    medians of the CPU milliseconds of one unit.
    """
    parts = [*dict.fromkeys(part for row in rows for part in row['account'])]
    lines = []
    for row in rows:
        times = [row['account'].get(part) for part in parts] + [row['cpu']]
        medians = [time['median'] * 1000 if time else 0 for time in times]
        cells = [_number(time) if time else '' for time in medians]
        lines.append([row['variant'], *cells])
    return _table(['CPU ms', *parts, 'in all'], lines)


def bar_table(rows):
    """Write which bars are met as a Markdown table; empty without any."""
    lines = []
    for row in rows:
        for quotient, found in row['quotients'].items():
            bar = BARS.get((row['what'], row['variant'], quotient))
            if bar is not None:
                most = quotient != _STOCK
                met = (
                    (found['median'] <= bar)
                    if most
                    else (found['median'] >= bar)
                )
                lines.append(
                    [
                        f'{row["what"]}, {row["variant"]}: {quotient}',
                        f'{"at most" if most else "at least"} {bar}',
                        _spread(found),
                        'yes' if met else 'NO',
                    ]
                )
    return _table(['bar', 'wanted', 'found', 'met'], lines) if lines else ''


def render(result):
    """Write a whole result, what ``bench.py`` writes as JSON, as Markdown."""
    machine = result['machine'].items()
    parts = [', '.join(f'{name} {value}' for name, value in machine)]
    for name, rows in result['areas'].items():
        parts.append(f'**{name}**')
        if isinstance(rows, str):
            parts.append(f'Not measured: {rows}')
            continue
        accounts = [row for row in rows if 'account' in row]
        parts.append(time_table([row for row in rows if row not in accounts]))
        if accounts:
            parts += [f'**{name}, by step**', account_table(accounts)]
        bars = bar_table(rows)
        if bars:
            parts += [f'**{name}, bars**', bars]
        for row in rows:
            if 'profile' in row['facts']:
                parts.append('```\n' + row['facts']['profile'] + '```')
    if result['fixes']:
        parts += [
            'Stock is mmcv 1.2.7 and mmpose 0.8.0 as released, with these '
            'fixes, without which it does not run:',
            '\n'.join(f'- {fix}' for fix in result['fixes']),
        ]
    return '\n\n'.join(parts) + '\n'
