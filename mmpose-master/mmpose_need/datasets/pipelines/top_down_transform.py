"""mmpose/datasets/pipelines/top_down_transform.py: one person's sample.

Augment, crop, and draw targets. The numbers are those of mmpose 0.8.0 for the
same random draws, without two of its costs: OpenCV gets no picture with a
negative stride, of which it would make a slow copy, and all joints are
treated at once.
"""

import cv2
import numpy as np
from mmcv.parallel import DataContainer
from mmpose.core.post_processing import fliplr_joints, get_affine_transform

from hourglass_npu.errors import UserError
from hourglass_npu.pose.heatmaps import gaussian_patch

from ..registry import PIPELINES


def _picture(step, results):
    """Return the sample's picture.

    Args:
        step (object): The pipeline step that needs it, for the message.
        results (dict): The sample.

    Returns:
        np.ndarray[h, w, 3]: As it was read, or as a step before left it.

    Raises:
        UserError: Nothing has read it yet, or it is a tensor already.
    """
    picture = results.get('img')
    if not isinstance(picture, np.ndarray):
        raise UserError(
            f'{type(step).__name__} needs a picture: in the pipeline, put it '
            'after LoadImageFromFile, and before ToTensor and ToPlanes'
        )
    return picture


def _weights_within(cfg, visible, first, last):
    """Weight joints by visibility, and those off the heatmap by 0.

    Args:
        cfg (dict): ``num_joints`` and ``heatmap_size`` as (width, height).
        visible (np.ndarray[K, 3]): Visibility in the first column.
        first (np.ndarray[K, 2]): Cell in which a joint's patch begins.
        last (np.ndarray[K, 2]): Cell before which it ends.

    Returns:
        np.ndarray[K, 1]: Single precision.
    """
    weights = np.array(visible[: cfg['num_joints'], :1], dtype=np.float32)
    weights[((first >= cfg['heatmap_size']) | (last < 0)).any(axis=1)] = 0
    return weights


def _joint_cells(cfg, joints_3d, sigma):
    """Find the cells of the joints, and their patches.

    Args:
        cfg (dict): ``num_joints``, ``image_size`` and ``heatmap_size``.
        joints_3d (np.ndarray[K, 3]): Pixels of the input.
        sigma (float): Of the Gaussian, in cells.

    Returns:
        tuple[np.ndarray[K, 2]]: Cell of each joint, the cell in which its
        patch begins, and the cell before which it ends; x and y, int64.
    """
    stride = cfg['image_size'] / cfg['heatmap_size']
    cells = joints_3d[: cfg['num_joints'], :2] / stride + 0.5
    # Truncate toward zero, do not round down, and in this order.
    cells = cells.astype(np.int64)
    first = (cells - sigma * 3).astype(np.int64)
    last = (cells + sigma * 3 + 1).astype(np.int64)
    return cells, first, last


@PIPELINES.register_module()
class TopDownRandomFlip:
    """Mirror picture, joints and centre at random.

    Args:
        flip_prob (float): Probability.
    """

    def __init__(self, flip_prob=0.5):
        self.flip_prob = flip_prob

    def __call__(self, results):
        """Treat one sample.

        Args:
            results (dict): The sample; ``img``, ``joints_3d``,
                ``joints_3d_visible`` and ``center`` are changed.

        Returns:
            dict: ``results``.
        """
        if np.random.rand() <= self.flip_prob:
            # A view: TopDownAffine copies the part that it needs.
            results['img'] = _picture(self, results)[:, ::-1]
            width = results['img'].shape[1]
            results['joints_3d'], results['joints_3d_visible'] = fliplr_joints(
                results['joints_3d'],
                results['joints_3d_visible'],
                width,
                results['ann_info']['flip_pairs'],
            )
            results['center'][0] = width - results['center'][0] - 1
        return results


@PIPELINES.register_module()
class TopDownHalfBodyTransform:
    """Crop to the upper or the lower half of the body at random.

    Args:
        num_joints_half_body (int): Crop only people with more visible
            joints.
        prob_half_body (float): Probability.
    """

    def __init__(self, num_joints_half_body=8, prob_half_body=0.3):
        self.num_joints_half_body = num_joints_half_body
        self.prob_half_body = prob_half_body

    @staticmethod
    def half_body_transform(cfg, joints_3d, joints_3d_visible):
        """Find the box of one half of the body.

        Args:
            cfg (dict): ``num_joints``, ``upper_body_ids``, ``image_size``.
            joints_3d (np.ndarray[K, 3]): In pixels.
            joints_3d_visible (np.ndarray[K, 3]): Visibility.

        Returns:
            tuple[np.ndarray[2], np.ndarray[2]] | tuple[None, None]: Centre in
            pixels and scale in units of 200 pixels, single precision; None
            if fewer than two joints are visible.
        """
        upper, lower = [], []
        for joint in range(cfg['num_joints']):
            if joints_3d_visible[joint][0] > 0:
                half = upper if joint in cfg['upper_body_ids'] else lower
                half.append(joints_3d[joint])
        # Draw first, also where the number of joints decides.
        take_upper = np.random.randn() < 0.5 and len(upper) > 2
        chosen = lower if not take_upper and len(lower) > 2 else upper
        if len(chosen) < 2:
            return None, None

        chosen = np.array(chosen, dtype=np.float32)
        center = chosen.mean(axis=0)[:2]
        width, height = (chosen.max(axis=0) - chosen.min(axis=0))[:2]
        aspect_ratio = cfg['image_size'][0] / cfg['image_size'][1]
        if width > aspect_ratio * height:
            height = width * 1.0 / aspect_ratio
        elif width < aspect_ratio * height:
            width = height * aspect_ratio
        scale = np.array([width / 200.0, height / 200.0], dtype=np.float32)
        return center, scale * 1.5

    def __call__(self, results):
        """Treat one sample.

        Args:
            results (dict): The sample; ``center`` and ``scale`` are changed.

        Returns:
            dict: ``results``.
        """
        visible = results['joints_3d_visible']
        if (
            np.sum(visible[:, 0]) > self.num_joints_half_body
            and np.random.rand() < self.prob_half_body
        ):
            center, scale = self.half_body_transform(
                results['ann_info'], results['joints_3d'], visible
            )
            if center is not None:
                results['center'], results['scale'] = center, scale
        return results


@PIPELINES.register_module()
class TopDownGetRandomScaleRotation:
    """Draw a scale and an angle.

    Args:
        rot_factor (float): Standard deviation of the angle in degrees; the
            angle is limited to twice that.
        scale_factor (float): Standard deviation of the scale's factor, whose
            mean is 1; the factor is limited to one deviation.
        rot_prob (float): Probability of a rotation.
    """

    def __init__(self, rot_factor=40, scale_factor=0.5, rot_prob=0.6):
        self.rot_factor = rot_factor
        self.scale_factor = scale_factor
        self.rot_prob = rot_prob

    def __call__(self, results):
        """Draw for one sample.

        Args:
            results (dict): The sample; ``scale`` is changed, ``rotation``
                set, in degrees.

        Returns:
            dict: ``results``.
        """
        spread, angle = self.scale_factor, self.rot_factor
        # np.clip takes ten times as long for one number.
        factor = np.random.randn() * spread + 1
        factor = min(max(factor, 1 - spread), 1 + spread)
        turn = min(max(np.random.randn() * angle, -angle * 2), angle * 2)
        # NumPy's type, not Python's: the scale keeps its single precision
        # before NumPy 2, and loses it from NumPy 2 on.
        results['scale'] = results['scale'] * np.float64(factor)
        turned = np.random.rand() <= self.rot_prob
        results['rotation'] = turn if turned else 0
        return results


class _Mirror:
    """Copies the part of a mirrored view that OpenCV's warp reads.

    OpenCV does not take negative strides: it would copy the whole picture to
    new memory, which takes longer than the warp. Here the memory is kept.
    """

    MARGIN = 2
    """Pixels around the part: one to blend with, one for OpenCV's rounding."""

    def __init__(self):
        self._memory = np.empty(0, np.uint8)

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.__init__()

    @classmethod
    def _span(cls, ends, limit):
        """Return the first pixel between ends, and the one after the last."""
        first, last = int(min(ends)), int(max(ends))
        return (
            min(max(first - cls.MARGIN, 0), limit),
            min(max(last + cls.MARGIN + 1, 0), limit),
        )

    def unfold(self, img, matrix, size):
        """Copy the part of a mirrored picture that a warp will read.

        Args:
            img (np.ndarray[H, W, C]): View of a picture of bytes, with its
                columns in reverse order.
            matrix (np.ndarray[2, 3]): From its pixels to those of the crop.
            size (tuple[int, int]): Width and height of the crop.

        Returns:
            np.ndarray[H, W, C]: The picture, with arbitrary values where the
            warp does not read. Valid until the next call.
        """
        rows = cv2.invertAffineTransform(matrix).tolist()
        right, bottom = size
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
        (left, right), (top, bottom) = (
            self._span([a * x + b * y + c for x, y in corners], limit)
            for (a, b, c), limit in zip(rows, img.shape[1::-1])
        )
        if self._memory.size < img.size:
            self._memory = np.empty(img.size, np.uint8)
        whole = self._memory[: img.size].reshape(img.shape)
        if left < right and top < bottom:
            part = whole[top:bottom, left:right]
            cv2.flip(img[top:bottom, left:right][:, ::-1], 1, part)
        return whole


@PIPELINES.register_module()
class TopDownAffine:
    """Crop the person, rotated and scaled to the size of the input."""

    def __init__(self):
        self._mirror = _Mirror()

    def __call__(self, results):
        """Crop one sample.

        Args:
            results (dict): The sample, with ``center`` in pixels, ``scale``
                in units of 200 pixels and ``rotation`` in degrees; ``img`` is
                changed, and the visible joints of ``joints_3d`` in place.

        Returns:
            dict: ``results``.
        """
        info = results['ann_info']
        width, height = info['image_size']
        matrix = get_affine_transform(
            results['center'],
            results['scale'],
            results['rotation'],
            info['image_size'],
        )
        img, size = _picture(self, results), (int(width), int(height))
        if img.dtype == np.uint8 and img.ndim == 3 and img.strides[1] < 0:
            img = self._mirror.unfold(img, matrix, size)
        results['img'] = cv2.warpAffine(
            img, matrix, size, flags=cv2.INTER_LINEAR
        )
        joints = results['joints_3d']
        count = info['num_joints']
        visible = results['joints_3d_visible'][:count, 0] > 0.0
        points = np.ones((count, 3, 1))
        points[:, :2, 0] = joints[:count, :2]
        # One product with a vector for each joint: the product of two
        # matrices can differ in the last bit.
        moved = np.matmul(matrix, points)[..., 0]
        joints[:count, :2][visible] = moved[visible]
        return results


@PIPELINES.register_module()
class TopDownGenerateTarget:
    """Draw the target heatmap of each joint.

    Args:
        sigma (float): Of the Gaussian, in cells of the heatmap.
        unbiased_encoding (bool): Allow its centre between cells, as in Zhang
            et al., "Distribution-Aware Coordinate Representation for Human
            Pose Estimation", CVPR 2020.
    """

    def __init__(self, sigma=2, unbiased_encoding=False):
        self.sigma = sigma
        self.unbiased_encoding = unbiased_encoding

    def _generate_target(self, cfg, joints_3d, joints_3d_visible):
        """Draw the heatmaps of one person.

        Args:
            cfg (dict): ``num_joints``, ``image_size`` and ``heatmap_size`` as
                (width, height), ``use_different_joint_weights`` and
                ``joint_weights``.
            joints_3d (np.ndarray[K, 3]): Pixels of the input.
            joints_3d_visible (np.ndarray[K, 3]): Visibility.

        Returns:
            tuple[np.ndarray[K, h, w], np.ndarray[K, 1]]: Heatmaps in single
            precision, and the joints' weights.
        """
        count, sigma = cfg['num_joints'], self.sigma
        width, height = (int(size) for size in cfg['heatmap_size'])
        if self.unbiased_encoding:
            stride = cfg['image_size'] / cfg['heatmap_size']
            centers = joints_3d[:count, :2] / stride
            first, last = centers - sigma * 3, centers + sigma * 3 + 1
        else:
            _, first, last = _joint_cells(cfg, joints_3d, sigma)
        weights = _weights_within(cfg, joints_3d_visible, first, last)

        heatmaps = np.zeros((count, height, width), dtype=np.float32)
        drawn = np.flatnonzero(weights[:, 0] > 0.5)
        if self.unbiased_encoding:
            x = np.arange(0, width, 1, np.float32)
            y = np.arange(0, height, 1, np.float32)[:, None]
            for joint in drawn:
                mu_x, mu_y = centers[joint]
                heatmaps[joint] = np.exp(
                    -((x - mu_x) ** 2 + (y - mu_y) ** 2) / (2 * sigma**2)
                )
        else:
            patch = gaussian_patch(sigma)
            first, last = first.tolist(), last.tolist()
            for joint in drawn.tolist():
                (left, top), (right, bottom) = first[joint], last[joint]
                x0, y0 = max(0, left), max(0, top)
                x1, y1 = min(right, width), min(bottom, height)
                heatmaps[joint, y0:y1, x0:x1] = patch[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        if cfg['use_different_joint_weights']:
            weights = np.multiply(weights, cfg['joint_weights'])
        return heatmaps, weights

    def __call__(self, results):
        """Draw the targets of one sample.

        Args:
            results (dict): The sample; ``target`` and ``target_weight`` are
                set, see :meth:`_generate_target`.

        Returns:
            dict: ``results``.
        """
        results['target'], results['target_weight'] = self._generate_target(
            results['ann_info'],
            results['joints_3d'],
            results['joints_3d_visible'],
        )
        return results


@PIPELINES.register_module()
class TopDownJointCells:
    """Find the cell of each joint; the model draws the heatmaps.

    Use it instead of :class:`TopDownGenerateTarget`, for a model with a
    ``data_preprocessor``: 64 bytes go to the device instead of 590 kB, and
    the host draws nothing. The heatmaps are the same bit for bit.

    Args:
        sigma (float): Of the Gaussian, in cells of the heatmap.
    """

    FAR = 2**15 - 1
    """A cell for which nothing is drawn."""

    def __init__(self, sigma=2):
        self.sigma = sigma

    def __call__(self, results):
        """Find the cells of one sample.

        Args:
            results (dict): The sample. These are set: ``joint_cells``,
                np.ndarray[K, 2], int16, x and y, FAR where nothing is drawn;
                ``target_weight``, np.ndarray[K, 1], single precision; and
                ``heatmap``, which stays on the host: ``size``, (width,
                height), and ``sigma``.

        Returns:
            dict: ``results``.
        """
        info = results['ann_info']
        cells, first, last = _joint_cells(
            info, results['joints_3d'], self.sigma
        )
        weights = _weights_within(
            info, results['joints_3d_visible'], first, last
        )
        # Patches that are drawn are near the heatmap: int16 is enough.
        cells[weights[:, 0] <= 0.5] = self.FAR
        if info['use_different_joint_weights']:
            weights = np.multiply(weights, info['joint_weights'])
        width, height = info['heatmap_size']
        results['joint_cells'] = cells.astype(np.int16)
        results['target_weight'] = weights
        results['heatmap'] = DataContainer(
            dict(size=(int(width), int(height)), sigma=self.sigma),
            cpu_only=True,
        )
        return results
