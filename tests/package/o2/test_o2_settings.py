"""Settings of O2, and the engine that they lead to."""

import functools
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv.runner.hooks.optimizer import engine_of
from o2_cases import HALF, Toy, prepare
from torch import nn

from hourglass_npu.o2 import choice, operators
from hourglass_npu.o2.apex import ApexO2
from hourglass_npu.o2.native import NativeO2
from hourglass_npu.o2.settings import (
    AmpOptions,
    default_dtype,
    find_apex,
)


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(opt_level='O1'), "opt_level='O1'"),
        (dict(loss_scale=0), 'loss_scale=0'),
        (dict(loss_scale='big'), "loss_scale='big'"),
        (dict(loss_scale=True), 'loss_scale=True'),
        (dict(loss_scale=float('nan')), 'loss_scale=nan'),
        (dict(backend='cuda'), "backend='cuda'"),
        (dict(dtype='float32'), "dtype='float32'"),
        (dict(loss_in_half=1), 'loss_in_half=1'),
        (dict(enabled='yes'), "enabled='yes'"),
        (dict(max_consecutive_overflows=-1), 'max_consecutive_overflows=-1'),
        (dict(min_loss_scale=8.0, max_loss_scale=4.0), 'min_loss_scale=8.0'),
        (dict(opt_lvl='O2'), 'no setting opt_lvl'),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError) as caught:
        AmpOptions(**setting)
    assert message in str(caught.value)


@pytest.mark.parametrize('enabled', [None, False])
def test_off_on_a_cpu_unless_asked(enabled, caplog):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO):
        engine = choice.initialize(model, optimizer, enabled=enabled)
    assert engine is None and engine_of(optimizer) is None
    assert 'Mixed precision: off' in caplog.text
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_level_o0_is_fp32(caplog):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO):
        assert not choice.initialize(
            model, optimizer, opt_level='O0', enabled=True
        )
    assert 'fp32' in caplog.text


def test_the_log_says_engine_dtype_and_scale(caplog):
    with caplog.at_level(logging.INFO):
        prepare(dtype='bfloat16')
    line = caplog.messages[-1]
    for word in ('O2', 'native', 'bfloat16', 'cpu', '32768 (static)'):
        assert word in line


def test_dtypes_of_the_devices():
    assert default_dtype(torch.device('cpu')) == torch.bfloat16
    assert default_dtype(torch.device('cuda', 0)) == HALF
    assert AmpOptions(dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    'model, message',
    [(Toy().half(), 'in fp32'), (nn.DataParallel(Toy()), 'bare model')],
)
def test_the_model_must_be_bare_and_fp32(model, message):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        choice.initialize(model, optimizer, enabled=True)


def test_several_optimizers_are_refused():
    with pytest.raises(ValueError, match='one optimizer'):
        choice.initialize(Toy(), dict(generator=1), enabled=True)


def fake_apex(tmp_path, *packages):
    for package in ('.',) + packages:
        folder = tmp_path / 'apex' / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '__init__.py').write_text('raise RuntimeError("imported")')


@pytest.mark.parametrize(
    'packages, there, message',
    [
        (None, False, 'no apex'),
        (['amp', 'multi_tensor_apply'], True, ''),
        (['multi_tensor_apply'], False, 'after 25.05'),
        (['lib'], False, '2013'),
    ],
)
def test_kinds_of_apex(tmp_path, monkeypatch, packages, there, message):
    if packages is not None:
        fake_apex(tmp_path, *packages)
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'apex', False)
    found, reason = find_apex()
    assert found is there and message in reason


@pytest.mark.parametrize(
    'there, backend, device, dtype, wanted',
    [
        (True, 'auto', 'cuda', HALF, ApexO2),
        (True, 'apex', 'cuda', HALF, ApexO2),
        (True, 'native', 'cuda', HALF, NativeO2),
        (True, 'auto', 'cuda', torch.bfloat16, NativeO2),
        (True, 'auto', 'cpu', HALF, NativeO2),
        (False, 'auto', 'cuda', HALF, NativeO2),
        (True, 'apex', 'cuda', torch.bfloat16, 'float16'),
        (True, 'apex', 'cpu', HALF, 'CPU'),
        (False, 'apex', 'cuda', HALF, 'web toolkit'),
    ],
)
def test_choice_of_engine(monkeypatch, there, backend, device, dtype, wanted):
    monkeypatch.setattr(choice, 'find_apex', lambda: (there, 'web toolkit'))
    options = AmpOptions(backend=backend)
    choose = functools.partial(
        choice.choose_engine, options, None, torch.device(device), dtype
    )
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            choose()
    else:
        assert choose() is wanted


@pytest.mark.parametrize('backend', ['auto', 'native', 'apex'])
def test_fused_optimizers_of_torch_npu_are_refused(monkeypatch, backend):
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    fused = SimpleNamespace(is_fused_optimizer=True)
    with pytest.raises(ValueError, match='cannot serve'):
        choice.choose_engine(
            AmpOptions(backend=backend),
            fused,
            torch.device('cuda'),
            HALF,
        )


def test_fused_optimizers_of_apex_are_left_to_apex(monkeypatch):
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    device = torch.device('cuda')
    fused = SimpleNamespace(is_npu_fused_optimizer=True)
    options = AmpOptions()
    assert choice.choose_engine(options, fused, device, HALF) is ApexO2
    options = AmpOptions(backend='native')
    with pytest.raises(ValueError, match="Ascend's Apex"):
        choice.choose_engine(options, fused, device, HALF)
    monkeypatch.setattr(choice, 'find_apex', lambda: (False, 'none'))
    with pytest.raises(ValueError, match="Ascend's Apex"):
        choice.choose_engine(AmpOptions(), fused, device, HALF)


def test_a_cpu_without_the_operators_is_told(monkeypatch):
    monkeypatch.setattr(nn.functional, 'conv2d', _not_implemented)
    with pytest.raises(ValueError, match='no mixed precision in float16'):
        operators.check_operators(HALF)


def _not_implemented(*args, **kwargs):
    raise RuntimeError('"conv" not implemented for Half')


def test_the_table_names_tests_that_exist():
    """Of this folder, and whole files."""
    here = Path(__file__)
    root = here.parents[3]
    table = (root / 'docs' / 'O2.md').read_text()
    known = ''.join(path.read_text() for path in here.parent.glob('test_*.py'))
    names = set(re.findall(r'`(test_\w+)[`\[]', table))
    assert len(names) > 30
    assert not [n for n in names if f'def {n}(' not in known]
    folders = 'tests|mmcv_need|mmpose-master'
    files = re.findall(rf'`((?:{folders})/[\w/]+\.\w+)', table)
    assert files and all((root / name).is_file() for name in files)
