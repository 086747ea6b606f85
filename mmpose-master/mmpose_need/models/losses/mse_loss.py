"""mmpose/models/losses/mse_loss.py: squared errors of all joints at once.

mmpose 0.8.0 treats the joints one by one, with some 40 operators for each.
Where nothing but the gradient of the prediction is asked for, all joints are
treated at once: that gradient is the same bit for bit; the value can differ by
the rounding of a sum in another order. Everything else goes joint by joint.
"""

import torch
from torch import nn
from torch.autograd import Function, forward_ad

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
        ctx.save_for_backward(output, target, target_weight, error)
        return error.square().mean()

    @staticmethod
    def backward(ctx, grad_loss):
        output, target, weight, error = ctx.saved_tensors
        multiply = torch.Tensor.mul_
        if torch.is_grad_enabled():  # this gradient is differentiated, too
            error = _weighted(output, weight) - _weighted(target, weight)
            multiply = torch.Tensor.mul
        samples, joints, cells = error.shape
        # One factor after the other, as autograd multiplies them for a mean
        # of each joint: their product would be rounded differently.
        grad = error * (2.0 / (samples * cells))
        grad = multiply(grad, grad_loss / joints)
        if weight is not None:
            grad = multiply(grad, weight)
        return grad.reshape(output.shape), None, None


def _by_joint(loss, output, target, target_weight):
    """Call a loss's own criterion for one joint after the other.

    Args:
        loss (JointsMSELoss | JointsOHKMMSELoss): Has ``criterion`` and
            ``use_target_weight``.
        output (Tensor[N, K, H, W]): Predicted heatmaps.
        target (Tensor[N, K, H, W]): Target heatmaps.
        target_weight (Tensor[N, K, 1]): Weights.

    Returns:
        list: K values of the criterion.
    """
    errors = []
    for joint in range(output.size(1)):
        pair = output[:, joint].flatten(1), target[:, joint].flatten(1)
        if loss.use_target_weight:
            weight = target_weight[:, joint]
            pair = [heatmap.mul(weight) for heatmap in pair]
        errors.append(loss.criterion(*pair))
    return errors


def _is_plain(criterion, reduction):
    """Tell whether a criterion is torch's own, as the loss has made it."""
    return (
        type(criterion) is nn.MSELoss
        and criterion.reduction == reduction
        # No hooks around the call, and no other forward. O2 sets others, for
        # state_dict, on each module.
        and not any(
            hooks
            for name, hooks in vars(criterion).items()
            if name.endswith(('ward_hooks', 'ward_pre_hooks'))
        )
        and 'forward' not in vars(criterion)
    )


def _only_output_counts(output, *others):
    """Tell whether only the prediction's gradient, if any, is asked for.

    Tracing and the transforms of torch.func see through plain operators only.
    """
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    return (
        output.dtype in (torch.float32, torch.float64)
        and all(other.dtype == output.dtype for other in others)
        and not any(other.requires_grad for other in others)
        and torch._C._get_tracing_state() is None
        and not (active is not None and active())
        and getattr(forward_ad, '_current_level', -1) < 0
    )


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
            target (Tensor[N, K, H, W]): Target heatmaps.
            target_weight (Tensor[N, K, 1]): Weights.

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
        if self._at_once(output, target, target_weight):
            weight = target_weight if self.use_target_weight else None
            return _MeanOfJoints.apply(output, target, weight)
        errors = _by_joint(self, output, target, target_weight)
        return sum(errors, 0.0) / len(errors)

    def _at_once(self, output, target, target_weight):
        """Tell whether the joints can be treated at once, exactly."""
        constants = [target]
        if self.use_target_weight:
            constants.append(target_weight)
            if getattr(target_weight, 'shape', None) != output.shape[:2] + (
                1,
            ):
                return False
        return _is_plain(self.criterion, 'mean') and _only_output_counts(
            output, *constants
        )


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
        shape = output.shape[:2] + (1,)
        if _is_plain(self.criterion, 'none') and (
            not self.use_target_weight
            or getattr(weight, 'shape', None) == shape
        ):
            errors = self.criterion(
                _weighted(output, weight), _weighted(target, weight)
            )
            return self._ohkm(errors.mean(dim=2))
        errors = _by_joint(self, output, target, target_weight)
        return self._ohkm(torch.stack([e.mean(dim=1) for e in errors], dim=1))
