"""Adam over one block of memory, as the fused optimisers of torch_npu work."""

import math

import torch


def _gather(tensors):
    """Moves tensors into one new block, each keeping its shape.

    Args:
        tensors (list[Tensor]): On one device; afterwards parts of the block.

    Returns:
        Tensor: The block, one-dimensional.

    Raises:
        RuntimeError: A tensor shares its memory with others.
    """
    for tensor in tensors:
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        if held != tensor.numel():
            raise RuntimeError(
                f'a tensor of {tensor.numel()} elements lies in a block of '
                f'{held}: fused optimisers need memory of its own for each '
                '(DistributedDataParallel: gradient_as_bucket_view=False)'
            )
    block = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    parts = block.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts):
        tensor.data = part.view(tensor.shape)
    return block


class NpuFusedAdam(torch.optim.Optimizer):
    """Adam that steps on blocks.

    At the first step (or the first ``zero_grad`` after a backward pass) the
    parameters of a group move into one block, and their gradients into
    another; from then on only the blocks are looked at. The real one does not
    notice when a parameter or a gradient has been put elsewhere, and trains
    on what is not used any more; this one says so.

    Args:
        params (Iterable): Parameters or groups.
        lr (float): Learning rate.
        betas (tuple[float, float]): Decay of both moments.
        eps (float): Added to the denominator.
        weight_decay (float): L2 penalty.
        amsgrad (bool): Not modelled.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        amsgrad=False,
    ):
        if amsgrad:
            raise NotImplementedError('amsgrad is not modelled')
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
            ),
        )
        self.is_fused_optimizer = True
        self._blocks = None
        self._moment_blocks = {}
        self._places = {
            param: param.data_ptr()
            for group in self.param_groups
            for param in group['params']
        }

    def _combine(self):
        """Gathers what has a gradient; does nothing before there is any."""
        blocks = []
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            if not params:
                continue
            block = _gather(params)
            grads = _gather([param.grad for param in params])
            blocks.append((group, params, block, grads))
            for param in params:
                self._places[param] = param.data_ptr()
                self._places[param, 'grad'] = param.grad.data_ptr()
        if blocks:
            self._blocks = blocks

    def _check(self):
        """Raises a RuntimeError if something has been re-allocated."""
        for key, place in self._places.items():
            param, what = key if isinstance(key, tuple) else (key, '')
            tensor = param.grad if what else param
            if tensor is None or tensor.data_ptr() != place:
                raise RuntimeError(
                    f'{"the gradient of " * bool(what)}a parameter of shape '
                    f'{tuple(param.shape)} was re-allocated after '
                    'NpuFusedAdam had been built'
                )

    @torch.no_grad()
    def zero_grad(self, set_to_none=False):
        """Zeroes the block of gradients; none of them can be dropped."""
        if set_to_none:
            raise ValueError('fused optimisers cannot set_to_none')
        if self._blocks is None:
            self._check()
            self._combine()
        for _, _, _, grads in self._blocks or ():
            grads.zero_()

    @torch.no_grad()
    def step(self, closure=None):
        """Makes a step on each block."""
        loss = None if closure is None else closure()
        self._check()
        if self._blocks is None:
            self._combine()
        for group, params, block, grads in self._blocks or ():
            self._step(group, params, block, grads)
        return loss

    def _step(self, group, params, block, grads):
        beta1, beta2 = group['betas']
        mean, square = self._moments(params)
        for param in params:
            self.state[param]['step'] += 1
        steps = self.state[params[0]]['step']
        if group['weight_decay']:
            grads = grads.add(block, alpha=group['weight_decay'])
        mean.mul_(beta1).add_(grads, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        root = square.sqrt().div_(math.sqrt(1 - beta2**steps))
        rate = group['lr'] / (1 - beta1**steps)
        block.addcdiv_(mean, root.add_(group['eps']), value=-rate)

    def _moments(self, params):
        """Blocks of both moments; each parameter's state is a part of them."""
        if params[0] not in self._moment_blocks:
            moments = []
            for name in ('exp_avg', 'exp_avg_sq'):
                tensors = [
                    self.state[param].get(name, torch.zeros_like(param))
                    for param in params
                ]
                moments.append(_gather(tensors))
                for param, tensor in zip(params, tensors):
                    self.state[param][name] = tensor
                    self.state[param].setdefault('step', 0)
            self._moment_blocks[params[0]] = moments
        return self._moment_blocks[params[0]]
