"""The simulated NPU for the tests of this folder; docs/NPU_SIMULATOR.md.

The package lies in ``packages/``, which must not be on this process's path:
for the other tests there is no NPU.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from mpii_data import write_annotations, write_mpii, write_tiny_config

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(__file__).with_name('packages')
SAMPLE = ROOT / 'mmpose-master/data/mpii_sample'
BUILD = PACKAGES / 'torch_npu/_build.py'
OLDEST_TORCH = (2, 11)


@pytest.fixture(scope='session')
def simulator(run):
    """Builds the simulator; skips what needs it where that cannot be.

    Where ``CI`` is ``true`` a missing compiler is a failure, for else nobody
    would notice that the NPU's lines are not run any more.

    Returns:
        dict: Environment of a process that shall have eight NPUs.
    """
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < OLDEST_TORCH:
        pytest.skip(
            'the simulated NPU needs torch 2.11 or later, this is '
            f'{torch.__version__}; see the stand-ins in '
            'tests/mmcv_need/test_dist_utils.py'
        )
    own = {
        name: os.environ[name]
        for name in ('CXX', 'NPU_SIM_CACHE', 'XDG_CACHE_HOME')
        if name in os.environ
    }
    built = run(
        [sys.executable, BUILD],
        env=own,
        timeout=580,
    )
    if built.returncode:
        reason = built.stderr.strip() or built.stdout
        if os.environ.get('CI') == 'true':
            pytest.fail(reason)
        pytest.skip(reason)
    path = [str(PACKAGES)] + os.environ.get('PYTHONPATH', '').split(os.pathsep)
    return dict(own, PYTHONPATH=os.pathsep.join(filter(None, path)))


@pytest.fixture
def npu(simulator, run, tmp_path):
    """Runs commands on a host with eight NPUs, in the bundle's folder.

    Returns:
        callable: ``npu(*command, status=0, **environment)`` gives the
        CompletedProcess, with the simulator's reports by rank in
        ``reports``.
    """
    runs = []

    def execute(*command, status=0, timeout=300, **environment):
        runs.append(tmp_path / f'reports{len(runs)}')
        environment = dict(simulator, NPU_SIM_LOG=str(runs[-1]), **environment)
        done = run(command, env=environment, timeout=timeout)
        assert done.returncode == status, (
            done.stdout[-2000:] + done.stderr[-4000:]
        )
        reports = [
            json.loads(path.read_text()) for path in runs[-1].glob('*.json')
        ]
        # A launcher and a check of the request touch no device.
        reports = [report for report in reports if report['initialized']]
        done.reports = sorted(reports, key=lambda report: report['rank'])
        return done

    return execute


@pytest.fixture(scope='session')
def sample(run):
    """Draws the sample data, unless they have been drawn."""
    if not SAMPLE.exists():
        tool = ROOT / 'mmpose-master/tools/make_sample_mpii.py'
        run([sys.executable, tool], timeout=300)
    return SAMPLE


@pytest.fixture(scope='session')
def few(sample, tmp_path_factory):
    """Options that let ``--sample`` train on 16 people and evaluate 8."""
    folder = tmp_path_factory.mktemp('few')
    for split, count in dict(train=16, val=8).items():
        notes = (sample / f'annotations/mpii_{split}.json').read_text()
        write_annotations(folder, split, json.loads(notes)[:count])
    files = {
        split: folder / 'annotations' / f'mpii_{name}.json'
        for split, name in dict(train='train', val='val', test='val').items()
    }
    return [
        *(f'data.{split}.ann_file={path}' for split, path in files.items()),
        *('total_epochs=1', 'log_config.interval=1'),
    ]


@pytest.fixture
def tiny(tmp_path):
    """Path of a tiny config, and the environment that names its data."""
    folder = write_mpii(tmp_path / 'mpii', train=12)
    return write_tiny_config(tmp_path), dict(MPII_ROOT=str(folder))
