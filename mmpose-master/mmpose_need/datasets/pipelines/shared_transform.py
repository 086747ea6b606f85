"""mmpose/datasets/pipelines/shared_transform.py: steps for every data set.

Turn pictures into tensors, normalise them, chain steps, and collect what the
model needs. The arithmetic is that of torchvision's functional ``to_tensor``
and ``normalize``, operation for operation and so bit for bit, without the
package: a torchvision built for another torch cannot be imported, and an NPU
host often has none.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.parallel import DataContainer as DC
from mmcv.utils import build_from_cfg
from PIL import Image

from hourglass_npu.errors import (
    UserError,
    UserKeyError,
    UserTypeError,
)

from ..registry import PIPELINES

# Pillow modes with one number per pixel that is not a byte, and the type that
# torchvision gives them. In mode '1' a set pixel is 255.
_PIL_TYPES = {'I': np.int32, 'I;16': np.int16, 'F': np.float32}


def _picture_to_array(picture):
    """Return the pixels of a Pillow image: np.ndarray[H, W] or [H, W, C]."""
    if picture.mode == '1':
        return np.array(picture, dtype=np.uint8) * np.uint8(255)
    return np.array(picture, dtype=_PIL_TYPES.get(picture.mode, np.uint8))


def _planes(picture):
    """Copy np.ndarray[H, W, C] to a contiguous np.ndarray[C, H, W]."""
    if picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.size:
        planes = np.empty((3,) + picture.shape[:2], np.uint8)
        for channel, plane in enumerate(planes):
            # OpenCV copies several bytes at a time, NumPy one.
            cv2.extractChannel(picture, channel, plane)
        return planes
    # One copy, also for flipped views, whose strides are negative.
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def to_tensor(picture):
    """Turn a picture into a tensor with the channels first.

    Bytes 0..255 become 0..1 in torch's default float type; other types keep
    their values and their type.

    Args:
        picture (np.ndarray | PIL.Image.Image): Pixels, np.ndarray[H, W, C]
            or np.ndarray[H, W].

    Returns:
        Tensor[C, H, W]: C is 1 for a picture without channels.

    Raises:
        UserTypeError: ``picture`` is neither an array nor a Pillow image.
        UserError: The array does not have two or three dimensions.
    """
    if isinstance(picture, Image.Image):
        picture = _picture_to_array(picture)
    elif not isinstance(picture, np.ndarray):
        raise UserTypeError(
            'ToTensor takes a NumPy array or a Pillow image, '
            f'not {type(picture).__name__}'
        )
    if picture.ndim not in (2, 3):
        raise UserError(
            'ToTensor takes a picture of shape (H, W, C) or (H, W), '
            f'not one of shape {picture.shape}'
        )
    if picture.ndim == 2:
        picture = picture[:, :, np.newaxis]
    tensor = torch.from_numpy(_planes(picture))
    if tensor.dtype == torch.uint8:
        # Divide: multiplying by 1/255 gives other last bits.
        return tensor.to(torch.get_default_dtype()).div_(255)
    return tensor


def normalize(tensor, mean, std):
    """Subtract a mean from each channel and divide by a standard deviation.

    Args:
        tensor (Tensor[..., C, H, W]): Picture of floats.
        mean (Sequence[float]): One for each channel, or one for all.
        std (Sequence[float]): Likewise; not zero.

    Returns:
        Tensor[..., C, H, W]: A new tensor of the same type.

    Raises:
        UserTypeError: ``tensor`` is not a tensor of floats.
        UserError: It has fewer than three dimensions or another number of
            channels than ``mean``, or a ``std`` is zero in its type.
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        found = getattr(tensor, 'dtype', type(tensor).__name__)
        raise UserTypeError(
            f'NormalizeTensor takes a float tensor, not {found}; '
            'put ToTensor before it'
        )
    if tensor.dim() < 3:
        raise UserError(
            'NormalizeTensor takes a tensor of shape (..., C, H, W), '
            f'not {tuple(tensor.shape)}'
        )
    mean, std = (
        torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)
        for values in (mean, std)
    )
    if (std == 0).any():
        raise UserError(f'NormalizeTensor cannot divide by std {std}')
    if mean.dim() == 1:
        mean = mean.view(-1, 1, 1)
    if std.dim() == 1:
        std = std.view(-1, 1, 1)
    centred = tensor.sub(mean)
    if centred.shape != tensor.shape:
        raise UserError(
            f'NormalizeTensor has {mean.numel()} means for a tensor of shape '
            f'{tuple(tensor.shape)}'
        )
    return centred.div_(std)


def _bytes_to_normalized(picture, mean, std):
    """Combine :func:`to_tensor` and :func:`normalize`.

    The same operations, plane by plane while a plane is in the processor's
    cache, and without memory for the steps between.

    Args:
        picture (Any): Input of ToTensor.
        mean (Sequence[float]): One for each channel.
        std (Sequence[float]): Likewise.

    Returns:
        Tensor[3, H, W] | None: None unless three channels of bytes become
        single precision.
    """
    if (
        not isinstance(picture, np.ndarray)
        or picture.dtype != np.uint8
        or picture.shape[2:] != (3,)
        or picture.size == 0
        or torch.get_default_dtype() != torch.float32
    ):
        return None
    mean, std = (np.array(values, np.float32) for values in (mean, std))
    if mean.shape != (3,) or std.shape != (3,) or not std.all():
        return None
    planes = np.empty((3,) + picture.shape[:2], np.float32)
    for channel, plane in enumerate(planes):
        np.copyto(plane, cv2.extractChannel(picture, channel))
        plane /= np.float32(255)
        plane -= mean[channel]
        plane /= std[channel]
    return torch.from_numpy(planes)


@PIPELINES.register_module()
class ToTensor:
    """Replace ``results['img']`` by its tensor; see :func:`to_tensor`."""

    def __call__(self, results):
        """Convert one sample.

        Args:
            results (dict): The sample; ``img`` is changed in it.

        Returns:
            dict: ``results``.
        """
        results['img'] = to_tensor(results['img'])
        return results


@PIPELINES.register_module()
class ToPlanes:
    """Put the channels of ``results['img']`` first, and keep its bytes.

    Use it instead of ToTensor and NormalizeTensor, for a model with a
    ``data_preprocessor``: collation and the device get a quarter of the
    bytes, and the device does the arithmetic faster.
    """

    def __call__(self, results):
        """Convert one sample.

        Args:
            results (dict): The sample; ``img``, np.ndarray[H, W, C], becomes
                a Tensor[C, H, W] of the same type.

        Returns:
            dict: ``results``.
        """
        results['img'] = torch.from_numpy(_planes(results['img']))
        return results


@PIPELINES.register_module()
class NormalizeTensor:
    """Normalise ``results['img']`` by channel; see :func:`normalize`.

    Args:
        mean (Sequence[float]): Of the channels of a picture in 0..1.
        std (Sequence[float]): Likewise.
    """

    def __init__(self, mean, std):
        self.mean = mean
        self.std = std

    def __call__(self, results):
        """Normalise one sample.

        Args:
            results (dict): The sample; ``img`` is changed in it.

        Returns:
            dict: ``results``.
        """
        results['img'] = normalize(results['img'], self.mean, self.std)
        return results


@PIPELINES.register_module()
class Compose:
    """A chain of pipeline steps.

    Args:
        transforms (Sequence[dict | callable]): The steps. Each is a
            callable that takes and returns a sample, or the config of one.

    Raises:
        UserTypeError: A step is neither.
    """

    def __init__(self, transforms):
        if not isinstance(transforms, Sequence):
            raise UserTypeError(
                'a pipeline must be a list of steps, '
                f'not a {type(transforms).__name__}'
            )
        self.transforms = [self._step(transform) for transform in transforms]

    @staticmethod
    def _step(transform):
        if isinstance(transform, dict):
            return build_from_cfg(transform, PIPELINES)
        if callable(transform):
            return transform
        raise UserTypeError(
            'a pipeline step must be a config or a callable, '
            f'not {type(transform).__name__}: {transform!r}'
        )

    def __call__(self, data):
        """Send a sample through the chain.

        Args:
            data (dict): The sample.

        Returns:
            dict | None: The result of the last step; None as soon as a step
            returns None.
        """
        done = False
        following = [*self.transforms[1:], None]
        for transform, after in zip(self.transforms, following):
            if done:  # with the step before
                done = False
                continue
            if type(transform) is ToTensor and type(after) is NormalizeTensor:
                img = _bytes_to_normalized(data['img'], after.mean, after.std)
                if img is not None:
                    data['img'], done = img, True
                    continue
            data = transform(data)
            if data is None:
                return None
        return data

    def __repr__(self):
        steps = ''.join(f'\n    {transform}' for transform in self.transforms)
        return f'{type(self).__name__}({steps}\n)'


@PIPELINES.register_module()
class Collect:
    """Keep what the model needs of a sample; usually the last step.

    Args:
        keys (Sequence[str]): Items to keep as they are.
        meta_keys (Sequence[str]): Items to put into one dict, which
            collation keeps on the host; no dict if this is empty.
        meta_name (str): Key of that dict.
    """

    def __init__(self, keys, meta_keys, meta_name='img_metas'):
        self.keys = keys
        self.meta_keys = meta_keys
        self.meta_name = meta_name

    def __call__(self, results):
        """Collect one sample.

        Args:
            results (dict): The sample. The items of its ``ann_info`` are
                added to it.

        Returns:
            dict: The items of ``keys``, and the DataContainer ``meta_name``.

        Raises:
            UserKeyError: A key is in neither the sample nor its
                ``ann_info``.
            UserError: An item of ``keys`` is text, which makes no batch.
        """
        results.update(results.get('ann_info', {}))
        for key in (*self.keys, *self.meta_keys):
            if key not in results:
                raise UserKeyError(
                    f'Collect: the sample has no {key!r}; it has '
                    f'{", ".join(map(str, results))}'
                )
        data = {key: results[key] for key in self.keys}
        for key, value in data.items():
            if isinstance(value, str):
                raise UserError(
                    f'Collect: {key!r} is text, of which no batch can be '
                    'made: move it from keys to meta_keys'
                )
        if self.meta_keys:
            meta = {key: results[key] for key in self.meta_keys}
            data[self.meta_name] = DC(meta, cpu_only=True)
        return data

    def __repr__(self):
        return (
            f'{type(self).__name__}(keys={self.keys}, '
            f'meta_keys={self.meta_keys})'
        )
