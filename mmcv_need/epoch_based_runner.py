"""The runner that trains epoch by epoch.

Beyond mmcv 1.2.7: an epoch ends with its speed in the log, ``latest.pth``
always stands for a whole checkpoint, and nobody sleeps. (mmcv waits 2 s
before each epoch for fear of a dead-lock between the data-loader workers of
two epochs, and 1 s at the end for loggers. In every torch that we support an
exhausted loader joins its workers before it says that it is exhausted, so
those of the next epoch never meet them; and loggers finish in ``after_run``.)
"""

import os.path as osp
import warnings

import mmcv
import torch

from .base_runner import BaseRunner
from .builder import RUNNERS
from .checkpoint import link_checkpoint, save_checkpoint
from .dist_utils import synchronize
from .hooks import IterTimerHook
from .utils import get_host_info


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains and validates in turns of whole epochs."""

    def run_iter(self, data_batch, train_mode, **kwargs):
        """Put one batch through the model.

        Args:
            data_batch (Any): What the data loader gave.
            train_mode (bool): Whether to train or to validate.
            **kwargs: For the model's step.

        Raises:
            TypeError: The model's step did not return a dict.
        """
        if self.batch_processor is not None:
            outputs = self.batch_processor(
                self.model, data_batch, train_mode=train_mode, **kwargs
            )
        else:
            step = self.model.train_step if train_mode else self.model.val_step
            outputs = step(data_batch, self.optimizer, **kwargs)
        if not isinstance(outputs, dict):
            raise TypeError(
                'train_step, val_step or batch_processor must return a dict, '
                f'not {type(outputs)}'
            )
        if 'log_vars' in outputs:
            self.log_buffer.update(outputs['log_vars'], outputs['num_samples'])
        self.outputs = outputs

    def train(self, data_loader, **kwargs):
        """Train one epoch.

        Args:
            data_loader (DataLoader): Its batches.
            **kwargs: Not used.
        """
        self.model.train()
        self.mode = 'train'
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        self.call_hook('before_train_epoch')
        for i, data_batch in enumerate(data_loader):
            self._inner_iter = i
            self.call_hook('before_train_iter')
            self.run_iter(data_batch, train_mode=True)
            self.call_hook('after_train_iter')
            self._iter += 1
        # Here, because hooks may evaluate and save after the epoch.
        self._log_speed()
        self.call_hook('after_train_epoch')
        self._epoch += 1

    @torch.no_grad()
    def val(self, data_loader, **kwargs):
        """Validate one epoch.

        Args:
            data_loader (DataLoader): Its batches.
            **kwargs: Not used.
        """
        self.model.eval()
        self.mode = 'val'
        self.data_loader = data_loader
        self.call_hook('before_val_epoch')
        for i, data_batch in enumerate(data_loader):
            self._inner_iter = i
            self.call_hook('before_val_iter')
            self.run_iter(data_batch, train_mode=False)
            self.call_hook('after_val_iter')
        self.call_hook('after_val_epoch')

    def _log_speed(self):
        """Log the images per second of this epoch over all devices.

        Images are those that the model says it had (``num_samples``), of all
        processes, else the batch size times the number of devices. Without a
        timer hook, or where neither is known, there is nothing to log. The
        device is waited for once, here.
        """
        timers = [h for h in self.hooks if isinstance(h, IterTimerHook)]
        if self.rank != 0 or not timers:
            return
        timer = timers[0]
        if timer.counted_samples is not None:
            images = timer.counted_samples * self.world_size
        elif self.samples_per_gpu is not None:
            per_iter = self.samples_per_gpu * self.num_of_gpus
            images = timer.counted_iters * per_iter
        else:
            return
        synchronize()
        seconds = timer.seconds_until_now()
        speed = images / seconds if images and seconds > 0 else 0.0
        self.logger.info('FPS: %.3f', speed)

    def run(self, data_loaders, workflow, max_epochs=None, **kwargs):
        """Train until the last epoch, with whatever the workflow puts between.

        Args:
            data_loaders (list[DataLoader]): One for each step of the
                workflow.
            workflow (list[tuple[str, int]]): Steps that are repeated in turn:
                name of a method (``train``, ``val``) and number of epochs.
            max_epochs (int | None): Deprecated, belongs to the constructor.
            **kwargs: For the methods.

        Raises:
            TypeError: A step's name is not a str.
            ValueError: There is no method of that name.
        """
        assert isinstance(data_loaders, list)
        assert mmcv.is_list_of(workflow, tuple)
        assert len(data_loaders) == len(workflow)
        if max_epochs is not None:
            warnings.warn(
                'max_epochs of run is deprecated: give it to the runner',
                DeprecationWarning,
                stacklevel=2,
            )
            self._max_epochs = max_epochs
        assert self._max_epochs is not None, 'the runner needs max_epochs'

        # Schedules ask for the number of iterations before the first epoch.
        for (mode, _), data_loader in zip(workflow, data_loaders):
            if mode == 'train':
                self._max_iters = self._max_epochs * len(data_loader)
                break

        self.logger.info(
            'Start running, host: %s, work_dir: %s',
            get_host_info(),
            self.work_dir or 'NONE',
        )
        self.logger.info(
            'workflow: %s, max: %d epochs', workflow, self._max_epochs
        )
        self.call_hook('before_run')
        while self.epoch < self._max_epochs:
            for (mode, epochs), data_loader in zip(workflow, data_loaders):
                run_epoch = self._epoch_method(mode)
                for _ in range(epochs):
                    if mode == 'train' and self.epoch >= self._max_epochs:
                        break
                    run_epoch(data_loader, **kwargs)
        self.call_hook('after_run')

    def _epoch_method(self, mode):
        """Return the method for a step of the workflow."""
        if not isinstance(mode, str):
            raise TypeError(
                f'a workflow names methods, but {mode!r} is {type(mode)}'
            )
        if not hasattr(self, mode):
            raise ValueError(
                f'the workflow wants {mode!r}, but {type(self).__name__} has '
                'no such method: use train or val'
            )
        return getattr(self, mode)

    def save_checkpoint(
        self,
        out_dir,
        filename_tmpl='epoch_{}.pth',
        save_optimizer=True,
        meta=None,
        create_symlink=True,
    ):
        """Save model, optimiser and counters.

        ``epoch`` in the checkpoint is the number of epochs done when this one
        is over, as is the number in the file's name.

        Args:
            out_dir (str): Folder.
            filename_tmpl (str): Name with a place for the number of the
                epoch.
            save_optimizer (bool): Whether to save the optimiser's state.
            meta (dict | None): More to save; the runner's own ``meta`` goes
                over it.
            create_symlink (bool): Whether ``latest.pth`` shall stand for this
                checkpoint.

        Raises:
            TypeError: ``meta`` is no dict.
            OSError: It could not be written; those from before still are
                there.
        """
        if meta is not None and not isinstance(meta, dict):
            raise TypeError(f'meta must be a dict or None, not {type(meta)}')
        meta = dict(meta or {}, epoch=self.epoch + 1, iter=self.iter)
        meta.update(self.meta or {})

        path = osp.join(out_dir, filename_tmpl.format(self.epoch + 1))
        optimizer = self.optimizer if save_optimizer else None
        save_checkpoint(self.model, path, optimizer=optimizer, meta=meta)
        if create_symlink:
            link_checkpoint(path, osp.join(out_dir, 'latest.pth'))


@RUNNERS.register_module()
class Runner(EpochBasedRunner):
    """Old name of :class:`EpochBasedRunner`, deprecated."""

    def __init__(self, *args, **kwargs):
        warnings.warn(
            'Runner is deprecated: use EpochBasedRunner', stacklevel=2
        )
        super().__init__(*args, **kwargs)
