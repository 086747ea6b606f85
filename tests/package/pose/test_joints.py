"""Descriptions of joints: what they say, and what is wrong with them."""

import copy
import json

import pytest

from hourglass_npu.errors import UserError
from hourglass_npu.pose.joints import COCO, MPII, Joints, find_joints

INFO = dict(
    dataset_name='two',
    keypoint_info={
        0: dict(name='l-wing', id=0, swap='r-wing', color=[1, 2, 3]),
        1: dict(name='r-wing', id=1, swap='l-wing', type='upper'),
        2: dict(name='beak', id=2),
    },
    skeleton_info={0: dict(link=('l-wing', 'beak'), id=0)},
)


def test_mpii_and_coco_ship_with_the_package():
    assert len(MPII) == 16 and len(COCO) == 17
    assert MPII.names[9] == 'head_top' and COCO.names[16] == 'right_ankle'
    assert MPII.head == (9, 8) and COCO.head is None
    assert set(MPII.scored) == set(range(16)) - {6, 7}
    assert COCO.flip_pairs[0] == (1, 2) and MPII.flip_pairs[0] == (0, 5)
    assert len(MPII.limbs) == 15 and len(COCO.limbs) == 19
    assert MPII.sides.count('left') == MPII.sides.count('right') == 6
    assert find_joints('coco') == COCO and find_joints('mpii') == MPII


@pytest.mark.parametrize(
    'joints',
    [MPII, COCO, Joints.from_info(INFO), Joints.numbered(5, [(3, 1)])],
)
def test_json_holds_the_whole_description(joints, tmp_path):
    path = tmp_path / 'joints.json'
    path.write_text(json.dumps(joints.to_info()))
    assert find_joints(str(path)) == joints


def test_what_a_description_says():
    joints = Joints.from_info(INFO)
    assert joints.names == ('l-wing', 'r-wing', 'beak')
    assert joints.sides == ('left', 'right', 'centre')
    assert joints.colors[0] == (1, 2, 3)
    assert joints.limb_colors[0] == joints.colors[0] or joints.limbs == (
        (0, 2),
    )
    assert joints.groups == dict(Wing=(0, 1), Beak=(2,))
    assert joints.upper == (1,) and joints.lower == ()
    assert joints.weights == (1, 1, 1) and joints.sigmas is None
    # The order is that of the ids.
    turned = dict(reversed(list(INFO['keypoint_info'].items())))
    assert Joints.from_info(dict(INFO, keypoint_info=turned)) == joints


def test_numbered_joints_have_pairs():
    joints = Joints.numbered(4, [(2, 1)], 'TopDownMineDataset')
    assert joints.names[3] == 'joint 3' and joints.flip_pairs == ((1, 2),)
    assert joints.sides == ('centre', 'side 1', 'side 2', 'centre')
    with pytest.raises(UserError, match=r'\(2, 4\), but there are 4 joints'):
        Joints.numbered(4, [(2, 4)])


def set_(*path, value):
    def change(info):
        for key in path[:-1]:
            info = info[key]
        info[path[-1]] = value

    return change


@pytest.mark.parametrize(
    'change, message',
    [
        (set_('keypoint_info', value={}), 'has 0 joints: must be 1 to 1000'),
        (set_('keypoint_info', value=[1]), 'keypoint_info must be a dict'),
        (set_('keypoint_info', 0, value=1), r'keypoint_info\[0\] must be'),
        (set_('keypoint_info', 0, 'id', value=2), 'must be 0 to 2, each once'),
        (set_('keypoint_info', 0, 'id', value='0'), "each once, not .*'0'"),
        (set_('keypoint_info', 0, 'name', value=''), "name is '': must be"),
        (set_('keypoint_info', 2, 'name', value='l-wing'), "'l-wing' twice"),
        (set_('keypoint_info', 0, 'swap', value='x'), "names 'x', which is"),
        (set_('keypoint_info', 1, 'swap', value=''), 'but r-wing with None'),
        (
            set_('keypoint_info', 0, 'type', value='mid'),
            "type of l-wing is 'm",
        ),
        (set_('keypoint_info', 0, 'color', value=[1, 2]), 'must be R, G, B'),
        (set_('keypoint_info', 0, 'color', value=[1, 2, 300]), 'R, G, B'),
        (set_('skeleton_info', 0, 'link', value=['beak']), 'name two joints'),
        (set_('skeleton_info', 0, 'link', value=None), 'must be a list'),
        (set_('skeleton_info', 0, 'link', value=['beak', 'x']), "names 'x'"),
        (set_('sigmas', value=[1, 2]), 'sigmas has 2 numbers for 3 joints'),
        (set_('sigmas', value=[1, 2, 'a']), "has 'a': must be a number"),
        (set_('joint_weights', value=[1, 2, -1]), 'has -1: must be a number'),
        (set_('groups', value=dict(All=['x'])), "groups, All, names 'x'"),
        (set_('groups', value=dict(All=[])), "'All' must have a name and"),
        (set_('not_scored', value=['x']), "not_scored names 'x'"),
        (set_('head', value=['beak']), 'head must name two joints'),
        (set_('dataset_name', value=3), 'dataset_name is 3: must be text'),
    ],
)
def test_what_is_wrong_is_said(change, message):
    info = copy.deepcopy(INFO)
    change(info)
    with pytest.raises(UserError, match='^mine.json: .*' + message):
        Joints.from_info(info, 'mine.json')


def test_a_description_must_be_there():
    with pytest.raises(UserError, match='no.json'):
        find_joints('no.json')
    with pytest.raises(UserError, match=r'is 3: must be a dict, mpii, coco'):
        find_joints(3)
