"""MPII Human Pose, and its measure PCKh."""

import json
import os
from collections import OrderedDict

import numpy as np
from mmcv.runner import get_dist_info
from mmcv.utils import print_log
from scipy.io import loadmat, savemat

from ...registry import DATASETS
from .topdown_base_dataset import TopDownBaseDataset

HEAD_SIZE_FACTOR = 0.6
"""MPII's length of a head is 0.6 of its box's diagonal."""

UNSCORED_JOINTS = (6, 7)
"""Pelvis and thorax, which MPII leaves out of the mean."""

# Rows of the result: the names that mpii_gt_val.mat gives to the joints.
_ROWS = OrderedDict(
    Head=('head',),
    Shoulder=('lsho', 'rsho'),
    Elbow=('lelb', 'relb'),
    Wrist=('lwri', 'rwri'),
    Hip=('lhip', 'rhip'),
    Knee=('lkne', 'rkne'),
    Ankle=('lank', 'rank'),
)


@DATASETS.register_module()
class TopDownMpiiDataset(TopDownBaseDataset):
    """People of MPII Human Pose, one sample each.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and
    State of the Art Analysis", CVPR 2014. Annotations are in mmpose's JSON
    form, with MPII's 1-based pixel coordinates; samples are 0-based. Joints,
    in this order: right ankle, knee, hip; left hip, knee, ankle; pelvis,
    thorax, upper neck, head top; right wrist, elbow, shoulder; left shoulder,
    elbow, wrist.

    Args:
        ann_file (str): Annotations. Evaluation reads ``mpii_gt_val.mat``
            in the same folder.
        img_prefix (str): Folder of the pictures.
        data_cfg (dict): Sizes and channels, as for every top-down data set.
        pipeline (list[dict | callable]): Transforms of a sample.
        test_mode (bool): Whether to leave the joints out of the samples.
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
            raise ValueError(
                f'MPII has 16 joints, but data_cfg.num_joints={num_joints}'
            )
        self.ann_file = ann_file
        self.ann_info['flip_pairs'] = [
            [0, 5],
            [1, 4],
            [2, 3],
            [10, 15],
            [11, 14],
            [12, 13],
        ]
        self.ann_info['lower_body_ids'] = tuple(range(7))
        self.ann_info['upper_body_ids'] = tuple(range(7, 16))
        self.ann_info['use_different_joint_weights'] = False
        self.ann_info['joint_weights'] = np.ones((16, 1), dtype=np.float32)

        self.db = self._get_db()
        self.image_set = {sample['image_file'] for sample in self.db}
        self.num_images = len(self.image_set)
        if get_dist_info()[0] == 0:
            print(
                f'{ann_file}: {len(self.db)} people in {self.num_images} '
                'pictures'
            )

    def _get_db(self):
        """Samples in the order of the annotation file.

        Returns:
            list[dict]: With ``center`` (x, y) in 0-based pixels and
            ``scale`` (w, h) in units of 200 pixels, of a square box around
            the person; ``joints_3d`` (16, 3) and ``joints_3d_visible``
            (16, 3), of which the third column is not used.
        """
        with open(self.ann_file) as file:
            annotations = json.load(file)
        return [
            self._sample(i, annotation)
            for i, annotation in enumerate(annotations)
        ]

    def _sample(self, index, annotation):
        center = np.array(annotation['center'], dtype=np.float64)
        scale = np.full(2, annotation['scale'], dtype=np.float64)
        # MPII's boxes are tight at the feet. -1 marks a missing box.
        if center[0] != -1:
            center[1] += 15 * scale[1]
            scale *= 1.25

        joints = np.zeros((16, 3), dtype=np.float32)
        visible = np.zeros((16, 3), dtype=np.float32)
        if not self.test_mode:
            given = np.array(annotation['joints'], dtype=np.float64)
            if given.shape[0] != 16:
                raise ValueError(
                    f'{self.ann_file}, person {index}: {given.shape[0]} '
                    'joints instead of 16'
                )
            joints[:, :2] = given[:, :2] - 1
            visible[:, :2] = np.array(annotation['joints_vis'])[:, None]

        return {
            'image_file': os.path.join(self.img_prefix, annotation['image']),
            'center': center - 1,
            'scale': scale,
            'rotation': 0,
            'joints_3d': joints,
            'joints_3d_visible': visible,
            'dataset': 'mpii',
            'bbox_score': 1,
        }

    def load_truth(self):
        """Reads the true joints and head boxes of the people.

        Returns:
            dict: See :func:`load_mpii_truth`.

        Raises:
            ValueError: If they are not as many as the annotations.
        """
        path = os.path.join(os.path.dirname(self.ann_file), 'mpii_gt_val.mat')
        truth = load_mpii_truth(path)
        if len(truth['joints']) != len(self.db):
            raise ValueError(
                f'{self.ann_file} has {len(self.db)} people, but {path} has '
                f'{len(truth["joints"])}: they do not belong together. '
                'MPII is evaluated on mpii_val.json.'
            )
        return truth

    def evaluate(self, outputs, res_folder, metric='PCKh', **kwargs):
        """Computes PCKh: the share of joints within half a head's length.

        Joints without truth, and people without a head box, are not counted;
        a prediction that is no number counts as wrong.

        Args:
            outputs (list[tuple]): One per person, in the order of the
                annotations. The first element holds predictions of shape
                (1, 16, 3): x, y in 0-based pixels, and score.
            res_folder (str | None): Where to write ``pred.mat``, the
                predictions in MPII's 1-based pixels, shape (people, 16, 2).
            metric (str | list[str]): 'PCKh' is all there is.
            **kwargs: ``logger`` gets remarks.

        Returns:
            OrderedDict[str, float]: Percentages: rows Head to Ankle, PCKh
            (mean over all joints but pelvis and thorax) and PCKh@0.1. NaN
            where no joint was counted.

        Raises:
            KeyError: If another metric is asked for.
            ValueError: If predictions, annotations and truth are not
                equally many.
        """
        for name in [metric] if isinstance(metric, str) else metric:
            if name not in self.METRICS:
                raise KeyError(
                    f'metric {name} is not supported, use '
                    f'{", ".join(self.METRICS)}'
                )
        if len(outputs) != len(self.db):
            raise ValueError(
                f'{len(outputs)} predictions for the {len(self.db)} people '
                f'of {self.ann_file}'
            )
        truth = self.load_truth()
        # MPII counts pixels from 1.
        preds = np.concatenate([output[0] for output in outputs])
        preds = preds[..., :2] + 1.0
        if res_folder:
            _save_predictions(os.path.join(res_folder, 'pred.mat'), preds)

        headless = int((truth['head_sizes'] == 0).sum())
        if headless:
            print_log(
                f'{headless} of {len(preds)} people have no head box and are '
                'not counted',
                logger=kwargs.get('logger'),
            )
        return mpii_scores(head_errors(preds, truth), truth['joint_names'])


def load_mpii_truth(path):
    """Reads ``mpii_gt_val.mat``.

    Args:
        path (str): The file.

    Returns:
        dict: ``joints`` (people, 16, 2), 1-based pixels; ``visible``
        (people, 16), bool: there is a truth to compare with; ``head_sizes``
        (people,), pixels, 0 where there is no head box; ``joint_names``
        (16), MPII's short names.

    Raises:
        ValueError: If the file is not such a file.
    """
    try:
        mat = loadmat(path)
        joints = mat['pos_gt_src'].transpose(2, 0, 1).astype(np.float64)
        missing = mat['jnt_missing'].T.astype(bool)
        boxes = mat['headboxes_src'].astype(np.float64)
        names = [str(np.squeeze(n)) for n in mat['dataset_joints'].ravel()]
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f'{path} is no ground truth of MPII ({error!r})'
        ) from error
    sizes = np.linalg.norm(boxes[1] - boxes[0], axis=0) * HEAD_SIZE_FACTOR
    return dict(
        joints=joints,
        visible=~missing & np.isfinite(joints).all(-1),
        head_sizes=np.where(np.isfinite(sizes), sizes, 0),
        joint_names=names,
    )


def head_errors(preds, truth):
    """Distance of each predicted joint from the true one, in head lengths.

    Args:
        preds (np.ndarray): (people, 16, 2), 1-based pixels.
        truth (dict): From :func:`load_mpii_truth`.

    Returns:
        np.ndarray: (people, 16). NaN where there is nothing to compare
        with, infinite where the prediction is no number.
    """
    distances = np.linalg.norm(preds - truth['joints'], axis=-1)
    sizes = truth['head_sizes'][:, None]
    counted = truth['visible'] & (sizes > 0)
    errors = distances / np.where(sizes > 0, sizes, 1)
    errors[np.isnan(errors)] = np.inf
    errors[~counted] = np.nan
    return errors


def mpii_scores(errors, joint_names):
    """Turns errors into the rows that MPII results are reported in.

    Args:
        errors (np.ndarray): (people, 16), from :func:`head_errors`.
        joint_names (Sequence[str]): MPII's short name of each joint.

    Returns:
        OrderedDict[str, float]: See :meth:`TopDownMpiiDataset.evaluate`.
    """
    counted = ~np.isnan(errors)
    scored = np.ones(len(joint_names), dtype=bool)
    scored[list(UNSCORED_JOINTS)] = False

    def share(joints, threshold):
        total = counted[:, joints].sum()
        # A comparison with NaN is False: what is not counted is no hit.
        with np.errstate(invalid='ignore'):
            found = (errors[:, joints] <= threshold).sum()
        return float(100 * found / total) if total else float('nan')

    rows = OrderedDict()
    for row, names in _ROWS.items():
        # Sides weigh alike; one that was never to be seen does not weigh.
        joints = [joint_names.index(name) for name in names]
        sides = [
            share(joint, 0.5) for joint in joints if counted[:, joint].any()
        ]
        rows[row] = float(np.mean(sides)) if sides else float('nan')
    # Here each joint weighs by how often it was to be seen.
    rows['PCKh'] = share(scored, 0.5)
    rows['PCKh@0.1'] = share(scored, 0.1)
    return rows


def _save_predictions(path, preds):
    """Writes ``pred.mat`` whole or not at all."""
    partial = f'{path}.part'
    with open(partial, 'wb') as file:
        savemat(file, {'preds': preds})
    os.replace(partial, path)
