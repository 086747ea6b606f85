"""What optimizers do to memory, on the real torch_npu and two devices."""

import os
import sys
from pathlib import Path

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
