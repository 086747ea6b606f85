"""mmcv/parallel/distributed.py: many processes with one device each.

mmcv 1.2.7 repeats parts of torch's ``DistributedDataParallel.forward``, which
change with every release of torch. Here ``train_step`` goes *through* torch's
``forward``, so one source serves torch 1.8 to today's. No device is named
here.
"""

import copy
import inspect
import threading
import warnings
from contextlib import contextmanager

import torch
from torch.nn.parallel import DistributedDataParallel

from .data_parallel import find_device, send, unpack
from .scatter_gather import scatter_kwargs


class MMDistributedDataParallel(DistributedDataParallel):
    """torch's wrapper, with containers unpacked and two more ways in.

    ``forward``, ``train_step`` and ``val_step`` all move their inputs to
    where the model's parameters are, and all behave as torch's ``forward``
    does towards gradients and buffers.

    Args:
        *args: As for ``DistributedDataParallel``.
        **kwargs: As for ``DistributedDataParallel``, but
            ``gradient_as_bucket_view`` is True unless given: gradients are
            then not stored twice, and their values are the same.

    Attributes:
        send (callable): How tensors get to the device, see
            :func:`~mmcv.parallel.data_parallel.unpack`.
    """

    send = staticmethod(send)

    def __init__(self, *args, **kwargs):
        known = inspect.signature(DistributedDataParallel.__init__)
        option = 'gradient_as_bucket_view'
        if option in known.parameters:
            given = known.bind_partial(self, *args, **kwargs).arguments
            if option not in given:
                kwargs[option] = True
        with warnings.catch_warnings():
            # Current torch has another name for it, with another meaning.
            warnings.filterwarnings(
                'ignore', '`broadcast_buffers` is deprecated', FutureWarning
            )
            super().__init__(*args, **kwargs)

    def forward(self, *inputs, **kwargs):
        """Call the model's ``forward`` on unpacked inputs."""
        if self._drives_several_devices():
            return super().forward(*inputs, **kwargs)
        inputs, kwargs = self._unpack(inputs, kwargs)
        return super().forward(*inputs, **kwargs)

    def train_step(self, *inputs, **kwargs):
        """Call the model's ``train_step`` on unpacked inputs."""
        return self._step(self.module.train_step, inputs, kwargs)

    def val_step(self, *inputs, **kwargs):
        """Call the model's ``val_step`` on unpacked inputs."""
        return self._step(self.module.val_step, inputs, kwargs)

    def scatter(self, inputs, kwargs, device_ids):
        """Unpack inputs for each device.

        Args:
            inputs (tuple): Positional arguments of the call.
            kwargs (dict): Keyword arguments of the call.
            device_ids (list[int]): The devices. With one, tensors go to where
                the model is.

        Returns:
            tuple: For each device the tuple of its positional arguments, and
            for each the dict of its keyword arguments.
        """
        if len(device_ids) > 1:
            return scatter_kwargs(inputs, kwargs, device_ids, dim=self.dim)
        inputs, kwargs = self._unpack(inputs, kwargs)
        return (inputs,), (kwargs,)

    def _unpack(self, inputs, kwargs):
        device = find_device(self.module)
        return tuple(
            unpack(data, device, self.send) for data in (inputs, kwargs)
        )

    def _drives_several_devices(self):
        # torch 1.8 can do that with one process; later ones cannot.
        return bool(self.device_ids) and len(self.device_ids) > 1

    def _step(self, method, inputs, kwargs):
        """Let torch's ``forward`` call a method other than ``forward``.

        Args:
            method (callable): Bound method of the model.
            inputs (tuple): Its positional arguments, packed.
            kwargs (dict): Its keyword arguments, packed.

        Returns:
            Any: What the method returns.
        """
        assert not self._drives_several_devices(), (
            'MMDistributedDataParallel trains with one device in each '
            f'process, not with {self.device_ids}'
        )
        inputs, kwargs = self._unpack(inputs, kwargs)
        aside = {}

        def call():
            outputs = method(*inputs, **kwargs)
            if isinstance(outputs, dict) and 'log_vars' in outputs:
                # torch looks at every value for a gradient, and these may
                # wait for the device when somebody looks at them.
                aside['log_vars'] = outputs['log_vars']
                outputs = copy.copy(outputs)
                outputs['log_vars'] = None
            return outputs

        # One opaque argument: torch moves every tensor that it finds, and
        # what a container keeps on the CPU has to stay there.
        with _forward_calls_its_argument(self.module):
            outputs = super().forward(call)
        if aside:
            outputs.update(aside)
        return outputs


def compress_gradients(wrapper, precision):
    """Send gradients in half as many bytes.

    They are rounded to the low precision and divided by the number of
    processes before they are added up in that precision. With ``fp16``, what
    is below 6e-8 becomes 0 and what is above 65504 overflows; ``bf16`` keeps
    the range and has 8 bits. Gradients that are in low precision already
    (mixed precision O2) gain nothing.

    Args:
        wrapper (DistributedDataParallel): Before its first step.
        precision (str): ``fp16`` or ``bf16``.

    Raises:
        UserError: It is neither, or this torch does not have it.
    """
    # Not at the top: mmcv.runner imports mmcv.parallel.
    from ..runner.dist_utils import UserError

    if precision not in ('fp16', 'bf16'):
        raise UserError(
            f"compression={precision!r} must be 'fp16', 'bf16' or None"
        )
    # Older ones have hooks too, but gloo cannot serve them.
    if not hasattr(torch.distributed, 'GradBucket'):
        raise UserError(
            'compression of gradients needs torch 1.10 or later; here is '
            f'{torch.__version__}: set ddp.compression to None'
        )
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    hook = getattr(default_hooks, f'{precision}_compress_hook')

    def compress(state, bucket):
        return hook(state, bucket)

    # Not the hook itself: by its name torch refuses bf16 to every backend
    # but NCCL, and others have learnt it since.
    wrapper.register_comm_hook(None, compress)


@contextmanager
def _forward_calls_its_argument(module):
    """Make the next ``module(call)`` of this thread return ``call()``.

    The module's own ``forward`` is back in place before the call begins, for
    the call may use it; and it is back on every way out. Other threads reach
    the module's own ``forward`` all the time.

    Args:
        module (nn.Module): Its ``forward`` may be an attribute of the
            instance, as mixed precision makes it.
    """
    thread = threading.get_ident()
    own = module.forward
    patched = vars(module).get('forward')

    def restore():
        # Only what was put here: the call may have set a forward of its own.
        if vars(module).get('forward') is redirect:
            if patched is None:
                del module.forward
            else:
                module.forward = patched

    def redirect(*args, **kwargs):
        if threading.get_ident() != thread:
            return own(*args, **kwargs)
        restore()
        (call,) = args
        return call()

    module.forward = redirect
    try:
        yield
    finally:
        restore()
