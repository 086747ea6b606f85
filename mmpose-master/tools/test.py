#!/usr/bin/env python3
"""Evaluate a pose model: ``hourglass eval``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('eval', __name__)
