"""The stand-in is strict where a card is, and computes as the CPU."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
WORKER = HERE / 'device_worker.py'

# After an operator that its thread has launched fails, torch_npu's queue
# takes no more: what is refused is tried without it.
NO_QUEUE = dict(TASK_QUEUE_ENABLE='0')


def test_the_device_is_strict_and_computes_as_the_cpu(npu):
    parts = ('visible', 'seam', 'mix', 'work', 'count', 'streams', 'fork')
    done = npu(sys.executable, WORKER, *parts, **NO_QUEUE)
    assert done.stdout.strip() == ''
    (report,) = done.reports
    assert report['kernels']['aclnnConvolutionBackward']['float32'] > 5
    assert report['chip'] == 'Ascend910B3'


def test_the_kernels_compute_as_the_cpu(npu):
    done = npu(sys.executable, HERE / 'kernels_worker.py', **NO_QUEUE)
    assert done.stdout.strip() == ''
    (report,) = done.reports
    assert len(report['kernels']) > 130


def test_what_the_host_reads_too_early_is_wrong(npu):
    done = npu(
        *(sys.executable, WORKER, 'early'),
        CANN_STUB_DELAY='50000',
        TASK_QUEUE_ENABLE='2',
    )
    assert done.stdout.strip() == ''


def test_memory_ends(npu):
    done = npu(sys.executable, WORKER, 'memory', CANN_STUB_MEMORY='64')
    assert done.stdout.strip() == ''


def test_a_chip_that_saturates(npu):
    done = npu(
        *(sys.executable, WORKER, 'saturate'),
        CANN_STUB_SOC='Ascend910A',
        **NO_QUEUE,
    )
    assert done.stdout.strip() == ''


def test_host_code_that_reads_device_memory_crashes(npu):
    done = npu(sys.executable, HERE / 'crash_worker.py', status=-11)
    assert 'host code has touched memory of npu:2' in done.stderr
