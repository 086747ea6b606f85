"""Command-line options that several commands have; standard library only."""

import argparse
import difflib
import os
import sys

from hourglass_npu.errors import UserError


class Parser(argparse.ArgumentParser):
    """The parser of a command's line; see :meth:`parse_args`.

    Args:
        description (str): What the command does.
        **settings: Further arguments of argparse's parser.
    """

    def __init__(self, description, **settings):
        settings.update(description=description, allow_abbrev=False)
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


def add_trust_option(parser):
    """Add the one way round the safe loading of checkpoints.

    Args:
        parser (argparse.ArgumentParser): Parser of a command, or a group.
    """
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let a checkpoint run the code that it brings along: it may then '
        'do anything that you may do; only for files of people whom you trust',
    )


def apply_trust(args):
    """Do what ``--trust-checkpoint`` says, and say so.

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
                'executed, with all that you may do',
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
        help='config of the model (default: hourglass52_mpii_384x384.py)',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='its weights (default: latest.pth in '
        'mmpose-master/work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--sample',
        action='store_true',
        help='the small model that `bash scripts/train_1p.sh --sample` trains',
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
        help='fold batch norm into the convolutions before it: faster, and '
        'the same but for rounding',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='compute in low precision, as mixed precision O2 trains '
        '(bfloat16 on a CPU)',
    )


def check_speed_options(args):
    """Refuse the options of :func:`add_speed_options` beside ``--onnx``.

    Args:
        args (argparse.Namespace): With these options and ``onnx``.

    Raises:
        ValueError: There are both.
    """
    if args.onnx and (args.amp or args.fuse_conv_bn):
        raise UserError(
            '--onnx computes as the file says: leave out --amp and '
            '--fuse-conv-bn'
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
        help='folder for logs and checkpoints '
        '(default: mmpose-master/work_dirs/CONFIG NAME)',
    )
    parser.add_argument(
        '--device',
        help='auto, cpu, npu, cuda, or one by its number such as npu:3 '
        '(default: auto, the best that is there)',
    )
    parser.add_argument(
        '--cfg-options',
        '--options',
        nargs='+',
        action='append',
        metavar='KEY=VALUE',
        help='override values of the config, e.g. data.samples_per_gpu=16',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        help="what started the processes (default: torch's launcher if its "
        'variables are set, else none)',
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
        help="set by torch's launcher",
    )
    add_trust_option(parser)


def count(text):
    """Read a whole number from 1, for an option.

    Args:
        text (str): What was typed.

    Returns:
        int: The number.

    Raises:
        ValueError: It is none; argparse says so.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
