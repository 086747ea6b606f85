"""What optimizers do to memory, on the real torch_npu and two devices."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
APEX = HERE.parent / 'apex_contract'


def test_apex_and_fused_optimizers_on_two_devices(npu, cann_stub, free_port):
    done = npu(
        *(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2'),
        *('--master_addr=127.0.0.1', f'--master_port={free_port}'),
        HERE / 'cards_worker.py',
        PYTHONPATH=os.pathsep.join([str(APEX), cann_stub['PYTHONPATH']]),
        TASK_QUEUE_ENABLE='2',
    )
    assert done.stdout.strip() == ''
    assert len(done.reports) == 2


@pytest.mark.parametrize('queue', ['0', '2'])
def test_a_fused_optimizer_elsewhere_is_torchs(npu, cann_stub, queue):
    # Whether or not calls are queued: the queue is not what makes it wrong.
    code = 'import torch_npu, fused_elsewhere as f; print(f.faults())'
    done = npu(
        *(sys.executable, '-c', code),
        TASK_QUEUE_ENABLE=queue,
        PYTHONPATH=os.pathsep.join([str(HERE), cann_stub['PYTHONPATH']]),
    )
    assert done.stdout.strip() == '[]'
