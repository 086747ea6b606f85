"""Data workers that outlive an epoch do not outlive their training."""

import json
import os
import sys
from pathlib import Path

WORKER = Path(__file__).with_name('ends_worker.py')


def test_no_worker_is_left_however_the_training_is_ended(run, tiny, tmp_path):
    done = run(
        [sys.executable, WORKER, tiny, tmp_path],
        env=dict(MPII_ROOT=os.environ['MPII_ROOT']),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(one['left'] == [] for one in found.values()), found
    assert {way: one['status'] for way, one in found.items()} == dict(
        SIGTERM=143, SIGKILL=-9, worker=1
    )
    assert 'lost a data worker' in found['worker']['said']
