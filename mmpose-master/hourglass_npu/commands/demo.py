"""Find the joints of people in pictures or a video: ``hourglass demo``.

Without arguments it takes the demo picture. The joints come from a trained
checkpoint, or with --onnx from an exported file, which needs neither torch
nor mmpose.
"""

import argparse

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import Parser, add_model_options, add_speed_options


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Find the joints of people and draw them.',
        'python3 demo.py --img a.jpg --bbox 120,40,200,460 --json',
        'python3 demo.py --img party.jpg --detector yolox_s.onnx --boxes',
    )
    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument(
        '--onnx',
        metavar='FILE',
        help='an exported file instead of config and checkpoint',
    )
    model.add_argument(
        '--om',
        metavar='FILE',
        help='a file of scripts/onnx2om.sh instead, on an NPU',
    )
    model.add_argument(
        '--device',
        metavar='NAME',
        help='cpu, npu, cuda or npu:3 (default: the best there is)',
    )
    add_speed_options(model)
    source = parser.add_argument_group('pictures and people')
    source.add_argument(
        '--img',
        nargs='+',
        metavar='SOURCE',
        help='pictures, folders, or one video, stream or camera',
    )
    who = source.add_mutually_exclusive_group()
    who.add_argument(
        '--bbox',
        action='append',
        metavar='X,Y,W,H',
        help='a person, in pixels; repeat it for more',
    )
    who.add_argument(
        '--bbox-file',
        metavar='JSON',
        help='people of each picture: MPII, COCO or mmpose',
    )
    who.add_argument(
        '--detector',
        metavar='FILE',
        help='find people with an ONNX file: YOLOX, RTMDet or YOLO',
    )
    source.add_argument(
        '--bbox-thr',
        type=float,
        default=None,
        metavar='S',
        help='lowest score of a box (default: 0.3)',
    )
    source.add_argument(
        '--det-cat-id',
        type=int,
        default=0,
        metavar='N',
        help="the detector's class (default: 0, people in COCO)",
    )
    source.add_argument(
        '--nms-thr',
        type=float,
        default=0.65,
        metavar='S',
        help='largest overlap of two of its boxes (default: 0.65)',
    )
    source.add_argument(
        '--det-kind',
        choices=['rtmdet', 'yolox', 'yolo'],
        metavar='KIND',
        help=argparse.SUPPRESS,  # docs/DEMO.md; its output tells
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
        help='file or folder (default: infer_<name> beside it)',
    )
    result.add_argument(
        '--kpt-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='lowest score of a joint that is drawn (default: 0.3)',
    )
    result.add_argument(
        '--heatmaps', action='store_true', help='draw the heatmaps as well'
    )
    result.add_argument(
        '--boxes',
        action='store_true',
        help='draw the boxes, with number and score as in --json',
    )
    result.add_argument(
        '--no-legend',
        dest='legend',
        action='store_false',
        help='leave out the legend of the colours',
    )
    result.add_argument(
        '--json',
        nargs='?',
        const='',
        metavar='FILE',
        help='write all joints (default: beside the picture)',
    )
    result.add_argument(
        '--fps',
        action='store_true',
        help='measure and print the speed',
    )
    return parser.parse_args(argv)


def main():
    """Run the demo as the command line says.

    Returns:
        int: Status 0, or 1 without people or if a picture was skipped.
    """
    args = parse_args()
    needed = ['numpy', 'cv2', 'PIL']
    if args.onnx or args.detector:
        needed.append('onnxruntime')
    if not args.onnx and not args.om:
        needed += ['torch', 'mmcv', 'mmpose']
    ensure_packages(*needed)
    from hourglass_npu.demo import run

    return run(args)
