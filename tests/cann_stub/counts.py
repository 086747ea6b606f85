"""What the stand-in has counted in this process; docs/CANN_STUB.md."""

import ctypes
import json

_library = ctypes.CDLL('libascendcl.so')
_library.cann_stub_report.restype = ctypes.c_char_p
_library.aclGetRecentErrMsg.restype = ctypes.c_char_p


def report():
    """Return the report of this process so far (dict)."""
    return json.loads(_library.cann_stub_report().decode())


def waits():
    """Return how often the host has waited, by kind and line (dict)."""
    return report()['host_syncs']


def visible_devices():
    """Return how many devices there are, and what is said about it."""
    count = ctypes.c_uint32()
    _library.aclrtGetDeviceCount(ctypes.byref(count))
    return count.value, _library.aclGetRecentErrMsg().decode()
