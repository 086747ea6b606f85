"""mmpose/datasets/datasets/top_down/topdown_base_dataset.py.

What all top-down data sets share: one sample per person.
"""

from abc import ABCMeta, abstractmethod

import numpy as np
from mmpose.datasets.pipelines import Compose
from torch.utils.data import Dataset

from hourglass_npu.mpii.records import Records, copy_record


class TopDownBaseDataset(Dataset, metaclass=ABCMeta):
    """People in pictures, one sample each.

    Subclasses fill ``db`` with the records of :meth:`_get_db`, and complete
    ``ann_info``, which all samples share: sizes, channels, pairs of joints.

    Args:
        ann_file (str): Annotations.
        img_prefix (str): Folder of the pictures.
        data_cfg (dict): ``image_size`` and ``heatmap_size`` as (width,
            height), ``num_joints``, ``inference_channel``,
            ``num_output_channels`` and ``dataset_channel``.
        pipeline (list[dict | callable]): Steps that turn a record into a
            sample.
        test_mode (bool): The samples are for testing.
    """

    def __init__(
        self, ann_file, img_prefix, data_cfg, pipeline, test_mode=False
    ):
        self.image_info = {}
        self.ann_info = {}
        self.annotations_path = ann_file
        self.img_prefix = img_prefix
        self.test_mode = test_mode

        for key in ('image_size', 'heatmap_size'):
            self.ann_info[key] = np.array(data_cfg[key])
        self.ann_info['flip_pairs'] = None
        for key in (
            'num_joints',
            'inference_channel',
            'num_output_channels',
            'dataset_channel',
        ):
            self.ann_info[key] = data_cfg[key]

        self.db = []
        self.pipeline = Compose(pipeline)

    @abstractmethod
    def _get_db(self):
        """Read the records."""
        raise NotImplementedError

    @abstractmethod
    def evaluate(self, cfg, preds, output_dir, *args, **kwargs):
        """Score predictions."""
        raise NotImplementedError

    def __len__(self):
        """Return the number of people."""
        return len(self.db)

    def __getitem__(self, idx):
        """Make one sample.

        Args:
            idx (int): Number of the person.

        Returns:
            Any: The result of the pipeline.
        """
        db = self.db
        own = isinstance(db, Records)
        results = db.copy_of(idx) if own else copy_record(db[idx])
        results['ann_info'] = self.ann_info
        return self.pipeline(results)
