import cv2
import numpy as np
import pytest

from hourglass_npu.mpii.pckh import PCK, PCKH
from hourglass_npu.pose.joints import MPII, SIDE_COLORS, Joints
from hourglass_npu.reports import sheets

BLUE, RED = (np.array(SIDE_COLORS[s][::-1]) for s in ('left', 'right'))


def test_people_are_ranked_by_their_errors():
    errors = np.full((20, 16), 0.1) * np.arange(20)[:, None]
    errors[3] = np.nan
    errors[5, 0] = np.inf  # one joint lost makes nobody the worst
    errors[7, 1:] = np.nan
    groups = sheets.rank_people(errors)
    assert groups['best'] == [0, 1, 2, 4, 5]
    assert groups['worst'] == [15, 16, 17, 18, 19]
    assert groups['median'] == [8, 9, 10, 11, 12]
    for people in (1, 2, 4):
        groups = sheets.rank_people(errors[:people])
        shown = [i for group in groups.values() for i in group]
        assert set(shown) <= set(range(people)) and all(groups.values())
    nobody = sheets.rank_people(np.full((2, 16), np.nan))
    assert nobody == dict(best=[], median=[], worst=[])


@pytest.fixture
def scene(tmp_path):
    """A person on grey ground whose left and right side are apart."""
    path = tmp_path / 'grey.png'
    cv2.imwrite(str(path), np.full((400, 400, 3), 128, np.uint8))
    joints = np.zeros((1, 16, 2))
    for k in range(16):
        side = {'left': 280, 'right': 120, 'centre': 200}[MPII.sides[k]]
        joints[0, k] = side, 60 + 17 * k
    people = [
        dict(
            image_file=str(path),
            center=np.array([200.0, 200.0]),
            scale=np.array([2.0, 2.0]),
        )
    ]
    truth = dict(
        joints=joints + 1, visible=np.ones((1, 16), bool), measure=PCKH
    )
    return people, joints, truth


def count(picture, colour, tolerance=12):
    near = np.abs(picture.astype(int) - colour).max(-1) <= tolerance
    return near.sum(), near.nonzero()


def test_sheet_shows_prediction_over_truth(scene):
    people, joints, truth = scene
    poses = np.concatenate([joints, np.full((1, 16, 1), 0.01)], -1)
    errors = np.zeros((1, 16))
    sheet = sheets.contact_sheet(people, poses, truth, errors, MPII)
    tile = sheets.TILE
    left = sheet[:, : tile // 2 + sheets.MARGIN]
    right = sheet[:, tile // 2 + sheets.MARGIN :]
    # In their own colours, whatever the score; the truth is white around.
    for colour, here, there in ((RED, left, right), (BLUE, right, left)):
        assert count(here, colour)[0] > 100 > 9 * count(there, colour)[0]

    truth['visible'][:] = False
    bare = sheets.contact_sheet(people, poses, truth, errors, MPII)
    white = np.array([255, 255, 255])
    assert count(bare, white)[0] < count(sheet, white)[0]
    assert (sheet != bare).any()


def test_plot_is_written_even_where_a_joint_was_never_seen(tmp_path):
    errors = np.abs(np.random.RandomState(0).normal(0, 0.4, (30, 16)))
    errors[:, 9] = np.nan
    errors[2, 3] = np.inf
    path = tmp_path / 'plot.png'
    sheets.plot_errors(errors, str(path), MPII, PCKH)
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 960
    # Boxes of both sides.
    assert count(picture, BLUE)[0] > 500 and count(picture, RED)[0] > 500
    assert [p.name for p in tmp_path.iterdir()] == ['plot.png']


def test_sheet_and_plot_of_other_joints(scene, tmp_path):
    people, joints, truth = scene
    some = Joints.numbered(3, [(0, 1)])
    few = {k: truth[k][:, :3] for k in ('joints', 'visible')}
    poses = np.concatenate([joints[:, :3], np.ones((1, 3, 1))], -1)
    errors = np.array([[0.01, 0.3, np.nan]])
    few['measure'] = PCK
    sheet = sheets.contact_sheet(people, poses, few, errors, some)
    assert count(sheet, BLUE)[0] > 3 and count(sheet, RED)[0] > 3
    path = tmp_path / 'plot.png'
    sheets.plot_errors(errors, str(path), some, PCK)
    assert cv2.imread(str(path)).shape[1] == 960
