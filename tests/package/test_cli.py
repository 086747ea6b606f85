"""The command hourglass, its entry points, and what may lie beside them."""

import sys

import pytest
from calling import command

from hourglass_npu import __version__
from hourglass_npu.cli import COMMANDS
from hourglass_npu.paths import MMPOSE_ROOT, ROOT

HOURGLASS = [sys.executable, '-m', 'hourglass_npu']
ENTRIES = {
    ROOT / 'demo.py': 'demo',
    ROOT / 'pytorch2onnx.py': 'export',
    MMPOSE_ROOT / 'tools/browse_dataset.py': 'browse',
    MMPOSE_ROOT / 'tools/check_mpii.py': 'check',
    MMPOSE_ROOT / 'tools/make_sample_mpii.py': 'sample',
    MMPOSE_ROOT / 'tools/onnx_shape.py': 'shape',
    MMPOSE_ROOT / 'tools/plot_log.py': 'plot',
    MMPOSE_ROOT / 'tools/test.py': 'eval',
    MMPOSE_ROOT / 'tools/train.py': 'train',
}
# Names that modules of this bundle once had, and a standard module's.
FOREIGN = ('_common', 'options', 'people', 'test', 'draw', 'guards', 'cli')


def test_help_lists_the_commands_and_version_says_which(run):
    done = run([*HOURGLASS, '--help'])
    assert done.returncode == 0
    for name, (_, text) in COMMANDS.items():
        assert (f'  {name:7} {text}\n' in done.stdout) is (text is not None)
    done = run([*HOURGLASS, '--version'])
    assert done.stdout == f'hourglass {__version__}\n'


@pytest.mark.parametrize(
    'words, last',
    [([], 'error: no command'), (['tran'], "error: no command 'tran'")],
)
def test_a_wrong_command_is_a_mistake(run, words, last):
    done = run([*HOURGLASS, *words])
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1] == last


@pytest.mark.parametrize('name', COMMANDS)
def test_a_wrong_option_of_any_command_is_a_mistake(name, capsys):
    with pytest.raises(SystemExit) as caught:
        command(name).parse_args(['--no-such-option'])
    assert caught.value.code == 2
    assert 'usage: ' in capsys.readouterr().err


def test_every_entry_point_is_known_and_short():
    found = {*(MMPOSE_ROOT / 'tools').glob('*.py'), *ROOT.glob('*.py')}
    assert found == set(ENTRIES)
    for path in found:
        assert len(path.read_text().splitlines()) <= 30


@pytest.mark.parametrize('path', sorted(ENTRIES), ids=lambda p: p.stem)
def test_strange_modules_beside_an_entry_point_change_nothing(
    run, tmp_path, path
):
    for name in FOREIGN:
        module = f'raise SystemExit("foreign {name} was imported")\n'
        (tmp_path / f'{name}.py').write_text(module)
    foreign = tmp_path / 'hourglass_npu'
    foreign.mkdir()
    (foreign / '__init__.py').write_text('raise SystemExit("foreign")\n')
    done = run(
        [sys.executable, path, '--help'],
        env=dict(PYTHONPATH=str(tmp_path)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f'usage: {path.name}' in done.stdout


def test_pythons_own_test_package_stays_importable(run):
    program = (
        'import runpy, sys\n'
        f'sys.argv = [{str(ROOT / "demo.py")!r}, "--help"]\n'
        'try:\n'
        '    runpy.run_path(sys.argv[0], run_name="__main__")\n'
        'except SystemExit as end:\n'
        '    assert not end.code\n'
        'import test.support\n'
        'print("imported")\n'
    )
    done = run([sys.executable, '-c', program])
    assert done.stdout.endswith('imported\n'), done.stderr


def test_importing_the_package_takes_the_standard_library_only(run):
    program = (
        'import sys; before = set(sys.modules)\n'
        'import hourglass_npu, hourglass_npu.cli, hourglass_npu.errors\n'
        'new = {n.partition(".")[0] for n in set(sys.modules) - before}\n'
        'print(new & {"numpy", "torch", "cv2", "mmcv", "mmpose", "PIL"})\n'
    )
    done = run([sys.executable, '-c', program])
    assert done.stdout == 'set()\n', done.stderr


def test_a_torch_npu_that_cannot_load_does_not_take_torch_along(run, tmp_path):
    """From 2.5 on torch loads it by itself, and raises where CANN lacks."""
    package = tmp_path / 'torch_npu'
    package.mkdir()
    (package / '__init__.py').write_text('raise ImportError("libhccl.so")')
    info = tmp_path / 'torch_npu-2.6.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Name: torch_npu\nVersion: 2.6.0\n')
    (info / 'entry_points.txt').write_text(
        '[torch.backends]\ntorch_npu = torch_npu:_autoload\n'
    )
    code = (
        'from hourglass_npu import cli; cli._load("train"); import torch; '
        'from mmcv.runner.dist_utils import set_device; '
        'from hourglass_npu.process import tell_of_idle_npus; '
        'print(set_device("auto")); tell_of_idle_npus()'
    )
    done = run(
        [sys.executable, '-c', code], env=dict(PYTHONPATH=str(tmp_path))
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'cpu'
    assert 'warning: no NPU is used: torch_npu cannot be' in done.stderr
    assert 'libhccl.so); source env.sh first' in done.stderr


@pytest.mark.parametrize(
    'given, wanted',
    [(None, 'PASSIVE 2000'), ('active', 'active None')],
    ids=['unset', 'chosen'],
)
def test_waiting_threads_sleep_unless_the_user_chose(run, given, wanted):
    code = (
        'import os; from hourglass_npu import cli; cli._load("shape"); '
        'get = os.environ.get; '
        'print(get("OMP_WAIT_POLICY"), get("GOMP_SPINCOUNT"))'
    )
    done = run(
        [sys.executable, '-c', code],
        env={} if given is None else dict(OMP_WAIT_POLICY=given),
    )
    assert done.stdout.split('\n')[-2:] == [wanted, ''], done.stderr
