"""Print the input shape of an exported file; for scripts/onnx2om.sh.

It also writes the file's properties, which no OM can hold.
"""

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes, write_json
from hourglass_npu.options import Parser
from hourglass_npu.pose import onnx_file


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Print the input shape of an exported file: N,3,H,W.',
        'hourglass shape hourglass.onnx',
    )
    parser.add_argument('file', help='file of pytorch2onnx.py')
    parser.add_argument(
        'batch',
        help='batch to use where the file leaves it free; 0 means the batch '
        'of the file, or 1; several as 1,4,8 give -1',
    )
    parser.add_argument(
        '--properties',
        metavar='JSON',
        help='write the properties of the file to JSON',
    )
    return parser.parse_args(argv)


def input_shape(path, batches):
    """Read the shape of the input.

    Args:
        path (str): ONNX file.
        batches (list[int]): Batch to use where the file leaves it free; 0
            means 1. Several give -1.

    Returns:
        list[int]: Four sizes.

    Raises:
        UserError: It is no file of pytorch2onnx.py, or has another batch.
    """
    import onnx

    reason = (
        f'{path}: no file of pytorch2onnx.py (an ONNX file with the input img)'
    )
    content = read_bytes(path)
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf raises anything at broken files
        raise UserError(reason) from error
    inputs = [i for i in model.graph.input if i.name == 'img']
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise UserError(reason)
    (img,) = inputs
    shape = [d.dim_value for d in img.type.tensor_type.shape.dim]
    if len(set(batches)) < len(batches):
        raise UserError(f'--batch {batches}: names a batch twice')
    batch = -1 if len(batches) > 1 else batches[0]
    if shape[0] and batch not in (0, shape[0]):
        raise UserError(
            f'{path} was exported for a batch of {shape[0]}, not '
            f'{",".join(map(str, batches))}; '
            'export it again without --static, or with another --shape'
        )
    shape[0] = shape[0] or batch or 1
    return shape


def main():
    """Print the shape."""
    args = parse_args()
    ensure_packages('onnx')
    batches = [int(word) for word in str(args.batch).split(',')]
    print(*input_shape(args.file, batches), sep=',')
    content = read_bytes(args.file)
    properties = onnx_file.read_properties(content, args.file)
    if args.properties and properties:
        write_json(args.properties, properties)
