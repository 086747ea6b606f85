"""Write a pose network as ONNX, and prove that the file does the same."""

import contextlib
import copy
import importlib.util
import inspect
import json
import os
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from mmcv.cnn import fuse_conv_bn
from onnx import helper
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.pose.backends import (
    OnnxNetwork,
    last_heatmaps,
    settings_to_properties,
)
from hourglass_npu.pose.heatmaps import decode_heatmaps, merge_flipped, mirror
from hourglass_npu.process import silence
from hourglass_npu.reports.curves import read_log


class WrongFile(UserError):
    """An ONNX file that must not be kept; the message says why."""

    exit_status = 1


class DeployedNetwork(nn.Module):
    """The network to export, and the steps that the graph contains.

    Args:
        model (nn.Module): mmpose's top-down model.
        settings (Settings): Of the model.
        preprocess (bool): Take 8-bit RGB crops, Tensor[N, h, w, 3], instead
            of normalised ones, Tensor[N, 3, h, w].
        flip_test (bool): Average with the mirrored crop.
        decode (bool): Return joints, Tensor[N, K, 3] (x, y in pixels of the
            crop, score), instead of heatmaps, Tensor[N, K, h/4, w/4].

    Raises:
        UserError: The graph cannot contain this decoding.
    """

    def __init__(
        self, model, settings, preprocess=False, flip_test=False, decode=False
    ):
        super().__init__()
        # A copy, because folding changes the weights.
        model = copy.deepcopy(model).float().cpu().eval()
        self.model = fuse_conv_bn(model)
        self.preprocess = preprocess
        self.flip_test = flip_test
        self.decode = decode
        self.settings = settings
        if decode and settings.unbiased_decoding and settings.post_process:
            raise UserError(
                '--decode can only shift a peak by a quarter of a cell; this '
                'config asks for unbiased_decoding'
            )
        # (x / 255 - mean) / std as one product and one sum.
        std = torch.tensor(settings.std).view(1, 3, 1, 1)
        mean = torch.tensor(settings.mean).view(1, 3, 1, 1)
        self.register_buffer('gain', 1 / (255 * std))
        self.register_buffer('offset', -mean / std)

    def forward(self, img):
        """Run the network.

        Args:
            img (Tensor): Crops, see the class.

        Returns:
            Tensor: Heatmaps or joints, see the class.
        """
        if self.preprocess:
            img = img.permute(0, 3, 1, 2).float() * self.gain + self.offset
        heatmaps = self._heatmaps(img)
        if not self.decode:
            return heatmaps
        joints = decode_heatmaps(heatmaps, self.settings.post_process)
        stride = int(img.shape[3]) / int(heatmaps.shape[3])
        return joints * torch.tensor([stride, stride, 1.0])

    def _heatmaps(self, img):
        if not self.flip_test:
            return last_heatmaps(self.model, img)
        # Run both in one batch, and split it by a reshape of fixed size:
        # compilers for fixed shapes do not like arithmetic on shapes.
        both = last_heatmaps(self.model, torch.cat([img, mirror(img)]))
        both = both.reshape((2, -1) + tuple(int(n) for n in both.shape[1:]))
        return merge_flipped(
            *(both[0], both[1]),
            self.settings.joints.flip_pairs,
            self.settings.shift_heatmap,
        )


def export(network, path, shape, opset=11, static=False):
    """Trace a network into an ONNX file.

    Args:
        network (DeployedNetwork): The network.
        path (str): File to write.
        shape (Sequence[int]): Batch, height and width of the input.
        opset (int): Version of ONNX' operators.
        static (bool): Fix the batch; otherwise it is free.

    Raises:
        UserError: This torch cannot export with this opset.
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
        # The exporter that obeys the opset and needs no other package. Where
        # the argument is missing, torch has only this one.
        options['dynamo'] = False
    example = _example_input(network, shape)
    with torch.no_grad(), warnings.catch_warnings(), silence(1):
        # Run it alone first: what fails here is no matter of the opset.
        network(example)
        # The tracer warns of sizes that are constants on purpose, and that
        # it is outdated.
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(network, (example,), path, **options)
        except Exception as error:  # depends on the version of torch
            reason = str(error).strip() or type(error).__name__
            raise UserError(
                f'torch {torch.__version__} cannot export with opset {opset}:'
                f' {reason.splitlines()[0]}'
            ) from error


def finish(path, opset, properties):
    """Check an exported file, and write properties into it.

    Args:
        path (str): File of :func:`export`; it is rewritten.
        opset (int): Version that it must have.
        properties (dict[str, str]): To be kept in the file.

    Raises:
        WrongFile: The file has another opset, or batch normalisation is
            left in it.
    """
    model = _with_opset(onnx.load(path), opset)
    left = [n for n in model.graph.node if n.op_type == 'BatchNormalization']
    if left:
        raise WrongFile(
            f'{len(left)} batch normalisations could not be folded into '
            'convolutions'
        )
    helper.set_model_props(model, properties)
    onnx.save(model, path)


def to_half(path):
    """Convert weights and arithmetic of a file to half precision.

    Only the network itself is converted: input, output, and the steps before
    the first and after the last convolution stay in single precision.

    Args:
        path (str): File of :func:`finish`; it is rewritten.
    """
    model = onnx.load(path)
    graph = model.graph
    nodes = list(graph.node)
    start, end = arithmetic(nodes)
    body, outside = nodes[start : end + 1], nodes[:start] + nodes[end + 1 :]
    made = {name for node in body for name in node.output}
    used = {name for node in body for name in node.input}
    needed = {name for node in outside for name in node.input}
    given = {name for node in nodes[:start] for name in node.output}
    given |= {value.name for value in graph.input}
    needed |= {value.name for value in graph.output}
    # The converter would send the rest through half precision as well, so it
    # gets the network alone, as a model of its own.
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = [*inferred.input, *inferred.value_info, *inferred.output]
    part = helper.make_model(
        helper.make_graph(
            body,
            'network',
            [value for value in types if value.name in given & used],
            [value for value in types if value.name in made & needed],
            [w for w in graph.initializer if w.name in used],
        ),
        opset_imports=model.opset_import,
    )
    part = _converter().convert_float_to_float16(part, keep_io_types=True)
    weights = [w for w in graph.initializer if w.name in needed - used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    network = _in_order(part.graph.node)
    graph.node.extend([*nodes[:start], *network, *nodes[end + 1 :]])
    graph.initializer.extend([*weights, *part.graph.initializer])
    onnx.save(model, path)


def _in_order(nodes):
    """Return nodes so that each follows those that it depends on.

    The converter appends its casts at the end.
    """
    order, waiting = [], list(nodes)
    late = {name for node in waiting for name in node.output}
    while waiting:
        rest = []
        for node in waiting:
            if late.isdisjoint(node.input):
                late.difference_update(node.output)
                order.append(node)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            raise RuntimeError('the graph has a cycle')
        waiting = rest
    return order


def _converter():
    """Load onnxruntime/transformers/float16.py, which needs only onnx.

    By its path: in ONNX Runtime 1.12 importing its package needs Hugging
    Face's transformers.
    """
    path = os.path.join(
        os.path.dirname(onnxruntime.__file__), 'transformers', 'float16.py'
    )
    spec = importlib.util.spec_from_file_location('onnxruntime_float16', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verify(path, reference, batches, static=False):
    """Compare a file with its checkpoint.

    Both run as demo.py runs them, so that steps in the graph are compared
    with their counterparts in decode.py, and folded weights with the trained
    ones.

    Args:
        path (str): ONNX file.
        reference (TorchNetwork): The checkpoint.
        batches (dict[str, np.ndarray[N, h, w, 3]]): 8-bit RGB crops to
            compare on, by a name.
        static (bool): The batch must be fixed.

    Returns:
        tuple[dict[str, float], float]: For each of ``batches`` the largest
        difference, in units of the heatmaps; the highest peak of all.

    Raises:
        WrongFile: The file breaks ONNX's rules, shapes cannot be inferred,
            or the output has another shape or is not finite.
    """
    check_form(path, None, static)
    try:
        network = OnnxNetwork(path, 'cpu')
    except UserError as error:
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
                f'{name}: the output of the file has shape {there.shape}, not '
                f'{shape}, or has numbers that are not finite'
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
    """Return the smallest error of heatmaps that explains decoded joints.

    Rounding can make another cell the highest one, which moves a joint far
    though nothing is wrong. So heights are compared, not places.

    Args:
        heatmaps (np.ndarray[N, K, h, w]): Right heatmaps.
        joints (np.ndarray[N, K, 3]): Joints to check: x, y (crop) and score.
        stride (float): Pixels of the crop per cell.
        refine (bool): The joints have the shift by a quarter.

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
    """Collect the properties of a file.

    Args:
        settings (Settings): Of the model.
        network (DeployedNetwork): The exported network.
        more: Further names and values.

    Returns:
        dict[str, str]: Names and values; those that backends.py reads are in
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
    """Return epoch and PCKh of a checkpoint, as far as they are known.

    Args:
        checkpoint (str): Its file; the logs are in the same folder.
        meta (dict): Its ``meta``.

    Returns:
        dict: Maybe 'epoch', 'iter', 'PCKh'.
    """
    result = {
        key: meta[key]
        for key in ('epoch', 'iter')
        if type(meta.get(key)) is int and 0 <= meta[key] < 2**53
    }
    folder = os.path.dirname(os.path.realpath(checkpoint))
    with contextlib.suppress(UserError):  # there is no log
        for entry in read_log(folder):
            score = entry.get('PCKh')
            same = entry['epoch'] == result.get('epoch')
            if same and isinstance(score, (int, float)):
                result['PCKh'] = score
    return result


def check_form(path, opset, static):
    """Check a file by ONNX's own rules, its opset and its output's batch.

    Args:
        path (str): ONNX file.
        opset (int | None): Version that it must have; None for any.
        static (bool): The batch must be fixed; otherwise it must be free.

    Raises:
        WrongFile: A check fails.
    """
    model = onnx.load(path)
    found = [o.version for o in model.opset_import if not o.domain]
    if opset is not None and found != [opset]:
        raise WrongFile(f'the file has opset {found}, not {opset}')
    try:
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise WrongFile(f'the file is not valid ONNX: {error}') from error
    (output,) = model.graph.output
    dims = output.type.tensor_type.shape.dim
    shape = [d.dim_value or d.dim_param or '?' for d in dims]
    fixed = [isinstance(n, int) for n in shape]
    if fixed != [static] + [True] * (len(shape) - 1):
        raise WrongFile(
            f'the batch must be {"fixed" if static else "free"} and all other '
            f'sizes fixed, but the inferred shape of the output is {shape}'
        )


def arithmetic(nodes):
    """Find the network itself: all between two convolutions.

    Args:
        nodes (list[NodeProto]): Of a graph, in order.

    Returns:
        tuple[int, int]: Places of the first and the last convolution.
    """
    convolutions = [i for i, n in enumerate(nodes) if n.op_type == 'Conv']
    return convolutions[0], convolutions[-1]


def _example_input(network, shape):
    """Make random input for a network.

    Args:
        network (DeployedNetwork): The network.
        shape (Sequence[int]): Batch, height and width.

    Returns:
        Tensor: 8-bit, Tensor[N, h, w, 3], or floats, Tensor[N, 3, h, w].
    """
    generator = torch.Generator().manual_seed(0)
    batch, height, width = shape
    if network.preprocess:
        size = (batch, height, width, 3)
        return torch.randint(
            0, 256, size, generator=generator, dtype=torch.uint8
        )
    return torch.randn(batch, 3, height, width, generator=generator)


def _with_opset(model, opset):
    """Return the model with this opset, converted if need be."""
    found = [
        o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')
    ]
    if found == [opset]:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # RuntimeError, or whatever C++ throws
        raise WrongFile(
            f'this torch writes opset {found}, and ONNX cannot convert it '
            f'to {opset}: {error}'
        ) from error
