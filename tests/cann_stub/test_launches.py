"""What a step launches on the real torch_npu, and who needs it at all."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
WORKER = HERE / 'launches_worker.py'


def test_few_kernels_to_the_same_bits(npu):
    done = npu(sys.executable, WORKER, 'adam', 'compiled')
    assert done.stdout == ''


def test_data_workers_need_no_torch_npu(cann_stub, run):
    command = [sys.executable, HERE / 'loader_worker.py']
    for own, expected in (
        ({}, 0),
        (dict(TORCH_DEVICE_BACKEND_AUTOLOAD='1'), 1),
    ):
        done = run(command, env=dict(cann_stub, **own))
        words = f'parent 1 data worker {expected}'
        assert done.stdout.strip() == words, done.stderr
