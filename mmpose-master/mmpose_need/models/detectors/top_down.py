"""Top-down pose estimation: heatmaps of the one person in a crop."""

import math
from functools import lru_cache

import cv2
import mmcv
import numpy as np
import torch
from mmcv.image import imwrite
from mmcv.runner.base_runner import DeferredNumber
from mmcv.visualization.image import imshow
from mmpose.core.evaluation.top_down_eval import keypoints_from_heatmaps
from mmpose.core.post_processing import flip_back, get_affine_transform
from mmpose.datasets.pipelines.top_down_transform import gaussian_patch
from torch import nn

from .. import builder
from ..registry import POSENETS
from .base import BasePose

# In the log a joint counts as found within this many tenths of the heatmap.
PCK_THRESHOLD = 0.5


@lru_cache(maxsize=None)
def _near(height, width, device):
    """Tell which differences of cells count as found.

    Worked out once, on the host and in double precision, as mmpose does for
    each joint in turn.

    Args:
        height (int): Of the heatmap.
        width (int): Of the heatmap.
        device (torch.device): Where the table shall be.

    Returns:
        Tensor: bool, (height + 1, width + 1): by difference in y and in x.
        One more than the heatmap has, as what was not found is at -1.
    """
    y, x = np.mgrid[: height + 1, : width + 1].astype(np.float32)
    # mmpose divides x by the height and y by the width.
    tenths = np.stack([x, y], axis=-1) / (np.array([height, width]) / 10)
    distances = np.linalg.norm(tenths, axis=-1).astype(np.float32)
    return torch.from_numpy(distances < PCK_THRESHOLD).to(device)


def _at_least_single(heatmaps):
    """Return half-precision heatmaps in single precision, others as is."""
    return heatmaps.float() if heatmaps.element_size() < 4 else heatmaps


def _peaks(heatmaps):
    """Find the highest cell of each heatmap.

    Args:
        heatmaps (Tensor): (N, K, H, W).

    Returns:
        tuple[Tensor, Tensor]: Its number row by row, (N, K), and whether it
        is above 0.
    """
    flat = _at_least_single(heatmaps.detach()).flatten(2)
    if flat.device.type == 'cpu':
        # numpy's search is eight times as fast as torch's.
        index = torch.from_numpy(flat.numpy().argmax(2))
    else:
        index = flat.argmax(2)
    return index, flat.gather(2, index[..., None])[..., 0] > 0


def _row(index, width):
    return torch.div(index, width, rounding_mode='floor')


def _column(index, width):
    return index % width


def pck_in_training(output, target, target_weight):
    """Measure how many joints are found, for the log.

    Found is what lies within 0.05 of the heatmap's size; the number is that
    of ``mmpose.core.evaluation.pose_pck_accuracy``.

    Args:
        output (Tensor): Predicted heatmaps, (N, K, H, W).
        target (Tensor): Wanted heatmaps, (N, K, H, W).
        target_weight (Tensor): (N, K, 1); joints of weight 0 do not count.

    Returns:
        DeferredNumber: From 0 to 1; 0 where no joint counts.
    """
    height, width = output.shape[2:]
    index, there = _peaks(output)
    wanted, counts = _peaks(target)
    counts = counts & (target_weight[..., 0] > 0)
    aways = []
    for part in (_row, _column):
        # What was not found is at (-1, -1).
        place = part(index, width).masked_fill(~there, -1)
        aways.append((place - part(wanted, width)).abs())
    found = _near(height, width, output.device)[tuple(aways)] & counts
    sums = torch.stack([found.sum(), counts.sum()])
    return DeferredNumber(sums, lambda n: n[0] / n[1] if n[1] else 0.0)


@lru_cache(maxsize=None)
def _of_channels(values, device):
    """Return one value for each channel, ready to meet (N, C, H, W)."""
    values = torch.tensor(values, dtype=torch.get_default_dtype())
    return values.view(-1, 1, 1).to(device)


def _check_preprocessor(config):
    """Refuse what would be found out in the first step, or never."""
    if config is None:
        return
    mean, std = (list(config.get(key, ())) for key in ('mean', 'std'))
    if set(config) != {'mean', 'std'} or len(mean) != len(std) or 0 in std:
        raise ValueError(
            f'data_preprocessor={dict(config)}: it takes a mean and a std, '
            'not 0, of each channel, and nothing else'
        )


@lru_cache(maxsize=None)
def _patch(sigma, device):
    return torch.from_numpy(gaussian_patch(sigma)).to(device)


def render_heatmaps(joint_cells, size, sigma):
    """Make heatmaps where the cells are, with TopDownGenerateTarget's values.

    Args:
        joint_cells (Tensor): Cell of each joint, x and y, (N, K, 2) int.
        size (tuple[int, int]): Width and height of a heatmap.
        sigma (float): Of the Gaussian, in cells.

    Returns:
        Tensor: (N, K, height, width) float32.
    """
    width, height = size
    device = joint_cells.device
    patch = _patch(sigma, device)
    steps = torch.arange(len(patch), device=device)
    cells = joint_cells.float()
    # Truncated toward zero, as the pipeline does.
    first = (cells - sigma * 3).trunc().long()
    last = (cells + sigma * 3 + 1).trunc().long()

    def places(axis, limit):
        place = first[..., axis, None] + steps
        inside = (place >= 0) & (place < limit)
        return place, inside & (place < last[..., axis, None])

    (x, x_inside), (y, y_inside) = places(0, width), places(1, height)
    inside = y_inside[..., :, None] & x_inside[..., None, :]
    count = joint_cells[..., 0].numel()
    start = torch.arange(count, device=device).view(cells.shape[:2])
    rows = start[..., None] * height + y
    index = rows[..., :, None] * width + x[..., None, :]
    # What lies outside goes into one more cell, which is cut off.
    index = index.masked_fill(~inside, count * height * width)
    values = patch.expand(index.shape)
    heatmaps = torch.zeros(count * height * width + 1, device=device)
    heatmaps.scatter_(0, index.reshape(-1), values.reshape(-1))
    return heatmaps[:-1].view(*cells.shape[:2], height, width)


def _flip_back(heatmaps, flip_pairs):
    """Undo mirroring; mmpose's ``flip_back`` for tensors, (N, K, H, W)."""
    order = list(range(heatmaps.shape[1]))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return heatmaps[:, order].flip(3)


def decode_heatmaps(heatmaps, post_process=True):
    """Find the joints in heatmaps, on the device that they are on.

    The numbers are those of ``keypoints_from_heatmaps`` before it leaves the
    heatmap.

    Args:
        heatmaps (Tensor): (N, K, H, W) float.
        post_process (bool): Whether to go a quarter of a cell to where the
            higher neighbours are.

    Returns:
        Tensor: (N, K, 3): x and y in cells, -1 where nothing is above 0, and
        score.
    """
    height, width = heatmaps.shape[2:]
    index, there = _peaks(heatmaps)
    flat = heatmaps.flatten(2)
    x, y = _column(index, width), _row(index, width)
    joints = torch.stack([x, y], dim=-1).to(heatmaps.dtype)
    if post_process:
        inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        last = height * width - 1

        def slope(step):
            # At the border any neighbours will do: they are not used.
            ahead, behind = (
                flat.gather(2, place.clamp(0, last)[..., None])[..., 0]
                for place in (index + step, index - step)
            )
            return (ahead - behind).sign() * inside

        joints += 0.25 * torch.stack([slope(1), slope(width)], dim=-1)
    joints = joints.masked_fill(~there[..., None], -1)
    scores = flat.gather(2, index[..., None])
    return torch.cat([joints, scores], dim=-1)


def joints_in_picture(found, img_metas, size):
    """Take joints from heatmaps to the pictures.

    Args:
        found (np.ndarray): Joints in cells, and scores, (N, K, 3).
        img_metas (list[dict]): ``center`` and ``scale`` of the N crops.
        size (Sequence[int]): Width and height of the heatmaps.

    Returns:
        np.ndarray: (N, K, 3) float32; x and y in pixels of the picture.
    """
    matrices = np.stack(
        [
            get_affine_transform(
                meta['center'], meta['scale'], 0, size, inv=True
            )
            for meta in img_metas
        ]
    )
    points = np.ones(found.shape + (1,))
    points[..., :2, 0] = found[..., :2]
    preds = found.astype(np.float32)
    # Product by product, as mmpose has it: see TopDownAffine.
    preds[..., :2] = np.matmul(matrices[:, None], points)[..., 0]
    return preds


def _box_of(meta):
    """Return the box of a crop: centre, scale, area and score, (1, 6)."""
    box = np.zeros((1, 6), dtype=np.float32)
    box[0, :2], box[0, 2:4] = meta['center'], meta['scale']
    box[0, 4] = np.prod(meta['scale'] * 200.0)
    box[0, 5] = np.array(meta.get('bbox_score', 1.0)).reshape(-1)[0]
    return box


def _blend(img, overlay, opacity):
    """Lay a drawing over a picture, which is changed."""
    opacity = max(0, min(1, opacity))
    cv2.addWeighted(overlay, opacity, img, 1 - opacity, 0, dst=img)


def _draw_joints(img, joints, colors, radius, threshold):
    """Draw the joints of one person that are sure enough."""
    assert len(colors) == len(joints)
    for (x, y, score), color in zip(joints, colors):
        if score > threshold:
            overlay = img.copy()
            color = tuple(int(part) for part in color)
            cv2.circle(overlay, (int(x), int(y)), radius, color, -1)
            _blend(img, overlay, score)


def _draw_limbs(img, joints, skeleton, colors, threshold):
    """Draw the limbs of one person whose ends are sure and in the picture."""
    assert len(colors) == len(skeleton)
    height, width = img.shape[:2]
    for limb, color in zip(skeleton, colors):
        # Skeletons count joints from 1.
        ends = [joints[joint - 1] for joint in limb]
        (x1, y1), (x2, y2) = ((int(end[0]), int(end[1])) for end in ends)
        inside = 0 < min(x1, x2) and 0 < min(y1, y2)
        inside = inside and max(x1, x2) < width and max(y1, y2) < height
        if not inside or min(end[2] for end in ends) <= threshold:
            continue
        overlay = img.copy()
        polygon = cv2.ellipse2Poly(
            (int((x1 + x2) / 2), int((y1 + y2) / 2)),
            (int(math.hypot(y1 - y2, x1 - x2) / 2), 2),
            int(math.degrees(math.atan2(y1 - y2, x1 - x2))),
            0,
            360,
            1,
        )
        color = tuple(int(part) for part in color)
        cv2.fillConvexPoly(overlay, polygon, color)
        _blend(img, overlay, 0.5 * (ends[0][2] + ends[1][2]))


@POSENETS.register_module()
class TopDown(BasePose):
    """Top-down pose estimator.

    Args:
        backbone (dict): Config of the network.
        keypoint_head (dict | None): Config of what makes heatmaps of it.
        train_cfg (dict | None): ``loss_weights``, of each output.
        test_cfg (dict | None): ``flip_test``, ``shift_heatmap``,
            ``post_process``, ``unbiased_decoding`` and ``modulate_kernel``.
        pretrained (str | None): Weights of the backbone.
        loss_pose (dict | None): Config of the loss.
        data_preprocessor (dict | None): What is done to crops that come as
            bytes: ``mean`` and ``std`` of the channels of a picture in 0..1,
            as for NormalizeTensor. Crops of floats are taken as they are.
    """

    def __init__(
        self,
        backbone,
        keypoint_head=None,
        train_cfg=None,
        test_cfg=None,
        pretrained=None,
        loss_pose=None,
        data_preprocessor=None,
    ):
        super().__init__()
        _check_preprocessor(data_preprocessor)
        self.backbone = builder.build_backbone(backbone)
        if keypoint_head is not None:
            self.keypoint_head = builder.build_head(keypoint_head)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.loss = builder.build_loss(loss_pose)
        self.data_preprocessor = data_preprocessor
        self.init_weights(pretrained=pretrained)

    @property
    def with_keypoint(self):
        """Whether there is a head."""
        return hasattr(self, 'keypoint_head')

    def init_weights(self, pretrained=None):
        """Initialise the weights, those of the backbone from a file if any."""
        self.backbone.init_weights(pretrained)
        if self.with_keypoint:
            self.keypoint_head.init_weights()

    def forward(
        self,
        img,
        target=None,
        target_weight=None,
        img_metas=None,
        return_loss=True,
        return_heatmap=False,
        joint_cells=None,
        heatmap=None,
        **kwargs,
    ):
        """Compute the losses, or predict.

        Args:
            img (Tensor): Crops, (N, 3, height, width): normalised floats, or
                bytes for the ``data_preprocessor``.
            target (Tensor | None): Wanted heatmaps, (N, K, H, W), or for each
                of S outputs (N, S, K, H, W).
            target_weight (Tensor | None): (N, K, 1), or (N, S, K, 1).
            img_metas (list[dict] | None): For predictions: ``center`` in
                pixels of the picture, ``scale`` in units of 200 pixels,
                ``image_file``, ``flip_pairs`` and maybe ``bbox_score``.
            return_loss (bool): Losses or predictions.
            return_heatmap (bool): Whether predictions come with heatmaps.
            joint_cells (Tensor | None): In place of ``target``, with
                ``heatmap``: see TopDownJointCells. (N, K, 2).
            heatmap (list[dict] | None): ``size`` and ``sigma`` by sample, the
                same for all.
            **kwargs: Handed on.

        Returns:
            dict | tuple: See :meth:`forward_train` and :meth:`forward_test`.

        Raises:
            ValueError: Crops come as bytes, but there is no
                ``data_preprocessor``.
        """
        img = self._preprocess(img)
        if joint_cells is not None:
            target = render_heatmaps(joint_cells, **heatmap[0])
            # Half, where all that comes in is cast to half.
            target = target.to(target_weight.dtype)
        if return_loss:
            return self.forward_train(
                img, target, target_weight, img_metas, **kwargs
            )
        return self.forward_test(
            img, img_metas, return_heatmap=return_heatmap, **kwargs
        )

    def _preprocess(self, img):
        """Normalise crops that come as bytes, with NormalizeTensor's values.

        Here, not in the data workers: a quarter of the bytes is moved, and
        the arithmetic is done where there is plenty.
        """
        if img.dtype != torch.uint8:
            return img
        if self.data_preprocessor is None:
            raise ValueError(
                'the crops come as bytes: give the model a data_preprocessor '
                '(mean and std), or the pipeline ToTensor and NormalizeTensor'
            )
        mean, std = (
            _of_channels(tuple(self.data_preprocessor[key]), img.device)
            for key in ('mean', 'std')
        )
        img = img.to(mean.dtype).div_(255).sub_(mean).div_(std)
        # A model in half precision takes half input.
        return img.to(next(self.parameters()).dtype)

    def _heatmaps(self, img):
        """Run the network: a tensor, or a list of one for each output."""
        output = self.backbone(img)
        return self.keypoint_head(output) if self.with_keypoint else output

    def forward_train(self, img, target, target_weight, img_metas, **kwargs):
        """Compute the losses; arguments as for :meth:`forward`.

        Returns:
            dict: ``mse_loss``, a tensor, and ``acc_pose``, the share of the
            joints that the last output finds, a :class:`DeferredNumber`.
        """
        outputs = self._heatmaps(img)
        if not isinstance(outputs, list):
            assert not isinstance(self.loss, nn.Sequential)
            assert target.dim() == 4 and target_weight.dim() == 3
            loss = self.loss(outputs, target, target_weight)
            accuracy = pck_in_training(outputs, target, target_weight)
            return dict(mse_loss=loss, acc_pose=accuracy)

        count = len(outputs)
        targets, weights = [target] * count, [target_weight] * count
        if target.dim() == 5 and target_weight.dim() == 4:
            assert target.size(1) == count
            targets, weights = target.unbind(1), target_weight.unbind(1)
        several = isinstance(self.loss, nn.Sequential)
        assert not several or len(self.loss) == count
        factors = (self.train_cfg or {}).get('loss_weights')
        assert factors is None or len(factors) == count

        total = None
        for i in range(count):
            function = self.loss[i] if several else self.loss
            loss = function(outputs[i], targets[i], weights[i])
            if factors:
                loss = loss * factors[i]
            total = loss if total is None else total + loss
        accuracy = pck_in_training(outputs[-1], targets[-1], weights[-1])
        return dict(mse_loss=total, acc_pose=accuracy)

    def forward_test(self, img, img_metas, return_heatmap=False, **kwargs):
        """Predict; arguments as for :meth:`forward`.

        Returns:
            tuple | list[tuple]: For a batch of one what :meth:`process_head`
            returns; for a larger one a list of it, by person.
        """
        assert len(img_metas) == img.size(0)
        if img.size(0) > 1:
            return self._predict_batch(img, img_metas, return_heatmap)
        return self.process_head(
            self.backbone(img),
            img,
            img_metas[0],
            return_heatmap=return_heatmap,
        )

    def _predict_batch(self, img, img_metas, return_heatmap):
        """Predict for several people at once, with one run of the network.

        What lies on the device stays there but for 3 numbers for each joint,
        and the heatmaps if they are asked for.
        """
        flip = self.test_cfg['flip_test']
        output = self._heatmaps(torch.cat([img, img.flip(3)]) if flip else img)
        heatmaps = _at_least_single(
            output[-1] if isinstance(output, list) else output
        )
        if flip:
            heatmaps, mirrored = heatmaps.split(len(img))
            mirrored = _flip_back(mirrored, img_metas[0]['flip_pairs'])
            if self.test_cfg['shift_heatmap']:
                mirrored[..., 1:] = mirrored[..., :-1].clone()
            heatmaps = (heatmaps + mirrored) * 0.5

        centers, scales = (
            np.stack([meta[key] for meta in img_metas])
            for key in ('center', 'scale')
        )
        if (
            self.test_cfg['post_process']
            and self.test_cfg['unbiased_decoding']
        ):
            joints, scores = keypoints_from_heatmaps(
                heatmaps.cpu().numpy(),
                centers,
                scales,
                unbiased=True,
                kernel=self.test_cfg['modulate_kernel'],
            )
            preds = np.concatenate([joints, scores], axis=2)
        else:
            found = decode_heatmaps(heatmaps, self.test_cfg['post_process'])
            size = [heatmaps.shape[3], heatmaps.shape[2]]
            preds = joints_in_picture(found.cpu().numpy(), img_metas, size)
        maps = heatmaps.cpu().numpy() if return_heatmap else None
        return [
            (
                preds[i : i + 1],
                _box_of(meta),
                list(meta['image_file']),
                None if maps is None else maps[i : i + 1],
            )
            for i, meta in enumerate(img_metas)
        ]

    def process_head(self, output, img, img_metas, return_heatmap=False):
        """Make joints in the picture of the backbone's output.

        Args:
            output (Tensor | list[Tensor]): What the backbone made of ``img``.
            img (Tensor): (1, 3, height, width); run again mirrored if
                ``test_cfg`` says ``flip_test``.
            img_metas (dict): Of the one person, see :meth:`forward`.
            return_heatmap (bool): Whether to return the heatmap.

        Returns:
            tuple: Joints, (1, K, 3) float32: x and y in pixels of the
            picture, and score; box, (1, 6) float32: centre, scale, area in
            square pixels and score; the letters of the file's name, as a
            list; heatmaps, (1, K, H, W), or None.
        """

        def last(output):
            if self.with_keypoint:
                output = self.keypoint_head(output)
            if isinstance(output, list):
                output = output[-1]
            return output.detach().cpu().numpy()

        heatmaps = last(output)
        if self.test_cfg['flip_test']:
            mirrored = last(self.backbone(img.flip(3)))
            mirrored = flip_back(mirrored, img_metas['flip_pairs'])
            if self.test_cfg['shift_heatmap']:
                # Mirroring puts the maps one cell off.
                mirrored[..., 1:] = mirrored[..., :-1].copy()
            heatmaps = (heatmaps + mirrored) * 0.5

        center = img_metas['center'].reshape(1, -1)
        scale = img_metas['scale'].reshape(1, -1)
        joints, scores = keypoints_from_heatmaps(
            heatmaps,
            center,
            scale,
            post_process=self.test_cfg['post_process'],
            unbiased=self.test_cfg['unbiased_decoding'],
            kernel=self.test_cfg['modulate_kernel'],
        )
        preds = np.zeros((1, heatmaps.shape[1], 3), dtype=np.float32)
        preds[..., :2], preds[..., 2:] = joints[..., :2], scores
        names = list(img_metas['image_file'])
        heatmaps = heatmaps if return_heatmap else None
        return preds, _box_of(img_metas), names, heatmaps

    def show_result(
        self,
        img,
        result,
        skeleton=None,
        kpt_score_thr=0.3,
        bbox_color='green',
        pose_kpt_color=None,
        pose_limb_color=None,
        radius=4,
        text_color=(255, 0, 0),
        thickness=1,
        font_scale=0.5,
        win_name='',
        show=False,
        wait_time=0,
        out_file=None,
    ):
        """Draw people over a picture.

        Args:
            img (str | np.ndarray): The picture, BGR.
            result (list[dict]): For each person ``bbox`` (x1, y1, x2, y2) and
                ``keypoints``, (K, 3): x and y in pixels, and score.
            skeleton (list[list[int]] | None): Limbs: pairs of joints, which
                count from 1. None draws none.
            kpt_score_thr (float): Joints with a higher score are drawn.
            bbox_color (str | tuple): Of the boxes.
            pose_kpt_color (np.ndarray | None): Of each joint. None draws
                none.
            pose_limb_color (np.ndarray | None): Of each limb. None draws
                none.
            radius (int): Of the joints, in pixels.
            text_color (str | tuple): Not used.
            thickness (int): Of the boxes, in pixels.
            font_scale (float): Not used.
            win_name (str): Title of the window.
            show (bool): Whether to open a window.
            wait_time (int): How long for, in ms; 0 waits for a key.
            out_file (str | None): Where to write the drawing.

        Returns:
            np.ndarray: The drawing, BGR.
        """
        img = mmcv.imread(img).copy()
        if result:
            mmcv.imshow_bboxes(
                img,
                np.vstack([person['bbox'] for person in result]),
                colors=bbox_color,
                top_k=-1,
                thickness=thickness,
                show=False,
                win_name=win_name,
                wait_time=wait_time,
                out_file=None,
            )
        for person in result:
            joints = person['keypoints']
            if pose_kpt_color is not None:
                _draw_joints(
                    img, joints, pose_kpt_color, radius, kpt_score_thr
                )
            if skeleton is not None and pose_limb_color is not None:
                _draw_limbs(
                    img, joints, skeleton, pose_limb_color, kpt_score_thr
                )
        if show:
            imshow(img, win_name, wait_time)
        if out_file is not None:
            imwrite(img, out_file)
        return img
