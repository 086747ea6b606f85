#!/usr/bin/env python3
"""Prints the shape of the input of a file of pytorch2onnx.py: N,3,H,W.

usage: onnx_shape.py FILE BATCH, with a batch of 0 for that of the file, or 1
where the file leaves it free.
"""

import os
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '../..'))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))

from bootstrap import ensure_packages  # noqa: E402


def input_shape(path, batch):
    """Reads the shape of the input.

    Args:
        path (str): File of ONNX.
        batch (int): Where the file leaves it free; 0 for 1.

    Returns:
        list[int]: Four sizes.

    Raises:
        ValueError: It is no such file, or has another batch.
    """
    import onnx

    try:
        model = onnx.load(path)
        (img,) = (i for i in model.graph.input if i.name == 'img')
    except Exception as error:
        raise ValueError(
            f'{path}: no file of pytorch2onnx.py (an ONNX file with the '
            'input img)'
        ) from error
    shape = [d.dim_value for d in img.type.tensor_type.shape.dim]
    if shape[0] and batch not in (0, shape[0]):
        raise ValueError(
            f'{path} was exported for a batch of {shape[0]}, not {batch}; '
            'export it again without --static, or with another --shape'
        )
    shape[0] = shape[0] or batch or 1
    return shape


if __name__ == '__main__':
    ensure_packages('onnx')
    try:
        print(*input_shape(sys.argv[1], int(sys.argv[2])), sep=',')
    except ValueError as error:
        sys.exit(f'onnx_shape.py: error: {error}')
