"""Which joints a config is about."""

import contextlib
import copy
import io
import json
import os
import tempfile

from hourglass_npu.config.load import inner_data
from hourglass_npu.errors import UserError
from hourglass_npu.pose.joints import Joints, find_joints

OF_CLASSES = dict(TopDownMpiiDataset='mpii', TopDownCocoDataset='coco')
"""What data sets of these classes have, unless the config describes it."""

SPLITS = ('test', 'val', 'train')
"""Parts of a config's data, in the order in which they are asked."""


def joints_of(cfg, meta=None):
    """Return the joints of the data set of a config.

    They are those that ``data_cfg.dataset_info`` describes; else those in the
    checkpoint; else those of OF_CLASSES; else numbered ones, with the pairs
    of the data set's class.

    Args:
        cfg (mmcv.Config): Config of a top-down model.
        meta (dict | None): Of a checkpoint of it.

    Returns:
        Joints: One for each heatmap.

    Raises:
        UserError: ``data_cfg`` does not say how many joints there are, or the
            description is wrong or has another number of them.
    """
    split = next(name for name in SPLITS if cfg.data.get(name))
    data = inner_data(cfg.data[split])
    settings = data.get('data_cfg', {})
    count = settings.get('num_output_channels')
    if count is None:
        raise UserError(
            f'{cfg.filename}: data.{split}.data_cfg has no '
            'num_output_channels, the number of joints'
        )
    given = settings.get('dataset_info')
    if given is not None:
        joints = find_joints(given)
        if len(joints) != count:
            raise UserError(
                f'{cfg.filename}: data_cfg.dataset_info describes '
                f'{len(joints)} joints, but data_cfg.num_output_channels is '
                f'{count}'
            )
        return joints
    saved = (meta or {}).get('joints')
    if saved is not None:
        joints = Joints.from_info(saved, 'joints of the checkpoint')
        if len(joints) == count:
            return joints
    joints = find_joints(OF_CLASSES.get(data.get('type'), 'mpii'))
    if data.get('type') in OF_CLASSES and len(joints) == count:
        return joints
    pairs = [p for p in _class_pairs(data) if max(p) < count]
    return Joints.numbered(count, pairs, data.get('type') or '')


def _class_pairs(data):
    """Return the flip pairs of a class of data sets.

    They are in the code of its constructor: one is made, without people.
    """
    from mmpose.datasets import build_dataset

    empty = dict(images=[], annotations=[], categories=[])
    empty['categories'].append(dict(id=1, name='person'))
    data = dict(copy.deepcopy(data), pipeline=[], test_mode=True)
    with tempfile.TemporaryDirectory() as folder:
        data['ann_file'] = os.path.join(folder, 'nobody.json')
        with open(data['ann_file'], 'w') as file:
            json.dump(empty, file)
        # It prints that it has no people, or fails for want of them.
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(Exception):
                made = build_dataset(data)
                return [tuple(p) for p in made.ann_info['flip_pairs'] or ()]
    return []
