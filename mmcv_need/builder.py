"""Registries of optimisers, and how a config becomes one of them.

Replaces ``mmcv/runner/optimizer/builder.py`` of mmcv 1.2.7. Besides the
optimisers of ``torch.optim`` those of ``torch_npu.optim`` (NpuFusedAdam, ...)
and of ``apex.optimizers`` (FusedAdam, ...) are known, where these packages
can be imported.
"""

import copy
import importlib
import inspect

import torch

from ...utils import Registry, build_from_cfg


class _OptimizerRegistry(Registry):
    """A registry that looks into further packages for a name it lacks.

    These packages take seconds to import, and fail as they like where their
    accelerator is missing; so they are imported once, and not before a name
    is asked for that nobody has registered.

    Attributes:
        unavailable (dict[str, str]): Module names, and why they cannot serve.
    """

    SOURCES = ('torch_npu.optim', 'apex.optimizers')

    def __init__(self, name):
        super().__init__(name)
        self.unavailable = {}
        self._complete = False

    @property
    def module_dict(self):
        """dict[str, type]: All optimisers by name."""
        self._look_further()
        return self._module_dict

    def get(self, key):
        """Return the class registered as ``key``, or None."""
        if key not in self._module_dict:
            self._look_further()
        return self._module_dict.get(key)

    def register_all_of(self, module):
        """Register the optimisers of a module whose names are still free.

        Args:
            module (module): The module.

        Returns:
            list[str]: The names that were added, in alphabetical order.
        """
        added = []
        for name in dir(module):
            member = getattr(module, name)
            if (
                inspect.isclass(member)
                and issubclass(member, torch.optim.Optimizer)
                and member.__name__ not in self._module_dict
            ):
                self._register_module(member)
                added.append(name)
        return added

    def _look_further(self):
        if self._complete:
            return
        self._complete = True
        for source in self.SOURCES:
            try:
                self.register_all_of(importlib.import_module(source))
            except Exception as error:
                # Not installed, no CANN, another accelerator, another torch,
                # or PyPI's apex, which is a web toolkit.
                self.unavailable[source] = f'{type(error).__name__}: {error}'


OPTIMIZERS = _OptimizerRegistry('optimizer')
OPTIMIZER_BUILDERS = Registry('optimizer builder')


def register_torch_optimizers():
    """Register the optimisers of ``torch.optim``.

    Returns:
        list[str]: Their names, in alphabetical order.
    """
    return OPTIMIZERS.register_all_of(torch.optim)


TORCH_OPTIMIZERS = register_torch_optimizers()


def build_optimizer_constructor(cfg):
    """Build what sorts a model's parameters into groups.

    Args:
        cfg (dict): ``type`` is a name in :data:`OPTIMIZER_BUILDERS`; the rest
            are its arguments.

    Returns:
        callable: Makes an optimiser from a model.
    """
    return build_from_cfg(cfg, OPTIMIZER_BUILDERS)


def build_optimizer(model, cfg):
    """Build an optimiser for a model.

    Args:
        model (nn.Module): Its parameters are optimised.
        cfg (dict): ``type`` is a name in :data:`OPTIMIZERS`, ``constructor``
            one in :data:`OPTIMIZER_BUILDERS`, ``paramwise_cfg`` the
            constructor's settings; the rest are the optimiser's arguments.
            Left as it is.

    Returns:
        torch.optim.Optimizer: The optimiser.

    Raises:
        KeyError: Nobody has registered that optimiser.
    """
    settings = copy.deepcopy(cfg)
    constructor = build_optimizer_constructor(
        dict(
            type=settings.pop('constructor', 'DefaultOptimizerConstructor'),
            paramwise_cfg=settings.pop('paramwise_cfg', None),
            optimizer_cfg=settings,
        )
    )
    try:
        return constructor(model)
    except KeyError as error:
        kind = settings.get('type')
        if not isinstance(kind, str) or kind in OPTIMIZERS:
            raise
        reasons = '; '.join(
            f'no {source} ({reason})'
            for source, reason in OPTIMIZERS.unavailable.items()
        )
        message = f'{kind} is not in the {OPTIMIZERS.name} registry'
        if reasons:
            message += f', which has looked further: {reasons}'
        raise KeyError(message) from error
