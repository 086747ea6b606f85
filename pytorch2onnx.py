#!/usr/bin/env python3
"""Write a checkpoint as a verified ONNX file: ``hourglass export``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, 'mmpose-master/hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('export', __name__)
