"""Says what was measured, and on what kind of machine."""

import os
import platform
import re

from benchmark.measure import ACCOUNT

NOT_MEASURED = 'not measured'


def processor():
    """Return the name of the processor."""
    try:
        with open('/proc/cpuinfo') as stream:
            names = re.findall(r'^model name\s*: (.*)$', stream.read(), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def memory():
    """Return the machine's memory in GiB, None where it cannot be had."""
    try:
        pages, size = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return None
    return round(pages * size / 2**30)


def describe_machine():
    """Describe the machine in general terms.

    Returns:
        dict: ``processor``, ``cores`` that this process may use, ``memory``
        in GiB, versions of Python and of what computes, ``accelerator``.
    """
    import cv2
    import numpy
    import torch

    return dict(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=memory(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        numpy=numpy.__version__,
        opencv=cv2.__version__,
        accelerator=(
            torch.cuda.get_device_name() if torch.cuda.is_available() else None
        ),
    )


def machine_line(machine):
    """Put the description of a machine into one line."""
    return (
        f'{machine["processor"]}, {machine["cores"]} cores, '
        f'{machine["memory"]} GiB, '
        f'{machine["accelerator"] or "no accelerator"}; Python '
        f'{machine["python"]}, torch {machine["torch"]}, numpy '
        f'{machine["numpy"]}, OpenCV {machine["opencv"]}'
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


QUOTIENTS = dict(
    to_floor='CPU / floor',
    to_middle='CPU / floor, middle',
    stock_wall='stock / this',
    stock_cpu='CPU, stock / this',
)


def table(rows):
    """Write rows of :func:`.measure.rows_of` as a Markdown table.

    Args:
        rows (list[dict]): Rows; one without ``wall`` was not measured.

    Returns:
        str: Median and quartiles of the milliseconds of one unit; CPU time;
        units per second; then quotients, round by round, as far as there
        are any: this one's CPU time over a floor's, and stock's times over
        this one's.
    """
    shown = [name for name in QUOTIENTS if any(name in row for row in rows)]
    heads = ['what', 'variant', 'ms', 'CPU ms', 'per second']
    heads += [QUOTIENTS[name] for name in shown] + ['']
    lines = [_line(heads), '|' + '---|' * len(heads)]
    for row in rows:
        cells = [row['what'], row['variant']]
        if 'wall' in row:
            cells += [
                _spread(row['wall'], 1000),
                _number(row['cpu']['median'] * 1000),
                _number(1 / max(row['wall']['median'], 1e-9)),
            ]
            for name in shown:
                itself = row['variant'] == name.split('_')[0]
                found = name in row and not itself
                cells.append(_spread(row[name]) if found else '')
            cells.append(_note(row['facts']))
        else:
            cells += [NOT_MEASURED] + [''] * (len(heads) - 4)
            cells.append(row.get('why', ''))
        lines.append(_line(cells))
    return '\n'.join(lines)


def _line(cells):
    return '| ' + ' | '.join(cells) + ' |'


def account_table(rows):
    """Write what the time of rows was spent on as a Markdown table.

    Args:
        rows (list[dict]): Rows of :func:`.measure.rows_of` with ``account``.

    Returns:
        str: Medians of the CPU milliseconds of one unit, by part.
    """
    heads = ['CPU ms', *rows[0]['account'], 'in all']
    lines = [_line(heads), '|' + '---|' * len(heads)]
    for row in rows:
        times = [*row['account'].values(), row['cpu']]
        times = [time['median'] * 1000 for time in times]
        cells = [_number(time) if time else '' for time in times]
        lines.append(_line([row['variant'], *cells]))
    return '\n'.join(lines)


def scaling_table(rows):
    """Write rows of :func:`.scaling.check` as a Markdown table.

    Args:
        rows (list[dict]): Rows; a single one with ``why`` where the links
            could not be throttled.

    Returns:
        str: Milliseconds of a step, on paper and by the clock.
    """
    lines = [
        '| ranks | Mbit/s | reduced | on paper, ms | measured, ms | '
        'measured / paper |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        if 'why' in row:
            lines.append(f'| | | | | {NOT_MEASURED} | {row["why"]} |')
            continue
        quotient = row['measured']['median'] / row['predicted']
        when = 'during backward' if row['overlap'] else 'after backward'
        if row['compression'] is not None:
            when += f', {row["compression"]}'
        lines.append(
            f'| {row["ranks"]} | {row["megabits"]} | {when} | '
            f'{_number(row["predicted"] * 1000)} | '
            f'{_spread(row["measured"], 1000)} | {quotient:.2f} |'
        )
    return '\n'.join(lines)


NOTES = dict(
    decoder='{}',
    operators='{} operators',
    host_reads='{} host reads',
    host_bytes='{} bytes read',
    memory='{:.0f} MiB',
    same='same result as stock: {}',
    share='{:.1%} of the arithmetic limit',
)


def _note(facts):
    """Put the facts that a table shows into words."""
    return ', '.join(
        text.format(facts[name])
        for name, text in NOTES.items()
        if facts.get(name) is not None
    )


def render(result):
    """Write a whole result as Markdown.

    Args:
        result (dict): What ``bench.py`` writes as JSON.

    Returns:
        str: The text.
    """
    parts = [machine_line(result['machine'])]
    for name, rows in result['areas'].items():
        write = scaling_table if name == 'scaling' else table
        accounts = [row for row in rows if 'account' in row]
        rows = [row for row in rows if 'account' not in row]
        parts.append(f'**{name}**\n\n{write(rows)}')
        if accounts:
            parts.append(f'**{ACCOUNT}**\n\n{account_table(accounts)}')
        for row in rows:
            if 'profile' in row.get('facts', {}):
                parts.append(_profile(row))
    if result['fixes']:
        parts.append(
            'Stock is mmcv 1.2.7 and mmpose 0.8.0 as released, with these '
            'fixes, without which it does not run:\n\n'
            + '\n'.join(f'- {fix}' for fix in result['fixes'])
        )
    return '\n\n'.join(parts) + '\n'


def _profile(row):
    """Write where the time of a row goes."""
    lines = [
        f'Operators of {row["what"]}, {row["variant"]}, by their own time:',
        '',
        '| operator | calls | share |',
        '|---|---|---|',
    ]
    for name, calls, share in row['facts']['profile']:
        lines.append(f'| `{name}` | {calls} | {share:.1%} |')
    return '\n'.join(lines)
