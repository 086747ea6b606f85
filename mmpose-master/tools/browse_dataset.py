#!/usr/bin/env python3
"""Draw a sheet of training samples: ``hourglass browse``."""

import os
import runpy

HERE = os.path.dirname(os.path.realpath(__file__))
BOOTSTRAP = os.path.join(HERE, '../hourglass_npu/bootstrap.py')
runpy.run_path(BOOTSTRAP)['enter']('browse', __name__)
