"""Mixed precision O2 by an installed Apex."""

from contextlib import contextmanager

import torch
from mmcv.runner.dist_utils import get_dist_info

from hourglass_npu.errors import UserError
from hourglass_npu.o2.casting import split_loss, wrap_forward
from hourglass_npu.o2.engine import O2Engine
from hourglass_npu.o2.overflow import DeviceFlag
from hourglass_npu.o2.tensors import any_not_finite, is_part


class ApexO2(O2Engine):
    """O2 by an installed Apex, improved in three points.

    The loss is in fp32, a static scale is checked for overflow, and
    checkpoints hold the masters.
    """

    name = 'apex'
    needs_own_gradients = True

    def _set_up(self):
        from apex import amp

        self._amp = amp
        self._before_skip = None  # the step that Apex will put back
        self._groups_seen, self._frozen = 0, []
        # The fused optimizers of Ascend's Apex keep gradients in one block,
        # and count steps where only the host can undo it.
        self._gathers = getattr(
            self.optimizer, 'is_npu_fused_optimizer', False
        )
        self.selects_on_device &= not self._gathers
        options = self.options
        amp.initialize(
            self.model,
            self.optimizer,
            opt_level='O2',
            loss_scale=options.loss_scale,
            min_loss_scale=options.min_loss_scale,
            max_loss_scale=options.max_loss_scale,
            verbosity=0,
        )
        if not options.loss_in_half and split_loss(self.model)[0]:
            # Ours instead of the casts that Apex has put around everything.
            del self.model.forward
            wrap_forward(self.model, self.dtype, False)

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        return self._scaler_state()['loss_scale']

    def _stash(self):
        return self.optimizer._amp_stash

    def _has_masters(self):
        # Not its lazy_init_called: Apex makes the masters, then calls
        # load_state_dict, and sets that only afterwards.
        return hasattr(self._stash(), 'all_fp32_from_fp32_grad_stash')

    def pairs(self):
        """Return the trained low-precision weights and their masters."""
        if not self._has_masters():
            self.optimizer._amp_lazy_init()
        stash = self._stash()
        self._adopt_unfrozen(stash)
        return stash.all_fp16_params, stash.all_fp32_from_fp16_params

    def _adopt_unfrozen(self, stash):
        """Give masters to weights that were frozen when the others got them.

        Apex would step them with scaled gradients.

        Raises:
            UserError: The optimizer cannot take them any more.
        """
        groups = self.optimizer.param_groups
        for number in range(self._groups_seen, len(groups)):
            self._frozen += [
                (number, param)
                for param in groups[number]['params']
                if not param.requires_grad
            ]
        self._groups_seen = len(groups)
        if not any(param.requires_grad for _, param in self._frozen):
            return
        if self._gathers:
            raise UserError(
                f'{type(self.optimizer).__name__} cannot train a weight that '
                "was frozen at the start: use torch's optimizer of that kind"
            )
        frozen, self._frozen = self._frozen, []
        for number, param in frozen:
            if not param.requires_grad:
                self._frozen.append((number, param))
                continue
            param.grad = None
            if param.dtype == torch.float32:
                stash.fp32_from_fp32_groups[number].append(param)
                stash.all_fp32_from_fp32_params.append(param)
                stash.all_fp32_from_fp32_grad_stash.append(None)
                continue
            master = param.detach().clone().float().requires_grad_()
            params = groups[number]['params']
            params[:] = [master if p is param else p for p in params]
            stash.fp16_groups[number].append(param)
            stash.fp32_from_fp16_groups[number].append(master)
            stash.all_fp16_params.append(param)
            stash.all_fp32_from_fp16_params.append(master)
            stash.all_fp16_grad_stash.append(None)

    @contextmanager
    def scale_loss(self, loss):
        """Scale a loss; afterwards look at what its backward pass left."""
        step = vars(self.optimizer)['step']
        if self._before_skip is step:
            self._before_skip = None  # the step that does nothing was made
        static = self.options.loss_scale != 'dynamic'
        if static and self._saturation is not None:
            self._saturation[0]()
        self.pairs()
        self._leave_buckets()  # torch puts them there when it sorts buckets
        with self._amp.scale_loss(loss, self.optimizer) as scaled_loss:
            yield scaled_loss
            self._leave_buckets()
        if vars(self.optimizer)['step'] is not step:
            # Apex has seen an overflow, and has replaced the next step.
            self._before_skip, self._flags = step, []
            self._count(True)
            self._stop_if_hopeless()
        elif static and self._before_skip is None:
            self._check_static_scale()

    def _leave_buckets(self):
        """Take gradients out of the buckets of DistributedDataParallel.

        For a wrapper that was not told (``needs_own_gradients``): buckets are
        overwritten while Apex still refers to them; and Apex detaches
        gradients in place, which a view of a bucket refuses.

        Raises:
            RuntimeError: The optimizer is about to move whole buckets.
        """
        if get_dist_info()[1] == 1 or getattr(
            self._stash(), 'already_combined', False
        ):
            return
        stash = self._stash()
        for param in stash.all_fp16_params + stash.all_fp32_from_fp32_params:
            grad = param.grad
            if grad is None or not is_part(grad):
                continue
            if self._gathers:
                raise RuntimeError(
                    f'{type(self.optimizer).__name__} moves gradients: wrap '
                    'the model with gradient_as_bucket_view=False'
                )
            param.grad = grad.clone()

    def _check_static_scale(self):
        """Look for overflow, which Apex does for a dynamic scale only."""
        grads = [w.grad for w in self.master_params() if w.grad is not None]
        if grads:
            found = self._with_saturation(any_not_finite(grads))
            self._flags.append(DeviceFlag(found))

    def _drop_grads(self):
        if not self._gathers:
            super()._drop_grads()

    def _make_step(self):
        self._plain_step()

    def _scaler_state(self):
        return self._amp.state_dict()['loss_scaler0']

    def load_state_dict(self, state_dict):
        """Load a state; what Apex was to skip is forgotten, too.

        It goes with passes that have left their masters unfilled memory.
        """
        step = vars(self.optimizer)['step']
        if self._before_skip not in (None, step):
            step()  # does nothing, and puts the real one back
        self._before_skip = None
        super().load_state_dict(state_dict)

    def _load_scaler_state(self, state):
        state = {key: state[key] for key in ('loss_scale', 'unskipped')}
        self._amp.load_state_dict({'loss_scaler0': state})
