#!/usr/bin/env python3
"""Draw a small data set: ``hourglass sample``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('sample', __name__)
