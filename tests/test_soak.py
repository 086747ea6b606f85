"""A short form of soak.py; the long one is in docs/RELIABILITY.md."""

import os
import re
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name('soak.py')


@pytest.mark.timeout(600)
@pytest.mark.parametrize('ranks, kills', [(1, 5), (2, 2)])
def test_nothing_is_lost_by_kills(run, ranks, kills, tmp_path):
    folders = [str(SOAK.parent), os.environ.get('PYTHONPATH', '')]
    done = run(
        [sys.executable, SOAK, '--kills', kills, '--ranks', ranks],
        env=dict(
            PYTHONPATH=os.pathsep.join(filter(None, folders)),
            TMPDIR=str(tmp_path),
        ),
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"'kills': {kills}," in done.stdout
    # One checkpoint was damaged, and passed over.
    if ranks == 1:
        assert re.search("'(truncated|empty|flipped|half)': 1", done.stdout)
    # What torch and multiprocessing leave of killed processes is theirs.
    assert not list(tmp_path.glob('soak*'))
