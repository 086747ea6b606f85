"""ONNX Runtime gets no file that could do more than compute heatmaps."""

import io
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hourglass_npu.errors import UserError
from hourglass_npu.pose import onnx_file
from hourglass_npu.pose.backends import OnnxNetwork, settings_to_properties
from hourglass_npu.pose.decode import Settings
from hourglass_npu.pose.joints import MPII

SETTINGS = Settings(
    image_size=(64, 64),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    joints=MPII,
    flip_test=False,
    shift_heatmap=False,
    post_process=False,
    unbiased_decoding=False,
    modulate_kernel=11,
)


def network(*nodes, weights=(), value=1.0):
    """Make a file that pools, convolves and does what ``nodes`` say."""
    kernel = np.full((16, 3, 1, 1), value, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(
                'AveragePool', ['img'], ['p'], kernel_shape=[4, 4],
                strides=[4, 4],
            ),
            helper.make_node('Conv', ['p', 'W'], ['h']),
            *nodes,
        ],
        'g',
        [helper.make_tensor_value_info(
            'img', TensorProto.FLOAT, ['N', 3, 64, 64]
        )],
        [helper.make_tensor_value_info(
            'out' if nodes else 'h', TensorProto.FLOAT, None
        )],
        [numpy_helper.from_array(kernel, 'W'), *weights],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', 11)]
    )
    model.ir_version = 6
    properties = settings_to_properties(SETTINGS)
    properties['graph'] = json.dumps(
        dict(preprocess=False, flip_test=False, decode=False)
    )
    helper.set_model_props(model, properties)
    return model


def run(model, tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(model.SerializeToString())
    return OnnxNetwork(str(path), 'cpu')(np.zeros((2, 64, 64, 3), np.uint8))


def test_a_sound_file_runs(tmp_path):
    assert run(network(), tmp_path).shape == (2, 16, 16, 16)


def elsewhere():
    model = network()
    (weight,) = model.graph.initializer
    weight.ClearField('raw_data')
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = 'location', '../secret.bin'
    return model


def custom():
    node = helper.make_node('Relu', ['h'], ['out'], domain='com.other')
    model = network(node)
    model.opset_import.append(helper.make_opsetid('com.other', 1))
    return model


def branch():
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node('Identity', ['h'], ['x'])], 'body', [],
        [value('x', TensorProto.FLOAT, None)],
    )  # fmt: skip
    return network(
        helper.make_node(
            'If', ['c'], ['out'], then_branch=body, else_branch=body
        ),
        weights=[numpy_helper.from_array(np.array(True), 'c')],
    )


def sized(kind, sizes):
    weight = numpy_helper.from_array(np.array(sizes, np.int64), 's')
    names = ['s'] if kind == 'ConstantOfShape' else ['h', 's']
    return network(helper.make_node(kind, names, ['out']), weights=[weight])


def declared():
    model = network()
    model.graph.initializer[0].dims[:] = [2**20, 2**20]
    return model


REFUSED = dict(
    elsewhere=(elsewhere, 'weights in another file'),
    custom=(custom, 'com.other.Relu'),
    branch=(branch, 'a graph inside of a node|operator .If'),
    random=(
        lambda: network(helper.make_node('RandomNormalLike', ['h'], ['out'])),
        'RandomNormalLike',
    ),
    constant=(lambda: sized('ConstantOfShape', [2**16] * 2), 'elements'),
    tile=(lambda: sized('Tile', [1, 1, 2**16, 2**16]), 'elements'),
    declared=(declared, 'shape'),
)


@pytest.mark.parametrize('kind', sorted(REFUSED))
def test_what_no_export_has_is_refused(kind, tmp_path):
    make, words = REFUSED[kind]
    with pytest.raises(UserError, match=words):
        run(make(), tmp_path)


def test_nan_is_an_error(tmp_path):
    with pytest.raises(UserError, match='returns NaN'):
        run(network(value=np.nan), tmp_path)


@pytest.mark.parametrize(
    'content', [b'', b'\x80', b'\x3a\xff', b'\x0a\x03abc', b'\x3f' * 20]
)
def test_what_is_no_onnx_file_is_said(content):
    with pytest.raises(UserError, match='a.onnx is no whole ONNX file'):
        onnx_file.check(content, 'a.onnx')


def test_a_cut_file_is_refused_or_sound():
    content = network().SerializeToString()
    for length in range(0, len(content), 7):
        try:
            onnx_file.check(content[:length], 'a.onnx')
        except UserError:
            continue
        onnx.load_model(io.BytesIO(content[:length]))


def test_nothing_is_logged_beside_the_message(tmp_path, capfd):
    model = network(helper.make_node('Add', ['h', 'nowhere'], ['out']))
    with pytest.raises(UserError, match='ONNX Runtime cannot load it'):
        run(model, tmp_path)
    assert capfd.readouterr().err == ''


def with_properties(**properties):
    model = network()
    kept = {p.key: p.value for p in model.metadata_props}
    kept.update({k: json.dumps(v) for k, v in properties.items()})
    kept = {k: v for k, v in kept.items() if v != 'null'}
    del model.metadata_props[:]
    helper.set_model_props(model, kept)
    return model


def test_a_file_of_an_earlier_release_has_mpiis_joints(tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(with_properties(dataset_info=None).SerializeToString())
    assert OnnxNetwork(str(path), 'cpu').settings.joints == MPII
    names = [f'n{i}' for i in range(16)]
    path.write_bytes(
        with_properties(
            dataset_info=None, joints=names, flip_pairs=[[0, 2]]
        ).SerializeToString()
    )
    joints = OnnxNetwork(str(path), 'cpu').settings.joints
    assert joints.names == tuple(names) and joints.flip_pairs == ((0, 2),)


@pytest.mark.parametrize(
    'properties',
    [
        dict(joints=['a'] * 16),
        dict(joints=5),
        dict(joints=[f'n{i}' for i in range(16)]),
        dict(flip_pairs=[[0, 99]]),
        dict(flip_pairs=[0]),
        dict(flip_pairs=[[1, 2]]),
        dict(dataset_info=[1]),
        dict(dataset_info=dict(keypoint_info={})),
    ],
)
def test_impossible_joints_are_refused(properties, tmp_path):
    with pytest.raises(UserError, match='a.onnx: the properties joints'):
        run(with_properties(**properties), tmp_path)
