"""Between two lines of the log the host never waits for the device."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ITERATIONS, LOG_INTERVAL = 6, 3

# Once in a training, by the number of the iteration: the first step makes the
# optimiser's state, with O2 only if it is not skipped; tables of numbers
# (colours, heatmaps, the joints of the accuracy) go to the device. Then the
# ranks agree on the buckets of DistributedDataParallel.
ONCE = {
    1: (
        'hooks/optimizer.py',
        'optimizer/builder.py',
        'o2/overflow.py',
        'pose/heatmaps.py',
        'detectors/top_down.py',
    ),
    2: ('parallel/distributed.py',),
}


@pytest.mark.parametrize(
    'ranks, precision, chip',
    [
        (1, 'fp32', 'Ascend910B3'),
        (2, 'o2', 'Ascend910B3'),
        (1, 'o2', 'Ascend910A'),
        (1, 'fp32', 'Ascend910A'),
    ],
)
def test_no_wait_between_log_lines(
    npu, tiny, tmp_path, free_port, ranks, precision, chip
):
    config, data = tiny
    data.update(
        CANN_STUB_SOC=chip, NPU_JIT_COMPILE='0', NPU_INTERNAL_FORMAT='0'
    )
    command = [sys.executable]
    if ranks > 1:
        command += ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}']
        command += ['--master_addr=127.0.0.1', f'--master_port={free_port}']
    command += [HERE / 'sync_worker.py', tmp_path / 'waits', config]
    command += ['--no-validate', '--work-dir', tmp_path / 'work']
    command += ['--cfg-options', f'log_config.interval={LOG_INTERVAL}']
    command += [f'data.samples_per_gpu={2 // ranks}', 'total_epochs=1']
    if precision == 'fp32':
        command += ['amp=none']
    npu(*command, **data)
    for rank in range(ranks):
        waits = json.loads((tmp_path / f'waits.{rank}').read_text())
        assert len(waits) == ITERATIONS
        for number, places in enumerate(waits, 1):
            left = {
                place: count
                for place, count in places.items()
                if not any(known in place for known in ONCE.get(number, ()))
            }
            if number % LOG_INTERVAL:
                assert not left, f'rank {rank}, iteration {number}'
            else:
                assert left, 'a log line without a wait: nothing is counted'
