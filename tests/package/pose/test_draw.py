"""Where the paint goes, and how much of it."""

from functools import partial

import numpy as np
import pytest

from hourglass_npu.pose import draw
from hourglass_npu.pose.joints import COCO, MPII, SIDE_COLORS, Joints

draw_people = partial(draw.draw_people, joints=MPII)
draw_heatmaps = partial(draw.draw_heatmaps, joints=MPII)


def person(score=0.9, seed=0, size=200):
    """Joints of a person who fills a square of ``size``."""
    random = np.random.RandomState(seed)
    xy = random.uniform(20, size - 20, (16, 2))
    return np.c_[xy, np.full(16, score)].astype(np.float32)


@pytest.mark.parametrize('ground', [0, 127, 255])
def test_every_joint_and_limb_is_painted_in_the_colour_of_its_side(ground):
    canvas = np.full((400, 400, 3), ground, np.uint8)
    for limb, rgb in zip(MPII.limbs, MPII.limb_colors):
        pose = np.zeros((16, 3), np.float32)
        pose[list(limb)] = [[60, 200, 0.9], [340, 210, 0.9]]
        drawn = draw_people(canvas, [pose])
        middle = drawn[205, 200][::-1].astype(int)
        colour = np.array(rgb)
        assert np.abs(middle - colour).max() <= 2
        assert (drawn[200, 60] == 255).all()  # the white of a joint
        # The dark edge is what tells it from bright ground.
        edge = drawn[195:216, 200].min(axis=0).max()
        assert edge < 100


def test_the_picture_that_was_given_is_not_changed():
    canvas = np.full((200, 200, 3), 90, np.uint8)
    before = canvas.copy()
    drawn = draw_people(canvas, [person()])
    heat = draw_heatmaps(
        canvas, np.ones((1, 16, 8, 8), np.float32), [np.eye(2, 3)]
    )
    assert (canvas == before).all()
    assert (drawn != before).any() and (heat != before).any()


def test_joints_below_the_threshold_are_not_painted():
    canvas = np.zeros((200, 200, 3), np.uint8)
    assert not draw_people(canvas, [person(0.29)], threshold=0.3).any()
    assert draw_people(canvas, [person(0.31)], threshold=0.3).any()


def test_a_joint_without_a_number_is_left_out():
    canvas = np.zeros((200, 200, 3), np.uint8)
    pose = person()
    pose[3] = np.nan
    assert draw_people(canvas, [pose]).any()


def test_a_sure_joint_is_more_opaque_than_an_unsure_one():
    sums = [
        int(draw_people(np.zeros((200, 200, 3), np.uint8), [person(s)]).sum())
        for s in (0.31, 0.5, 0.8)
    ]
    assert sums == sorted(sums) and sums[0] < 0.7 * sums[2]
    assert draw.opacity(0.9, 0.3) == 1 and draw.opacity(0.5, 0.99) > 0


def test_width_follows_the_size_of_the_person():
    def painted(size):
        canvas = np.zeros((1600, 1600, 3), np.uint8)
        pose = person() * [size / 200, size / 200, 1]
        drawn = draw_people(canvas, [pose.astype(np.float32)])
        return (drawn.max(axis=2) > 0).sum() / size**2

    # Twice the person, twice the width: the same part of the square.
    assert painted(1600) == pytest.approx(painted(800), rel=0.1)


def test_edges_are_smooth():
    canvas = np.zeros((100, 300, 3), np.uint8)
    pose = np.zeros((16, 3), np.float32)
    pose[[6, 7]] = [[20, 30, 1], [280, 70, 1]]
    column = draw_people(canvas, [pose], sizes=[400])[:, 150, 1]
    assert len(np.unique(column)) > 4


def test_people_outside_and_on_the_edge_of_a_picture_do_no_harm():
    canvas = np.zeros((50, 50, 3), np.uint8)
    for shift in (-1e6, -30, 30, 1e6):
        draw_people(canvas, [person() + [shift, shift, 0]])
    assert not draw_people(canvas, [person() + [500, 500, 0]]).any()
    assert draw_people(np.zeros((1, 1, 3), np.uint8), []).shape == (
        1,
        1,
        3,
    )


def test_heat_lies_where_the_peak_is_and_has_the_colour_of_its_side():
    heatmaps = np.zeros((1, 16, 20, 20), np.float32)
    joint = MPII.names.index('left_wrist')
    heatmaps[0, joint, 5, 12] = 1
    to_picture = np.float64([[10, 0, 3], [0, 10, 7]])
    canvas = np.zeros((220, 220, 3), np.uint8)
    heat = draw_heatmaps(canvas, heatmaps, [to_picture])
    row, column = np.unravel_index(heat.sum(axis=2).argmax(), (220, 220))
    assert (row, column) == (57, 123)
    assert MPII.sides[joint] == 'left'
    np.testing.assert_allclose(
        heat[57, 123][::-1],
        0.75 * np.array(SIDE_COLORS['left']),
        atol=1.5,
    )
    assert not heat[:30].any()


def test_working_in_strips_leaves_no_seams(monkeypatch):
    canvas = np.full((300, 260, 3), 128, np.uint8)
    poses = [person(seed=seed, size=320) - [30, 10, 0] for seed in range(3)]
    flat = person()
    flat[:, 1] = 100  # limbs along a row
    heatmaps = np.random.RandomState(0).rand(2, 16, 9, 9).astype(np.float32)
    maps = [np.float64([[20, 3, 30], [-3, 20, 40]])] * 2
    results = []
    for strip in (10**6, 64, 7):
        monkeypatch.setattr(draw, 'STRIP', strip)
        results.append(
            (
                draw_people(canvas, poses + [flat]),
                draw_heatmaps(canvas, heatmaps, maps).astype(int),
            )
        )
    for bars, heat in results[1:]:
        np.testing.assert_array_equal(bars, results[0][0])
        # cv2.warpAffine rounds its places to 1/32 of a cell.
        np.testing.assert_allclose(heat, results[0][1], atol=3)


def test_the_legend_names_the_three_colours():
    picture = np.full((480, 640, 3), 200, np.uint8)
    draw.draw_legend(picture, MPII)
    changed = (picture != 200).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.min() > 480 / 2 and columns.max() < 640 / 3
    for rgb in SIDE_COLORS.values():
        assert (picture == rgb[::-1]).all(axis=-1).sum() > 20
    assert (picture > 220).all(axis=-1).sum() > 50  # its words


@pytest.mark.parametrize('size', [(20, 30), (60, 4000), (1, 1)])
def test_a_picture_too_small_for_a_legend_stays_as_it_is(size):
    picture = np.full((*size, 3), 200, np.uint8)
    draw.draw_legend(picture, MPII)
    assert (picture == 200).all()


def test_any_number_of_joints_is_drawn_in_its_own_colours():
    names = ['tip', 'base']
    info = dict(
        keypoint_info={
            i: dict(name=n, id=i, color=[200, 30, 90 * i])
            for i, n in enumerate(names)
        },
        skeleton_info={'0': dict(link=names, id=0, color=[10, 250, 120])},
    )
    joints = Joints.from_info(info)
    canvas = np.zeros((200, 200, 3), np.uint8)
    pose = np.float32([[20, 100, 1], [180, 100, 1]])
    drawn = draw.draw_people(canvas, [pose], joints, sizes=[900])
    assert drawn[100, 100].tolist() == [120, 250, 10]
    assert (drawn == [90, 30, 200]).all(-1).any()
    draw.draw_legend(canvas, joints)
    assert not canvas.any()  # colours that no side explains
    for some in (COCO, Joints.numbered(21)):
        pose = np.full((len(some), 3), 100, np.float32)
        assert draw.draw_people(canvas, [pose], some).any()
        heat = np.ones((1, len(some), 8, 8), np.float32)
        assert draw.draw_heatmaps(canvas, heat, [np.eye(2, 3)], some).any()


def test_the_legend_follows_the_names_of_the_joints():
    pairs = Joints.numbered(4, [(0, 1), (2, 3)])
    assert list(pairs.legend()) == ['side 1', 'side 2']
    assert list(COCO.legend()) == ['left', 'right', 'centre']
    assert Joints.numbered(4).legend() == {}
