"""Small trainings in mixed precision O2, and who can run them.

Shared by the tests and by ``make_o2_trace.py``. A *driver* is one way of
doing O2: Apex itself, the native engine, or the plain reference below. Each
runs the same cases, and a case's record holds the bits that came out.

The layers compute in float64 and store what the model's precision is: half
under O2, so that torch 1.8.1 can run them, which has no half convolutions on
a CPU. Sums are rounded once, so that their order, which differs between CPUs
and releases, does not show.
"""

import base64
import functools
import hashlib
import json
from collections import OrderedDict, namedtuple
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from torch import nn

Case = namedtuple(
    'Case', 'optimizer scale passes clip overflow_at loss_inside more_at'
)
STEPS = 6
HALF = torch.float16
DYNAMIC = 'dynamic'


def make_case(
    optimizer,
    scale=2.0**15,
    passes=1,
    clip=None,
    overflow_at=(),
    loss_inside=False,
    more_at=None,
):
    """Describe a training.

    Args:
        optimizer (str): Key of ``OPTIMIZERS``.
        scale (float | str): Loss scale.
        passes (int): Backward passes for one step.
        clip (float | None): Largest norm of the masters' gradients.
        overflow_at (tuple[int]): Steps whose first pass overflows.
        loss_inside (bool): The model's ``forward`` computes the loss.
        more_at (int | None): Step before which the last layer joins the
            optimiser as a group of its own.

    Returns:
        Case: The description.
    """
    return Case(
        optimizer, scale, passes, clip, overflow_at, loss_inside, more_at
    )


OPTIMIZERS = dict(
    adam=lambda p: torch.optim.Adam(p, lr=1e-2),
    adamw=lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    sgd=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
)
CASES = OrderedDict(
    adam=make_case('adam'),
    adamw=make_case('adamw'),
    sgd=make_case('sgd'),
    adam_clip=make_case('adam', clip=0.125),
    sgd_clip=make_case('sgd', clip=0.125),
    adam_accumulate=make_case('adam', passes=3),
    sgd_accumulate=make_case('sgd', passes=3),
    sgd_uneven_scale=make_case('sgd', scale=1000.0),
    sgd_scale_one=make_case('sgd', scale=1.0),
    adam_dynamic=make_case('adam', scale=DYNAMIC, overflow_at=(0, 3)),
    sgd_dynamic_accumulate=make_case(
        'sgd', scale=DYNAMIC, passes=2, overflow_at=(2,)
    ),
    sgd_loss_inside=make_case('sgd', loss_inside=True),
    adam_more=make_case('adam', more_at=2),
    sgd_more=make_case('sgd', more_at=2, passes=2),
)


# --------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------


class Conv(nn.Conv2d):
    """Stored in the model's precision, computed in float64."""

    def forward(self, x):
        out = nn.functional.conv2d(
            x.double(), self.weight.double(), self.bias.double(), padding=1
        )
        return out.to(x.dtype)


class BatchNorm(nn.BatchNorm2d):
    """As torch's, computed in float64."""

    def forward(self, x):
        wide = x.double()
        mean = wide.mean((0, 2, 3))
        var = wide.var((0, 2, 3), unbiased=False)
        with torch.no_grad():
            for old, new in (
                (self.running_mean, mean),
                (self.running_var, var),
            ):
                kept = old.double() * (1 - self.momentum)
                old.copy_(kept + new * self.momentum)
            self.num_batches_tracked.add_(1)

        def per_channel(value):
            return value.double()[None, :, None, None]

        out = (wide - per_channel(mean)) / per_channel(var + self.eps).sqrt()
        if self.affine:
            out = out * per_channel(self.weight) + per_channel(self.bias)
        return out.to(x.dtype)


class Scale(nn.Module):
    """A weight of its own for each channel, as in other normalisations."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer('shift', torch.full((channels,), 0.1))

    def forward(self, x):
        weight = self.weight.double()[None, :, None, None]
        shift = self.shift.double()[None, :, None, None]
        return (x.double() * weight + shift).to(x.dtype)


class Toy(nn.Module):
    """conv, BN, ReLU, BN without weights, channel scale, conv."""

    def __init__(self, loss_inside=False):
        super().__init__()
        self.loss_inside = loss_inside
        self.first = Conv(3, 4, 3)
        self.bn = BatchNorm(4)
        self.plain_bn = BatchNorm(4, affine=False)
        self.scale = Scale(4)
        self.frozen = Scale(4)
        self.last = Conv(4, 2, 3)
        self.frozen.weight.requires_grad_(False)
        for i, (name, param) in enumerate(self.named_parameters()):
            if param.dim() == 4 or name.endswith('bias'):
                param.data.copy_(_numbers(i, param.shape) / 2)

    def forward(self, x, target=None):
        x = self.bn(self.first(x))
        x = self.plain_bn(torch.relu(x.double()).to(x.dtype))
        out = self.last(self.frozen(self.scale(x)))
        if self.loss_inside:
            return dict(loss=loss_of(out, target), note='unchanged')
        return out


def loss_of(out, target):
    """Mean square, in the precision of what comes in."""
    return (out.double() - target.double()).pow(2).mean().to(out.dtype)


def _numbers(seed, shape):
    """Draw multiples of 1/64 in [-1, 1); the same ones everywhere."""
    drawn = np.random.RandomState(seed).randint(-64, 64, size=tuple(shape))
    return torch.from_numpy(drawn).float() / 64


def run_batch(model, index):
    """Return the loss of one batch."""
    image, target = batch(index)
    return loss_of(model(image), target)


def batch(index):
    """Return images and targets; the same ones everywhere."""
    return _numbers(100 + index, (4, 3, 6, 6)), _numbers(
        200 + index, (4, 2, 6, 6)
    )


# --------------------------------------------------------------------------
# Drivers
# --------------------------------------------------------------------------


class PlainDriver:
    """fp32 without any engine: tells how this torch and CPU round."""

    def __init__(self, model, optimizer, case):
        self.model, self.optimizer = model, optimizer

    @contextmanager
    def scale_loss(self, loss):
        yield loss

    def masters(self):
        return [
            p for group in self.optimizer.param_groups for p in group['params']
        ]


class ReferenceDriver(PlainDriver):
    """O2 written down plainly for a static scale: loops, nothing lazy.

    It takes neither new parameter groups nor a dynamic scale.
    """

    def __init__(self, model, optimizer, case):
        super().__init__(model, optimizer, case)
        self.scale = case.scale
        self.masters_of = OrderedDict()
        for module in model.modules():
            if isinstance(module, BatchNorm) and module.affine:
                continue
            for param in module.parameters(recurse=False):
                param.data = param.data.half()
            for buffer in module.buffers(recurse=False):
                if buffer.is_floating_point():
                    buffer.data = buffer.data.half()
        for group in optimizer.param_groups:
            for i, param in enumerate(group['params']):
                if param.requires_grad and param.dtype == torch.float16:
                    master = param.detach().float().requires_grad_()
                    group['params'][i] = self.masters_of[param] = master
        inner, step = model.forward, optimizer.step

        def forward(*args):
            out = inner(*(arg.half() for arg in args))
            if isinstance(out, dict):
                return dict(out, loss=out['loss'].float())
            return out.float()

        def step_and_copy():
            step()
            for param, master in self.masters_of.items():
                param.data.copy_(master.data)

        def zero_grad():
            for param in self.masters():
                param.grad = None

        model.forward = forward
        optimizer.step, optimizer.zero_grad = step_and_copy, zero_grad

    @contextmanager
    def scale_loss(self, loss):
        masters = {id(p) for p in self.masters_of.values()}
        own = [
            p
            for p in self.masters()
            if p.dtype == torch.float32 and id(p) not in masters
        ]
        before = [p.grad for p in own]
        for param in list(self.masters_of) + own:
            param.grad = None
        yield loss.float() * self.scale
        for param, master in self.masters_of.items():
            grad = param.grad.float() * (1 / self.scale)
            master.grad = grad if master.grad is None else grad + master.grad
        for param, earlier in zip(own, before):
            if param.grad is not None:
                param.grad = param.grad * (1 / self.scale)
                if earlier is not None:
                    param.grad = param.grad + earlier


class ApexDriver(PlainDriver):
    """Apex's own ``amp``.

    Args:
        amp (module): From ``apex_tree.load_apex``.
    """

    def __init__(self, model, optimizer, case, amp=None):
        super().__init__(model, optimizer, case)
        self.amp = amp
        amp.initialize(
            model,
            optimizer,
            opt_level='O2',
            loss_scale=case.scale,
            verbosity=0,
        )

    def scale_loss(self, loss):
        return self.amp.scale_loss(loss, self.optimizer)

    def state(self):
        return self.amp.state_dict()['loss_scaler0']


class NativeDriver(PlainDriver):
    """The native engine.

    Args:
        on_device (bool): Decide about skipped steps as on an accelerator.
    """

    def __init__(self, model, optimizer, case, on_device=False, **amp):
        from hourglass_npu.o2 import choice

        super().__init__(model, optimizer, case)
        settings = dict(
            loss_scale=case.scale,
            backend='native',
            dtype='float16',
            loss_in_half=True,
            enabled=True,
        )
        settings.update(amp)
        # These layers need no half operators, which old releases lack.
        with mock.patch.object(choice, 'check_operators'):
            self.engine = choice.initialize(model, optimizer, **settings)
        self.engine.selects_on_device = on_device

    def scale_loss(self, loss):
        return self.engine.scale_loss(loss)

    def masters(self):
        return self.engine.master_params()

    def state(self):
        state = self.engine.state_dict()['loss_scaler0']
        return {key: state[key] for key in ('loss_scale', 'unskipped')}


OnDevice = functools.partial(NativeDriver, on_device=True)


# --------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------


def clip(params, limit):
    """Clip to a norm that is summed in float64: the order cannot show."""
    grads = [p.grad for p in params if p.grad is not None]
    norm = sum(float(grad.double().pow(2).sum()) for grad in grads) ** 0.5
    if norm > limit:
        for grad in grads:
            grad.mul_(limit / norm)


def run_case(case, make_driver, steps=STEPS):
    """Train.

    Args:
        case (Case): What.
        make_driver (callable): Gets model, optimiser and case.
        steps (int): How long.

    Returns:
        dict: ``losses`` of all passes as hexadecimal floats; ``steps``, a
        hash of masters and buffers after each step; ``masters`` at the end,
        in base64; ``moments`` and ``saved``, hashes of the optimiser's
        tensors and of the rounded state dict; ``scaler``.
    """
    model = Toy(case.loss_inside)
    params = list(model.parameters())
    more = []
    if case.more_at is not None:
        more = list(model.last.parameters())
        params = params[: -len(more)]
    optimizer = OPTIMIZERS[case.optimizer](params)
    driver = make_driver(model, optimizer, case)
    losses, hashes = [], []
    for step in range(steps):
        if step == case.more_at:
            optimizer.add_param_group(dict(params=more, lr=5e-3))
        optimizer.zero_grad()
        for k in range(case.passes):
            image, target = batch(step * case.passes + k)
            if case.loss_inside:
                loss = model(image, target)['loss']
            else:
                loss = loss_of(model(image), target)
            losses.append(float(loss.detach()).hex())
            if k == 0 and step in case.overflow_at:
                loss = loss * 1e6
            with driver.scale_loss(loss) as scaled:
                scaled.backward()
        if case.clip is not None:
            clip(driver.masters(), case.clip)
        optimizer.step()
        hashes.append(_hash(_weights(driver, model)))
    weights = [p.detach() for p in driver.masters() if p.requires_grad]
    flat = torch.cat([w.reshape(-1) for w in weights]).numpy()
    moments = []
    for weight in driver.masters():
        for _, value in sorted(optimizer.state.get(weight, {}).items()):
            if isinstance(value, torch.Tensor) and value.dim():
                moments.append(value)
    saved = [v for _, v in sorted(model.state_dict().items())]
    return dict(
        losses=losses,
        steps=hashes,
        masters=base64.b64encode(flat.astype('<f4').tobytes()).decode(),
        moments=_hash(moments),
        saved=_hash(_rounded(saved)),
        scaler=driver.state() if hasattr(driver, 'state') else None,
    )


def _rounded(tensors):
    """Round to half and back, as the state dict of Apex is."""
    return [t.half().float() if t.is_floating_point() else t for t in tensors]


def _weights(driver, model):
    masters = [p for p in driver.masters() if p.requires_grad]
    return masters + [b for b in model.buffers() if b.dtype == torch.float32]


def _hash(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        # Zeros are equal whatever their sign.
        plain = tensor.detach() + 0
        digest.update(plain.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def masters_of(record):
    """Return the masters of a record as one array."""
    data = base64.b64decode(record['masters'])
    return np.frombuffer(data, dtype='<f4')


def probe(optimizer):
    """Train in fp32 without an engine; equal bits mean equal rounding."""
    return run_case(make_case(optimizer), PlainDriver)['masters']


def read_trace(path):
    """Return the stored records, by torch release."""
    with open(str(path)) as file:
        return json.load(file)


# --------------------------------------------------------------------------
# By hand
# --------------------------------------------------------------------------


def prepare(model=None, optimizer='sgd', **amp):
    model = model or Toy()
    params = [p for p in model.parameters()]
    driver = NativeDriver(
        model,
        OPTIMIZERS[optimizer](params),
        make_case(optimizer, scale=amp.pop('loss_scale', 2.0**15)),
        **amp,
    )
    return model, driver.optimizer, driver.engine


def one_pass(model, engine, index=0, factor=1.0):
    loss = run_batch(model, index) * factor
    with engine.scale_loss(loss) as scaled:
        scaled.backward()


def train(model, optimizer, engine, steps, spoil=()):
    for step in range(steps):
        optimizer.zero_grad()
        one_pass(model, engine, step, 1e8 if step in spoil else 1.0)
        optimizer.step()


def bits(tensors):
    return [t.detach().clone() for t in tensors]


def equal(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first, second)
    )


class Detector(nn.Module):
    """Network and loss side by side, as mmpose's detectors have them."""

    def __init__(self):
        super().__init__()
        self.backbone = Toy()
        self.loss = Loss()

    def forward(self, img, target):
        out = self.backbone(img)
        self.seen = [out.dtype, target.dtype]
        return dict(loss=self.loss(out, target))


class Loss(nn.Module):
    def forward(self, out, target):
        self.seen = [out.dtype, target.dtype]
        return loss_of(out, target)
