import importlib
import sys

import pytest

from hourglass_npu import options
from hourglass_npu.cli import COMMANDS


@pytest.mark.parametrize(
    'name, meant',
    [
        ('NPROCS', 'NPROC'),
        ('nproc', 'NPROC'),
        ('NNODE', 'NNODES'),
        ('MASTER_ADDRESS', 'MASTER_ADDR'),
        ('MPI_ROOT', 'MPII_ROOT'),
        ('NPU_ID', 'NPUID'),
    ],
)
def test_a_misspelt_variable_is_named(name, meant):
    (line,) = options.find_near_variables({name: '2', 'HOME': '/root'})
    assert line == f'warning: {name}=2 has no effect: did you mean {meant}?'


@pytest.mark.parametrize(
    'environment',
    [
        dict(NPROC='2', NPROCS='2'),
        dict(PYTHONPATH='/x', SLURM_NNODES='2', LOCAL_RANK='0', VENV='/x'),
        dict(NPROCS='2', RANK='1'),
    ],
)
def test_other_variables_are_not(environment):
    assert options.find_near_variables(environment) == []


@pytest.mark.parametrize('command', COMMANDS)
def test_help_fits_a_screen_and_has_examples(command, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.setattr(sys, 'argv', [f'hourglass {command}', '--help'])
    module = importlib.import_module(
        f'hourglass_npu.commands.{COMMANDS[command][0]}'
    )
    with pytest.raises(SystemExit):
        module.parse_args()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f'usage: hourglass {command}')
    assert 'examples:' in lines
    assert lines[-1].startswith(('  hourglass ', '  python3 demo.py '))
