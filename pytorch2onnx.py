#!/usr/bin/env python3
"""Write a checkpoint as a verified ONNX file: ``hourglass export``."""

import os
import runpy

BOOTSTRAP = os.path.join(
    os.path.dirname(os.path.realpath(__file__)),
    'mmpose-master/hourglass_npu/bootstrap.py',
)
runpy.run_path(BOOTSTRAP)['use_this_package']()

from hourglass_npu import cli  # noqa: E402

if __name__ == '__main__':
    cli.start('export')
