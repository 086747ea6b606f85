#!/usr/bin/env python3
"""Find the joints of people and draw them: ``hourglass demo``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, 'mmpose-master/hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('demo', __name__)
