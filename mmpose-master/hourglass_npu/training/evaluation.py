"""Evaluation during a training that can be resumed exactly."""

import os
import os.path as osp

import mmcv
from mmcv.runner.epoch_based_runner import get_random_state, set_random_state
from mmpose.core import DistEvalHook, EvalHook

from hourglass_npu.training.checkpoints import (
    ResumableCheckpointHook,
    saving_hook,
)
from hourglass_npu.training.ranks import barrier, broadcast_object


class _ResumableEvaluation:
    """Let a resumed run end like one that was never stopped.

    Evaluation leaves the random draws of the training alone. The best score
    so far is part of the checkpoint. Since a checkpoint is saved before it is
    evaluated, a run that resumes at the end of an epoch begins with that
    epoch's evaluation. ``best.json`` follows the checkpoint: it never names
    scores of another run, or of epochs that were given up. The checkpoint
    that it names is there: if none was due, one is saved.
    """

    evaluated = 0
    _restored = False

    def state_dict(self):
        """Return the best evaluation, and the last epoch evaluated."""
        return dict(best=dict(self.best_json), evaluated=self.evaluated)

    def load_state_dict(self, state):
        """Restore what :meth:`state_dict` returned."""
        self._restored = True
        self.evaluated = state['evaluated']
        best = state['best']
        # Scores of different measures cannot be compared.
        if best.get('key_indicator') == self.key_indicator:
            self.best_json = dict(best)
            self.best_score = best['best_score']

    def before_run(self, runner):
        """Make ``best.json`` that of this run, and evaluate if due."""
        if runner.iter and not self._restored:
            return  # from a checkpoint of mmpose, which leaves it to the file
        path = osp.join(runner.work_dir, 'best.json')
        if runner.rank == 0:
            if self.best_json:
                mmcv.dump(self.best_json, path)
            elif osp.exists(path):
                os.remove(path)
        barrier()
        if runner.epoch > self.evaluated:
            # The hook means the epoch that is about to end.
            runner._epoch -= 1
            self.after_train_epoch(runner)
            runner._epoch += 1

    def after_train_epoch(self, runner):
        """Evaluate if due, and restore the training's random state."""
        if not self.every_n_epochs(runner, self.interval):
            return
        state = get_random_state()
        try:
            super().after_train_epoch(runner)
        finally:
            set_random_state(state)
        self.evaluated = runner.epoch + 1
        if 'best_score' in self.best_json:
            # Not numpy's: it goes into checkpoints.
            self.best_json['best_score'] = float(self.best_json['best_score'])
        if self.save_best:
            self._name_best(runner)

    def _name_best(self, runner):
        """Let ``best.json`` name the file that holds what was evaluated."""
        name = f'epoch_{runner.epoch + 1}.pth'
        # So says mmpose, whatever saves the checkpoints, and where.
        said = osp.join(runner.work_dir, name)
        better = self.best_json.get('best_ckpt') == said
        saving = saving_hook(runner)
        if isinstance(saving, ResumableCheckpointHook):
            path, there = saving.path_of_best(runner)
            if not there:
                better = broadcast_object(better)
        elif saving is not None and saving.by_epoch:
            template = saving.args.get('filename_tmpl', 'epoch_{}.pth')
            folder = saving.out_dir or runner.work_dir
            path = osp.join(folder, template.format(runner.epoch + 1))
            there = better = better and osp.isfile(path)
        else:
            return
        if not better:
            return
        if runner.rank == 0:
            self.best_json['best_ckpt'] = path
        if not there:
            saving.save_best(runner)
        if runner.rank == 0 and path != said:
            self.logger.info(f'Its file is {path}')
            mmcv.dump(self.best_json, osp.join(runner.work_dir, 'best.json'))


class ResumableEvalHook(_ResumableEvaluation, EvalHook):
    """mmpose's evaluation in one process, fit for an exact resume."""


class ResumableDistEvalHook(_ResumableEvaluation, DistEvalHook):
    """mmpose's evaluation on all ranks, fit for an exact resume."""
