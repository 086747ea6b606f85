"""Checkpoints of a training: list them, pick a whole one, save in order."""

import contextlib
import glob
import logging
import os
import os.path as osp
import time

import mmcv
from mmcv.runner import CheckpointHook
from mmcv.runner.checkpoint import load_from_local
from mmcv.runner.hooks.optimizer import amid_step
from mmpose.core import EvalHook

from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.training.ranks import average_bn_stats, broadcast_object


def list_checkpoints(folder, filename_tmpl=None):
    """List the checkpoints of a training, the latest first.

    Args:
        folder (str): Work folder. It need not exist.
        filename_tmpl (str | None): Name of the checkpoints, with a place for
            the number, if it is not one of the usual two.

    Returns:
        list[tuple[str, str, int]]: Path, template and number of each. The
        file that was written last comes first, whatever its number: the
        training may have resumed from an earlier one.
    """
    templates = ['epoch_{}.pth', 'iter_{}.pth']
    if filename_tmpl is not None and filename_tmpl not in templates:
        templates.insert(0, filename_tmpl)
    found = []
    for template in templates:
        before, _, after = template.partition('{}')
        for path in glob.glob(osp.join(glob.escape(folder), '*')):
            name = osp.basename(path)
            number = name[len(before) : len(name) - len(after)]
            if name == template.format(number) and number.isdigit():
                with contextlib.suppress(FileNotFoundError):
                    written = os.stat(path).st_mtime_ns
                    found.append((written, int(number), path, template))
    found.sort(reverse=True)
    return [(path, template, number) for _, number, path, template in found]


def find_whole_checkpoint(folder, filename_tmpl=None, logger=None):
    """Find the latest whole checkpoint of a training.

    That is ``latest.pth``, unless it is missing or damaged. Damaged files are
    named in the log and stay where they are.

    Args:
        folder (str): Work folder.
        filename_tmpl (str | None): See :func:`list_checkpoints`.
        logger (logging.Logger | None): Told which files are passed over.

    Returns:
        str | None: Path; None if there is no checkpoint at all.

    Raises:
        UserError: There are checkpoints, but none is whole.
    """
    paths = [path for path, _, _ in list_checkpoints(folder, filename_tmpl)]
    latest = osp.join(folder, 'latest.pth')
    if osp.lexists(latest):
        paths.insert(0, latest)
    tried = set()
    for path in paths:
        if osp.realpath(path) in tried:
            continue
        tried.add(osp.realpath(path))
        try:
            load_from_local(path, 'cpu')
            return path
        except (OSError, ValueError) as error:
            # A damaged file is a mistake of the user; a bug is not.
            if not isinstance(error, OSError) and not is_user_error(error):
                raise
            mmcv.print_log(
                f'Passed over: {error}', logger, level=logging.WARNING
            )
    if tried:
        raise UserError(
            f'no checkpoint in {folder} is whole: bring one back, or remove '
            'them to start from the beginning'
        )
    return None


class ResumableCheckpointHook(CheckpointHook):
    """Save checkpoints that hold the random states of all ranks.

    ``max_keep_ckpts`` limits the number of files, of epochs and of iterations
    alike; the best checkpoint stays in addition. Files with a higher number
    also stay: they belong to a run that was given up.

    Args:
        *args: As for mmcv's ``CheckpointHook``.
        interval_minutes (float | None): Also save inside an epoch when the
            last checkpoint is this old. The file, ``iter_N.pth``, replaces
            the one that this run saved so before. None: never.
        **kwargs: As for mmcv's ``CheckpointHook``.

    Raises:
        UserError: ``interval_minutes`` is not a positive number.
    """

    # Iterations between two looks at the clock, at most.
    LOOK_AFTER = 1000

    def __init__(self, *args, interval_minutes=None, **kwargs):
        super().__init__(*args, **kwargs)
        if interval_minutes is not None and not (
            isinstance(interval_minutes, (int, float)) and interval_minutes > 0
        ):
            raise UserError(
                f'checkpoint_config.interval_minutes={interval_minutes!r} '
                'must be a positive number, or None'
            )
        self.interval_minutes = interval_minutes
        self._saved_by_time = None
        self._late = False  # due, but a step was not complete

    def before_run(self, runner):
        """Start the clock."""
        self._restart_clock()

    def after_train_iter(self, runner):
        """Save if a checkpoint is due, by iterations or by the clock.

        Gradients that wait for further iterations of a step are in no
        checkpoint: what is due amid a step is saved when it is complete.
        """
        due = not self.by_epoch and self.every_n_iters(runner, self.interval)
        if amid_step(runner):
            self._late = self._late or due
        elif due:
            super().after_train_iter(runner)
        elif self._late:
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iters')
            average_bn_stats(runner.model)
            self._save_checkpoint(runner)
        elif self.interval_minutes is not None and self._is_time():
            self._save_by_time(runner)

    def _restart_clock(self):
        self._late = False
        self._saved_at = self._looked_at = time.monotonic()
        self._stride = self._iters_to_look = 1

    def _is_time(self):
        """Ask the clock of rank 0, which decides for all ranks.

        The ranks do not meet in every iteration: the next look is, by the
        pace so far, halfway to the time.
        """
        self._iters_to_look -= 1
        if self._iters_to_look:
            return False
        now = time.monotonic()
        left = self._saved_at + 60 * self.interval_minutes - now
        pace = max((now - self._looked_at) / self._stride, 1e-6)
        stride = min(max(int(left / pace / 2), 1), self.LOOK_AFTER)
        is_time, stride = broadcast_object((left <= 0, stride))
        self._looked_at = now
        self._stride = self._iters_to_look = stride
        return is_time

    def _save_checkpoint(self, runner):
        self._save(runner, self._write)

    def _save_by_time(self, runner):
        runner.logger.info(
            f'Saving checkpoint at {runner.iter + 1} iterations, '
            f'{self.interval_minutes} minutes after the last one'
        )
        average_bn_stats(runner.model)
        self._save(runner, self._replace_by_time)

    def _save(self, runner, write):
        for hook in runner.hooks:
            if hasattr(hook, 'before_save'):
                hook.before_save(runner)
        # Every rank gathers; rank 0 writes.
        runner.gather_random_states()
        if runner.rank == 0:
            write(runner)
        self._restart_clock()

    def _write(self, runner):
        if not self.out_dir:
            self.out_dir = runner.work_dir
        runner.save_checkpoint(
            self.out_dir, save_optimizer=self.save_optimizer, **self.args
        )
        files = list_checkpoints(self.out_dir, self.args.get('filename_tmpl'))
        latest, template, number = files[0]
        if runner.meta is not None:
            runner.meta.setdefault('hook_msgs', {})['last_ckpt'] = latest
        if self.max_keep_ckpts <= 0:
            return
        best = [
            osp.basename(hook.best_json.get('best_ckpt', ''))
            for hook in runner.hooks
            if isinstance(hook, EvalHook)
        ]
        files = [f for f in files if f[1] != template or f[2] <= number]
        for path, _, _ in files[self.max_keep_ckpts :]:
            if osp.basename(path) not in best:
                try:
                    os.remove(path)
                except OSError as error:
                    runner.logger.warning('Could not be removed: %s', error)

    def _replace_by_time(self, runner):
        folder = self.out_dir or runner.work_dir
        settings = dict(self.args, filename_tmpl='iter_{}.pth')
        runner.save_checkpoint(
            folder, save_optimizer=self.save_optimizer, **settings
        )
        before = self._saved_by_time
        self._saved_by_time = osp.join(folder, f'iter_{runner.iter + 1}.pth')
        if before is not None and osp.exists(before):
            os.remove(before)
