"""The simulator itself: strict where the card is, and found by its build."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE / 'packages/torch_npu/_build.py'


def test_the_device_is_strict_and_computes_as_the_cpu(npu):
    done = npu(sys.executable, HERE / 'device_worker.py')
    assert done.stdout.strip() == ''
    (report,) = done.reports
    assert report['operators'] > 100


@pytest.mark.parametrize('same', [[], ['SAME']])
def test_hccl(npu, free_port, same):
    npu(
        *(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2'),
        *('--master_addr=127.0.0.1', f'--master_port={free_port}'),
        *(HERE / 'hccl_worker.py', *same),
        GLOO_SOCKET_IFNAME='lo',
    )


@pytest.mark.parametrize(
    'visible, words',
    [('3,1', 'not in ascending order'), ('1,9', 'is invalid')],
)
def test_visible_devices_are_read_as_cann_does(npu, visible, words):
    code = 'from mmcv.runner.dist_utils import set_device as s; s("npu")'
    done = npu(
        *(sys.executable, '-c', code),
        status=1,
        ASCEND_RT_VISIBLE_DEVICES=visible,
    )
    assert words in done.stderr


def test_a_missing_compiler_is_said(simulator, run, tmp_path):
    done = run(
        [sys.executable, BUILD],
        env=dict(CXX='g++-of-nowhere', NPU_SIM_CACHE=str(tmp_path)),
    )
    assert done.returncode == 1
    assert 'no C++ compiler: g++-of-nowhere is not on PATH' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not os.listdir(str(tmp_path))


def test_one_of_many_builds(simulator, run, tmp_path):
    # The compiler's stand-in takes a second and notes that it was called.
    compiler = tmp_path / 'compiler'
    compiler.write_text(
        '#!/bin/sh\n'
        'case "$*" in *-dumpversion*) echo 13; exit;; esac\n'
        'sleep 1\n'
        f'echo x >>{tmp_path}/calls\n'
        'while [ $# -gt 1 ]; do [ "$1" != -o ] || : >"$2"; shift; done\n'
    )
    compiler.chmod(0o755)
    command = (
        f'for i in 1 2; do "$0" {BUILD} & done; wait; cat {tmp_path}/calls'
    )
    done = run(
        ['sh', '-c', command, sys.executable],
        env=dict(CXX=str(compiler), NPU_SIM_CACHE=str(tmp_path / 'cache')),
    )
    *paths, calls = done.stdout.split()
    assert calls == 'x' and len(set(paths)) == 1
    assert Path(paths[0]).exists()
