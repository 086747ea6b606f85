"""What we use of torch_npu is there in its published releases.

The names come from our sources, so that a new use is checked by itself, and
are looked for in names.json, which wheel_names.py has made of the wheels. A
name that is not in that table is not in that release.
"""

import functools
import os
import sys
from pathlib import Path

import operator_lists
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))


import uses  # noqa: E402
import wheel_names  # noqa: E402

TABLE = wheel_names.load_table()

# The sources that run on an NPU; tests have stand-ins of their own.
FOLDERS = ('mmcv_need', 'mmpose-master', 'scripts')

# Seconds for 110 MB; pip's cache makes it two on the second time.
PATIENCE = 90


def sources():
    files = list(ROOT.glob('*.py'))
    for folder in FOLDERS:
        files += (ROOT / folder).rglob('*.py')
    return [
        path
        for path in sorted(files)
        if not {'data', 'work_dirs'} & set(path.relative_to(ROOT).parts)
    ]


@functools.lru_cache(maxsize=None)
def our_uses():
    """Return {(module, name): files}."""
    found = {}
    for path in sources():
        for use in uses.uses_in(path.read_text(encoding='utf-8')):
            found.setdefault(use, set()).add(str(path.relative_to(ROOT)))
    return found


def is_there(release, module, name):
    """Whether a release of the table offers a name."""
    if module == 'torch_npu' and name in operator_lists.load():
        # Not a name in its sources: torch_npu takes operators from torch.
        return all(letter != '-' for letter in operator_lists.load()[name])
    modules = [module]
    if module == uses.ANYWHERE:
        modules = [uses.NPU, f'{uses.NPU}.utils']
    return any(name in release.get(m, ()) for m in modules)


def missing(release, found):
    """Return in words what a release does not offer."""
    return [
        f'{module}.{name} ({", ".join(sorted(found[module, name]))})'
        for module, name in sorted(found)
        if not is_there(release, module, name)
    ]


# What the sources ask for before they use it, and where it is not.
OLD_MARK = 'torch_npu.optim.NpuFusedOptimizerBase.is_npu_fused_optimizer'
NEW_MARK = 'torch_npu.optim.NpuFusedOptimizerBase.is_fused_optimizer'
GUARDED = {
    '1.8.1.post2': ['torch_npu.npu.is_bf16_supported', NEW_MARK],
    '1.11.0.post14': [NEW_MARK],
}


@pytest.mark.parametrize('version', TABLE)
def test_every_name_that_we_use_is_there(version):
    names = [words.split()[0] for words in missing(TABLE[version], our_uses())]
    assert names == GUARDED.get(version, [OLD_MARK])


def test_the_uses_that_we_know_of_are_found():
    found = set(our_uses())
    for use in (
        ('torch_npu.npu', 'set_device'),
        ('torch_npu.npu', 'set_compile_mode'),
        ('torch_npu.npu.set_compile_mode', 'jit_compile'),
        ('torch_npu.npu.config', 'allow_internal_format'),
        ('torch_npu.npu', 'Event'),
        ('torch_npu.npu', 'Stream'),
        ('torch_npu.npu', 'stream'),
        ('torch_npu.npu', 'current_stream'),
        ('torch_npu.npu.Stream', 'wait_stream'),
        (wheel_names.OPERATORS, 'record_stream'),
        ('torch_npu.npu', 'get_rng_state'),
        ('torch_npu.npu', 'synchronize'),
        ('torch_npu', 'optim'),
        (uses.ANYWHERE, 'get_npu_overflow_flag'),
        (uses.ANYWHERE, 'is_support_inf_nan'),
        (uses.ANYWHERE, 'get_soc_version'),
    ):
        assert use in found


@pytest.mark.parametrize(
    'text, use',
    [
        ('torch.npu.gone()', ('torch_npu.npu', 'gone')),
        ('torch.npu.config.gone = 1', ('torch_npu.npu.config', 'gone')),
        ('torch_npu.npu.utils.gone()', ('torch_npu.npu.utils', 'gone')),
        ('npu.gone(device)', ('torch_npu.npu', 'gone')),
        ('npu.set_device(gone=0)', ('torch_npu.npu.set_device', 'gone')),
        ("hasattr(npu, 'gone')", ('torch_npu.npu', 'gone')),
        ("getattr(accelerator, 'gone', None)", ('torch_npu.npu', 'gone')),
        ('a = getattr(torch, kind)\na.gone()', ('torch_npu.npu', 'gone')),
        ('getattr(torch, kind, None).gone', ('torch_npu.npu', 'gone')),
        (
            'a = accelerator.current_stream(device)\na.gone(b)',
            ('torch_npu.npu.Stream', 'gone'),
        ),
        (
            'def find(name):\n    return getattr(x, name)\nfind("gone")',
            (uses.ANYWHERE, 'gone'),
        ),
        ("SOURCES = ('torch_npu.gone',)", ('torch_npu', 'gone')),
        ("dict(type='NpuGone')", ('torch_npu.optim', 'NpuGone')),
    ],
)
def test_a_use_that_is_not_there_fails(text, use):
    assert uses.uses_in(text) >= {use}
    for release in TABLE.values():
        assert not is_there(release, *use)


@pytest.mark.parametrize(
    'text',
    [
        "'''Says torch_npu.gone in words.'''",
        'torch.cuda.is_available()',
        "getattr(torch, 'gone')",
        'version = torch_npu',
    ],
)
def test_what_is_no_use_is_not_taken_for_one(text):
    assert uses.uses_in(text) == set()


# The table ------------------------------------------------------------------


@pytest.mark.skipif(
    sys.version_info < (3, 8), reason='torch_npu is written for Python >= 3.8'
)
def test_the_table_is_that_of_the_published_wheels(tmp_path):
    # A folder with wheels saves the download.
    folder = os.environ.get('TORCH_NPU_WHEELS') or str(tmp_path)
    try:
        table = wheel_names.make_table(folder, timeout=PATIENCE)
    except RuntimeError as error:
        pytest.skip(f'the package index does not give the wheels: {error}')
    assert wheel_names.render(table) == wheel_names.TABLE.read_text(), (
        'run python tests/npu_contract/wheel_names.py'
    )


def test_pip_that_gets_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv('PIP_INDEX_URL', str(tmp_path))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    with pytest.raises(RuntimeError, match='torch_npu==0.0.1'):
        wheel_names.fetch('0.0.1', tmp_path)
