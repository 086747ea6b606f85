"""Stands in for the optimizers that Ascend's Apex brings."""

import torch


class Blocks:
    """Gradients and weights of an optimizer, each kind in one piece.

    Made behind the first backward pass; a weight that has no gradient then
    is left out for good. Gradients stay there: autograd adds to them.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.made = False
        self.fresh = True  # zeroed, and no pass since

    @torch.no_grad()
    def make(self):
        """Move gradients and masters into blocks."""
        stash = self.optimizer._amp_stash
        pairs = [
            (param, master)
            for param, master in zip(
                stash.all_fp16_params, stash.all_fp32_from_fp16_params
            )
            if param.grad is not None
        ]
        stash.all_fp16_params = [param for param, _ in pairs]
        stash.all_fp32_from_fp16_params = [master for _, master in pairs]
        for _, master in pairs:
            master.grad = torch.zeros_like(master)
        full = [
            param
            for param in stash.all_fp32_from_fp32_params
            if param.grad is not None
        ]
        self.low = _combine([param.grad for param, _ in pairs])
        # In the order of groups, each a piece of its own.
        held = {id(p) for p in stash.all_fp32_from_fp16_params + full}
        lows = {id(p) for p in stash.all_fp32_from_fp16_params}
        self.masters = _combine([master.grad for _, master in pairs])
        self.full = _combine([param.grad for param in full])
        self.stash = None if self.full is None else self.full.clone().zero_()
        self.pieces = []
        for group in self.optimizer.param_groups:
            for low in (False, True):
                params = [
                    p
                    for p in group['params']
                    if id(p) in held and (id(p) in lows) == low
                ]
                if params:
                    self.pieces.append((group, params, _combine(params)))
        self.made = stash.already_combined = True

    def zero(self):
        """Zero all gradients."""
        self.fresh = True
        for block in (self.low, self.masters, self.full):
            if block is not None:
                block.zero_()

    def zero_masters(self):
        """Zero the gradients of the masters."""
        if self.masters is not None:
            self.masters.zero_()

    def prepare(self):
        """Put aside what earlier passes left."""
        if self.fresh:
            return
        if self.low is not None:
            self.low.zero_()
        if self.full is not None:
            self.stash.copy_(self.full)
            self.full.zero_()

    def unscale(self, scaler):
        """Unscale what a pass left, and add it to what was put aside."""
        if not self.made:
            self.make()
        for grads, out, before in (
            (self.low, self.masters, self.masters),
            (self.full, self.full, self.stash),
        ):
            if grads is not None:
                before = None if self.fresh else before
                scaler.unscale([grads], [out], [before])
        self.fresh = False


def _combine(tensors):
    """Copy tensors into a block and let them lie there."""
    if not tensors:
        return None
    block = torch.cat([tensor.reshape(-1) for tensor in tensors])
    start = 0
    for tensor in tensors:
        piece = block[start : start + tensor.numel()]
        tensor.data = piece.view_as(tensor)
        start += tensor.numel()
    return block


class NpuFusedSGD(torch.optim.Optimizer):
    """torch's SGD, on blocks. It needs ``apex.amp``."""

    is_npu_fused_optimizer = True

    def __init__(self, params, lr, momentum=0, weight_decay=0):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, defaults)
        self._blocks = Blocks(self)
        self._buffers = {}

    def load_state_dict(self, state_dict):
        """Load a state; blocks of it are made anew."""
        super().load_state_dict(state_dict)
        self._buffers.clear()

    @torch.no_grad()
    def step(self, closure=None):
        """Step over each block at once."""
        if not hasattr(self, '_amp_stash'):
            raise RuntimeError('NpuFusedSGD should be used with AMP')
        for number, (group, params, weights) in enumerate(self._blocks.pieces):
            grads = torch.cat([p.grad.reshape(-1) for p in params])
            if group['weight_decay']:
                grads = grads.add(weights, alpha=group['weight_decay'])
            if group['momentum']:
                grads = self._average(number, group, params, grads)
            weights.add_(grads, alpha=-group['lr'])

    def _average(self, number, group, params, grads):
        if number not in self._buffers:
            new = 'momentum_buffer' not in self.state[params[0]]
            self._buffers[number] = (
                grads.clone()
                if new
                else torch.cat(
                    [
                        self.state[p]['momentum_buffer'].reshape(-1)
                        for p in params
                    ]
                )
            )
            start = 0
            for param in params:
                piece = self._buffers[number][start : start + param.numel()]
                self.state[param]['momentum_buffer'] = piece.view_as(param)
                start += param.numel()
            if new:
                return self._buffers[number]
        return (
            self._buffers[number].mul_(group['momentum']).add_(grads, alpha=1)
        )
