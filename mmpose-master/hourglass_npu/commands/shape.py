"""Print the input shape of an exported file; for scripts/onnx2om.sh."""

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import Parser


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser('Print the input shape of an exported file: N,3,H,W.')
    parser.add_argument('file', help='file of pytorch2onnx.py')
    parser.add_argument(
        'batch',
        type=int,
        help='batch to use where the file leaves it free; 0 means the batch '
        'of the file, or 1',
    )
    return parser.parse_args(argv)


def main():
    """Print the shape."""
    args = parse_args()
    ensure_packages('onnx')
    from hourglass_npu.export.shape import input_shape

    print(*input_shape(args.file, args.batch), sep=',')
