"""pytorch2onnx.py: the file is what was asked for, and does the same."""

import json
from pathlib import Path

import cv2
import numpy as np
import pose_model
import pytest
from pose_model import picture

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')
import onnxruntime  # noqa: E402
from calling import call  # noqa: E402

from hourglass_npu.errors import is_user_error  # noqa: E402
from hourglass_npu.export import graph  # noqa: E402
from hourglass_npu.pose import backends, decode, geometry  # noqa: E402
from hourglass_npu.pose.boxes import from_box  # noqa: E402


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Config, checkpoint and a picture to compare on."""
    folder = tmp_path_factory.mktemp('model')
    image = folder / 'a.png'
    cv2.imwrite(str(image), picture())
    return (*pose_model.make(folder), image)


@pytest.fixture(scope='module')
def trained(model):
    return backends.TorchNetwork(str(model[0]), str(model[1]), 'cpu')


@pytest.fixture(scope='module')
def crops(trained):
    """Five people of a picture, none of them in the comparison's picture."""
    image = picture(seed=7)
    boxes = [(10 * i, 8 * i, 90 + 30 * i, 120 + 10 * i) for i in range(5)]
    size = trained.settings.image_size
    return decode.cut(
        image, [from_box(b, size) for b in boxes], trained.settings
    )


@pytest.fixture
def convert(model, tmp_path):
    """Run the command; returns its status and the file."""
    config, checkpoint, image = model
    path = tmp_path / 'x.onnx'

    def run(*options):
        status = call(
            'export',
            f'--config={config}',
            f'--checkpoint={checkpoint}',
            f'--out={path}',
            f'--img={image}',
            *options,
        )
        return status, path

    return run


def shape_of(value):
    return [
        d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim
    ]


def test_the_default_file(convert, trained, crops, capsys):
    status, path = convert()
    out = capsys.readouterr().out
    assert status == 0
    for name in ('random numbers', 'real pictures'):
        for size in (1, 2, 3):
            assert f'{name}, batch {size}: largest difference' in out
    model = onnx.load(str(path))
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 11)]
    (img,), (heatmap,) = model.graph.input, model.graph.output
    assert (img.name, heatmap.name) == ('img', 'heatmap')
    assert shape_of(img) == ['batch', 3, 64, 64]
    assert shape_of(heatmap) == ['batch', 16, 16, 16]
    assert img.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    operators = {node.op_type for node in model.graph.node}
    assert 'Conv' in operators and 'BatchNormalization' not in operators
    # Straight through ONNX Runtime, without any code of the project.
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    batch = decode.normalise(crops, *trained.settings[1:3])
    with torch.no_grad():
        expected = backends.last_heatmaps(
            trained.model, torch.from_numpy(batch)
        ).numpy()
    for size in (1, 3, 5):
        (heatmaps,) = session.run(['heatmap'], {'img': batch[:size]})
        np.testing.assert_allclose(heatmaps, expected[:size], atol=1e-5)


def test_the_file_describes_itself(convert, model, trained):
    log = Path(model[1]).parent / '20200101_000000.log.json'
    lines = [
        dict(mode='val', epoch=6, iter=2, PCKh=11.0),
        dict(mode='val', epoch=7, iter=2, PCKh=42.5),
        dict(mode='train', epoch=7, iter=2),
        dict(env_info='of this host'),
    ]
    log.write_text('\n'.join(map(json.dumps, lines)) + '\nbroken {\n')
    try:
        _, path = convert('--flip-test')
    finally:
        log.unlink()
    properties = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    for name, value in {
        'config': 'tiny.py',
        'checkpoint': 'tiny.pth',
        'epoch': '7',
        'PCKh': '42.5',
        'precision': 'fp32',
        'mean': '[0.485, 0.456, 0.406]',
        'image_size': '[64, 64]',
    }.items():
        assert properties[name] == value
    assert json.loads(properties['joints'])[9] == 'head_top'
    assert (
        backends.settings_from_properties(properties, 'x') == trained.settings
    )


OPTIONS = [
    ['--flip-test'],
    ['--preprocess'],
    ['--decode'],
    ['--flip-test', '--preprocess', '--decode'],
]


@pytest.mark.parametrize('options', OPTIONS, ids=' '.join)
def test_what_is_folded_in_gives_the_joints_of_torch(
    convert, trained, crops, options
):
    status, path = convert(*options)
    assert status == 0
    graph = onnx.load(str(path)).graph
    kind = graph.input[0].type.tensor_type.elem_type
    assert (kind == onnx.TensorProto.UINT8) == ('--preprocess' in options)
    decoded = '--decode' in options
    assert graph.output[0].name == ('joints' if decoded else 'heatmap')
    network = backends.OnnxNetwork(str(path), 'cpu')
    assert network.settings.flip_test == (
        '--flip-test' in options or not decoded
    )
    boxes = [from_box((9, 9, 99, 88), (64, 64))] * len(crops)
    settings = network.settings
    reference = backends.TorchNetwork.__new__(backends.TorchNetwork)
    reference.__dict__.update(trained.__dict__, settings=settings)
    expected = decode.read(reference(crops), boxes, settings).keypoints
    found = decode.read(network(crops), boxes, settings).keypoints
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_half_precision(convert, trained, crops):
    status, path = convert('--flip-test', '--decode', '--fp16')
    assert status == 0
    half = path.stat().st_size
    model = onnx.load(str(path))
    kinds = {
        w.data_type for w in model.graph.initializer if np.prod(w.dims) > 16
    }
    assert onnx.TensorProto.FLOAT not in kinds
    assert model.graph.input[0].type.tensor_type.elem_type == 1
    assert model.graph.output[0].type.tensor_type.elem_type == 1
    joints = backends.OnnxNetwork(str(path), 'cpu')(crops)
    assert half < 0.55 * sum(4 * p.numel() for p in trained.model.parameters())
    cells, scores = decode.peaks(trained(crops))
    np.testing.assert_allclose(joints[..., 2], scores, atol=5e-3)
    away = np.abs(joints[..., :2] / 4 - cells).max(axis=2)
    assert (away <= 1).mean() > 0.9


def test_static_and_another_shape(convert, crops):
    status, path = convert('--static', '--shape', '3', '3', '32', '48')
    assert status == 0
    graph = onnx.load(str(path)).graph
    assert shape_of(graph.input[0]) == [3, 3, 32, 48]
    assert shape_of(graph.output[0]) == [3, 16, 8, 12]
    network = backends.OnnxNetwork(str(path), 'cpu')
    assert network.settings.image_size == (48, 32)
    small = np.ascontiguousarray(crops[:, :32, :48])
    together = network(small)  # five, where the file takes three at a time
    assert together.shape == (5, 16, 8, 12)
    np.testing.assert_allclose(network(small[4:]), together[4:], atol=1e-6)


@pytest.mark.parametrize('opset', [9, 13])
def test_other_operator_sets(convert, opset):
    status, path = convert('--decode', '--opset', str(opset))
    assert status == 0
    assert onnx.load(str(path)).opset_import[0].version == opset


def test_a_file_that_differs_is_not_kept(convert, monkeypatch, capsys):
    _, path = convert()
    before = path.read_bytes()
    finish = graph.finish

    def spoil(path, *options):
        finish(path, *options)
        model = onnx.load(path)
        weights = next(w for w in model.graph.initializer if len(w.dims) == 4)
        spoiled = onnx.numpy_helper.to_array(weights).copy()
        spoiled.flat[0] += 1
        weights.CopyFrom(onnx.numpy_helper.from_array(spoiled, weights.name))
        onnx.save(model, path)

    monkeypatch.setattr(graph, 'finish', spoil)
    capsys.readouterr()
    status, _ = convert()
    captured = capsys.readouterr()
    assert status == 1 and 'differ by' in captured.err
    assert 'largest difference' in captured.out
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ['x.onnx']


def test_the_tolerance_is_obeyed(convert, capsys):
    status, path = convert('--tolerance', '0')
    assert status == 1 and not path.exists()
    assert 'no file was written' in capsys.readouterr().err


def test_an_operator_set_that_was_not_written_is_refused(
    convert, monkeypatch, capsys
):
    export = graph.export

    def other(network, path, shape, opset, static):
        export(network, path, shape, 13, static)
        model = onnx.load(path)
        model.opset_import[0].version = 1  # nothing converts this
        onnx.save(model, path)

    monkeypatch.setattr(graph, 'export', other)
    status, path = convert()
    assert status == 1 and not path.exists()
    assert 'opset' in capsys.readouterr().err


def test_batch_normalisation_left_over_is_refused(
    convert, monkeypatch, capsys
):

    def export(network, path, shape, opset, static):
        module = torch.nn.BatchNorm2d(3).eval()
        torch.onnx.export(
            module,
            torch.rand(1, 3, 8, 8),
            path,
            **(
                {'dynamo': False, 'opset_version': opset}
                if torch.__version__[0] > '1'
                else {'opset_version': opset}
            ),
        )

    monkeypatch.setattr(graph, 'export', export)
    status, path = convert()
    assert status == 1 and not path.exists()
    assert 'batch normalisations' in capsys.readouterr().err


@pytest.mark.parametrize(
    'options, message',
    [
        (['--shape', '100', '100'], 'multiples of 8'),
        (['--shape', '1', '1', '64', '64'], 'H W or N 3 H W'),
        (['--shape', '64'], 'H W or N 3 H W'),
        (['--shape', '4', '3', '64', '64'], '--static'),
        (['--shape', '0', '3', '64', '64', '--static'], 'batch of 0'),
        (['--opset', '99'], 'opset 99'),
        (['--out', 'x.pb'], 'must end in .onnx'),
        (['--out', 'no/where/x.onnx'], 'does not exist'),
        (['--img', 'none.jpg'], 'none.jpg'),
        (['--checkpoint', 'none.pth'], 'none.pth'),
        (['--config', 'none.py'], 'none.py'),
    ],
)
def test_requests_that_cannot_be_met(convert, capfd, options, message):
    status, path = convert(*options)
    captured = capfd.readouterr()
    assert status == 2 and message in captured.err
    assert captured.err.startswith('error: ')
    assert 'Traceback' not in captured.err and 'graph(' not in captured.out
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize('name', ['_heatmaps', 'forward'])
def test_a_bug_in_the_graph_is_raised(convert, monkeypatch, name):
    def slip(self, img):
        height, width = img.shape

    monkeypatch.setattr(graph.DeployedNetwork, name, slip)
    with pytest.raises(ValueError, match='unpack') as caught:
        convert()
    assert not is_user_error(caught.value)


def test_differences_of_joints_are_told_in_units_of_heatmaps():
    heatmaps = np.random.RandomState(0).rand(2, 3, 8, 9).astype(np.float32)
    heatmaps[0, 0, 4, 5] = 2
    heatmaps[1, 2] = -1  # nothing there
    crop = [np.array([4.5 * 4, 4 * 4]), np.array([9 * 4, 8 * 4]) / 200]
    joints = decode.decode(heatmaps, [crop[0]] * 2, [crop[1]] * 2)
    there = geometry.affine(*crop, (36, 32))
    joints[..., :2] = [
        geometry.transform_points(j[:, :2], there) for j in joints
    ]

    def difference(change):
        changed = joints.copy()
        change(changed)
        return graph.joint_difference(heatmaps, changed, 4.0)

    def move(to):
        def change(changed):
            changed[0, 0, :2] = to

        return change

    def raise_score(changed):
        changed[1, 0, 2] += 0.25

    assert difference(lambda changed: None) < 1e-6
    assert difference(raise_score) == pytest.approx(0.25)
    # Another cell: as much as the heights differ.
    assert difference(move((0, 0))) == pytest.approx(
        2 - heatmaps[0, 0, 0, 0], rel=1e-5
    )
    # The right cell, shifted to the wrong side: as much as the slope.
    heat = heatmaps[0, 0]
    slope = heat[4, 6] - heat[4, 4]
    x, y = joints[0, 0, :2]
    wrong = x - 4 * 0.5 * np.sign(slope)
    assert difference(move((wrong, y))) == pytest.approx(abs(slope), rel=1e-4)
    for nowhere in ((x + 1.9, y), (-99, 0), (400, 0)):
        assert difference(move(nowhere)) > 0.1
