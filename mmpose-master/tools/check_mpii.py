#!/usr/bin/env python3
"""Check a data set: ``hourglass check``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('check', __name__)
