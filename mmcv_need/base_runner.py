"""mmcv/runner/base_runner.py: state, hooks and resuming of all runners.

In addition to mmcv 1.2.7 a runner knows the samples per device and the number
of devices, and no device is named here. Registering hooks from a config does
not change the config.
"""

import copy
import logging
import os.path as osp
import warnings
from abc import ABCMeta, abstractmethod
from numbers import Integral

import mmcv
import torch
from torch.optim import Optimizer

from ..parallel import is_module_wrapper
from .checkpoint import load_checkpoint
from .dist_utils import UserError, get_dist_info
from .hooks import HOOKS, Hook, LoggerHook
from .hooks.iter_timer import is_count, take_up
from .hooks.optimizer import engine_of
from .log_buffer import LogBuffer
from .optimizer.builder import load_optimizer_state
from .priority import get_priority
from .utils import get_time_str


def _check_count(name, value):
    """Refuse what is neither None nor a positive whole number."""
    if value is None or (isinstance(value, Integral) and value > 0):
        return value
    raise UserError(f'{name} must be a positive whole number, not {value!r}')


def _check_optimizer(optimizer):
    """Refuse what is neither an optimizer, nor a dict of them, nor None."""
    several = optimizer if isinstance(optimizer, dict) else {'': optimizer}
    for name, single in several.items():
        if not isinstance(single, Optimizer) and optimizer is not None:
            where = f'optimizer[{name!r}]' if name else 'optimizer'
            raise TypeError(
                f'{where} must be a torch optimizer, not {type(single)}'
            )


def _per_optimizer(optimizer, function):
    """Apply a function to one optimizer, or to each of several by name."""
    if isinstance(optimizer, dict):
        return {name: function(single) for name, single in optimizer.items()}
    return function(optimizer)


def _momentum_of(group):
    """Return the momentum of a parameter group, beta 1 for Adam's kin."""
    if 'momentum' in group:
        return group['momentum']
    return group['betas'][0] if 'betas' in group else 0


def read_numbers(values):
    """Read numbers from a device, waiting for it once.

    Args:
        values (Iterable): Tensors of one number, or objects with ``tensor``
            and ``finish``, which takes the list of the tensor's values and
            returns the number.

    Returns:
        list[float]: In the same order.
    """
    values = list(values)
    tensors = [getattr(v, 'tensor', v).detach().reshape(-1) for v in values]
    precise = any(tensor.dtype == torch.float64 for tensor in tensors)
    kind = torch.float64 if precise else torch.float32
    device = tensors[0].device
    read = torch.cat([t.to(device, kind) for t in tensors]).tolist()
    numbers = []
    for value, tensor in zip(values, tensors):
        own, read = read[: len(tensor)], read[len(tensor) :]
        numbers.append(float(getattr(value, 'finish', sum)(own)))
    return numbers


class DeferredLogBuffer(LogBuffer):
    """mmcv's buffer, but values stay on their device until they are read.

    Reading a number from a device waits for all its queued work. So it is
    done only where a line of the log is due, or where somebody looks into
    ``val_history``; for all numbers at once.
    """

    # A run that never logs must not fill the device's memory.
    MOST_UNREAD = 1000

    @property
    def val_history(self):
        """OrderedDict[str, list]: All values by name, plain numbers."""
        if self._unread:
            unread, self._unread = self._unread, []
            numbers = read_numbers(values[i] for values, i in unread)
            for (values, i), number in zip(unread, numbers):
                values[i] = number
        return self._values

    @val_history.setter
    def val_history(self, values):
        self._values, self._unread = values, []  # list and place of each

    def clear(self):
        """Forget all values."""
        self._unread = []
        super().clear()

    def update(self, vars, count=1):
        """Take in the values of an iteration.

        Args:
            vars (dict): By name numbers, or what :func:`read_numbers` reads.
                ``unread``, if a dict has it, gives its items unread.
            count (int): Weight of the values in averages.
        """
        assert isinstance(vars, dict), f'{type(vars)} is no dict'
        for name, value in getattr(vars, 'unread', vars.items)():
            values = self._values.setdefault(name, [])
            self.n_history.setdefault(name, []).append(count)
            if isinstance(getattr(value, 'tensor', value), torch.Tensor):
                self._unread.append((values, len(values)))
            values.append(value)
        if len(self._unread) >= self.MOST_UNREAD:
            self.val_history = self.val_history


class BaseRunner(metaclass=ABCMeta):
    """Base of a training: model, optimizer, counters and hooks.

    A subclass defines ``run``, ``train``, ``val`` and ``save_checkpoint``.

    Args:
        model (nn.Module): Has ``train_step`` (and ``val_step``), unless there
            is a ``batch_processor``.
        batch_processor (callable | None): Deprecated; takes model, batch and
            ``train_mode``, returns the outputs.
        optimizer (Optimizer | dict[str, Optimizer] | None): One optimizer or
            several by name.
        work_dir (str | None): Folder for checkpoints and logs; created.
        logger (logging.Logger): Logger of the training.
        meta (dict | None): Goes into logs and checkpoints.
        max_iters (int | None): Iterations to train.
        max_epochs (int | None): Epochs to train; not together with
            ``max_iters``.
        samples_per_gpu (int | None): Samples that one device gets at a time;
            by default the batch size of the data loader.
        num_of_gpus (int | None): Devices that train together; by default the
            number of processes.

    Raises:
        TypeError: An argument is not of its type.
        UserError: Both limits are given, or a count is not positive.
    """

    def __init__(
        self,
        model,
        batch_processor=None,
        optimizer=None,
        work_dir=None,
        logger=None,
        meta=None,
        max_iters=None,
        max_epochs=None,
        samples_per_gpu=None,
        num_of_gpus=None,
    ):
        inner = model.module if is_module_wrapper(model) else model
        if batch_processor is None:
            assert hasattr(model, 'train_step'), 'the model has no train_step'
        else:
            self._check_batch_processor(batch_processor, inner)
        _check_optimizer(optimizer)
        if not isinstance(logger, logging.Logger):
            raise TypeError(f'logger must be a Logger, not {type(logger)}')
        if meta is not None and not isinstance(meta, dict):
            raise TypeError(f'meta must be a dict or None, not {type(meta)}')
        if work_dir is not None and not mmcv.is_str(work_dir):
            raise TypeError(
                f'work_dir must be a str or None, not {type(work_dir)}'
            )
        if max_epochs is not None and max_iters is not None:
            raise UserError(
                'Only one of max_epochs and max_iters can be given, not both '
                f'({max_epochs} and {max_iters})'
            )

        self.model = model
        self.batch_processor = batch_processor
        self.optimizer = optimizer
        self.logger = logger
        self.meta = meta
        self.work_dir = None
        if work_dir is not None:
            self.work_dir = osp.abspath(work_dir)
            mmcv.mkdir_or_exist(self.work_dir)
        self._model_name = type(getattr(model, 'module', model)).__name__

        self._rank, self._world_size = get_dist_info()
        self._samples_per_gpu = _check_count(
            'samples_per_gpu', samples_per_gpu
        )
        self._num_of_gpus = _check_count('num_of_gpus', num_of_gpus)
        self.timestamp = get_time_str()
        self.mode = None
        self._hooks = []
        self._silenced = []  # loggers that could not write
        self._epoch = 0
        self._iter = 0
        self._inner_iter = 0
        self._max_epochs = max_epochs
        self._max_iters = max_iters
        self.log_buffer = DeferredLogBuffer()

    @staticmethod
    def _check_batch_processor(batch_processor, model):
        """Refuse one that cannot be called or that the model contradicts."""
        if not callable(batch_processor):
            raise TypeError(
                'batch_processor must be callable, not '
                f'{type(batch_processor)}'
            )
        warnings.warn(
            'batch_processor is deprecated: give the model a train_step and '
            'a val_step',
            stacklevel=3,
        )
        if hasattr(model, 'train_step') or hasattr(model, 'val_step'):
            raise RuntimeError(
                'there is a batch_processor, but the model has a train_step '
                'or val_step of its own: give only one of them'
            )

    @property
    def model_name(self):
        """str: Class of the model inside a wrapper."""
        return self._model_name

    @property
    def rank(self):
        """int: Number of this process."""
        return self._rank

    @property
    def world_size(self):
        """int: Number of processes that train together."""
        return self._world_size

    @property
    def samples_per_gpu(self):
        """Samples per device (int | None); None if nothing tells it."""
        if self._samples_per_gpu is not None:
            return self._samples_per_gpu
        loader = getattr(self, 'data_loader', None)
        return getattr(loader, 'batch_size', None)

    @property
    def num_of_gpus(self):
        """int: Devices of any kind that train together."""
        return self._num_of_gpus or self.world_size

    @property
    def hooks(self):
        """list[Hook]: The hooks in the order in which they are called."""
        return self._hooks

    @property
    def epoch(self):
        """int: Epochs done."""
        return self._epoch

    @property
    def iter(self):
        """int: Iterations done."""
        return self._iter

    @property
    def inner_iter(self):
        """int: Number of the current iteration in its epoch, from 0."""
        return self._inner_iter

    @property
    def max_epochs(self):
        """Epochs to train (int | None)."""
        return self._max_epochs

    @property
    def max_iters(self):
        """Iterations to train (int | None)."""
        return self._max_iters

    @abstractmethod
    def train(self):
        """Train, an epoch or an iteration."""

    @abstractmethod
    def val(self):
        """Validate, an epoch or an iteration."""

    @abstractmethod
    def run(self, data_loaders, workflow, **kwargs):
        """Go through the whole training."""

    @abstractmethod
    def save_checkpoint(
        self,
        out_dir,
        filename_tmpl,
        save_optimizer=True,
        meta=None,
        create_symlink=True,
    ):
        """Save the state of the training."""

    def current_lr(self):
        """Return the learning rates.

        Returns:
            list[float] | dict[str, list[float]]: One for each parameter
            group; by name where there are several optimizers.

        Raises:
            RuntimeError: There is no optimizer.
        """
        self._need_optimizer('a learning rate')
        return _per_optimizer(
            self.optimizer, lambda o: [g['lr'] for g in o.param_groups]
        )

    def current_momentum(self):
        """Return the momenta; see :meth:`current_lr`.

        For optimizers with ``betas`` it is the first of them, and 0 where
        there is none.
        """
        self._need_optimizer('a momentum')
        return _per_optimizer(
            self.optimizer, lambda o: [_momentum_of(g) for g in o.param_groups]
        )

    def _need_optimizer(self, what):
        if self.optimizer is None:
            raise RuntimeError(f'there is no optimizer to have {what}')

    # ---------------------------------------------------------------- hooks

    def register_hook(self, hook, priority='NORMAL'):
        """Add a hook, behind those of the same or a higher priority.

        Args:
            hook (Hook): The hook; it gets an attribute ``priority``.
            priority (int | str | Priority): The smaller, the earlier.

        Raises:
            ValueError: It has a priority already.
        """
        assert isinstance(hook, Hook), f'{hook!r} is no hook'
        if hasattr(hook, 'priority'):
            raise ValueError(
                f'{type(hook).__name__} has an attribute "priority" already: '
                'it is registered twice, or uses the name for itself'
            )
        hook.priority = get_priority(priority)
        # Python's sort is stable, which keeps the order of registration.
        self._hooks.append(hook)
        self._hooks.sort(key=lambda registered: registered.priority)

    def register_hook_from_cfg(self, hook_cfg):
        """Build a hook and add it.

        Args:
            hook_cfg (dict): ``type``, arguments, perhaps a ``priority``.
        """
        hook_cfg = hook_cfg.copy()
        priority = hook_cfg.pop('priority', 'NORMAL')
        self.register_hook(mmcv.build_from_cfg(hook_cfg, HOOKS), priority)

    def call_hook(self, fn_name):
        """Call one method of every hook.

        A log that cannot be written, for instance on a full disk, is reported
        once and does not end the training.

        Args:
            fn_name (str): Its name, such as ``before_train_epoch``.
        """
        for hook in self._hooks:
            try:
                getattr(hook, fn_name)(self)
            except OSError as error:
                if not isinstance(hook, LoggerHook):
                    raise
                if hook not in self._silenced:
                    self._silenced.append(hook)
                    name = type(hook).__name__
                    self.logger.warning('%s cannot log: %s', name, error)

    def _register(self, config, default_type=None):
        """Add a hook, given as itself or as its config; None adds nothing."""
        if config is None:
            return
        if isinstance(config, dict):
            config = dict(config)
            if default_type is not None:
                config.setdefault('type', default_type)
            config = mmcv.build_from_cfg(config, HOOKS)
        self.register_hook(config)

    def _register_updater(self, config, kind):
        """Add the hook of a ``policy``.

        Args:
            config (dict | Hook | None): With ``policy``: the hook's name
                without its end, which may be in lower case if it is one word.
            kind (str): End of the hook's name, ``LrUpdaterHook`` or so.
        """
        if isinstance(config, dict):
            assert 'policy' in config, f'a config of {kind} needs a policy'
            config = dict(config)
            policy = config.pop('policy')
            if policy == policy.lower():
                policy = policy.title()
            config['type'] = policy + kind
        self._register(config)

    def register_lr_hook(self, lr_config):
        """Add what moves the learning rate.

        Args:
            lr_config (dict | Hook | None): ``policy`` and its arguments.
        """
        self._register_updater(lr_config, 'LrUpdaterHook')

    def register_momentum_hook(self, momentum_config):
        """Add what moves the momentum.

        Args:
            momentum_config (dict | Hook | None): ``policy``, arguments.
        """
        self._register_updater(momentum_config, 'MomentumUpdaterHook')

    def register_optimizer_hook(self, optimizer_config):
        """Add what goes back through the model and steps.

        Args:
            optimizer_config (dict | Hook | None): Arguments of
                ``OptimizerHook``, or with a ``type`` of another.
        """
        self._register(optimizer_config, 'OptimizerHook')

    def register_checkpoint_hook(self, checkpoint_config):
        """Add what saves checkpoints.

        Args:
            checkpoint_config (dict | Hook | None): Arguments of
                ``CheckpointHook``, or with a ``type`` of another.
        """
        self._register(checkpoint_config, 'CheckpointHook')

    def register_timer_hook(self, timer_config):
        """Add what times iterations.

        Args:
            timer_config (dict | Hook | None): ``type`` and arguments.
        """
        # A copy all through: the default config is shared by all runners.
        if isinstance(timer_config, dict):
            timer_config = copy.deepcopy(timer_config)
        self._register(timer_config)

    def register_logger_hooks(self, log_config):
        """Add what writes logs, behind all other hooks.

        Args:
            log_config (dict | None): ``interval`` in iterations, and
                ``hooks``, their configs.
        """
        if log_config is None:
            return
        interval = log_config['interval']
        for config in log_config['hooks']:
            hook = mmcv.build_from_cfg(
                config, HOOKS, default_args=dict(interval=interval)
            )
            self.register_hook(hook, priority='VERY_LOW')

    def register_training_hooks(
        self,
        lr_config,
        optimizer_config=None,
        checkpoint_config=None,
        log_config=None,
        momentum_config=None,
        timer_config=dict(type='IterTimerHook'),
    ):
        """Add the usual hooks, in the order in which they are called.

        That is: learning rate, momentum, optimizer, checkpoint, timer, logs.
        For the arguments see the method of each.
        """
        self.register_lr_hook(lr_config)
        self.register_momentum_hook(momentum_config)
        self.register_optimizer_hook(optimizer_config)
        self.register_checkpoint_hook(checkpoint_config)
        self.register_timer_hook(timer_config)
        self.register_logger_hooks(log_config)

    # ---------------------------------------------------------- checkpoints

    def load_checkpoint(self, filename, map_location='cpu', strict=False):
        """Load weights into the model.

        Args:
            filename (str): Path or address of the checkpoint.
            map_location (Any): Same as for :func:`torch.load`.
            strict (bool): Whether it is an error if the weights do not fit.

        Returns:
            dict: The whole checkpoint.
        """
        self.logger.info('load checkpoint from %s', filename)
        return load_checkpoint(
            self.model, filename, map_location, strict, self.logger
        )

    def resume(
        self, checkpoint, resume_optimizer=True, map_location='default'
    ):
        """Resume from a checkpoint.

        Args:
            checkpoint (str): Its path or address.
            resume_optimizer (bool): Whether to load the optimizer's state.
            map_location (Any): Same as for :func:`torch.load`. By default
                the CPU, from where model and optimizer copy: this needs no
                additional memory on the device, and leaves Adam's step
                counters on the host, where reading them waits for nothing.

        Returns:
            dict: The whole checkpoint.

        Raises:
            TypeError: There is an optimizer's state but no optimizer.
            UserError: The checkpoint is not of a training, or of one with
                other optimizers.
        """
        if map_location == 'default':
            map_location = 'cpu'
        state = self.load_checkpoint(checkpoint, map_location=map_location)
        meta = state.get('meta')
        if not isinstance(meta, dict) or not {'epoch', 'iter'} <= set(meta):
            raise UserError(
                f'{checkpoint} holds weights but not where its training '
                'stood, so it cannot be resumed: load it with load_from'
            )
        for key in ('epoch', 'iter'):
            if not is_count(meta[key]):
                raise UserError(
                    f'{checkpoint}: meta.{key} is no number of {key}s done: '
                    f'{str(meta[key])[:40]!r}'
                )
        self._epoch = meta['epoch']
        self._iter = meta['iter']
        if resume_optimizer and 'optimizer' in state:
            self._restore_optimizer(state['optimizer'], checkpoint)
            engine = engine_of(self.optimizer)
            if engine is not None and 'amp' in state:
                what = f'{checkpoint}: its mixed-precision state'
                take_up(what, engine.load_state_dict, state['amp'])
        self.logger.info('resumed epoch %d, iter %d', self.epoch, self.iter)
        return state

    def _restore_optimizer(self, state, checkpoint):
        """Restore the state of the optimizer, or of each of several."""
        if self.optimizer is None:
            raise TypeError(
                f'{checkpoint} holds the state of an optimizer, but this '
                'runner has none: give it one, or resume_optimizer=False'
            )
        what = f"{checkpoint}: the optimizer's state"
        if not isinstance(self.optimizer, dict):
            take_up(what, load_optimizer_state, self.optimizer, state)
            return
        lacking = sorted(set(self.optimizer) - set(state))
        if lacking:
            raise UserError(
                f'{checkpoint} holds no state for optimizer '
                f'{", ".join(lacking)}'
            )
        for name, optimizer in self.optimizer.items():
            take_up(what, load_optimizer_state, optimizer, state[name])
