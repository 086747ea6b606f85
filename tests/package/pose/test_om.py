"""A compiled file gives what its ONNX file gives, on a stand-in for CANN."""

import json
import sys

import acl_stand_in
import numpy as np
import pose_model
import pytest
from calling import call

from hourglass_npu.errors import UserError
from hourglass_npu.pose import om
from hourglass_npu.pose.backends import OnnxNetwork

pytest.importorskip('torch')


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """ONNX files: heatmaps from floats, joints from bytes."""
    folder = tmp_path_factory.mktemp('om')
    config, checkpoint = pose_model.make(folder)
    model = ['--config', config, '--checkpoint', checkpoint]
    paths = folder / 'plain.onnx', folder / 'bytes.onnx'
    assert call('export', *model, '--out', paths[0]) == 0
    options = ['--preprocess', '--flip-test', '--decode']
    assert call('export', *model, '--out', paths[1], *options) == 0
    return [str(path) for path in paths]


@pytest.fixture
def acl(monkeypatch):
    module = acl_stand_in.make()
    monkeypatch.setitem(sys.modules, 'acl', module)
    monkeypatch.setattr(om.atexit, 'register', lambda *args: None)
    return module


@pytest.fixture
def compiled(exported, tmp_path):
    """Write an OM with its properties beside it."""

    def write(which=0, *batches, form='static'):
        path = acl_stand_in.write_om(
            tmp_path / 'x.om', exported[which], batches or (1,), form
        )
        shown = call(
            'shape', exported[which], 0, '--properties', tmp_path / 'x.json'
        )
        assert shown == 0
        return path

    return write


def crops(network, count):
    width, height = network.settings.image_size
    shape = (count, height, width, 3)
    return np.random.RandomState(count).randint(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize('which', [0, 1])
@pytest.mark.parametrize(
    'form, batches, passes',
    [
        ('static', (1,), ['1'] * 5),
        ('static', (4,), ['4'] * 2),
        ('batch', (4, 1, 2), ['4', '1']),
        ('dims', (2, 4), ['4', '2']),
    ],
)
def test_it_gives_what_the_onnx_file_gives(
    acl, compiled, exported, which, form, batches, passes
):
    reference = OnnxNetwork(exported[which], 'cpu')
    network = om.OmNetwork(compiled(which, *batches, form=form), 'npu:1')
    assert network.settings == reference.settings
    assert network.decodes == reference.decodes == bool(which)
    assert network.place == 'CANN on npu:1'
    assert 'set_device 1' in acl.calls
    five = crops(reference, 5)
    np.testing.assert_allclose(
        network(five), reference(five), rtol=1e-5, atol=1e-6
    )
    # Without a flip test inside, each pass is made twice.
    times = 1 if which else 2
    assert acl.calls.count('execute') == times * len(passes)
    if form != 'static':
        told = [c.split()[1] for c in acl.calls if c.startswith('batch')]
        assert told == [p for p in passes for _ in range(times)]


def test_its_memory_does_not_grow(acl, compiled):
    network = om.OmNetwork(compiled(1))
    network(crops(network, 1))
    # What the stand-in keeps of Python's own bytes does not count.
    held = len(acl.held)
    network(crops(network, 1))
    assert len(acl.held) == held + 1


def test_a_batch_is_checked_before_it_is_run(acl, compiled):
    network = om.OmNetwork(compiled(0, 2, 4, form='batch'))
    assert [network.batch_for(n) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]
    with pytest.raises(UserError, match='batch of 3: it was compiled for 2'):
        network._execute(network.prepare(crops(network, 3)))
    assert 'execute' not in acl.calls


def test_properties_come_from_the_onnx_file_too(acl, exported, tmp_path):
    path = acl_stand_in.write_om(tmp_path / 'x.om', exported[0])
    with pytest.raises(UserError, match='x.json, which scripts/onnx2om.sh'):
        om.OmNetwork(path)
    (tmp_path / 'x.onnx').write_bytes(open(exported[0], 'rb').read())
    assert om.OmNetwork(path).settings.image_size == (64, 64)


def test_what_cannot_be_run_is_said(acl, compiled, tmp_path, monkeypatch):
    path = compiled()

    def message(name=path, device=None):
        with pytest.raises(UserError) as caught:
            om.OmNetwork(name, device)
        return str(caught.value)

    assert 'there is no such file' in message(str(tmp_path / 'none.om'))
    assert 'an OM runs on an NPU' in message(device='cpu')
    assert 'no device npu:9 (status 1' in message(device='npu:9')
    assert 'compile it for batches' in message(compiled(0, 1, form='any'))
    compiled()
    properties = tmp_path / 'x.json'
    kept = properties.read_text()
    other = dict(json.loads(kept), image_size='[32, 64]')
    properties.write_text(json.dumps(other))
    assert 'they are of another file' in message()
    properties.write_text('[]')
    assert 'no file of scripts/onnx2om.sh' in message()
    properties.write_text(kept)
    (tmp_path / 'x.om').write_text('no OM')
    assert 'cannot be loaded (status 500002 of CANN) E10000' in message()
    monkeypatch.setitem(sys.modules, 'acl', None)
    assert 'source env.sh' in message()


def test_the_demo_and_its_short_form(acl, compiled, tmp_path, capsys):
    import cv2

    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), pose_model.picture())
    options = ['--img', image, '--bbox', '30,20,120,200', '--json']
    path = compiled(1)
    assert call('om', 'demo', path, *options) == 0
    assert 'CANN on npu:0' in capsys.readouterr().out
    found = json.loads((tmp_path / 'infer_a.json').read_text())
    onnx = json.loads(open(path).read())['onnx']
    assert call('demo', '--onnx', onnx, '--device', 'cpu', *options) == 0
    assert found == json.loads((tmp_path / 'infer_a.json').read_text())
    for option in ('--amp', '--config=x', '--onnx=x'):
        assert call('om', 'demo', path, option) == 2
    with pytest.raises(SystemExit):
        call('om', 'demo', '--img', 'a.png')
