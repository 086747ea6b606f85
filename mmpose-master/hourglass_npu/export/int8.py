"""Quantise a file of pytorch2onnx.py, and measure what that costs."""

import logging
import os
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import helper

from hourglass_npu.config.load import check_data, inner_data, load_config
from hourglass_npu.export.graph import WrongFile, arithmetic
from hourglass_npu.mpii.pckh import relative_errors, score_names, score_rows
from hourglass_npu.mpii.truth import truth_of
from hourglass_npu.pose import decode
from hourglass_npu.pose.backends import BATCH, OnnxNetwork
from hourglass_npu.pose.images import read_picture

CALIBRATION_PEOPLE = 64
EVALUATION_PEOPLE = 400
"""At most; spread evenly over the training and the validation people."""

LIMIT = 1.0
"""Largest loss allowed, in points of PCKh or PCK."""

# Nearly all of the work. Sums of integers are not in standard ONNX.
OPERATORS = ('Conv', 'Relu')
ROUNDS = 5


def load_people(config, settings):
    """Cut out the people for calibration, and those for evaluation.

    Args:
        config (str): Config file.
        settings (Settings): Of the network.

    Returns:
        SimpleNamespace: ``calibration`` and ``crops``,
        np.ndarray[N, h, w, 3], 8-bit RGB; for ``crops`` also ``people`` and
        ``truth``; ``count`` of all validation people.

    Raises:
        UserError: Data are missing.
    """
    from mmpose.datasets import build_dataset

    cfg = load_config(config)
    check_data(cfg, ['train', 'val'])
    data = inner_data(cfg.data.train)
    if 'use_gt_bbox' in data.data_cfg:
        data.data_cfg.use_gt_bbox = True  # a detector's are for validation
    dataset = build_dataset(data, dict(test_mode=True))
    _, _, calibration = _cut(dataset, CALIBRATION_PEOPLE, settings)
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    truth = truth_of(dataset)
    truth.setdefault('joint_names', list(settings.joints.names))
    chosen, people, crops = _cut(dataset, EVALUATION_PEOPLE, settings)
    for name in ('joints', 'visible', 'sizes'):
        truth[name] = truth[name][chosen]
    return SimpleNamespace(
        calibration=calibration,
        crops=crops,
        people=people,
        truth=truth,
        count=len(dataset),
    )


def _cut(dataset, most, settings):
    """Return numbers, people and crops of an even choice."""
    count = min(most, len(dataset.db))
    chosen = np.linspace(0, len(dataset.db) - 1, count).round().astype(int)
    people = [SimpleNamespace(**dataset.db[i]) for i in chosen]
    crops = [
        decode.cut(read_picture(one.image_file), [one], settings)
        for one in people
    ]
    return chosen, people, np.concatenate(crops)


def quantise(path, crops):
    """Convert weights and arithmetic of a file to 8-bit integers.

    Weights have a scale for each channel and use seven bits, so that no
    processor's 16-bit sums overflow. Input, output, and the steps before the
    first and after the last convolution stay in single precision.

    Args:
        path (str): File of :func:`graph.finish`; it is rewritten.
        crops (np.ndarray[N, h, w, 3]): 8-bit RGB, for calibration.

    Raises:
        WrongFile: ONNX Runtime cannot quantise the file.
    """
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self, network, crops, step):
            self._batches = (
                network.feed(crops[i : i + step])
                for i in range(0, len(crops), step)
            )

        def get_next(self):
            return next(self._batches, None)

    network = OnnxNetwork(path, 'cpu')
    step = network.fixed or 1
    count = -(-len(crops) // step) * step
    # Fill up a last batch of a fixed size with the first crops.
    reader = Reader(network, np.resize(crops, (count, *crops.shape[1:])), step)
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props}
    nodes = list(model.graph.node)
    start, end = arithmetic(nodes)
    outside = nodes[:start] + nodes[end + 1 :]
    # It would recommend an optimization that this graph has had.
    logging.disable(logging.WARNING)
    here = os.getcwd()
    try:
        # ONNX Runtime 1.12 leaves augmented_model.onnx in the working folder.
        with tempfile.TemporaryDirectory() as folder:
            quantised = os.path.join(folder, 'int8.onnx')
            os.chdir(folder)
            _run(path, quantised, reader, [n.name for n in outside])
            result = onnx.load(quantised)
    finally:
        os.chdir(here)
        logging.disable(logging.NOTSET)
    # ONNX Runtime lists all operator sets that it knows.
    used = {node.domain for node in result.graph.node}
    for imported in list(result.opset_import):
        if imported.domain not in used:
            result.opset_import.remove(imported)
    helper.set_model_props(result, properties)
    onnx.save(result, path)


def _run(path, quantised, reader, excluded):
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quantize_static,
    )

    try:
        quantize_static(
            path,
            quantised,
            reader,
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except Exception as error:  # ONNX Runtime raises anything
        raise WrongFile(
            f'ONNX Runtime cannot quantise the file: {error}'
        ) from error


def measure(path, data):
    """Evaluate a file.

    Args:
        path (str): The file.
        data (SimpleNamespace): From :func:`load_people`.

    Returns:
        dict[str, float]: ``score`` and ``fine`` in percent (with MPII PCKh
        and PCKh@0.1), ``ms`` per person, ``MiB`` of the file.
    """
    network = OnnxNetwork(path, 'cpu')
    output = network(data.crops)
    result = decode.read(output, data.people, network.settings)
    # MPII counts pixels from 1.
    errors = relative_errors(result.keypoints[..., :2] + 1.0, data.truth)
    joints = network.settings.joints
    scores = score_rows(errors, joints, data.truth)
    *_, name, fine = score_names(joints, data.truth['measure'])
    some = data.crops[:BATCH]
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        network(some)
        spent.append(time.perf_counter() - begun)
    return {
        'score': scores[name],
        'fine': scores[fine],
        'ms': 1000 * min(spent) / len(some),
        'MiB': os.path.getsize(path) / 2**20,
    }


def report(single, integer, data):
    """Print the results of :func:`measure` for both files.

    Args:
        single (dict[str, float]): In single precision.
        integer (dict[str, float]): Quantised.
        data (SimpleNamespace): From :func:`load_people`.

    Raises:
        WrongFile: The quantised file loses more than LIMIT points.
    """
    print(
        f'calibrated on {len(data.calibration)} training people; '
        f'{len(data.crops)} of {data.count} validation people:'
    )
    measure = data.truth['measure']
    fine = f'{measure.name}@{measure.fine:g}'
    print(f'  {measure.name:>10}  {fine:>8}  ms/person     MiB')
    for name, row in (('fp32', single), ('int8', integer)):
        print(
            f'  {name} {row["score"]:5.2f}  {row["fine"]:8.2f}  '
            f'{row["ms"]:9.2f}  {row["MiB"]:6.1f}'
        )
    lost = single['score'] - integer['score']
    if not lost <= LIMIT:
        raise WrongFile(
            f'int8 loses {lost:.2f} points of {measure.name}; the limit is '
            f'{LIMIT:g}; no file was written'
        )
