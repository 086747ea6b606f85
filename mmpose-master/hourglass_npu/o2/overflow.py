"""Mixed precision O2: the loss scale, and how overflow is found."""

import torch


class AmpLossScaler:
    """Apex's loss scale: static, or halved and doubled.

    Args:
        options (AmpOptions): ``loss_scale`` and the limits of a dynamic one.

    Attributes:
        loss_scale (float): The factor on the loss.
        unskipped (int): Backward passes without overflow, since the last one
            with it or the last doubling.
    """

    INIT = 2.0**16
    FACTOR = 2.0
    WINDOW = 2000

    def __init__(self, options):
        self.dynamic = options.loss_scale == 'dynamic'
        self._min = options.min_loss_scale or 0.0
        self._max = options.max_loss_scale
        self.loss_scale = options.loss_scale
        if self.dynamic:
            self.loss_scale = min(self._max, self.INIT)
        self.unskipped = 0

    def update(self, overflow):
        """Take in the outcome of one backward pass.

        Args:
            overflow (bool): Whether its gradients held inf or NaN.
        """
        if not overflow:
            self.unskipped += 1
        elif self.dynamic:
            self.loss_scale = max(self._min, self.loss_scale / self.FACTOR)
            self.unskipped = 0
        if self.dynamic and self.unskipped == self.WINDOW:
            self.loss_scale = min(self._max, self.loss_scale * self.FACTOR)
            self.unskipped = 0


class DeviceFlag:
    """A yes or no that a device finds and the host reads later.

    The copy to the host goes into the device's queue. Read it after it has
    arrived: then the host does not wait for the queue to run dry.

    Args:
        found (Tensor): 1.0 or 0.0, a scalar on any device.
    """

    def __init__(self, found):
        self.found = found
        self._arrived = None
        self._on_host = found
        accelerator = getattr(torch, found.device.type, None)
        if found.device.type != 'cpu' and hasattr(accelerator, 'Event'):
            self._on_host = torch.empty((), dtype=found.dtype).pin_memory()
            self._on_host.copy_(found, non_blocking=True)
            self._arrived = accelerator.Event()
            self._arrived.record()

    def read(self):
        """Return it as a bool, waiting until it is here."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return bool(self._on_host.item())


def saturation_flag(device):
    """Return the functions that tell overflow on a chip that saturates.

    The first Ascend 910 turns inf into 65504 and NaN into 0, so gradients do
    not show an overflow. A flag of the device does, through torch_npu. It is
    read on the device: the host does not wait.

    Args:
        device (torch.device): Any.

    Returns:
        tuple | None: Functions that clear the flag, and that give it as 1.0
        or 0.0, a scalar on the device; None where inf and NaN show.
    """
    accelerator = getattr(torch, device.type, None)
    places = [accelerator, getattr(accelerator, 'utils', None)]

    def find(name):
        found = [getattr(place, name, None) for place in places]
        return next((f for f in found if f is not None), None)

    shows_inf = find('is_support_inf_nan')
    if find('get_npu_overflow_flag') is None:
        return None
    if shows_inf is not None and shows_inf():
        return None

    def clear():
        import torch_npu

        torch_npu.npu_clear_float_status(torch.zeros(8, device=device))

    def read():
        import torch_npu

        # Old releases write into the argument, later ones return it.
        status = torch.zeros(8, device=device)
        result = torch_npu.npu_get_float_status(status)
        return (torch.max(status, result)[0] != 0).float()

    return clear, read
