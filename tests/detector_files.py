"""Tiny ONNX files that pretend to be detectors: they find given boxes."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64


def save(path, outputs, side=SIDE, kind=TensorProto.FLOAT, nodes=()):
    """Write a detector with constant outputs.

    Args:
        path (pathlib.Path): The file.
        outputs (dict[str, np.ndarray]): By name.
        side (int | None): Width and height of the input; None leaves both
            free.
        kind (int): Type of the input.
        nodes (Sequence[NodeProto]): Further nodes.

    Returns:
        str: The path.
    """
    types = {np.dtype(np.float32): TensorProto.FLOAT}
    types[np.dtype(np.int64)] = TensorProto.INT64
    sizes = [1, 3, side or 'h', side or 'w']
    made = [
        helper.make_node('Identity', [f'{name}_values'], [name])
        for name in outputs
    ]
    graph = helper.make_graph(
        [*made, *nodes],
        'detector',
        [helper.make_tensor_value_info('images', kind, sizes)],
        [
            helper.make_tensor_value_info(name, types[v.dtype], v.shape)
            for name, v in outputs.items()
        ],
        [
            numpy_helper.from_array(value, f'{name}_values')
            for name, value in outputs.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', 11)]
    )
    model.ir_version = 6
    onnx.save(model, str(path))
    return str(path)


def cells(side=SIDE):
    """Return the number of cells of YOLOX for an input of this side."""
    return sum((side // stride) ** 2 for stride in (8, 16, 32))
