"""mmpose/models/detectors/base.py: what all pose estimators share."""

from abc import ABCMeta, abstractmethod
from collections import OrderedDict

import torch
import torch.distributed as dist
from torch import nn

from hourglass_npu.training.deferred import DeferredNumber, DeferredNumbers

# Keys of a batch, one of which is there where a loss can be computed; of its
# metas, one of which is there where mmpose's detectors can predict.
TARGETS = {'target', 'targets', 'joint_cells'}
FOR_PREDICTIONS = {'flip_pairs', 'aug_data'}


class BasePose(nn.Module):
    """A pose estimator that a runner can train.

    Subclasses implement ``forward``, which calls ``forward_train`` or
    ``forward_test``, and ``show_result``.
    """

    __metaclass__ = ABCMeta

    def __init__(self):
        super().__init__()

    @abstractmethod
    def forward_train(self, img, img_metas, **kwargs):
        """Compute the losses."""

    @abstractmethod
    def forward_test(self, img, img_metas, **kwargs):
        """Predict."""

    @abstractmethod
    def simple_test(self, img, img_metas, **kwargs):
        """Predict without augmentation."""

    @abstractmethod
    def forward(self, img, img_metas, return_loss=True, **kwargs):
        """Compute the losses, or predict."""

    @staticmethod
    def _parse_losses(losses):
        """Add up the losses, and collect the numbers for the log.

        Read nothing from the device here: the host would wait for the whole
        step, in each step. The numbers are read when somebody asks for them.

        Args:
            losses (dict): By name a tensor, a list of tensors or a float.
                Values with ``loss`` in their names are added up.

        Returns:
            tuple[Tensor, DeferredNumbers]: The loss for the backward pass,
            and the numbers for the log by name, ``loss`` included: floats,
            those of tensors the mean over all ranks.

        Raises:
            TypeError: A value has another type.
        """
        log_vars = OrderedDict()
        # Those of a detector, or a plain dict of somebody else's.
        for name, value in getattr(losses, 'unread', losses.items)():
            if isinstance(value, torch.Tensor):
                value = value.mean()
            elif isinstance(value, list):
                value = sum(item.mean() for item in value)
            elif not isinstance(value, (float, DeferredNumber)):
                raise TypeError(
                    f'{name} must be a tensor, a list of tensors or a float, '
                    f'not {type(value)}'
                )
            log_vars[name] = value
        loss = sum(value for name, value in log_vars.items() if 'loss' in name)
        log_vars['loss'] = loss

        names = [
            name
            for name, value in log_vars.items()
            if isinstance(value, torch.Tensor)
        ]
        if names:
            values = torch.stack([log_vars[name].detach() for name in names])
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(values.div_(dist.get_world_size()))
            log_vars.update(zip(names, map(DeferredNumber, values.unbind())))
        return loss, DeferredNumbers(log_vars)

    def train_step(self, data_batch, optimizer, **kwargs):
        """Compute the loss of a batch.

        The optimizer's hook does the backward pass and the step.

        Args:
            data_batch (dict): Keyword arguments of ``forward``.
            optimizer (Optimizer | dict): Not used.
            **kwargs: Not used.

        Returns:
            dict: ``loss`` and ``log_vars``, see :meth:`_parse_losses`, and
            ``num_samples``, the batch size of this process.
        """
        return self._losses_of(data_batch)

    def _losses_of(self, data_batch):
        loss, log_vars = self._parse_losses(self.forward(**data_batch))
        return dict(
            loss=loss,
            log_vars=log_vars,
            num_samples=len(next(iter(data_batch.values()))),
        )

    def val_step(self, data_batch, optimizer, **kwargs):
        """Predict for a batch, and compute its loss where it has targets.

        Args:
            data_batch (dict): Keyword arguments of ``forward``.
            optimizer (Optimizer | dict): Not used.
            **kwargs: Not used.

        Returns:
            dict: ``results``, the return value of ``forward``, unless the
            batch has targets but not what a prediction needs; with targets
            also what :meth:`train_step` returns, without gradients.
        """
        outputs = {}
        if TARGETS & set(data_batch):
            with torch.no_grad():
                outputs = self._losses_of(data_batch)
        metas = data_batch.get('img_metas')
        if not outputs or (metas and FOR_PREDICTIONS & set(metas[0])):
            outputs['results'] = self.forward(return_loss=False, **data_batch)
        return outputs

    @abstractmethod
    def show_result(self, **kwargs):
        """Draw predictions."""
        raise NotImplementedError
