"""mmcv/runner/optimizer/builder.py: optimizers by name, built from configs.

Beyond mmcv 1.2.7, which knows those of ``torch.optim``, it finds those of
``torch_npu.optim`` (NpuFusedAdam, ...) and ``apex.optimizers`` (FusedAdam,
...) where these packages can be imported.
"""

import copy
import importlib
import inspect

import torch

from ...utils import Registry, build_from_cfg
from ..dist_utils import UserError, fused_optimizer


class UnknownOptimizer(KeyError):
    """No optimizer of this name: a mistake of the user."""

    is_user_error = True


class _OptimizerRegistry(Registry):
    """A registry that looks into further packages for a name it lacks.

    These packages take seconds to import, and can fail in any way where
    their accelerator is missing. So they are imported once, when a name is
    looked up that is not registered.

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
        """dict[str, type]: All optimizers by name."""
        self._look_further()
        return self._module_dict

    def get(self, key):
        """Return the class registered as ``key``, or None."""
        if key not in self._module_dict:
            self._look_further()
        return self._module_dict.get(key)

    def register_all_of(self, module):
        """Register the optimizers of a module whose names are still free.

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
                module = importlib.import_module(source)
            except Exception as error:
                # Not installed, no CANN, another accelerator, another torch,
                # or PyPI's apex, which is a web toolkit: each fails with an
                # exception of its own.
                self.unavailable[source] = f'{type(error).__name__}: {error}'
            else:
                self.register_all_of(module)


OPTIMIZERS = _OptimizerRegistry('optimizer')
OPTIMIZER_BUILDERS = Registry('optimizer builder')


def register_torch_optimizers():
    """Register the optimizers of ``torch.optim``.

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
        callable: Makes an optimizer from a model.
    """
    return build_from_cfg(cfg, OPTIMIZER_BUILDERS)


# Arguments of optimizers of torch that say how they compute, not what.
FORMS = ('capturable', 'foreach', 'fused')


def choose_form(cfg, device, keeps_gradients=True):
    """Let an optimizer step all weights at once where the device can.

    Args:
        cfg (dict): Of one optimizer, for :func:`build_optimizer`; not
            changed. ``fused=None``, the default, takes the fused form where
            the device has one (never on a CPU), False leaves the form to
            torch, True demands it. Other forms named there are kept.
        device (torch.device): Where the weights will be.
        keeps_gradients (bool): Whether weights and gradients keep their
            memory, which fused optimizers of torch_npu need.

    Returns:
        tuple[dict, str]: The config to build from, and the form in words.

    Raises:
        UserError: That optimizer has no fused form here.
    """
    cfg = dict(cfg)
    kind = cfg.get('type')
    known = ()
    if kind in TORCH_OPTIMIZERS:
        known = inspect.signature(getattr(torch.optim, kind)).parameters
    wanted = cfg.pop('fused', None)
    if wanted:
        if 'fused' not in known:
            raise UserError(
                f'optimizer.fused=True: {kind} of torch {torch.__version__} '
                'has no such form; leave it out'
            )
        cfg['fused'] = True
    asked = [form for form in FORMS if cfg.get(form) is not None]
    if asked:
        words = ', '.join(f'{form}={cfg[form]}' for form in asked)
        return cfg, f'{words} as the config says'
    fused = None
    # Not passed on if False: torch would then not take foreach either.
    if wanted is None:
        fused = fused_optimizer(kind, device, known)
    if fused and fused[0] != kind:
        # Another class, which may not be there, or not know every argument.
        other = OPTIMIZERS.get(fused[0])
        if other is None or not keeps_gradients or cfg.get('amsgrad'):
            fused = None
    if fused is None:
        return cfg, f"torch's default on {device.type}"
    cfg['type'] = fused[0]
    cfg.update(fused[1])
    return cfg, 'fused'


def keep_form(optimizer, state):
    """Keep an optimizer's own form when it loads a checkpoint.

    torch loads the form along with the learning rate, so a run would go on
    with kernels of another device.

    Args:
        optimizer (torch.optim.Optimizer): Will load the state.
        state (dict): As from ``state_dict()``. Not changed.

    Returns:
        dict: The state with the optimizer's own form in each group.
    """
    groups = []
    for saved, own in zip(state['param_groups'], optimizer.param_groups):
        group = {k: v for k, v in saved.items() if k not in FORMS or k in own}
        group.update((form, own[form]) for form in FORMS if form in own)
        groups.append(group)
    groups += state['param_groups'][len(groups) :]  # torch will complain
    return dict(state, param_groups=groups)


def build_optimizer(model, cfg):
    """Build an optimizer for a model.

    Args:
        model (nn.Module): Its parameters are optimised.
        cfg (dict): ``type`` is a name in :data:`OPTIMIZERS`, ``constructor``
            one in :data:`OPTIMIZER_BUILDERS`, ``paramwise_cfg`` the
            constructor's settings; the rest are the optimizer's arguments.
            Not changed.

    Returns:
        torch.optim.Optimizer: The optimizer.

    Raises:
        UnknownOptimizer: No optimizer of this name is registered.
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
        raise UnknownOptimizer(message) from error
