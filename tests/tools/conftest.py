import importlib.util
import sys
from pathlib import Path

import pytest
from mpii_data import write_mpii, write_tiny_config
from processes import launch  # noqa: F401

TOOLS = Path(__file__).resolve().parents[2] / 'mmpose-master' / 'tools'
# Behind everything else: one of the tools has the name of a standard module.
sys.path.append(str(TOOLS))


@pytest.fixture(scope='session')
def tool():
    """Loads a command by its file name.

    Returns:
        callable: ``tool('train')`` gives the module.
    """

    def load(name):
        path = str(TOOLS / f'{name}.py')
        spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Path of the tiny config; its data are where MPII_ROOT says."""
    folder = write_mpii(tmp_path / 'mpii')
    monkeypatch.setenv('MPII_ROOT', str(folder))
    return write_tiny_config(tmp_path)


@pytest.fixture
def main(tool, monkeypatch):
    """Runs a command in this process.

    Returns:
        callable: ``main('train', *arguments)``.
    """

    def execute(name, *arguments):
        module = tool(name)
        # mmcv notes the seed there.
        monkeypatch.setenv('PYTHONHASHSEED', '0')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        return module.main()

    return execute
