"""Mixed precision O2: what both engines do around a step."""

import functools
import logging
import math
import os
import types

import torch
from mmcv.runner.dist_utils import get_dist_info
from mmcv.runner.hooks.optimizer import weights_of
from torch import nn

from hourglass_npu.errors import UserError
from hourglass_npu.o2.overflow import saturation_flag
from hourglass_npu.o2.settings import AmpOverflow
from hourglass_npu.o2.tensors import (
    choose,
    copy_written,
    flatten,
    has_unscale_kernel,
    is_on,
    is_rounded,
    own_copy,
    own_floats,
    unflatten,
    written_over,
)


class O2Engine:
    """What both engines do around a step: overflow, counts, state.

    An engine replaces methods of its optimizer, so that hooks, schedules and
    checkpoints work unchanged. It is ``optimizer.amp_engine``::

        with engine.scale_loss(loss) as scaled_loss:
            scaled_loss.backward()
        optimizer.step()

    A weight in low precision is its rounded master. Where others have written
    to it (averages, pruning, limits), it wins: that is what is evaluated and
    saved, and the next step begins there. Write to the model's weights, not
    to the masters.

    A step whose gradients overflowed changes neither weights nor the
    optimizer's state. On a CPU the host decides. On an accelerator the device
    selects between old and new values, and the host learns of it an iteration
    later, without a stop.

    Args:
        model (nn.Module): Bare, in fp32, on its device.
        optimizer (torch.optim.Optimizer): Of its parameters.
        options (AmpOptions): Checked settings.
        dtype (torch.dtype): The low precision.
        logger (logging.Logger | None): Gets skipped steps.

    Attributes:
        needs_own_gradients (bool): Whether gradients must not be views of
            the buckets of DistributedDataParallel.
        skipped_steps (int): Since the beginning of training.
        consecutive_overflows (int): Skipped steps since the last real one.
        work_dir (str | None): Folder of the run's checkpoints. An error that
            ends the run names the last good one; None names none.
        find_checkpoint (callable | None): Returns the last good one's path, or
            None; by default it is the folder's latest.pth.
    """

    name = None
    needs_own_gradients = False

    def __init__(self, model, optimizer, options, dtype, logger=None):
        self.model = model
        self.optimizer = optimizer
        self.options = options
        self.dtype = dtype
        self.logger = logger or logging.getLogger(__name__)
        self.work_dir = None
        self.find_checkpoint = None
        self.skipped_steps = 0
        self.consecutive_overflows = 0
        self.device = next(model.parameters()).device
        self.selects_on_device = self.device.type != 'cpu'
        self._saturation = saturation_flag(self.device)
        has_unscale_kernel(self.device)  # tried now, amid no step
        self._flags = []  # of the passes since the last step
        self._open_step = None  # taken, outcome not read yet
        self._stepped = set()  # ids of weights whose state exists
        self._by_param = {}
        self._set_up()
        self._give_masters_to_state_dict()
        self._take_over_optimizer()

    # What differs between the engines.

    def _set_up(self):
        """Cast the model and wrap its forward."""
        raise NotImplementedError

    def pairs(self):
        """Return the trained low-precision weights and their fp32 masters.

        Creates the masters if need be.

        Returns:
            tuple[list[Parameter], list[Parameter]]: In the same order.
        """
        raise NotImplementedError

    def scale_loss(self, loss):
        """Scale a loss; afterwards unscale what its backward pass left.

        Args:
            loss (Tensor): In any precision, usually a scalar.

        Returns:
            ContextManager: Gives the scaled fp32 loss. At its end the
            masters' gradients are unscaled and added to what was there.
        """
        raise NotImplementedError

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        raise NotImplementedError

    def _scaler_state(self):
        raise NotImplementedError

    def _load_scaler_state(self, state):
        raise NotImplementedError

    def _make_step(self):
        """Step, and bring the masters' new values into the model."""
        raise NotImplementedError

    def _drop_grads(self):
        """Forget the masters' gradients."""
        for master in self.pairs()[1]:
            master.grad = None

    # The optimizer's weights.

    def master_params(self):
        """Return the weights that the optimizer steps, in fp32: clip these."""
        self.pairs()
        return weights_of(self.optimizer)

    def _take_over_optimizer(self):
        optimizer = self.optimizer
        optimizer.amp_engine = self
        self._plain_step = optimizer.step
        self._plain_state_dict = optimizer.state_dict
        self._plain_load = optimizer.load_state_dict

        # Bound methods, since torch's schedules read ``__func__``.
        def step(optimizer, closure=None):
            return self._step(closure)

        def state_dict(optimizer):
            self.settle()
            saved = self._plain_state_dict()
            own = {
                key: {k: own_copy(v) for k, v in state.items()}
                for key, state in saved['state'].items()
            }
            return dict(saved, state=own)

        def load_state_dict(optimizer, state_dict):
            # torch casts moments to the precision of the weights, so the
            # masters have to be in place.
            self.pairs()
            self.settle()
            result = self._plain_load(state_dict)
            self._stepped.clear()
            self._forget_moments()
            return result

        for method in (step, state_dict, load_state_dict):
            name = method.__name__
            setattr(optimizer, name, types.MethodType(method, optimizer))

    # Stepping.

    def _step(self, closure):
        if closure is not None:
            raise TypeError('mixed precision O2 steps without a closure')
        self.pairs()
        self._close_step()
        self._stop_if_hopeless()
        with torch.no_grad():
            copy_written(
                *self._in_bulk(),
                on_host=self.device.type == 'cpu'
                and not self.selects_on_device,
            )
        flags, self._flags = self._flags, []
        ready = all(
            id(param) in self._stepped
            for param in weights_of(self.optimizer)
            if param.grad is not None
        )
        if flags and self.selects_on_device and ready:
            self._step_by_device(flags)
            return
        overflow = self._learn(flags)
        if overflow:
            self._drop_grads()
        else:
            self._stepped.update(
                id(param)
                for param in weights_of(self.optimizer)
                if param.grad is not None
            )
            self._make_step()
        self._count(overflow)
        self._stop_if_hopeless()

    def _step_by_device(self, flags):
        """Step, then undo it on the device if there was an overflow.

        Args:
            flags (list[DeviceFlag]): Those of this step's passes.
        """
        found = flags[0].found
        for flag in flags[1:]:
            found = torch.max(found, flag.found)
        scalars, numbers = self._on_host()
        scalars = list(flatten(scalars))
        if getattr(self.optimizer, '_step_supports_amp_scaling', False):
            # torch's fused optimizers do nothing where this is 1.
            self.optimizer.grad_scale = None
            self.optimizer.found_inf = found
            try:
                self._make_step()
            finally:
                del self.optimizer.grad_scale, self.optimizer.found_inf
        else:
            overflow = found != 0
            with torch.no_grad():
                kept = list(flatten(self._values()))
            self._make_step()
            with torch.no_grad():
                choose(overflow, kept, self._values())
        # The host's values have changed. If the step turns out to be skipped,
        # they are set back.
        numbers = [
            (place, key, old)
            for place, key, old in numbers
            if place[key] != old
        ]
        self._open_step = (flags, scalars, numbers)

    def _in_bulk(self):
        """Return what :meth:`pairs` does, in as few tensors as hold it.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Values, in the same order.
        """
        return self._weights_and_masters()

    def _values(self):
        """Return all tensors on the device that a step changes."""
        low, masters = self._in_bulk()
        ours = {id(master) for master in self.pairs()[1]}
        weights = weights_of(self.optimizer)
        full = [w for w in weights if w.requires_grad and id(w) not in ours]
        return [*masters, *full, *low, *self._moments()]

    def _moments(self):
        """Return the optimizer's state on the device, in few tensors."""
        return [
            value
            for weight in weights_of(self.optimizer)
            for value in self.optimizer.state.get(weight, {}).values()
            if self._is_of_device(value)
        ]

    def _is_of_device(self, value):
        """Tell whether a value of the optimizer's state is on the device.

        Where that is the CPU, numbers of steps count as the host's, as they
        are for all others.
        """
        if not is_on(value, self.device):
            return False
        return self.device.type != 'cpu' or value.dim() > 0

    def _forget_moments(self):
        """Take note that the optimizer's state is another one."""

    def _on_host(self):
        """Return what a step changes on the host, such as its number.

        Returns:
            tuple[list, list]: Scalar tensors; and place, key and value of
            plain numbers.
        """
        places = list(self.optimizer.param_groups)
        places += [
            self.optimizer.state[weight]
            for weight in weights_of(self.optimizer)
            if weight in self.optimizer.state
        ]
        scalars, numbers = [], []
        for place in places:
            for key, value in place.items():
                if isinstance(value, (int, float)):
                    numbers.append((place, key, value))
                elif isinstance(value, torch.Tensor):
                    if not self._is_of_device(value):
                        scalars.append(value)
        return scalars, numbers

    def settle(self):
        """Wait for all outcomes that the host does not know yet.

        Call it before something depends on them, such as a checkpoint.
        """
        self._close_step()

    def finish(self):
        """Learn the outcome of the last step of a run.

        Raises:
            AmpOverflow: It was one skipped step too many.
        """
        self.settle()
        self._stop_if_hopeless()

    def _close_step(self):
        """Read the outcome of a step that the device decided.

        It has arrived by the time of the next step.
        """
        if self._open_step is None:
            return
        (flags, scalars, numbers), self._open_step = self._open_step, None
        overflow = self._learn(flags)
        if overflow:
            unflatten(scalars)
            for place, key, old in numbers:
                place[key] = old
        self._count(overflow)

    def _with_saturation(self, found):
        """Join a saturating chip's flag to what the gradients show.

        That flag is one process's own. An inf reaches all processes with the
        averaged gradients.
        """
        if self._saturation is None:
            return found
        found = torch.max(found, self._saturation[1]())
        if get_dist_info()[1] > 1:
            torch.distributed.all_reduce(
                found, op=torch.distributed.ReduceOp.MAX
            )
        return found

    def _learn(self, flags):
        """Read flags in the order of their passes.

        Returns:
            bool: Whether there was an overflow in one of them.
        """
        # All of them, hence no generator.
        return any([flag.read() for flag in flags])

    def _count(self, overflow):
        if not overflow:
            self.consecutive_overflows = 0
            return
        self.skipped_steps += 1
        self.consecutive_overflows += 1
        self.logger.warning(
            f'Gradients overflow: step skipped ({self.skipped_steps} so far, '
            f'{self.consecutive_overflows} in a row), loss scale '
            f'{self.loss_scale:g}'
        )

    def _stop_if_hopeless(self):
        limit = self.options.max_consecutive_overflows
        if limit and self.consecutive_overflows >= limit:
            remedy = 'Look at the learning rate and the data'
            if self.options.loss_scale != 'dynamic':
                remedy = (
                    "Lower amp.loss_scale or set it to 'dynamic', or look at "
                    'the learning rate and the data'
                )
            raise AmpOverflow(
                f'gradients overflowed in {self.consecutive_overflows} steps '
                f'in a row at loss scale {self.loss_scale:g}; all of them '
                f'were skipped (amp.max_consecutive_overflows). {remedy}'
                f'{self._last_checkpoint()}'
            )

    def _last_checkpoint(self):
        """Say where the last good checkpoint is, as another sentence."""
        if self.work_dir is None:
            return ''
        latest = os.path.join(self.work_dir, 'latest.pth')
        if self.find_checkpoint is not None:
            latest = self.find_checkpoint()
        if latest is None or not os.path.exists(latest):
            return '. There is no checkpoint of this run'
        return f'. The last good checkpoint is {os.path.realpath(latest)}'

    # State.

    def _weights_and_masters(self):
        """Return the values of :meth:`pairs`."""
        return [[t.detach() for t in tensors] for tensors in self.pairs()]

    def _hidden_masters(self):
        """Return masters by number whose weights others have written to.

        Such a weight may come back, as after an evaluation of averages.
        """
        if not self._has_masters():
            return {}
        pairs = enumerate(zip(*self._weights_and_masters()))
        return {
            i: own_copy(master)
            for i, (w, master) in pairs
            if not is_rounded(w, master)
        }

    def state_dict(self):
        """Return the scaler's state in Apex's form, and more.

        Returns:
            dict: ``loss_scaler0`` with ``loss_scale`` and ``unskipped``,
            which Apex reads too, ``skipped_steps``, ``consecutive_overflows``
            and ``configured``, the scale in the config. Where others have
            written to weights, also ``masters``, by their number.
        """
        self.settle()
        hidden = self._hidden_masters()
        return {
            **(dict(masters=hidden) if hidden else {}),
            'loss_scaler0': dict(
                self._scaler_state(),
                skipped_steps=self.skipped_steps,
                consecutive_overflows=self.consecutive_overflows,
                configured=self.options.loss_scale,
            ),
        }

    def load_state_dict(self, state_dict):
        """Load a state, Apex's own too.

        As in Apex, even a static scale is overwritten, unless the scale in
        the config has changed since the state was saved.

        Args:
            state_dict (dict): As from :meth:`state_dict` or ``apex.amp``.

        Raises:
            UserError: It is neither.
        """
        state = state_dict.get('loss_scaler0', {})
        if not {'loss_scale', 'unskipped'} <= set(state):
            raise UserError(
                'the mixed-precision state of the checkpoint has no '
                "'loss_scaler0' with 'loss_scale' and 'unskipped'; it has "
                f'{sorted(state_dict)}'
            )
        counts = ('unskipped', 'skipped_steps', 'consecutive_overflows')
        scale = state['loss_scale']
        if not 0 < scale < math.inf or not all(
            isinstance(state.get(key, 0), int) and state.get(key, 0) >= 0
            for key in counts
        ):
            raise UserError(
                'the mixed-precision state of the checkpoint is damaged: '
                f'{str(state)[:200]}'
            )
        self.settle()
        hidden = state_dict.get('masters', {})
        masters = self._weights_and_masters()[1] if hidden else []
        for i, value in hidden.items():
            masters[i].copy_(value)
        self._flags = []
        self.skipped_steps = state.get('skipped_steps', 0)
        if state.get('configured', self.options.loss_scale) != (
            self.options.loss_scale
        ):
            self.consecutive_overflows = 0
            self.logger.info(
                f'Loss scale {self.options.describe_scale()} from the config, '
                f'not {state["loss_scale"]:g} of the checkpoint'
            )
            return
        before = self.loss_scale
        self._load_scaler_state(state)
        # A run that overflows have ended may go on with one more try.
        count = state.get('consecutive_overflows', 0)
        limit = self.options.max_consecutive_overflows
        self.consecutive_overflows = min(count, limit - 1) if limit else count
        if self.loss_scale != before:
            self.logger.info(
                f'Loss scale {self.loss_scale:g} from the checkpoint instead '
                f'of {before:g}'
            )

    def __deepcopy__(self, memo):
        # A model's hooks refer to the engine. A copy has no masters.
        return self

    def _masters_by_param(self):
        low, masters = self.pairs()
        if len(self._by_param) != len(low):
            self._by_param = {id(p): m for p, m in zip(low, masters)}
        return self._by_param

    def _give_masters_to_state_dict(self):
        """Let the model save and load its weights in fp32.

        It saves the masters, not their rounded copies, and loads into the
        masters unrounded. So a resumed run has the same bits. What hooks
        register later are averages of weights, which would stand still in
        low precision.
        """
        self.model.register_buffer = functools.partial(
            _register_buffer, self.model, self.dtype
        )
        for module in self.model.modules():
            module._register_state_dict_hook(self._save_fp32)
            module._register_load_state_dict_pre_hook(
                functools.partial(self._load_fp32, module)
            )

    def _save_fp32(self, module, state_dict, prefix, local_metadata):
        self.settle()
        masters = self._masters_by_param() if self._has_masters() else {}
        for name, value in own_floats(module):
            if prefix + name in state_dict and value.dtype == self.dtype:
                master = masters.get(id(value))
                value = value.detach()
                if master is None:
                    saved = value.float()
                elif is_rounded(value, master.detach()):
                    saved = own_copy(master.detach())
                else:
                    saved = written_over(value, master.detach())
                state_dict[prefix + name] = saved

    def _load_fp32(self, module, state_dict, prefix, *_):
        self.settle()
        masters = self._masters_by_param()
        for name, value in own_floats(module):
            loaded = state_dict.get(prefix + name)
            master = masters.get(id(value))
            if master is not None and loaded is not None:
                if loaded.shape == master.shape:
                    master.data.copy_(loaded)

    def _has_masters(self):
        return True


def _register_buffer(model, dtype, name, tensor, *args, **kwargs):
    """Register a buffer of a model, in fp32 if it is in low precision."""
    if tensor is not None and tensor.dtype == dtype:
        tensor = tensor.float()
    nn.Module.register_buffer(model, name, tensor, *args, **kwargs)
