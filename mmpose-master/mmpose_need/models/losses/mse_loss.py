"""mmpose/models/losses/mse_loss.py: squared errors of all joints at once.

mmpose 0.8.0 treats the joints one by one, with some 40 operators for each.
The gradients are the same bit for bit; the values can differ by the rounding
of a sum in another order.
"""

import torch
from torch import nn
from torch.autograd import Function

from hourglass_npu.errors import UserError

from ..registry import LOSSES


def _weighted(heatmaps, target_weight):
    """Return flat heatmaps, Tensor[N, K, H * W], times the weights."""
    flat = heatmaps.flatten(2)
    return flat if target_weight is None else flat.mul(target_weight)


class _MeanOfJoints(Function):
    """Mean over the joints of each joint's mean squared error."""

    @staticmethod
    def forward(ctx, output, target, target_weight):
        error = _weighted(output, target_weight) - _weighted(
            target, target_weight
        )
        ctx.save_for_backward(error, target_weight)
        ctx.shape = output.shape
        return error.square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        error, weight = ctx.saved_tensors
        samples, joints, cells = error.shape
        # One factor after the other, as autograd multiplies them for a mean
        # of each joint: their product would be rounded differently.
        grad = error * (2.0 / (samples * cells))
        grad *= grad_loss / joints
        if weight is not None:
            grad *= weight
        return grad.view(ctx.shape), None, None


@LOSSES.register_module()
class JointsMSELoss(nn.Module):
    """Mean squared error of heatmaps.

    Args:
        use_target_weight (bool): Multiply prediction and target by the
            joints' weights.
    """

    def __init__(self, use_target_weight=False):
        super().__init__()
        self.criterion = nn.MSELoss()
        self.use_target_weight = use_target_weight

    def forward(self, output, target, target_weight):
        """Compute the loss.

        Args:
            output (Tensor[N, K, H, W]): Predicted heatmaps.
            target (Tensor[N, K, H, W]): Target heatmaps; a constant.
            target_weight (Tensor[N, K, 1]): Weights; a constant.

        Returns:
            Tensor: Mean over joints, samples and cells.

        Raises:
            UserError: Prediction and target differ in shape. Either may be
                flat, Tensor[N, K, H * W], as in mmpose.
        """
        shapes = output.shape, target.shape
        if output.dim() != target.dim():
            shapes = output.flatten(2).shape, target.flatten(2).shape
        if shapes[0] != shapes[1]:
            raise UserError(
                f'the network returns heatmaps of shape {tuple(output.shape)}'
                f', but the targets have shape {tuple(target.shape)} '
                '(samples, joints, rows, columns): make data_cfg fit the '
                'model'
            )
        weight = target_weight if self.use_target_weight else None
        return _MeanOfJoints.apply(output, target, weight)


@LOSSES.register_module()
class JointsOHKMMSELoss(nn.Module):
    """Mean squared error of the hardest joints of each sample.

    Args:
        use_target_weight (bool): As for :class:`JointsMSELoss`.
        topk (int): Number of joints that count.
    """

    def __init__(self, use_target_weight=False, topk=8):
        super().__init__()
        assert topk > 0
        self.criterion = nn.MSELoss(reduction='none')
        self.use_target_weight = use_target_weight
        self.topk = topk

    def _ohkm(self, loss):
        """Average the hardest joints.

        Args:
            loss (Tensor[N, K]): By sample and joint.

        Returns:
            Tensor: Mean over the samples.
        """
        hardest, _ = torch.topk(loss, self.topk, dim=1, sorted=False)
        return (hardest.sum(1) / self.topk).sum() / len(loss)

    def forward(self, output, target, target_weight):
        """Compute the loss; arguments as for :class:`JointsMSELoss`.

        Raises:
            UserError: There are fewer joints than ``topk``.
        """
        joints = output.size(1)
        if joints < self.topk:
            raise UserError(
                f'topk ({self.topk}) must not be larger than the number of '
                f'joints ({joints})'
            )
        weight = target_weight if self.use_target_weight else None
        errors = self.criterion(
            _weighted(output, weight), _weighted(target, weight)
        )
        return self._ohkm(errors.mean(dim=2))
