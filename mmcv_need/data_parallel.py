"""mmcv/parallel/data_parallel.py: one process feeds a model on one device.

No device is named here: inputs go to where the model's parameters are, on an
NPU, a GPU or the CPU.
"""

from itertools import chain

from torch import Tensor, nn
from torch.nn.parallel import DataParallel

from .data_container import DataContainer
from .scatter_gather import scatter_kwargs

# Stands in a list of device ids for "where the model is", as in mmcv.
IN_PLACE = -1


def find_device(module):
    """Find where a model is.

    Args:
        module (nn.Module): The model.

    Returns:
        torch.device | None: Device of its first parameter, or of its first
        buffer; None for a model that has neither.
    """
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), None)


def send(tensor, device):
    """Send a tensor to a device, in turn with what that computes.

    Args:
        tensor (Tensor): Anywhere.
        device (torch.device): Where it goes.

    Returns:
        Tensor: On the device.
    """
    # A copy to the host that does not block may be read before it has
    # arrived; only accelerators have an index.
    return tensor.to(device, non_blocking=device.index is not None)


def unpack(data, device, send=send):
    """Take inputs out of their containers and to the device.

    A ``DataContainer`` holds a list with one item per device; a model on one
    device gets that one item, on the CPU if the container says ``cpu_only``.
    A container that was never collated gives its content as it is.

    Args:
        data (Any): Tensors, containers, and dicts, lists and tuples of them.
            Anything else is returned as it is.
        device (torch.device | None): Where tensors go; None leaves them.
        send (callable): Takes a tensor and the device, and returns the tensor
            there.

    Returns:
        Any: The same structure without containers.

    Raises:
        ValueError: A container was collated for more than one device.
    """
    if isinstance(data, DataContainer):
        content = data.data
        if isinstance(content, list):
            if len(content) != 1:
                raise ValueError(
                    f'a DataContainer holds {len(content)} batches, but the '
                    'model is on one device: collate with samples_per_gpu '
                    'set to the whole batch'
                )
            content = content[0]
        return content if data.cpu_only else unpack(content, device, send)
    if isinstance(data, Tensor):
        return data if device is None else send(data, device)
    if isinstance(data, dict):
        return type(data)(
            (key, unpack(value, device, send)) for key, value in data.items()
        )
    if isinstance(data, (list, tuple)):
        items = [unpack(item, device, send) for item in data]
        if isinstance(data, list):
            return items
        # A named tuple takes its fields one by one.
        return type(data)(*items) if hasattr(data, '_fields') else tuple(items)
    return data


class MMDataParallel(DataParallel):
    """Calls a model on one device, and unpacks and moves what it is given.

    Besides ``forward`` there are ``train_step`` and ``val_step``, which call
    the model's methods of these names.

    Args:
        module (nn.Module): The model.
        device_ids (list[int] | None): The one device that the model is moved
            to. None leaves a model on the CPU there, and is torch's default
            (all devices) for one on an accelerator. ``[]`` or ``[-1]`` leaves
            any model where it is. Where torch finds no accelerator the model
            stays where it is too. Several ids serve ``forward`` only.
        output_device (int | torch.device | None): As in torch; for several
            ids.
        dim (int): Dimension along which ``forward`` splits for several ids.

    Attributes:
        send (callable): How tensors get to the device, see :func:`unpack`.
    """

    send = staticmethod(send)

    def __init__(self, *args, dim=0, **kwargs):
        if _stays_in_place(*args, **kwargs):
            nn.Module.__init__(self)
            self.module = kwargs['module'] if 'module' in kwargs else args[0]
            self.device_ids = []
        else:
            super().__init__(*args, dim=dim, **kwargs)
        # torch's own does not come so far without an accelerator.
        self.dim = dim

    def forward(self, *inputs, **kwargs):
        """Call the model's ``forward`` on unpacked inputs."""
        if len(self.device_ids) > 1:
            return super().forward(*inputs, **kwargs)
        inputs, kwargs = self._prepare(inputs, kwargs)
        return self.module(*inputs, **kwargs)

    def train_step(self, *inputs, **kwargs):
        """Call the model's ``train_step`` on unpacked inputs."""
        inputs, kwargs = self._prepare(inputs, kwargs)
        return self.module.train_step(*inputs, **kwargs)

    def val_step(self, *inputs, **kwargs):
        """Call the model's ``val_step`` on unpacked inputs."""
        inputs, kwargs = self._prepare(inputs, kwargs)
        return self.module.val_step(*inputs, **kwargs)

    def scatter(self, inputs, kwargs, device_ids):
        """Unpack inputs for each device.

        Args:
            inputs (tuple): Positional arguments of the call.
            kwargs (dict): Keyword arguments of the call.
            device_ids (list[int]): The devices; ``[-1]`` is where the model
                is.

        Returns:
            tuple: For each device the tuple of its positional arguments, and
            for each the dict of its keyword arguments.
        """
        if len(device_ids) > 1:
            return scatter_kwargs(inputs, kwargs, device_ids, dim=self.dim)
        device = find_device(self.module)
        if self.device_ids and list(device_ids) == self.device_ids:
            device = self.src_device_obj
        return tuple(
            (unpack(data, device, self.send),) for data in (inputs, kwargs)
        )

    def _prepare(self, inputs, kwargs):
        """Unpack and move the arguments of a call on one device.

        Raises:
            RuntimeError: A part of the model is on another device.
        """
        assert len(self.device_ids) <= 1, (
            'MMDataParallel trains on a single device, not on '
            f'{self.device_ids}: start one process per device and use '
            'MMDistributedDataParallel'
        )
        if self.device_ids:
            expected = self.src_device_obj
            for tensor in chain(
                self.module.parameters(), self.module.buffers()
            ):
                if tensor.device != expected:
                    raise RuntimeError(
                        f'the model must be on {expected} (device_ids[0]), '
                        f'but a part of it is on {tensor.device}'
                    )
        inputs, kwargs = self.scatter(
            inputs, kwargs, self.device_ids or [IN_PLACE]
        )
        return inputs[0], kwargs[0]


def _stays_in_place(module, device_ids=None, output_device=None):
    """Tell whether the caller's arguments leave the model where it is."""
    if device_ids is None:
        device = find_device(module)
        return device is not None and device.index is None
    return list(device_ids) in ([], [IN_PLACE])
