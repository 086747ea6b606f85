"""What a step launches on the real torch_npu, and that nothing waits."""

import sys
from pathlib import Path

WORKER = Path(__file__).with_name('launches_worker.py')


def test_few_kernels_to_the_same_bits(npu):
    done = npu(sys.executable, WORKER, 'adam', 'compiled')
    assert done.stdout == ''
