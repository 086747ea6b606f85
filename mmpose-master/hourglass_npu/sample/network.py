"""The network of the sample: an Hourglass with a narrow stem."""

from mmcv.cnn import ConvModule
from mmpose.models.backbones.hourglass import HourglassNet
from mmpose.models.backbones.resnet import BasicBlock, ResLayer
from mmpose.models.registry import BACKBONES
from torch import nn


@BACKBONES.register_module()
class SmallHourglassNet(HourglassNet):
    """Hourglass whose stem ends in as many channels as its first stage has.

    mmpose's stem always ends in 256 channels, so its first stage must have
    256, too. For small pictures, most of the time goes into layers of that
    width. Everything but the stem is HourglassNet's.

    Args:
        downsample_times (int): Depth of the hourglass.
        num_stacks (int): Number of hourglasses.
        stage_channels (Sequence[int]): Channels of each stage; the first is
            even.
        stage_blocks (Sequence[int]): Residual blocks of each stage.
        feat_channel (int): Channels of the output.
        norm_cfg (dict): Normalization.
    """

    def __init__(
        self,
        downsample_times=3,
        num_stacks=1,
        stage_channels=(64, 96, 128, 128),
        stage_blocks=(1, 1, 1, 1),
        feat_channel=64,
        norm_cfg=dict(type='BN', requires_grad=True),  # noqa: B006
    ):
        super().__init__(
            downsample_times,
            num_stacks,
            stage_channels,
            stage_blocks,
            feat_channel,
            norm_cfg,
        )
        width = stage_channels[0]
        self.stem = nn.Sequential(
            ConvModule(
                3, width // 2, 7, padding=3, stride=2, norm_cfg=norm_cfg
            ),
            ResLayer(
                BasicBlock, 1, width // 2, width, stride=2, norm_cfg=norm_cfg
            ),
        )
