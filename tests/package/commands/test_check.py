"""check_mpii.py finds each fault that a training would stumble over."""

import json
import shutil
import struct

import pytest
from mpii_data import copy_real_mpii, write_annotations, write_mpii

from hourglass_npu.errors import UserError, is_user_error


@pytest.fixture
def folder(tmp_path):
    return write_mpii(tmp_path / 'mpii')


@pytest.fixture
def check(main, tmp_path, capsys):
    """Run the tool; gives its status, what it printed, and the report."""

    def execute(folder, *options):
        path = tmp_path / 'report.json'
        status = 0
        try:
            main('check', folder, '--json', path, '--workers=1', *options)
        except SystemExit as end:
            status = end.code
        report = json.loads(path.read_text())
        return status, capsys.readouterr().out, report

    return execute


def change(folder, split, index, **values):
    path = folder / f'annotations/mpii_{split}.json'
    people = json.loads(path.read_text())
    people[index].update(values)
    path.write_text(json.dumps(people))
    return people


def test_sound_data_are_fit_for_use(check, folder):
    status, printed, report = check(folder)
    assert (status, report['faults']) == (0, [])
    assert f'{folder}/annotations/mpii_train.json: 6 people, 6' in printed
    assert f'{folder}/images: 11 pictures' in printed
    assert printed.endswith('fit for use\n')
    assert report['folder'] == str(folder)
    assert report['files'][f'{folder}/annotations/mpii_gt_val.mat'] == dict(
        people=5
    )
    # Other numbers than MPII's, and two files that nobody needs.
    assert len(report['remarks']) == 4


def test_real_pictures_and_people_have_no_fault(check, real_mpii, tmp_path):
    status, _, report = check(copy_real_mpii(real_mpii, tmp_path / 'real'))
    assert (status, report['faults']) == (0, [])


def spoil_truth(folder):
    people = json.loads((folder / 'annotations/mpii_val.json').read_text())
    write_annotations(folder, 'val', people[::-1])
    (folder / 'annotations/mpii_val.json').write_text(json.dumps(people))


def shorten(name, keep):
    def spoil(folder):
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return spoil


def claim(side):
    def spoil(folder):
        path = folder / 'images/val0.jpg'
        data = bytearray(path.read_bytes())
        at = data.index(b'\xff\xc0') + 5
        data[at : at + 4] = struct.pack('>HH', side, side)
        path.write_bytes(bytes(data))

    return spoil


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda f: (f / 'images/train3.jpg').unlink(),
            'train3.jpg: there is no such file',
        ),
        (lambda f: shutil.rmtree(str(f / 'images')), 'images is missing'),
        (
            lambda f: (f / 'annotations/mpii_train.json').unlink(),
            'mpii_train.json is missing',
        ),
        (shorten('images/val0.jpg', 0), 'val0.jpg: the file is empty'),
        (shorten('images/val0.jpg', 0.5), 'val0.jpg: broken picture: image'),
        (shorten('images/val0.jpg', 0.99), 'val0.jpg: broken picture: image'),
        (claim(60000), 'val0.jpg: too large: Image size (3600000000'),
        (
            lambda f: (f / 'images/val0.jpg').write_text('<html>'),
            'val0.jpg: no picture of a known format (6 bytes)',
        ),
        (shorten('annotations/mpii_train.json', 0.7), 'is not valid JSON'),
        (
            shorten('annotations/mpii_gt_val.mat', 0.7),
            'is not the ground truth',
        ),
        (
            lambda f: change(f, 'train', 2, scale=0),
            'mpii_train.json, person 2 (train2.jpg): scale is 0',
        ),
        (
            lambda f: change(f, 'train', 2, center=[900, 50]),
            'the box around (900, 50) lies outside the picture of 160 x 120',
        ),
        (
            lambda f: (
                write_annotations(f, 'val', change(f, 'val', 0)[:4])
                or change_back(f)
            ),
            'they do not belong together',
        ),
        (spoil_truth, 'joints differ from those'),
    ],
)
def test_each_fault_is_named_and_fails_the_check(
    check, folder, spoil, message
):
    spoil(folder)
    status, printed, report = check(folder)
    assert status == 1
    found = [fault for fault in report['faults'] if message in fault]
    assert len(found) == 1, report['faults']
    assert f'fault: {found[0]}' in printed
    assert printed.endswith('not fit for use\n')


def change_back(folder):
    """Five people in the annotations, four in the truth."""
    path = folder / 'annotations/mpii_val.json'
    people = json.loads(path.read_text())
    path.write_text(json.dumps(people + people[:1]))


def test_a_joint_outside_the_picture_is_a_remark(check, folder):
    people = change(folder, 'train', 0)
    joints = people[0]['joints']
    joints[3] = [161, 5]
    change(folder, 'train', 0, joints=joints, joints_vis=[1] * 16)
    status, _, report = check(folder)
    assert status == 0
    assert any(
        'person 0 (train0.jpg): joint 3 at (161, 5) lies outside' in remark
        for remark in report['remarks']
    )


def test_a_missing_truth_is_a_remark_that_says_what_takes_its_place(
    check, folder
):
    (folder / 'annotations/mpii_gt_val.mat').unlink()
    status, _, report = check(folder)
    assert status == 0
    (remark,) = [r for r in report['remarks'] if 'mpii_gt_val.mat' in r]
    assert 'PCKh will be measured by head_top and upper_neck of' in remark


def test_many_messages_are_cut_short_on_the_terminal_only(check, tmp_path):
    folder = write_mpii(tmp_path / 'mpii', train=30)
    for path in (folder / 'images').glob('train*'):
        path.unlink()
    status, printed, report = check(folder)
    assert status == 1 and len(report['faults']) == 30
    assert printed.count('fault: ') == 20 and 'and 10 more faults' in printed


def test_pictures_can_be_left_out(check, folder):
    shutil.rmtree(str(folder / 'images'))
    assert check(folder, '--no-pictures')[0] == 0


def test_several_processes_find_the_same(run, folder, tmp_path):
    from hourglass_npu.commands.check import _mapped

    shorten('images/val0.jpg', 0.5)(folder)
    paths = sorted(map(str, (folder / 'images').iterdir()))
    assert list(_mapped(paths, 2)) == list(_mapped(paths, 1))


def test_training_says_the_same(check, main, tiny, tmp_path):
    folder = tmp_path / 'mpii'
    change(folder, 'train', 2, center=[1])
    (fault,) = check(folder)[2]['faults']
    with pytest.raises(ValueError) as raised:
        main('train', tiny, '--device=cpu', f'--work-dir={tmp_path}/work')
    assert is_user_error(raised.value)
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['/nowhere'], 'there is no folder /nowhere'),
        (['.', '--json=/nowhere/a.json'], 'folder /nowhere does not exist'),
    ],
)
def test_wrong_requests_are_refused(main, arguments, message):
    with pytest.raises(UserError, match=message):
        main('check', *arguments)


@pytest.mark.parametrize('option', ['--workers=0', '--workers=x', '--worker'])
def test_wrong_options_are_refused(main, option, capsys):
    with pytest.raises(SystemExit) as caught:
        main('check', option)
    assert caught.value.code == 2
    assert '--workers' in capsys.readouterr().err
