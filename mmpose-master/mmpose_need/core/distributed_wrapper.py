"""mmpose/core/distributed_wrapper.py: models with several optimizers."""

import torch.nn as nn
from mmcv.parallel import MODULE_WRAPPERS, MMDistributedDataParallel
from mmcv.parallel.data_parallel import send, unpack
from mmcv.runner.dist_utils import get_device


@MODULE_WRAPPERS.register_module()
class DistributedDataParallelWrapper(nn.Module):
    """Wrap each child of a model into its own DistributedDataParallel.

    A GAN steps its generator and its discriminator in turn. One
    DistributedDataParallel around both would wait in each step for the
    gradients of the part whose turn it is not. Children with nothing to
    train are moved to the device and otherwise left as they are.

    Args:
        module (nn.Module): The model. Its children are replaced.
        device_ids (list[int | torch.device] | None): The one device of this
            process; None on the CPU.
        dim (int): Batch dimension of the inputs.
        broadcast_buffers (bool): As in DistributedDataParallel.
        find_unused_parameters (bool): As in DistributedDataParallel.
        **kwargs: More arguments of DistributedDataParallel.

    Attributes:
        send (callable): How tensors get to the device, see
            ``mmcv.parallel.data_parallel.unpack``.
    """

    send = staticmethod(send)

    def __init__(
        self,
        module,
        device_ids,
        dim=0,
        broadcast_buffers=False,
        find_unused_parameters=False,
        **kwargs,
    ):
        super().__init__()
        assert device_ids is None or len(device_ids) == 1, (
            f'one process drives one device, not {device_ids}'
        )
        self.module = module
        self.dim = dim
        self.device = get_device()
        self.output_device = self.device.index
        self.to_ddp(
            device_ids=device_ids,
            dim=dim,
            broadcast_buffers=broadcast_buffers,
            find_unused_parameters=find_unused_parameters,
            **kwargs,
        )

    def to_ddp(
        self,
        device_ids,
        dim,
        broadcast_buffers,
        find_unused_parameters,
        **kwargs,
    ):
        """Wrap the children that have something to train, in place."""
        for name, child in self.module.named_children():
            child = child.to(self.device)
            if any(p.requires_grad for p in child.parameters()):
                child = MMDistributedDataParallel(
                    child,
                    device_ids=device_ids,
                    dim=dim,
                    broadcast_buffers=broadcast_buffers,
                    find_unused_parameters=find_unused_parameters,
                    **kwargs,
                )
            setattr(self.module, name, child)

    def scatter(self, inputs, kwargs, device_ids):
        """Take inputs out of their containers and send them to the device.

        Args:
            inputs (tuple): Positional arguments.
            kwargs (dict): Keyword arguments.
            device_ids (list): Ignored: the device is that of the process.

        Returns:
            tuple[tuple[tuple], tuple[dict]]: The arguments for each of the
            process's devices, of which there is one.
        """
        return tuple(
            (unpack(data, self.device, self.send),)
            for data in (inputs, kwargs)
        )

    def forward(self, *inputs, **kwargs):
        """Call the model's ``forward``."""
        return self._call(self.module, inputs, kwargs)

    def train_step(self, *inputs, **kwargs):
        """Call the model's ``train_step``."""
        return self._call(self.module.train_step, inputs, kwargs)

    def val_step(self, *inputs, **kwargs):
        """Call the model's ``val_step``."""
        return self._call(self.module.val_step, inputs, kwargs)

    def _call(self, function, inputs, kwargs):
        inputs, kwargs = self.scatter(inputs, kwargs, [self.device])
        return function(*inputs[0], **kwargs[0])
