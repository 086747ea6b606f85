"""Train a pose model: ``train.py CONFIG``.

Logs and checkpoints go to mmpose-master/work_dirs/CONFIG NAME. Relative data
paths of a config start from mmpose-master/, whatever the working directory;
MPII_ROOT replaces data/mpii.
"""

import argparse
import copy
import logging
import os
import signal
import sys
import time
from importlib.util import find_spec

from hourglass_npu import __version__, output, zoo
from hourglass_npu.config.joints import joints_of
from hourglass_npu.config.load import (
    check_data,
    choose_work_dir,
    inner_data,
    load_config,
)
from hourglass_npu.config.parts import check_parts
from hourglass_npu.config.unread import unread_keys
from hourglass_npu.errors import Stopped, UserError, log_tracebacks
from hourglass_npu.files import make_folder
from hourglass_npu.options import Parser, add_options, count
from hourglass_npu.process import check_enough_devices, start
from hourglass_npu.training import lock

NEEDED_KEYS = (
    'checkpoint_config',
    'log_config',
    'lr_config',
    'optimizer',
    'optimizer_config',
    'total_epochs',
)
"""Keys of a config, beside model and data, that training cannot do without."""


def seed_number(text):
    """Read a seed from the command line.

    Args:
        text (str): What was typed.

    Returns:
        int: A seed that every generator takes; numpy has the narrowest range.

    Raises:
        ValueError: It is none; argparse says so.
    """
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise ValueError(text)
    return seed


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Train a pose model.',
        'hourglass train CONFIG.py --resume-from auto',
        'hourglass train CONFIG.py --device cpu --cfg-options total_epochs=2',
        'hourglass train CONFIG.py --dry-run',
    )
    parser.add_argument('config', help='config file')
    add_options(parser)
    parser.add_argument(
        '--resume-from',
        metavar='FILE',
        help='go on from a checkpoint; auto takes the latest whole one of the '
        'work folder, or starts afresh if there is none',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='skip validation'
    )
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument(
        '--gpus',
        '--npus',
        type=int,
        metavar='N',
        help='number of devices; more than one needs a launcher',
    )
    devices.add_argument(
        '--gpu-ids',
        type=int,
        nargs='+',
        metavar='I',
        help='number of the device to train on (without a launcher)',
    )
    parser.add_argument(
        '--seed', type=seed_number, help='seed of all random draws'
    )
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='ask the libraries for repeatable kernels; implies --seed 0 '
        'unless given',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in mixed precision, on a CPU too; elsewhere the config '
        'decides',
    )
    parser.add_argument(
        '--autoscale-lr',
        action='store_true',
        help='scale the learning rate by number of devices / 8',
    )
    parser.add_argument(
        '--batch',
        type=batch_size,
        metavar='N',
        help='samples of a step on each device; auto: what fits',
    )
    short = parser.add_mutually_exclusive_group()
    short.add_argument(
        '--dry-run',
        action='store_true',
        help='try the config in three iterations; keep nothing',
    )
    short.add_argument(
        '--profile',
        type=count,
        metavar='N',
        help='profile N iterations: trace and costly operators',
    )
    # One trial of --batch auto.
    short.add_argument(
        '--try-batch', action='store_true', help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    args.words = list(sys.argv[1:] if argv is None else argv)
    args.short = args.dry_run or bool(args.profile) or args.try_batch
    if args.short and args.resume_from:
        raise UserError(
            '--dry-run and --profile start afresh: leave out --resume-from'
        )
    return args


def batch_size(text):
    """Read the value of ``--batch``.

    Args:
        text (str): What was typed.

    Returns:
        int | str: A number from 1 on, or 'auto'.

    Raises:
        ValueError: It is neither; argparse says so.
    """
    return text if text == 'auto' else count(text)


def check_device_count(args):
    """Compare the asked number of devices with the number of processes.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.

    Raises:
        UserError: They differ.
    """
    asked = len(args.gpu_ids) if args.gpu_ids else args.gpus
    if asked is None:
        return
    if asked < 1:
        raise UserError(
            f'--gpus/--npus {asked}: at least 1. For the CPU: --device cpu'
        )
    running = int(os.environ.get('WORLD_SIZE', 1))
    if args.gpu_ids and running > 1:
        raise UserError(
            '--gpu-ids is for one process: under a launcher each process '
            'takes the device of its local rank'
        )
    if asked != running:
        raise UserError(
            f'{asked} device(s) asked for, {running} process(es) started, and '
            'each process drives one device. Start them with '
            f'NPROC={asked} bash scripts/train_8p.sh'
        )


def find_resume(args, cfg, logger):
    """Find the checkpoint to go on from.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.
        cfg (mmcv.Config): With ``work_dir`` and ``resume_from``.
        logger (logging.Logger): Told where ``auto`` led.

    Returns:
        str | None: The checkpoint, or None for a fresh start.

    Raises:
        UserError: There are checkpoints, but all of them are damaged.
    """
    if args.resume_from != 'auto':
        return args.resume_from or cfg.resume_from
    from mmcv.runner.dist_utils import get_dist_info

    from hourglass_npu.training.checkpoints import Checkpoints
    from hourglass_npu.training.ranks import broadcast_object

    path = problem = None
    # One looks for all: they must not go different ways.
    if get_dist_info()[0] == 0:
        try:
            path = Checkpoints.of_config(cfg).find_whole(logger)
        except UserError as error:
            problem = str(error)
    path, problem = broadcast_object((path, problem))
    if problem:
        raise UserError(problem)
    if path is None:
        logger.info(
            f'No checkpoint in {Checkpoints.of_config(cfg).folder} to resume '
            'from: starting afresh'
        )
    return path


def seed_everything(seed, deterministic):
    """Seed every generator of this process, on its device too.

    Args:
        seed (int): From 0.
        deterministic (bool): Also ask for repeatable kernels.
    """
    import torch
    from mmcv.runner import set_random_seed
    from mmcv.runner.dist_utils import get_device

    from hourglass_npu.devices import make_repeatable

    if deterministic:
        make_repeatable()
    set_random_seed(seed, deterministic=deterministic)
    # torch.manual_seed reaches an NPU from torch 2 on only.
    accelerator = getattr(torch, get_device().type, None)
    if hasattr(accelerator, 'manual_seed_all'):
        accelerator.manual_seed_all(seed)


def _tell_of_lost_lines(record):
    """Stand in for ``logging.Handler.handleError``: print one line, and go on.

    A full disk must neither end a training nor fill its output with
    tracebacks.
    """
    if not _tell_of_lost_lines.done:
        _tell_of_lost_lines.done = True
        error = sys.exc_info()[1]
        print(f'warning: the log cannot be written: {error}', file=sys.stderr)


_tell_of_lost_lines.done = False


def log_to_file(logger, text):
    """Logs what is too long for a screen to the log file alone.

    Args:
        logger (logging.Logger): The log.
        text (str): The text.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 0, text, (), None
    )
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def check_request(args):
    """Check what can be checked before anything is started.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.

    Returns:
        mmcv.Config: The config, with its work folder.

    Raises:
        UserError: The config cannot be used or data are missing.
    """
    cfg = load_config(args.config, args.cfg_options)
    missing = [key for key in NEEDED_KEYS if key not in cfg._cfg_dict]
    if missing:
        raise UserError(
            f'the config {args.config} has no {", ".join(missing)}'
        )
    check_parts(cfg, training=True)
    hooks = [hook['type'] for hook in cfg.log_config['hooks']]
    if 'TensorboardLoggerHook' in hooks and not find_spec('tensorboard'):
        raise UserError(
            'TensorboardLoggerHook of log_config needs the package '
            'tensorboard: pip install tensorboard, or take the hook out'
        )
    check_data(cfg, ['train'] if args.no_validate else ['train', 'val'])
    choose_work_dir(args, cfg)
    names = ('WORLD_SIZE', 'HOURGLASS_NPROC')
    processes = max(int(os.environ.get(name) or 1) for name in names)
    if args.batch == 'auto' and processes > 1:
        raise UserError(
            '--batch auto tries on one device: run it there with --dry-run '
            '(scripts/train_1p.sh), and give the number that it prints here'
        )
    if cfg.load_from == zoo.NAME:
        cfg.load_from = zoo.find(cfg, exact=False)
    for path in (args.resume_from, cfg.resume_from, cfg.load_from):
        if path not in (None, 'auto') and '://' not in path:
            if not os.path.isfile(path):
                raise UserError(f'there is no checkpoint {path}')
    return cfg


def plot_run(work_dir, logger):
    """Draw the figure of a training that is done, beside its log.

    Whatever goes wrong here is only said: the training is what counts.

    Args:
        work_dir (str): Its folder.
        logger (logging.Logger): Told where the figure is, or why not.
    """
    try:
        from hourglass_npu.reports import curves

        logger.info(f'Figure of the training: {curves.plot([work_dir])}')
    except Exception as error:
        logger.warning(
            f'There is no figure of the training ({error!r}). What the log '
            'holds can be plotted later: python3 mmpose-master/tools/'
            f'plot_log.py {work_dir}'
        )


def main():
    """Train as the command line says.

    Returns:
        int | None: Exit status.
    """
    # There is nothing to save yet; by default the signal would end us.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    args = parse_args()
    check_device_count(args)
    cfg = check_request(args)
    if args.check_request:
        check_enough_devices(args)
        return 0
    if args.short or args.batch is not None:
        return _try_out(args, cfg)
    return _train(args, cfg)


def _try_out(args, cfg):
    """Train with the options that only some trainings need."""
    from hourglass_npu.training import trial

    # Before the device is taken, which the trials need.
    trial.choose_batch(args, cfg)
    if args.profile:
        cfg.work_dir = os.path.join(cfg.work_dir, 'profile')
    dry = trial.DryRun(cfg) if args.dry_run else None
    try:
        _train(args, cfg)
    except Exception as error:
        if args.try_batch and trial.lacks_memory(error):
            return trial.TOO_LARGE
        raise
    if dry and int(os.environ.get('RANK') or 0) == 0:
        print(dry.finish())
    return 0


def _train(args, cfg):
    with output.lasting():
        try:
            train(args, cfg)
        finally:
            lock.release()


def train(args, cfg):
    """Trains.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.
        cfg (mmcv.Config): From :func:`check_request`.
    """
    # Loading torch takes seconds: mistyped options are reported before.
    import mmpose
    import torch
    from mmcv.runner.dist_utils import get_dist_info
    from mmcv.utils import collect_env
    from mmpose.apis import train_model
    from mmpose.datasets import build_dataset
    from mmpose.models import build_posenet
    from mmpose.utils import get_root_logger

    from hourglass_npu.devices import describe_npu
    from hourglass_npu.training import guards

    device, distributed = start(args, cfg)
    rank, world_size = get_dist_info()
    make_folder(cfg.work_dir)
    lock.take(cfg.work_dir)
    cfg.gpu_ids = args.gpu_ids or [0]
    if args.amp:
        cfg.amp = dict(cfg.get('amp') or {}, enabled=True)
    if args.autoscale_lr:
        cfg.optimizer['lr'] *= world_size / 8

    timestamp = time.strftime('%Y%m%d_%H%M%S')
    log_file = os.path.join(cfg.work_dir, f'{timestamp}.log')
    # The log is rank 0's; another rank has a file only if it fails.
    log_tracebacks(
        log_file if rank == 0 else f'{log_file[:-4]}.rank{rank}.log'
    )
    logger = get_root_logger(log_file=log_file, log_level=cfg.log_level)
    for handler in logger.handlers:
        handler.handleError = _tell_of_lost_lines
    if rank == 0:
        output.tell_losses_to(logger)
    if distributed:
        # torch 1.8 logs to the root logger when a group is formed, which
        # gives that a handler, and our lines would come twice.
        logger.propagate = False
    facts = dict(
        collect_env(), MMPose=mmpose.__version__, Hourglass=__version__
    )
    environment = '\n'.join(f'{key}: {fact}' for key, fact in facts.items())
    log_to_file(logger, f'Environment:\n{environment}')
    log_to_file(logger, f'Config:\n{cfg.pretty_text}')
    logger.info(f'Log, with environment and config: {log_file}')
    loader = dict(cfg.data, **cfg.data.get('train_dataloader', {}))
    logger.info(
        f'Training on {world_size} x {device.type}, per process '
        f'{torch.get_num_threads()} thread(s), '
        f'{loader.get("workers_per_gpu", 0)} data worker(s) and '
        f'{loader.get("samples_per_gpu", 1)} sample(s) in a step'
    )
    if device.type == 'npu':
        logger.info(describe_npu())
    for line in unread_keys(cfg):
        logger.warning(line)
    validate = not (args.no_validate or args.profile or args.try_batch)
    hooks = []
    if args.profile:
        from hourglass_npu.training import profiler

        hooks = [profiler.ProfileHook(args.profile, cfg.work_dir, logger)]
    if args.short:
        from hourglass_npu.training import trial

        iterations = trial.DRY_ITERATIONS
        if args.profile:
            iterations = profiler.WARM_UP + args.profile
        trial.shorten(cfg, iterations, world_size, args.dry_run)
    cfg.resume_from = find_resume(args, cfg, logger)

    if args.seed is not None or args.deterministic:
        cfg.seed = args.seed or 0
    if cfg.seed is not None:
        logger.info(f'Seed {cfg.seed}, deterministic: {args.deterministic}')
        seed_everything(cfg.seed, args.deterministic)

    model = build_posenet(cfg.model)
    datasets = [build_dataset(cfg.data.train)]
    if len(cfg.workflow) == 2:
        # The loss on validation people needs what training people need.
        val = copy.deepcopy(cfg.data.val)
        inner_data(val).pipeline = inner_data(cfg.data.train).pipeline
        datasets.append(build_dataset(val))
    if world_size > 1 and cfg.seed is not None:
        # The model began equal on all ranks; what they draw must differ.
        seed_everything(cfg.seed + rank, args.deterministic)

    if cfg.get('checkpoint_config') is not None:
        cfg.checkpoint_config.meta = dict(
            mmpose_version=mmpose.__version__, config=cfg.pretty_text
        )
        if (
            inner_data(cfg.data.train)
            .get('data_cfg', {})
            .get('num_output_channels')
        ):
            cfg.checkpoint_config.meta['joints'] = joints_of(cfg).to_info()
    loss_guard, signal_guard, rank_guard = guards.make(cfg)
    try:
        train_model(
            model,
            datasets,
            cfg,
            distributed=distributed,
            validate=validate,
            timestamp=timestamp,
            meta=dict(env_info=environment, seed=cfg.seed),
            hooks=(loss_guard, signal_guard, rank_guard, *hooks),
        )
    except Stopped:
        signal_guard.save_epoch()
        raise
    if args.short:
        return
    if rank == 0:
        plot_run(cfg.work_dir, logger)
    logger.info(f'Done: {cfg.work_dir}')
