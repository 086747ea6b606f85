"""The estimator: its numbers are those of mmpose's own."""

import copy

import numpy as np
import pytest
import torch
from mmcv import Config
from mmcv.parallel import collate
from mmcv.parallel.data_parallel import unpack
from mmpose.core import keypoints_from_heatmaps, pose_pck_accuracy
from mmpose.datasets.pipelines import (
    Collect,
    Compose,
    NormalizeTensor,
    TopDownGenerateTarget,
    TopDownJointCells,
    ToPlanes,
    ToTensor,
)
from mmpose.models.detectors import top_down
from pose_model import make, picture

from hourglass_npu.errors import UserError
from hourglass_npu.pose import heatmaps
from hourglass_npu.pose.geometry import to_picture

RELPATH = 'models/detectors/top_down.py'


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    path, _ = make(folder)
    config = Config.fromfile(str(path)).model
    # Stock does not know it.
    config.pop('data_preprocessor')
    return config


def pair(stock, config, **changes):
    """Build mmpose's model and ours, of equal weights."""
    config = Config(dict(copy.deepcopy(config)))
    config._cfg_dict.pop('type')
    config.merge_from_dict(changes)
    config = config._cfg_dict
    torch.manual_seed(0)
    ours = top_down.TopDown(**config)
    theirs = stock('mmpose', RELPATH).TopDown(**config)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def batch(size=3, side=64, heat=16):
    draws = torch.Generator().manual_seed(0)
    img = torch.randn(size, 3, side, side, generator=draws)
    target = torch.rand(size, 16, heat, heat, generator=draws)
    weight = (torch.rand(size, 16, 1, generator=draws) < 0.7).float()
    return dict(img=img, target=target, target_weight=weight)


@pytest.mark.parametrize('stacks', [1, 2])
def test_step_is_that_of_stock(stock, config, stacks):
    changes = {
        'backbone.num_stacks': stacks,
        'keypoint_head.num_stages': stacks,
        'train_cfg': dict(loss_weights=[0.5, 1.0][:stacks]),
    }
    models = pair(stock, config, **changes)
    gradients, numbers = [], []
    for model in models:
        model.train()
        outputs = model.train_step(batch(), None)
        outputs['loss'].backward()
        gradients.append(
            {
                name: parameter.grad
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        )
        assert outputs['num_samples'] == 3
        numbers.append({k: float(v) for k, v in outputs['log_vars'].items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert numbers[0]['acc_pose'] == numbers[1]['acc_pose']
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)


def test_prediction_is_that_of_stock(stock, config):
    models = pair(stock, config)
    meta = dict(
        image_file='a.jpg',
        center=np.array([30.0, 40.0]),
        scale=np.array([0.5, 0.7]),
        flip_pairs=[[0, 5], [1, 4]],
        bbox_score=0.9,
    )
    for flip, shift in [(False, False), (True, False), (True, True)]:
        for name in (None, 'bbox_score'):
            metas = [{k: v for k, v in meta.items() if k != name}]
            results = []
            for model in models:
                model.eval()
                model.test_cfg.update(flip_test=flip, shift_heatmap=shift)
                with torch.no_grad():
                    results.append(
                        model(
                            batch(1)['img'],
                            img_metas=metas,
                            return_loss=False,
                            return_heatmap=True,
                        )
                    )
            for ours, theirs in zip(*results):
                assert type(ours) is type(theirs)
                assert np.array_equal(ours, theirs)


def test_val_step_predicts_and_computes_the_loss(stock, config):
    ours, theirs = (model.eval() for model in pair(stock, config))
    meta = dict(
        image_file='a.jpg',
        center=np.array([30.0, 40.0]),
        scale=np.array([0.5, 0.7]),
        flip_pairs=[[0, 5], [1, 4]],
    )
    # Outside of no_grad; mmpose takes one sample.
    inputs = dict(batch(1), img_metas=[meta])
    wanted = theirs.val_step(dict(inputs), None)['results']
    found = ours.val_step(dict(inputs), None)
    for one, other in zip(found['results'], wanted):
        assert np.array_equal(one, other)
    loss = theirs.train_step(dict(inputs), None)['log_vars']
    assert found['log_vars'] == pytest.approx(loss, rel=1e-6)
    assert found['num_samples'] == 1 and not found['loss'].requires_grad
    # Several, and what lacks one or the other.
    inputs = dict(batch(3), img_metas=[meta] * 3)
    found = ours.val_step(dict(inputs), None)
    assert len(found['results']) == found['num_samples'] == 3
    assert set(ours.val_step(batch(3), None)) == {
        'loss',
        'log_vars',
        'num_samples',
    }
    inputs = dict(img=inputs['img'], img_metas=inputs['img_metas'])
    assert list(ours.val_step(inputs, None)) == ['results']


def accuracies(output, target, weight):
    """Return ours, with the search on the host and off it, and mmpose's."""
    chosen = weight.squeeze(-1) > 0
    wanted = pose_pck_accuracy(
        output[chosen].unsqueeze(0).numpy(),
        target[chosen].unsqueeze(0).numpy(),
    )[1]
    return float(heatmaps.pck_in_training(output, target, weight)), wanted


@pytest.mark.parametrize('height, width', [(24, 24), (20, 40), (96, 72)])
def test_accuracy_is_that_of_stock(height, width, monkeypatch):
    draws = torch.Generator().manual_seed(height)
    shape = (4, 16, height, width)
    for case in range(12):
        target = torch.rand(shape, generator=draws)
        target[torch.rand(4, 16, generator=draws) < 0.2] = 0
        output = target.roll((case // 4, case % 4), (2, 3))
        output += 0.5 * torch.rand(shape, generator=draws)
        output[torch.rand(4, 16, generator=draws) < 0.2] = -1.0
        weight = (torch.rand(4, 16, 1, generator=draws) < 0.7).float()
        ours, wanted = accuracies(output, target, weight)
        assert ours == wanted
    weight[:] = 0
    assert accuracies(output, target, weight) == (0, 0)


def test_every_difference_counts_as_in_stock():
    height, width = 20, 24
    near = heatmaps._near(height, width, torch.device('cpu'))
    for y in range(height):
        for x in range(width):
            output, target = torch.zeros(2, 1, 1, height, width)
            output[0, 0, y, x] = target[0, 0, 0, 0] = 1
            wanted = pose_pck_accuracy(output.numpy(), target.numpy())[1]
            assert near[y, x].item() == wanted


def test_nothing_of_a_step_is_read(config, monkeypatch):
    """On a device each reading would make the host wait."""
    values = batch()
    read = []
    for name in ('item', 'tolist', '__float__', '__bool__', '__int__', 'cpu'):
        original = getattr(torch.Tensor, name)

        def listening(*args, name=name, original=original):
            read.append(name)
            return original(*args)

        monkeypatch.setattr(torch.Tensor, name, listening)
    config = copy.deepcopy(config)
    config.pop('type')
    model = top_down.TopDown(**config).train()
    read.clear()
    model.train_step(values, None)
    assert not read


@pytest.mark.parametrize('people', [0, 2])
def test_drawing_is_that_of_stock(stock, config, people, tmp_path):
    draws = np.random.RandomState(0)
    skeleton = [[i, i + 1] for i in range(1, 16)]
    result = [
        dict(
            bbox=np.array([20.0, 20.0, 200.0, 180.0, 1.0]),
            keypoints=np.concatenate(
                [
                    draws.uniform(-20, 340, (16, 2)),
                    draws.uniform(0, 1.3, (16, 1)),
                ],
                axis=1,
            ).astype(np.float32),
        )
        for _ in range(people)
    ]
    drawings = [
        model.show_result(
            picture(),
            result,
            skeleton=skeleton,
            pose_kpt_color=np.full((16, 3), 90),
            pose_limb_color=np.full((15, 3), 200),
            out_file=str(tmp_path / 'drawing.png'),
        )
        for model in pair(stock, config)
    ]
    assert np.array_equal(*drawings)
    assert np.array_equal(drawings[0], picture()) == (not people)
    assert (tmp_path / 'drawing.png').exists()


def info(weighted=False):
    return dict(
        image_size=np.array([96, 128]),
        heatmap_size=np.array([24, 32]),
        num_joints=16,
        joint_weights=np.linspace(1, 2, 16, dtype=np.float32)[:, None],
        use_different_joint_weights=weighted,
    )


def people(count):
    """Samples as TopDownAffine leaves them, with joints all around."""
    draws = np.random.RandomState(0)
    for i in range(count):
        joints = np.zeros((16, 3), np.float32)
        joints[:, :2] = draws.uniform(-0.4, 1.4, (16, 2)) * [96, 128]
        joints[0, :2] = 1e6
        visible = draws.choice(np.array([0, 0.3, 1], np.float32), (16, 3))
        crop = draws.randint(0, 256, (128, 96, 3)).astype(np.uint8)
        yield dict(
            img=crop,
            joints_3d=joints,
            joints_3d_visible=visible,
            ann_info=info(weighted=bool(i % 2)),
        )


def collated(*steps, keys, count=12):
    pipeline = Compose([*steps, Collect(keys=keys, meta_keys=[])])
    batch = collate(list(map(pipeline, people(count))), samples_per_gpu=count)
    return unpack(batch, torch.device('cpu'))


@pytest.mark.parametrize('sigma', [1, 1.5, 2, 3])
def test_heatmaps_are_those_of_the_pipeline(sigma):
    """Bit for bit, at the borders too."""
    wanted = collated(
        TopDownGenerateTarget(sigma), keys=['target', 'target_weight']
    )
    found = collated(
        TopDownJointCells(sigma),
        keys=['joint_cells', 'heatmap', 'target_weight'],
    )
    assert torch.equal(found['target_weight'], wanted['target_weight'])
    drawn = heatmaps.render_heatmaps(
        found['joint_cells'], **found['heatmap'][0]
    )
    assert drawn.is_contiguous()
    assert torch.equal(drawn, wanted['target'])
    bits = [found[key].numpy().nbytes for key in ('joint_cells',)]
    assert 100 * sum(bits) < wanted['target'].numpy().nbytes


def test_step_on_bytes_is_that_on_floats(config):
    statistics = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    batches = [
        collated(
            ToTensor(),
            NormalizeTensor(**statistics),
            TopDownGenerateTarget(2),
            keys=['img', 'target', 'target_weight'],
        ),
        collated(
            ToPlanes(),
            TopDownJointCells(2),
            keys=['img', 'joint_cells', 'heatmap', 'target_weight'],
        ),
    ]
    assert batches[1]['img'].dtype == torch.uint8
    config = copy.deepcopy(config)
    config.pop('type')
    results = []
    for batch in batches:
        torch.manual_seed(0)
        model = top_down.TopDown(data_preprocessor=statistics, **config)
        outputs = model.train_step(batch, None)
        outputs['loss'].backward()
        results.append(
            [float(value) for value in outputs['log_vars'].values()]
            + [p.grad for p in model.parameters() if p.grad is not None]
        )
    for floats, ours in zip(*results):
        assert torch.equal(torch.as_tensor(floats), torch.as_tensor(ours))


def test_bytes_need_a_preprocessor(config):
    config = copy.deepcopy(config)
    config.pop('type')
    model = top_down.TopDown(**config)
    with pytest.raises(ValueError, match='give the model a data_preproc'):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), return_loss=False)
    colour = dict(mean=[0.5] * 3, std=[0.2] * 3)
    model = top_down.TopDown(data_preprocessor=colour, **config)
    with pytest.raises(UserError, match=r'shape \(1, 64, 64, 3\).*ToPlanes'):
        model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), return_loss=False)
    for wrong in (
        dict(mean=[0.5]),
        dict(mean=[0.5], std=[0.0]),
        dict(mean=[0.5] * 3, std=[0.2]),
        dict(mean=[0.5], std=[0.2], to_rgb=True),
    ):
        with pytest.raises(ValueError, match='a mean and a std'):
            top_down.TopDown(data_preprocessor=wrong, **config)


def metas(count):
    draws = np.random.RandomState(3)
    return [
        dict(
            image_file=f'{i}.jpg',
            center=draws.uniform(100, 1200, 2),
            scale=draws.uniform(0.5, 5, 2),
            flip_pairs=[[0, 5], [1, 4], [2, 3]],
            bbox_score=0.1 * i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize('post_process', [False, True])
@pytest.mark.parametrize('height, width', [(96, 72), (4, 3), (2, 5)])
def test_decoding_is_that_of_stock(height, width, post_process):
    """Bit for bit, borders and empty heatmaps included."""
    draws = torch.Generator().manual_seed(0)
    maps = torch.rand(40, 16, height, width, generator=draws)
    maps = (maps * 8).round() / 8  # many neighbours are equal
    maps[::7, ::3] = 0
    crops = [
        np.stack([meta[key] for meta in metas(40)])
        for key in ('center', 'scale')
    ]
    found = heatmaps.decode_heatmaps(maps, post_process)
    preds = to_picture(found.numpy(), *crops, [width, height])
    joints, scores = keypoints_from_heatmaps(
        maps.numpy(), *crops, post_process=post_process
    )
    assert preds.tobytes() == np.concatenate([joints, scores], 2).tobytes()


@pytest.mark.parametrize('unbiased', [False, True])
@pytest.mark.parametrize('flip', [False, True])
def test_a_batch_is_predicted_as_its_people(config, flip, unbiased):
    config = copy.deepcopy(config)
    config.pop('type')
    config.test_cfg.update(flip_test=flip, unbiased_decoding=unbiased)
    torch.manual_seed(0)
    # In double precision the batch's size tips no peak over.
    model = top_down.TopDown(**config).double().eval()
    img, people = batch(4)['img'].double(), metas(4)
    options = dict(return_loss=False, return_heatmap=True)
    with torch.no_grad():
        together = model(img, img_metas=people, **options)
        alone = [
            model(img[i : i + 1], img_metas=people[i : i + 1], **options)
            for i in range(4)
        ]
    assert len(together) == 4
    for ours, wanted in zip(together, alone):
        assert np.abs(ours[0] - wanted[0])[..., :2].max() < 1e-4
        assert np.allclose(ours[0][..., 2], wanted[0][..., 2], rtol=1e-5)
        assert np.array_equal(ours[1], wanted[1]) and ours[2] == wanted[2]
        assert np.allclose(ours[3], wanted[3], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('key', ['flip_pairs', 'center', 'image_file'])
def test_what_the_pipeline_does_not_collect_is_named(key, count, config):
    config = copy.deepcopy(config)
    config.pop('type')
    config.test_cfg.flip_test = True
    model = top_down.TopDown(**config).eval()
    people = [dict(person) for person in metas(count)]
    for person in people:
        del person[key]
    with pytest.raises(ValueError, match=f'meta_keys.* lack {key}'):
        model(batch(count)['img'], img_metas=people, return_loss=False)


def test_three_numbers_for_a_joint_leave_the_device(config, monkeypatch):
    moved = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, 'cpu', lambda t: moved.append(tuple(t.shape)) or cpu(t)
    )
    config = copy.deepcopy(config)
    config.pop('type')
    model = top_down.TopDown(**config).eval()
    runs = []
    model.backbone.register_forward_hook(
        lambda module, inputs, output: runs.append(len(inputs[0]))
    )
    with torch.no_grad():
        model(batch(4)['img'], img_metas=metas(4), return_loss=False)
    assert moved == [(4, 16, 3)]
    assert runs == [8]
