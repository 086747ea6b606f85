import json

import cv2
import numpy as np
import pytest

from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.reports import curves


def write_log(folder, name='1.log.json', steps=range(10, 61, 10), **values):
    """Write a log of epochs of 30 iterations."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({'env_info': 'first line, no iteration'})]
    for step in steps:
        entry = dict(
            mode='train',
            epoch=(step - 1) // 30 + 1,
            iter=(step - 1) % 30 + 1,
            lr=0.01,
            time=0.5,
            data_time=0.1,
            loss=1.0 / step,
            step=step,
            fps=8.0,
        )
        entry.update(values)
        lines.append(json.dumps(entry))
        if step % 30 == 0:
            score = dict(mode='val', lr=0.02, PCKh=float(step))
            lines.append(json.dumps(dict(entry, **score)))
    (folder / name).write_text('\n'.join(lines) + '\n{"mode": "tra')
    return str(folder)


def test_curves_are_what_was_logged(tmp_path):
    entries = curves.read_log(write_log(tmp_path / 'a', skipped_steps=2))
    steps = list(range(10, 61, 10))
    assert curves.series(entries, 'loss') == (steps, [1 / s for s in steps])
    assert curves.series(entries, 'lr') == (steps, [0.01] * 6)
    assert curves.series(entries, 'PCKh') == ([30, 60], [30.0, 60.0])
    assert curves.series(entries, 'data_share')[1][0] == 20
    assert curves.series(entries, 'skipped_steps')[1][-1] == 2
    assert curves.series(entries, 'grad_norm') == ([], [])


def test_a_log_of_mmcv_alone_will_do(tmp_path):
    folder = write_log(tmp_path / 'a')
    path = tmp_path / 'a' / '1.log.json'
    entries = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    for entry in entries:
        entry.pop('step', None)
        entry.pop('fps', None)
    path.write_text('\n'.join(map(json.dumps, entries)))
    found = curves.read_log(folder)
    assert [e['step'] for e in found] == [10, 20, 30, 30, 40, 50, 60, 60]


def test_what_was_done_again_replaces_what_was_done_before(tmp_path):
    folder = write_log(tmp_path / 'a', steps=range(10, 81, 10))
    write_log(tmp_path / 'a', '2.log.json', range(40, 61, 10), loss=9.0)
    entries = curves.read_log(folder)
    steps, losses = curves.series(entries, 'loss')
    assert steps == [10, 20, 30, 40, 50, 60]
    assert losses[2:] == [1 / 30, 9, 9, 9]


def blue_and_red(path):
    picture = cv2.imread(path).astype(int)
    return [
        (np.abs(picture - bgr).max(axis=2) < 12).sum()
        for bgr in ((178, 114, 0), (0, 94, 213))
    ]


def test_several_runs_lie_over_each_other(tmp_path):
    one = write_log(tmp_path / 'a')
    other = write_log(tmp_path / 'b', loss=0.01, fps=4.0, skipped_steps=1)
    path = curves.plot([one])
    assert path == f'{one}/training.png'
    blue, red = blue_and_red(path)
    assert blue > 1000 and red == 0
    path = curves.plot([one, other])
    assert path == f'{one}/trainings.png'
    assert min(blue_and_red(path)) > 1000
    left = sorted(p.name for p in (tmp_path / 'a').iterdir())
    assert left == ['1.log.json', 'training.png', 'trainings.png']


def test_runs_are_named_by_what_tells_them_apart():
    assert curves._names(['/x/a', '/x/b/']) == ['a', 'b']
    assert curves._names(['/x/a', '/y/a']) == ['x/a', 'y/a']


def test_mistakes_are_said(main, tmp_path, capsys):
    folder = write_log(tmp_path / 'a')
    (tmp_path / 'empty').mkdir()
    for arguments, message in (
        ([tmp_path / 'no'], 'there is no folder'),
        ([tmp_path / 'empty'], 'has no log'),
        ([folder, folder], 'given twice'),
    ):
        with pytest.raises(UserError, match=message):
            main('plot', *arguments)
    with pytest.raises(ValueError, match='does not exist') as caught:
        main('plot', folder, '--out', tmp_path / 'no' / 'x.png')
    assert is_user_error(caught.value)
    with pytest.raises(SystemExit):
        main('plot', folder, '--out=x.jpg')
    assert '.png, .pdf or .svg' in capsys.readouterr().err
    main('plot', folder, f'--out={tmp_path}/x.svg')
    assert (tmp_path / 'x.svg').read_text().startswith('<?xml')
