"""Command-line options that several commands have; standard library only."""

import os
import sys


def add_trust_option(parser):
    """Adds the one way round the safe loading of checkpoints.

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
    """Does what ``--trust-checkpoint`` says, and says so.

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
    """Adds the options that choose a model: config, checkpoint, sample.

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
    """Adds the options that make inference faster.

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
    """Refuses the options of :func:`add_speed_options` beside ``--onnx``.

    Args:
        args (argparse.Namespace): With these options and ``onnx``.

    Raises:
        ValueError: If there are both.
    """
    if args.onnx and (args.amp or args.fuse_conv_bn):
        raise ValueError(
            '--onnx computes as the file says: leave --amp and '
            '--fuse-conv-bn away'
        )


def apply_speed(args, model):
    """Makes a model faster, as far as it was asked for.

    Args:
        args (argparse.Namespace): With the options of
            :func:`add_speed_options`.
        model (nn.Module): With its weights, on its device, in evaluation
            mode; changed in place.

    Raises:
        ValueError: If this torch lacks operators of the low precision.
    """
    if args.fuse_conv_bn:
        from mmcv.cnn import fuse_conv_bn

        fuse_conv_bn(model)
    if args.amp:
        from mmcv.runner.hooks.optimizer import cast_for_inference

        cast_for_inference(model)
