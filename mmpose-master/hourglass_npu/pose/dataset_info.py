"""Descriptions of the joints of data sets, as plain dictionaries.

They have the form of mmpose 1.x's ``dataset_info``:

- ``dataset_name``: text.
- ``keypoint_info``: for each joint its ``name``, ``id`` (place in annotations
  and heatmaps), ``type`` ('upper', 'lower' or ''), ``swap`` (name of the joint
  that takes its place in a mirror, or '') and ``color`` (R, G, B). Name and
  id are needed.
- ``skeleton_info``: for each limb its ``link`` (names of two joints), ``id``
  and ``color``. Without a color, the side of the body decides.
- ``joint_weights`` and ``sigmas``: a number for each joint.

Three keys are ours, for the evaluation; all may be left out:

- ``groups``: rows of the table of scores, with the names of their joints.
- ``not_scored``: joints that do not count in the mean.
- ``head``: two joints whose distance is the length of the head.

Use :class:`hourglass_npu.pose.joints.Joints` to read them.
"""


def _keypoints(upper, names):
    """Describe joints; right and left ones change places in a mirror."""
    info = {}
    for number, name in enumerate(names):
        side, _, rest = name.partition('_')
        other = {'left': 'right', 'right': 'left'}.get(side)
        info[number] = dict(
            name=name,
            id=number,
            type='upper' if name in upper else 'lower',
            swap=f'{other}_{rest}' if other else '',
        )
    return info


def _skeleton(links):
    return {
        number: dict(link=link, id=number) for number, link in enumerate(links)
    }


_PAIRED = {
    'Shoulder': ['left_shoulder', 'right_shoulder'],
    'Elbow': ['left_elbow', 'right_elbow'],
    'Wrist': ['left_wrist', 'right_wrist'],
    'Hip': ['left_hip', 'right_hip'],
    'Knee': ['left_knee', 'right_knee'],
    'Ankle': ['left_ankle', 'right_ankle'],
}

_MPII_NAMES = (
    'right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis '
    'thorax upper_neck head_top right_wrist right_elbow right_shoulder '
    'left_shoulder left_elbow left_wrist'
).split()

MPII = dict(
    dataset_name='mpii',
    keypoint_info=_keypoints(_MPII_NAMES[7:], _MPII_NAMES),
    # From the outer joint to the inner one.
    skeleton_info=_skeleton(
        [
            ('right_ankle', 'right_knee'),
            ('right_knee', 'right_hip'),
            ('right_hip', 'pelvis'),
            ('left_hip', 'pelvis'),
            ('left_knee', 'left_hip'),
            ('left_ankle', 'left_knee'),
            ('pelvis', 'thorax'),
            ('thorax', 'upper_neck'),
            ('upper_neck', 'head_top'),
            ('right_wrist', 'right_elbow'),
            ('right_elbow', 'right_shoulder'),
            ('right_shoulder', 'thorax'),
            ('left_shoulder', 'thorax'),
            ('left_elbow', 'left_shoulder'),
            ('left_wrist', 'left_elbow'),
        ]
    ),
    groups=dict(Head=['head_top'], **_PAIRED),
    not_scored=['pelvis', 'thorax'],
    head=['head_top', 'upper_neck'],
    sigmas=[
        *(0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026),
        *(0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072, 0.062),
    ],
)
"""MPII Human Pose; the sigmas are those of mmpose."""

_COCO_NAMES = (
    'nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder '
    'left_elbow right_elbow left_wrist right_wrist left_hip right_hip '
    'left_knee right_knee left_ankle right_ankle'
).split()

COCO = dict(
    dataset_name='coco',
    keypoint_info=_keypoints(_COCO_NAMES[:11], _COCO_NAMES),
    skeleton_info=_skeleton(
        [
            ('left_ankle', 'left_knee'),
            ('left_knee', 'left_hip'),
            ('right_ankle', 'right_knee'),
            ('right_knee', 'right_hip'),
            ('left_hip', 'right_hip'),
            ('left_shoulder', 'left_hip'),
            ('right_shoulder', 'right_hip'),
            ('left_shoulder', 'right_shoulder'),
            ('left_elbow', 'left_shoulder'),
            ('right_elbow', 'right_shoulder'),
            ('left_wrist', 'left_elbow'),
            ('right_wrist', 'right_elbow'),
            ('left_eye', 'right_eye'),
            ('left_eye', 'nose'),
            ('right_eye', 'nose'),
            ('left_ear', 'left_eye'),
            ('right_ear', 'right_eye'),
            ('left_ear', 'left_shoulder'),
            ('right_ear', 'right_shoulder'),
        ]
    ),
    groups=dict(Head=_COCO_NAMES[:5], **_PAIRED),
    joint_weights=[
        *(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2, 1.2),
        *(1.5, 1.5, 1.0, 1.0, 1.2, 1.2, 1.5, 1.5),
    ],
    sigmas=[
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ],
)
"""COCO's keypoints, with the limbs and sigmas of COCO."""

SHIPPED = dict(mpii=MPII, coco=COCO)
"""By the name that a config gives as ``data_cfg.dataset_info``."""
