"""What the process from which data workers are forked loads, once for all.

Only multiprocessing's fork server imports this file. It holds no device and
runs no threads that matter, so it may be forked; workers share its memory.
"""

import os
import threading
import time

import mmcv.parallel  # noqa: F401
import mmpose.datasets  # noqa: F401

from hourglass_npu.lifetime import LOOK_EVERY, identify, lives


def _end_with(name):
    # Its workers keep it alive, and by it see whether their work goes on.
    while name and lives(name):
        time.sleep(LOOK_EVERY)
    os._exit(1)


threading.Thread(
    target=_end_with, args=(identify(os.getppid()),), daemon=True
).start()
