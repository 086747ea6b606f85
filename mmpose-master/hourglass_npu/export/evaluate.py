"""Evaluate an exported file in place of mmpose's model.

Data pipeline, processes and scores are the same for both.
"""

from types import SimpleNamespace

import numpy as np
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.pose import decode
from hourglass_npu.pose.backends import settings_from_config
from hourglass_npu.pose.geometry import PIXELS_PER_SCALE


class ExportedPose(nn.Module):
    """Return the predictions of ``TopDown``, computed by an exported file.

    The file contains the settings: flip test, and how to read heatmaps.

    Args:
        network (ExportedNetwork): The file: ONNX or OM.
        path (str): Its name, for messages.
        cfg (mmcv.Config): Config of the samples.

    Raises:
        UserError: The file cannot be used, or takes other crops than those of
            the config.
    """

    def __init__(self, network, path, cfg):
        super().__init__()
        self.network = network
        theirs = settings_from_config(cfg)
        for name in ('image_size', 'mean', 'std'):
            its = getattr(self.network.settings, name)
            config = getattr(theirs, name)
            if its != config:
                raise UserError(
                    f'{path} was made for {name} {its}, but the config '
                    f'{cfg.filename} has {config}: give the config that the '
                    'file was made with'
                )

    def forward(self, img, img_metas, return_loss=False):
        """Find the joints of a batch.

        Args:
            img (Tensor[N, 3, h, w]): Normalised crops.
            img_metas (list[dict]): With ``center``, ``scale`` and
                ``image_file`` of each.
            return_loss (bool): False; such a file cannot be trained.

        Returns:
            tuple: As from ``TopDown``: joints, np.ndarray[N, 16, 3]: x, y in
            pixels of the picture, and score; boxes, np.ndarray[N, 6]:
            centre, scale, area and score; names of the pictures; None.
        """
        people = [
            SimpleNamespace(center=meta['center'], scale=meta['scale'])
            for meta in img_metas
        ]
        settings = self.network.settings
        output = self.network(self.restore(img.cpu().numpy()))
        joints = decode.read(output, people, settings).keypoints
        boxes = [
            (
                *(*one.center, *one.scale),
                np.prod(one.scale * PIXELS_PER_SCALE),
                float(np.squeeze(meta.get('bbox_score', 1))),
            )
            for one, meta in zip(people, img_metas)
        ]
        names = [meta['image_file'] for meta in img_metas]
        return joints, np.float32(boxes), names, None

    def restore(self, batch):
        """Undo the normalisation, which the network does itself.

        Args:
            batch (np.ndarray[N, 3, h, w]): Normalised crops.

        Returns:
            np.ndarray[N, h, w, 3]: 8-bit RGB, the original crops.
        """
        settings = self.network.settings
        crops = batch.transpose(0, 2, 3, 1) * np.float32(settings.std)
        crops = (crops + np.float32(settings.mean)) * 255
        return np.rint(crops).astype(np.uint8)
