"""What the commands of this folder share: options, config, device, errors.

Importing this module takes nothing but the standard library; torch, mmcv and
mmpose are loaded when they are used. So ``--help`` is quick, and a Python
without these packages can still hand over to the one that has them.
"""

import ast
import contextlib
import difflib
import errno
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
import uuid
from pathlib import Path

import config_rules
import options

MMPOSE_ROOT = Path(__file__).resolve().parents[1]
"""The folder that relative paths in configs start from."""

TOOLS = str(MMPOSE_ROOT / 'tools')
"""This folder."""

DEFAULT_DATA = 'data/mpii'
"""What MPII_ROOT stands in for."""

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
    'ddp',
    'device_prefetch',
    'eval_config',
    'evaluation',
    'find_unused_parameters',
    'fp16',
    'frozen_parameters',
    'lean_input',
    'momentum_config',
    'use_adversarial_train',
)

# How long a rank other than 0 keeps an error to itself, in seconds. Most
# often rank 0 reports the same, and the launcher ends this process first.
OTHERS_SPEAK_AFTER = 8


# Of the disk's making: what the error says is all that there is to say.
DISK_ERRORS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EROFS,
    errno.ESTALE,
)


class UserError(ValueError):
    """A mistake of the person at the keyboard; the message says all."""


class Stopped(BaseException):
    """A signal has ended the run in good order.

    Args:
        number (int): Of the signal.
    """

    def __init__(self, number):
        super().__init__(number)
        self.number = number


stopped_by = 0
"""Signal that has asked for the end, whether it was obeyed yet or not."""


# Errors -------------------------------------------------------------------


def run(main):
    """Runs a command and ends the process with the fitting status.

    Status 0: done; 1: failed, with a traceback where no message says all; 2:
    the user's mistake, with one message and no traceback; 130, 143: stopped
    by SIGINT or SIGTERM. Where STOPPED_FILE names a file, the signal's number
    is left there and the status is 0: torch's launcher would call a rank that
    was stopped a failure, and end the others.

    Args:
        main (Callable[[], None]): The command.
    """
    try:
        try:
            main()
        except Exception as error:
            if stopped_by and (_lost_worker(error) or _lost_peer(error)):
                # The signal was for all of us, and came to them first; or
                # the launcher sends it since another rank has failed.
                alone = int(os.environ.get('WORLD_SIZE', 1)) == 1
                leave(128 + stopped_by, 'stopped at once' if alone else None)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _wait_for_rank_0(error)
            if is_users_mistake(error):
                leave(2, f'error: {_text(error)}')
            message = explain_failure(error)
            if message:
                leave(1, f'error: {message}')
            traceback.print_exc()
            leave(1)
    except Stopped as stop:
        status = 128 + stop.number
        if os.environ.get('STOPPED_FILE'):
            status = 0
            with open(os.environ['STOPPED_FILE'], 'w') as stream:
                stream.write(f'{stop.number:d}\n')
        name = signal.Signals(stop.number).name
        leave(status, f'stopped by {name}' if _rank() == 0 else None)
    except KeyboardInterrupt:
        # Ctrl-C reaches every rank, from the terminal and the launcher, and
        # this place out of an error's report too.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave(130, 'interrupted' if _rank() == 0 else None)


@contextlib.contextmanager
def silence(number):
    """Context in which nothing that libraries print is seen, by C++ too.

    For what would be said twice, or at length, before an error of ours.

    Args:
        number (int): 1 for standard output, 2 for standard error.
    """
    stream = {1: sys.stdout, 2: sys.stderr}[number]
    stream.flush()
    kept = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
        yield
    finally:
        stream.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


def is_users_mistake(error):
    """Tells a wrong request from a failure.

    By the rule of this bundle code says ``ValueError`` where the user has to
    change something. Deeper libraries say it too, of their own trouble, so
    only what mmcv, mmpose or these tools themselves raise is counted, and
    what mmcv's registry says of a wrong ``type`` or argument in a config.

    Args:
        error (Exception): With its traceback.

    Returns:
        bool: True if one sentence is all that the user needs.
    """
    if isinstance(error, UserError):
        return True
    if _said_by_worker(error):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    where = frames[-1][0].f_globals if frames else {}
    module = where.get('__name__', '')
    if module == 'mmcv.utils.registry':
        # Whatever a class raises at what the config gives it comes from
        # here, with the class's name before it.
        return True
    if module == 'mmcv.runner.checkpoint':
        # mmcv's word for weights of another model.
        return isinstance(error, (RuntimeError, *_MISTAKES))
    ours = module.split('.')[0] in ('mmcv', 'mmpose', '__main__')
    ours = ours or os.path.dirname(where.get('__file__', '')) == TOOLS
    return ours and isinstance(error, _MISTAKES)


# Of a file: it is not there, may not be read, or is a folder.
_MISTAKES = (
    ValueError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


def explain_failure(error):
    """Finds words for a failure that is nobody's mistake.

    Args:
        error (Exception): What ended the command.

    Returns:
        str | None: The message; None where only a traceback tells enough.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return str(error)
    lost = _lost_worker(error)
    if lost:
        return (
            f'a data worker is gone (process {lost.group(1)}, '
            f'{lost.group(2)}). If it was killed, most likely memory ran out: '
            'lower data.workers_per_gpu or data.samples_per_gpu. A bus error '
            'means that shared memory (/dev/shm) is full: give it more, or '
            'set data.workers_per_gpu=0'
        )
    return _explain_pipeline(error)


def _explain_pipeline(error):
    """Words for steps of a pipeline that do not go together, or None."""
    if not isinstance(error, (KeyError, TypeError, RecursionError)):
        return None
    # In a data worker it was another traceback, which is the message here.
    places = [
        f'File "{frame.filename}", line {frame.lineno}, in'
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    text = '\n'.join([*places, str(error)])
    if isinstance(error, RecursionError):
        # mmcv's collate takes a text apart for ever.
        if not re.search(r'[/\\]parallel[/\\]collate\.py"', text):
            return None
        return (
            'a pipeline of the data ends with something that cannot be put '
            'into a batch: its last step must be Collect, and its keys must '
            'name tensors'
        )
    found = re.findall(
        r'[/\\]mmpose[/\\]datasets[/\\]pipelines[/\\](\w+\.py", line \d+)',
        text,
    )
    if not found:
        return None
    kind, last = type(error).__name__, text.strip().splitlines()[-1]
    if last.startswith(f'{kind}: '):
        last = last[len(kind) + 2 :]
    place = found[-1].replace('"', '')
    return (
        f'a step of a pipeline cannot work with what it gets ({place}: '
        f'{kind}: {last}). Check the order of the steps in the config, and '
        'their arguments'
    )


def _lost_worker(error):
    return isinstance(error, RuntimeError) and re.match(
        r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) '
        r'(exited unexpectedly|is killed by signal: [\w ]+)',
        str(error),
    )


def _text(error):
    # str() of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    text = _said_by_worker(error) or text
    if isinstance(error, TypeError):
        text += _nearest_argument(error)
    return text


def _said_by_worker(error):
    """What mmcv or mmpose said in a data worker, or None.

    torch raises there an error of the same kind, with the worker's whole
    traceback for a message.
    """
    if not isinstance(error, _MISTAKES):
        return None
    found = _WORKERS_ERROR.match(str(error))
    if not found or not re.search(r'[/\\]mm(cv|pose)[/\\]', found['file']):
        return None
    return found['text'].strip()


_WORKERS_ERROR = re.compile(
    r'Caught (?P<kind>\w+) in DataLoader worker process \d+\.\n.*'
    r'File "(?P<file>[^"\n]+)", line \d+, in .*'
    r'\n(?P=kind): (?P<text>.*)',
    re.DOTALL,
)


def _nearest_argument(error):
    """A hint for a key that a class of mmcv's registry does not know."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
    built = frame.f_locals.get('obj_cls')
    if not found or built is None:
        return ''
    return config_rules.nearest(found.group(1), config_rules.parameters(built))


def _wait_for_rank_0(error):
    """Lets one rank speak for all, and the first to fail before the others.

    Ranks that meet the same error would print it once each; ranks whose peer
    has died see a broken connection, which explains nothing. Both wait for
    the launcher to end them, and speak only if it does not.
    """
    several = int(os.environ.get('WORLD_SIZE', 1)) > 1
    if several and (_rank() or _lost_peer(error)):
        time.sleep(OTHERS_SPEAK_AFTER)


def _lost_peer(error):
    return isinstance(error, RuntimeError) and any(
        word in str(error).lower()
        for word in ('gloo', 'nccl', 'hccl', 'connection', 'peer')
    )


def _rank():
    return int(os.environ.get('RANK', 0))


def leave(status, message=None):
    """Ends this process and its data workers at once.

    Args:
        status (int): Exit status.
        message (str | None): For standard error.
    """
    # In a signal's handler the stream may be in use.
    with contextlib.suppress(RuntimeError):
        if message:
            print(message, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    for worker in multiprocessing.active_children():
        worker.kill()
    # Not sys.exit(): the threads of a process group whose other half is gone
    # can keep the process from ending.
    os._exit(status)


# Options ------------------------------------------------------------------


def add_options(parser):
    """Adds the options that every command has.

    Args:
        parser (argparse.ArgumentParser): Changed in place.
    """
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints '
        '(default: mmpose-master/work_dirs/CONFIG NAME)',
    )
    parser.add_argument(
        '--device',
        help='auto, cpu, npu, cuda, or one by its number such as npu:3 '
        '(default: auto, the best that is there)',
    )
    parser.add_argument(
        '--cfg-options',
        '--options',
        nargs='+',
        action='append',
        metavar='KEY=VALUE',
        help='override values of the config, e.g. data.samples_per_gpu=16',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        help="what started the processes (default: torch's launcher if its "
        'variables are set, else none)',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        help="set by torch's launcher",
    )
    options.add_trust_option(parser)


def parse_args(parser, argv=None):
    """Parses a command line; an unknown option is answered by the nearest.

    Args:
        parser (argparse.ArgumentParser): With all options added.
        argv (list[str] | None): Arguments; None takes ``sys.argv``.

    Returns:
        argparse.Namespace: The options. Wrong ones end the process with
        status 2.
    """
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = ''
        known = [s for a in parser._actions for s in a.option_strings]
        near = difflib.get_close_matches(unknown[0].split('=')[0], known, 1)
        if near:
            hint = f' (did you mean {near[0]}?)'
        parser.error(f'unknown argument {unknown[0]}{hint}')
    return args


# Config -------------------------------------------------------------------


def load_config(path, groups=None):
    """Reads a config file, applies overrides, makes data paths absolute.

    Args:
        path (str): Config file.
        groups (list[list[str]] | None): ``KEY=VALUE`` overrides, one list
            for each time that the option was given. Keys are dotted; values
            are numbers, true, false, none, text, or lists of these as in
            ``[1,2]`` or ``1,2``.

    Returns:
        mmcv.Config: The config, with the keys of OPTIONAL_KEYS filled in.

    Raises:
        UserError: If the file is missing or no config, an override does not
            fit it, or a value makes no sense.
    """
    find_packages()
    from mmcv import Config

    if not os.path.isfile(path):
        raise UserError(f'there is no config file {path}{_nearest_file(path)}')
    if Path(path).suffix not in ('.py', '.json', '.yml', '.yaml'):
        raise UserError(
            f'{path} is no config: its name must end in .py, .json, .yml or '
            '.yaml'
        )
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
            f'--cfg-options do not fit the config: {_text(error)}'
        ) from error
    for key, value in DEFAULTS.items():
        if key not in cfg._cfg_dict:
            cfg[key] = value
    faults = config_rules.faults(cfg)
    if faults:
        raise UserError(f'the config {path}: ' + '; '.join(faults))
    # JSON and YAML have no tuples, which mmcv's runner insists on.
    cfg.workflow = [tuple(step) for step in cfg.workflow]
    for split in ('train', 'val', 'test'):
        _resolve_data_paths(cfg.data.get(split))
    for key in ('work_dir', 'load_from', 'resume_from'):
        if cfg[key] and '://' not in cfg[key]:
            cfg[key] = str(MMPOSE_ROOT / os.path.expanduser(cfg[key]))
    return cfg


def find_packages(*names):
    """Goes on in the bundle's own Python where this one lacks packages.

    To be called before anything else is done: the program starts again.

    Args:
        *names (str): As they are imported; by default torch, mmcv and mmpose.
    """
    scripts = str(MMPOSE_ROOT.parent / 'scripts')
    if scripts not in sys.path:
        sys.path.append(scripts)
    from bootstrap import ensure_packages

    ensure_packages(*(names or ('torch', 'mmcv', 'mmpose')))
    # mmcv imports what builds CUDA extensions, and that warns of a host with
    # nvcc and without a GPU. Nothing is built here.
    logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)


def choose_work_dir(args, cfg):
    """Decides on the work folder: option, else config, else config's name.

    Args:
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): Gets an absolute ``work_dir``.
    """
    if args.work_dir:
        cfg.work_dir = os.path.abspath(os.path.expanduser(args.work_dir))
    elif not cfg.work_dir:
        stem = Path(args.config).stem
        cfg.work_dir = str(MMPOSE_ROOT / 'work_dirs' / stem)


def make_folder(path):
    """Makes a folder, with its parents, unless it is there.

    Args:
        path (str): The folder.

    Raises:
        UserError: If that cannot be.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f'the folder cannot be made: {error}') from error


def check_folder_of(path):
    """Makes sure that a file can be written.

    Args:
        path (str): The file.

    Raises:
        UserError: If there is no such folder.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f'there is no folder {folder}')


@contextlib.contextmanager
def replaced(path):
    """Context for a file that is written as a whole or not at all.

    Args:
        path (str): File to write or replace.

    Yields:
        str: Temporary name beside it, with the same suffix. At a clean end
        it is renamed to ``path``; after an error it is removed.

    Raises:
        ValueError: The folder is not there or may not be written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f'{path}: the folder {folder} does not exist')
    if not os.access(folder, os.W_OK):
        raise UserError(f'{path}: the folder {folder} cannot be written to')
    if os.path.isdir(path):
        raise UserError(f'{path}: this is a folder')
    temporary = os.path.join(folder, f'.{uuid.uuid4().hex[:8]}.{name}')
    try:
        yield temporary
        if os.path.exists(temporary):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_json(path, content):
    """Writes a file of JSON, whole or not at all.

    Args:
        path (str): The file.
        content (dict): Plain values.

    Raises:
        UserError: The folder is not there or may not be written to.
    """
    with replaced(path) as partial, open(partial, 'w') as file:
        json.dump(content, file, indent=2)
        file.write('\n')


def count(text):
    """Reads a whole number from 1, for an option.

    Args:
        text (str): What was typed.

    Returns:
        int: The number.

    Raises:
        ValueError: If it is none; argparse says so.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _nearest_file(path):
    """' (did you mean ...?)' for a file of a similar name, or nothing."""
    path = Path(path)
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ''
    near = difflib.get_close_matches(path.name, names, 1)
    return f' (did you mean {path.parent / near[0]}?)' if near else ''


def _parse_override(text):
    """Takes ``KEY=VALUE`` apart."""
    key, equals, value = text.partition('=')
    if not key or not equals:
        raise UserError(f"--cfg-options wants KEY=VALUE, not '{text}'")
    return key, _parse_value(value)


def _parse_value(text):
    """A number, true, false, none, a list of these, or plain text."""
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
    """Refuses a key that is most likely a slip of the pen.

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
            known += config_rules.DATA_KEYS
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


# Data ---------------------------------------------------------------------


def _resolve_data_paths(node):
    """Makes the paths of a data set's config absolute, in place."""
    if isinstance(node, (list, tuple)):
        for item in node:
            _resolve_data_paths(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ('ann_file', 'img_prefix', 'bbox_file') and value:
                if not isinstance(value, str):
                    raise UserError(
                        f'{key} of the data is {value!r}: a path is wanted'
                    )
                node[key] = _data_path(value)
            else:
                _resolve_data_paths(value)


def _data_path(path):
    """Absolute form of a data path; a trailing slash stays."""
    path = os.path.expanduser(path)
    if '://' in path:
        return path
    root = os.environ.get('MPII_ROOT')
    if root and (path + '/').startswith(DEFAULT_DATA + '/'):
        rest = path[len(DEFAULT_DATA) + 1 :]
        return os.path.join(os.path.abspath(os.path.expanduser(root)), rest)
    return os.path.join(MMPOSE_ROOT, path)


def check_data(cfg, splits):
    """Makes sure that the files of some splits are there.

    Args:
        cfg (mmcv.Config): From :func:`load_config`.
        splits (Sequence[str]): Of 'train', 'val', 'test'.

    Raises:
        UserError: If something is missing. Says what, and where to get it.
    """
    missing = []
    for split in splits:
        if split not in cfg.data:
            raise UserError(f"the config's data have no '{split}'")
        part = cfg.data[split]
        part = part.get('dataset', part)  # RepeatDataset wraps another
        wanted = [part.get('ann_file'), part.get('img_prefix')]
        if part.get('type') == 'TopDownMpiiDataset' and split != 'train':
            # Evaluation reads the head boxes from here.
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


# Processes and devices ----------------------------------------------------


def start(args, cfg):
    """Takes the device and, under a launcher, joins the process group.

    Args:
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): The number of data-loader workers is bounded in
            it where processes share the cores.

    Returns:
        tuple[torch.device, bool]: The device; whether this process is one
        of a group.

    Raises:
        UserError: If the device is not there, or the group cannot be.
    """
    from mmcv.runner.dist_utils import init_dist, set_arithmetic, set_device

    options.apply_trust(args)
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    launcher = args.launcher
    if launcher is None:
        launched = {'RANK', 'WORLD_SIZE', 'LOCAL_RANK'} <= set(os.environ)
        launcher = 'pytorch' if launched else 'none'
    try:
        device = set_device(args.device)
        if launcher != 'none':
            params = dict(cfg.dist_params)
            timeout = params.get('timeout')
            if isinstance(timeout, (int, float)) and timeout > 0:
                # RankGuard speaks first: the libraries name no rank.
                params['timeout'] = timeout + 60
            init_dist(launcher, **params)
    except (TypeError, ValueError) as error:
        # TypeError: dist_params name what torch does not know.
        raise UserError(str(error)) from error
    idle = set_arithmetic(cfg.get('cudnn_benchmark'), cfg.get('allow_tf32'))
    if idle and os.environ.get('RANK', '0') == '0':
        print(
            f'note: {" and ".join(idle)} is for CUDA, and without effect on '
            f'{device.type}',
            file=sys.stderr,
        )
    share_cores(device, args, cfg)
    return device, launcher != 'none'


def share_cores(device, args, cfg):
    """Divides the host's cores among the processes on it.

    Arithmetic threads are set only where several processes compute on the
    CPU, and OMP_NUM_THREADS does not say how many; there too a batch is no
    larger than ``data.samples_per_cpu``, if the config has that: processes
    that share the cores gain nothing from more, and share the memory. What
    was asked for by ``--cfg-options`` stays as it is.

    Args:
        device (torch.device): What this process computes on.
        args (argparse.Namespace): Options of :func:`add_options`.
        cfg (mmcv.Config): ``data.workers_per_gpu`` and
            ``data.samples_per_gpu`` are lowered in place.
    """
    import cv2
    import torch

    processes = int(
        os.environ.get('LOCAL_WORLD_SIZE') or os.environ.get('WORLD_SIZE', 1)
    )
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    on_cpu = device.type == 'cpu'
    if on_cpu and processes > 1:
        if 'OMP_NUM_THREADS' not in os.environ:
            torch.set_num_threads(cores)
        cv2.setNumThreads(0)
    asked = {
        text.partition('=')[0]
        for group in args.cfg_options or ()
        for text in group
    }
    most = cfg.data.get('samples_per_cpu')
    if most and on_cpu and processes > 1:
        if 'data.samples_per_gpu' not in asked:
            cfg.data.samples_per_gpu = min(cfg.data.samples_per_gpu, most)
    if 'data.workers_per_gpu' not in asked:
        # On the CPU one core of each process is busy with the model itself.
        most = cores - 1 if on_cpu else cores
        cfg.data.workers_per_gpu = min(
            cfg.data.get('workers_per_gpu', most), most
        )


# Model --------------------------------------------------------------------


def load_weights(model, path):
    """Loads a checkpoint that must fit the model to the last tensor.

    Args:
        model (nn.Module): The bare model, on the CPU; changed in place.
        path (str): Checkpoint.

    Returns:
        dict: ``meta`` of the checkpoint; empty where there is none.

    Raises:
        UserError: If it cannot be read, or is of another model.
    """
    import torch
    from mmcv.runner import _load_checkpoint

    try:
        checkpoint = _load_checkpoint(path, 'cpu', logger='silent')
    except ValueError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} cannot be read: {reason}') from error
    saved = checkpoint
    if isinstance(checkpoint, dict):
        saved = checkpoint.get('state_dict', checkpoint)
    if not isinstance(saved, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor)
        for key, value in saved.items()
    ):
        raise UserError(f'{path} holds no weights: tensors by name are wanted')
    weights = {
        key[7:] if key.startswith('module.') else key: value
        for key, value in saved.items()
    }
    own = model.state_dict()
    missing = [key for key in own if key not in weights]
    strange = [key for key in weights if key not in own]
    other = [
        key
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    faults = []
    if missing:
        faults.append(f'{len(missing)} missing, such as {missing[0]}')
    if strange:
        faults.append(f'{len(strange)} unknown, such as {strange[0]}')
    if other:
        key = other[0]
        faults.append(
            f'{len(other)} of another shape, such as {key}: '
            f'{tuple(weights[key].shape)} instead of {tuple(own[key].shape)}'
        )
    if faults:
        raise UserError(
            f'{path} is a checkpoint of another model than the config '
            f'describes. It holds {len(weights)} tensors, the model has '
            f'{len(own)}: {"; ".join(faults)}.'
        )
    model.load_state_dict(weights)
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}
