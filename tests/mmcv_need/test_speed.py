"""The speed in the log is what a stopwatch says."""

import json
from pathlib import Path

import pytest
import speed_worker as worker
from launching import torch_launcher


def check(speeds, measured, ranks):
    assert len(speeds) == len(measured) == len(worker.ITERATIONS)
    for speed, seconds, counted in zip(speeds, measured, worker.COUNTED):
        images = ranks * counted * worker.BATCH
        assert seconds >= counted * worker.SECONDS
        # The runner's clock starts a little earlier, and stops a little
        # later; a busy machine may take it away for a moment.
        assert images / (seconds + 0.2) < speed <= images / seconds * 1.02


def test_speed_of_one_process():
    check(*worker.train(worker.Model()), ranks=1)


def test_speed_of_two_processes_is_that_of_both(run, free_port, tmp_path):
    done = run(torch_launcher(Path(worker.__file__), 2, free_port, tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (
        json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)
    )
    check(*first, ranks=2)
    assert second[0] == []
    # They wait for each other in every step, so they take the same time.
    assert second[1] == pytest.approx(first[1], rel=0.2, abs=0.2)
