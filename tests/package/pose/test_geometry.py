"""Crops and affine maps against mmpose's own, number by number."""

import cv2
import numpy as np
import pytest
from mmpose.apis.inference import _box2cs
from mmpose.core.post_processing import get_affine_transform
from pose_model import picture

from hourglass_npu.pose import geometry

SIZES = [(384, 384), (256, 192), (192, 256)]


class Config:
    def __init__(self, size):
        self.data_cfg = dict(image_size=np.array(size))


@pytest.fixture
def random():
    return np.random.RandomState(0)


@pytest.mark.parametrize('size', SIZES)
def test_box_and_affine_are_those_of_mmpose_to_the_bit(random, size):
    for _ in range(50):
        box = random.uniform(1, 900, 4)
        center, scale = geometry.box_to_center_scale(box, size)
        for ours, theirs in zip((center, scale), _box2cs(Config(size), box)):
            np.testing.assert_array_equal(ours, theirs)
        for inverse in (False, True):
            np.testing.assert_array_equal(
                geometry.affine(center, scale, size, inverse),
                get_affine_transform(
                    center, scale, 0, np.array(size), inv=inverse
                ),
            )


def test_a_large_picture_is_averaged_and_lands_in_the_same_place():
    small = picture(150, 200)
    factor = 12
    large = cv2.resize(
        small, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST
    )
    # Noise from pixel to pixel, which sampling would take for the picture.
    checks = np.indices(large.shape[:2]).sum(axis=0) % 2 == 0
    large[checks] = 255 - large[checks]
    center, scale = geometry.box_to_center_scale((60, 40, 70, 60), (16, 16))
    big_center = (center + 0.5) * factor - 0.5
    crop = geometry.crop_person(large, big_center, scale * factor, (16, 16))
    # Picture and negative cancel out: a grey as even as can be.
    assert abs(crop.astype(float) - 127.5).max() < 8
    large[checks] = 255 - large[checks]
    crop = geometry.crop_person(large, big_center, scale * factor, (16, 16))
    plain = geometry.crop_person(small, center, scale, (16, 16))
    assert np.abs(crop.astype(float) - plain).mean() < 4


def test_the_map_to_a_picture_and_back_is_the_identity(random):
    center, scale = np.array([70.0, 90.0]), np.array([1.3, 1.3])
    there = geometry.affine(center, scale, (48, 64))
    back = geometry.affine(center, scale, (48, 64), inverse=True)
    points = random.uniform(-50, 300, (9, 2))
    again = geometry.transform_points(
        geometry.transform_points(points, there), back
    )
    np.testing.assert_allclose(again, points, atol=1e-3)
