"""Can the parts of a config be built? Types and arguments, before any call.

mmcv's registries call a class with the arguments of the config, and what the
class raises at a wrong one looks like any bug of the class. So a wrong name
is found here, from the registry and the signature.
"""

import inspect
import re
import traceback
from collections import namedtuple
from contextlib import suppress

from hourglass_npu.config.evaluation import evaluation_faults
from hourglass_npu.config.rules import nearest
from hourglass_npu.errors import UserError

Part = namedtuple('Part', 'place settings registry added')
Part.__doc__ = """A part of a config that a registry builds.

Attributes:
    place (str): Dotted key.
    settings (dict): With ``type``.
    registry (mmcv.Registry): Where the type is looked up.
    added (tuple[str]): Arguments that the caller adds or takes away.
"""


TOP_DOWN_TEST_CFG = (
    'flip_test',
    'shift_heatmap',
    'post_process',
    'unbiased_decoding',
    'modulate_kernel',
)
"""Keys of ``model.test_cfg`` without which a TopDown cannot predict."""


def check_parts(cfg, training):
    """Check the types and arguments of everything that a command builds.

    Args:
        cfg (mmcv.Config): From :func:`hourglass_npu.config.load.load_config`.
        training (bool): Whether it trains; else it evaluates.

    Raises:
        UserError: A type is not registered, or its class does not take these
            arguments. Names the nearest that it takes, or the condition that
            the arguments break.
    """
    faults = []
    for part in _parts(cfg._cfg_dict, training):
        faults += part_faults(part) or broken_assertion(part)
    test_cfg = cfg.model.get('test_cfg')
    if cfg.model.get('type') == 'TopDown' and isinstance(test_cfg, dict):
        missing = [key for key in TOP_DOWN_TEST_CFG if key not in test_cfg]
        if missing:
            faults.append(f'model.test_cfg has no {", ".join(missing)}')
    if training and not faults:
        faults = evaluation_faults(cfg)
    if faults:
        raise UserError(f'the config {cfg.filename}: ' + '; '.join(faults))


def part_faults(part):
    """Say what is wrong with one part.

    Args:
        part (Part): Of a config.

    Returns:
        list[str]: One sentence for each fault.
    """
    kind = part.settings.get('type')
    if kind is None:
        return [f'{part.place} has no type']
    made = part.registry.get(kind) if isinstance(kind, str) else kind
    if made is None:
        known = sorted(part.registry.module_dict)
        return [
            f'{part.place}.type is {kind!r}, which is not in the '
            f'{part.registry.name} registry{nearest(kind, known)}'
        ]
    if not callable(made):
        return [f'{part.place}.type is {kind!r}: must be a name']
    name = getattr(made, '__name__', str(kind))
    known, required = arguments(made)
    given = [key for key in part.settings if key != 'type']
    faults = [
        f'{part.place}.{key}: {name} has no such argument{nearest(key, known)}'
        for key in given
        if known is not None and key not in known and key not in part.added
    ]
    missing = [
        key for key in required if key not in given and key not in part.added
    ]
    if missing:
        faults.append(f'{part.place}: {name} needs {", ".join(missing)}')
    return faults


def broken_assertion(part):
    """Say which assertion of its class a part breaks.

    Hooks and pipeline steps of mmcv and mmpose are made for a try. Of their
    assertions many have no message.

    Args:
        part (Part): Its type and the names of its arguments are right.

    Returns:
        list[str]: One sentence, or none.
    """
    from mmcv.runner import HOOKS
    from mmpose.datasets.registry import PIPELINES

    kind = part.settings['type']
    made = part.registry.get(kind) if isinstance(kind, str) else kind
    if part.registry not in (HOOKS, PIPELINES) or (
        made.__module__.split('.')[0] not in ('mmcv', 'mmpose')
    ):
        return []
    settings = {
        key: value
        for key, value in part.settings.items()
        if key != 'type' and key not in part.added
    }
    # Any other error shows where the part is made to be used.
    with suppress(Exception):
        try:
            made(**settings)
        except AssertionError as error:
            return [f'{part.place}: {made.__name__}: {_said_by(error)}']
    return []


def _said_by(error):
    """Return what an assertion says, else its condition in words."""
    if str(error):
        return str(error)
    line = traceback.extract_tb(error.__traceback__)[-1].line
    condition = re.sub(r'^assert\s+', '', line).strip()
    one_of_two = re.fullmatch(
        r'\((\w+) is None\) \^ \((\w+) is None\)', condition
    )
    if one_of_two:
        return 'give either {} or {}, not both'.format(*one_of_two.groups())
    return f'{condition} must hold'


def arguments(made):
    """Read from a class or function which arguments it takes by name.

    Args:
        made (type | Callable): What a registry holds.

    Returns:
        tuple[list[str] | None, list[str]]: All names, None where any is
        taken; those that must be given.
    """
    functions = [made]
    if inspect.isclass(made):
        functions = [
            base.__dict__['__init__']
            for base in inspect.getmro(made)
            if '__init__' in base.__dict__ and base is not object
        ]
    known, required = [], []
    for place, function in enumerate(functions):
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # written in C, without a signature
            return None, []
        if inspect.isclass(made):
            parameters = parameters[1:]
        named = [
            p
            for p in parameters
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        known += [p.name for p in named]
        if place == 0:
            required = [p.name for p in named if p.default is p.empty]
        # With **kwargs the rest goes to the next class in line.
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return known, required
    return (None if functions else []), required


def _parts(cfg, training):
    """Yield the parts that a command builds, as far as types are given."""
    from mmcv.runner import HOOKS
    from mmcv.runner.optimizer.builder import OPTIMIZERS

    import hourglass_npu.training.log  # noqa: F401  (registers its hook)

    yield from _model_parts(cfg['model'])
    splits = ['train', 'val'] if training else ['test']
    for split in splits:
        yield from _data_parts(cfg['data'].get(split), f'data.{split}')
    if not training:
        return
    for hook in cfg.get('log_config', {}).get('hooks', ()):
        yield Part('log_config.hooks', hook, HOOKS, ('interval',))
    for number, hook in enumerate(cfg.get('custom_hooks') or ()):
        yield Part(f'custom_hooks.{number}', hook, HOOKS, ('priority',))
    for place, settings in _optimizers(cfg['optimizer']):
        # An unknown type is the registry's to tell: it knows what is missing.
        if isinstance(settings.get('type'), str) and OPTIMIZERS.get(
            settings['type']
        ):
            added = ('params', 'constructor', 'paramwise_cfg', 'fused')
            yield Part(place, settings, OPTIMIZERS, added)
    for key, kind in (('lr_config', 'Lr'), ('momentum_config', 'Momentum')):
        settings = dict(cfg.get(key) or {})
        policy = settings.pop('policy', None)
        if isinstance(policy, str):
            # As the runner names it: 'step' and 'CosineAnnealing' both serve.
            if policy == policy.lower():
                policy = policy.title()
            policy = f'{policy}{kind}UpdaterHook'
        if policy is not None:
            yield Part(key, dict(settings, type=policy), HOOKS, ())


def _model_parts(model):
    from mmpose.models.registry import BACKBONES, HEADS, LOSSES, POSENETS

    yield Part('model', model, POSENETS, ())
    for registry, keys in (
        (BACKBONES, ('backbone',)),
        (HEADS, ('keypoint_head',)),
        (LOSSES, ('loss_pose',)),
    ):
        for key in keys:
            part = model.get(key)
            if isinstance(part, dict) and 'type' in part:
                yield Part(
                    f'model.{key}', part, registry, ('train_cfg', 'test_cfg')
                )


def _data_parts(settings, place):
    from mmpose.datasets.registry import DATASETS, PIPELINES

    if not isinstance(settings, dict) or 'type' not in settings:
        return
    if settings['type'] == 'RepeatDataset':
        yield from _data_parts(settings.get('dataset'), f'{place}.dataset')
        return
    yield Part(place, settings, DATASETS, ('test_mode',))
    for number, step in enumerate(settings.get('pipeline') or ()):
        if isinstance(step, dict):
            yield Part(f'{place}.pipeline.{number}', step, PIPELINES, ())


def _optimizers(settings):
    if settings and all(isinstance(v, dict) for v in settings.values()):
        return [(f'optimizer.{key}', v) for key, v in settings.items()]
    return [('optimizer', settings)]
