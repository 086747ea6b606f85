import importlib.util
import signal
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
    # A training that fails leaves its own behind: its process ends then.
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }

    def execute(name, *arguments):
        module = tool(name)
        # mmcv notes the seed there.
        monkeypatch.setenv('PYTHONHASHSEED', '0')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        return module.main()

    yield execute
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """Weights of the tiny network, as training would leave them."""
from hourglass_npu.config.load import load_config
    import torch
    from mmpose.models import build_posenet

    cfg = load_config(str(tiny))
    torch.manual_seed(0)
    model = build_posenet(cfg.model)
    for parameter in model.parameters():
        # As they begin, weights are so small that all heatmaps are flat.
        torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / 'work').mkdir()
    path = tmp_path / 'work' / 'latest.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), str(path))
    return path


@pytest.fixture
def export(tool, tiny, checkpoint, tmp_path):
    """Makes a file of ONNX of the checkpoint.

    Returns:
        callable: ``export(*options)`` gives the status and the path.
    """
    command = tool('../../pytorch2onnx')

    def execute(*options):
        path = tmp_path / 'x.onnx'
        choice = [f'--config={tiny}', f'--checkpoint={checkpoint}']
        status = command.main([*choice, f'--out={path}', *options])
        return status, path

    return execute
