"""The NumPy pipeline against mmpose's own, number by number."""

import cv2
import numpy as np
import pytest
from mmpose.core.evaluation.top_down_eval import keypoints_from_heatmaps
from mmpose.core.post_processing import flip_back
from mmpose.datasets.pipelines import Compose
from pose_model import picture

from hourglass_npu.pose import decode, geometry


@pytest.fixture
def random():
    return np.random.RandomState(0)


def test_crop_and_normalise_are_those_of_the_test_pipeline():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    bgr = picture(720, 1280)
    center = np.array([400.3, 371.9])
    scale = np.array([3.1, 3.1])
    pipeline = Compose(
        [
            dict(type='TopDownAffine'),
            dict(type='ToTensor'),
            dict(type='NormalizeTensor', mean=mean, std=std),
        ]
    )
    expected = pipeline(
        dict(
            img=np.ascontiguousarray(bgr[..., ::-1]),
            center=center,
            scale=scale,
            rotation=0,
            joints_3d=np.zeros((16, 3), np.float32),
            joints_3d_visible=np.zeros((16, 3), np.float32),
            ann_info=dict(image_size=np.array([128, 128]), num_joints=16),
        )
    )['img'].numpy()
    crop = geometry.crop_person(bgr, center, scale, (128, 128))
    ours = decode.normalise(crop[None, ..., ::-1], mean, std)
    assert ours.dtype == np.float32 and ours.flags.c_contiguous
    np.testing.assert_array_equal(ours[0], expected)


@pytest.mark.parametrize('shift', [False, True])
def test_flip_test_is_that_of_top_down(random, shift):
    pairs = ((0, 5), (1, 4), (2, 3))
    heatmaps, flipped = random.rand(2, 3, 7, 10, 12).astype(np.float32)
    back = flip_back(flipped, pairs)
    if shift:
        back[:, :, :, 1:] = back[:, :, :, :-1].copy()
    np.testing.assert_array_equal(
        decode.merge_flipped(heatmaps, flipped, pairs, shift),
        (heatmaps + back) * 0.5,
    )


@pytest.mark.parametrize(
    'theirs, ours',
    [
        (dict(post_process=False), dict(post_process=False)),
        (dict(), dict()),
        (dict(unbiased=True), dict(unbiased_decoding=True)),
        (
            dict(unbiased=True, kernel=7),
            dict(unbiased_decoding=True, modulate_kernel=7),
        ),
    ],
)
def test_decoding_is_that_of_mmpose(random, theirs, ours):
    heatmaps = random.rand(20, 16, 24, 32).astype(np.float32) - 0.2
    heatmaps = np.stack(
        [[cv2.GaussianBlur(h, (5, 5), 0) for h in one] for one in heatmaps]
    )
    heatmaps[0] = -1  # nothing to be seen
    for place in range(16):  # peaks on and near every border
        heatmaps[1, place, place, (5 * place) % 32] = 2
        heatmaps[2, place, (2 * place) % 24, 31 - place % 4] = 2
    boxes = np.c_[
        random.uniform(0, 500, (20, 2)),
        random.uniform(9, 500, 40).reshape(20, 2),
    ]
    crops = [geometry.box_to_center_scale(box, (128, 96)) for box in boxes]
    centers, scales = (np.stack(part) for part in zip(*crops))
    expected, scores = keypoints_from_heatmaps(
        heatmaps.copy(), centers, scales, **theirs
    )
    keypoints = decode.decode(heatmaps, centers, scales, **ours)
    np.testing.assert_allclose(keypoints[..., :2], expected, atol=1e-3)
    np.testing.assert_array_equal(keypoints[..., 2:], scores)
