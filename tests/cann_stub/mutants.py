#!/usr/bin/env python3
"""Takes the device away at one place at a time, and sees it being caught.

Each mutant is a copy of a package in which one device argument, or one
word between two streams, is missing. It counts as caught if the command that
is named with it fails, or does not do its work on the device that it was
given.

Usage: bash scripts/cann_stub.sh python tests/cann_stub/mutants.py [NAME...]
    without names: all; status 1 if one survives
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mpii_data import write_mpii, write_tiny_config  # noqa: E402

# By name: package, file, text, replacement, command.
MUTANTS = {
    'unpack': (
        'mmcv',
        'parallel/data_parallel.py',
        'tensor.to(device, non_blocking=device.index is not None)',
        'tensor',
        'train in_turn',
    ),
    'copy': (
        'hourglass_npu',
        'devices.py',
        'sent = tensor.to(device, non_blocking=True)',
        'sent = tensor',
        'train',
    ),
    'wait_for_copy': (
        'hourglass_npu',
        'devices.py',
        'computing.wait_stream(copying)',
        'pass',
        'train',
    ),
    'keep_for_step': (
        'hourglass_npu',
        'devices.py',
        'sent.record_stream(computing)',
        'pass',
        'train',
    ),
    'model': (
        'mmpose',
        'apis/train.py',
        'model = model.to(device)',
        'model = model',
        'train',
    ),
    'set_device': (
        'mmcv',
        'runner/dist_utils.py',
        'npu.set_device(device)',
        'pass',
        'train 2',
    ),
    'npuid': (
        'mmcv',
        'runner/dist_utils.py',
        "offset = _env_int('NPUID', 0) if device_type == 'npu' else 0",
        'offset = 0',
        'train',
    ),
    'inputs_of_ranks': (
        'mmcv',
        'parallel/distributed.py',
        'unpack(data, device, self.send)',
        'unpack(data, None)',
        'train 2',
    ),
    'overflow_sum': (
        'hourglass_npu',
        'o2/tensors.py',
        'found = torch.zeros((), device=device)',
        'found = torch.zeros((1,))',
        'train o2',
    ),
}


class Bench:
    """A tiny training set to run commands on.

    Args:
        folder (Path): For everything.
    """

    # Not the first one: whoever forgets about the device ends up there.
    NUMBER = 3

    def __init__(self, folder):
        self.folder = folder
        self.config = write_tiny_config(folder)
        self.data = write_mpii(folder / 'mpii', train=10, val=2)
        self.packages = {
            name: Path(self.find(name)).parent
            for name in ('mmcv', 'mmpose', 'hourglass_npu')
        }
        done = self.run(None, 'train')
        if not self.is_fine(done):
            raise RuntimeError('unchanged, it fails: ' + done.stderr[-2000:])

    @staticmethod
    def find(name):
        """Return the file of an installed package, without importing it."""
        from importlib.util import find_spec

        return find_spec(name).origin

    def mutate(self, package, file, text, replacement):
        """Return a folder with a changed copy of a package.

        Raises:
            ValueError: The text is not there, or not once.
        """
        folder = Path(tempfile.mkdtemp(dir=str(self.folder)))
        copy = folder / package
        shutil.copytree(
            str(self.packages[package]),
            str(copy),
            ignore=shutil.ignore_patterns('__pycache__'),
        )
        source = (copy / file).read_text()
        if source.count(text) != 1:
            raise ValueError(f'{file} does not hold once: {text}')
        (copy / file).write_text(source.replace(text, replacement))
        return folder

    def run(self, mutant, command):
        """Run a command on the stand-in's NPUs.

        Args:
            mutant (Path | None): From :meth:`mutate`.
            command (str): 'train'; 'train 2' with two ranks, 'train o2' in
                mixed precision, 'train in_turn' without a stream of copies.
        """
        variant = command.partition(' ')[2]
        self.work = Path(tempfile.mkdtemp(dir=str(self.folder)))
        self.reports = self.work / 'reports'
        # torch_npu is on the path already.
        path = os.environ['PYTHONPATH'].split(os.pathsep)
        if mutant is not None:
            path.insert(0, str(mutant))
        words = [sys.executable]
        if variant == '2':
            words += ['-m', 'torch.distributed.run', '--standalone']
            words += ['--nproc_per_node=2', '--local-addr=127.0.0.1']
        # Not tools/train.py, which takes the package beside it.
        words += ['-m', 'hourglass_npu', 'train', self.config]
        words += ['--work-dir', self.work]
        words += ['--no-validate', '--cfg-options', 'total_epochs=1']
        # A line of the log waits for the device, and hides what does not.
        words += ['log_config.interval=100']
        words += ['data.samples_per_gpu=1'] * (variant == '2')
        words += ['amp=none'] * (variant != 'o2')
        words += ['device_prefetch=False'] * (variant == 'in_turn')
        environment = dict(
            os.environ,
            MPII_ROOT=str(self.data),
            NPUID=str(self.NUMBER),
            CANN_STUB_LOG=str(self.reports),
            OMP_NUM_THREADS='1',
            # Faults of an operator are said where it is called.
            TASK_QUEUE_ENABLE='0',
            PYTHONDONTWRITEBYTECODE='1',
            PYTHONPATH=os.pathsep.join(path),
        )
        return subprocess.run(
            [str(word) for word in words],
            env=environment,
            capture_output=True,
            text=True,
        )

    def is_fine(self, done):
        """Tells whether a command did its work where it should."""
        reports = [
            json.loads(path.read_text())
            for path in self.reports.glob('*.json')
        ]
        reports = [report for report in reports if report['kernels']]
        return (
            done.returncode == 0
            and bool(reports)
            and all(
                report['kernels'].get('aclnnConvolutionBackward')
                and report['settings']['device'][-1]
                == str(self.NUMBER + report['rank'])
                for report in reports
            )
        )


def survivors(names):
    """Return the names of mutants that nothing has caught.

    Args:
        names (Iterable[str]): Keys of :data:`MUTANTS`.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in names:
            *change, command = MUTANTS[name]
            done = bench.run(bench.mutate(*change), command)
            if bench.is_fine(done):
                found.append(name)
                print(f'{name}: SURVIVES {command}')
                continue
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            said = [line for line in lines if 'CANN stub: ' in line]
            said += [line for line in lines if 'Error: ' in line] + lines[-1:]
            words = said[0] if done.returncode else 'not on its device'
            print(f'{name}: caught by {command}: {words}')
    return found


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME')
    names = parser.parse_args().names or list(MUTANTS)
    unknown = sorted(set(names) - set(MUTANTS))
    if unknown:
        parser.error(f'{unknown[0]} is none of {", ".join(MUTANTS)}')
    return bool(survivors(names))


if __name__ == '__main__':
    sys.exit(main())
