"""The shape of the input of an exported file."""

from hourglass_npu.errors import UserError


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
        raise UserError(
            f'{path}: no file of pytorch2onnx.py (an ONNX file with the '
            'input img)'
        ) from error
    shape = [d.dim_value for d in img.type.tensor_type.shape.dim]
    if shape[0] and batch not in (0, shape[0]):
        raise UserError(
            f'{path} was exported for a batch of {shape[0]}, not {batch}; '
            'export it again without --static, or with another --shape'
        )
    shape[0] = shape[0] or batch or 1
    return shape
