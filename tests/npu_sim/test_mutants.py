"""The short form of mutants.py: the two places that every training passes."""

import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name('mutants.py')


def test_a_missing_device_is_caught(simulator, run):
    done = run(
        [sys.executable, SCRIPT, 'unpack', 'model'],
        env=simulator,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'unpack: caught by train: RuntimeError: Expected' in done.stdout
    assert 'model: caught by train: not on its device' in done.stdout
