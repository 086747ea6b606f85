"""The installation by hand: the block of README.md, as it is written."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

BUNDLE = Path(__file__).resolve().parents[2]
# What the block has to install itself; the rest is taken from here.
OWN = re.compile(r'mmcv|mmpose|xtcocotools|hourglass|__editable__|_virtualenv')


@pytest.fixture
def environment(tmp_path):
    """An environment that has the requirements, but neither mmcv nor mmpose.

    Returns:
        Path: Its folder.
    """
    venv, shared = tmp_path / 'venv', tmp_path / 'shared'
    subprocess.run([sys.executable, '-m', 'venv', str(venv)], check=True)
    shared.mkdir()
    for entry in Path(sysconfig.get_path('purelib')).iterdir():
        if not OWN.match(entry.name.lstrip('_')):
            (shared / entry.name).symlink_to(entry)
    (site,) = venv.glob('lib/python*/site-packages')
    (site / 'shared.pth').write_text(f'{shared}\n')
    return venv


@pytest.mark.processes
@pytest.mark.training
def test_the_block_of_readme(environment, tmp_path):
    if sys.version_info[:2] > (3, 12):
        pytest.skip('README.md says so')
    text = (BUNDLE / 'README.md').read_text(encoding='utf-8')
    (block,) = re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S)
    checkout = tmp_path / 'checkout'
    checkout.mkdir()
    ignored = shutil.ignore_patterns('data', 'work_dirs', '__pycache__')
    for name in ('scripts', 'mmcv_need', 'mmpose-master'):
        shutil.copytree(
            str(BUNDLE / name), str(checkout / name), ignore=ignored
        )
    variables = dict(os.environ, VIRTUAL_ENV=str(environment))
    variables['PATH'] = f'{environment}/bin:{variables["PATH"]}'

    def run(command, cwd):
        return subprocess.run(
            command,
            cwd=str(cwd),
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    done = run(['bash', '-euo', 'pipefail', '-c', block], checkout)
    if re.search('NewConnectionError|NameResolutionError', done.stdout):
        pytest.skip('there is no package index')
    assert done.returncode == 0, done.stdout[-4000:]
    python = str(environment / 'bin/python')
    state = run([python, 'scripts/patches.py', 'status'], checkout)
    assert state.returncode == 0, state.stdout
    assert 'not applied' not in state.stdout
    code = (
        'import mmcv, mmpose, mmcv.runner, mmpose.apis, hourglass_npu\n'
        'print(mmcv.__file__, mmpose.__file__, hourglass_npu.__file__)'
    )
    done = run([python, '-W', 'ignore', '-c', code], tmp_path)
    places = done.stdout.splitlines()[-1].split()
    assert [place.startswith(str(tmp_path)) for place in places] == [True] * 3
