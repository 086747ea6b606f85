"""demo.py from end to end, with a small Hourglass of random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import detector_files
import numpy as np
import pose_model
import pytest
from calling import call
from pose_model import ROOT, picture

from hourglass_npu import demo
from hourglass_npu.errors import is_user_error
from hourglass_npu.pose import video

torch = pytest.importorskip('torch')

BOXES = ['30,20,120,200', '150,40,100,90', '-40,-30,150,160']


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Options that choose the small model."""
    config, checkpoint = pose_model.make(tmp_path_factory.mktemp('model'))
    return ['--config', str(config), '--checkpoint', str(checkpoint)]


@pytest.fixture(scope='module')
def exported(model):
    """Its ONNX file."""
    path = Path(model[1]).parent / 'tiny.onnx'
    assert call('export', *model, '--out', path) == 0
    return str(path)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), picture())
    return str(path)


def boxes(texts=BOXES):
    # With "=", as one of them begins with a minus.
    return [f'--bbox={text}' for text in texts]


def run(*options):
    return call('demo', '--device', 'cpu', *options)


def joints(path):
    """Keypoints [people, 16, 3] of a JSON file with one picture."""
    (record,) = json.loads(Path(path).read_text())['pictures']
    return np.array(
        [
            [[j['x'], j['y'], j['score']] for j in person['keypoints']]
            for person in record['people']
        ]
    )


def refused(capsys, *options):
    """The message with which demo.py refuses."""
    capsys.readouterr()
    status = run(*options)
    error = capsys.readouterr().err
    assert status == 2 and error.startswith('error: ')
    assert 'Traceback' not in error
    return error


def test_joints_are_those_of_mmpose(model, image, tmp_path):
    from mmpose.apis import inference_top_down_pose_model, init_pose_model

    assert run(*model, '--img', image, *boxes(), '--json') == 0
    theirs, _ = inference_top_down_pose_model(
        init_pose_model(model[1], model[3], device='cpu'),
        image,
        [[float(v) for v in box.split(',')] for box in BOXES],
        dataset='TopDownMpiiDataset',
    )
    expected = np.stack([person['keypoints'] for person in theirs])
    np.testing.assert_allclose(
        joints(tmp_path / 'infer_a.json'), expected, atol=0.006
    )


def test_people_of_one_batch_are_as_they_are_alone(model, image, tmp_path):
    everyone, alone = tmp_path / 'all.json', tmp_path / 'one.json'
    assert run(*model, '--img', image, *boxes(), f'--json={everyone}') == 0
    for index, box in enumerate(BOXES):
        run(*model, '--img', image, *boxes([box]), f'--json={alone}')
        np.testing.assert_allclose(
            joints(everyone)[index], joints(alone)[0], atol=0.006
        )


def test_onnx_gives_the_same_without_torch(model, exported, image, tmp_path):
    """In a Python in which torch, mmcv and mmpose cannot be imported."""
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    for name in ('torch', 'mmcv', 'mmpose'):
        (blocked / f'{name}.py').write_text('raise ImportError(__name__)\n')
    path = os.pathsep.join([str(blocked), os.environ.get('PYTHONPATH', '')])
    out = tmp_path / 'onnx.png'
    command = ['--onnx', exported, '--img', image, *boxes(), '--json']
    done = subprocess.run(
        [sys.executable, str(ROOT / 'demo.py'), *command, '--out', str(out)],
        env=dict(os.environ, PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout
    assert 'ONNX Runtime' in done.stdout
    assert run(*model, '--img', image, *boxes(), '--json') == 0
    np.testing.assert_allclose(
        joints(tmp_path / 'onnx.json'),
        joints(tmp_path / 'infer_a.json'),
        atol=0.011,
    )
    ours, theirs = (
        cv2.imread(str(p)).astype(int) for p in (out, tmp_path / 'infer_a.png')
    )
    assert np.abs(ours - theirs).mean() < 0.1


def test_the_picture_is_drawn_on_and_lies_beside_the_source(
    model, image, tmp_path
):
    assert run(*model, '--img', image, '--kpt-thr', '0') == 0
    drawn = cv2.imread(str(tmp_path / 'infer_a.png'))
    assert drawn.shape == picture().shape
    assert (drawn != picture()).any()
    assert run(*model, '--img', image, '--kpt-thr', '1') == 0
    # No score of this model reaches one: only the legend is drawn.
    changed = (cv2.imread(str(tmp_path / 'infer_a.png')) != picture()).any(-1)
    assert changed[-80:, :120].any()
    changed[-80:, :120] = False
    assert not changed.any()
    nothing = ['--img', image, '--kpt-thr', '1', '--no-legend']
    assert run(*model, *nothing) == 0
    assert (cv2.imread(str(tmp_path / 'infer_a.png')) == picture()).all()
    assert run(*model, *nothing, '--heatmaps') == 0
    assert (cv2.imread(str(tmp_path / 'infer_a.png')) != picture()).any()


def test_a_folder_is_done_as_far_as_it_can_be(model, tmp_path, capsys):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    for name in ('a.jpg', 'c.jpg'):
        cv2.imwrite(str(source / name), picture())
    (source / 'b.jpg').write_bytes(b'broken')
    options = ['--img', str(source), '--out', str(out), '--json']
    assert run(*model, *options) == 1
    assert 'b.jpg: no picture' in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == [
        'infer_a.jpg',
        'infer_c.jpg',
        'infer_keypoints.json',
    ]
    records = json.loads((out / 'infer_keypoints.json').read_text())
    assert [Path(r['file']).name for r in records['pictures']] == [
        'a.jpg',
        'c.jpg',
    ]
    assert run(*model, '--img', str(source / 'a.jpg')) == 0


def test_a_video_keeps_its_frames_and_rate(model, tmp_path, capsys):
    path, out = str(tmp_path / 'v.avi'), str(tmp_path / 'o.avi')
    frames = [np.roll(picture(), 9 * i, axis=1) for i in range(7)]
    with video.video_writer(path, 10) as write:
        for frame in frames:
            write(frame)
    options = ['--img', path, '--out', out, '--json', '--fps', *boxes()]
    assert run(*model, *options) == 0
    assert 'FPS: ' in capsys.readouterr().out
    records = json.loads((tmp_path / 'o.json').read_text())['pictures']
    assert [r['frame'] for r in records] == list(range(7))
    made = video.Video(out)
    assert made.rate == pytest.approx(10) and len(list(made)) == 7
    assert run(*model, *options, '--frames', '2') == 0
    assert len(list(video.Video(out))) == 2


def test_folding_and_low_precision_find_the_same_joints(
    model, image, tmp_path, capsys, monkeypatch
):
    networks = []

    class Remembered(demo.TorchNetwork):
        def __init__(self, *args):
            super().__init__(*args)
            networks.append(self.model)

    monkeypatch.setattr(demo, 'TorchNetwork', Remembered)

    def found(*options):
        path = tmp_path / 'out.json'
        command = [*model, '--img', image, *boxes(), f'--json={path}']
        assert run(*command, *options) == 0
        kinds = {type(module) for module in networks[-1].modules()}
        folds = '--fuse-conv-bn' in options
        assert (torch.nn.BatchNorm2d in kinds) is not folds
        return joints(path)

    exact, folded = found(), found('--fuse-conv-bn')
    assert np.abs(exact - folded).max() < 0.02  # it has two digits
    if not hasattr(torch, 'autocast'):
        error = refused(capsys, *model, '--img', image, '--amp')
        assert 'use a newer torch' in error
        return
    for options in (['--amp'], ['--amp', '--fuse-conv-bn']):
        scores = found(*options)[..., 2]
        assert 0 < np.abs(scores - exact[..., 2]).max() < 0.1


def test_speed_is_measured(model, image, capsys):
    assert run(*model, '--img', image, '--fps') == 0
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('FPS: ')
    ]
    assert float(line.split()[1]) > 0 and 'network' in line


def test_a_file_without_people_is_said_and_no_picture_is_written(
    model, image, tmp_path, capsys
):
    other = tmp_path / 'people.json'
    other.write_text('[]')
    options = ['--img', image, '--bbox-file', str(other)]
    assert run(*model, *options) == 1
    assert 'has no people for this picture' in capsys.readouterr().err
    assert not list(tmp_path.glob('infer_*'))


def test_people_that_a_detector_finds_are_numbered(
    model, image, tmp_path, capsys
):
    """Of one picture, and of the frames of a video."""
    dets = np.float32([[[4, 4, 30, 44, 0.6], [30, 8, 50, 26, 0.9]]])
    found = dict(dets=dets, labels=np.int64([[0, 0]]))
    path = detector_files.save(tmp_path / 'd.onnx', found)
    options = ['--detector', path, '--boxes', '--json']
    assert run(*model, '--img', image, *options) == 0
    told = capsys.readouterr()
    assert 'a.png: 2 people' in told.out and 'rtmdet' in told.out
    assert 'note: ' not in told.err
    (record,) = json.loads((tmp_path / 'infer_a.json').read_text())['pictures']
    assert [
        (one['number'], one['score'], len(one['keypoints']))
        for one in record['people']
    ] == [(1, 0.9, 16), (2, 0.6, 16)]
    assert run(*model, '--img', image, *options, '--bbox-thr', '0.95') == 1
    error = capsys.readouterr().err
    assert 'finds nobody with a score of at least 0.95' in error
    clip = str(tmp_path / 'v.avi')
    with video.video_writer(clip, 10) as write:
        for _ in range(2):
            write(picture())
    assert run(*model, '--img', clip, *options) == 0
    records = json.loads((tmp_path / 'infer_v.json').read_text())['pictures']
    assert [len(r['people']) for r in records] == [2, 2]


def test_one_person_without_boxes_is_said_once(model, image, capsys):
    assert run(*model, '--img', image) == 0
    error = capsys.readouterr().err
    assert error.count('the whole picture is taken as one person') == 1
    assert run(*model, '--img', image, *boxes()) == 0
    assert not capsys.readouterr().err


def test_what_a_box_file_leaves_out_is_said(model, image, tmp_path, capsys):
    box = dict(file_name='a.png', bbox=[30, 20, 120, 200])
    far = dict(box, bbox=[900, 2, 30, 40])
    people = tmp_path / 'people.json'
    people.write_text(json.dumps([dict(box, score=0.1), far, box]))
    assert run(*model, '--img', image, '--bbox-file', people) == 0
    told = capsys.readouterr()
    assert 'left out: 1 with a score below 0.3' in told.err
    assert '900,2,30,40 lies outside' in told.err and '1 person ->' in told.out


@pytest.mark.parametrize('out', ['x.gif', 'x.mp4', 'new.folder'])
def test_a_picture_of_another_kind_is_refused_first(
    model, image, tmp_path, capsys, out
):
    error = refused(capsys, *model, '--img', image, '--out', tmp_path / out)
    assert 'or in / for a folder' in error
    assert os.listdir(str(tmp_path)) == ['a.png']


def test_no_folder_is_made_for_what_cannot_be(model, image, tmp_path, capsys):
    out = tmp_path / 'out'
    options = ['--img', image, '--out', out, '--json']
    refused(capsys, '--onnx', 'none.onnx', *options)
    assert not out.exists()
    assert run(*model, *options) == 0
    assert sorted(os.listdir(str(out))) == ['infer_a.json', 'infer_a.png']


def test_a_video_of_another_kind_is_refused_first(model, tmp_path, capsys):
    clip = str(tmp_path / 'v.avi')
    with video.video_writer(clip, 10) as write:
        write(picture())
    for out in ('o.gif', 'o.png', 'o.webm'):
        error = refused(capsys, *model, '--img', clip, '--out', tmp_path / out)
        assert f'not written as {out[1:]}' in error and '.mp4' in error
    assert os.listdir(str(tmp_path)) == ['v.avi']


def test_a_camera_is_ended_with_ctrl_c(model, tmp_path, monkeypatch, capsys):
    class Camera:
        rate, count, live = 10.0, None, True

        def __init__(self, source):
            pass

        def __iter__(self):
            yield from [picture()] * 2
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, 'Video', Camera)
    out = tmp_path / 'o.avi'
    assert run(*model, '--img', '0', '--out', out) == 0
    assert '2 frames' in capsys.readouterr().out
    assert len(list(video.Video(str(out)))) == 2


@pytest.mark.parametrize('shape', [(1, 1), (1, 500), (12000, 90)])
def test_pictures_of_odd_sizes(model, tmp_path, shape):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), picture(*shape))
    assert run(*model, '--img', str(path), '--json', '--heatmaps') == 0
    drawn = cv2.imread(str(tmp_path / 'infer_a.png'))
    assert drawn.shape == shape + (3,)
    assert np.isfinite(joints(tmp_path / 'infer_a.json')).all()


def test_a_large_picture_gives_the_joints_of_the_small_one(model, tmp_path):
    found = []
    for factor in (1, 8):
        path = tmp_path / f'{factor}.png'
        cv2.imwrite(
            str(path),
            cv2.resize(
                picture(),
                None,
                fx=factor,
                fy=factor,
                interpolation=cv2.INTER_NEAREST,
            ),
        )
        box = ','.join(str(factor * v) for v in (30, 10, 240, 200))
        assert run(*model, '--img', str(path), '--bbox', box, '--json') == 0
        xy = joints(tmp_path / f'infer_{factor}.json')[0]
        xy[:, :2] = (xy[:, :2] + 0.5) / factor
        found.append(xy)
    # Flat heatmaps of random weights have rivals to some of their peaks.
    away = np.abs(found[0] - found[1])[:, :2].max(axis=1)
    assert np.median(away) < 2


@pytest.mark.parametrize(
    'options, message',
    [
        (['--bbox', '1,2,3'], 'x,y,w,h'),
        (['--bbox', '900,2,30,40'], 'outside the picture of 320 x 240'),
        (['--bbox-file', 'none.json'], 'none.json'),
        (['--kpt-thr', '2'], '--kpt-thr 2.0: must be from 0 to 1'),
        (['--frames', '0'], '--frames 0'),
        (['--bbox-thr', '1'], '--bbox-thr needs'),
        (['--detector', 'none.onnx'], 'no such detector'),
        (['--nms-thr', '2'], '--nms-thr 2.0'),
        (['--om', 'a.om'], '--om includes the model'),
        (['--sample'], 'give one'),
        (['--device', 'npu:99'], 'npu'),
        (['--device', 'toaster'], 'toaster'),
        (['--onnx', 'a.onnx'], '--onnx includes the model'),
    ],
)
def test_requests_that_cannot_be_met(model, image, capsys, options, message):
    error = refused(capsys, *model, '--img', image, *options)
    assert message in error
    assert os.listdir(os.path.dirname(image)) == ['a.png']


def test_results_that_cannot_be_written(model, image, tmp_path, capsys):
    def message(*options):
        return refused(capsys, *model, *options)

    assert 'is the picture itself' in message('--img', image, '--out', image)
    assert 'no/b.png' in message(
        '--img', image, '--out', str(tmp_path / 'no' / 'b.png')
    )
    other = tmp_path / 'b' / 'a.png'
    other.parent.mkdir()
    cv2.imwrite(str(other), picture())
    two = ['--img', image, str(other), '--out']
    assert 'one file for 2 pictures' in message(*two, 'x.png')
    assert 'would both be written to' in message(*two, str(tmp_path / 'o'))
    clip = tmp_path / 'v.mp4'
    clip.write_bytes(b'')
    assert 'only --img' in message('--img', image, str(clip))
    assert 'cannot be opened' in message('--img', str(clip))


def test_a_bug_in_the_drawing_is_raised(model, image, monkeypatch):
    def slip(canvas, *_):
        height, width = canvas.shape

    monkeypatch.setattr(demo.draw, '_draw_pose', slip)
    with pytest.raises(ValueError, match='unpack') as caught:
        run(*model, '--img', image)
    assert not is_user_error(caught.value)


def test_unusable_pictures(model, tmp_path, capsys):
    broken = tmp_path / 'b.jpg'
    broken.write_bytes(b'\xff\xd8\xff\xe0 broken')
    for path in (broken, tmp_path / 'none.jpg'):
        assert path.name in refused(capsys, *model, '--img', str(path))


def test_a_missing_checkpoint_names_the_ways_to_one(model, image, capsys):
    error = refused(capsys, '--config', model[1], '--img', image)
    for way in (
        'bash scripts/train_1p.sh',
        '--sample',
        '--checkpoint FILE',
        'work_dirs/tiny/latest.pth',
    ):
        assert way in error
    assert 'no such checkpoint' in refused(
        capsys, *model[:2], '--checkpoint', 'none.pth', '--img', image
    )
    assert 'no such config' in refused(
        capsys, '--config', 'none.py', '--img', image
    )


def test_a_checkpoint_of_another_model_is_refused(
    model, image, tmp_path, capsys
):
    text = Path(model[1]).read_text().replace('(256, 16)', '(256, 24)')
    other = tmp_path / 'other.py'
    other.write_text(text)
    for checkpoint, content in ((model[3], None), ('x.pth', b'no weights')):
        path = Path(checkpoint)
        if content:
            path = tmp_path / checkpoint
            path.write_bytes(content)
        options = ['--config', str(other), '--checkpoint', str(path)]
        assert path.name in refused(capsys, *options, '--img', image)


@pytest.mark.parametrize('option', ['--amp', '--fuse-conv-bn'])
def test_onnx_computes_as_the_file_says(exported, image, capsys, option):
    error = refused(capsys, '--onnx', exported, '--img', image, option)
    assert 'leave out --amp and --fuse-conv-bn' in error


def test_onnx_files_that_are_none(image, tmp_path, capsys):
    path = tmp_path / 'x.onnx'
    assert 'pytorch2onnx.py' in refused(
        capsys, '--onnx', str(path), '--img', image
    )
    path.write_bytes(b'no graph')
    assert 'x.onnx' in refused(capsys, '--onnx', str(path), '--img', image)


def test_onnx_on_a_device_that_is_not_there(exported, image, capsys):
    options = ['--onnx', exported, '--img', image]
    for device in ('npu', 'cuda:1', 'toaster'):
        capsys.readouterr()
        assert call('demo', *options, '--device', device) == 2
        assert f'--device {device}' in capsys.readouterr().err


def test_the_samples_model_is_for_drawn_people(
    model, image, tmp_path, capsys, monkeypatch
):
    from hourglass_npu import demo
    from hourglass_npu.pose.backends import TorchNetwork

    network = TorchNetwork(model[1], model[3], 'cpu')
    monkeypatch.setattr(demo, '_network', lambda args: network)
    out = f'--out={tmp_path}/x.jpg'
    for source, count in ((image, 1), (demo.DEMO_PICTURE, 0)):
        call('demo', '--sample', '--device=cpu', '--img', source, out)
        assert capsys.readouterr().err.count('--checkpoint zoo') == count
