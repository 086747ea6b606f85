"""mmcv/runner/epoch_based_runner.py: train epoch by epoch.

In addition to mmcv 1.2.7, an epoch ends with its speed in the log,
``latest.pth`` always stands for a whole checkpoint, and nothing sleeps. (mmcv
waits 2 s before each epoch, against a deadlock of data workers: in every
supported torch, those of two epochs never meet. Loggers finish in
``after_run``.)

A run that is stopped and resumed ends to the bit like one without a stop: see
:meth:`EpochBasedRunner.save_checkpoint`.
"""

import os.path as osp
import warnings
from itertools import islice

import mmcv
import torch

from .base_runner import BaseRunner
from .builder import RUNNERS
from .checkpoint import link_checkpoint, save_checkpoint
from .dist_utils import UserError, gather_objects, synchronize
from .hooks import IterTimerHook
from .hooks.iter_timer import (
    get_random_state,
    is_count,
    need,
    set_random_state,
    take_up,
)
from .hooks.optimizer import amid_step, engine_of, give_states, states_of

_POINT_KEYS = {'batches_done', 'setup', 'random', 'hooks'}


def check_point(point, name, rank):
    """Refuse a section ``resume`` that no run can go on from.

    Args:
        point (dict): The section.
        name (str): What messages call the checkpoint.
        rank (int): Whose random states are tried out.

    Raises:
        UserError: It is spoilt.
    """

    def check():
        setup, states = point['setup'], point['random']
        need(is_count(point['batches_done']), 'batches_done')
        plain = (int, float, str, type(None))
        known = all(isinstance(value, plain) for value in setup.values())
        need(known and is_count(setup['ranks']), 'setup')
        sizes = setup['samples_per_gpu'], setup['iterations_per_epoch']
        need(all(s is None or is_count(s) for s in sizes), 'setup')
        need(isinstance(point['hooks'], dict), 'hooks')
        if states is None:
            return
        need(len(states) == setup['ranks'], 'random states of the ranks')
        need(states[0].keys() >= {'now'}, 'random states')
        if point['batches_done']:
            need(all('epoch_start' in s for s in states), 'random states')
        before = get_random_state()
        try:
            for state in states[rank].values() if rank < len(states) else ():
                set_random_state(state)
        finally:
            set_random_state(before)

    take_up(f'{name}: its section resume', check)


class _RestOfEpoch:
    """A data loader that once leaves out the batches that are done.

    It stands for the loader from the hooks of ``before_train_epoch`` until
    a loop over ``runner.data_loader`` begins, ours or another runner's. The
    batches are loaded, though: samplers, workers and augmentations must draw
    what they drew before.

    Args:
        runner (EpochBasedRunner): Resumed inside an epoch.
        point (dict): Section ``resume`` of its checkpoint.
    """

    def __init__(self, runner, point):
        self.inner = runner.data_loader
        self.runner = runner
        self.point = point

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        if name == 'inner' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __iter__(self):
        runner, states = self.runner, self.point['random']
        runner.data_loader = self.inner
        done = min(self.point['batches_done'], len(self.inner))
        if states:
            set_random_state(states['epoch_start'])
        runner._begin_epoch(done)
        runner.logger.info(
            'Going on inside of epoch %d: its first %d of %d batches are '
            'loaded again, but not trained on',
            runner.epoch + 1,
            done,
            len(self.inner),
        )
        batches = iter(())
        if done < len(self.inner):
            batches = iter(self.inner)
            for _ in islice(batches, done):
                pass
        if states:
            set_random_state(states['now'])
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook):
                hook.before_epoch(runner)
        return batches


@RUNNERS.register_module()
class EpochBasedRunner(BaseRunner):
    """Trains and validates in turns of whole epochs."""

    # Of the training epoch that runs: batches done (None between epochs) and
    # left out, its first iteration, random state and loader at its start.
    _batches_done = None
    _left_out = 0
    _first_iter = 0
    _epoch_start = None
    _given_loader = None
    # Random states of all ranks, gathered for the next checkpoint (rank 0).
    _rank_states = None
    # Section ``resume`` of a checkpoint, until all of it has been used.
    _point = None
    _runs = False  # since ``before_run``

    def call_hook(self, fn_name):
        """Call one method of every hook, and keep count of the run.

        Not in :meth:`train` and :meth:`run`: a subclass may have its own.

        Args:
            fn_name (str): Its name, such as ``before_train_epoch``.
        """
        if fn_name == 'before_run':
            self._runs = True
            self._give_states_to_hooks()
        elif fn_name == 'after_run':
            self._runs = False
        elif fn_name == 'before_train_epoch':
            self._given_loader = self.data_loader
            self._fit_point(self.data_loader)
        elif fn_name == 'before_train_iter':
            self._check_rest()
            self._inner_iter += self._left_out
        elif fn_name == 'after_train_iter':
            self._batches_done = self._inner_iter + 1
        elif fn_name == 'after_train_epoch':
            self._batches_done = None
            # Here, because hooks may evaluate and save after the epoch.
            self._log_speed()
        super().call_hook(fn_name)
        if fn_name == 'before_train_epoch':
            point, self._point = self._point, None
            if point and point['batches_done']:
                self.data_loader = _RestOfEpoch(self, point)
                return
            if point and point['random']:
                set_random_state(point['random']['now'])
            self._begin_epoch(0)

    def _begin_epoch(self, done):
        """Note how a training epoch begins, before its batches are drawn."""
        self._epoch_start = get_random_state()
        self._batches_done = self._left_out = done
        self._first_iter = self._iter - done

    def _check_rest(self):
        """Begin the epoch anew if the loop did not leave anything out."""
        rest = self.data_loader
        if not isinstance(rest, _RestOfEpoch):
            return
        self.data_loader = rest.inner
        self._iter -= rest.point['batches_done']
        self._begin_epoch(0)
        self.logger.warning(
            '%s.train does not go over runner.data_loader: epoch %d is '
            'trained from its start, not from batch %d on',
            type(self).__name__,
            self.epoch + 1,
            rest.point['batches_done'],
        )

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
        self._max_iters = self._max_epochs * len(self.data_loader)
        self.call_hook('before_train_epoch')  # may replace the loader
        for i, data_batch in enumerate(self.data_loader):
            self._inner_iter = i
            self.data_batch = data_batch  # for hooks
            self.call_hook('before_train_iter')
            self.run_iter(data_batch, train_mode=True)
            self.call_hook('after_train_iter')
            self._iter += 1
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
        for i, data_batch in enumerate(self.data_loader):
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
        if not timer.counted_iters and len(self.data_loader):
            return  # resumed behind the last iteration
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
        """Train until the last epoch, as the workflow says.

        Args:
            data_loaders (list[DataLoader]): One for each step of the
                workflow.
            workflow (list[tuple[str, int]]): Steps that are repeated in turn:
                name of a method (``train``, ``val``) and number of epochs.
            max_epochs (int | None): Deprecated, belongs to the constructor.
            **kwargs: For the methods.

        Raises:
            TypeError: A step's name is not a str.
            UserError: There is no method of that name.
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
        modes = [mode for mode, _ in workflow]
        trains = 'train' in modes
        if trains:
            data_loader = data_loaders[modes.index('train')]
            self._max_iters = self._max_epochs * len(data_loader)
            self._fit_point(data_loader)

        self.logger.info(
            'Start running, work_dir: %s',
            self.work_dir or 'NONE',
        )
        self.logger.info(
            'workflow: %s, max: %d epochs', workflow, self._max_epochs
        )
        self.call_hook('before_run')
        if trains:
            self._fit_point(data_loader)  # a hook may have resumed, as EMA's
        cycle = [
            (mode, data_loader)
            for (mode, epochs), data_loader in zip(workflow, data_loaders)
            for _ in range(epochs)
        ]
        steps = cycle[self._place_in(cycle) :]
        while self.epoch < self._max_epochs:
            for mode, data_loader in steps:
                run_epoch = self._epoch_method(mode)
                if mode != 'train' or self.epoch < self._max_epochs:
                    run_epoch(data_loader, **kwargs)
            steps = cycle
        self.call_hook('after_run')

    def _epoch_method(self, mode):
        """Return the method for a step of the workflow."""
        if not isinstance(mode, str):
            raise TypeError(
                f'a workflow names methods, but {mode!r} is {type(mode)}'
            )
        if not hasattr(self, mode):
            raise UserError(
                f'the workflow wants {mode!r}, but {type(self).__name__} has '
                'no such method: use train or val'
            )
        return getattr(self, mode)

    # ------------------------------------------------------- exact resuming

    def gather_random_states(self):
        """Bring the random states of all ranks to rank 0, for a checkpoint.

        Call it on every rank, just before rank 0 saves. A single process does
        not need it.
        """
        self._rank_states = gather_objects(self._random_states())

    def _random_states(self):
        states = dict(now=get_random_state())
        if self._batches_done:
            states['epoch_start'] = self._epoch_start
        return states

    def _setup(self, data_loader):
        """Describe what must not change for an exact resume."""
        device = next((p.device for p in self.model.parameters()), None)
        on_cpu = device is None or device.type == 'cpu'
        engine = engine_of(self.optimizer)
        return dict(
            ranks=self.world_size,
            samples_per_gpu=getattr(data_loader, 'batch_size', None),
            iterations_per_epoch=len(data_loader),
            workers=getattr(data_loader, 'num_workers', None),
            seed=(self.meta or {}).get('seed'),
            device='cpu' if on_cpu else device.type,
            precision=str(engine.dtype if engine else torch.float32),
            # How a sum is split over threads shows in its last bit.
            threads=torch.get_num_threads() if on_cpu else None,
            torch=str(torch.__version__),
        )

    def _point_to_save(self):
        """Return section ``resume``, or None if there was no training yet."""
        states, self._rank_states = self._rank_states, None
        if self._epoch_start is None:
            return None
        if states is None and self.world_size == 1:
            states = [self._random_states()]
        return dict(
            batches_done=self._batches_done or 0,
            setup=self._setup(self._given_loader),
            random=states,
            hooks=states_of(self.hooks, self.logger),
        )

    def _give_states_to_hooks(self):
        """Give hooks the states of the checkpoint, once."""
        if self._point is not None:
            give_states(self.hooks, self._point.pop('hooks', {}))

    def resume(
        self, checkpoint, resume_optimizer=True, map_location='default'
    ):
        """Go on from where a checkpoint was saved, see :class:`BaseRunner`.

        Section ``resume`` of the checkpoint is taken up when the run starts.
        """
        state = super().resume(checkpoint, resume_optimizer, map_location)
        point = state.get('resume')
        self._point = None
        if isinstance(point, dict) and _POINT_KEYS <= set(point):
            check_point(point, checkpoint, self.rank)
            self._point = dict(point)
            if self._runs:  # a hook has called this, as EMA's does
                self._give_states_to_hooks()
        else:
            self.logger.warning(
                '%s holds no random states: weights, optimizer and counters '
                'go on, but not to the bit as without a stop',
                checkpoint,
            )
        return state

    def _fit_point(self, data_loader):
        """Compare the checkpoint with this run; warn of what differs.

        With another batch size the number of iterations done is converted, so
        that schedules stay in place.
        """
        point = self._point
        if point is None or point.get('fitted'):
            return
        point['fitted'] = True
        before, now = point['setup'], self._setup(data_loader)
        changes = [
            f'{name} {before.get(name)} -> {value}'
            for name, value in now.items()
            if before.get(name) != value
        ]
        states = point['random']
        if states is None:
            changes.append('random states of the ranks were not saved')
        elif before['ranks'] != now['ranks']:
            changes.append('random states of other ranks are not used')
            states = None
        point['random'] = states and states[self.rank]
        if changes:
            self.logger.warning(
                'From here on data order, random draws or rounding differ '
                'from those of a run without a stop: %s',
                ', '.join(changes),
            )
        old_size, new_size = (
            setup['ranks'] * (setup['samples_per_gpu'] or 0)
            for setup in (before, now)
        )
        if old_size and new_size and old_size != new_size:
            point['batches_done'] = (
                point['batches_done'] * old_size // new_size
            )
            self._iter = self._iter * old_size // new_size
            self.logger.warning(
                'An iteration is %d samples now, it was %d: going on with '
                'iter %d',
                new_size,
                old_size,
                self._iter,
            )

    def _place_in(self, cycle):
        """Return where a cycle of the workflow starts; restore random states.

        A resumed run continues with the next step; draws of ``before_run``
        have no effect. For a checkpoint without section ``resume`` the
        workflow begins anew, as in mmcv 1.2.7.
        """
        point = self._point
        trains = [i for i, (mode, _) in enumerate(cycle) if mode == 'train']
        if point is None or not trains:
            return 0
        if point['batches_done']:
            return trains[self.epoch % len(trains)]
        self._point = None
        if point['random']:
            set_random_state(point['random']['now'])
        if not self.epoch:
            return 0
        return trains[(self.epoch - 1) % len(trains)] + 1

    def save_checkpoint(
        self,
        out_dir,
        filename_tmpl='epoch_{}.pth',
        save_optimizer=True,
        meta=None,
        create_symlink=True,
    ):
        """Save model, optimizer, counters, and where exactly the run stands.

        After an epoch the file has its number, and ``epoch`` in the
        checkpoint is that number. Inside of an epoch ``epoch`` and ``iter``
        are what is done, and so is the number in the file's name: of
        iterations, as ``CheckpointHook`` has it when it removes old files.
        (mmcv 1.2.7 gives all files of an epoch the name that it will have
        when it is over, and resumes from them with the epoch after.)

        Section ``resume`` holds what an exact resume needs beside that:

        - ``batches_done``: of the epoch that runs, 0 between epochs;
        - ``random``: by rank, the random states ``now`` and, inside of an
          epoch, ``epoch_start``; None if there are several ranks and they
          did not call :meth:`gather_random_states`;
        - ``setup``: what must be the same when the run goes on;
        - ``hooks``: by class, and number from the second of a class on,
          ``state_dict()`` of hooks that have one; it is given to their
          ``load_state_dict`` before ``before_run``, or at once if
          :meth:`resume` is called later.

        Args:
            out_dir (str): Folder.
            filename_tmpl (str): Name with a place for the number. Inside of
                an epoch the default stands for ``iter_{}.pth``.
            save_optimizer (bool): Whether to save the optimizer's state.
            meta (dict | None): More to save; the runner's own ``meta`` goes
                over it.
            create_symlink (bool): Whether ``latest.pth`` stands for this
                checkpoint afterwards.

        Raises:
            TypeError: ``meta`` is no dict.
            OSError: It could not be written; those from before still are
                there.
        """
        if meta is not None and not isinstance(meta, dict):
            raise TypeError(f'meta must be a dict or None, not {type(meta)}')
        if self._batches_done is None:
            number = self.epoch + 1
            done = dict(epoch=number, iter=self.iter)
        else:
            number = self._first_iter + self._batches_done
            done = dict(epoch=self.epoch, iter=number)
            if filename_tmpl == 'epoch_{}.pth':
                filename_tmpl = 'iter_{}.pth'
        meta = dict(meta or {}, **done)
        meta.update(self.meta or {})
        if amid_step(self):
            self.logger.warning(
                'Saved between the iterations of one step (cumulative_iters): '
                'a run that resumes here lacks the gradients so far'
            )

        path = osp.join(out_dir, filename_tmpl.format(number))
        save_checkpoint(
            self.model,
            path,
            optimizer=self.optimizer if save_optimizer else None,
            meta=meta,
            resume=self._point_to_save(),
        )
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
