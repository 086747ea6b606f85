"""Stands in for ``apex.amp``, as far as O2 goes."""

import types
from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm

import apex

HALF, FULL = torch.float16, torch.float32


class _Scaler:
    """The loss scale. Only a dynamic one is checked for overflow."""

    INIT, WINDOW = 2.0**16, 2000

    def __init__(self, scale, floor, ceiling):
        self.dynamic = scale == 'dynamic'
        self.scale = min(ceiling, self.INIT) if self.dynamic else scale
        self.floor, self.ceiling = floor or 0.0, ceiling
        self.unskipped = 0
        self.overflow = False

    def unscale(self, grads, outs, befores):
        """Unscale into fp32, and add to what was there; a gap at overflow.

        What comes behind an overflow is left as it is: memory that nobody
        has written, or gradients that are still scaled.
        """
        for grad, out, before in zip(grads, outs, befores):
            if self.overflow:
                return
            if self.dynamic:
                total = float(grad.float().sum())
                self.overflow = total in (float('inf'), -float('inf')) or (
                    total != total
                )
                if self.overflow:
                    return
            unscaled = grad.float() * (1.0 / self.scale)
            out.copy_(unscaled if before is None else unscaled + before)

    def update(self):
        """Move the scale.

        Returns:
            bool: Whether the next step is to be skipped.
        """
        skip = self.overflow and self.dynamic
        self.overflow = False
        if skip:
            self.scale = max(self.floor, self.scale / 2)
            self.unskipped = 0
            return True
        self.unskipped += 1
        if self.dynamic and self.unskipped == self.WINDOW:
            self.scale = min(self.ceiling, self.scale * 2)
            self.unskipped = 0
        return False


class _State:
    """What is global in Apex: one training at a time."""

    scaler = None


def initialize(
    model,
    optimizer,
    opt_level='O1',
    loss_scale=None,
    min_loss_scale=None,
    max_loss_scale=2.0**24,
    verbosity=1,
):
    """Cast a model in place, and patch its optimizer."""
    if opt_level != 'O2':
        raise NotImplementedError(opt_level)
    if hasattr(optimizer, '_amp_stash'):
        raise RuntimeError('this optimizer was initialized before')
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            continue
        own = list(module._parameters.values()) + list(
            module._buffers.values()
        )
        for value in own:
            if value is not None and value.is_floating_point():
                value.data = value.data.to(HALF)
        module._register_state_dict_hook(_save_in_full)
    inner = model.forward

    def forward(*args, **kwargs):
        out = inner(*_to(HALF, args), **_to(HALF, kwargs))
        return _to(FULL, out)

    model.forward = forward
    _patch(optimizer)
    _State.scaler = _Scaler(loss_scale, min_loss_scale, max_loss_scale)
    return model, optimizer


def _save_in_full(module, state_dict, prefix, local_metadata):
    for key, value in state_dict.items():
        if value.dtype == HALF:
            state_dict[key] = value.to(FULL)


def _to(dtype, value):
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _to(dtype, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to(dtype, item) for item in value)
    return value


@contextmanager
def scale_loss(loss, optimizer):
    """Scale a loss; unscale what its backward pass leaves."""
    scaler, stash = _State.scaler, optimizer._amp_stash
    optimizer._prepare_amp_backward()
    yield loss.float() * scaler.scale
    optimizer._post_amp_backward(scaler)
    if not scaler.update() or stash.already_patched:
        return
    step = optimizer.step

    def skip(closure=None):
        if optimizer.is_npu_fused_optimizer:
            optimizer._blocks.zero_masters()
        else:
            for master in stash.all_fp32_from_fp16_params:
                master.grad = None
        optimizer.step = step
        stash.already_patched = False

    optimizer.step = skip
    stash.already_patched = True


def state_dict():
    """Return the state of the scaler."""
    scaler = _State.scaler
    return dict(
        loss_scaler0=dict(loss_scale=scaler.scale, unskipped=scaler.unskipped)
    )


def load_state_dict(state):
    """Load the state of the scaler, of a static one too."""
    _State.scaler.scale = state['loss_scaler0']['loss_scale']
    _State.scaler.unskipped = state['loss_scaler0']['unskipped']


def _patch(optimizer):
    """Replace methods of an optimizer; the masters are made later."""
    stash = optimizer._amp_stash = types.SimpleNamespace(
        lazy_init_called=False, already_patched=False
    )
    if not getattr(optimizer, 'is_npu_fused_optimizer', False):
        optimizer.is_npu_fused_optimizer = False
    plain_step, plain_add = optimizer.step, optimizer.add_param_group
    optimizer.load_state_dict(optimizer.state_dict())

    def init(self):
        if stash.lazy_init_called:
            return
        stash.fp16_groups, stash.fp32_from_fp16_groups = [], []
        stash.fp32_from_fp32_groups = []
        for name in ('fp16', 'fp32_from_fp16', 'fp32_from_fp32'):
            setattr(stash, f'all_{name}_params', [])
        stash.all_fp16_grad_stash = []
        stash.all_fp32_from_fp32_grad_stash = []
        for group in self.param_groups:
            adopt(group)
        for param in (
            stash.all_fp32_from_fp16_params + stash.all_fp32_from_fp32_params
        ):
            param.grad = None
        # The moments become fp32 that way, but only where masters are.
        self.load_state_dict(self.state_dict())
        stash.lazy_init_called = True

    def adopt(group):
        """Put masters into a group. What is frozen stays, for good."""
        low, masters, full = [], [], []
        for i, param in enumerate(group['params']):
            if not param.requires_grad:
                continue
            kind = param.device.type
            if param.dtype not in (HALF, FULL) or kind not in apex.KINDS:
                raise TypeError(f'{param.type()} is none of the types served')
            if param.dtype == FULL:
                full.append(param)
                continue
            master = param.detach().clone().float()
            master.requires_grad = True
            group['params'][i] = master
            low.append(param)
            masters.append(master)
            if param in optimizer.state:
                optimizer.state[master] = optimizer.state.pop(param)
        stash.fp16_groups.append(low)
        stash.fp32_from_fp16_groups.append(masters)
        stash.fp32_from_fp32_groups.append(full)
        stash.all_fp16_params += low
        stash.all_fp32_from_fp16_params += masters
        stash.all_fp32_from_fp32_params += full
        stash.all_fp16_grad_stash += [None] * len(low)
        stash.all_fp32_from_fp32_grad_stash += [None] * len(full)

    def step(self, closure=None):
        if closure is not None:
            raise RuntimeError('no closures here')
        result = plain_step()
        for low, masters in zip(
            stash.fp16_groups, stash.fp32_from_fp16_groups
        ):
            for param, master in zip(low, masters):
                param.data.copy_(master.data)
        if not self.is_npu_fused_optimizer:
            for master in stash.all_fp32_from_fp16_params:
                master.grad = None
        return result

    def zero_grad(self):
        self._amp_lazy_init()
        if self.is_npu_fused_optimizer and self._blocks.made:
            self._blocks.zero()
            return
        for param in stash.all_fp16_params + stash.all_fp32_from_fp32_params:
            if param.grad is not None:
                param.grad.detach_()
                param.grad.zero_()
        for master in stash.all_fp32_from_fp16_params:
            master.grad = None

    def add_param_group(self, group):
        self._amp_lazy_init()
        if isinstance(group['params'], torch.Tensor):
            group['params'] = [group['params']]
        adopt(group)
        plain_add(group)

    def prepare(self):
        self._amp_lazy_init()
        if self.is_npu_fused_optimizer and self._blocks.made:
            self._blocks.prepare()
            return
        for param in stash.all_fp16_params:
            param.grad = None
        for i, param in enumerate(stash.all_fp32_from_fp32_params):
            stash.all_fp32_from_fp32_grad_stash[i] = param.grad
            param.grad = None

    def post(self, scaler):
        if self.is_npu_fused_optimizer:
            self._blocks.unscale(scaler)
            return
        _unscale_into_masters(stash, scaler)
        _unscale_in_place(stash, scaler)

    for name, method in dict(
        step=step,
        zero_grad=zero_grad,
        add_param_group=add_param_group,
        _amp_lazy_init=init,
        _prepare_amp_backward=prepare,
        _post_amp_backward=post,
    ).items():
        setattr(optimizer, name, types.MethodType(method, optimizer))


def _unscale_into_masters(stash, scaler):
    pairs = [
        (param, master)
        for param, master in zip(
            stash.all_fp16_params, stash.all_fp32_from_fp16_params
        )
        if param.grad is not None
    ]
    new = [pair for pair in pairs if pair[1].grad is None]
    more = [pair for pair in pairs if pair[1].grad is not None]
    for _, master in new:
        # Nobody has written there, and after an overflow nobody does.
        master.grad = torch.full_like(master, float('nan'))
    for some, added in ((new, False), (more, True)):
        outs = [master.grad for _, master in some]
        scaler.unscale(
            [param.grad.detach() for param, _ in some],
            outs,
            outs if added else [None] * len(outs),
        )


def _unscale_in_place(stash, scaler):
    stashed = stash.all_fp32_from_fp32_grad_stash
    befores, stashed[:] = list(stashed), [None] * len(stashed)
    if scaler.scale == 1.0 and not scaler.dynamic:
        return  # and what was put aside is lost
    params = list(zip(stash.all_fp32_from_fp32_params, befores))
    for param, before in params:
        if param.grad is None:
            param.grad = before
    fresh = [
        (param.grad.detach(), before)
        for param, before in params
        if param.grad is not before
    ]
    fresh.sort(key=lambda pair: pair[1] is not None)
    grads = [grad for grad, _ in fresh]
    scaler.unscale(grads, grads, [before for _, before in fresh])
