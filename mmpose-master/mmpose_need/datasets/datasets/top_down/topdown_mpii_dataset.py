"""mmpose/datasets/datasets/top_down/topdown_mpii_dataset.py: MPII, PCKh."""

import os

import numpy as np
from mmcv.runner import get_dist_info
from mmcv.utils import print_log
from scipy.io import savemat

from hourglass_npu.errors import UserError, UserKeyError
from hourglass_npu.files import replaced
from hourglass_npu.mpii.pckh import head_errors, mpii_scores
from hourglass_npu.mpii.people import (
    person_faults,
    person_label,
    read_people,
)
from hourglass_npu.mpii.records import compact
from hourglass_npu.mpii.truth import load_truth_of
from hourglass_npu.pose.geometry import mpii_center_scale
from hourglass_npu.pose.joints import FLIP_PAIRS, LOWER_BODY, UPPER_BODY

from ...registry import DATASETS
from .topdown_base_dataset import TopDownBaseDataset


@DATASETS.register_module()
class TopDownMpiiDataset(TopDownBaseDataset):
    """People of MPII Human Pose, one sample each.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and
    State of the Art Analysis", CVPR 2014. Annotations are in mmpose's JSON
    form, in pixels that count from 1; samples count from 0. The joints and
    their order are those of ``hourglass_npu.pose.joints``.

    Args:
        ann_file (str): Annotations. Evaluation reads ``mpii_gt_val.mat``
            in the same folder.
        img_prefix (str): Folder of the pictures.
        data_cfg (dict): Sizes and channels, as for every top-down data set.
        pipeline (list[dict | callable]): Transforms of a sample.
        test_mode (bool): Leave the joints out of the samples.

    Raises:
        UserError: The files or ``data_cfg`` are not those of MPII.
    """

    METRICS = ('PCKh',)

    def __init__(
        self, ann_file, img_prefix, data_cfg, pipeline, test_mode=False
    ):
        super().__init__(
            ann_file, img_prefix, data_cfg, pipeline, test_mode=test_mode
        )
        num_joints = self.ann_info['num_joints']
        if num_joints != 16:
            raise UserError(
                f'data_cfg.num_joints={num_joints}: MPII has 16 joints'
            )
        self.ann_file = ann_file
        self.ann_info['flip_pairs'] = [list(pair) for pair in FLIP_PAIRS]
        self.ann_info['lower_body_ids'] = LOWER_BODY
        self.ann_info['upper_body_ids'] = UPPER_BODY
        self.ann_info['use_different_joint_weights'] = False
        self.ann_info['joint_weights'] = np.ones((16, 1), dtype=np.float32)

        self.db = self._get_db()
        # Copies, as records that were handed out are kept.
        look_at = getattr(self.db, 'copy_of', self.db.__getitem__)
        people = map(look_at, range(len(self.db)))
        self.image_set = {person['image_file'] for person in people}
        self.num_images = len(self.image_set)
        if get_dist_info()[0] == 0:
            print(
                f'{ann_file}: {len(self.db)} people in {self.num_images} '
                'pictures'
            )
        for step in self.pipeline.transforms:
            if hasattr(step, 'prepare'):
                step.prepare(self.image_set)

    def _get_db(self):
        """Read the samples, in the order of the annotation file.

        Returns:
            list[dict]: With ``center`` (x, y) in pixels that count from 0
            and ``scale`` (w, h) in units of 200 pixels, of a square box
            around the person; ``joints_3d`` and ``joints_3d_visible``,
            np.ndarray[16, 3], whose third column is not used.
        """
        people = read_people(self.ann_file)
        for index, person in enumerate(people):
            faults = person_faults(person, joints=not self.test_mode)
            if faults:
                raise UserError(
                    f'{person_label(self.ann_file, index, person)}: '
                    f'{faults[0]}. tools/check_mpii.py lists all faults'
                )
        return compact([self._sample(person) for person in people])

    def _sample(self, annotation):
        center, scale = mpii_center_scale(
            annotation['center'], annotation['scale']
        )
        joints = np.zeros((16, 3), dtype=np.float32)
        visible = np.zeros((16, 3), dtype=np.float32)
        if not self.test_mode:
            given = np.array(annotation['joints'], dtype=np.float64)
            joints[:, :2] = given - 1
            visible[:, :2] = np.array(annotation['joints_vis'])[:, None]

        return {
            'image_file': os.path.join(self.img_prefix, annotation['image']),
            'center': center,
            'scale': scale,
            'rotation': 0,
            'joints_3d': joints,
            'joints_3d_visible': visible,
            'dataset': 'mpii',
            'bbox_score': 1,
        }

    def load_truth(self):
        """Read the true joints and head boxes of the people.

        Returns:
            dict: See :func:`hourglass_npu.mpii.truth.load_truth`.

        Raises:
            UserError: The truth has another number of people.
        """
        return load_truth_of(self.ann_file, len(self.db))

    def evaluate(self, outputs, res_folder, metric='PCKh', **kwargs):
        """Compute PCKh: the share of joints within half a head's length.

        Joints without truth, and people without a head box, do not count; a
        prediction that is not a number counts as wrong.

        Args:
            outputs (list[tuple]): One per person, in the order of the
                annotations. Its first element are the predictions,
                np.ndarray[1, 16, 3]: x, y in pixels that count from 0, and
                score.
            res_folder (str | None): Where to write ``pred.mat``: the
                predictions, np.ndarray[N, 16, 2], in pixels that count from
                1.
            metric (str | list[str]): Only 'PCKh'.
            **kwargs: ``logger`` gets remarks.

        Returns:
            OrderedDict[str, float]: See
            :func:`hourglass_npu.mpii.pckh.mpii_scores`.

        Raises:
            UserError: Another metric (a KeyError as well), or predictions,
                annotations and truth differ in number.
        """
        for name in [metric] if isinstance(metric, str) else metric:
            if name not in self.METRICS:
                raise UserKeyError(
                    f'metric {name} is not supported, use '
                    f'{", ".join(self.METRICS)}'
                )
        if len(outputs) != len(self.db):
            raise UserError(
                f'{len(outputs)} predictions for the {len(self.db)} people '
                f'of {self.ann_file}'
            )
        truth = self.load_truth()
        # MPII counts pixels from 1.
        preds = np.concatenate([output[0] for output in outputs])
        preds = preds[..., :2] + 1.0
        if res_folder:
            with replaced(os.path.join(res_folder, 'pred.mat')) as partial:
                savemat(partial, {'preds': preds})

        headless = int((truth['head_sizes'] == 0).sum())
        if headless:
            print_log(
                f'{headless} of {len(preds)} people have no head box and do '
                'not count',
                logger=kwargs.get('logger'),
            )
        return mpii_scores(head_errors(preds, truth), truth['joint_names'])
