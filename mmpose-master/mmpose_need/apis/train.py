"""mmpose/apis/train.py: from a config to a running runner.

What has no counterpart in mmpose is in the package ``hourglass_npu``.
"""

import copy

import torch
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmcv.parallel.distributed import compress_gradients
from mmcv.runner import HOOKS, EpochBasedRunner, OptimizerHook
from mmcv.runner.dist_utils import get_device, get_dist_info, set_device
from mmcv.runner.hooks.optimizer import engine_of
from mmcv.runner.optimizer.builder import choose_form, fused_by
from mmcv.utils import build_from_cfg
from mmpose.core import Fp16OptimizerHook, build_optimizers
from mmpose.core.distributed_wrapper import DistributedDataParallelWrapper
from mmpose.datasets import build_dataloader, build_dataset
from mmpose.utils import get_root_logger

import hourglass_npu.training.log  # noqa: F401  (registers ReadableLogHook)
from hourglass_npu.config.rules import PRIORITIES
from hourglass_npu.devices import (
    check_channels_last,
    choose_prefetch,
    halves_convolutions,
    let_pin,
    pins,
    send_beside,
)
from hourglass_npu.errors import UserError
from hourglass_npu.o2.choice import apex_will_serve, initialize
from hourglass_npu.o2.settings import AmpOptions
from hourglass_npu.training.checkpoints import (
    ResumableCheckpointHook,
    saving_hook,
)
from hourglass_npu.training.collate import reuse_memory
from hourglass_npu.training.evaluation import (
    ResumableDistEvalHook,
    ResumableEvalHook,
)
from hourglass_npu.training.network import (
    check_sync_bn,
    compile_network,
    freeze_parameters,
)
from hourglass_npu.training.ranks import AverageBNStatsHook, ShuffleSeedHook
from hourglass_npu.training.workers import (
    keep_workers,
    seed_worker,
    start_from_server,
    stop_workers,
)
from hourglass_npu.weights import check_same_model, count_fitting


def _training_device(cfg, distributed):
    """Return the device of this process.

    As in mmpose, ``cfg.gpu_ids`` counts only without a launcher: it holds the
    index of the one device to use. Index 0 is mmpose's default and stands for
    the current device.
    """
    device = get_device()
    if distributed:
        return device
    if len(cfg.gpu_ids) != 1:
        raise UserError(
            f'gpu_ids={list(cfg.gpu_ids)}: one process trains on one device. '
            f'Start {len(cfg.gpu_ids)} processes with a launcher for more.'
        )
    if device.type != 'cpu' and cfg.gpu_ids[0] != 0:
        device = set_device(f'{device.type}:{cfg.gpu_ids[0]}')
    return device


def _build_optimizer(model, cfg, device, logger):
    """Build the optimizer, or those of a GAN, in the device's best form."""
    settings = cfg.optimizer
    several = all(isinstance(part, dict) for part in settings.values())
    # Masters replace the weights after the optimizer has been built; two
    # models that step in turn drop each other's gradients.
    amp = AmpOptions(**(cfg.get('amp', None) or dict(enabled=False)))
    low = amp.trains_low(device)
    keeps = not low and not several and cfg.get('fp16', None) is None
    apex = not several and apex_will_serve(amp, device)
    chosen, said = {}, {}
    for name, part in settings.items() if several else [('', settings)]:
        chosen[name], form = choose_form(part, device, keeps, apex)
        kind = chosen[name].get('type')
        said[f'{getattr(kind, "__name__", kind)}, {form}'] = None
    logger.info(f'Optimizer: {"; ".join(said)}')
    if not low and halves_convolutions(device):
        logger.warning(
            'This chip computes fp32 convolutions in half precision, and '
            'without a loss scale small gradients are lost: mixed precision '
            'O2 (amp) has one'
        )
    optimizers = build_optimizers(model, chosen if several else chosen[''])
    for optimizer in optimizers.values() if several else [optimizers]:
        if not low and fused_by(optimizer) == 'apex':
            raise UserError(
                f'{type(optimizer).__name__} of Apex trains in mixed '
                "precision O2 only: set amp, or use torch's optimizer of "
                'that kind'
            )
    return optimizers


def _moves_gradients(optimizer):
    """Tell whether gradients must be memory of their own.

    Fused optimizers for NPUs move them into a block, and Apex detaches them
    in place; views of a bucket of DistributedDataParallel allow neither.

    Args:
        optimizer (Optimizer | dict): Or those of a GAN.
    """
    parts = optimizer.values() if isinstance(optimizer, dict) else [optimizer]
    return any(
        fused_by(part)
        or getattr(engine_of(part), 'needs_own_gradients', False)
        for part in parts
    )


def _wrap(model, cfg, device, distributed, optimizer):
    """Put the model into the wrapper that feeds it."""
    if not distributed:
        return MMDataParallel(model, device_ids=[-1])  # where it is
    ddp = cfg.get('ddp', None) or {}
    compression = ddp.get('compression', None)
    if cfg.get('use_adversarial_train', False):
        wrapper = DistributedDataParallelWrapper
        if compression is not None:
            raise UserError(
                'ddp.compression is for one model: set it to None with '
                'use_adversarial_train'
            )
    else:
        wrapper = MMDistributedDataParallel
    # mmpose searches for unused parameters in each step by default. That is
    # not necessary if the parameters without gradient are named.
    find_unused = cfg.get(
        'find_unused_parameters', not cfg.get('frozen_parameters')
    )
    options = {}
    if _moves_gradients(optimizer):
        options['gradient_as_bucket_view'] = False
    if ddp.get('bucket_cap_mb', None) is not None:
        options['bucket_cap_mb'] = ddp['bucket_cap_mb']
    wrapped = wrapper(
        model,
        # mmcv's text log reads from here which device's memory to report.
        device_ids=None if device.type == 'cpu' else [device.index],
        broadcast_buffers=False,
        find_unused_parameters=find_unused,
        **options,
    )
    if compression is not None:
        compress_gradients(wrapped, compression)
    return wrapped


def _optimizer_hook(model, optimizer, cfg, distributed, logger):
    """Return what turns a loss into a step: a hook, its config, or None.

    This is the one place that decides about the precision of training. Mixed
    precision O2 casts the model, which must not be in its wrapper yet.
    """
    if cfg.get('use_adversarial_train', False):
        # The models of a GAN step their optimizers in train_step.
        return None
    if cfg.get('amp', None) is not None:
        hook = dict(type='AmpOptimizerHook')
        hook.update(cfg.optimizer_config or {})
        if cfg.get('fp16', None) is not None:
            raise UserError(
                "the config has both 'amp' and 'fp16': set one of them to None"
            )
        if hook['type'] != 'AmpOptimizerHook':
            raise UserError(
                f'optimizer_config.type={hook["type"]!r} does not scale the '
                "loss as 'amp' needs it: leave it out, or set amp to None"
            )
        initialize(model, optimizer, logger=logger, **cfg.amp)
        return hook
    if cfg.get('fp16', None) is not None:
        return Fp16OptimizerHook(
            **cfg.optimizer_config, **cfg.fp16, distributed=distributed
        )
    if distributed and 'type' not in cfg.optimizer_config:
        return OptimizerHook(**cfg.optimizer_config)
    return cfg.optimizer_config


def _train_loader(dataset, cfg, settings):
    """Build the data loader of one flow; refuse a set that fills no batch."""
    settings = dict(settings, **cfg.data.get('train_dataloader', {}))
    wished = cfg.get('lasting_workers', False) and settings['workers_per_gpu']
    lasting = settings.pop('persistent_workers', wished)
    if lasting and not settings['workers_per_gpu']:
        raise UserError(
            'data.train_dataloader.persistent_workers=True needs data '
            'workers: set data.workers_per_gpu to 1 or more, or leave it out'
        )
    if lasting:
        settings['persistent_workers'] = True
    loader = build_dataloader(dataset, **settings) if len(dataset) else ()
    if len(loader) == 0:
        _, world_size = get_dist_info()
        raise UserError(
            f'{len(dataset)} training samples do not fill one batch of '
            f'{settings["samples_per_gpu"]} for each of {world_size} '
            'process(es): lower data.samples_per_gpu'
        )
    if loader.worker_init_fn is None:
        loader.worker_init_fn = seed_worker
    start_from_server(loader)
    reuse_memory(loader)
    if lasting:
        keep_workers(loader, get_root_logger())
    return loader


def _checkpoint_hook(config):
    """Return what saves checkpoints: a hook, another one's config, or None."""
    if config is None or 'type' in config:
        return config
    return ResumableCheckpointHook(**config)


def _log_config(config, iters, logger):
    """Let a log that is due less than once an epoch be due at its end."""
    if not config or iters < 1:
        return config
    parts = [config, *config.get('hooks', ())]
    longest = max(part.get('interval', 1) for part in parts)
    if longest <= iters:
        return config
    logger.info(
        f'log_config.interval is {longest}, but an epoch has {iters} '
        f'iteration(s): a line of the log comes every {iters}'
    )
    config = copy.deepcopy(config)
    for part in [config, *config.get('hooks', ())]:
        if part.get('interval', 1) > iters:
            part['interval'] = iters
    return config


def _register_custom_hooks(runner, cfg):
    """Register the hooks of ``custom_hooks``, as later mmpose does."""
    for settings in cfg.get('custom_hooks', None) or ():
        if not isinstance(settings, dict):
            runner.register_hook(settings)
            continue
        settings = dict(settings)
        averages = settings['type'] == 'EMAHook'
        priority = settings.pop('priority', 49 if averages else 'NORMAL')
        priority = PRIORITIES.get(priority, priority)
        if averages and cfg.resume_from:
            # It resumes itself, for its averages.
            settings.setdefault('resume_from', cfg.resume_from)
        hook = build_from_cfg(settings, HOOKS)
        between = PRIORITIES['ABOVE_NORMAL'] < priority < PRIORITIES['NORMAL']
        runner.register_hook(hook, 'NORMAL' if between else priority)
        saving = saving_hook(runner)
        if between and saving is not None:
            # Behind the step, before the checkpoint: those are of one
            # priority here.
            runner.hooks.remove(hook)
            runner.hooks.insert(runner.hooks.index(saving), hook)


def _load(runner, model, cfg):
    """Resume, or load weights, as the config says."""
    if cfg.resume_from:
        check_same_model(model, cfg.resume_from)
        runner.resume(cfg.resume_from)
        for hook in runner.hooks:
            if isinstance(hook, ResumableCheckpointHook):
                hook.note_resumed(runner, cfg.resume_from)
    elif cfg.load_from:
        checkpoint = runner.load_checkpoint(cfg.load_from)
        fit, size, left = count_fitting(model, checkpoint)
        tell = runner.logger.info if fit else runner.logger.warning
        tell(
            f'{fit} of the {size} tensors of the model were loaded from '
            f'{cfg.load_from}' + (f'; not loaded: {left}' if left else '')
        )


def _eval_hook(cfg, distributed, settings):
    """Build the hook that evaluates on the validation set."""
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    evaluation = dict(cfg.get('evaluation', {}))
    if hasattr(dataset, 'load_truth'):
        # Find files that do not belong together now, not after ten epochs.
        score = dataset.load_truth()['measure'].name
        if evaluation.get('key_indicator') == 'PCKh':
            # People without heads are measured otherwise.
            evaluation['key_indicator'] = score
    # One person at a time, unless val_dataloader says otherwise: the last
    # bits of a convolution can depend on what else is in a batch. No person
    # may be dropped, whatever the batch size.
    settings = dict(
        settings, samples_per_gpu=1, shuffle=False, drop_last=False
    )
    loader = build_dataloader(
        dataset, **dict(settings, **cfg.data.get('val_dataloader', {}))
    )
    let_pin(loader, get_device())
    start_from_server(loader)
    loader.in_threads = True
    hook = ResumableDistEvalHook if distributed else ResumableEvalHook
    return hook(loader, **evaluation)


def train_model(
    model,
    dataset,
    cfg,
    distributed=False,
    validate=False,
    timestamp=None,
    meta=None,
    hooks=(),
):
    """Train a model as a config says.

    The device is the one that ``mmcv.runner.dist_utils`` holds for this
    process. Config keys in addition to mmpose's:

    - ``frozen_parameters`` (list[str]): see :func:`freeze_parameters`. Where
      it is given, ``find_unused_parameters`` is False by default.
    - ``amp`` (dict | None): mixed precision O2; the arguments of
      ``hourglass_npu.o2.settings.AmpOptions``. ``optimizer_config`` then
      takes those of ``AmpOptimizerHook``.
    - ``optimizer.fused`` (bool | None): see
      ``mmcv.runner.optimizer.builder.choose_form``.
    - ``channels_last`` (bool): keep weights and maps with the channels
      innermost. Last bits may change. False by default.
    - ``compile`` (dict | None): see :func:`compile_network`.
    - ``device_prefetch`` (bool | None): send a batch to the device while it
      is still busy with the previous step. None, the default, does so where
      the device has streams and ``pin_memory`` is not off.
    - ``ddp`` (dict | None): for several processes. ``bucket_cap_mb`` is the
      size of the buckets in which gradients are averaged, in MiB (torch's
      default: 25); for ``compression`` (``fp16``, ``bf16``) see
      ``mmcv.parallel.distributed.compress_gradients``.
    - ``checkpoint_config.interval_minutes`` (float | None): see
      :class:`ResumableCheckpointHook`.
    - ``custom_hooks`` (list[dict]): further hooks, each with ``type``, its
      arguments and ``priority``, as in later mmpose. Without a priority they
      come behind the checkpoint and before the evaluation.
    - ``lasting_workers`` (bool): let data workers, where there are any,
      outlive an epoch, see
      ``hourglass_npu.training.workers.LastingLoader``. False by default, as
      in mmpose. ``data.train_dataloader.persistent_workers`` decides where it
      is given.

    Args:
        model (nn.Module): The model, on any device.
        dataset (Dataset | Sequence[Dataset]): One for each flow of
            ``cfg.workflow``.
        cfg (mmcv.Config): The whole config, with ``gpu_ids``, ``seed`` and
            ``work_dir`` filled in.
        distributed (bool): Whether the process is a rank of a process group.
        validate (bool): Whether to evaluate on ``cfg.data.val`` while
            training, as ``cfg.evaluation`` says.
        timestamp (str | None): Stem of the log's file name.
        meta (dict | None): Put into each checkpoint.
        hooks (Sequence[Hook]): Further hooks, called after those of the
            config (except logs) and before the evaluation. One with an
            attribute ``priority_name`` is registered at that priority.

    Raises:
        UserError: ``frozen_parameters`` names an unknown layer, the data do
            not fill a batch, several devices are asked of one process, or
            torch or the device cannot do what is asked.
    """
    logger = get_root_logger(log_level=cfg.log_level)
    device = _training_device(cfg, distributed)
    num_devices = get_dist_info()[1] if distributed else len(cfg.gpu_ids)

    # Of each step, unless a loader's own settings say otherwise.
    train_dataloader = cfg.data.get('train_dataloader', {})
    sizes = {
        key: cfg.data.get(key, train_dataloader.get(key, default))
        for key, default in (('samples_per_gpu', 1), ('workers_per_gpu', 0))
    }
    loader_settings = dict(
        sizes,
        num_gpus=len(cfg.gpu_ids),
        dist=distributed,
        seed=cfg.seed,
        pin_memory=device.type != 'cpu',
    )
    datasets = dataset if isinstance(dataset, (list, tuple)) else [dataset]
    data_loaders = [_train_loader(d, cfg, loader_settings) for d in datasets]

    check_sync_bn(model, device)
    freeze_parameters(model, cfg.get('frozen_parameters', ()))
    model = model.to(device)
    if cfg.get('channels_last', False):
        check_channels_last(device)
        model = model.to(memory_format=torch.channels_last)
    optimizer = _build_optimizer(model, cfg, device, logger)
    optimizer_hook = _optimizer_hook(
        model, optimizer, cfg, distributed, logger
    )
    if cfg.get('compile', None) is not None:
        # After mixed precision: its casts are part of what is compiled.
        compile_network(model, cfg.compile)
    model = _wrap(model, cfg, device, distributed, optimizer)
    for loader in data_loaders:
        let_pin(loader, device)
    pinned = all(map(pins, data_loaders))
    if not pinned and device.type != 'cpu':
        logger.info('Batches are not in pinned memory: their copies wait')
    if choose_prefetch(cfg.get('device_prefetch', None), device, pinned):
        model.send = send_beside

    runner = EpochBasedRunner(
        model,
        optimizer=optimizer,
        work_dir=cfg.work_dir,
        logger=logger,
        meta=meta,
        max_epochs=cfg.total_epochs,
        samples_per_gpu=train_dataloader.get(
            'samples_per_gpu', sizes['samples_per_gpu']
        ),
        num_of_gpus=num_devices,
    )
    # The .log and the .log.json of a run carry the same name.
    runner.timestamp = timestamp

    runner.register_training_hooks(
        cfg.lr_config,
        optimizer_hook,
        _checkpoint_hook(cfg.checkpoint_config),
        _log_config(cfg.log_config, len(data_loaders[0]), logger),
        cfg.get('momentum_config', None),
    )
    _register_custom_hooks(runner, cfg)
    if distributed:
        saving = cfg.checkpoint_config or {}
        by_iter = not saving.get('by_epoch', True)
        runner.register_hook(
            AverageBNStatsHook(saving.get('interval', 0) if by_iter else 0),
            priority='HIGH',
        )
        runner.register_hook(ShuffleSeedHook(cfg.seed))
    for hook in hooks:
        runner.register_hook(hook, getattr(hook, 'priority_name', 'NORMAL'))
    if validate:
        # The seed is for the draws of training; validation has none.
        runner.register_hook(
            _eval_hook(cfg, distributed, dict(loader_settings, seed=None))
        )

    _load(runner, model, cfg)
    try:
        runner.run(data_loaders, cfg.workflow)
    finally:
        for loader in data_loaders:
            stop_workers(loader)
