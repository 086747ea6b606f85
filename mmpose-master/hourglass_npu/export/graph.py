"""Writes a pose network as ONNX, and proves that the file does the same."""

import contextlib
import copy
import inspect
import json
import os
import warnings

import numpy as np
import onnx
import torch
from mmcv.cnn import fuse_conv_bn
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.pose.backends import (
    OnnxNetwork,
    last_heatmaps,
    settings_to_properties,
)
from hourglass_npu.pose.decode import flip_order
from hourglass_npu.process import silence


class WrongFile(UserError):
    """A file of ONNX that must not be kept; the message says why."""

    exit_status = 1


class DeployedNetwork(nn.Module):
    """What is exported: the network, and what is folded into the graph.

    Args:
        model (nn.Module): mmpose's top-down model.
        settings (Settings): Of the model.
        preprocess (bool): Take 8-bit RGB crops [N, h, w, 3] in place of
            normalised ones [N, 3, h, w].
        flip_test (bool): Average with the mirrored crop.
        decode (bool): Give joints [N, K, 3] (x, y in pixels of the crop,
            score) in place of heatmaps [N, K, h/4, w/4].
    """

    def __init__(
        self, model, settings, preprocess=False, flip_test=False, decode=False
    ):
        super().__init__()
        # Folding changes the weights: the caller keeps his model.
        model = copy.deepcopy(model).float().cpu().eval()
        self.model = fuse_conv_bn(model)
        self.preprocess = preprocess
        self.flip_test = flip_test
        self.decode = decode
        self.shift = settings.shift_heatmap
        self.refine = settings.post_process
        if decode and settings.unbiased_decoding and self.refine:
            raise UserError(
                '--decode knows the shift by a quarter of a cell; this '
                'config asks for unbiased_decoding'
            )
        # (x / 255 - mean) / std as one product and one sum.
        std = torch.tensor(settings.std).view(1, 3, 1, 1)
        mean = torch.tensor(settings.mean).view(1, 3, 1, 1)
        self.register_buffer('gain', 1 / (255 * std))
        self.register_buffer('offset', -mean / std)
        order = flip_order(settings.flip_pairs, len(settings.joints))
        self.register_buffer('order', torch.tensor(order))

    def forward(self, img):
        """Runs the network.

        Args:
            img (Tensor): Crops, see the class.

        Returns:
            Tensor: Heatmaps or joints, see the class.
        """
        if self.preprocess:
            img = img.permute(0, 3, 1, 2).float() * self.gain + self.offset
        heatmaps = self._with_flip_test(img)
        return self._joints(heatmaps, img) if self.decode else heatmaps

    def _with_flip_test(self, img):
        if not self.flip_test:
            return last_heatmaps(self.model, img)
        # Both in one batch. Reversing by an index, and parting by a
        # reshape of fixed size, leaves no arithmetic on shapes in the
        # graph, which compilers for fixed shapes do not like.
        both = torch.cat([img, _mirrored(img)])
        both = last_heatmaps(self.model, both)
        both = both.reshape((2, -1) + tuple(int(n) for n in both.shape[1:]))
        back = _mirrored(both[1].index_select(1, self.order))
        if self.shift:
            back = torch.cat([back[..., :1], back[..., :-1]], dim=3)
        return (both[0] + back) * 0.5

    def _joints(self, heatmaps, img):
        """Peaks with the shift by a quarter, as topdown.decode has them."""
        _, joints, height, width = (int(n) for n in heatmaps.shape)
        flat = heatmaps.reshape(-1, joints, height * width)
        score, index = flat.max(dim=2, keepdim=True)
        y = torch.floor(index.float() / width)
        x = index.float() - y * width
        inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        shift = [torch.zeros_like(x), torch.zeros_like(y)]
        if self.refine:
            # Where a peak is not inner, the neighbours are not used, and
            # only have to exist.
            # As numbers with a point: ONNX cannot limit whole numbers
            # before opset 12.
            last = (height - 1) * width - 1
            middle = torch.clamp(index.float(), width, last).long()
            for axis, step in enumerate((1, width)):
                after = flat.gather(2, middle + step)
                before = flat.gather(2, middle - step)
                quarter = torch.sign(after - before) * 0.25
                shift[axis] = quarter * inner.float()
        place = torch.cat([x + shift[0], y + shift[1]], dim=2)
        there = (score > 0).float()
        place = place * there - (1 - there)
        return torch.cat([place * (int(img.shape[3]) / width), score], dim=2)


def export(network, path, shape, opset=11, static=False):
    """Traces a network into a file of ONNX.

    Args:
        network (DeployedNetwork): What to export.
        path (str): File to write.
        shape (Sequence[int]): Batch, height and width of the input.
        opset (int): Version of ONNX' operators.
        static (bool): Fix the batch; otherwise it is free.

    Raises:
        ValueError: This torch cannot export, or not with this opset.
    """
    output = 'joints' if network.decode else 'heatmap'
    options = dict(
        input_names=['img'],
        output_names=[output],
        opset_version=opset,
        do_constant_folding=True,
    )
    if not static:
        options['dynamic_axes'] = {'img': {0: 'batch'}, output: {0: 'batch'}}
    known = inspect.signature(torch.onnx.export).parameters
    if 'dynamo' in known:
        # The exporter that follows the opset asked for and needs nothing
        # else installed. Where the argument is missing, torch has only one.
        options['dynamo'] = False
    example = _example_input(network, shape)
    try:
        with warnings.catch_warnings(), torch.no_grad(), silence(1):
            # Of the tracer, about sizes that are meant to be constants, and
            # about its own age.
            warnings.simplefilter('ignore')
            torch.onnx.export(network, (example,), path, **options)
    except Exception as error:
        raise UserError(
            f'torch {torch.__version__} cannot export with opset {opset}: '
            f'{str(error).strip().splitlines()[0]}'
        ) from error


def finish(path, opset, properties):
    """Checks the file as such, and writes properties into it.

    Args:
        path (str): File of :func:`export`; it is rewritten.
        opset (int): Version that it must have.
        properties (dict[str, str]): Kept in the file.

    Raises:
        WrongFile: The file has another opset, or batch normalisation is
            left in it.
    """
    model = onnx.load(path)
    model = _with_opset(model, opset)
    left = [n for n in model.graph.node if n.op_type == 'BatchNormalization']
    if left:
        raise WrongFile(
            f'{len(left)} batch normalisations could not be folded into '
            'convolutions'
        )
    helper.set_model_props(model, properties)
    onnx.save(model, path)


def to_half(path):
    """Turns weights and arithmetic of a file into half precision.

    Input and output keep their types, so that whoever runs the file need
    not know of it. Scores are compared and joints are read in single
    precision only if the graph does so after its last convolution, which
    :func:`verify` finds out.

    Args:
        path (str): File of :func:`finish`; it is rewritten.
    """
    model = onnx.load(path)
    graph = model.graph
    nodes = list(graph.node)
    start, end = arithmetic(nodes)
    body = nodes[start : end + 1]
    used = {name for node in body for name in node.input}
    made = {name for node in body for name in node.output}
    outside = nodes[:start] + nodes[end + 1 :]
    shared = {name for node in outside for name in node.input}
    # Resize demands single precision for its factors.
    factors = {
        name
        for node in body
        if node.op_type in ('Resize', 'Upsample')
        for name in node.input[1:]
    }
    for weights in graph.initializer:
        name = weights.name
        if name not in used - shared - factors:
            continue
        if weights.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(numpy_helper.from_array(half, name))
    inputs = {graph.input[0].name} | {
        o for n in nodes[:start] for o in n.output
    }
    casts_in = _cast(body, inputs & used, 'input', TensorProto.FLOAT16)
    results = shared | {o.name for o in graph.output}
    casts_out = _cast(body, made & results, 'output', TensorProto.FLOAT)
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(
        nodes[:start] + casts_in + body + casts_out + nodes[end + 1 :]
    )
    onnx.save(model, path)


def verify(path, reference, batches, static=False):
    """Compares a file with the checkpoint it was made of.

    Both run as demo.py runs them, so that what is folded into the graph is
    held against its counterpart in topdown.py, and the folded weights
    against those that were trained.

    Args:
        path (str): File of ONNX.
        reference (TorchNetwork): The checkpoint.
        batches (dict[str, np.ndarray[N, h, w, 3]]): 8-bit RGB crops to
            compare on, by a name.
        static (bool): The batch should be fixed.

    Returns:
        tuple[dict[str, float], float]: For each of ``batches`` the largest
        difference, in units of the heatmaps; the highest peak of them all.

    Raises:
        WrongFile: The file breaks ONNX' rules, shapes cannot be inferred,
            or the output has another shape or is not finite.
    """
    check_form(path, None, static)
    try:
        network = OnnxNetwork(path, 'cpu')
    except ValueError as error:
        raise WrongFile(str(error)) from error
    network.settings = reference.settings
    differences = {}
    peak = 0.0
    for name, crops in batches.items():
        there = network(crops)
        heatmaps = reference(crops)
        shape = heatmaps.shape
        if network.decodes:
            shape = shape[:2] + (3,)
        if there.shape != shape or not np.isfinite(there).all():
            raise WrongFile(
                f'{name}: the output of the file is {there.shape} where '
                f'{shape} was expected, or has numbers that are not finite'
            )
        peak = max(peak, float(np.abs(heatmaps).max()))
        if network.decodes:
            differences[name] = joint_difference(
                heatmaps,
                there,
                crops.shape[2] / heatmaps.shape[3],
                reference.settings.post_process,
            )
        else:
            differences[name] = float(np.abs(there - heatmaps).max())
    return differences, peak


def joint_difference(heatmaps, joints, stride, refine=True):
    """Smallest error of heatmaps that would explain decoded joints.

    Two cells that differ by less than rounding may change places, which
    moves a joint far without anything being wrong; so it is the heights that
    are compared.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): As they should be.
        joints (np.ndarray[N, K, 3]): x, y (crop) and score, as they are.
        stride (float): Pixels of the crop per cell.
        refine (bool): Whether they have the shift by a quarter.

    Returns:
        float: In units of the heatmaps; infinite for joints that are not on
        any cell.
    """
    width = heatmaps.shape[3]
    worst = 0.0
    for person in range(len(heatmaps)):
        for joint, (x, y, score) in enumerate(joints[person]):
            heat = heatmaps[person, joint].astype(np.float64)
            worst = max(worst, abs(heat.max() - score))
            x, y = x / stride, y / stride
            if score <= 0:
                if (x, y) != (-1, -1):
                    return float('inf')
                continue
            column, row = int(round(x)), int(round(y))
            if not (0 <= row < heat.shape[0] and 0 <= column < width):
                return float('inf')
            worst = max(worst, heat.max() - heat[row, column])
            inner = 1 < column < width - 1 and 1 < row < heat.shape[0] - 1
            slopes = (0.0, 0.0)
            if inner and refine:
                slopes = (
                    heat[row, column + 1] - heat[row, column - 1],
                    heat[row + 1, column] - heat[row - 1, column],
                )
            for moved, slope in zip((x - column, y - row), slopes):
                if abs(moved - 0.25 * np.sign(slope)) > 1e-3:
                    if abs(moved) > 0.251 or not (inner and refine):
                        return float('inf')
                    worst = max(worst, abs(slope))
    return float(worst)


def make_properties(settings, network, **more):
    """What is written into a file about itself.

    Args:
        settings (Settings): Of the model.
        network (DeployedNetwork): What is exported.
        more: Further names and values.

    Returns:
        dict[str, str]: Names and values; those that networks.py reads are in
        JSON.
    """
    properties = settings_to_properties(settings)
    properties['graph'] = json.dumps(
        {
            'preprocess': network.preprocess,
            'flip_test': network.flip_test,
            'decode': network.decode,
        }
    )
    properties.update({k: str(v) for k, v in more.items() if v is not None})
    return properties


def training_result(checkpoint, meta):
    """Epoch and PCKh of a checkpoint, as far as they are known.

    Args:
        checkpoint (str): Its file; logs are looked for beside it.
        meta (dict): Its ``meta``.

    Returns:
        dict: Maybe 'epoch', 'iter', 'PCKh'.
    """
    result = {k: meta[k] for k in ('epoch', 'iter') if k in meta}
    folder = os.path.dirname(os.path.realpath(checkpoint))
    logs = []
    with contextlib.suppress(OSError):
        logs = sorted(
            name for name in os.listdir(folder) if name.endswith('.log.json')
        )
    for name in logs:
        with open(os.path.join(folder, name), encoding='utf-8') as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if 'PCKh' in entry and entry.get('epoch') == result.get(
                        'epoch'
                    ):
                        result['PCKh'] = entry['PCKh']
    return result


def check_form(path, opset, static):
    """Checks a file by ONNX' own rules, its opset and the batch of its output.

    Args:
        path (str): File of ONNX.
        opset (int | None): Version that it must have; None for any.
        static (bool): Whether the batch should be fixed.

    Raises:
        WrongFile: If something is wrong.
    """
    model = onnx.load(path)
    found = [o.version for o in model.opset_import if not o.domain]
    if opset is not None and found != [opset]:
        raise WrongFile(f'the file has opset {found}, not {opset}')
    try:
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:
        raise WrongFile(f'the file is not valid ONNX: {error}') from error
    (output,) = model.graph.output
    dims = output.type.tensor_type.shape.dim
    shape = [d.dim_value or d.dim_param or '?' for d in dims]
    fixed = [isinstance(n, int) for n in shape]
    if fixed != [static] + [True] * (len(shape) - 1):
        raise WrongFile(
            f'the batch should be {"fixed" if static else "free"} and all '
            f'else fixed, but the inferred shape of the output is {shape}'
        )


def arithmetic(nodes):
    """Finds what makes up the network itself.

    Args:
        nodes (list[NodeProto]): Of a graph, in their order.

    Returns:
        tuple[int, int]: Places of the first and the last convolution.
    """
    convolutions = [i for i, n in enumerate(nodes) if n.op_type == 'Conv']
    return convolutions[0], convolutions[-1]


def _example_input(network, shape):
    """Random input of the right kind.

    Args:
        network (DeployedNetwork): For which.
        shape (Sequence[int]): Batch, height and width.

    Returns:
        Tensor: 8-bit [N, h, w, 3] or normalised [N, 3, h, w].
    """
    generator = torch.Generator().manual_seed(0)
    batch, height, width = shape
    if network.preprocess:
        size = (batch, height, width, 3)
        return torch.randint(
            0, 256, size, generator=generator, dtype=torch.uint8
        )
    return torch.randn(batch, 3, height, width, generator=generator)


def _mirrored(batch):
    """Reverses the last axis."""
    index = torch.arange(int(batch.shape[3]) - 1, -1, -1)
    return batch.index_select(3, index)


def _with_opset(model, opset):
    """The model with this opset; converted if the exporter wrote another."""
    found = [
        o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')
    ]
    if found == [opset]:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise WrongFile(
            f'this torch writes opset {found}, and ONNX cannot convert it '
            f'to {opset}: {error}'
        ) from error


def _cast(body, names, mark, kind):
    """Makes casts for tensors that pass into or out of half precision.

    The nodes of ``body`` are changed to use the half-precision names.
    """
    casts = []
    for name in sorted(names):
        half = f'{name}_half'
        for node in body:
            for side in (node.input, node.output):
                for i, used in enumerate(side):
                    if used == name:
                        side[i] = half
        ends = (name, half) if mark == 'input' else (half, name)
        casts.append(
            helper.make_node(
                'Cast', [ends[0]], [ends[1]], f'cast_{half}', to=kind
            )
        )
    return casts
