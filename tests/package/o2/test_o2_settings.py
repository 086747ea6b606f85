"""Settings of O2, and the engine that they lead to."""

import functools
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from apex_tree import CONTRACT, load_apex
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


def test_bfloat16_is_refused_where_the_chip_has_none(monkeypatch):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chip = SimpleNamespace(is_bf16_supported=lambda: False)
    monkeypatch.setattr(torch, 'cpu', chip, raising=False)
    with pytest.raises(ValueError, match="amp.dtype='bfloat16': cpu has none"):
        choice.initialize(model, optimizer, enabled=True)
    assert next(model.parameters()).dtype == torch.float32


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
    monkeypatch.setattr(choice, 'try_apex', lambda device, dynamic: '')
    options = AmpOptions(backend=backend)
    choose = functools.partial(
        choice.choose_engine, options, None, torch.device(device), dtype
    )
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            choose()
    else:
        assert choose() is wanted


def fused_of(module, mark):
    """Make an optimizer that is marked as fused, of a module."""
    name = 'NpuFusedAdam'
    kind = type(name, (), {'__module__': module, mark: True})
    return kind()


@pytest.mark.parametrize('backend', ['auto', 'native', 'apex'])
@pytest.mark.parametrize(
    'mark', ['is_fused_optimizer', 'is_npu_fused_optimizer']
)
def test_fused_optimizers_of_torch_npu_are_refused(monkeypatch, mark, backend):
    """Before 2.1 they had the mark of Apex's."""
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    fused = fused_of('torch_npu.optim.npu_fused_adam', mark)
    with pytest.raises(ValueError, match='cannot serve'):
        choice.choose_engine(
            AmpOptions(backend=backend),
            fused,
            torch.device('cuda'),
            HALF,
        )


def test_fused_optimizers_of_apex_are_left_to_apex(monkeypatch):
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    monkeypatch.setattr(choice, 'try_apex', lambda device, dynamic: '')
    device = torch.device('cuda')
    fused = fused_of('apex.optimizers', 'is_npu_fused_optimizer')
    options = AmpOptions()
    assert choice.choose_engine(options, fused, device, HALF) is ApexO2
    options = AmpOptions(backend='native')
    with pytest.raises(ValueError, match="Ascend's Apex"):
        choice.choose_engine(options, fused, device, HALF)
    monkeypatch.setattr(choice, 'find_apex', lambda: (False, 'none'))
    with pytest.raises(ValueError, match="Ascend's Apex"):
        choice.choose_engine(AmpOptions(), fused, device, HALF)


@pytest.fixture
def tried():
    """Forget before and after what was found out about an Apex."""
    choice.try_apex.cache_clear()
    yield choice.try_apex
    choice.try_apex.cache_clear()


@pytest.mark.parametrize('dynamic', [False, True])
def test_an_apex_that_works_is_found_by_a_step(tried, dynamic):
    state = torch.get_rng_state()
    with load_apex(CONTRACT):
        assert tried(torch.device('cpu'), dynamic) == ''
    assert torch.equal(torch.get_rng_state(), state)


BROKEN = dict(
    of_another_torch=('', 'import torch._six_of_old'),
    without_extension=('', 'def initialize(*a, **k): import amp_C_of_old'),
    that_ends_the_process=('', 'import sys; sys.exit()'),
    of_another_shape=('', 'def initialize(*a, **k): pass'),
)


@pytest.mark.parametrize('kind', BROKEN)
def test_an_apex_that_does_not_work_is_told(tried, tmp_path, kind):
    for folder, text in zip(('apex', 'apex/amp'), BROKEN[kind]):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '__init__.py').write_text(text)
    with load_apex(str(tmp_path), plain=True):
        reason = tried(torch.device('cpu'), False)
    assert reason.startswith('the installed apex cannot be used here (')
    assert '\n' not in reason


def test_an_apex_of_another_device_or_arithmetic_is_told(tried, monkeypatch):
    with load_apex(CONTRACT):
        import apex

        apex.KINDS = ('cuda',)
        assert 'TypeError' in tried(torch.device('cpu'), False)
        tried.cache_clear()
        apex.KINDS = ('cpu',)
        monkeypatch.setattr(apex.amp._Scaler, 'unscale', lambda *_: None)
        assert 'computes wrongly' in tried(torch.device('cpu'), False)


def test_auto_goes_on_without_an_apex_that_does_not_work(monkeypatch, caplog):
    caplog.set_level('INFO')
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    monkeypatch.setattr(choice, 'try_apex', lambda device, dynamic: 'no _six')
    choose = functools.partial(
        choice.choose_engine,
        optimizer=None,
        device=torch.device('cuda'),
        dtype=HALF,
        logger=logging.getLogger('o2'),
    )
    assert choose(AmpOptions()) is NativeO2
    assert 'Apex is installed, but not used: no _six' in caplog.text
    with pytest.raises(ValueError, match="amp.backend='apex', but no _six"):
        choose(AmpOptions(backend='apex'))


@pytest.mark.parametrize(
    'saturates, scale, wanted',
    [
        (True, 'dynamic', ApexO2),
        (False, 'dynamic', NativeO2),
        (False, 1024.0, ApexO2),
    ],
)
def test_auto_leaves_half_unscaling_alone(
    monkeypatch, saturates, scale, wanted
):
    monkeypatch.setattr(choice, 'find_apex', lambda: (True, ''))
    monkeypatch.setattr(choice, 'try_apex', lambda device, dynamic: '')
    monkeypatch.setattr(
        choice, 'saturation_flag', lambda device: saturates or None
    )
    npu = SimpleNamespace(type='npu')
    options = AmpOptions(loss_scale=scale)
    assert choice.choose_engine(options, None, npu, HALF) is wanted


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
