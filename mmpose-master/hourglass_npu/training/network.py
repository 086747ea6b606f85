"""What is done to a network before it trains: freeze layers, compile."""

import inspect

import torch

from hourglass_npu.errors import UserError


def freeze_parameters(model, prefixes):
    """Take parameters out of training by the beginning of their names.

    Meant for layers that a network owns but never runs, such as
    ``backbone.inters`` of an Hourglass of one stack: they get no gradient,
    and DistributedDataParallel fails on a parameter without one unless it
    searches the graph in every step. Frozen parameters stay in the state
    dict and in the optimizer, which skips parameters without gradient, so
    neither a number nor a checkpoint key changes.

    Args:
        model (nn.Module): The bare model; changed in place.
        prefixes (Sequence[str]): Whole components of dotted names, e.g.
            ``backbone.inters``.

    Raises:
        UserError: A prefix fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in names):
            # Two components tell backbone.stem from backbone.inters.
            valid = sorted({'.'.join(name.split('.')[:2]) for name in names})
            raise UserError(
                f"frozen_parameters: the model has no '{prefix}'. Valid "
                f'prefixes begin with one of: {", ".join(valid)}.'
            )
    for name, parameter in model.named_parameters():
        if any(_has_prefix(name, prefix) for prefix in prefixes):
            parameter.requires_grad = False


def _has_prefix(name, prefix):
    return name == prefix or name.startswith(prefix + '.')


def check_sync_bn(model, device):
    """Refuse synchronised batch norm where torch cannot run it.

    Args:
        model (nn.Module): The model.
        device (torch.device): Where it is trained.

    Raises:
        UserError: It has such layers, and torch has none for a CPU, or none
            for several processes on CPUs.
    """
    kind = torch.nn.SyncBatchNorm
    if device.type != 'cpu' or not any(
        isinstance(module, kind) for module in model.modules()
    ):
        return
    try:
        kind(1)(torch.zeros(2, 1, 1))
    except ValueError as error:
        raise UserError(
            'the model has SyncBN layers, which this torch cannot train on a '
            f"CPU ({error}): set norm_cfg=dict(type='BN')"
        ) from error


def compile_network(model, options):
    """Let torch compile the parts of a model that have weights, in place.

    Neither modules nor names of weights change: a checkpoint has the same
    keys as without.

    Args:
        model (nn.Module): The bare model, already cast for mixed precision.
        options (dict): Arguments of ``torch.compile``: ``backend``, ``mode``,
            ``dynamic``, ``fullgraph``.

    Raises:
        UserError: This torch has no compiler, or does not know an option.
    """
    if not hasattr(torch.nn.Module, 'compile'):
        raise UserError(
            f'compile needs torch 2.2 or later; here is {torch.__version__}: '
            'set compile to None'
        )
    known = [*inspect.signature(torch.compile).parameters][1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UserError(
            f'compile={options}: torch.compile does not take '
            f'{", ".join(unknown)}; it takes {", ".join(known)}'
        )
    for part in model.children():
        if any(True for _ in part.parameters()):
            try:
                # Only reads the options; compiles at the first call.
                part.compile(**options)
            except RuntimeError as error:
                reason = str(error).strip().split('\n')[0]
                raise UserError(
                    f'compile={options}: torch.compile does not take these '
                    f'values ({reason})'
                ) from error
