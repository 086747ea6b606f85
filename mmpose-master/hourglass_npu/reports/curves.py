"""Plot the curves of one or several trainings.

One figure with loss, PCKh, speed, learning rate, steps skipped for overflow,
and the share of time spent waiting for data. ``hourglass train`` draws the
figure of its own run when it ends.
"""

import json
import os

from hourglass_npu.errors import UserError
from hourglass_npu.files import replaced

# Okabe and Ito's palette; pose/joints.py uses it for people, too.
COLORS = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#E69F00',
    '#56B4E9',
    '#000000',
)
STYLES = ('-', '--', ':')

PANELS = (
    ('loss', 'loss'),
    ('PCKh', 'PCKh, %  (thin: at 0.1)'),
    ('fps', 'images per second'),
    ('lr', 'learning rate'),
    ('skipped_steps', 'steps skipped for overflow'),
    ('data_share', 'waiting for data, % of the time'),
)
"""Key in the log, and title in the figure."""

MISSING = {'skipped_steps': 'no loss scaling, so no overflow'}

NEEDED = {'mode', 'epoch', 'iter'}
"""Keys of an entry of the log; others describe the environment."""


def read_log(work_dir):
    """Read the logs of a work folder.

    A run that resumes from a checkpoint has its own log, whose iterations
    replace those of earlier logs.

    Args:
        work_dir (str): The folder.

    Returns:
        list[dict]: Entries of its ``.log.json`` files, each with its
        ``step``: iterations since the start of the first run.

    Raises:
        UserError: There is no log, or it has no iterations yet.
    """
    if not os.path.isdir(work_dir):
        raise UserError(f'there is no folder {work_dir}')
    names = sorted(n for n in os.listdir(work_dir) if n.endswith('.log.json'))
    entries = []
    for name in names:
        new = _read_entries(os.path.join(work_dir, name))
        if new:
            first = new[0]['step']
            entries = [e for e in entries if e['step'] < first] + new
    if not entries:
        raise UserError(
            f'{work_dir} has no log of a training (*.log.json) with iterations'
        )
    return entries


def _read_entries(path):
    """Return the entries of one file, without lines that are cut off."""
    entries = []
    with open(path, encoding='utf-8') as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.keys() >= NEEDED:
                entries.append(entry)
    # mmcv's own log counts iterations within an epoch.
    longest = max((e['iter'] for e in entries), default=0)
    for entry in entries:
        step = (entry['epoch'] - 1) * longest + entry['iter']
        entry.setdefault('step', step)
    return entries


def series(entries, key):
    """Return the points of a curve.

    Args:
        entries (list[dict]): See :func:`read_log`.
        key (str): One of PANELS, or another key of the log.

    Returns:
        tuple[list[int], list[float]]: Steps and values.
    """
    points = []
    for entry in entries:
        value = entry.get(key)
        if key == 'data_share' and entry.get('time'):
            value = 100 * entry['data_time'] / entry['time']
        elif key in ('loss', 'lr') and entry['mode'] != 'train':
            value = None
        elif isinstance(value, dict):  # rates of several optimisers
            value = next(iter(value.values()), None)
        if value is not None:
            points.append((entry['step'], value))
    return [step for step, _ in points], [value for _, value in points]


def plot(work_dirs, out=None):
    """Draw the figure.

    Args:
        work_dirs (Sequence[str]): Folders of trainings.
        out (str | None): File to write; see the command's ``--out``.

    Returns:
        str: The file.

    Raises:
        UserError: A folder has no log, or the file cannot be written.
    """
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = dict(zip(_names(work_dirs), map(read_log, work_dirs)))
    if out is None:
        name = 'training.png' if len(runs) == 1 else 'trainings.png'
        out = os.path.join(work_dirs[0], name)
    figure = Figure(figsize=(10, 7.2), dpi=120)
    FigureCanvasAgg(figure)
    for place, (key, title) in enumerate(PANELS, 1):
        _draw_panel(figure.add_subplot(3, 2, place), runs, key, title)
    handles, _ = figure.axes[0].get_legend_handles_labels()
    columns = 2 if len(runs) > 1 else 1
    figure.legend(
        handles,
        [_with_result(name, entries) for name, entries in runs.items()],
        loc='upper left',
        ncol=columns,
        frameon=False,
    )
    rows = (len(runs) + columns - 1) // columns
    figure.tight_layout(rect=(0, 0, 1, 0.98 - 0.028 * rows), h_pad=1.5)
    with replaced(out) as partial:
        figure.savefig(partial, format=os.path.splitext(out)[1][1:])
    return out


def _names(work_dirs):
    """Return the shortest ends of paths that differ."""
    parts = [os.path.abspath(path).split(os.sep) for path in work_dirs]
    length = 1
    while len({tuple(p[-length:]) for p in parts}) < len(parts):
        if length > max(map(len, parts)):
            raise UserError('a folder is given twice')
        length += 1
    return [os.sep.join(p[-length:]) for p in parts]


def _with_result(name, entries):
    """Return the name of a run, with its last PCKh."""
    _, scores = series(entries, 'PCKh')
    return f'{name}: PCKh {scores[-1]:.2f} %' if scores else name


def _draw_panel(axes, runs, key, title):
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

    drawn = []
    for number, (name, entries) in enumerate(runs.items()):
        style = dict(
            color=COLORS[number % len(COLORS)],
            linestyle=STYLES[number // len(COLORS) % len(STYLES)],
            linewidth=1.5,
        )
        steps, values = series(entries, key)
        drawn += values
        if key == 'PCKh':
            axes.plot(
                steps, values, label=name, marker='o', markersize=4, **style
            )
            style['linewidth'] = 0.8
            axes.plot(*series(entries, 'PCKh@0.1'), marker='.', **style)
        elif key == 'skipped_steps':
            axes.step(steps, values, label=name, where='post', **style)
        else:
            axes.plot(steps, values, label=name, **style)
    last = max(entries[-1]['step'] for entries in runs.values())
    axes.set_title(title, loc='left', fontsize=10)
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    axes.grid(color='0.9', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color='0.6')
    if not drawn:
        axes.set_yticks([])
        axes.text(
            *(0.5, 0.5, MISSING.get(key, 'not in the log')),
            transform=axes.transAxes,
            ha='center',
            va='center',
            color='0.5',
        )
    elif key == 'loss' and min(drawn) > 0:
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axes.minorticks_off()
    elif key == 'PCKh':
        axes.set_ylim(0, 100)
    else:
        # Start at zero, so that a change of one percent looks small.
        top = max((v for v in drawn if v < float('inf')), default=0)
        axes.set_ylim(0, 1.1 * top if top > 0 else 1)
        if key == 'skipped_steps':
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if axes.get_subplotspec().rowspan.stop == 3:
        axes.set_xlabel('iteration', fontsize=9)
