"""Pipeline steps that every kind of dataset shares.

Pictures become tensors, tensors are normalised, steps are chained, and what
the model needs is collected. The arithmetic is torchvision's (``to_tensor``
and ``normalize`` of its functional interface), operation for operation and
so bit for bit, without the package: a torchvision that was built for another
torch cannot be imported at all, and on an NPU host there often is none.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.parallel import DataContainer as DC
from mmcv.utils import build_from_cfg
from PIL import Image

from ..registry import PIPELINES

# Pillow modes of one number per pixel that is not a byte, with the type that
# torchvision reads them as. In mode '1' a set pixel is 255.
_PIL_TYPES = {'I': np.int32, 'I;16': np.int16, 'F': np.float32}


def _picture_to_array(picture):
    """Return a Pillow image's pixels as an array of (H, W) or (H, W, C)."""
    if picture.mode == '1':
        return np.array(picture, dtype=np.uint8) * np.uint8(255)
    return np.array(picture, dtype=_PIL_TYPES.get(picture.mode, np.uint8))


def _planes(picture):
    """Copy pixels of (H, W, C) to contiguous (C, H, W)."""
    if picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.size:
        planes = np.empty((3,) + picture.shape[:2], np.uint8)
        for channel, plane in enumerate(planes):
            # Several bytes at a time, which numpy's transposition is not.
            cv2.extractChannel(picture, channel, plane)
        return planes
    # In one copy, and for flipped views too, whose strides are negative.
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def to_tensor(picture):
    """Turn a picture into a tensor with the channels first.

    Bytes 0..255 become 0..1 in torch's default float type; every other type
    keeps its values and its type.

    Args:
        picture (np.ndarray | PIL.Image.Image): Pixels of shape (H, W, C) or
            (H, W).

    Returns:
        Tensor: Shape (C, H, W); C is 1 for a picture without channels.

    Raises:
        TypeError: ``picture`` is neither an array nor a Pillow image.
        ValueError: The array has not two or three dimensions.
    """
    if isinstance(picture, Image.Image):
        picture = _picture_to_array(picture)
    elif not isinstance(picture, np.ndarray):
        raise TypeError(
            'ToTensor takes a numpy array or a Pillow image, '
            f'not {type(picture).__name__}'
        )
    if picture.ndim not in (2, 3):
        raise ValueError(
            'ToTensor takes a picture of shape (H, W, C) or (H, W), '
            f'not one of shape {picture.shape}'
        )
    if picture.ndim == 2:
        picture = picture[:, :, np.newaxis]
    tensor = torch.from_numpy(_planes(picture))
    if tensor.dtype == torch.uint8:
        # A true division: multiplying by 1/255 gives other last bits.
        return tensor.to(torch.get_default_dtype()).div_(255)
    return tensor


def normalize(tensor, mean, std):
    """Subtract a mean from each channel and divide by a standard deviation.

    Args:
        tensor (Tensor): Float picture of shape (..., C, H, W).
        mean (Sequence[float]): One for each channel, or one for all.
        std (Sequence[float]): Likewise; not zero.

    Returns:
        Tensor: A new tensor of the same shape and type.

    Raises:
        TypeError: ``tensor`` is not a tensor of floats.
        ValueError: It has fewer than three dimensions or another number of
            channels than ``mean``, or a ``std`` is zero in its type.
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        found = getattr(tensor, 'dtype', type(tensor).__name__)
        raise TypeError(
            f'NormalizeTensor takes a float tensor, not {found}; '
            'put ToTensor before it'
        )
    if tensor.dim() < 3:
        raise ValueError(
            'NormalizeTensor takes a tensor of shape (..., C, H, W), '
            f'not {tuple(tensor.shape)}'
        )
    mean, std = (
        torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)
        for values in (mean, std)
    )
    if (std == 0).any():
        raise ValueError(f'NormalizeTensor cannot divide by std {std}')
    if mean.dim() == 1:
        mean = mean.view(-1, 1, 1)
    if std.dim() == 1:
        std = std.view(-1, 1, 1)
    centred = tensor.sub(mean)
    if centred.shape != tensor.shape:
        raise ValueError(
            f'NormalizeTensor has {mean.numel()} means for a tensor of shape '
            f'{tuple(tensor.shape)}'
        )
    return centred.div_(std)


def _bytes_to_normalized(picture, mean, std):
    """Do what :func:`to_tensor` and :func:`normalize` do, in one go.

    The same operations, plane by plane while it is in the cache, and without
    memory for what is in between.

    Args:
        picture (Any): What ToTensor would get.
        mean (Sequence[float]): One for each channel.
        std (Sequence[float]): Likewise.

    Returns:
        Tensor | None: Shape (3, H, W); None if this is no matter of bytes in
        three channels to single precision.
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

    In place of ToTensor and NormalizeTensor, for a model with a
    ``data_preprocessor``: a quarter of the bytes goes through collation and
    to the device, which has the arithmetic done in no time.
    """

    def __call__(self, results):
        """Convert one sample.

        Args:
            results (dict): The sample; ``img``, (H, W, C), becomes a tensor
                of the same type, (C, H, W).

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
        transforms (Sequence[dict | callable]): The steps, each a callable
            from sample to sample or the config of one.

    Raises:
        TypeError: A step is neither.
    """

    def __init__(self, transforms):
        if not isinstance(transforms, Sequence):
            raise TypeError(
                'a pipeline is a list of steps, '
                f'not a {type(transforms).__name__}'
            )
        self.transforms = [self._step(transform) for transform in transforms]

    @staticmethod
    def _step(transform):
        if isinstance(transform, dict):
            return build_from_cfg(transform, PIPELINES)
        if callable(transform):
            return transform
        raise TypeError(
            'a pipeline step is a config or a callable, '
            f'not {type(transform).__name__}: {transform!r}'
        )

    def __call__(self, data):
        """Send a sample through the chain.

        Args:
            data (dict): The sample.

        Returns:
            dict | None: The sample as the last step leaves it; None as soon
            as a step rejects it by returning None.
        """
        done = False
        following = [*self.transforms[1:], None]
        for transform, after in zip(self.transforms, following):
            if done:  # together with the step before
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
        keys (Sequence[str]): Taken over as they are.
        meta_keys (Sequence[str]): Gathered into one dict, which collation
            keeps on the host; none is made if this is empty.
        meta_name (str): Key of that dict.
    """

    def __init__(self, keys, meta_keys, meta_name='img_metas'):
        self.keys = keys
        self.meta_keys = meta_keys
        self.meta_name = meta_name

    def __call__(self, results):
        """Collect one sample.

        Args:
            results (dict): The sample. The items of its ``ann_info`` count as
                its own, and are written into it.

        Returns:
            dict: The items of ``keys``, and the DataContainer ``meta_name``.

        Raises:
            KeyError: A key is in neither the sample nor its ``ann_info``.
        """
        results.update(results.get('ann_info', {}))
        data = {key: results[key] for key in self.keys}
        if self.meta_keys:
            meta = {key: results[key] for key in self.meta_keys}
            data[self.meta_name] = DC(meta, cpu_only=True)
        return data

    def __repr__(self):
        return (
            f'{type(self).__name__}(keys={self.keys}, '
            f'meta_keys={self.meta_keys})'
        )
