"""The joints of a config."""

import re

import pytest
from mmcv import Config

from hourglass_npu.config.joints import joints_of
from hourglass_npu.errors import UserError


def config(**data_cfg):
    test = dict(type='TopDownMpiiDataset', data_cfg=data_cfg)
    return Config(dict(data=dict(test=test)))


def test_joints_of_a_data_set_without_a_description():
    joints = joints_of(config(num_output_channels=16))
    assert joints.names[0] == 'right_ankle' and len(joints) == 16


@pytest.mark.parametrize('data', [dict(data_cfg={}), {}])
def test_a_config_that_does_not_say_how_many_joints(data):
    cfg = config()
    cfg.data.test = dict(type='TopDownMpiiDataset', **data)
    words = re.escape('data.test.data_cfg has no num_output_channels')
    with pytest.raises(UserError, match=words):
        joints_of(cfg)
