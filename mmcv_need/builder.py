"""mmcv/runner/optimizer/builder.py: build optimizers from configs.

In addition to ``torch.optim``, the optimizers of ``torch_npu.optim``
(NpuFusedAdam, ...) and of ``apex.optimizers`` (FusedAdam, ...) are known,
where these packages can be imported.
"""

import contextlib
import copy
import importlib
import inspect
import types

import torch

from ...utils import Registry, build_from_cfg
from ..dist_utils import UserError, fused_optimizer


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
        self._sources = {}
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

    def get_from(self, source, key):
        """Return a class of one source, also if another has its name.

        Args:
            source (str): One of SOURCES.
            key (str): Name of the class.

        Returns:
            type | None: None where there is none.
        """
        self._look_further()
        return getattr(self._sources.get(source), key, None)

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
            except (Exception, SystemExit) as error:
                # Not installed, no CANN (torch_npu 1.8.1 ends the process),
                # another accelerator, another torch, or PyPI's apex, which is
                # a web toolkit.
                self.unavailable[source] = f'{type(error).__name__}: {error}'
            else:
                self._sources[source] = module
                self.register_all_of(module)


class UnknownOptimizerError(KeyError):
    """A config names an optimizer that is not registered."""

    is_user_error = True


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


def fused_by(optimizer):
    """Tell whose fused optimizer one is.

    Those of torch_npu and of Ascend's Apex have the same names, and before
    torch_npu 2.1 the same mark. They move weights and gradients into blocks.

    Args:
        optimizer (torch.optim.Optimizer): Any.

    Returns:
        str | None: ``torch_npu`` or ``apex``; None for every other one.
    """
    packages = [
        c.__module__.partition('.')[0] for c in type(optimizer).__mro__
    ]
    if getattr(optimizer, 'is_fused_optimizer', False):
        return 'torch_npu'
    if getattr(optimizer, 'is_npu_fused_optimizer', False):
        return 'torch_npu' if 'torch_npu' in packages else 'apex'
    return None


def choose_form(cfg, device, keeps_gradients=True, with_apex=False):
    """Let an optimizer step over all weights at once where a device can.

    Args:
        cfg (dict): Of one optimizer, for :func:`build_optimizer`; left as it
            is. ``fused`` decides: None or nothing takes that form where the
            device has one (on a CPU: never), False leaves the choice to
            torch, True demands it. So do the other ways to compute that may
            be named there.
        device (torch.device): Where the weights will be.
        keeps_gradients (bool): Whether weights and gradients stay where they
            are once they are made, which fused optimizers of torch_npu need.
        with_apex (bool): Whether Apex will step it: of the fused optimizers
            that both have, its own then serve.

    Returns:
        tuple[dict, str]: The config to build from, and the form in words.

    Raises:
        UserError: ``fused=True`` is not known to that optimizer here.
    """
    cfg = dict(cfg)
    kind = cfg.get('type')
    if with_apex and isinstance(kind, str) and kind not in TORCH_OPTIMIZERS:
        own = OPTIMIZERS.get_from('apex.optimizers', kind)
        if own is not None:
            cfg['type'] = own
            return cfg, "Apex's own"
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
    """Let an optimizer compute as it does, whatever a checkpoint did.

    torch takes over the way to compute along with the learning rate, so that
    a run would go on with kernels of another device. And the number of steps
    is a tensor in torch's own optimizers, which fused ones for NPUs would
    share between weights, and so count several times.

    Args:
        optimizer (torch.optim.Optimizer): That will load the state.
        state (dict): As from ``state_dict()``. Left as it is.

    Returns:
        dict: The state with the optimizer's own form in each group, and for
        a fused one for NPUs with plain numbers of steps.
    """
    groups = []
    for saved, own in zip(state['param_groups'], optimizer.param_groups):
        group = {k: v for k, v in saved.items() if k not in FORMS or k in own}
        group.update((form, own[form]) for form in FORMS if form in own)
        groups.append(group)
    groups += state['param_groups'][len(groups) :]  # torch will complain
    kept = dict(state, param_groups=groups)
    if fused_by(optimizer):
        kept['state'] = {
            key: dict(own, step=int(own['step'])) if 'step' in own else own
            for key, own in state['state'].items()
        }
    return kept


def _is_like(value, own):
    """Tell whether a saved setting can take the place of an optimizer's."""
    if isinstance(own, (tuple, list)):
        return len(value) == len(own) and all(
            _is_like(v, o) and 0 <= v < 1 for v, o in zip(value, own)
        )
    if isinstance(own, (bool, type(None), str)):
        return isinstance(value, (type(own), bool, type(None)))
    return not isinstance(value, (bool, str)) and abs(value) < 2**63


def _state_after_step(optimizer, group):
    """Return what an optimizer keeps of a weight (2, 3); {} if unknown."""
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.zeros(2, 3)
    # Some optimizers get further defaults when a state is loaded.
    known = [k for k in optimizer.defaults if k in group and k not in FORMS]
    settings = {k: group[k] for k in known}
    try:
        trial = type(optimizer)([weight], **settings)
        trial.step()
    except Exception:  # it needs more, or another device
        return {}
    return trial.state[weight]


def load_optimizer_state(optimizer, state):
    """Load what :func:`keep_form` gives, if the next step can use it.

    torch loads moments of any shape and settings of any kind, and fails in
    the step.

    Args:
        optimizer (torch.optim.Optimizer): Gets the state.
        state (dict): As from ``state_dict()``.

    Raises:
        Exception: It does not fit; of many kinds.
    """
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(keep_form(optimizer, state))
    for own, group in zip(before, optimizer.param_groups):
        for key, value in group.items():
            like = own.get(key, own.get(key.replace('initial_', '')))
            if key != 'params' and not _is_like(value, like):
                raise ValueError(f'{key} is {str(value)[:40]}')
        lacking = sorted(set(own) - set(group))
        if lacking:
            raise ValueError(f'no {", ".join(lacking)}')
        usual = _state_after_step(optimizer, group)
        for weight in group['params']:
            kept = optimizer.state.get(weight, {})
            if not isinstance(kept, dict):
                raise ValueError(f'the state of a weight is {kept!r:.40}')
            for key, value in usual.items() if kept else ():
                shape = getattr(value, 'shape', None)
                found = kept[key]
                if shape == (2, 3):
                    sound = found.shape == weight.shape
                elif value is None:
                    sound = found is None or found.shape == weight.shape
                else:
                    sound = 0 <= float(found) < 2**53
                if not sound:
                    raise ValueError(f'{key} of a weight does not fit it')


def build_optimizer(model, cfg):
    """Build an optimizer for a model.

    Args:
        model (nn.Module): Its parameters are optimized.
        cfg (dict): ``type`` is a name in :data:`OPTIMIZERS`, ``constructor``
            one in :data:`OPTIMIZER_BUILDERS`, ``paramwise_cfg`` the
            constructor's settings; the rest are the optimizer's arguments.
            Left as it is.

    Returns:
        torch.optim.Optimizer: The optimizer.

    Raises:
        UnknownOptimizerError: Nobody has registered that optimizer.
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
        optimizer = constructor(model)
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
        raise UnknownOptimizerError(message) from error
    if fused_by(optimizer) == 'torch_npu':
        _keep_to_its_device(optimizer)
    weights = [p for group in optimizer.param_groups for p in group['params']]
    if any(weight.device.type == 'npu' for weight in weights):
        _launch_little(optimizer)
    return optimizer


def _launch_little(optimizer):
    """Let a foreach optimizer of torch divide in few kernels of an NPU.

    It gives ``_foreach_addcdiv_`` a list with a number for each weight, for
    which torch_npu launches a kernel for each. For one number, and for a
    tensor of them, it takes many weights in one kernel. The numbers are the
    same in each form; they differ by weight only where some have made fewer
    steps.

    Args:
        optimizer (torch.optim.Optimizer): Its method ``step`` is replaced.
    """
    plain_step = optimizer.step

    def step(optimizer, *args, **kwargs):
        with _numbers_in_one(getattr(torch, '_foreach_addcdiv_', None)):
            return plain_step(*args, **kwargs)

    # A bound method, since torch's schedules read ``__func__``.
    optimizer.step = types.MethodType(step, optimizer)


@contextlib.contextmanager
def _numbers_in_one(plain):
    """Context in which ``_foreach_addcdiv_`` gets its numbers as one.

    Args:
        plain (callable): That function of torch, None where there is none.
    """

    def addcdiv(*args, **kwargs):
        *lists, numbers = args
        if isinstance(numbers, list) and isinstance(numbers[0], float):
            if numbers.count(numbers[0]) == len(numbers):
                numbers = numbers[0]
            elif hasattr(torch.ops.aten._foreach_addcdiv_, 'Tensor'):
                numbers = torch.tensor(numbers)
        return plain(*lists, numbers, **kwargs)

    if plain is None:
        yield
        return
    torch._foreach_addcdiv_ = addcdiv
    try:
        yield
    finally:
        torch._foreach_addcdiv_ = plain


def _keep_to_its_device(optimizer):
    """Let a fused optimizer of torch_npu compute where its weights are.

    It makes its blocks on the device that is current. On another than the
    weights' own they would be used without any order between the two devices.

    Args:
        optimizer (torch.optim.Optimizer): Its methods are replaced.
    """

    def guard(plain):
        # A bound method, since torch's schedules read ``__func__``.
        def method(optimizer, *args, **kwargs):
            devices = {
                weight.device
                for group in optimizer.param_groups
                for weight in group['params']
            }
            if len(devices) > 1:
                names = ', '.join(sorted(map(str, devices)))
                raise UserError(
                    f'{type(optimizer).__name__} has weights on {names}: use '
                    "torch's optimizer of that kind for several devices"
                )
            (device,) = devices
            with getattr(torch, device.type).device(device):
                return plain(*args, **kwargs)

        return types.MethodType(method, optimizer)

    for name in ('step', 'zero_grad'):
        setattr(optimizer, name, guard(getattr(optimizer, name)))
