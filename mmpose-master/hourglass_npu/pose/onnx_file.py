"""Look into an ONNX file before ONNX Runtime gets it; standard library only.

ONNX Runtime does what a file says: it takes other files as weights, goes
round in a loop without end, and fills the memory from one constant.
"""

import functools
import operator

from hourglass_npu.errors import UserError

# What convolutional pose networks of mmpose are exported as: feed-forward,
# no control flow, no random numbers, nothing of a vendor.
OPERATORS = frozenset(
    """Add ArgMax AveragePool BatchNormalization Cast Clip Concat Constant
    ConstantOfShape Conv ConvTranspose DepthToSpace DequantizeLinear Div
    Dropout Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND
    Gemm GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish
    Identity InstanceNormalization LeakyRelu Less LessOrEqual Log MatMul Max
    MaxPool Min Mod Mul Neg Not And OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear Range
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Round
    ScatterND Shape Sigmoid Sign Slice Softmax Softplus SpaceToDepth Split
    Sqrt Squeeze Sub Tanh Tile TopK Transpose Unsqueeze Upsample
    Where""".split()
)
DETECTOR = OPERATORS | frozenset(
    """Abs Ceil CumSum Einsum LogSoftmax Mish NonMaxSuppression
    NonZero ReduceL2 ReduceProd Size Trilu""".split()
)
"""What detectors are exported with beside these, boxes chosen inside."""

# Of ONNX Runtime, for int8.
_INTEGER = 'com.microsoft', 'QLinear'
# Their constant arguments are sizes, or factors of sizes.
_SIZED = frozenset(
    'ConstantOfShape Expand OneHot Tile Range Resize Upsample'.split()
)
_MOST_ELEMENTS = 2**28
_MOST_NODES = 10**5


def check(
    content,
    path,
    operators=OPERATORS,
    kind='which no file of pytorch2onnx.py has',
):
    """Refuse a file that could do more than compute heatmaps.

    Args:
        content (bytes): The file.
        path (str): Its name, for messages.
        operators (frozenset[str]): What it may compute with.
        kind (str): Why anything else is refused, for messages.

    Returns:
        set[str]: The operators that it has.

    Raises:
        UserError: It names other files or an operator that is not among
            those, declares a tensor of more than 2**28 elements, or is no
            ONNX file.
    """
    try:
        graphs = [v for n, v in _fields(content) if n == 7]
        others = [n for n, _ in _fields(content) if n in (20, 25)]
        if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
            raise ValueError('it has no graph')
        if others:
            raise _RefusedError('functions, or steps of a training')
        return _check_graph(graphs[0], operators)
    except _RefusedError as error:
        raise UserError(
            f'{path} was not loaded: it has {error}, {kind}'
        ) from error
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is no whole ONNX file ({error})') from error


def read_properties(content, path):
    """Read the properties of a file.

    Args:
        content (bytes): The file.
        path (str): Its name, for messages.

    Returns:
        dict[str, str]: Names and values.

    Raises:
        UserError: It is no ONNX file.
    """
    try:
        pairs = [
            dict(_fields(value))
            for number, value in _fields(content)
            if number == 14
        ]
        return {_text(pair[1]): _text(pair[2]) for pair in pairs}
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise UserError(f'{path} is no whole ONNX file ({error})') from error


class _RefusedError(Exception):
    """What the file has, in words."""


def _check_graph(graph, operators):
    """Check a graph; return the operators that it has."""
    sized, constants, kinds = set(), {}, set()
    for count, (number, value) in enumerate(_fields(graph)):
        if number == 1:
            kind, names, outputs, tensors = _check_node(value, operators)
            kinds.add(kind)
            if kind in _SIZED:
                sized.update(names)
            constants.update((o, sum(tensors, [])) for o in outputs if tensors)
        elif number == 5:
            name, numbers = _check_tensor(value)
            constants[name] = numbers
        elif number == 15:
            raise _RefusedError('a sparse tensor')
        if count > _MOST_NODES:
            raise _RefusedError('very many nodes')
    for name in sized & set(constants):
        size = _product(max(1, abs(n)) for n in constants[name])
        if size > _MOST_ELEMENTS:
            raise _RefusedError(f'a constant that makes {size:.3g} elements')
    return kinds


def _check_node(node, operators):
    """Return a node's operator, inputs, outputs and constants."""
    kind, domain, names, outputs, tensors = '', '', [], [], []
    for number, value in _fields(node):
        if number == 1:
            names.append(bytes(value))
        elif number == 2:
            outputs.append(bytes(value))
        elif number == 4:
            kind = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            tensors += _check_attribute(value)
    if kind != 'Constant':
        tensors = []
    known = kind in operators and domain in ('', 'ai.onnx')
    integer = domain == _INTEGER[0] and kind.startswith(_INTEGER[1])
    if not known and not integer:
        name = f'{domain}.{kind}' if domain else kind
        raise _RefusedError(f'the operator {name[:60]!r}')
    return kind, names, outputs, tensors


def _check_attribute(attribute):
    """Return the numbers of the tensors of an attribute."""
    found = []
    for number, value in _fields(attribute):
        if number in (6, 11):
            raise _RefusedError('a graph inside of a node')
        if number in (22, 23):
            raise _RefusedError('a sparse tensor')
        if number in (5, 10):
            found.append(_check_tensor(value)[1])
        elif number in (3, 8):
            found.append(_integers(value))
    return found


def _check_tensor(tensor):
    """Return the name of a tensor, and its numbers if they are few."""
    name, kind, dims, raw, numbers = b'', 0, [], b'', []
    for number, value in _fields(tensor):
        if number == 1:
            dims += _integers(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value)
        elif number == 9:
            raw = value
        elif number == 13 or (number == 14 and value):
            raise _RefusedError('weights in another file')
        elif number in (5, 7):
            numbers += _integers(value)
        elif number in (4, 10):
            numbers += _reals(value, number == 10)
    if min(dims, default=0) < 0 or _product(dims) > _MOST_ELEMENTS:
        raise _RefusedError(f'a tensor of the shape {dims[:8]}')
    if len(raw) and _product(dims) <= 16:
        code = {1: 'f', 6: 'i', 7: 'q', 11: 'd'}.get(kind)
        numbers = list(raw.cast('B').cast(code)) if code else []
    finite = (n for n in numbers[:64] if abs(n) < 2**62)
    return name, [n for n in finite if n == n]


def _product(numbers):
    return functools.reduce(operator.mul, numbers, 1)


def _text(value):
    return bytes(value).decode('utf-8', 'replace')


def _reals(value, double):
    if isinstance(value, int):
        raise ValueError('a real number in the wrong form')
    return list(value.cast('B').cast('d' if double else 'f'))


def _integers(value):
    """Return one integer, or several that are packed."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _signed(number):
    return number - 2**64 if number >= 2**63 else number


def _varint(data, at):
    """Read a number of protobuf; return it and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError('a number without an end')


def _fields(message):
    """Iterate over the fields of a message of protobuf.

    Args:
        message (bytes | memoryview): The message.

    Yields:
        tuple[int, int | memoryview]: Number of a field and its value: an
        integer, or the bytes of anything else.
    """
    data, at = memoryview(message), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if form == 0:
            value, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(form)
            if form == 2:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError('it ends too early')
            value = data[at : at + size]
            at += size
        yield number, value
