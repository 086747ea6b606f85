"""The build of the stand-in, its table, and the command for everybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = HERE / 'build.py'
SCRIPT = ROOT / 'scripts/cann_stub.sh'


def test_a_missing_compiler_is_said(cann_stub, run, tmp_path):
    done = run(
        [sys.executable, BUILD],
        env=dict(CXX='g++-of-nowhere', CANN_STUB_CACHE=str(tmp_path)),
    )
    assert done.returncode == 1
    assert 'g++-of-nowhere is not on PATH' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not os.listdir(str(tmp_path))


def test_a_release_that_is_not_there_is_said(cann_stub, run, tmp_path):
    done = run(
        [sys.executable, BUILD, '--torch-npu', '0.0.1'],
        env=dict(CANN_STUB_CACHE=str(tmp_path)),
    )
    assert done.returncode in (1, 3)
    assert 'no torch_npu==0.0.1' in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['lock']


def test_a_torch_for_cuda_is_said(cann_stub, run, tmp_path):
    # torch_npu then ends the process while it is loaded.
    torch = tmp_path / 'torch'
    (torch / 'lib').mkdir(parents=True)
    for path in ('__init__.py', 'lib/libtorch_cuda.so'):
        (torch / path).touch()
    cache = tmp_path / 'cache'
    done = run(
        [sys.executable, BUILD],
        env=dict(PYTHONPATH=str(tmp_path), CANN_STUB_CACHE=str(cache)),
    )
    assert done.returncode == 3
    assert 'is built for CUDA' in done.stderr
    assert not cache.exists()


def test_what_is_there_is_not_built_again(cann_stub, run):
    environment = {'CXX': cann_stub['CXX']} if 'CXX' in cann_stub else {}
    folders = {
        run([sys.executable, BUILD], env=environment, timeout=30).stdout
        for _ in range(2)
    }
    assert len(folders) == 1
    assert Path(folders.pop().strip(), 'dev/davinci7').exists()


def test_the_table_of_operators_is_that_of_the_library(cann_stub, run):
    library = Path(cann_stub['ASCEND_HOME_PATH'], 'lib64/libopapi.so')
    printed = subprocess.run(
        ['nm', '-D', '--defined-only', str(library)],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    tail = 'GetWorkspaceSize'
    there = [line.split()[-1] for line in printed.splitlines()]
    there = {name[: -len(tail)] for name in there if name.endswith(tail)}
    table = (HERE / 'OPERATORS.md').read_text().splitlines()
    listed = {line[3:-1] for line in table if line.startswith('- `')}
    assert listed == there
    made = run([sys.executable, HERE / 'operator_table.py', '--check'])
    assert made.returncode == 0, 'run tests/cann_stub/operator_table.py'


def test_the_command_sets_the_environment(cann_stub, run):
    code = (
        'import os, torch; '
        'print(torch.npu.device_count(), os.environ["TASK_QUEUE_ENABLE"])'
    )
    done = run(
        ['bash', SCRIPT, sys.executable, '-c', code],
        env=dict(VENV=sys.prefix),
    )
    assert done.stdout == '8 2\n', done.stderr
    failed = run(
        ['bash', SCRIPT, 'bash', '-c', 'exit 7'], env=dict(VENV=sys.prefix)
    )
    assert failed.returncode == 7


@pytest.mark.parametrize(
    'words, said', [((), 'a command is missing'), (('--x', 'a'), '--x')]
)
def test_a_wrong_command_line_is_refused(run, words, said):
    done = run(['bash', SCRIPT, *words])
    assert done.returncode == 2
    assert said in done.stderr
