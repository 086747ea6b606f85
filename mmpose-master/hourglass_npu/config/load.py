"""Read a config file, apply overrides, resolve paths, check data."""

import ast
import difflib
import os
from pathlib import Path

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.config import rules
from hourglass_npu.errors import UserError, describe
from hourglass_npu.files import read_bytes, read_json
from hourglass_npu.paths import DEFAULT_DATA, MMPOSE_ROOT, WORK_DIRS
from hourglass_npu.pose.joints import find_joints

DEFAULTS = dict(
    dist_params=dict(backend='nccl'),
    load_from=None,
    log_level='INFO',
    resume_from=None,
    seed=None,
    work_dir=None,
    workflow=[('train', 1)],
)
"""Values of the keys that a config may leave out."""

# Keys that need not stand in a config in order to be set by --cfg-options.
OPTIONAL_KEYS = tuple(DEFAULTS) + (
    'allow_tf32',
    'amp',
    'channels_last',
    'checkpoint_config',
    'compile',
    'cudnn_benchmark',
    'custom_hooks',
    'ddp',
    'device_prefetch',
    'lasting_workers',
    'eval_config',
    'evaluation',
    'find_unused_parameters',
    'fp16',
    'frozen_parameters',
    'momentum_config',
    'use_adversarial_train',
)


LARGEST_CONFIG = 2**24
"""Bytes."""


def load_config(path, groups=None):
    """Read a config file, apply overrides, make data paths absolute.

    Args:
        path (str): Config file.
        groups (list[list[str]] | None): ``KEY=VALUE`` overrides, one list
            for each time that the option was given. Keys are dotted; values
            are numbers, true, false, none, text, or lists of these as in
            ``[1,2]`` or ``1,2``.

    Returns:
        mmcv.Config: The config, with the keys of OPTIONAL_KEYS filled in.

    Raises:
        UserError: The file is missing or no config, an override does not
            fit it, or a value makes no sense.
    """
    ensure_packages()
    from mmcv import Config

    if not os.path.isfile(path):
        raise UserError(f'there is no config file {path}{_nearest_file(path)}')
    if Path(path).suffix not in ('.py', '.json', '.yml', '.yaml'):
        raise UserError(
            f'{path} is no config: its name must end in .py, .json, .yml or '
            '.yaml'
        )
    read_bytes(path, LARGEST_CONFIG)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'the config {path} cannot be read: '
            f'{type(error).__name__}: {reason}'
        ) from error
    for key in ('model', 'data'):
        if key not in cfg._cfg_dict:
            raise UserError(f"the config {path} has no '{key}'")
    overrides = {}
    for text in [text for group in groups or () for text in group]:
        key, value = _parse_override(text)
        _check_key(cfg._cfg_dict, key)
        overrides[key] = value
    try:
        cfg.merge_from_dict(overrides)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'--cfg-options do not fit the config: {describe(error)}'
        ) from error
    for key, value in DEFAULTS.items():
        if key not in cfg._cfg_dict:
            cfg[key] = value
    faults = rules.faults(cfg)
    if faults:
        raise UserError(f'the config {path}: ' + '; '.join(faults))
    # JSON and YAML have no tuples, which mmcv's runner insists on.
    cfg.workflow = [tuple(step) for step in cfg.workflow]
    for split in ('train', 'val', 'test'):
        _resolve_data_paths(cfg.data.get(split))
    saving = cfg.get('checkpoint_config') or {}
    for node, key in (
        (cfg, 'work_dir'),
        (cfg, 'load_from'),
        (cfg, 'resume_from'),
        (saving, 'out_dir'),
    ):
        if node.get(key) and '://' not in node[key]:
            node[key] = str(MMPOSE_ROOT / os.path.expanduser(node[key]))
    return cfg


def choose_work_dir(args, cfg):
    """Decide on the work folder: option, else config, else config's name.

    Args:
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): Gets an absolute ``work_dir``.
    """
    if args.work_dir:
        cfg.work_dir = os.path.abspath(os.path.expanduser(args.work_dir))
    elif not cfg.work_dir:
        stem = Path(args.config).stem
        cfg.work_dir = str(WORK_DIRS / stem)


def _nearest_file(path):
    """Return ' (did you mean ...?)' for a file of a similar name, or ''."""
    path = Path(path)
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ''
    near = difflib.get_close_matches(path.name, names, 1)
    return f' (did you mean {path.parent / near[0]}?)' if near else ''


def _parse_override(text):
    """Take ``KEY=VALUE`` apart."""
    key, equals, value = text.partition('=')
    if not key or not equals:
        raise UserError(f"--cfg-options wants KEY=VALUE, not '{text}'")
    return key, _parse_value(value)


def _parse_value(text):
    """Read a number, true, false, none, a list of these, or text."""
    from mmcv import DictAction

    words = dict(true=True, false=False, none=None)
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # Lists of bare words are mmcv's speciality.
        if not any(mark in text for mark in '[](),'):
            return text
        try:
            return DictAction._parse_iterable(text)
        except AssertionError as error:
            raise UserError(f'--cfg-options: {error}') from error
    if isinstance(value, tuple) and not text.startswith('('):
        return list(value)
    return value


def _check_key(node, key):
    """Refuse a key that is most likely mistyped.

    At the top level, and in data, every key that means something is known.
    Elsewhere the arguments of any class can stand, so that only near misses
    are refused here; the class refuses what it does not know.
    """
    parts = key.split('.')
    for depth, part in enumerate(parts):
        path = '.'.join(parts[:depth])
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f'--cfg-options {key}: {path} is a list of {len(node)}'
                )
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise UserError(
                f'--cfg-options {key}: {path} is {node!r}, which has no parts'
            )
        if part in node:
            node = node[part]
            continue
        known = list(node)
        if depth == 0:
            known += OPTIONAL_KEYS
        elif path == 'data':
            known += rules.DATA_KEYS
        if part in known:
            return
        near = difflib.get_close_matches(part, known, 1, 0.75)
        if near or path in ('', 'data'):
            hint = f': did you mean {".".join(parts[:depth] + near)}?'
            raise UserError(
                f'--cfg-options {key}: the config has no such key'
                + (hint if near else '')
            )
        return


def _resolve_data_paths(node):
    """Make the paths of a data set's config absolute, in place.

    A file that describes joints is read.
    """
    if isinstance(node, (list, tuple)):
        for item in node:
            _resolve_data_paths(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'dataset_info' and value is not None:
                if isinstance(value, str) and value.endswith('.json'):
                    # A checkpoint holds the config, not files beside it.
                    node[key] = read_json(_data_path(value))
                find_joints(node[key])
            elif key in ('ann_file', 'img_prefix', 'bbox_file') and value:
                if not isinstance(value, str):
                    raise UserError(
                        f'{key} of the data is {value!r}: must be a path'
                    )
                node[key] = _data_path(value)
            else:
                _resolve_data_paths(value)


def _data_path(path):
    """Return the absolute form of a data path; a trailing slash stays."""
    path = os.path.expanduser(path)
    if '://' in path:
        return path
    root = os.environ.get('MPII_ROOT')
    if root and (path + '/').startswith(DEFAULT_DATA + '/'):
        rest = path[len(DEFAULT_DATA) + 1 :]
        return os.path.join(os.path.abspath(os.path.expanduser(root)), rest)
    return os.path.join(MMPOSE_ROOT, path)


def inner_data(part):
    """Return the settings of the data set that a RepeatDataset repeats.

    Args:
        part (dict): Of a data set, such as ``cfg.data.train``.

    Returns:
        dict: Itself, if it repeats none.
    """
    while part.get('type') == 'RepeatDataset' and 'dataset' in part:
        part = part['dataset']
    return part


def check_data(cfg, splits):
    """Make sure that the files of some splits are there.

    Args:
        cfg (mmcv.Config): From :func:`load_config`.
        splits (Sequence[str]): Of 'train', 'val', 'test'.

    Raises:
        UserError: Something is missing. Says what, and where to get it.
    """
    missing = []
    for split in splits:
        if split not in cfg.data:
            raise UserError(f"the config's data have no '{split}'")
        part = cfg.data[split]
        part = inner_data(part)
        wanted = [part.get('ann_file'), part.get('img_prefix')]
        if (
            part.get('type') == 'TopDownMpiiDataset'
            and split != 'train'
            and part.data_cfg.get('dataset_info') in (None, 'mpii')
            and not os.path.exists(wanted[0] or '')
        ):
            # Comes with MPII's annotations; data of one's own have none.
            folder = os.path.dirname(wanted[0] or '')
            wanted.append(os.path.join(folder, 'mpii_gt_val.mat'))
        missing += [
            path for path in wanted if path and not os.path.exists(path)
        ]
    if missing:
        listing = ''.join(f'\n  {path}' for path in dict.fromkeys(missing))
        raise UserError(
            f'these data are missing:{listing}\n'
            'MPII has pictures at human-pose.mpi-inf.mpg.de; annotations/ is '
            'the archive mpii_annotations.tar\n'
            "of the mmpose project's download site. Put both under "
            f'{MMPOSE_ROOT / DEFAULT_DATA},\n'
            'or set MPII_ROOT to the folder that holds images/ and '
            'annotations/.\n'
            'No data at hand? Drawn people serve for a first try: '
            'bash scripts/train_1p.sh --sample'
        )
