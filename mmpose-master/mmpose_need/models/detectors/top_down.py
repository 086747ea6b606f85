"""mmpose/models/detectors/top_down.py: one person's joints from a crop."""

import math
from functools import lru_cache

import cv2
import mmcv
import numpy as np
import torch
from mmcv.image import imwrite
from mmcv.visualization.image import imshow
from mmpose.core.evaluation.top_down_eval import keypoints_from_heatmaps
from mmpose.core.post_processing import flip_back
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.pose.geometry import to_picture
from hourglass_npu.pose.heatmaps import (
    at_least_single,
    decode_heatmaps,
    merge_flipped,
    pck_in_training,
    render_heatmaps,
)
from hourglass_npu.training.deferred import DeferredNumbers

from .. import builder
from ..registry import POSENETS
from .base import BasePose


@lru_cache(maxsize=None)
def _of_channels(values, device):
    """Return one value for each channel, as a Tensor[C, 1, 1]."""
    values = torch.tensor(values, dtype=torch.get_default_dtype())
    return values.view(-1, 1, 1).to(device)


def _check_preprocessor(config):
    """Check the config before the first step uses it."""
    if config is None:
        return
    mean, std = (list(config.get(key, ())) for key in ('mean', 'std'))
    if set(config) != {'mean', 'std'} or len(mean) != len(std) or 0 in std:
        raise UserError(
            f'data_preprocessor={dict(config)}: give a mean and a std, not '
            '0, for each channel, and nothing else'
        )


def _box_of(meta):
    """Return the box of a crop, np.ndarray[1, 6].

    Its values: centre (2), scale (2), area and score.
    """
    box = np.zeros((1, 6), dtype=np.float32)
    box[0, :2], box[0, 2:4] = meta['center'], meta['scale']
    box[0, 4] = np.prod(meta['scale'] * 200.0)
    box[0, 5] = np.array(meta.get('bbox_score', 1.0)).reshape(-1)[0]
    return box


def _blend(img, overlay, opacity):
    """Blend a drawing into a picture, in place."""
    opacity = max(0, min(1, opacity))
    cv2.addWeighted(overlay, opacity, img, 1 - opacity, 0, dst=img)


def _draw_joints(img, joints, colors, radius, threshold):
    """Draw the joints of one person with a score above the threshold."""
    assert len(colors) == len(joints)
    for (x, y, score), color in zip(joints, colors):
        if score > threshold:
            overlay = img.copy()
            color = tuple(int(part) for part in color)
            cv2.circle(overlay, (int(x), int(y)), radius, color, -1)
            _blend(img, overlay, score)


def _draw_limbs(img, joints, skeleton, colors, threshold):
    """Draw the limbs of one person whose ends are good and in the picture."""
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
        keypoint_head (dict | None): Config of the head, which turns the
            network's output into heatmaps.
        train_cfg (dict | None): ``loss_weights``, of each output.
        test_cfg (dict | None): ``flip_test``, ``shift_heatmap``,
            ``post_process``, ``unbiased_decoding`` and ``modulate_kernel``.
        pretrained (str | None): Weights of the backbone.
        loss_pose (dict | None): Config of the loss.
        data_preprocessor (dict | None): Normalises crops that come as bytes:
            ``mean`` and ``std`` of the channels of a picture in 0..1, as for
            NormalizeTensor. Crops of floats are not changed.
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
        """Return whether there is a head."""
        return hasattr(self, 'keypoint_head')

    def init_weights(self, pretrained=None):
        """Initialise the weights; a file may give those of the backbone."""
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
            img (Tensor[N, 3, h, w]): Crops: normalised floats, or bytes for
                the ``data_preprocessor``.
            target (Tensor[N, K, H, W] | None): Target heatmaps, or for each
                of S outputs Tensor[N, S, K, H, W].
            target_weight (Tensor[N, K, 1] | None): Or Tensor[N, S, K, 1].
            img_metas (list[dict] | None): For predictions: ``center`` in
                pixels of the picture, ``scale`` in units of 200 pixels,
                ``image_file``, ``flip_pairs`` and maybe ``bbox_score``.
            return_loss (bool): Return losses, not predictions.
            return_heatmap (bool): Return heatmaps with the predictions.
            joint_cells (Tensor[N, K, 2] | None): Instead of ``target``,
                with ``heatmap``: see TopDownJointCells.
            heatmap (list[dict] | None): ``size`` and ``sigma`` by sample, the
                same for all.
            **kwargs: Passed on.

        Returns:
            dict | tuple: See :meth:`forward_train` and :meth:`forward_test`.

        Raises:
            UserError: The crops are bytes, but there is no
                ``data_preprocessor``.
        """
        img = self._preprocess(img)
        if joint_cells is not None:
            target = render_heatmaps(joint_cells, **heatmap[0])
            # Half precision where all inputs are cast to it.
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

        The device does it, not the data workers: a quarter of the bytes is
        moved, and arithmetic costs least there.
        """
        if img.dtype != torch.uint8:
            return img
        if self.data_preprocessor is None:
            raise UserError(
                'the crops come as bytes: give the model a data_preprocessor '
                '(mean and std), or the pipeline ToTensor and NormalizeTensor'
            )
        mean, std = (
            _of_channels(tuple(self.data_preprocessor[key]), img.device)
            for key in ('mean', 'std')
        )
        if img.dim() != 4 or mean.numel() not in (1, img.shape[1]):
            raise UserError(
                f'the crops are a tensor of shape {tuple(img.shape)}: give '
                'the pipeline ToPlanes, so that channels come first'
            )
        img = img.to(mean.dtype).div_(255).sub_(mean).div_(std)
        # A model in half precision takes half input.
        return img.to(next(self.parameters()).dtype)

    def _heatmaps(self, img):
        """Return the network's output: a tensor, or a list of tensors."""
        output = self.backbone(img)
        return self.keypoint_head(output) if self.with_keypoint else output

    def forward_train(self, img, target, target_weight, img_metas, **kwargs):
        """Compute the losses; arguments as for :meth:`forward`.

        Returns:
            DeferredNumbers: ``mse_loss``, a tensor, and ``acc_pose``, the
            share of joints that the last output finds, a float.
        """
        outputs = self._heatmaps(img)
        if not isinstance(outputs, list):
            assert not isinstance(self.loss, nn.Sequential)
            assert target.dim() == 4 and target_weight.dim() == 3
            loss = self.loss(outputs, target, target_weight)
            accuracy = pck_in_training(outputs, target, target_weight)
            return DeferredNumbers(mse_loss=loss, acc_pose=accuracy)

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
        return DeferredNumbers(mse_loss=total, acc_pose=accuracy)

    def forward_test(self, img, img_metas, return_heatmap=False, **kwargs):
        """Predict; arguments as for :meth:`forward`.

        Returns:
            tuple | list[tuple]: The result of :meth:`process_head` for a
            batch of one; a list of such results for a larger one.

        Raises:
            UserError: The pipeline does not collect what this needs.
        """
        assert len(img_metas) == img.size(0)
        needed = ['image_file', 'center', 'scale']
        if self.test_cfg['flip_test']:
            needed.append('flip_pairs')
        missing = [key for key in needed if key not in img_metas[0]]
        if missing:
            raise UserError(
                f'the meta_keys of the pipeline lack {", ".join(missing)}, '
                'which evaluation needs'
            )
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

        Only 3 numbers for each joint leave the device, and the heatmaps if
        they are asked for.
        """
        flip = self.test_cfg['flip_test']
        output = self._heatmaps(torch.cat([img, img.flip(3)]) if flip else img)
        heatmaps = at_least_single(
            (output[-1] if isinstance(output, list) else output).detach()
        )
        if flip:
            heatmaps = merge_flipped(
                *heatmaps.split(len(img)),
                img_metas[0]['flip_pairs'],
                self.test_cfg['shift_heatmap'],
            )

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
            preds = to_picture(found.cpu().numpy(), centers, scales, size)
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
        """Turn the backbone's output into joints in the picture.

        Args:
            output (Tensor | list[Tensor]): Output of the backbone for
                ``img``.
            img (Tensor[1, 3, h, w]): The crop; it is mirrored and run again
                if ``test_cfg`` has ``flip_test``.
            img_metas (dict): Of the one person, see :meth:`forward`.
            return_heatmap (bool): Return the heatmap.

        Returns:
            tuple: Joints, np.ndarray[1, K, 3]: x and y in pixels of the
            picture, and score; box, np.ndarray[1, 6]: centre, scale, area in
            square pixels and score; the letters of the file's name, as a
            list; heatmaps, np.ndarray[1, K, H, W], or None.
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
                # Mirroring moves the heatmaps by one cell.
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
                ``keypoints``, np.ndarray[K, 3]: x and y in pixels, and score.
            skeleton (list[list[int]] | None): Limbs: pairs of joints, counted
                from 1. None draws none.
            kpt_score_thr (float): Draw joints with a higher score.
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
            show (bool): Open a window.
            wait_time (int): How long to show it, in ms; 0 waits for a key.
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
