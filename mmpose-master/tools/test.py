#!/usr/bin/env python3
"""Evaluate a pose model: ``hourglass eval``."""

import os
import runpy

BOOTSTRAP = os.path.join(
    os.path.dirname(os.path.realpath(__file__)),
    '../hourglass_npu/bootstrap.py',
)
runpy.run_path(BOOTSTRAP)['use_this_package']()

from hourglass_npu import cli  # noqa: E402

if __name__ == '__main__':
    cli.start('eval')
