"""Mixed precision O2: the ``amp`` section of a config, checked.

Also what the settings depend on: the device's own low precision, and whether
a usable Apex is installed.
"""

import importlib.util
import inspect
import os

import torch

from hourglass_npu.errors import UserError


class AmpOverflow(UserError):
    """Gradients overflowed in too many iterations in a row."""


class AmpOptions:
    """The checked ``amp`` section of a config.

    Args:
        opt_level (str): ``O0`` trains in fp32. ``O2`` is Apex's: model in low
            precision, batch norm and the optimizer's weights in fp32.
        loss_scale (float | str): A static scale, or ``'dynamic'``.
        backend (str): ``apex``, ``native`` or ``auto``; ``auto`` takes Apex
            on an accelerator where a usable one is installed and the dtype
            is its float16.
        dtype (str | torch.dtype | None): ``float16`` or ``bfloat16``; None
            takes the device's own (see :func:`default_dtype`).
        loss_in_half (bool): Let a loss inside the model's ``forward`` run in
            low precision, as in Apex. By default it gets fp32 outputs and
            targets.
        max_consecutive_overflows (int): Training stops with an error when
            that many steps in a row were skipped; 0 never stops it.
        min_loss_scale (float | None): Floor of a dynamic scale.
        max_loss_scale (float): Ceiling of a dynamic scale.
        enabled (bool | None): None is on for accelerators and off on a CPU.
        **unknown: Refused by name.

    Raises:
        UserError: A setting has no such value, or there is no such setting.
    """

    DTYPES = dict(
        float16=torch.float16,
        fp16=torch.float16,
        half=torch.float16,
        bfloat16=torch.bfloat16,
        bf16=torch.bfloat16,
    )

    def __init__(
        self,
        opt_level='O2',
        loss_scale=2.0**15,
        backend='auto',
        dtype=None,
        loss_in_half=False,
        max_consecutive_overflows=20,
        min_loss_scale=None,
        max_loss_scale=2.0**24,
        enabled=None,
        **unknown,
    ):
        if unknown:
            known = [
                name
                for name in inspect.signature(AmpOptions).parameters
                if name != 'unknown'
            ]
            raise UserError(
                f'amp has no setting {", ".join(sorted(unknown))}; its '
                f'settings are {", ".join(known)}'
            )
        self.opt_level = self._one_of('opt_level', opt_level, ('O0', 'O2'))
        self.backend = self._one_of(
            'backend', backend, ('auto', 'apex', 'native')
        )
        self.loss_in_half = self._one_of(
            'loss_in_half', loss_in_half, (False, True)
        )
        self.enabled = self._one_of('enabled', enabled, (None, False, True))
        self.loss_scale = loss_scale
        if loss_scale != 'dynamic':
            self.loss_scale = self._positive(
                'loss_scale', loss_scale, "a positive number or 'dynamic'"
            )
        self.min_loss_scale = min_loss_scale
        if min_loss_scale is not None:
            self.min_loss_scale = self._positive(
                'min_loss_scale', min_loss_scale
            )
        self.max_loss_scale = self._positive('max_loss_scale', max_loss_scale)
        if (self.min_loss_scale or 0) > self.max_loss_scale:
            raise UserError(
                f'amp.min_loss_scale={min_loss_scale!r} is above '
                f'amp.max_loss_scale={max_loss_scale!r}'
            )
        limit = max_consecutive_overflows
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise UserError(
                f'amp.max_consecutive_overflows={limit!r} must be a whole '
                'number, at least 0; 0 sets no limit'
            )
        self.max_consecutive_overflows = limit
        self.dtype = self._dtype(dtype)

    @staticmethod
    def _one_of(name, value, allowed):
        # With the type: 0 equals False and is not meant.
        if any(type(value) is type(a) and value == a for a in allowed):
            return value
        raise UserError(
            f'amp.{name}={value!r} must be one of '
            f'{", ".join(map(repr, allowed))}'
        )

    @staticmethod
    def _positive(name, value, wanted='a positive number'):
        number = isinstance(value, (int, float)) and not isinstance(
            value, bool
        )
        if not number or not 0 < value < float('inf'):
            raise UserError(f'amp.{name}={value!r} must be {wanted}')
        return float(value)

    @classmethod
    def _dtype(cls, value):
        if value is None or value in cls.DTYPES.values():
            return value
        name = str(value)
        if name not in cls.DTYPES:
            raise UserError(
                f"amp.dtype={value!r} must be 'float16' or 'bfloat16', or "
                'None for that of the device'
            )
        return cls.DTYPES[name]

    def trains_low(self, device):
        """Tell whether a model on a device is trained in low precision.

        Args:
            device (torch.device): Where the model is.
        """
        if self.opt_level == 'O0' or self.enabled is False:
            return False
        return bool(self.enabled) or device.type != 'cpu'

    def describe_scale(self):
        """Put the loss scale in words."""
        if self.loss_scale == 'dynamic':
            return 'dynamic'
        return f'{self.loss_scale:g} (static)'


def default_dtype(device):
    """Return the low precision of a kind of device.

    Args:
        device (torch.device): Where the model is.

    Returns:
        torch.dtype: bfloat16 on a CPU, which has units for it and none for
        float16; float16, the one of Apex, elsewhere.
    """
    return torch.bfloat16 if device.type == 'cpu' else torch.float16


def find_apex():
    """Look for an Apex that has ``apex.amp``, without importing any.

    Returns:
        tuple[bool, str]: Whether there is one, and if not, why in words.
    """
    try:
        spec = importlib.util.find_spec('apex')
    except (ImportError, ValueError):
        spec = None
    folders = list(getattr(spec, 'submodule_search_locations', None) or [])

    def has(name):
        return any(
            os.path.isfile(os.path.join(folder, name, '__init__.py'))
            for folder in folders
        )

    if spec is None:
        return False, 'no apex is installed'
    if has('amp'):
        return True, ''
    if has('multi_tensor_apply'):
        return False, (
            'the installed apex is one of NVIDIA after 25.05, which has no '
            'apex.amp'
        )
    return False, (
        "the installed apex is not NVIDIA's: PyPI's package of that name "
        'is a web toolkit of 2013'
    )
