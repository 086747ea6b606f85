"""Overflow, as ``torch.npu.utils`` has it."""

import os

from .. import _C, sim


def is_support_inf_nan():
    """Whether overflow shows as inf and NaN (it does not on the first 910)."""
    return os.environ.get('NPU_SIM_SATURATE') != '1'


def _check():
    if is_support_inf_nan():
        raise RuntimeError('this chip shows inf and NaN: it has no such flag')


def get_npu_overflow_flag():
    """Whether anything overflowed since the flag was cleared; the host waits.

    Raises:
        RuntimeError: The chip does not saturate.
    """
    _check()
    sim.note_host_sync('overflow flag')
    return _C.overflowed()


def clear_npu_overflow_flag():
    """Forgets earlier overflows.

    Raises:
        RuntimeError: The chip does not saturate.
    """
    _check()
    _C.clear_overflow()
