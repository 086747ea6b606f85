"""The real torch_npu on a stand-in for CANN; docs/CANN_STUB.md.

Neither is on this process's path: for the other tests there is no NPU.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from mpii_data import write_annotations, write_mpii, write_tiny_config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SAMPLE = ROOT / 'mmpose-master/data/mpii_sample'
BUILD = HERE / 'build.py'

# Status of build.py where torch or Python has no torch_npu.
NOT_SERVED = 3


@pytest.fixture(scope='session')
def cann_stub(run):
    """Build the stand-in; skip what needs it where that cannot be.

    Where ``CI`` is ``true`` only a torch or Python that torch_npu does not
    serve is a reason to skip: else nobody would notice that the NPU's lines
    are not run any more.

    Returns:
        dict: Environment of a process that has eight NPUs.
    """
    given = ('CXX', 'CANN_STUB_CACHE', 'PIP_INDEX_URL', 'TORCH_NPU_WHEELS')
    own = {name: os.environ[name] for name in given if name in os.environ}
    built = run([sys.executable, BUILD, '--show'], env=own, timeout=580)
    if built.returncode:
        reason = built.stderr.strip() or built.stdout
        if os.environ.get('CI') == 'true' and built.returncode != NOT_SERVED:
            pytest.fail(reason)
        pytest.skip(reason)
    lines = built.stdout.splitlines()
    return dict(own, **dict(line.split('=', 1) for line in lines))


@pytest.fixture
def npu(cann_stub, run, tmp_path):
    """Run commands on a host with eight NPUs, in the bundle's folder.

    Returns:
        callable: ``npu(*command, status=0, **environment)`` gives the
        CompletedProcess, with the stand-in's reports by rank in ``reports``.
    """
    runs = []

    def execute(*command, status=0, timeout=300, **environment):
        runs.append(tmp_path / f'reports{len(runs)}')
        environment = dict(
            cann_stub, CANN_STUB_LOG=str(runs[-1]), **environment
        )
        done = run(command, env=environment, timeout=timeout)
        assert done.returncode == status, (
            done.stdout[-2000:] + done.stderr[-4000:]
        )
        reports = [
            json.loads(path.read_text()) for path in runs[-1].glob('*.json')
        ]
        # A launcher and a check of the request touch no device.
        reports = [report for report in reports if report['kernels']]
        done.reports = sorted(reports, key=lambda report: report['rank'])
        return done

    return execute


@pytest.fixture(scope='session')
def sample(run):
    """Draw the sample data, unless they have been drawn."""
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
        *('total_epochs=1', 'log_config.interval=1', 'data.samples_per_gpu=4'),
    ]


@pytest.fixture
def tiny(tmp_path):
    """Path of a tiny config, and the environment that names its data."""
    folder = write_mpii(tmp_path / 'mpii', train=12)
    return write_tiny_config(tmp_path), dict(MPII_ROOT=str(folder))
