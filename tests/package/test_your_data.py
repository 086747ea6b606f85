"""docs/YOUR_DATA.md: from a COCO file to a trained, exported model."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pose_model
import pytest
from calling import call
from mpii_data import TINY_NETWORK

from hourglass_npu import Pose, zoo
from hourglass_npu.errors import UserError
from hourglass_npu.pose.joints import COCO, Joints, find_joints

SIX = ['nose', 'left_ear', 'right_ear', 'tail', 'left_paw', 'right_paw']
TINY = """
total_epochs = 1
"""


def write_coco(folder, names, pictures=6, skeleton=((1, 2), (1, 3))):
    """Write a COCO file of noise, one person in a picture."""
    rng = np.random.RandomState(len(names))
    (folder / 'photos').mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, pictures + 1):
        name = f'{number}.jpg'
        noise = rng.randint(0, 255, (12, 16, 3)).astype(np.uint8)
        cv2.imwrite(
            str(folder / 'photos' / name), cv2.resize(noise, (160, 120))
        )
        images.append(dict(id=number, file_name=name, width=160, height=120))
        points = rng.uniform((40, 10), (120, 110), (len(names), 2)).round(1)
        flags = rng.choice([0, 1, 2], len(names))
        flags[0] = 2
        points = np.c_[points * (flags > 0)[:, None], flags]
        annotations.append(
            dict(
                id=10 * number,
                image_id=number,
                category_id=3,
                iscrowd=0,
                bbox=[40.0, 10.0, 80.0, 100.0],
                area=8000.0,
                keypoints=points.ravel().tolist(),
                num_keypoints=int((flags > 0).sum()),
            )
        )
    category = dict(
        id=3, name='animal', keypoints=names, skeleton=list(skeleton)
    )
    path = folder / 'coco.json'
    content = dict(
        images=images, annotations=annotations, categories=[category]
    )
    path.write_text(json.dumps(content))
    return path, content


def zoo_of_our_making(folder, monkeypatch):
    """Put weights for 16 joints where the published ones are cached."""
    cache = folder / 'cache/hub/checkpoints'
    cache.mkdir(parents=True)
    config, weights = pose_model.make(cache)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    name = f'our-{digest[:8]}_20200812.pth'
    weights.rename(cache / name)
    for dataset in ('mpii', 'coco'):
        monkeypatch.setitem(zoo.FILES, (dataset, 64), name)
    monkeypatch.setenv('TORCH_HOME', str(folder / 'cache'))
    return config, cache / name


def convert(folder, source, run=call):
    return run(
        *('convert', source, '--img', folder / 'photos'),
        *('--out', folder / 'mine', '--val-share', '0.34'),
    )


@pytest.mark.training
@pytest.mark.parametrize('names', [list(COCO.names), SIX], ids=['17', '6'])
def test_from_coco_to_a_model(names, tmp_path, capsys, caplog, monkeypatch):
    zoo_of_our_making(tmp_path, monkeypatch)
    monkeypatch.setenv('PYTHONHASHSEED', '0')  # mmcv notes the seed there
    source, _ = write_coco(tmp_path, names)
    assert not convert(tmp_path, source)
    mine = tmp_path / 'mine'
    printed = capsys.readouterr().out
    assert 'train: 4 people in 4' in printed and 'val: 2 people' in printed
    assert not call('check', mine, '--workers=1')
    config = tmp_path / 'tiny.py'
    work = tmp_path / 'work'
    tiny = TINY_NETWORK.format(base=mine / 'finetune.py') + TINY
    config.write_text(f'{tiny}work_dir = {str(work)!r}\n')
    options = ['--device=cpu']
    assert not call('browse', config)
    assert (work / 'samples.jpg').exists()
    assert not call('train', config, *options, '--seed=0')
    logs = [
        json.loads(line)
        for path in work.glob('*.log.json')
        for line in path.read_text().splitlines()
    ]
    told = '102 of the 104 tensors of the model were loaded from'
    assert told in caplog.text and f'({len(names)},) here)' in caplog.text
    # An epoch of two iterations has a line, though the interval is 20.
    assert [e['iter'] for e in logs if e.get('mode') == 'train'] == [2]
    assert any('PCK' in e for e in logs)
    assert (work / 'training.png').exists()
    latest = work / 'latest.pth'
    assert not call('eval', config, *options, f'--show-dir={tmp_path}/sheets')
    printed = capsys.readouterr().out
    assert 'PCK is measured in person sizes' in printed
    assert cv2.imread(f'{tmp_path}/sheets/joint_errors.png') is not None

    picture = tmp_path / 'photos/1.jpg'
    model = [f'--config={config}', f'--checkpoint={latest}']
    demo = ['demo', '--device=cpu', '--img', picture, '--kpt-thr=0']
    assert not call(
        *demo, *model, f'--out={tmp_path}/x.jpg', f'--json={tmp_path}/x.json'
    )
    found = json.loads((tmp_path / 'x.json').read_text())
    assert found['joints'] == names
    onnx = tmp_path / 'mine.onnx'
    assert not call('export', *model, f'--out={onnx}')
    assert not call(
        *demo, f'--onnx={onnx}', f'--out={tmp_path}/y.jpg', '--json'
    )
    assert json.loads((tmp_path / 'y.json').read_text())['joints'] == names

    assert not call('publish', latest)
    (published,) = work.glob('work-*.pth')
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert digest.startswith(published.stem.split('-')[1])
    assert published.stat().st_size < latest.stat().st_size / 2
    assert not call('publish', latest)
    # torch 1.8 numbers tensors by their address: another file, and name.
    for again in work.glob('work-*.pth'):
        digest = hashlib.sha256(again.read_bytes()).hexdigest()
        assert digest.startswith(again.stem.split('-')[1])
    named = f'--config={config}', f'--out={tmp_path}/named.pth'
    assert not call('publish', latest, *named)
    assert list(tmp_path.glob('named-*.pth'))
    import torch

    content = torch.load(str(published), map_location='cpu')
    assert set(content) == {'meta', 'state_dict'}
    assert 'total_epochs' in content['meta']['config']
    joints = Joints.from_info(content['meta']['joints'])
    assert joints.names == tuple(names)
    assert not call(
        *('demo', '--device=cpu', '--img', picture, f'--config={config}'),
        *(f'--checkpoint={published}', f'--out={tmp_path}/z.jpg'),
    )


def test_there_and_back(tmp_path):
    source, content = write_coco(tmp_path, SIX)
    convert(tmp_path, source)
    back = tmp_path / 'back.json'
    assert not call('convert', tmp_path / 'mine', '--out', back)
    found = json.loads(back.read_text())
    assert found['categories'][0]['keypoints'] == SIX
    assert found['categories'][0]['skeleton'] == [[1, 2], [1, 3]]
    names = {i['id']: i['file_name'] for i in found['images']}
    by_name = {names[a['image_id']]: a for a in found['annotations']}
    assert len(by_name) == 6
    for before in content['annotations']:
        after = by_name[f'{before["image_id"]}.jpg']
        assert after['bbox'] == before['bbox']
        np.testing.assert_allclose(
            after['keypoints'], before['keypoints'], atol=1e-3
        )
    joints = find_joints(str(tmp_path / 'mine/annotations/joints.json'))
    assert joints.flip_pairs == ((1, 2), (4, 5))
    assert joints.limbs == ((0, 1), (0, 2))
    from mmpose.datasets import build_dataset

    from hourglass_npu.config.load import load_config

    cfg = load_config(str(tmp_path / 'mine/finetune.py'))
    dataset = build_dataset(cfg.data.train)
    # The crop is around the middle of the box, and a quarter larger.
    np.testing.assert_allclose(dataset.db[0]['center'], [80, 60])
    np.testing.assert_allclose(dataset.db[0]['scale'], 100 * 1.25 / 200)


def test_the_split_is_by_picture_and_repeatable(tmp_path):
    source, content = write_coco(tmp_path, SIX)
    twice = [dict(a, id=a['id'] + 1) for a in content['annotations']]
    content['annotations'] += twice
    source.write_text(json.dumps(content))
    convert(tmp_path, source)
    splits = [
        json.loads((tmp_path / f'mine/annotations/mpii_{s}.json').read_text())
        for s in ('train', 'val')
    ]
    train, val = ({p['image'] for p in people} for people in splits)
    assert not train & val and len(train | val) == 6
    assert [len(people) for people in splits] == [8, 4]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(keypoints=[1, 2, 2]), 'annotation 10: keypoints must be 18'),
        (dict(bbox=[1, 2, 0, 5]), r'annotation 10: bbox is \[1, 2, 0, 5\]'),
        (dict(bbox=[500, 2, 9, 5]), 'lies outside of 1.jpg'),
        (dict(image_id=99), 'annotation 10: no picture 99'),
        (dict(image_id='x'), 'must be whole numbers'),
        (dict(keypoints=[1, 2, 3] * 6), 'must be 0, 1 or 2'),
        (dict(keypoints=[float('nan'), 2, 2] * 6), 'must be 18 numbers'),
        (dict(keypoints=7), 'must be 18 numbers'),
        (dict(id=20), 'two annotations have the same id'),
    ],
)
def test_faults_are_named_and_nothing_is_written(
    main, tmp_path, change, message
):
    source, content = write_coco(tmp_path, SIX)
    content['annotations'][0].update(change)
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        convert(tmp_path, source, main)
    assert not (tmp_path / 'mine').exists()


def test_mistakes_of_the_whole_file_are_named(main, tmp_path):
    source, content = write_coco(tmp_path, SIX)
    for change, message in (
        (dict(categories=[]), 'there is none'),
        (dict(images=3), 'no list of images'),
        (dict(images=content['images'][:1], annotations=[]), 'has no people'),
    ):
        other = tmp_path / 'other.json'
        other.write_text(json.dumps(dict(content, **change)))
        with pytest.raises(UserError, match=message):
            convert(tmp_path, other, main)
    (tmp_path / 'photos/3.jpg').unlink()
    with pytest.raises(UserError, match='3.jpg: there is no such file'):
        convert(tmp_path, source, main)
    assert not Path(tmp_path / 'mine').exists()


def test_the_three_lines_take_the_published_weights(tmp_path, monkeypatch):
    config, weights = zoo_of_our_making(tmp_path, monkeypatch)
    image = pose_model.picture()
    found = Pose('zoo', config=config, device='cpu')(image)
    assert found == Pose(weights, config=config, device='cpu')(image)
