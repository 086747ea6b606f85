"""Augmentation and targets: bit for bit those of mmpose's own steps."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from mmpose.datasets import pipelines
from mmpose.datasets.datasets import TopDownMpiiDataset
from mmpose.datasets.datasets.top_down.topdown_base_dataset import copy_record
from mpii_data import copy_real_mpii, write_mpii

from hourglass_npu.errors import UserError

# Not square, so that width and height cannot be mistaken for each other.
DATA_CFG = dict(
    image_size=[96, 128],
    heatmap_size=[24, 32],
    num_joints=16,
    num_output_channels=16,
    dataset_channel=list(range(16)),
    inference_channel=list(range(16)),
)


@pytest.fixture(scope='module')
def theirs(stock):
    """Mmpose's own steps, by name as in ``pipelines``."""
    steps = {}
    for name in ('loading', 'top_down_transform'):
        steps.update(vars(stock('mmpose', f'datasets/pipelines/{name}.py')))
    return SimpleNamespace(**steps)


@pytest.fixture(scope='module', params=['drawn', 'real'])
def people(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / 'mpii'
    if request.param == 'real':
        copy_real_mpii(request.getfixturevalue('real_mpii'), folder)
    else:
        write_mpii(folder)
    return TopDownMpiiDataset(
        str(folder / 'annotations' / 'mpii_train.json'),
        str(folder / 'images') + '/',
        DATA_CFG,
        [],
    )


def chain(module, flip=0.5, half=0.5, **target):
    return [
        module.LoadImageFromFile(),
        module.TopDownRandomFlip(flip_prob=flip),
        module.TopDownHalfBodyTransform(prob_half_body=half),
        module.TopDownGetRandomScaleRotation(rot_factor=40, scale_factor=0.5),
        module.TopDownAffine(),
        module.TopDownGenerateTarget(**target),
    ]


def run(steps, record, info, seed):
    results = dict(record, ann_info=info)
    np.random.seed(seed)
    for step in steps:
        results = step(results)
    return results, np.random.rand()


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, wanted in theirs.items():
        if isinstance(wanted, np.ndarray):
            assert ours[key].dtype == wanted.dtype, key
            assert ours[key].shape == wanted.shape, key
            assert ours[key].tobytes() == wanted.tobytes(), key
        elif key != 'ann_info':
            assert ours[key] == wanted, key


@pytest.mark.parametrize(
    'target',
    [dict(), dict(sigma=1.5), dict(sigma=3, unbiased_encoding=True)],
    ids=['default', 'half-cells', 'unbiased'],
)
def test_samples_are_those_of_stock(people, theirs, target):
    flipped, turned = set(), set()
    for seed in range(6):
        for record in people.db:
            wanted, next_draw = run(
                chain(theirs, **target),
                copy.deepcopy(record),
                people.ann_info,
                seed,
            )
            found, our_next_draw = run(
                chain(pipelines, **target),
                copy_record(record),
                people.ann_info,
                seed,
            )
            assert_same_bits(found, wanted)
            assert our_next_draw == next_draw
            turned.add(wanted['rotation'] != 0)
        np.random.seed(seed)
        flipped.add(np.random.rand() <= 0.5)
    assert flipped == turned == {False, True}


@pytest.mark.parametrize('channels', [1, 3])
def test_a_mirrored_picture_is_copied_as_far_as_it_is_read(theirs, channels):
    """Whatever else is in the kept memory is nowhere in the crop."""
    draws = np.random.RandomState(3)
    noise = draws.randint(0, 256, (2, 90, 120, channels)).astype(np.uint8)
    img, rest = noise
    # The last one makes the picture far smaller than the crop.
    scales = np.append(draws.uniform(0.05, 1, 200), 4)
    copied = []
    for scale in scales:
        sample = dict(
            ann_info=dict(image_size=np.array([96, 128]), num_joints=1),
            img=img[:, ::-1],
            joints_3d=np.zeros((1, 3)),
            joints_3d_visible=np.zeros((1, 3)),
            center=draws.uniform(-40, 160, 2),
            scale=np.array([scale, scale * 4 / 3]),
            rotation=draws.choice([0, draws.uniform(-180, 180)]),
        )
        affine = pipelines.TopDownAffine()
        affine._mirror._memory = memory = rest.flatten()
        found = affine(dict(sample))['img']
        wanted = theirs.TopDownAffine()(dict(sample))['img']
        assert found.tobytes() == wanted.tobytes()
        copied.append((memory != rest.ravel()).mean())
    assert min(copied) == 0 and 0.99 < max(copied)
    assert 0.1 < np.median(copied) < 0.9


def test_mirroring_keeps_memory_within_its_process():
    affine = pipelines.TopDownAffine()
    affine._mirror.unfold(
        np.zeros((90, 120, 3), np.uint8)[:, ::-1],
        np.eye(2, 3),
        (96, 128),
    )
    assert len(pickle.dumps(affine)) < 1000
    assert copy.deepcopy(affine)._mirror._memory.size == 0


def test_the_factor_of_the_scale_is_of_stocks_type(theirs):
    """From numpy 2 on its type decides about that of the scale."""

    class Scale:
        def __mul__(self, factor):
            return factor

    factors = []
    for module in (pipelines, theirs):
        np.random.seed(0)
        step = module.TopDownGetRandomScaleRotation()
        factors.append(step(dict(scale=Scale()))['scale'])
    assert factors[0] == factors[1]
    assert type(factors[0]) is type(factors[1])


def joints_around(info, count=400):
    """Joints inside, on the border, and all around of the input."""
    draws = np.random.RandomState(0)
    size = np.array(info['image_size'])
    shape = (count, info['num_joints'], 2)
    joints = np.zeros((count, info['num_joints'], 3), np.float32)
    joints[..., :2] = draws.uniform(-0.4, 1.4, shape) * size
    visible = np.zeros_like(joints)
    choices = np.array([0, 0.3, 1], np.float32)
    visible[..., :2] = draws.choice(choices, shape[:2] + (1,))
    return joints, visible


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('unbiased', [False, True])
@pytest.mark.parametrize('sigma', [1, 1.5, 2])
def test_targets_at_borders(theirs, sigma, unbiased, weighted):
    info = dict(
        image_size=np.array([96, 128]),
        heatmap_size=np.array([24, 32]),
        num_joints=16,
        joint_weights=np.linspace(1, 2, 16, dtype=np.float32)[:, None],
        use_different_joint_weights=weighted,
    )
    makers = [
        module.TopDownGenerateTarget(sigma, unbiased)
        for module in (pipelines, theirs)
    ]
    for joints, visible in zip(*joints_around(info, 40)):
        ours, wanted = (
            maker(dict(ann_info=info, joints_3d=joints, joints_3d_visible=v))
            for maker, v in zip(makers, (visible, visible))
        )
        assert_same_bits(ours, wanted)


def test_moved_joints(theirs):
    """16 joints at once move as one by one, to the last bit."""
    info = dict(image_size=np.array([96, 128]), num_joints=16)
    picture = np.zeros((8, 8, 3), np.uint8)
    draws = np.random.RandomState(1)
    for joints, visible in zip(*joints_around(info)):
        sample = dict(
            ann_info=info,
            img=picture,
            joints_3d_visible=visible,
            center=draws.uniform(0, 500, 2),
            scale=draws.uniform(0.2, 4, 2),
            rotation=draws.uniform(-80, 80),
        )
        ours, wanted = (
            module.TopDownAffine()(dict(sample, joints_3d=joints.copy()))
            for module in (pipelines, theirs)
        )
        assert_same_bits(ours, wanted)


@pytest.mark.parametrize('visible', [0, 1, 2, 3, 16])
def test_half_bodies(theirs, people, visible):
    info = dict(people.ann_info)
    draws = np.random.RandomState(2)
    for seed in range(20):
        joints = np.zeros((16, 3), np.float32)
        joints[:, :2] = draws.uniform(0, 200, (16, 2))
        seen = np.zeros((16, 3), np.float32)
        seen[draws.permutation(16)[:visible], :2] = 1
        results = []
        for module in (pipelines, theirs):
            np.random.seed(seed)
            half = module.TopDownHalfBodyTransform(-1, 0.9)
            results.append(
                half(
                    dict(
                        ann_info=info,
                        joints_3d=joints,
                        joints_3d_visible=seen,
                        center=np.zeros(2),
                        scale=np.ones(2),
                    )
                )
            )
        assert_same_bits(*results)


@pytest.mark.parametrize('before', ['nothing', 'ToPlanes'])
@pytest.mark.parametrize(
    'step', [dict(type='TopDownRandomFlip', flip_prob=1), 'TopDownAffine']
)
def test_a_step_without_a_picture_says_where_it_belongs(people, step, before):
    sample = copy_record(people.db[0])
    sample.update(rotation=0, ann_info=people.ann_info)
    if before == 'ToPlanes':
        sample['img'] = np.zeros((8, 8, 3), np.uint8)
        sample = pipelines.ToPlanes()(sample)
    name = step if isinstance(step, str) else step['type']
    wrong = pipelines.Compose([step if name != step else dict(type=step)])
    with pytest.raises(UserError, match=f'{name} needs a picture: .*ToPlanes'):
        wrong(sample)
