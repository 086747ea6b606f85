"""mmcv's drop-ins < the package < mmpose's drop-ins < commands."""

import ast
import re
from pathlib import Path

import pytest

import patch_engine
import patches

MMPOSE_NEED = patches.BUNDLE / 'mmpose-master/mmpose_need'
PACKAGE = patches.BUNDLE / 'mmpose-master/hourglass_npu'
DROP_INS = {
    (entry['package'] + '/' + entry['file'])[: -len('.py')].replace('/', '.')
    for entry in patch_engine.load_manifest(patches.MANIFEST)
    if entry['kind'] == 'drop-in' and entry['package'] == 'mmpose'
}


def imported(path):
    """Return the modules, and names in them, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


COMMANDS = ('commands', 'cli.py', '__main__.py', 'bootstrap.py')


@pytest.mark.parametrize(
    'part',
    sorted(
        path.name
        for path in PACKAGE.iterdir()
        if path.name not in COMMANDS
        and (path.suffix == '.py' or list(path.glob('*.py')))
    ),
)
def test_the_package_imports_no_drop_in_of_mmpose_and_no_command(part):
    path = PACKAGE / part
    for file in [path] if path.is_file() else path.rglob('*.py'):
        used = imported(file)
        assert not used & DROP_INS, file
        # It imports the training loop, and that imports the package.
        assert 'mmpose.apis' not in used, file
        commands = ('hourglass_npu.cli', 'hourglass_npu.commands')
        assert not [n for n in used if n.startswith(commands)], file


def test_no_file_is_too_long_to_read_in_one_sitting():
    # It repeats mmcv's URL schemes, which is its contract.
    limits = {'mmcv_need/checkpoint.py': 1150}
    too_long = {}
    for part in ('mmcv_need', 'mmpose-master', 'scripts'):
        files = list((patches.BUNDLE / part).rglob('*.py'))
        assert len(files) > 8
        for path in files:
            name = path.relative_to(patches.BUNDLE).as_posix()
            lines = len(path.read_text(encoding='utf-8').splitlines())
            if lines > limits.get(name, 600):
                too_long[name] = lines
    assert not too_long


def test_no_module_edits_the_search_path():
    edit = re.compile(r'\bsys\.path(\[|\.(insert|append|extend))')
    assert edit.search('sys.path.insert(0, folder)')
    for part in ('mmcv_need', 'mmpose-master'):
        for path in (patches.BUNDLE / part).rglob('*.py'):
            assert not edit.search(path.read_text(encoding='utf-8')), path


def test_drop_ins_of_mmcv_import_no_package_of_ours():
    for path in (patches.BUNDLE / 'mmcv_need').glob('*.py'):
        names = {name.split('.')[0] for name in imported(path)}
        assert not names & {'hourglass_npu', 'mmpose'}, path


def test_the_model_imports_neither_pipelines_nor_the_runner():
    files = list((MMPOSE_NEED / 'models').rglob('*.py'))
    assert len(files) == 3
    for path in files:
        used = imported(path)
        assert not [n for n in used if n.startswith('mmcv.runner')], path
        assert not [n for n in used if 'datasets' in n], path


def test_hooks_use_no_private_names_of_the_engine():
    private = re.compile(r'engine(_of\([^)]*\))?\._')
    for part in ('mmcv_need', 'mmpose-master'):
        for path in (patches.BUNDLE / part).rglob('*.py'):
            if 'o2' not in path.parts:
                assert not private.search(path.read_text()), path


def test_imports_are_seen():
    assert 'mmpose.apis.train' in DROP_INS
    here = imported(Path(__file__))
    assert {'ast', 'pathlib.Path', 'patches'} <= here
