"""Short trainings: a dry run, a profile, and the search for a batch size."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile

from mmcv.runner.dist_utils import BACKENDS, device_count
from mmpose.datasets.builder import DATASETS

from hourglass_npu.errors import UserError
from hourglass_npu.paths import MMPOSE_ROOT

DRY_ITERATIONS = 3
"""Training iterations of ``--dry-run``, and of a trial of a batch size: the
second one is the first that has the optimizer's state from the start."""

DRY_PEOPLE = 8
"""People for each process that the evaluation of a dry run looks at."""

TOO_LARGE = 77
"""Exit status of a trial whose batch does not fit into the memory."""

MOST = 2**16
"""Largest batch that is tried."""

MEMORY_WORDS = ('out of memory', 'failed to allocate', "can't allocate memory")


@DATASETS.register_module()
class FewSamples:
    """The first samples of a data set, repeated if it has fewer.

    Args:
        dataset (dict): Settings of the data set.
        most (int): Samples to give.
        repeat (bool): Give so many even if the data set has fewer.
        test_mode (bool): For the data set.
    """

    def __init__(self, dataset, most, repeat=False, test_mode=False):
        from mmpose.datasets import build_dataset

        self.dataset = build_dataset(
            copy.deepcopy(dataset), dict(test_mode=test_mode)
        )
        count = len(self.dataset)
        self._count = most if repeat and count else min(most, count)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self.dataset[index % len(self.dataset)]

    def __getattr__(self, name):
        if name == 'dataset':  # not yet there: unpickled in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def evaluate(self, outputs, *args, **kwargs):
        """Score the few as if the others had been predicted like the first.

        Args:
            outputs (list): One for each sample.
            *args: For the data set.
            **kwargs: Likewise.

        Returns:
            dict[str, float]: Scores, which only show that there are any.
        """
        rest = len(self.dataset) - len(outputs)
        return self.dataset.evaluate(
            list(outputs) + outputs[:1] * rest, *args, **kwargs
        )


def shorten(cfg, iterations, world_size, validate):
    """Make a config one of a short training, in place.

    Args:
        cfg (mmcv.Config): The config.
        iterations (int): Of training.
        world_size (int): Processes.
        validate (bool): End with a checkpoint and an evaluation on a few
            people; otherwise there is neither.
    """
    batch = batch_of(cfg)
    few = iterations * batch * world_size
    cfg.data.train = dict(
        type='FewSamples', dataset=cfg.data.train, most=few, repeat=True
    )
    cfg.data.val = dict(
        type='FewSamples', dataset=cfg.data.val, most=DRY_PEOPLE * world_size
    )
    cfg.workflow = [('train', 1)]
    cfg.total_epochs = 1
    cfg.resume_from = None
    cfg.lasting_workers = False
    cfg.log_config.interval = 1
    for hook in cfg.log_config.hooks:
        hook.pop('interval', None)
    saving = cfg.get('checkpoint_config')
    if not validate:
        cfg.checkpoint_config = None
    elif saving is not None:
        saving.pop('out_dir', None)
        if 'type' not in saving:
            saving.update(interval=1, by_epoch=True)
    if cfg.get('evaluation') is not None:
        cfg.evaluation.interval = 1


def batch_of(cfg):
    """Return the samples of a step in each process.

    Args:
        cfg (mmcv.Config): The config.

    Returns:
        int: At least 1.
    """
    loader = cfg.data.get('train_dataloader') or {}
    return loader.get('samples_per_gpu', cfg.data.get('samples_per_gpu', 1))


def lacks_memory(error):
    """Tell whether an error means that a device has too little memory.

    Args:
        error (BaseException): Of a training.

    Returns:
        bool: Whether it does, as far as the message tells.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in MEMORY_WORDS
    )


def choose_batch(args, cfg):
    """Obey ``--batch``, and find out what fits if it is ``auto``.

    Args:
        args (argparse.Namespace): Of ``hourglass train``; ``words`` are the
            command line, and ``cfg_options`` gets the batch.
        cfg (mmcv.Config): Changed in place.

    Raises:
        UserError: Nothing fits, or the device is a CPU.
    """
    if args.batch is None:
        return
    batch = args.batch
    if batch == 'auto':
        kind = (args.device or 'auto').partition(':')[0]
        if kind == 'auto':
            kind = next(kind for kind in BACKENDS if device_count(kind))
        if kind == 'cpu':
            raise UserError(
                '--batch auto is for devices with a memory of their own: on '
                'a CPU give a number'
            )
        batch = find_batch(_without_batch(args.words), batch_of(cfg))
        print(
            f'--batch auto: {batch} samples on each device; the learning '
            'rate is still that of the config',
            flush=True,
        )
    cfg.data.samples_per_gpu = batch
    loader = cfg.data.get('train_dataloader') or {}
    if 'samples_per_gpu' in loader:
        loader['samples_per_gpu'] = batch
    # What was asked for is not lowered where processes share cores.
    asked = [f'data.samples_per_gpu={batch}']
    args.cfg_options = [*(args.cfg_options or ()), asked]


def _without_batch(words):
    """Leave options out that a trial has not."""
    kept = []
    for before, word in zip(['', *words], words):
        if before != '--batch' and word not in ('--batch', '--dry-run'):
            if not word.startswith('--batch='):
                kept.append(word)
    return kept


def find_batch(arguments, start, most=MOST):
    """Find the largest batch that can be trained with, by trying.

    Each trial is a process of its own, so that no memory is left over from
    the one before.

    Args:
        arguments (list[str]): Of ``hourglass train``, with ``--batch auto``
            left out.
        start (int): Batch to try first.
        most (int): Largest batch to try.

    Returns:
        int: The batch: exact up to 64, above that the largest multiple of 8.

    Raises:
        UserError: Not even one sample fits, or a trial fails for another
            reason.
    """
    tried = {}

    def fits(batch):
        if batch not in tried:
            tried[batch] = _try_batch(arguments, batch)
            words = 'fits' if tried[batch] else 'does not fit'
            print(f'--batch auto: {batch} {words}', flush=True)
        return tried[batch]

    good, bad = 0, most + 1
    batch = min(max(start, 1), most)
    while good < batch < bad:
        if fits(batch):
            good, batch = batch, min(2 * batch, most)
        else:
            bad, batch = batch, batch // 2
    while True:
        step = 8 if good >= 64 else 1
        middle = (good + bad) // 2 // step * step
        if not good < middle < bad:
            break
        if fits(middle):
            good = middle
        else:
            bad = middle
    if not good:
        raise UserError(
            '--batch auto: not even one sample fits into the memory of the '
            'device: other programs may use it, or take a smaller image_size'
        )
    return good


def _try_batch(arguments, batch):
    """Train a few steps in a new process; return whether it had memory."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                str(MMPOSE_ROOT / 'tools/train.py'),
                *arguments,
                *('--batch', str(batch), '--try-batch'),
                *('--work-dir', folder, '--no-validate'),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
    if done.returncode == 0:
        return True
    if done.returncode in (TOO_LARGE, -9):  # -9: by the kernel
        return False
    lines = done.stdout.strip().splitlines() or ['nothing was printed']
    told = [line for line in lines if line.startswith('error: ')]
    raise UserError(
        f'--batch auto: the trial with {batch} failed, but not for lack of '
        f'memory (status {done.returncode}): '
        f'{(told or lines)[-1].replace("error: ", "", 1)}'
    )


class DryRun:
    """A folder beside the work folder, in which a dry run is made.

    Args:
        cfg (mmcv.Config): Its ``work_dir`` becomes that folder.
    """

    def __init__(self, cfg):
        work_dir = os.path.abspath(cfg.work_dir)
        self._parent = os.path.dirname(work_dir)
        self._folder = cfg.work_dir = f'{work_dir}.dry_run'

    def finish(self):
        """Remove the folder.

        Returns:
            str: What the dry run has shown, in a line.
        """
        with os.scandir(self._folder) as entries:
            sizes = [
                entry.stat().st_size
                for entry in entries
                if entry.name.endswith('.pth') and not entry.is_symlink()
            ]
        shutil.rmtree(self._folder, ignore_errors=True)
        saved = 'no checkpoint is saved'
        if sizes:
            free = shutil.disk_usage(self._parent).free
            saved = (
                f'a checkpoint has {max(sizes) / 2**20:.1f} MiB, and the disk '
                f'has room for {free // max(sizes)}'
            )
        return f'Dry run: {DRY_ITERATIONS} iterations are done; {saved}'
