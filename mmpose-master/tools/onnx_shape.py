#!/usr/bin/env python3
"""Print the input shape of an exported file: ``hourglass shape``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('shape', __name__)
