import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hourglass_npu.bootstrap import GUARD, ensure_packages

BUNDLE = Path(__file__).resolve().parents[2]
BOOTSTRAP = BUNDLE / 'mmpose-master/hourglass_npu/bootstrap.py'
SCRIPT = """
import json, os, sys
import runpy
bootstrap = runpy.run_path({path!r})
bootstrap['ensure_packages'](*{names!r})
guarded = bootstrap['GUARD'] in os.environ
print(json.dumps([sys.executable, sys.argv[1:], guarded]))
"""


@pytest.fixture
def run(tmp_path):
    """Run a script that asks for packages, with a stand-in environment."""

    def run(names, venv=True):
        script = tmp_path / 'job.py'
        script.write_text(SCRIPT.format(path=str(BOOTSTRAP), names=names))
        python = tmp_path / 'venv/bin/python'
        if venv:
            python.parent.mkdir(parents=True)
            (tmp_path / 'only_there.py').touch()
            python.write_text(
                f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"'
            )
            python.chmod(0o755)
        return subprocess.run(
            [sys.executable, '-I', str(script), 'a b', '--c'],
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(os.environ, VENV=str(tmp_path / 'venv')),
        )

    return run


def test_nothing_happens_where_all_is_there(run):
    done = run(['json', 'os'], venv=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [sys.executable, ['a b', '--c'], False]


def test_the_environment_goes_on_with_the_same_arguments(run):
    done = run(['json', 'only_there'])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[1:] == [['a b', '--c'], False]


@pytest.mark.parametrize('venv', [True, False])
def test_what_is_nowhere_is_said_once(run, venv):
    done = run(['json', 'nowhere_at_all', 'nor_this'], venv)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith('error: ')
    assert 'lacks nowhere_at_all, nor_this' in done.stderr
    assert f'bash {BUNDLE}/scripts/setup.sh' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_tests_are_never_restarted(tmp_path, monkeypatch):
    python = tmp_path / 'bin/python'
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setenv('VENV', str(tmp_path))
    with pytest.raises(AssertionError, match='would start another program'):
        ensure_packages('nowhere_at_all')
    del os.environ[GUARD]
