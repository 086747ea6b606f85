#!/usr/bin/env python3
"""Train a pose model: ``hourglass train``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('train', __name__)
