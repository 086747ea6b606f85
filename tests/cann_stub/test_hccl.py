"""Collectives between two ranks, and what is said when one is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name('hccl_worker.py')


@pytest.fixture
def ranks(cann_stub, free_port):
    """Run two ranks without a launcher, which would stop a lonely one.

    Returns:
        callable: ``ranks(case)`` gives statuses and outputs by rank.
    """
    processes = []

    def start(*arguments, **variables):
        for rank in range(2):
            environment = dict(
                cann_stub,
                PATH=os.environ['PATH'],
                HOME=os.environ.get('HOME', '/'),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE='2',
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(free_port),
                GLOO_SOCKET_IFNAME='lo',
                OMP_NUM_THREADS='1',
                TASK_QUEUE_ENABLE='0',
                **variables,
            )
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER), *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    universal_newlines=True,
                )
            )
        outputs = [one.communicate(timeout=150)[0] for one in processes]
        return [one.returncode for one in processes], outputs

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_collectives_and_a_wrapped_model(ranks):
    statuses, outputs = ranks()
    assert statuses == [0, 0], '\n'.join(outputs)[-6000:]


@pytest.mark.parametrize('case', ['same', 'dies', 'late', 'differs'])
def test_a_fault_of_a_rank_is_said(ranks, case):
    statuses, outputs = ranks(case, HCCL_EXEC_TIMEOUT='3')
    # The line tells that the right words were raised. How the ranks end then
    # is a race: torch_npu's watchdog aborts one that is still there.
    assert 'rank 0: ' in outputs[0], (statuses, outputs)
