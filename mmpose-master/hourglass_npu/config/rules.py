"""What a config may say: the keys that are read, the numbers that make sense.

A class that is built from a config names its arguments itself, and mmcv's
registry refuses others. Here are the places where nobody would: keys that are
looked up, or passed on until the end of the first epoch, and numbers that
spoil a training in silence or end it with a word about tensors.
"""

import difflib
import inspect
import math
from collections import namedtuple

from hourglass_npu.errors import UserError

Rule = namedtuple('Rule', 'wanted holds')
Rule.__doc__ = """What a value must be.

Attributes:
    wanted (str): In words.
    holds (Callable[[Any], bool]): Tells whether it is.
"""


def _whole(value):
    return type(value) is int


def _number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _rule(wanted, kind, test):
    return Rule(wanted, lambda value: kind(value) and test(value))


def _either(rule, *values):
    words = ', '.join(str(value) for value in values)
    return Rule(
        f'{rule.wanted}, or {words}',
        # Not `in`: 1 == True.
        lambda v: (
            any(type(v) is type(x) and v == x for x in values) or rule.holds(v)
        ),
    )


def _list_of(rule, length=None):
    size = '' if length is None else f' of {length}'
    return Rule(
        f'a list{size}, each value {rule.wanted}',
        lambda value: (
            isinstance(value, (list, tuple))
            and length in (None, len(value))
            and all(rule.holds(item) for item in value)
        ),
    )


def _by_channel(rule):
    """Want one value for pictures in grey, three for those in colour."""
    return Rule(
        f'a list of 1 or 3, each value {rule.wanted}',
        lambda value: (
            _list_of(rule, 1).holds(value) or _list_of(rule, 3).holds(value)
        ),
    )


NUMBER = Rule('a number', _number)
FROM_0 = _rule('a whole number, at least 0', _whole, lambda v: v >= 0)
FROM_1 = _rule('a whole number, at least 1', _whole, lambda v: v >= 1)
NOT_NEGATIVE = _rule('a number, at least 0', _number, lambda v: v >= 0)
POSITIVE = _rule('a number above 0', _number, lambda v: v > 0)
SHARE = _rule('a number from 0 to 1', _number, lambda v: 0 <= v <= 1)
RATIO = _rule('a number above 0, at most 1', _number, lambda v: 0 < v <= 1)
SEED = _rule(FROM_0.wanted, _whole, lambda v: 0 <= v < 2**32)
BETA = _rule('a number from 0 to less than 1', _number, lambda v: 0 <= v < 1)
FLAG = Rule('true or false', lambda v: type(v) is bool)
TEXT = Rule('text', lambda v: isinstance(v, str))
SETTINGS = Rule('dict(...)', lambda v: isinstance(v, dict))
PART = Rule(
    'dict(type=..., ...)', lambda v: isinstance(v, dict) and 'type' in v
)
WARMUP = Rule(
    'constant, linear or exp, or None',
    lambda v: v is None or v in ('constant', 'linear', 'exp'),
)
LOG = Rule(
    'dict(hooks=[...], ...)', lambda v: isinstance(v, dict) and 'hooks' in v
)
STEP = Rule(
    "a pair like ('train', 1)",
    lambda v: (
        isinstance(v, (list, tuple))
        and len(v) == 2
        and v[0] in ('train', 'val')
        and FROM_1.holds(v[1])
    ),
)
ONE_OR_MORE = Rule(
    'a whole number, at least 1, or a list of such numbers',
    lambda v: FROM_1.holds(v) or _list_of(FROM_1).holds(v),
)
# Steps of others may take one name alone; Collect takes pairs, too.
NAMES = Rule(
    'a list of names',
    lambda v: (
        isinstance(v, str)
        or (
            isinstance(v, (list, tuple))
            and all(TEXT.holds(n) or _list_of(TEXT, 2).holds(n) for n in v)
        )
    ),
)

# Those of mmcv 1.2.7, and two of later ones.
PRIORITIES = dict(
    HIGHEST=0,
    VERY_HIGH=10,
    HIGH=30,
    ABOVE_NORMAL=40,
    NORMAL=50,
    BELOW_NORMAL=60,
    LOW=70,
    VERY_LOW=90,
    LOWEST=100,
)

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
DATA_KEYS = (
    'samples_per_gpu',
    'samples_per_cpu',
    'workers_per_gpu',
    'train',
    'val',
    'test',
    *LOADERS,
)

# * stands for every key, or every place of a list.
RULES = {
    'model': SETTINGS,
    'model.*.in_channels': ONE_OR_MORE,
    'model.*.out_channels': ONE_OR_MORE,
    'model.*.feat_channel': ONE_OR_MORE,
    'model.*.stage_channels': ONE_OR_MORE,
    'model.*.num_stages': FROM_1,
    'model.*.num_stacks': FROM_1,
    'data': SETTINGS,
    'data.train': PART,
    'data.val': PART,
    'data.test': PART,
    'data.*.data_cfg': SETTINGS,
    'data.*.pipeline': _list_of(SETTINGS),
    'data.*.ann_file': TEXT,
    'data.*.img_prefix': TEXT,
    'optimizer': SETTINGS,
    'optimizer_config': _either(SETTINGS, None),
    'amp': _either(SETTINGS, None),
    'fp16': _either(SETTINGS, None),
    'lr_config': SETTINGS,
    'momentum_config': _either(SETTINGS, None),
    'checkpoint_config': _either(SETTINGS, None),
    'evaluation': SETTINGS,
    'eval_config': SETTINGS,
    'log_config': LOG,
    'log_config.hooks': _list_of(PART),
    'custom_hooks': _either(_list_of(PART), None),
    'custom_hooks.*.priority': Rule(
        f'one of {", ".join(PRIORITIES)}, or a whole number from 0 to 100',
        lambda v: v in PRIORITIES or (_whole(v) and 0 <= v <= 100),
    ),
    'dist_params': SETTINGS,
    'workflow': _list_of(STEP),
    'frozen_parameters': _list_of(TEXT),
    'work_dir': _either(TEXT, None),
    'load_from': _either(TEXT, None),
    'resume_from': _either(TEXT, None),
    'total_epochs': FROM_1,
    'seed': _either(SEED, None),
    'data.samples_per_gpu': FROM_1,
    'data.samples_per_cpu': _either(FROM_1, None),
    'data.workers_per_gpu': FROM_0,
    'data.*.data_cfg.image_size': ONE_OR_MORE,
    'data.*.data_cfg.heatmap_size': ONE_OR_MORE,
    'data.*.data_cfg.num_joints': FROM_1,
    'data.*.data_cfg.num_output_channels': FROM_1,
    'data.*.pipeline.*.keys': NAMES,
    'data.*.pipeline.*.meta_keys': NAMES,
    'data.*.pipeline.*.flip_prob': SHARE,
    'data.*.pipeline.*.rot_factor': NOT_NEGATIVE,
    # A range of factors for bottom-up models.
    'data.*.pipeline.*.scale_factor': Rule(
        SHARE.wanted, lambda v: isinstance(v, (list, tuple)) or SHARE.holds(v)
    ),
    'data.*.pipeline.*.mean': _by_channel(NUMBER),
    'data.*.pipeline.*.std': _by_channel(POSITIVE),
    'optimizer.lr': NOT_NEGATIVE,
    'optimizer.*.lr': NOT_NEGATIVE,
    'optimizer.weight_decay': NOT_NEGATIVE,
    'optimizer.eps': NOT_NEGATIVE,
    'optimizer.momentum': NOT_NEGATIVE,
    'optimizer.betas': _list_of(BETA, 2),
    'optimizer_config.grad_clip.max_norm': POSITIVE,
    'lr_config.step': ONE_OR_MORE,
    'lr_config.gamma': POSITIVE,
    'lr_config.warmup': WARMUP,
    'lr_config.warmup_iters': FROM_0,
    'lr_config.warmup_ratio': RATIO,
    'lr_config.min_lr': NOT_NEGATIVE,
    'lr_config.min_lr_ratio': SHARE,
    'checkpoint_config.interval': _either(FROM_1, -1),
    'checkpoint_config.interval_minutes': _either(POSITIVE, None),
    'checkpoint_config.out_dir': _either(TEXT, None),
    'checkpoint_config.filename_tmpl': TEXT,
    'checkpoint_config.max_keep_ckpts': _either(FROM_1, -1),
    'dist_params.timeout': POSITIVE,
    'evaluation.interval': FROM_1,
    'log_config.interval': FROM_1,
    'log_config.hooks.*.interval': FROM_1,
    'log_level': TEXT,
    'find_unused_parameters': FLAG,
    'cudnn_benchmark': FLAG,
    'allow_tf32': _either(FLAG, None),
    'channels_last': FLAG,
    'device_prefetch': _either(FLAG, None),
    'lasting_workers': FLAG,
    'compile': _either(SETTINGS, None),
    'ddp': _either(SETTINGS, None),
    'ddp.bucket_cap_mb': _either(POSITIVE, None),
    'ddp.compression': Rule(
        "'fp16', 'bf16' or None", lambda v: v in ('fp16', 'bf16', None)
    ),
    'optimizer.fused': _either(FLAG, None),
}
"""Rule by dotted key; a key that is not there breaks none."""

for _loader in LOADERS:
    RULES[f'data.{_loader}'] = SETTINGS
    RULES[f'data.{_loader}.samples_per_gpu'] = FROM_1
    RULES[f'data.{_loader}.workers_per_gpu'] = FROM_0
RULES['data.train_dataloader.persistent_workers'] = FLAG


def faults(cfg):
    """Say what is wrong with a config.

    Args:
        cfg (mmcv.Config): Complete, with all overrides.

    Returns:
        list[str]: One sentence for each fault.
    """
    found = []
    for pattern, rule in RULES.items():
        for key, value in _find(cfg._cfg_dict, pattern.split('.')):
            if not rule.holds(value):
                text = repr(value)
                text = text if len(text) <= 60 else text[:57] + '...'
                found.append(f'{key} is {text}: must be {rule.wanted}')
    template = _at(cfg._cfg_dict, 'checkpoint_config.filename_tmpl')
    if isinstance(template, str):
        from hourglass_npu.training.checkpoints import check_template

        try:
            check_template(template)
        except UserError as error:
            found.append(str(error))
    for place, known in known_keys().items():
        node = _at(cfg._cfg_dict, place)
        if not isinstance(node, dict) or 'type' in node:
            continue
        for key in [key for key in node if key not in known]:
            hint = nearest(key, known, place)
            # What is only looked up does no harm if it is nothing like it.
            if hint or place not in ('data', 'log_config'):
                found.append(f'{place}.{key} is not known{hint}')
    return found


def nearest(key, known, place=''):
    """Suggest what a key may have been meant to be.

    Args:
        key (str): An unknown key.
        known (Iterable[str]): Those that there are.
        place (str): Dotted key of what they belong to.

    Returns:
        str: ' (did you mean ...?)', or nothing.
    """
    near = difflib.get_close_matches(str(key), list(known), 1)
    if not near:
        return ''
    return f' (did you mean {place + "." if place else ""}{near[0]}?)'


def parameters(*functions):
    """Name the arguments of functions, and of classes with their bases.

    Args:
        *functions (Callable): Whatever a config's keys are passed to.

    Returns:
        list[str]: Names, but self.
    """
    names = {}
    for function in functions:
        for part in getattr(function, '__mro__', (function,)):
            part = getattr(part, '__dict__', {}).get('__init__', part)
            try:
                found = inspect.signature(part).parameters.values()
            except (TypeError, ValueError):  # of C, or no function at all
                continue
            names.update(
                (p.name, None)
                for p in found
                if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            )
    return [name for name in names if name != 'self']


def known_keys():
    """Return keys by the place where others would pass unnoticed.

    Returns:
        dict[str, list[str]]: What is read there.
    """
    from mmcv.runner import EpochBasedRunner
    from torch.distributed import init_process_group
    from torch.utils.data import DataLoader

    from hourglass_npu.training.checkpoints import ResumableCheckpointHook

    # Of mmpose's build_dataloader, which itself decides on some of torch's.
    loader = ['samples_per_gpu', 'workers_per_gpu', 'seed']
    loader += [
        name
        for name in parameters(DataLoader)
        if name not in ('dataset', 'batch_size', 'num_workers', 'sampler')
    ]
    known = {f'data.{name}': loader for name in LOADERS}
    known['data'] = list(DATA_KEYS)
    known['checkpoint_config'] = parameters(
        ResumableCheckpointHook, EpochBasedRunner.save_checkpoint
    )
    known['log_config'] = ['interval', 'hooks']
    known['dist_params'] = ['backend', 'port']
    known['dist_params'] += parameters(init_process_group)
    known['ddp'] = ['bucket_cap_mb', 'compression']
    return known


def _at(node, place):
    for part in place.split('.'):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def _find(node, parts, path=''):
    """Go through the places that a pattern fits: (key, value)."""
    if not parts:
        yield path[1:], node
        return
    items = {}
    if isinstance(node, dict):
        items = node
    elif isinstance(node, (list, tuple)):
        items = {str(i): item for i, item in enumerate(node)}
    for key in items if parts[0] == '*' else [parts[0]]:
        if key in items:
            yield from _find(items[key], parts[1:], f'{path}.{key}')
