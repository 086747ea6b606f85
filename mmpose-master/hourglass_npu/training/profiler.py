"""Where the time of training iterations goes: ``--profile``."""

import csv
import glob
import os

import torch
from mmcv.runner import Hook
from mmcv.runner.dist_utils import get_device, synchronize

from hourglass_npu.errors import UserError
from hourglass_npu.files import make_folder

WARM_UP = 3
"""Iterations before the profile: kernels are chosen and memory is got."""

ROWS = 10

WIDTH = 48
"""Characters of an operator's name."""


class ProfileHook(Hook):
    """Profile some iterations, and log the most expensive operators.

    Args:
        count (int): Iterations, after :data:`WARM_UP`.
        folder (str): Where the trace is written.
        logger (logging.Logger): Gets the table.

    Attributes:
        trace (str | None): The file, once it is written; a browser shows it
            (chrome://tracing, ui.perfetto.dev).
    """

    trace = None

    def __init__(self, count, folder, logger):
        self._count = count
        self._folder = folder
        self._logger = logger
        self._seen = 0
        self._profiler = None

    def before_train_iter(self, runner):
        """Start behind the warm-up."""
        if self._seen == WARM_UP:
            make_folder(self._folder)
            synchronize()
            self._profiler = _start(self._folder)
        self._seen += 1

    def after_train_iter(self, runner):
        """Stop after the last iteration, and tell."""
        if self._seen != WARM_UP + self._count:
            return
        synchronize()
        self.trace, rows = self._profiler.stop()
        self._logger.info(
            f'The {len(rows)} most expensive operators of {self._count} '
            f'iterations:\n{format_rows(rows)}'
        )
        self._logger.info(f'Trace for a browser: {self.trace}')


def _start(folder):
    """Start the profiler of the device in use."""
    kind = get_device().type
    if kind != 'npu':
        return _Torch(folder, kind)
    import torch_npu

    if hasattr(getattr(torch_npu, 'profiler', None), 'profile'):
        return _Ascend(folder, torch_npu.profiler)
    return _OldAscend(folder)


class _Torch:
    """torch's profiler, for a CPU or CUDA."""

    def __init__(self, folder, kind):
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if kind == 'cuda':
            activities.append(ProfilerActivity.CUDA)
        self._path = os.path.join(folder, 'trace.json')
        self._profile = profile(activities=activities)
        self._profile.__enter__()
        self._kind = kind

    def stop(self):
        self._profile.__exit__(None, None, None)
        self._profile.export_chrome_trace(self._path)
        return self._path, _rows_of(self._profile.key_averages(), self._kind)


class _OldAscend:
    """torch_npu before 2.0: torch's first profiler, with ``use_npu``."""

    def __init__(self, folder):
        self._path = os.path.join(folder, 'trace.json')
        self._profile = torch.autograd.profiler.profile(use_npu=True)
        self._profile.__enter__()

    def stop(self):
        self._profile.__exit__(None, None, None)
        self._profile.export_chrome_trace(self._path)
        return self._path, _rows_of(self._profile.key_averages(), 'npu')


class _Ascend:
    """torch_npu's profiler, which writes tables of what the NPU executed."""

    def __init__(self, folder, profiler):
        self._folder = folder
        activity = profiler.ProfilerActivity
        self._profile = profiler.profile(
            activities=[activity.CPU, activity.NPU],
            on_trace_ready=profiler.tensorboard_trace_handler(folder),
        )
        self._profile.start()

    def stop(self):
        self._profile.stop()
        traces = self._find('trace_view.json')
        kernels = self._find('kernel_details.csv')
        if not traces or not kernels:
            raise UserError(
                f'torch_npu.profiler has written no trace to {self._folder}: '
                'its tools come with the CANN toolkit; source env.sh'
            )
        return traces[-1], _rows_of_kernels(kernels[-1])

    def _find(self, name):
        pattern = os.path.join(
            glob.escape(self._folder), '*', 'ASCEND_PROFILER_OUTPUT', name
        )
        return sorted(glob.glob(pattern), key=os.path.getmtime)


def _rows_of(averages, kind):
    """Return name, calls and milliseconds of the most expensive operators."""
    # torch 2.4 and later say "device" for every device but the CPU.
    names = {
        'cpu': ('self_cpu_time_total',),
        'cuda': ('self_device_time_total', 'self_cuda_time_total'),
        'npu': ('self_npu_time_total', 'self_cpu_time_total'),
    }[kind]

    def spent(event):
        return next(getattr(event, n) for n in names if hasattr(event, n))

    # Marks that others put around operators are none.
    events = [e for e in averages if '#' not in e.key and spent(e) > 0]
    total = sum(map(spent, events)) or 1
    events.sort(key=spent, reverse=True)
    return [
        (e.key, e.count, spent(e) / 1000, spent(e) / total)
        for e in events[:ROWS]
    ]


def _rows_of_kernels(path):
    """Return the same of a table of kernels that torch_npu has written."""
    sums = {}
    with open(path, encoding='utf-8', newline='') as file:
        for row in csv.DictReader(file):
            name = row.get('Type') or row.get('Name') or 'unknown'
            calls, spent = sums.get(name, (0, 0.0))
            sums[name] = calls + 1, spent + float(row['Duration(us)'] or 0)
    total = sum(spent for _, spent in sums.values()) or 1
    order = sorted(sums, key=lambda name: -sums[name][1])[:ROWS]
    return [
        (n, sums[n][0], sums[n][1] / 1000, sums[n][1] / total) for n in order
    ]


def format_rows(rows):
    """Lay out the most expensive operators as a table.

    Args:
        rows (list[tuple]): Name, calls, milliseconds and share of all.

    Returns:
        str: A line for each, with a head.
    """
    lines = [f'{"operator":{WIDTH}} {"calls":>7} {"ms":>10} {"share":>7}']
    for name, calls, spent, share in rows:
        short = name if len(name) <= WIDTH else name[: WIDTH - 3] + '...'
        lines.append(
            f'{short:{WIDTH}} {calls:7} {spent:10.2f} {100 * share:5.1f} %'
        )
    return '\n'.join(lines)
