"""Command-line options that several commands have; standard library only."""


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
