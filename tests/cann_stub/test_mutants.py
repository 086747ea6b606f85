"""The short form of mutants.py: the places that every training passes."""

import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name('mutants.py')


def test_a_missing_device_or_wait_is_caught(cann_stub, run):
    done = run(
        [sys.executable, SCRIPT, 'unpack', 'model']
        + ['wait_for_copy', 'keep_for_step'],
        env=cann_stub,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    caught = dict(
        line.split(': caught by ') for line in done.stdout.splitlines()
    )
    for name, words in (
        ('unpack', 'train in_turn: RuntimeError: Expected all tensors'),
        ('model', 'train: '),
        ('wait_for_copy', 'train: CANN stub: '),
        ('keep_for_step', 'train: CANN stub: copy in stream'),
    ):
        assert caught[name].startswith(words), done.stdout
    for name in ('wait_for_copy', 'keep_for_step'):
        assert 'has not waited for it' in caught[name]
