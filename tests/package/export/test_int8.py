import re

import numpy as np
import onnx
import pytest

from hourglass_npu.export import int8
from hourglass_npu.pose.backends import OnnxNetwork, TorchNetwork


def test_integers_give_nearly_the_same(
    export, tiny, checkpoint, monkeypatch, tmp_path, capsys
):

    # These people are noise: there is no PCKh that could be lost.
    monkeypatch.setattr(int8, 'LIMIT', 100)
    monkeypatch.chdir(tmp_path)
    status, path = export('--int8', '--preprocess', '--flip-test')
    assert status == 0
    out = capsys.readouterr().out
    assert 'calibrated on 6 training people; 5 of 5 validation' in out
    rows = dict(re.findall(r'^  (fp32|int8) .* ([0-9.]+)$', out, re.M))
    assert 0 < float(rows['int8']) < float(rows['fp32'])  # size
    assert [p.name for p in tmp_path.glob('*.onnx')] == ['x.onnx']
    model = onnx.load(str(path))
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 11)]
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties['precision'] == 'int8' and properties['joints']
    operators = [node.op_type for node in model.graph.node]
    assert 'QLinearConv' in operators and 'Conv' not in operators
    random = np.random.RandomState(0)
    crops = random.randint(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    wanted = TorchNetwork(str(tiny), str(checkpoint), 'cpu')(crops)
    given = OnnxNetwork(str(path), 'cpu')(crops)
    difference = np.abs(wanted - given).max() / np.abs(wanted).max()
    assert 0 < difference < 0.2


def test_a_file_that_loses_too_much_is_not_kept(export, monkeypatch, capsys):

    monkeypatch.setattr(int8, 'LIMIT', -101)
    status, path = export('--int8')
    assert status == 1
    assert 'points of PCKh; the limit is -101' in capsys.readouterr().err
    assert not list(path.parent.glob('*.onnx*'))


@pytest.mark.parametrize(
    'options, message',
    [
        (['--fp16'], 'exclude each other'),
        (['--opset', '9'], '--int8 needs 10 or later'),
    ],
)
def test_what_cannot_be_is_refused(export, capsys, options, message):
    status, path = export('--int8', *options)
    assert status == 2 and not path.exists()
    assert message in capsys.readouterr().err


def test_data_are_needed(export, tiny, capsys):
    for path in (tiny.parent / 'mpii/annotations').glob('*train*'):
        path.unlink()
    status, path = export('--int8')
    assert status == 2 and not path.exists()
    assert 'mpii_train.json' in capsys.readouterr().err
