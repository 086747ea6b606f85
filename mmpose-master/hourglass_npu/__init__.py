"""Hourglass on Ascend NPUs, CUDA and CPU: what this bundle adds to mmpose.

Importing the package takes the standard library only. ``hourglass --help``
lists the commands; ``Pose`` is the demo for programs; docs/ARCHITECTURE.md
has the map.
"""

__version__ = '1.0.0'


def __getattr__(name):
    """Import ``Pose`` when it is asked for: it takes NumPy, torch, ..."""
    if name == 'Pose':
        import os

        # See cli.py: the device seam imports torch_npu where it is needed.
        os.environ.setdefault('TORCH_DEVICE_BACKEND_AUTOLOAD', '0')
        from hourglass_npu.interface import Pose

        return Pose
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
