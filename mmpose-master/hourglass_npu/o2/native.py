"""Mixed precision O2 on stock torch."""

import types
from contextlib import contextmanager

import torch
from mmcv.runner.hooks.optimizer import weights_of

from hourglass_npu.errors import UserError
from hourglass_npu.o2.blocks import Block, can_move, steps_in_place
from hourglass_npu.o2.casting import (
    cast_floats,
    cast_model,
    split_loss,
    wrap_forward,
)
from hourglass_npu.o2.engine import O2Engine
from hourglass_npu.o2.overflow import AmpLossScaler, DeviceFlag
from hourglass_npu.o2.tensors import (
    add_all,
    copy_all,
    to_fp32,
    unscale,
    zero_all,
)


class NativeO2(O2Engine):
    """O2 on stock torch, in Apex's arithmetic to the bit.

    Low-precision gradients are converted to fp32 *and then* multiplied by
    the inverse of the scale; those of several backward passes are added in
    the masters. Weights that are in fp32 already (batch norm) have no
    masters.

    Low-precision weights lie in one block, their masters in another, and the
    optimizer's moments too where the device undoes steps: what is done to all
    of them is a call or two. What joins the optimizer later is handled one by
    one, and so is all where others have put a weight elsewhere, or where the
    optimizer is not torch's own.
    """

    name = 'native'

    def _set_up(self):
        self.scaler = AmpLossScaler(self.options)
        self._low, self._masters, self._full = [], [], []
        self._ready = False
        self._known = set()  # ids of masters and fp32 weights
        keep = []
        if not self.options.loss_in_half:
            keep = split_loss(self.model)[1]
        cast_model(self.model, self.dtype, keep)
        wrap_forward(self.model, self.dtype, self.options.loss_in_half)
        self._unread = []  # flags that the scaler does not know yet
        self._low_block = self._master_block = self._moment_block = None
        if steps_in_place(self.optimizer):
            low = [
                param
                for param in weights_of(self.optimizer)
                if self._trains_low(param) and can_move(param)
            ]
            self._low_block = Block(low) if low else None

    @property
    def loss_scale(self):
        """float: The factor on the next loss."""
        return self.scaler.loss_scale

    def _has_masters(self):
        return self._ready

    def pairs(self):
        """Return the trained low-precision weights and their masters."""
        made = {}
        if not self._ready:
            made = self._make_masters()
        self._ready = True
        for group in self.optimizer.param_groups:
            self._adopt(group, made)
        return self._low, self._masters

    def _trains_low(self, param):
        low = param.dtype == self.dtype and param.device == self.device
        return low and param.requires_grad

    def _make_masters(self):
        """Make the masters of the block of weights, if it is as it was.

        Returns:
            dict[int, Tensor]: By id of the weight.
        """
        block = self._low_block
        if block is None:
            return {}
        trained = {id(p) for p in weights_of(self.optimizer)}
        trained &= {id(p) for p in block.tensors if p.requires_grad}
        if len(trained) < len(block.tensors) or not block.is_whole():
            return {}
        self._master_block = Block(block.tensors, torch.float32)
        masters = self._master_block.tensors
        return {id(p): m for p, m in zip(block.tensors, masters)}

    def _in_bulk(self):
        """Return low-precision weights and masters in few tensors."""
        blocks = self._low_block, self._master_block
        if None in blocks or not all(block.is_whole() for block in blocks):
            return super()._in_bulk()
        return [block.among(t) for block, t in zip(blocks, self.pairs())]

    def _moments(self):
        """Return the optimizer's state on the device, in few tensors."""
        values = super()._moments()
        if self._low_block is None:
            return values
        if self._moment_block is None:
            # Not numbers, such as that of steps.
            found = [v for v in values if v.dim() and can_move(v)]
            found = [v for v in found if v.dtype == torch.float32]
            self._moment_block = Block(found) if found else None
        block = self._moment_block
        known = {id(value) for value in values}
        if (
            block is None
            or not known.issuperset(map(id, block.tensors))
            or not block.is_whole()
        ):
            return values
        return block.among(values)

    def _forget_moments(self):
        self._moment_block = None

    def _adopt(self, group, made):
        """Put masters into a parameter group, and note what it trains.

        The optimizer's state of a weight moves to its master. Frozen weights
        stay until they are trained.

        Args:
            group (dict): Of the optimizer; its ``params`` is a list.
            made (dict[int, Tensor]): Masters that are there, by id of the
                weight.
        """
        for i, param in enumerate(group['params']):
            if not param.requires_grad or id(param) in self._known:
                continue
            param_is_low = param.dtype == self.dtype
            if not param_is_low and param.dtype != torch.float32:
                raise UserError(
                    'mixed precision O2 trains weights in fp32 or '
                    f'{self.dtype}, not in {param.dtype}'
                )
            if not param_is_low:
                param.grad = None
                self._full.append(param)
                self._known.add(id(param))
                continue
            master = made.get(id(param))
            if master is None:
                master = param.detach().clone().float()
            master.requires_grad_()
            self._known.add(id(master))
            group['params'][i] = master
            self._low.append(param)
            self._masters.append(master)
            if param in self.optimizer.state:
                self.optimizer.state[master] = cast_floats(
                    self.optimizer.state.pop(param), torch.float32
                )

    def _take_over_optimizer(self):
        super()._take_over_optimizer()
        optimizer = self.optimizer
        plain_add = optimizer.add_param_group

        def zero_grad(optimizer, set_to_none=False):
            self.pairs()
            params = [p for p in self._low + self._full if p.grad is not None]
            for param in params:
                # Not detach_(): it may be a view of DDP's bucket.
                if set_to_none:
                    param.grad = None
                elif param.grad.requires_grad:
                    param.grad = param.grad.detach()
            if not set_to_none:
                zero_all([param.grad for param in params])
            self._drop_grads()

        def add_param_group(optimizer, param_group):
            self.pairs()
            group = dict(param_group)
            params = group['params']
            single = isinstance(params, torch.Tensor)
            if not single and not isinstance(params, (list, tuple)):
                params = list(params)
            group['params'] = [params] if single else list(params)
            self._adopt(group, {})
            plain_add(group)

        for method in (zero_grad, add_param_group):
            name = method.__name__
            setattr(optimizer, name, types.MethodType(method, optimizer))

    @contextmanager
    def scale_loss(self, loss):
        """Scale a loss; afterwards unscale what its backward pass left."""
        self.pairs()
        if self.scaler.dynamic:
            self._learn(list(self._unread))
        for param in self._low:
            param.grad = None
        stash = self._take_full_grads()
        if self._saturation is not None:
            self._saturation[0]()
        yield loss.float() * self.scaler.loss_scale
        found = self._unscale_grads(stash)
        if found is not None:
            flag = DeviceFlag(self._with_saturation(found))
            self._flags.append(flag)
            self._unread.append(flag)
        if not self.selects_on_device:
            self._learn(list(self._unread))

    def _take_full_grads(self):
        """Take the gradients of earlier passes from the fp32 weights.

        Returns:
            list[Tensor | None]: Copies, since the gradients may lie in
            DistributedDataParallel's buckets, which are overwritten.
        """
        taken = [param for param in self._full if param.grad is not None]
        copies = dict(zip(taken, to_fp32([p.grad for p in taken])[0]))
        for param in taken:
            param.grad = None
        return [copies.get(param) for param in self._full]

    def _unscale_grads(self, stash):
        """Bring gradients into the masters, unscaled.

        Args:
            stash (list[Tensor | None]): What the fp32 weights had before.

        Returns:
            Tensor | None: 1.0 or 0.0: whether there was an overflow, a
            scalar on the device; None if there was no gradient.
        """
        fresh, owners, before = [], [], []
        for param, master in zip(self._low, self._masters):
            if param.grad is not None:
                fresh.append(param.grad)
                owners.append(master)
                before.append(master.grad)
        for param, earlier in zip(self._full, stash):
            if param.grad is None:
                param.grad = earlier
            else:
                fresh.append(param.grad)
                owners.append(param)
                before.append(earlier)
        if not fresh:
            return None
        with torch.no_grad():
            fresh, blocks = to_fp32(fresh)
            found = unscale(blocks, 1.0 / self.scaler.loss_scale)
            sums = [(f, b) for f, b in zip(fresh, before) if b is not None]
            add_all([new for new, _ in sums], [old for _, old in sums])
        for owner, grad in zip(owners, fresh):
            owner.grad = grad
        return found

    def _learn(self, flags):
        """Read flags, and update the scale by those that are new to it."""
        for flag in flags:
            if flag in self._unread:
                self._unread.remove(flag)
                self.scaler.update(flag.read())
        return super()._learn(flags)

    def settle(self):
        """Wait for all outcomes that the host does not know yet."""
        super().settle()
        self._learn(list(self._unread))

    def _make_step(self):
        self._plain_step()
        with torch.no_grad():
            copy_all(*self._in_bulk())
        self._drop_grads()

    def _scaler_state(self):
        return dict(
            loss_scale=self.scaler.loss_scale, unskipped=self.scaler.unskipped
        )

    def _load_scaler_state(self, state):
        self.scaler.loss_scale = state['loss_scale']
        self.scaler.unskipped = state['unskipped']
