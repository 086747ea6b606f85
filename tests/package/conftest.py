"""What the tests of the package share: a tiny config, commands."""

import signal
import sys

import pytest
from calling import call, command
from mpii_data import write_mpii, write_tiny_config
from processes import apart, launch, ranks  # noqa: F401


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Path of the tiny config; its data are where MPII_ROOT says."""
    folder = write_mpii(tmp_path / 'mpii')
    monkeypatch.setenv('MPII_ROOT', str(folder))
    return write_tiny_config(tmp_path)


@pytest.fixture
def main(monkeypatch):
    """Run a command in this process; errors are raised.

    Returns:
        callable: ``main('train', *arguments)``.
    """
    # A training that fails leaves its own behind: its process ends then.
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }

    def execute(name, *arguments):
        # mmcv notes the seed there.
        monkeypatch.setenv('PYTHONHASHSEED', '0')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        return command(name).main()

    yield execute
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """Weights of the tiny network, as training would leave them."""
    import torch
    from mmpose.models import build_posenet

    from hourglass_npu.config.load import load_config

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
def export(tiny, checkpoint, tmp_path):
    """Make a file of ONNX of the checkpoint.

    Returns:
        callable: ``export(*options)`` gives the status and the path.
    """

    def execute(*options):
        path = tmp_path / 'x.onnx'
        choice = [f'--config={tiny}', f'--checkpoint={checkpoint}']
        return call('export', *choice, f'--out={path}', *options), path

    return execute
