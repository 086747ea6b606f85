"""The pipeline steps that every kind of dataset shares.

torchvision's rule is derived again here from what its documentation says of
``to_tensor`` and ``normalize``, with numpy alone.
"""

import sys

import numpy as np
import pytest
import torch
from mmcv.parallel import DataContainer
from mmpose.datasets.pipelines import (
    Collect,
    Compose,
    NormalizeTensor,
    ToTensor,
)
from mmpose.datasets.pipelines.shared_transform import to_tensor
from mmpose.datasets.registry import PIPELINES
from PIL import Image

from hourglass_npu.errors import UserError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(shape, dtype=np.uint8):
    values = np.random.RandomState(0).uniform(0, 255, shape)
    return values.astype(dtype)


def expected_tensor(pixels):
    """Bytes are divided by 255 in single precision, the rest stays."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    planes = np.moveaxis(pixels, 2, 0)
    if planes.dtype == np.uint8:
        planes = planes.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(planes)


def convert(picture):
    return ToTensor()(dict(img=picture))['img']


def assert_same_bits(tensor, array):
    found = tensor.numpy()
    assert tensor.is_contiguous()
    assert found.dtype == array.dtype and found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    'dtype',
    [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64, bool],
)
@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 1), (5, 7, 3), (0, 7, 3)])
def test_arrays(shape, dtype):
    pixels = noise(shape, dtype)
    wanted = expected_tensor(pixels)
    assert_same_bits(convert(pixels), wanted)
    assert_same_bits(convert(np.asfortranarray(pixels)), wanted)


def test_every_byte_value():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert_same_bits(convert(pixels), expected_tensor(pixels))
    # The tempting shortcut differs, so this test can fail.
    shortcut = pixels.astype(np.float32) * np.float32(1 / 255)
    assert (shortcut != expected_tensor(pixels)[0]).any()


def test_a_mirrored_view():
    pixels = noise((5, 7, 3))
    mirrored = pixels[:, ::-1]
    assert_same_bits(convert(mirrored), expected_tensor(mirrored.copy()))


def test_the_default_float_type_counts():
    torch.set_default_dtype(torch.float64)
    try:
        tensor = convert(noise((4, 5, 3)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert tensor.dtype == torch.float64
    assert (tensor.numpy() == noise((4, 5, 3)).transpose(2, 0, 1) / 255).all()


@pytest.mark.parametrize(
    'mode, dtype',
    [
        ('RGB', np.uint8),
        ('RGBA', np.uint8),
        ('L', np.uint8),
        ('P', np.uint8),
        ('YCbCr', np.uint8),
        ('I', np.int32),
        ('F', np.float32),
    ],
)
def test_pillow_images(mode, dtype):
    picture = Image.fromarray(noise((6, 9, 3))).convert(mode)
    pixels = np.array(picture)
    assert pixels.dtype == dtype
    assert_same_bits(convert(picture), expected_tensor(pixels))


def test_pillow_bitmaps_are_0_and_1():
    bits = noise((6, 9)) > 127
    picture = Image.fromarray(bits)
    assert picture.mode == '1'
    assert_same_bits(convert(picture), bits[None].astype(np.float32))


def test_pillow_16_bit():
    pixels = noise((6, 9), np.uint16) * np.uint16(100)
    picture = Image.fromarray(pixels)
    assert picture.mode.startswith('I;16')
    assert_same_bits(convert(picture), pixels.astype(np.int16)[None])


@pytest.mark.parametrize(
    'picture, error, words',
    [
        ([[1]], TypeError, 'list'),
        (torch.zeros(3, 4, 5), TypeError, 'Tensor'),
        (np.zeros(4, np.uint8), ValueError, r'\(4,\)'),
        (np.zeros((1, 2, 3, 4)), ValueError, r'\(1, 2, 3, 4\)'),
    ],
)
def test_to_tensor_refuses(picture, error, words):
    with pytest.raises(error, match=words):
        convert(picture)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('shape', [(3, 8, 9), (2, 3, 8, 9)])
@pytest.mark.parametrize(
    'mean, std', [(MEAN, STD), ([0.5], [0.25]), (np.array(MEAN), tuple(STD))]
)
def test_normalize(shape, dtype, mean, std):
    values = noise(shape, dtype) / dtype(255)
    means, stds = (np.array(v, dtype)[:, None, None] for v in (mean, std))
    wanted = (values - means) / stds
    before = torch.from_numpy(values.copy())
    step = NormalizeTensor(mean, std)
    found = step(dict(img=before))['img']
    assert_same_bits(found, wanted)
    assert (before.numpy() == values).all()  # not in place


@pytest.mark.parametrize(
    'tensor, std, error, words',
    [
        (torch.zeros(3, 4, 4).byte(), STD, TypeError, 'uint8'),
        (np.zeros((3, 4, 4)), STD, TypeError, 'float64'),
        (torch.zeros(4, 4), STD, ValueError, r'\(4, 4\)'),
        (torch.zeros(1, 4, 4), STD, ValueError, '3 means'),
        (torch.zeros(3, 4, 4), [1, 0, 1], ValueError, 'std'),
        (torch.zeros(3, 4, 4), [1, 1e-60, 1], ValueError, 'std'),
    ],
)
def test_normalize_refuses(tensor, std, error, words):
    with pytest.raises(error, match=words):
        NormalizeTensor(MEAN, std)(dict(img=tensor))


def test_compose_builds_chains_and_stops():
    calls = []

    def step(name, answer):
        def run(data):
            calls.append((name, data))
            return answer

        return run

    chain = Compose([step('a', 1), step('b', None), step('c', 3)])
    assert chain(0) is None
    assert calls == [('a', 0), ('b', 1)]

    chain = Compose([dict(type='ToTensor')])
    assert isinstance(chain.transforms[0], ToTensor)
    assert chain(dict(img=noise((4, 5, 3))))['img'].shape == (3, 4, 5)
    assert repr(Compose([str.upper])) == (f'Compose(\n    {str.upper!r}\n)')


# Every byte in every channel.
BYTES = np.arange(768).reshape(16, 16, 3).astype(np.uint8)


@pytest.mark.parametrize(
    'pixels, mean, std',
    [
        (BYTES, MEAN, STD),
        (BYTES[:, ::-1], np.array(MEAN), tuple(STD)),
        (BYTES, [0, 1e-42, 1], [-1, 1e-3, 1e38]),
        (BYTES, [0.5], [0.25]),
        (BYTES[..., :1], [0.5], [0.25]),
        (BYTES.astype(np.float32)[..., :1], [0.5], [0.25]),
        (BYTES / 7, MEAN, STD),
        (Image.fromarray(BYTES), MEAN, STD),
    ],
)
def test_steps_that_are_done_in_one_go(pixels, mean, std):
    """A chain gives the bits that its steps give one by one."""
    before = np.array(pixels)
    steps = [ToTensor(), NormalizeTensor(mean, std)]
    wanted = steps[1](steps[0](dict(img=pixels)))['img'].numpy()
    seen = []
    spy = [steps[0], lambda data: seen.append(data['img']) or data, steps[1]]
    for chain in (steps, [*steps, dict], spy):
        assert_same_bits(Compose(chain)(dict(img=pixels))['img'], wanted)
    assert torch.equal(seen[0], to_tensor(pixels))
    assert np.array_equal(np.array(pixels), before)


def test_the_default_float_type_counts_in_a_chain():
    torch.set_default_dtype(torch.float64)
    try:
        chain = Compose([ToTensor(), NormalizeTensor(MEAN, STD)])
        found = chain(dict(img=BYTES))['img'].numpy()
    finally:
        torch.set_default_dtype(torch.float32)
    wanted = (BYTES / 255 - MEAN) / STD
    assert np.array_equal(found, wanted.transpose(2, 0, 1))


def test_a_chain_refuses_as_its_steps_do():
    chain = Compose([ToTensor(), NormalizeTensor(MEAN, [1, 0, 1])])
    with pytest.raises(ValueError, match='std'):
        chain(dict(img=BYTES))


@pytest.mark.parametrize('steps', [[1], ['ToTensor'], 7, None])
def test_compose_refuses(steps):
    with pytest.raises(TypeError):
        Compose(steps)


def test_collect():
    sample = dict(img=1, center=2, ann_info=dict(scale=3), other=4)
    data = Collect(['img', 'scale'], ['center'])(sample)
    assert data['img'] == 1 and data['scale'] == 3
    assert isinstance(data['img_metas'], DataContainer)
    assert data['img_metas'].data == dict(center=2)
    assert data['img_metas'].cpu_only
    assert set(data) == {'img', 'scale', 'img_metas'}
    assert sample['scale'] == 3

    assert set(Collect(['img'], [])(sample)) == {'img'}
    assert set(Collect(['img'], ['center'], 'meta')(sample)) == {'img', 'meta'}
    with pytest.raises(KeyError, match='absent'):
        Collect(['absent'], [])(sample)
    with pytest.raises(UserError, match="'name' is text.*to meta_keys"):
        Collect(['name'], [])(dict(name='a.jpg'))
    assert repr(Collect(['img'], ['center'])) == (
        "Collect(keys=['img'], meta_keys=['center'])"
    )


def test_registry_and_original_agree(stock):
    theirs = stock('mmpose', 'datasets/pipelines/shared_transform.py')
    for cls in (ToTensor, NormalizeTensor, Compose, Collect):
        assert PIPELINES.get(cls.__name__) is cls
        assert hasattr(theirs, cls.__name__)
    sample = dict(a=1, b=2, ann_info=dict(c=3))
    ours = Collect(['a', 'c'], ['b'])(dict(sample))
    original = theirs.Collect(['a', 'c'], ['b'])(dict(sample))
    assert ours.keys() == original.keys()
    assert ours['img_metas'].data == original['img_metas'].data
    steps = [len, repr]
    assert repr(theirs.Compose(steps)) == repr(Compose(steps))


def test_no_torchvision_is_imported(run):
    code = (
        'import sys; sys.modules["torchvision"] = None; '
        'import mmpose.datasets.pipelines'
    )
    result = run([sys.executable, '-W', 'ignore', '-c', code])
    assert result.returncode == 0, result.stderr
