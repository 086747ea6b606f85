"""Name what a config sets and nothing reads.

A config is a program: it may hold variables that only help to write it, such
as ``data_root``. Those are read by the config itself. What nobody reads is
most likely meant for another release of mmpose.
"""

import ast
import os
import re

from hourglass_npu.config.load import DEFAULTS, OPTIONAL_KEYS
from hourglass_npu.config.rules import nearest

READ = (
    *DEFAULTS,
    *OPTIONAL_KEYS,
    'custom_imports',
    'data',
    'gpu_ids',
    'log_config',
    'lr_config',
    'model',
    'optimizer',
    'optimizer_config',
    'total_epochs',
)
"""The top-level keys that mean something here."""

# Variables that mmpose's own configs have, used or not.
HABITS = re.compile(
    '(channel_cfg|data_cfg|data_root|dataset_info|dataset_type|img_norm_cfg|'
    r'\w*_pipeline)'
)

INSTEAD = dict(
    auto_scale_lr='the option --autoscale-lr of train.py',
    default_hooks='checkpoint_config, log_config and evaluation',
    max_epochs='total_epochs',
    runner='total_epochs, for epochs',
    train_cfg='model.train_cfg, or total_epochs',
    visualizer='log_config',
)
"""What does here what a key of another release does there."""


def unread_keys(cfg):
    """Say which top-level keys of a config have no effect.

    Args:
        cfg (mmcv.Config): From :func:`hourglass_npu.config.load.load_config`.

    Returns:
        list[str]: One sentence for each key.
    """
    used = _names_read_by(cfg.filename, set())
    lines = []
    for key in cfg._cfg_dict:
        if key in READ or key in used or HABITS.fullmatch(key):
            continue
        hint = nearest(key, READ)
        if key in INSTEAD:
            hint = f' (here it is {INSTEAD[key]})'
        lines.append(f'Nothing reads {key} of the config{hint}')
    return lines


def _names_read_by(path, seen):
    """Collect the names that a config file, and its bases, look up."""
    path = os.path.abspath(path)
    if path in seen or not path.endswith('.py'):
        return set()
    seen.add(path)
    try:
        with open(path, encoding='utf-8') as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return set()
    names, bases = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Assign) and any(
            getattr(target, 'id', None) == '_base_' for target in node.targets
        ):
            bases = node.value
    for text in ast.walk(bases) if bases else ():
        base = getattr(text, 'value', getattr(text, 's', None))
        if isinstance(base, str):
            base = os.path.join(os.path.dirname(path), base)
            names |= _names_read_by(base, seen)
    return names
