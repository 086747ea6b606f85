"""The short form of mutants.py: the places that every training passes."""

import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name('mutants.py')


def test_a_missing_device_or_wait_is_caught(simulator, run):
    done = run(
        [sys.executable, SCRIPT, 'unpack', 'model']
        + ['wait_for_copy', 'keep_for_step'],
        env=simulator,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        'unpack: caught by train in_turn: RuntimeError: Expected',
        'model: caught by train: not on its device',
        'wait_for_copy: caught by train: RuntimeError: stream 0 of npu:3 uses',
        'keep_for_step: caught by train: RuntimeError: stream 1 of npu:3 gets',
    ):
        assert words in done.stdout
