"""Write a checkpoint as a verified ONNX file: ``hourglass export``.

The file is compared with PyTorch on real and random pictures; a file that
differs is not kept.
"""

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import Parser, add_model_options
from hourglass_npu.paths import ROOT

TOLERANCE = {'fp32': 1e-4, 'fp16': 2e-2}
"""Largest difference allowed, as a part of the highest peak: some rounding
errors of single or half precision."""


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Write a checkpoint as a verified ONNX file.',
        'hourglass export',
        'hourglass export --sample --out sample.onnx',
    )
    model = parser.add_argument_group('model')
    add_model_options(model)
    result = parser.add_argument_group('file')
    result.add_argument(
        '--out',
        metavar='FILE',
        default=str(ROOT / 'hourglass.onnx'),
        help='file to write (default: hourglass.onnx beside pytorch2onnx.py)',
    )
    result.add_argument(
        '--opset', type=int, default=11, help='operator set (default: 11)'
    )
    result.add_argument(
        '--fp16', action='store_true', help='half precision inside'
    )
    result.add_argument(
        '--int8',
        action='store_true',
        help='8-bit integers inside, calibrated on training people; kept if '
        'it loses at most one point of PCKh',
    )
    result.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='N',
        help="H W or N 3 H W of the input (default: 1 3 and the config's)",
    )
    result.add_argument(
        '--static',
        action='store_true',
        help='fix the batch to that of --shape, for ATC (default: free)',
    )
    graph = parser.add_argument_group('steps in the graph')
    graph.add_argument(
        '--preprocess',
        action='store_true',
        help='input is 8-bit RGB, N H W 3, normalised in the graph',
    )
    graph.add_argument(
        '--flip-test',
        action='store_true',
        help='average with the mirrored crop in the graph',
    )
    graph.add_argument(
        '--decode',
        action='store_true',
        help='output is joints, N 16 3: x, y in pixels of the input, score',
    )
    check = parser.add_argument_group('verification')
    check.add_argument(
        '--img',
        nargs='+',
        metavar='FILE',
        help='real pictures to compare on (default: the demo picture)',
    )
    check.add_argument(
        '--tolerance',
        type=float,
        metavar='T',
        help='largest difference, as a part of the highest peak (default: '
        f'{TOLERANCE["fp32"]:g}, with --fp16 {TOLERANCE["fp16"]:g})',
    )
    return parser.parse_args(argv)


def main():
    """Export as the command line says."""
    args = parse_args()
    ensure_packages(
        'numpy',
        'cv2',
        'PIL',
        'torch',
        'mmcv',
        'mmpose',
        'onnx',
        'onnxruntime',
    )
    from hourglass_npu.export.convert import convert

    tolerance = args.tolerance
    if tolerance is None:
        tolerance = TOLERANCE['fp16' if args.fp16 else 'fp32']
    convert(args, tolerance)
