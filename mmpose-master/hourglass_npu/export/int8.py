"""Static quantisation of a file of pytorch2onnx.py, and what it costs."""

import logging
import os
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import helper

from hourglass_npu.config.load import check_data, load_config
from hourglass_npu.export.graph import WrongFile, arithmetic
from hourglass_npu.pose import decode
from hourglass_npu.pose.backends import BATCH, OnnxNetwork
from hourglass_npu.pose.images import read_picture

CALIBRATION_PEOPLE = 64
EVALUATION_PEOPLE = 400
"""At most; evenly taken from the training and the validation people."""

LIMIT = 1.0
"""Points of PCKh that may be lost."""

# Nearly all of the work; sums of integers would not be operators of ONNX.
OPERATORS = ('Conv', 'Relu')
ROUNDS = 5


def load_people(config, settings):
    """Cuts out the people to calibrate on, and those to evaluate on.

    Args:
        config (str): Config file.
        settings (Settings): Of the network.

    Returns:
        SimpleNamespace: ``calibration`` and ``crops`` (np.ndarray[N, h, w,
        3], 8-bit RGB), ``people`` of the latter, their ``truth``, ``count``
        of all validation people.

    Raises:
        UserError: If data are missing.
    """
    from mmpose.datasets import build_dataset

    cfg = load_config(config)
    check_data(cfg, ['train', 'val'])
    dataset = build_dataset(cfg.data.train, dict(test_mode=True))
    _, _, calibration = _cut(dataset, CALIBRATION_PEOPLE, settings)
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    truth = dataset.load_truth()
    chosen, people, crops = _cut(dataset, EVALUATION_PEOPLE, settings)
    for name in ('joints', 'visible', 'head_sizes'):
        truth[name] = truth[name][chosen]
    return SimpleNamespace(
        calibration=calibration,
        crops=crops,
        people=people,
        truth=truth,
        count=len(dataset),
    )


def _cut(dataset, most, settings):
    """Numbers, people and crops of an even choice."""
    count = min(most, len(dataset.db))
    chosen = np.linspace(0, len(dataset.db) - 1, count).round().astype(int)
    people = [SimpleNamespace(**dataset.db[i]) for i in chosen]
    crops = [
        decode.cut(read_picture(one.image_file), [one], settings)
        for one in people
    ]
    return chosen, people, np.concatenate(crops)


def quantise(path, crops):
    """Turns weights and arithmetic of a file into 8-bit integers.

    Weights have a scale for each channel and use seven bits, with which no
    processor's 16-bit sums overflow. What comes before the first and after
    the last convolution stays in single precision, and so do input and
    output.

    Args:
        path (str): File of :func:`onnx_export.finish`; it is rewritten.
        crops (np.ndarray[N, h, w, 3]): 8-bit RGB, to calibrate on.

    Raises:
        WrongFile: If ONNX Runtime cannot do it.
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
    # A last batch of a fixed size is filled up from the start.
    reader = Reader(network, np.resize(crops, (count, *crops.shape[1:])), step)
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props}
    nodes = list(model.graph.node)
    start, end = arithmetic(nodes)
    outside = nodes[:start] + nodes[end + 1 :]
    quantised = f'{path}.int8.onnx'
    # A hint at a step of optimisation that this graph has behind it.
    logging.disable(logging.WARNING)
    here = os.getcwd()
    try:
        # ONNX Runtime 1.12 leaves augmented_model.onnx where it is run.
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                _run(path, quantised, reader, [n.name for n in outside])
            finally:
                os.chdir(here)
        result = onnx.load(quantised)
    except Exception as error:
        raise WrongFile(
            f'ONNX Runtime cannot quantise the file: {error}'
        ) from error
    finally:
        logging.disable(logging.NOTSET)
        if os.path.exists(quantised):
            os.remove(quantised)
    # ONNX Runtime names all sets of operators that it knows.
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


def measure(path, data):
    """Evaluates a file.

    Args:
        path (str): The file.
        data (SimpleNamespace): From :func:`load_people`.

    Returns:
        dict[str, float]: ``PCKh`` and ``PCKh@0.1`` in percent, ``ms`` per
        person, ``MiB`` of the file.
    """
    from mmpose.datasets.datasets.top_down.topdown_mpii_dataset import (
        head_errors,
        mpii_scores,
    )

    network = OnnxNetwork(path, 'cpu')
    output = network(data.crops)
    result = decode.read(output, data.people, network.settings)
    # MPII counts pixels from 1.
    errors = head_errors(result.keypoints[..., :2] + 1.0, data.truth)
    scores = mpii_scores(errors, data.truth['joint_names'])
    some = data.crops[:BATCH]
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        network(some)
        spent.append(time.perf_counter() - begun)
    return {
        'PCKh': scores['PCKh'],
        'PCKh@0.1': scores['PCKh@0.1'],
        'ms': 1000 * min(spent) / len(some),
        'MiB': os.path.getsize(path) / 2**20,
    }


def report(single, integer, data):
    """Prints what :func:`measure` has found of both files.

    Args:
        single (dict[str, float]): In single precision.
        integer (dict[str, float]): Quantised.
        data (SimpleNamespace): From :func:`load_people`.

    Raises:
        WrongFile: If more than LIMIT points of PCKh are lost.
    """
    print(
        f'calibrated on {len(data.calibration)} training people; '
        f'{len(data.crops)} of {data.count} validation people:'
    )
    print('        PCKh  PCKh@0.1  ms/person     MiB')
    for name, row in (('fp32', single), ('int8', integer)):
        print(
            f'  {name} {row["PCKh"]:5.2f}  {row["PCKh@0.1"]:8.2f}  '
            f'{row["ms"]:9.2f}  {row["MiB"]:6.1f}'
        )
    lost = single['PCKh'] - integer['PCKh']
    if not lost <= LIMIT:
        raise WrongFile(
            f'int8 loses {lost:.2f} points of PCKh, {LIMIT:g} is the limit; '
            'no file was written'
        )
