import json
import math
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import acl_stand_in
import numpy as np
import pytest
import torch
from calling import command
from mpii_data import MAT_NAMES, write_mat
from scipy.io import loadmat

from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.pose import om


@pytest.fixture
def test(main, tiny, checkpoint):
    def execute(*arguments):
        main(
            'eval',
            tiny,
            *arguments,
            '--device=cpu',
            f'--work-dir={checkpoint.parent}',
        )

    return execute


def table(text):
    rows = [line for line in text.splitlines() if line[:1] == '|']
    names, rule, scores = (
        [c.strip() for c in r[1:-1].split('|')] for r in rows
    )
    assert {len(row) for row in rows} == {len(rows[0])}
    return dict(zip(names, scores))


def test_table_json_and_files_say_the_same(test, checkpoint, tmp_path, capsys):
    test(
        checkpoint,
        f'--json={tmp_path}/scores.json',
        f'--out={tmp_path}/out.pkl',
    )
    shown = table(capsys.readouterr().out)
    assert ' '.join(shown) == (
        'Head Shoulder Elbow Wrist Hip Knee Ankle PCKh PCKh@0.1'
    )
    written = json.loads((tmp_path / 'scores.json').read_text())
    assert written['samples'] == 5
    assert written['checkpoint'] == str(checkpoint)
    assert list(written['scores']) == list(shown)
    for name, score in written['scores'].items():
        assert shown[name] == f'{score:.4f}'
    outputs = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    saved = loadmat(str(checkpoint.parent / 'pred.mat'))['preds']
    assert np.array_equal(
        saved, np.concatenate([o[0] for o in outputs])[..., :2] + 1
    )
    assert len({tuple(o[0].ravel()) for o in outputs}) == 5
    assert not list(tmp_path.rglob('*.part'))


@pytest.mark.parametrize(
    'options', [[], ['--flip-test', '--preprocess', '--decode', '--static']]
)
def test_onnx_gives_the_scores_of_torch(
    test, checkpoint, export, tmp_path, capsys, options
):
    out = tmp_path / 'out.pkl'
    test(checkpoint, f'--out={out}')
    wanted = pickle.loads(out.read_bytes())
    shown = table(capsys.readouterr().out)
    _, path = export(*options)
    capsys.readouterr()
    test(f'--onnx={path}', f'--out={out}', f'--json={tmp_path}/x.json')
    output = capsys.readouterr().out
    assert table(output) == shown and f'{path} on 5 samples' in output
    for (ours, box, *_), (theirs, its_box, *_) in zip(
        pickle.loads(out.read_bytes()), wanted
    ):
        scale = np.abs(theirs[..., 2]).max()
        np.testing.assert_allclose(
            ours[..., 2], theirs[..., 2], atol=1e-5 * scale
        )
        np.testing.assert_allclose(ours[..., :2], theirs[..., :2], atol=1e-3)
        np.testing.assert_allclose(box, its_box, rtol=1e-6)


@pytest.mark.parametrize(
    'options, batches, form',
    [
        ([], (2,), 'static'),
        (['--flip-test', '--preprocess', '--decode'], (1, 2), 'dims'),
    ],
)
def test_an_om_gives_the_table_of_its_onnx_file(
    test,
    tiny,
    main,
    export,
    tmp_path,
    monkeypatch,
    capsys,
    options,
    batches,
    form,
):
    _, path = export(*options)
    capsys.readouterr()
    test(f'--onnx={path}')
    shown = table(capsys.readouterr().out)
    acl = acl_stand_in.make()
    monkeypatch.setitem(sys.modules, 'acl', acl)
    monkeypatch.setattr(om.atexit, 'register', lambda *args: None)
    compiled = acl_stand_in.write_om(
        path.with_suffix('.om'), path, batches, form
    )

    def run(*words):
        main(
            'eval', tiny, f'--om={compiled}', f'--work-dir={tmp_path}', *words
        )

    run()
    output = capsys.readouterr().out
    assert table(output) == shown and f'{compiled} on 5 samples' in output
    assert 'execute' in acl.calls and 'set_device 0' in acl.calls
    monkeypatch.setenv('LOCAL_RANK', '3')
    network = command('eval')._exported(
        SimpleNamespace(onnx=None, om=compiled), None, 'npu'
    )
    assert network.place == 'CANN on npu:3'
    for words in (f'--onnx={path}', '--amp', '--device=cpu'):
        with pytest.raises(UserError):
            run(words)


def test_onnx_files_that_do_not_fit_are_refused(test, checkpoint, export):
    with pytest.raises(UserError, match='no file none.onnx'):
        test('--onnx=none.onnx')
    _, path = export('--shape', '32', '32')
    with pytest.raises(UserError, match='leave out the checkpoint'):
        test(checkpoint, f'--onnx={path}')
    with pytest.raises(
        ValueError, match=r'\(32, 32\), but .*64, 64'
    ) as caught:
        test(f'--onnx={path}')
    assert is_user_error(caught.value)


def test_the_latest_checkpoint_is_the_default(test, checkpoint, capsys):
    test()
    assert f'{checkpoint} on 5 samples' in capsys.readouterr().out
    checkpoint.unlink()
    with pytest.raises(UserError, match='latest.pth: train first'):
        test()


def test_what_was_never_to_be_seen_has_no_score(
    test, checkpoint, tmp_path, capsys
):
    visible = np.ones((5, 16), bool)
    visible[:, MAT_NAMES.index('head')] = False
    write_mat(
        tmp_path / 'mpii/annotations/mpii_gt_val.mat',
        np.full((5, 16, 2), 50),
        visible,
        np.array([[[0, 0], [20, 20]]] * 5),
    )
    test(checkpoint, f'--json={tmp_path}/scores.json')
    shown = table(capsys.readouterr().out)
    assert shown['Head'] == 'n/a' and not math.isnan(float(shown['PCKh']))
    written = json.loads((tmp_path / 'scores.json').read_text())
    assert written['scores']['Head'] is None


def test_another_networks_checkpoint_is_refused(test, checkpoint):
    with pytest.raises(UserError, match=r'holds \d+ .* has \d+: .*shape'):
        test(
            checkpoint,
            '--cfg-options',
            'model.backbone.stage_channels=(256,32)',
        )


def test_files_that_do_not_belong_together_are_refused_at_once(
    test, checkpoint, tmp_path
):
    path = tmp_path / 'mpii/annotations/mpii_val.json'
    notes = json.loads(path.read_text())
    path.write_text(json.dumps(notes * 2))
    with pytest.raises(ValueError, match='has 10 people.* has 5'):
        test(checkpoint)
    path.write_text('[]')
    with pytest.raises(UserError, match='empty'):
        test(checkpoint)


def test_folding_and_low_precision_find_the_same_joints(
    test, checkpoint, tmp_path
):
    joints = []
    options = [], ['--fuse-conv-bn'], ['--amp'], ['--amp', '--fuse-conv-bn']
    if not hasattr(torch, 'autocast'):
        with pytest.raises(ValueError, match='use a newer torch'):
            test(checkpoint, '--amp')
        options = options[:2]
    for chosen in options:
        test(checkpoint, f'--out={tmp_path}/out.pkl', *chosen)
        outputs = pickle.loads((tmp_path / 'out.pkl').read_bytes())
        joints.append(np.concatenate([one[0] for one in outputs]))
    exact, folded, *low = joints
    assert not np.array_equal(exact, folded)  # but for rounding
    assert np.abs(exact[..., :2] - folded[..., :2]).max() < 1e-4
    for rounded in low:
        scores = rounded[..., 2] / exact[..., 2]
        assert 0 < np.abs(scores - 1).max() < 0.1


@pytest.mark.parametrize(
    'options, message',
    [
        (['--onnx=x.onnx', '--amp'], 'computes as the file says'),
        (['--eval', 'mAP'], 'knows PCKh'),
        (['--json=/none/x.json'], 'folder /none does not exist'),
        (['--cfg-options', 'data.test.ann_file=/none.json'], '/none.json'),
    ],
)
def test_mistakes_are_said_before_the_work(test, checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        test(checkpoint, *options)
    assert not (checkpoint.parent / 'pred.mat').exists()


def test_the_parser_refuses_an_output_that_nobody_can_write(capsys):
    with pytest.raises(SystemExit) as caught:
        command('eval').parse_args(['x.py', 'y.pth', '--out=x.txt'])
    assert caught.value.code == 2
    assert 'must end in one of .json' in capsys.readouterr().err
    args = command('eval').parse_args(
        'x.py y.pth --gpu_collect --tmpdir t --eval PCKh'.split()
    )
    assert args.gpu_collect and args.eval == ['PCKh']


def test_pictures_are_written_on_request(test, checkpoint, tmp_path, capsys):
    test(checkpoint, f'--show-dir={tmp_path}/show/here')
    names = sorted(p.name for p in Path(f'{tmp_path}/show/here').iterdir())
    assert names == ['joint_errors.png', 'people.jpg']
    assert capsys.readouterr().out.count('Wrote ') == 2
