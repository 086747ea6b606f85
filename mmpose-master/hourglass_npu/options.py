"""Command-line options that several commands have; standard library only."""

import argparse
import difflib
import os
import sys

from hourglass_npu.errors import UserError


class _ScreenHelp(argparse.RawDescriptionHelpFormatter):
    """Help that fits a screen: one name for each option, a short usage."""

    def add_usage(self, usage, actions, groups, prefix=None):
        words = ['%(prog)s']
        for action in actions:
            if not action.option_strings:
                words.append(self._format_args(action, action.dest.upper()))
        super().add_usage(' '.join(words + ['[OPTION ...]']), [], [], prefix)

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0]
        if action.nargs == 0:
            return name
        default = self._get_default_metavar_for_optional(action)
        return f'{name} {self._format_args(action, default)}'

    def _format_args(self, action, default_metavar):
        if action.nargs == '+':
            return f'{action.metavar or default_metavar} ...'
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """The parser of a command's line; see :meth:`parse_args`.

    Args:
        description (str): What the command does.
        *examples (str): Command lines that show how it is used.
        **settings: Further arguments of argparse's parser.
    """

    def __init__(self, description, *examples, **settings):
        settings.update(description=description, allow_abbrev=False)
        settings.setdefault('formatter_class', _ScreenHelp)
        if examples:
            settings['epilog'] = '\n  '.join(['examples:', *examples])
        super().__init__(**settings)

    def parse_args(self, args=None, namespace=None):
        """Parse a command line; name the nearest to an unknown option.

        Args:
            args (list[str] | None): Arguments; None takes ``sys.argv``.
            namespace (argparse.Namespace | None): As argparse has it.

        Returns:
            argparse.Namespace: The options. Wrong ones end the process with
            status 2.
        """
        for line in find_near_variables(os.environ):
            print(line, file=sys.stderr)
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = ''
            known = [s for a in self._actions for s in a.option_strings]
            word = unknown[0].split('=')[0]
            near = difflib.get_close_matches(word, known, 1)
            if near:
                hint = f' (did you mean {near[0]}?)'
            self.error(f'unknown argument {unknown[0]}{hint}')
        return found


VARIABLES = (
    'HOURGLASS_PYTHONPATH',
    'HOURGLASS_TRACEBACK',
    'HOURGLASS_ZOO',
    'MASTER_ADDR',
    'MASTER_PORT',
    'MPII_ROOT',
    'NNODES',
    'NODE_RANK',
    'NPROC',
    'NPUID',
    'NPU_INTERNAL_FORMAT',
    'NPU_JIT_COMPILE',
    'OMP_NUM_THREADS',
)
"""Variables that a user sets, of the scripts as well."""


def find_near_variables(environment):
    """Find variables that were meant for us, but are named otherwise.

    Args:
        environment (Mapping[str, str]): Variables.

    Returns:
        list[str]: A warning for each; none in a process of a launcher, which
        has told them before it started several.
    """
    if 'RANK' in environment:
        return []
    near = {}
    for name in sorted(set(environment) - set(VARIABLES)):
        match = difflib.get_close_matches(name.upper(), VARIABLES, 1, 0.88)
        if match and match[0] not in environment:
            near[name] = match[0]
    return [
        f'warning: {name}={environment[name]} has no effect: did you mean '
        f'{known}?'
        for name, known in near.items()
    ]


def add_trust_option(parser):
    """Add the option that lets checkpoints run code.

    Args:
        parser (argparse.ArgumentParser): Parser of a command, or a group.
    """
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let a checkpoint run code: only if you trust its author',
    )


def apply_trust(args):
    """Obey ``--trust-checkpoint``, with a warning.

    Args:
        args (argparse.Namespace): With the option of
            :func:`add_trust_option`.
    """
    if args.trust_checkpoint:
        from mmcv.runner.checkpoint import trust_checkpoints

        trust_checkpoints()
        if os.environ.get('RANK', '0') == '0':
            print(
                'warning: --trust-checkpoint: code in the checkpoint is '
                'executed with all your rights',
                file=sys.stderr,
            )


def add_model_options(parser):
    """Add the options that choose a model: config, checkpoint, sample.

    Args:
        parser (argparse.ArgumentParser): Parser of a command, or a group.
    """
    parser.add_argument(
        '--config',
        metavar='FILE',
        help='config (default: hourglass52_mpii_384x384.py)',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='weights, or zoo (default: latest.pth of the config)',
    )
    parser.add_argument(
        '--sample',
        action='store_true',
        help='the model of `bash scripts/train_1p.sh --sample`',
    )
    add_trust_option(parser)


def add_speed_options(parser):
    """Add the options that make inference faster.

    Args:
        parser (argparse.ArgumentParser): Parser of a command, or a group.
    """
    parser.add_argument(
        '--fuse-conv-bn',
        action='store_true',
        help='fold batch norm into the convolutions: faster',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='compute in low precision (bfloat16 on a CPU)',
    )


def check_speed_options(args):
    """Refuse the options of :func:`add_speed_options` beside a file.

    Args:
        args (argparse.Namespace): With these options, ``onnx`` and ``om``.

    Raises:
        ValueError: There are both.
    """
    if (args.onnx or args.om) and (args.amp or args.fuse_conv_bn):
        raise UserError(
            f'{"--onnx" if args.onnx else "--om"} computes as the file says: '
            'leave out --amp and --fuse-conv-bn'
        )


def apply_speed(args, model):
    """Make a model faster, as far as it was asked for.

    Args:
        args (argparse.Namespace): With the options of
            :func:`add_speed_options`.
        model (nn.Module): With its weights, on its device, in evaluation
            mode; changed in place.

    Raises:
        ValueError: This torch lacks operators of the low precision.
    """
    if args.fuse_conv_bn:
        from mmcv.cnn import fuse_conv_bn

        fuse_conv_bn(model)
    if args.amp:
        from hourglass_npu.o2.casting import cast_for_inference

        cast_for_inference(model)


def add_options(parser):
    """Add the options that every command has.

    Args:
        parser (argparse.ArgumentParser): Changed in place.
    """
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='logs and checkpoints (default: mmpose-master/work_dirs/CONFIG)',
    )
    parser.add_argument(
        '--device',
        metavar='NAME',
        help='cpu, npu, cuda or npu:3 (default: the best available)',
    )
    parser.add_argument(
        '--cfg-options',
        '--options',
        nargs='+',
        action='append',
        metavar='KEY=VALUE',
        help='override the config: data.samples_per_gpu=16',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        metavar='NAME',
        help='what started the processes: none, pytorch, slurm or mpi',
    )
    # What scripts/launch.sh asks before it starts several processes, each of
    # which would say what is wrong.
    parser.add_argument(
        '--check-request', action='store_true', help=argparse.SUPPRESS
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        help=argparse.SUPPRESS,  # set by torch's launcher
    )
    add_trust_option(parser)


def count(text):
    """Read a whole number, at least 1, for an option.

    Args:
        text (str): What was typed.

    Returns:
        int: The number.

    Raises:
        ValueError: It is none; argparse reports it.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
