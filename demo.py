#!/usr/bin/env python3
"""Picture in, picture out: finds the joints of people and draws them.

Without arguments the picture that comes with the project is taken. The
joints come from a trained checkpoint, or with --onnx from an exported file,
for which neither torch nor mmpose is needed.
"""

import argparse
import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [
    os.path.join(ROOT, 'scripts'),
    os.path.join(ROOT, 'mmpose-master', 'tools'),
]

from bootstrap import ensure_packages  # noqa: E402
from options import add_model_options, add_speed_options  # noqa: E402


def parse_args(argv=None):
    """Parses the command line.

    Args:
        argv (list[str]): Arguments; those of the process by default.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='examples:\n'
        '  python3 demo.py --sample\n'
        '  python3 demo.py --img a.jpg --bbox 120,40,200,460 --json\n'
        '  python3 demo.py --img holiday/ --detect --out poses/\n'
        '  python3 demo.py --img clip.mp4 --onnx hourglass.onnx --fps',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument(
        '--onnx',
        metavar='FILE',
        help='a file of pytorch2onnx.py in place of config and checkpoint',
    )
    model.add_argument(
        '--device',
        help='npu, cuda or cpu, npu:1 for the second (default: the first of '
        'these that is there)',
    )
    add_speed_options(model)
    source = parser.add_argument_group('pictures and people')
    source.add_argument(
        '--img',
        nargs='+',
        metavar='SOURCE',
        help='pictures, folders of pictures, or one video or number of a '
        'camera (default: demo_mpii.jpg with its people)',
    )
    who = source.add_mutually_exclusive_group()
    who.add_argument(
        '--bbox',
        action='append',
        metavar='X,Y,W,H',
        help='a person in pixels; may be repeated (default: the whole picture '
        'is one person)',
    )
    who.add_argument(
        '--bbox-file',
        metavar='JSON',
        help='people by the names of their pictures: MPII or COCO',
    )
    who.add_argument(
        '--detect',
        action='store_true',
        help="find people with OpenCV's HOG detector (upright people only)",
    )
    source.add_argument(
        '--bbox-thr',
        type=float,
        default=None,
        metavar='S',
        help='lowest score of a box of --bbox-file or --detect',
    )
    source.add_argument(
        '--frames',
        type=int,
        metavar='N',
        help='stop a video after N frames',
    )
    result = parser.add_argument_group('result')
    result.add_argument(
        '--out',
        metavar='PATH',
        help='file or folder (default: infer_<name> beside each picture)',
    )
    result.add_argument(
        '--kpt-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='joints with a lower score are not drawn (default: 0.3)',
    )
    result.add_argument(
        '--heatmaps', action='store_true', help='draw the heatmaps as well'
    )
    result.add_argument(
        '--json',
        nargs='?',
        const='',
        metavar='FILE',
        help='write all joints: name, pixel, score (default: beside the '
        'picture that is written)',
    )
    result.add_argument(
        '--fps',
        action='store_true',
        help='measure and print the speed',
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the command.

    Args:
        argv (list[str]): Arguments; those of the process by default.

    Returns:
        int: Exit status: 0 done, 1 nothing found or a picture left out, 2 a
        mistake in the request.
    """
    args = parse_args(argv)
    if args.onnx:
        ensure_packages('numpy', 'cv2', 'PIL', 'onnxruntime')
    else:
        ensure_packages('numpy', 'cv2', 'PIL', 'torch', 'mmcv', 'mmpose')
    from infer import run

    try:
        return run(args)
    except ValueError as error:
        print(f'demo.py: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
