"""Data workers that outlive an epoch do not outlive their training."""

import os

from ends_cases import end_trainings


def test_no_worker_is_left_however_the_training_is_ended(
    apart, tiny, tmp_path
):
    env = dict(MPII_ROOT=os.environ['MPII_ROOT'])
    found, _ = apart(end_trainings, tiny, tmp_path, env=env, timeout=300)
    assert all(one['left'] == [] for one in found.values()), found
    assert {way: one['status'] for way, one in found.items()} == dict(
        SIGTERM=143, SIGKILL=-9, worker=1
    )
    assert 'lost a data worker' in found['worker']['said']
