"""The command ``hourglass``, and the way into each command.

Each command is a module of :mod:`hourglass_npu.commands` with ``main()``,
which reads ``sys.argv`` and returns a status or None.
"""

import importlib
import os
import sys

from hourglass_npu import __version__
from hourglass_npu.errors import run

COMMANDS = {
    'train': ('train', 'train a model'),
    'eval': ('evaluate', 'evaluate a checkpoint or an ONNX file'),
    'demo': ('demo', 'find joints in pictures or a video and draw them'),
    'om': ('om', 'demo or evaluation of a file compiled for an NPU'),
    'export': ('export', 'write a checkpoint as a verified ONNX file'),
    'convert': ('convert', "COCO keypoint JSON to MPII's form, or back"),
    'publish': ('publish', 'write the weights of a checkpoint for others'),
    'check': ('check', 'check a data set before a long training'),
    'browse': ('browse', 'draw a sheet of training samples'),
    'plot': ('plot', 'draw the curves of trainings'),
    'sample': ('sample', 'draw a small data set to try things with'),
    'shape': ('shape', None),  # for scripts/onnx2om.sh
}
"""Name: module of :mod:`hourglass_npu.commands`, and what it does; None for
commands that only scripts call."""


def usage():
    """Return the help of ``hourglass``.

    Returns:
        str: Several lines.
    """
    lines = [
        f'  {name:7} {text}' for name, (_, text) in COMMANDS.items() if text
    ]
    return '\n'.join(
        [
            'usage: hourglass COMMAND [OPTION ...]',
            '       hourglass COMMAND --help',
            '       hourglass --version',
            '',
            *lines,
        ]
    )


def start(command):
    """Run a command on the arguments in ``sys.argv``, and end the process.

    Args:
        command (str): Key of COMMANDS.
    """
    run(_load(command).main)


def _load(command):
    # The device seam imports torch_npu where an NPU is asked for. By torch
    # itself that would be for each data worker, and where CANN is missing
    # torch could not be imported at all.
    os.environ.setdefault('TORCH_DEVICE_BACKEND_AUTOLOAD', '0')
    _let_waiting_threads_sleep()
    return importlib.import_module(
        f'hourglass_npu.commands.{COMMANDS[command][0]}'
    )


def _let_waiting_threads_sleep():
    """Keep OpenMP's threads from spinning long, unless the user chose.

    GNU OpenMP, which reads this when torch is loaded, lets threads spin while
    they wait for each other. That takes the cores from the data workers and
    from other jobs: on two cores, beside one other job, a step took 3 s
    instead of 0.5 s. Without any spin, small layers wait for threads to wake
    up: the sample took 241 s from a fresh clone instead of 218 s.
    """
    if not os.environ.get('OMP_WAIT_POLICY'):
        os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
        os.environ.setdefault('GOMP_SPINCOUNT', '2000')


def main():
    """Run ``hourglass``, and end the process."""
    run(_main)


def _main():
    words = sys.argv[1:]
    if words in (['-h'], ['--help']):
        print(usage())
    elif words == ['--version']:
        print(f'hourglass {__version__}')
    elif not words or words[0] not in COMMANDS:
        given = f"no command '{words[0]}'" if words else 'no command'
        print(f'{usage()}\n\nerror: {given}', file=sys.stderr)
        return 2
    else:
        # argparse takes the program's name from here.
        sys.argv[:2] = [f'hourglass {words[0]}']
        return _load(words[0]).main()
    return 0
