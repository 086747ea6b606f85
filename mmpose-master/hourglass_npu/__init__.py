"""Hourglass on Ascend NPUs, CUDA and CPU: what this bundle adds to mmpose.

Importing the package takes the standard library only. ``hourglass --help``
lists the commands; docs/ARCHITECTURE.md has the map.
"""

__version__ = '1.0.0'
