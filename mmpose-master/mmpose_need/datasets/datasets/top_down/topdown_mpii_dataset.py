"""mmpose/datasets/datasets/top_down/topdown_mpii_dataset.py: MPII's form."""

import os
from collections import OrderedDict

import numpy as np
from mmcv.runner import get_dist_info
from mmcv.utils import print_log
from scipy.io import savemat

from hourglass_npu.errors import UserError, UserKeyError
from hourglass_npu.files import replaced
from hourglass_npu.mpii.pckh import MEASURES, PCK, relative_errors, score_rows
from hourglass_npu.mpii.people import (
    person_faults,
    person_label,
    read_people,
)
from hourglass_npu.mpii.records import compact
from hourglass_npu.mpii.truth import load_truth_of, truth_path
from hourglass_npu.pose.geometry import mpii_center_scale
from hourglass_npu.pose.joints import MPII, find_joints

from ...registry import DATASETS
from .topdown_base_dataset import TopDownBaseDataset


@DATASETS.register_module()
class TopDownMpiiDataset(TopDownBaseDataset):
    """People of MPII Human Pose or of another data set in its form.

    One sample is one person.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and
    State of the Art Analysis", CVPR 2014. Annotations are in mmpose's JSON
    form, in pixels that count from 1; samples count from 0.

    Args:
        ann_file (str): Annotations. For the truth of an evaluation see
            :func:`hourglass_npu.mpii.truth.load_truth_of`.
        img_prefix (str): Folder of the pictures.
        data_cfg (dict): Sizes and channels, as for every top-down data set;
            ``dataset_info`` describes the joints, see
            :func:`hourglass_npu.pose.joints.find_joints`. They are MPII's by
            default.
        pipeline (list[dict | callable]): Transforms of a sample.
        test_mode (bool): Leave the joints out of the samples.

    Raises:
        UserError: The files or ``data_cfg`` do not fit the joints.

    Attributes:
        joints (Joints): What the K joints are.
    """

    METRICS = tuple(measure.name for measure in MEASURES)

    def __init__(
        self, ann_file, img_prefix, data_cfg, pipeline, test_mode=False
    ):
        super().__init__(
            ann_file, img_prefix, data_cfg, pipeline, test_mode=test_mode
        )
        described = data_cfg.get('dataset_info')
        self.joints = MPII if described is None else find_joints(described)
        num_joints = self.ann_info['num_joints']
        if num_joints != len(self.joints):
            owner, hint = 'dataset_info', ''
            if described is None:
                owner, hint = (
                    'MPII',
                    '; data_cfg.dataset_info describes others',
                )
            raise UserError(
                f'data_cfg.num_joints={num_joints}: {owner} has '
                f'{len(self.joints)} joints{hint}'
            )
        self.ann_file = ann_file
        self.ann_info['flip_pairs'] = [list(p) for p in self.joints.flip_pairs]
        self.ann_info['lower_body_ids'] = self.joints.lower
        self.ann_info['upper_body_ids'] = self.joints.upper
        self.ann_info['use_different_joint_weights'] = False
        weights = np.array(self.joints.weights, dtype=np.float32)
        self.ann_info['joint_weights'] = weights[:, None]
        self._told = set()

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
            np.ndarray[K, 3], whose third column is not used.
        """
        people = read_people(self.ann_file)
        count = 0 if self.test_mode else len(self.joints)
        for index, person in enumerate(people):
            faults = person_faults(person, count)
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
        joints = np.zeros((len(self.joints), 3), dtype=np.float32)
        visible = np.zeros((len(self.joints), 3), dtype=np.float32)
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

    def load_truth(self, metric='PCKh'):
        """Read the true joints of the people, and the sizes of their heads.

        Args:
            metric (str): 'PCKh', or 'PCK' for sizes of the people.

        Returns:
            dict: See :func:`hourglass_npu.mpii.truth.load_truth_of`.

        Raises:
            UserError: The truth has another number of people, or there is
                none.
        """
        return load_truth_of(
            self.ann_file, len(self.db), self.joints, metric == PCK.name
        )

    def evaluate(self, outputs, res_folder, metric='PCKh', **kwargs):
        """Compute PCKh: the share of joints within half a head's length.

        Joints without truth, and people without a head box, do not count; a
        prediction that is not a number counts as wrong. Where there are no
        heads at all, it is PCK: the share within a fifth of the person's
        size.

        Args:
            outputs (list[tuple]): One per person, in the order of the
                annotations. Its first element are the predictions,
                np.ndarray[1, K, 3]: x, y in pixels that count from 0, and
                score.
            res_folder (str | None): Where to write ``pred.mat``: the
                predictions, np.ndarray[N, K, 2], in pixels that count from
                1.
            metric (str | list[str]): 'PCKh' or 'PCK'.
            **kwargs: ``logger`` gets remarks.

        Returns:
            OrderedDict[str, float]: See
            :func:`hourglass_npu.mpii.pckh.score_rows`; of several metrics
            the rows of the first, and the means of the others.

        Raises:
            UserError: Another metric (a KeyError as well), or predictions,
                annotations and truth differ in number.
        """
        metrics = [metric] if isinstance(metric, str) else metric
        for name in metrics:
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
        truths = [self.load_truth(name) for name in metrics]
        # MPII counts pixels from 1.
        preds = np.concatenate([output[0] for output in outputs])
        preds = preds[..., :2] + 1.0
        if res_folder:
            with replaced(os.path.join(res_folder, 'pred.mat')) as partial:
                savemat(partial, {'preds': preds})

        scores = OrderedDict()
        for truth in truths:
            self._tell(truth, kwargs.get('logger'))
            errors = relative_errors(preds, truth)
            for row, share in score_rows(errors, self.joints, truth).items():
                scores.setdefault(row, share)
        return scores

    def _tell(self, truth, logger):
        """Say once what the scores rest on, unless that is MPII's file."""
        uncounted = int((truth['sizes'] == 0).sum())
        if uncounted:
            thing = 'head box' if truth['measure'] != PCK else 'box'
            print_log(
                f'{uncounted} of {len(self)} people have no {thing} and do '
                'not count',
                logger=logger,
            )
        told = truth['measure'].name, truth['basis']
        if truth_path(self.ann_file) not in truth['basis'] and (
            told not in self._told
        ):
            self._told.add(told)
            measure = truth['measure']
            print_log(
                f'{measure.name} is measured in {measure.unit}, from '
                f'{truth["basis"]} (joints within {measure.threshold:g})',
                logger=logger,
            )
