"""What each one-line edit is for, on the installed and changed packages."""

import builtins
import re
import sys
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv import Config, ConfigDict
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import GeneralizedAttention
from mmcv.runner import IterBasedRunner
from mmcv.utils import get_logger

import patch_engine

OLD_NAMES = re.compile(r'\bnp\.(int|float|bool|object|str|long)\b')


@pytest.mark.parametrize('package', ['mmcv', 'mmpose'])
def test_no_module_uses_a_name_that_numpy_took_away(package):
    root = patch_engine.locate(package)
    modules = {
        path: path.read_text(encoding='utf-8')
        for path in root.rglob('*.py')
        if patch_engine.STORE not in path.parts
    }
    assert len(modules) > 50
    assert not [p for p, text in modules.items() if OLD_NAMES.search(text)]


def test_generalized_attention_is_built():
    layer = GeneralizedAttention(256, spatial_range=1)
    assert layer.local_constraint_map.shape == (84, 84, 42, 42)


def test_a_config_is_printed_with_any_yapf(monkeypatch):
    module = sys.modules['mmcv.utils.config']

    def newer(text, style_config='pep8'):
        return text, True

    monkeypatch.setattr(module, 'FormatCode', newer)
    text = Config(dict(a=1, b='x')).pretty_text
    assert text.split() == ['a=1', "b='x'"]


def test_json_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / 'c.json'
    for encoding in ('utf-8', 'utf-8-sig'):
        path.write_text('{"a": [1, "ä"]}', encoding=encoding)
        assert mmcv.load(str(path)) == dict(a=[1, 'ä'])
        assert Config.fromfile(str(path)).a == [1, 'ä']


def bottom_up(module):
    """Transform a picture as mmpose's bottom-up configs do."""
    np.random.seed(3)
    random = np.random.RandomState(0)
    info = dict(
        image_size=np.array(64),
        heatmap_size=np.array([16, 32]),
        scale_aware_sigma=False,
    )
    results = dict(
        ann_info=info,
        img=random.randint(0, 255, (50, 70, 3)).astype(np.uint8),
        mask=[np.ones((50, 70), bool)] * 2,
        joints=[random.rand(2, 17, 3) * 50 for _ in range(2)],
    )
    return module.BottomUpRandomAffine(30, (0.75, 1.5), 'short', 8)(results)


def test_bottom_up_pictures_may_have_their_size_from_numpy(stock):
    path = 'datasets/pipelines/bottom_up_transform.py'
    ours = bottom_up(sys.modules['mmpose.datasets.pipelines'])
    assert ours['img'].shape == (64, 64, 3)

    theirs = stock('mmpose', path)
    with pytest.raises(cv2.error, match='dsize'):
        bottom_up(theirs)
    # With numbers as OpenCV wants them it gives the same.
    warp = cv2.warpAffine
    calls = SimpleNamespace(
        **{
            **vars(cv2),
            'warpAffine': lambda a, m, size: warp(a, m, tuple(map(int, size))),
        }
    )
    theirs.cv2, kept = calls, theirs.cv2
    try:
        expected = bottom_up(theirs)
    finally:
        theirs.cv2 = kept
    for key in ('img', 'mask', 'joints'):
        for one, other in zip(ours[key], expected[key]):
            assert np.array_equal(one, other)


def test_a_sync_bn_layer_is_built():
    name, layer = build_norm_layer(dict(type='SyncBN'), 4)
    assert name == 'bn' and isinstance(layer, torch.nn.SyncBatchNorm)
    layer._specify_ddp_gpu_num(1)


def test_counting_iterations_resumes_without_cuda(tmp_path):
    def runner():
        model = torch.nn.Linear(1, 1)
        model.train_step = model.val_step = None
        return IterBasedRunner(
            model,
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            logger=get_logger('resume'),
            max_iters=5,
        )

    first, second = runner(), runner()
    first._iter = 3
    first.save_checkpoint(str(tmp_path), meta=dict(epoch=1))
    second.resume(str(tmp_path / 'latest.pth'))
    assert second.iter == 4
    assert torch.equal(second.model.weight, first.model.weight)


def test_copy_streams_are_made_once_for_each_device():
    from mmcv.parallel import _functions

    assert _functions._get_stream.__wrapped__ is torch.cuda.Stream
    assert _functions._get_stream.cache_info().maxsize is None


def test_a_broken_torchvision_does_not_stop_collect_env(run, tmp_path):
    (tmp_path / 'torchvision.py').write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    code = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r}); '
        'from mmcv.utils import collect_env; print(collect_env().keys())'
    )
    result = run([sys.executable, '-W', 'ignore', '-c', code])
    assert result.returncode == 0, result.stderr
    assert "'OpenCV'" in result.stdout
    assert "'TorchVision'" not in result.stdout


def refuse_import(monkeypatch, refused):
    """Play a machine on which ``refused`` is not installed."""
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split('.')[0] == refused:
            raise ImportError(f'No module named {refused!r}', name=refused)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', importing)


def test_poseval_is_imported_when_used(monkeypatch):
    from mmpose.datasets.datasets.top_down import topdown_posetrack18_dataset

    refuse_import(monkeypatch, 'poseval')
    cls = topdown_posetrack18_dataset.TopDownPoseTrack18Dataset
    with pytest.raises(ImportError, match='poseval'):
        cls._do_python_keypoint_eval(None, 'truth', 'predicted')


def test_smplx_is_imported_when_used(monkeypatch):
    from mmpose.models.detectors import mesh

    monkeypatch.setattr(
        mesh.builder, 'build_backbone', lambda cfg: torch.nn.Identity()
    )
    monkeypatch.setattr(
        mesh.builder, 'build_head', lambda cfg: torch.nn.Identity()
    )
    refuse_import(monkeypatch, 'smplx')
    with pytest.raises(ImportError, match='smplx'):
        mesh.ParametricMesh({}, {}, {})


class PoseModel:
    """A pose model on an NPU, as far as inference looks at it."""

    cfg = ConfigDict(
        data_cfg=dict(image_size=np.array([64, 64]), num_joints=16),
        test_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ToTensor'),
            dict(type='Collect', keys=['img'], meta_keys=['image_file']),
        ],
    )

    def parameters(self):
        yield SimpleNamespace(is_cuda=False, device='npu:0')

    def __call__(self, img, **kwargs):
        self.seen = img
        return [np.zeros((1, 17, 3))], None, None, None


@pytest.mark.parametrize('kind', ['top-down', 'bottom-up'])
def test_inference_moves_the_picture_to_the_model(kind, monkeypatch):
    from mmpose.apis import inference

    moved = []
    real = torch.Tensor.to

    def to(tensor, target, *args, **kwargs):
        if target == 'npu:0':
            moved.append(tensor)
            return tensor
        return real(tensor, target, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'to', to)
    model, picture = PoseModel(), np.zeros((64, 64, 3), np.uint8)
    if kind == 'top-down':
        box = np.array([1, 1, 60, 60])
        inference._inference_single_pose_model(
            model, picture, box, dataset='TopDownMpiiDataset'
        )
    else:
        inference.inference_bottom_up_pose_model(model, picture)
    assert moved and moved[-1] is model.seen


def test_mmpose_takes_this_mmcv():
    import mmpose

    assert (mmcv.__version__, mmpose.__version__) == ('1.2.7', '0.8.0')
