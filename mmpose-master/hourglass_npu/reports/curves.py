"""Plot the curves of one or several trainings.

One figure with loss, score, speed, learning rate, steps skipped for overflow,
and the share of time spent waiting for data, as far as the log has them.
``hourglass train`` draws the figure of its own run when it ends.
"""

import os

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json_lines, replaced

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
    ('score', 'score, %'),
    ('fps', 'images per second'),
    ('lr', 'learning rate'),
    ('skipped_steps', 'steps skipped for overflow'),
    ('data_share', 'waiting for data, % of the time'),
)
"""Key in the log, and title in the figure."""

SCORES = {'PCKh': 'PCKh@0.1', 'PCK': 'PCK@0.05', 'AP': 'AP .5', 'AUC': None}
"""What data sets are evaluated by, and a second score: thin in the figure."""

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
    entries = [
        entry
        for entry in read_json_lines(path)
        if entry.keys() >= NEEDED
        and all(
            type(entry.get(key, 0)) is int and 0 <= entry.get(key, 0) < 2**53
            for key in ('epoch', 'iter', 'step')
        )
    ]
    # mmcv's own log counts iterations within an epoch.
    longest = max((e['iter'] for e in entries), default=0)
    for entry in entries:
        step = (entry['epoch'] - 1) * longest + entry['iter']
        entry.setdefault('step', step)
    return entries


def _is_number(value):
    return type(value) in (int, float) and abs(value) < 1e300


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
        if key == 'data_share':
            times = entry.get('data_time'), entry.get('time')
            if all(map(_is_number, times)) and times[1]:
                value = 100 * times[0] / times[1]
        elif key in ('loss', 'lr') and entry['mode'] != 'train':
            value = None
        elif isinstance(value, dict):  # rates of several optimizers
            value = next(iter(value.values()), None)
        if _is_number(value):
            points.append((entry['step'], value))
    return [step for step, _ in points], [value for _, value in points]


def score_of(entries):
    """Return the score that a training is evaluated by.

    Args:
        entries (list[dict]): See :func:`read_log`.

    Returns:
        str | None: Key of SCORES; None if nothing was evaluated.
    """
    return next((k for k in SCORES if series(entries, k)[0]), None)


def _percentages(entries, key):
    """Return a curve of scores; COCO's are shares of one."""
    steps, values = series(entries, key)
    factor = 1 if key.startswith('PCK') else 100
    return steps, [factor * value for value in values]


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
    panels = [panel for panel in PANELS if _has_points(runs, panel[0])]
    if not panels:
        raise UserError(f'{work_dirs[0]}: nothing in its log can be drawn')
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 2.4 * max(rows, 2)), dpi=120)
    FigureCanvasAgg(figure)
    for place, (key, title) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, 2, place)
        _draw_panel(axes, runs, key, title)
        if place > len(panels) - 2:
            axes.set_xlabel('iteration', fontsize=9)
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
        figure.savefig(partial, format=os.path.splitext(out)[1][1:] or 'png')
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
    """Return the name of a run, with its last score."""
    key = score_of(entries)
    if key is None:
        return name
    _, scores = _percentages(entries, key)
    return f'{name}: {key} {scores[-1]:.2f} %'


def _has_points(runs, key):
    if key == 'score':
        return any(map(score_of, runs.values()))
    return any(series(entries, key)[0] for entries in runs.values())


def _draw_panel(axes, runs, key, title):
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

    drawn, titles = [], {}
    for number, (name, entries) in enumerate(runs.items()):
        style = dict(
            color=COLORS[number % len(COLORS)],
            linestyle=STYLES[number // len(COLORS) % len(STYLES)],
            linewidth=1.5,
        )
        score = score_of(entries)
        if key == 'score' and score is None:
            axes.plot([], [], label=name, **style)  # for the legend
            continue
        if key == 'score':
            steps, values = _percentages(entries, score)
        else:
            steps, values = series(entries, key)
        drawn += values
        if key == 'score':
            titles[score] = SCORES[score]
            axes.plot(
                steps, values, label=name, marker='o', markersize=4, **style
            )
            style['linewidth'] = 0.8
            if SCORES[score]:
                thin = _percentages(entries, SCORES[score])
                axes.plot(*thin, marker='.', **style)
        elif key == 'skipped_steps':
            axes.step(steps, values, label=name, where='post', **style)
        else:
            if len(steps) == 1:  # no line to be seen
                style['marker'] = 'o'
            axes.plot(steps, values, label=name, **style)
    last = max(entries[-1]['step'] for entries in runs.values())
    if titles:
        title = ' and '.join(titles) + ', %'
        thin = list(filter(None, titles.values()))
        title += f'  (thin: {" and ".join(thin)})' if thin else ''
    axes.set_title(title, loc='left', fontsize=10)
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    axes.grid(color='0.9', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color='0.6')
    if key == 'loss' and min(drawn) > 0:
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axes.minorticks_off()
    elif key == 'score':
        axes.set_ylim(0, 100)
    else:
        # Start at zero, so that a change of one percent looks small.
        top = max((v for v in drawn if v < float('inf')), default=0)
        axes.set_ylim(0, 1.1 * top if top > 0 else 1)
        if key == 'skipped_steps':
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
