"""Training of a pose model: from a config to a running runner."""

import collections
import copy
import os
import os.path as osp
import random
import time

import mmcv
import numpy as np
import torch
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmcv.parallel.distributed import compress_gradients
from mmcv.runner import (
    CheckpointHook,
    EpochBasedRunner,
    Hook,
    OptimizerHook,
)
from mmcv.runner.checkpoint import list_checkpoints
from mmcv.runner.dist_utils import (
    allreduce_params,
    barrier,
    broadcast_object,
    check_channels_last,
    choose_prefetch,
    get_device,
    get_dist_info,
    get_random_state,
    send_beside,
    set_device,
    set_random_state,
)
from mmcv.runner.hooks.optimizer import amid_step
from mmcv.runner.optimizer.builder import choose_form
from mmcv.utils import _BatchNorm
from mmpose.core import (
    DistEvalHook,
    EvalHook,
    Fp16OptimizerHook,
    build_optimizers,
)
from mmpose.core.distributed_wrapper import DistributedDataParallelWrapper
from mmpose.datasets import build_dataloader, build_dataset
from mmpose.datasets.pipelines import (
    Collect,
    Compose,
    NormalizeTensor,
    TopDownGenerateTarget,
    TopDownJointCells,
    ToPlanes,
    ToTensor,
)
from mmpose.datasets.pipelines.loading import PictureCache
from mmpose.utils import get_root_logger

from hourglass_npu.o2.choice import initialize


class AverageBNStatsHook(Hook):
    """Gives every rank the same batch-norm running statistics.

    Each rank updates ``running_mean`` and ``running_var`` from its own
    batches only, so that after an epoch the ranks hold different models for
    inference. Before such a model is evaluated (by all ranks) and saved (by
    rank 0) the statistics are replaced by their mean over the ranks, in one
    all-reduce. Training itself does not read them.

    The hook must run before the checkpoint and evaluation hooks, which mmcv
    and mmpose register at priority NORMAL.

    Args:
        iter_interval (int): Average after every so many iterations too; for
            checkpoints that are counted in iterations. 0: never.
    """

    def __init__(self, iter_interval=0):
        self.iter_interval = iter_interval

    def after_train_epoch(self, runner):
        """Averages at the end of each training epoch."""
        average_bn_stats(runner.model)

    def after_train_iter(self, runner):
        """Averages where a checkpoint of this iteration is due."""
        if self.every_n_iters(runner, self.iter_interval):
            average_bn_stats(runner.model)


class ShuffleSeedHook(Hook):
    """Lets the order of the data under a launcher depend on the seed.

    mmpose's sampler shuffles by the number of the epoch alone, so that every
    seed would train on the same order. Seed 0 has that order.

    Args:
        seed (int | None): Seed of the run; None stands for 0.
    """

    def __init__(self, seed=None):
        # No run has a million epochs, so no two seeds share an order.
        self.first = (seed or 0) * 1000003

    def before_epoch(self, runner):
        """Reshuffles for the epoch that begins."""
        sampler = runner.data_loader.sampler
        if not hasattr(sampler, 'set_epoch'):
            sampler = runner.data_loader.batch_sampler.sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(self.first + runner.epoch)


class ResumableCheckpointHook(CheckpointHook):
    """Saves checkpoints that hold the random states of all ranks.

    With ``max_keep_ckpts`` so many stay, whichever way they are counted, and
    the best one beside them. Files with a higher number are left alone: they
    are of a run that was given up.

    Args:
        *args: As for mmcv's ``CheckpointHook``.
        interval_minutes (float | None): Save inside of an epoch too, when so
            much time has passed since the last checkpoint. Such a file,
            ``iter_N.pth``, takes the place of the one that this run saved
            so before it. None: never.
        **kwargs: As for mmcv's ``CheckpointHook``.

    Raises:
        ValueError: If ``interval_minutes`` is no positive number.
    """

    # Iterations between two looks at the clock, at most.
    LOOK_AFTER = 1000

    def __init__(self, *args, interval_minutes=None, **kwargs):
        super().__init__(*args, **kwargs)
        if interval_minutes is not None and not (
            isinstance(interval_minutes, (int, float)) and interval_minutes > 0
        ):
            raise ValueError(
                f'checkpoint_config.interval_minutes={interval_minutes!r} '
                'must be a positive number, or None'
            )
        self.interval_minutes = interval_minutes
        self._saved_by_time = None
        self._late = False  # due, but a step was not complete

    def before_run(self, runner):
        """Start the clock."""
        self._restart_clock()

    def after_train_iter(self, runner):
        """Save if it is time, by iterations or by the clock.

        Gradients that wait for further iterations of a step are in no
        checkpoint: what is due amid a step is saved when it is complete.
        """
        due = not self.by_epoch and self.every_n_iters(runner, self.interval)
        if amid_step(runner):
            self._late = self._late or due
        elif due:
            super().after_train_iter(runner)
        elif self._late:
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iters')
            average_bn_stats(runner.model)
            self._save_checkpoint(runner)
        elif self.interval_minutes is not None and self._is_time():
            self._save_by_time(runner)

    def _restart_clock(self):
        self._late = False
        self._saved_at = self._looked_at = time.monotonic()
        self._stride = self._iters_to_look = 1

    def _is_time(self):
        """Ask the clock of rank 0, which counts for all.

        The ranks meet for it, and not in each iteration: as far as can be
        told from the pace, halfway to the time.
        """
        self._iters_to_look -= 1
        if self._iters_to_look:
            return False
        now = time.monotonic()
        left = self._saved_at + 60 * self.interval_minutes - now
        pace = max((now - self._looked_at) / self._stride, 1e-6)
        stride = min(max(int(left / pace / 2), 1), self.LOOK_AFTER)
        is_time, stride = broadcast_object((left <= 0, stride))
        self._looked_at = now
        self._stride = self._iters_to_look = stride
        return is_time

    def _save_checkpoint(self, runner):
        self._save(runner, self._write)

    def _save_by_time(self, runner):
        runner.logger.info(
            f'Saving checkpoint at {runner.iter + 1} iterations, '
            f'{self.interval_minutes} minutes after the last one'
        )
        average_bn_stats(runner.model)
        self._save(runner, self._replace_by_time)

    def _save(self, runner, write):
        for hook in runner.hooks:
            if hasattr(hook, 'before_save'):
                hook.before_save(runner)
        # All ranks come here; what follows is rank 0's.
        runner.gather_random_states()
        if runner.rank == 0:
            write(runner)
        self._restart_clock()

    def _write(self, runner):
        if not self.out_dir:
            self.out_dir = runner.work_dir
        runner.save_checkpoint(
            self.out_dir, save_optimizer=self.save_optimizer, **self.args
        )
        files = list_checkpoints(self.out_dir, self.args.get('filename_tmpl'))
        latest, template, number = files[0]
        if runner.meta is not None:
            runner.meta.setdefault('hook_msgs', {})['last_ckpt'] = latest
        if self.max_keep_ckpts <= 0:
            return
        best = [
            osp.basename(hook.best_json.get('best_ckpt', ''))
            for hook in runner.hooks
            if isinstance(hook, EvalHook)
        ]
        files = [f for f in files if f[1] != template or f[2] <= number]
        for path, _, _ in files[self.max_keep_ckpts :]:
            if osp.basename(path) not in best:
                try:
                    os.remove(path)
                except OSError as error:
                    runner.logger.warning('Could not be removed: %s', error)

    def _replace_by_time(self, runner):
        folder = self.out_dir or runner.work_dir
        settings = dict(self.args, filename_tmpl='iter_{}.pth')
        runner.save_checkpoint(
            folder, save_optimizer=self.save_optimizer, **settings
        )
        before = self._saved_by_time
        self._saved_by_time = osp.join(folder, f'iter_{runner.iter + 1}.pth')
        if before is not None and osp.exists(before):
            os.remove(before)


class _ResumableEvaluation:
    """What evaluation needs for a resumed run to end like one never stopped.

    The training's random draws are the same with and without it. The best
    score so far is part of the checkpoint. As that is saved before it is
    evaluated, a run that goes on from the end of an epoch begins with that
    epoch's evaluation. ``best.json`` follows the checkpoint, so it never
    names scores of another run, or of a future that was given up.
    """

    evaluated = 0
    _restored = False

    def state_dict(self):
        """Returns the best evaluation, and the last epoch evaluated."""
        return dict(best=dict(self.best_json), evaluated=self.evaluated)

    def load_state_dict(self, state):
        """Takes over what :meth:`state_dict` returned."""
        self._restored = True
        self.evaluated = state['evaluated']
        best = state['best']
        # Scores of different measures cannot be compared.
        if best.get('key_indicator') == self.key_indicator:
            self.best_json = dict(best)
            self.best_score = best['best_score']

    def before_run(self, runner):
        """Makes ``best.json`` that of this run, and evaluates if due."""
        if runner.iter and not self._restored:
            return  # from a checkpoint of mmpose, which leaves it to the file
        path = osp.join(runner.work_dir, 'best.json')
        if runner.rank == 0:
            if self.best_json:
                mmcv.dump(self.best_json, path)
            elif osp.exists(path):
                os.remove(path)
        barrier()
        if runner.epoch > self.evaluated:
            # The hook means the epoch that is about to end.
            runner._epoch -= 1
            self.after_train_epoch(runner)
            runner._epoch += 1

    def after_train_epoch(self, runner):
        """Evaluates if due, and draws no random number of the training's."""
        if not self.every_n_epochs(runner, self.interval):
            return
        state = get_random_state()
        try:
            super().after_train_epoch(runner)
        finally:
            set_random_state(state)
        self.evaluated = runner.epoch + 1
        if 'best_score' in self.best_json:
            # Not numpy's: it goes into checkpoints.
            self.best_json['best_score'] = float(self.best_json['best_score'])


class ResumableEvalHook(_ResumableEvaluation, EvalHook):
    """mmpose's evaluation in one process, fit for an exact resume."""


class ResumableDistEvalHook(_ResumableEvaluation, DistEvalHook):
    """mmpose's evaluation on all ranks, fit for an exact resume."""


def average_bn_stats(model):
    """Replaces batch-norm running statistics by their mean over all ranks.

    Does nothing in a job of one process. ``num_batches_tracked`` is left
    alone: ranks do equally many steps.

    Args:
        model (nn.Module): The model, wrapped or not; changed in place.
    """
    allreduce_params(
        [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
    )


def freeze_parameters(model, prefixes):
    """Takes parameters out of training by the beginning of their names.

    Meant for layers that a network owns but never runs, such as
    ``backbone.inters`` of an Hourglass of one stack: they get no gradient,
    and a parameter that waits for one stops DistributedDataParallel unless
    it searches the graph in every step. Frozen parameters stay in the state
    dict and in the optimiser, which passes over parameters without gradient,
    so neither a number nor a checkpoint key changes.

    Args:
        model (nn.Module): The bare model; changed in place.
        prefixes (Sequence[str]): Whole components of dotted names, e.g.
            ``backbone.inters``.

    Raises:
        ValueError: If a prefix fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in names):
            # Two components tell backbone.stem from backbone.inters.
            valid = sorted({'.'.join(name.split('.')[:2]) for name in names})
            raise ValueError(
                f"frozen_parameters: the model has no '{prefix}'. Valid "
                f'prefixes begin with one of: {", ".join(valid)}.'
            )
    for name, parameter in model.named_parameters():
        if any(_has_prefix(name, prefix) for prefix in prefixes):
            parameter.requires_grad = False


def lean_input(dataset, model):
    """Lets the model do what its input needs, with the same numbers.

    The data workers hand over bytes and the cells of the joints; the model
    normalises the crops and makes the heatmaps where it is. Less is computed
    on the host, and a fifth of the bytes is moved.

    Args:
        dataset (Dataset): Whose pipeline ends as mmpose's do: ToTensor,
            NormalizeTensor, TopDownGenerateTarget, Collect. Not changed.
        model (nn.Module): A TopDown model; gets its ``data_preprocessor``.

    Returns:
        Dataset: A copy with another pipeline, of the same records.

    Raises:
        ValueError: If pipeline or model are others.
    """
    lean = copy.copy(dataset)
    if hasattr(dataset, 'dataset'):  # a wrapper, such as RepeatDataset
        lean.dataset = lean_input(dataset.dataset, model)
        return lean
    steps = list(dataset.pipeline.transforms)
    kinds = (ToTensor, NormalizeTensor, TopDownGenerateTarget, Collect)
    fits = [type(step) for step in steps[-4:]] == list(kinds)
    if fits:
        _, normalize, target, collect = steps[-4:]
        fits = not target.unbiased_encoding and {'img', 'target'} <= set(
            collect.keys
        )
    if not fits or not hasattr(model, 'data_preprocessor'):
        raise ValueError(
            'lean_input is for a TopDown model and a training pipeline that '
            'ends in ToTensor, NormalizeTensor, TopDownGenerateTarget '
            '(without unbiased_encoding) and Collect of img and target: set '
            'lean_input=False for another'
        )
    keys = [key for key in collect.keys if key != 'target']
    lean.pipeline = Compose(
        steps[:-4]
        + [
            ToPlanes(),
            TopDownJointCells(target.sigma),
            Collect(
                [*keys, 'joint_cells', 'heatmap'],
                collect.meta_keys,
                collect.meta_name,
            ),
        ]
    )
    model.data_preprocessor = dict(mean=normalize.mean, std=normalize.std)
    return lean


def _has_prefix(name, prefix):
    return name == prefix or name.startswith(prefix + '.')


def _training_device(cfg, distributed):
    """The device of this process.

    ``cfg.gpu_ids`` counts only without a launcher, as in mmpose: there it
    holds the index of the one device to use. Index 0 is mmpose's default and
    stands for the device that is current.
    """
    device = get_device()
    if distributed:
        return device
    if len(cfg.gpu_ids) != 1:
        raise ValueError(
            f'gpu_ids={list(cfg.gpu_ids)}: one process trains on one device. '
            f'Start {len(cfg.gpu_ids)} processes with a launcher for more.'
        )
    if device.type != 'cpu' and cfg.gpu_ids[0] != 0:
        device = set_device(f'{device.type}:{cfg.gpu_ids[0]}')
    return device


def _build_optimizer(model, cfg, device, logger):
    """Builds the optimiser, or those of a GAN, in the device's best form."""
    settings = cfg.optimizer
    several = all(isinstance(part, dict) for part in settings.values())
    # Masters take the place of weights once the optimiser has been built;
    # and two models that step in turn drop each other's gradients.
    amp = cfg.get('amp', None) or dict(enabled=False)
    fp32 = amp.get('enabled') is False or amp.get('opt_level') == 'O0'
    keeps = fp32 and not several and cfg.get('fp16', None) is None
    chosen, said = {}, {}
    for name, part in settings.items() if several else [('', settings)]:
        chosen[name], form = choose_form(part, device, keeps)
        said[f'{chosen[name].get("type")}, {form}'] = None
    logger.info(f'Optimiser: {"; ".join(said)}')
    return build_optimizers(model, chosen if several else chosen[''])


def compile_network(model, options):
    """Lets torch compile the parts of a model that have weights, in place.

    Neither modules nor names of weights change: a checkpoint has the same
    keys as without.

    Args:
        model (nn.Module): The bare model, cast already if it is to be.
        options (dict): Arguments of ``torch.compile``: ``backend``, ``mode``,
            ``dynamic``, ``fullgraph``.

    Raises:
        ValueError: If this torch cannot do it, or does not know an option.
    """
    if not hasattr(torch.nn.Module, 'compile'):
        raise ValueError(
            f'compile needs torch 2.2 or later; here is {torch.__version__}: '
            'set compile to None'
        )
    for part in model.children():
        if any(True for _ in part.parameters()):
            try:
                part.compile(**options)
            except (TypeError, RuntimeError) as error:
                reason = str(error).strip().split('\n')[0]
                raise ValueError(
                    f'compile={options}: torch.compile does not take that '
                    f'({reason})'
                ) from error


def _wrap(model, cfg, device, distributed, optimizer):
    """Puts the model into the wrapper that feeds it."""
    if not distributed:
        return MMDataParallel(model, device_ids=[-1])  # where it is
    ddp = cfg.get('ddp', None) or {}
    compression = ddp.get('compression', None)
    if cfg.get('use_adversarial_train', False):
        wrapper = DistributedDataParallelWrapper
        if compression is not None:
            raise ValueError(
                'ddp.compression is for one model: set it to None with '
                'use_adversarial_train'
            )
    else:
        wrapper = MMDistributedDataParallel
    # A search for unused parameters in each step is mmpose's default. It is
    # needless once the parameters without gradient are named.
    find_unused = cfg.get(
        'find_unused_parameters', not cfg.get('frozen_parameters')
    )
    options = {}
    if getattr(optimizer, 'is_fused_optimizer', False):
        # Those of torch_npu move the gradients into one block, which takes
        # for granted that each has memory of its own.
        options['gradient_as_bucket_view'] = False
    if ddp.get('bucket_cap_mb', None) is not None:
        options['bucket_cap_mb'] = ddp['bucket_cap_mb']
    wrapped = wrapper(
        model,
        # mmcv's text log reads the device of the memory's figure from here.
        device_ids=None if device.type == 'cpu' else [device.index],
        broadcast_buffers=False,
        find_unused_parameters=find_unused,
        **options,
    )
    if compression is not None:
        compress_gradients(wrapped, compression)
    return wrapped


def _optimizer_hook(model, optimizer, cfg, distributed, logger):
    """What turns a loss into a step: a hook, its config, or None.

    The one place that decides about the precision of training. Mixed
    precision O2 casts the model, which must not be in its wrapper yet.
    """
    if cfg.get('use_adversarial_train', False):
        # The models of a GAN step their optimisers in their train_step.
        return None
    if cfg.get('amp', None) is not None:
        hook = dict(type='AmpOptimizerHook')
        hook.update(cfg.optimizer_config or {})
        if cfg.get('fp16', None) is not None:
            raise ValueError(
                "the config has both 'amp' and 'fp16': set one of them to None"
            )
        if hook['type'] != 'AmpOptimizerHook':
            raise ValueError(
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
    """Data loader of one flow; refuses a set that fills no batch."""
    settings = dict(settings, **cfg.data.get('train_dataloader', {}))
    if settings['workers_per_gpu']:
        settings.setdefault('persistent_workers', True)
    lasting = settings.get('persistent_workers', False)
    if lasting and not settings['workers_per_gpu']:
        raise ValueError(
            'data.train_dataloader.persistent_workers=True needs data '
            'workers: set data.workers_per_gpu to 1 or more, or leave it out'
        )
    if lasting:
        dataset = _ReseededData(dataset)
    loader = build_dataloader(dataset, **settings) if len(dataset) else ()
    if len(loader) == 0:
        _, world_size = get_dist_info()
        raise ValueError(
            f'{len(dataset)} training samples do not fill one batch of '
            f'{settings["samples_per_gpu"]} for each of {world_size} '
            'process(es): lower data.samples_per_gpu'
        )
    if loader.worker_init_fn is None:
        loader.worker_init_fn = _seed_worker
    if lasting:
        dataset.start_worker = loader.worker_init_fn
        loader.batch_sampler.sampler = _SeedingSampler(loader)
        # From here torch draws a seed for the workers that it starts. The
        # sampler draws the one that counts, from the training's generator.
        loader.generator = torch.Generator()
    return loader


_Draw = collections.namedtuple('_Draw', 'epoch seed worker index')
"""What lasting workers get in place of an index."""


class _Wrapper:
    """Has the attributes of what it wraps, beside its own."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        # A copy that is being unpickled has nothing inside yet.
        if name == 'inner' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.inner, name)


class _SeedingSampler(_Wrapper):
    """Sends with each index the seed of the epoch.

    Workers that outlive an epoch carry their random states into the next.
    With this and :class:`_ReseededData` they begin each as new ones would:
    the same numbers are drawn from the training's generator, in the same
    order, as torch draws them for an iterator with new workers.

    Args:
        loader (DataLoader): Whose sampler is wrapped; it deals its batches
            to the workers in turn.
    """

    def __init__(self, loader):
        super().__init__(loader.batch_sampler.sampler)
        self.batch_size = loader.batch_size
        self.num_workers = loader.num_workers
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        seed = torch.empty((), dtype=torch.int64).random_().item()
        for place, index in enumerate(self.inner):
            # The number that a new worker would have. torch 1.8 begins an
            # epoch with the worker whose turn it is, not with the first.
            worker = place // self.batch_size % self.num_workers
            yield _Draw(self.epoch, seed, worker, index)


class _ReseededData(_Wrapper):
    """A data set whose worker is seeded when an epoch begins.

    ``start_worker``, to be set, is called with the worker's number, as
    ``worker_init_fn`` is when torch starts a worker. It has to seed numpy,
    which torch does from 1.9 on only, in a way of its own.
    """

    _epoch = None

    def __getitem__(self, index):
        return self.inner[self._begin(index)]

    def __getitems__(self, indices):
        indices = [self._begin(index) for index in indices]
        if hasattr(self.inner, '__getitems__'):
            return self.inner.__getitems__(indices)
        return [self.inner[index] for index in indices]

    def _begin(self, draw):
        """Return the index that was drawn; seed if it begins an epoch."""
        if not isinstance(draw, _Draw):  # not from the sampler
            return draw
        if draw.epoch != self._epoch:
            self._epoch = PictureCache.epoch = draw.epoch
            # As torch does in a worker that starts.
            random.seed(draw.seed + draw.worker)
            torch.manual_seed(draw.seed + draw.worker)
            self.start_worker(draw.worker)
        return draw.index


def _seed_worker(worker_id):
    """Seeds a worker's generators from the training's own, for no ``seed``.

    torch before 1.9 leaves numpy's alone: it is then that of the parent in
    each worker, or, in a spawned one, cannot be had again.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def _checkpoint_hook(config):
    """What saves checkpoints: a hook, the config of another one, or None."""
    if config is None or 'type' in config:
        return config
    return ResumableCheckpointHook(**config)


def _eval_hook(cfg, distributed, settings):
    """Evaluation hook over the validation set."""
    dataset = build_dataset(cfg.data.val, dict(test_mode=True))
    if hasattr(dataset, 'load_truth'):
        # Files that do not belong together are better found out now than
        # after the first ten epochs.
        dataset.load_truth()
    # One person at a time, unless val_dataloader says otherwise: the last
    # bits of what a convolution gives can depend on what else is in a batch.
    # None may be dropped whatever the batch size.
    settings = dict(
        settings, samples_per_gpu=1, shuffle=False, drop_last=False
    )
    loader = build_dataloader(
        dataset, **dict(settings, **cfg.data.get('val_dataloader', {}))
    )
    hook = ResumableDistEvalHook if distributed else ResumableEvalHook
    return hook(loader, **cfg.get('evaluation', {}))


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
    """Trains a model as a config says.

    The device is the one that ``mmcv.runner.dist_utils`` holds for this
    process. Config keys beside mmpose's own:

    - ``frozen_parameters`` (list[str]): see :func:`freeze_parameters`. Where
      it is given, ``find_unused_parameters`` is False by default.
    - ``lean_input`` (bool): see :func:`lean_input`. False by default.
    - ``amp`` (dict | None): mixed precision O2; the arguments of
      ``hourglass_npu.o2.settings.AmpOptions``. ``optimizer_config`` then
      takes those of ``AmpOptimizerHook``.
    - ``optimizer.fused`` (bool | None): see
      ``mmcv.runner.optimizer.builder.choose_form``.
    - ``channels_last`` (bool): keep weights and maps with the channels
      innermost. Last bits may change. False by default.
    - ``compile`` (dict | None): see :func:`compile_network`.
    - ``device_prefetch`` (bool | None): send a batch to the device while that
      is still busy with the step before. None, the default, is where the
      device has streams, and ``pin_memory`` is not off.
    - ``ddp`` (dict | None): of several processes. ``bucket_cap_mb`` is the
      size of the buckets in which gradients are averaged, in MiB (torch's
      default: 25); ``compression`` (``fp16``, ``bf16``) see
      ``mmcv.parallel.distributed.compress_gradients``.
    - ``checkpoint_config.interval_minutes`` (float | None): see
      :class:`ResumableCheckpointHook`.
    - ``data.train_dataloader.persistent_workers`` (bool): whether the data
      workers outlive an epoch, which changes no number. True by default,
      where there are workers.

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
        hooks (Sequence[Hook]): Further hooks, called behind those of the
            config (but for logs) and before the evaluation. One with an
            attribute ``priority_name`` is registered at that priority.

    Raises:
        ValueError: If ``frozen_parameters`` names an unknown layer, if the
            data do not fill a batch, if several devices are asked of one
            process, or if torch or the device cannot do what is asked.
    """
    logger = get_root_logger(log_level=cfg.log_level)
    device = _training_device(cfg, distributed)
    num_devices = get_dist_info()[1] if distributed else len(cfg.gpu_ids)

    loader_settings = dict(
        samples_per_gpu=cfg.data.samples_per_gpu,
        workers_per_gpu=cfg.data.workers_per_gpu,
        num_gpus=len(cfg.gpu_ids),
        dist=distributed,
        seed=cfg.seed,
        pin_memory=device.type != 'cpu',
    )
    datasets = dataset if isinstance(dataset, (list, tuple)) else [dataset]
    if cfg.get('lean_input', False):
        datasets = [lean_input(d, model) for d in datasets]
    data_loaders = [_train_loader(d, cfg, loader_settings) for d in datasets]

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
        # Behind mixed precision: its casts are part of what is compiled.
        compile_network(model, cfg.compile)
    model = _wrap(model, cfg, device, distributed, optimizer)
    pinned = all(loader.pin_memory for loader in data_loaders)
    if choose_prefetch(cfg.get('device_prefetch', None), device, pinned):
        model.send = send_beside

    train_dataloader = cfg.data.get('train_dataloader', {})
    runner = EpochBasedRunner(
        model,
        optimizer=optimizer,
        work_dir=cfg.work_dir,
        logger=logger,
        meta=meta,
        max_epochs=cfg.total_epochs,
        samples_per_gpu=train_dataloader.get(
            'samples_per_gpu', cfg.data.samples_per_gpu
        ),
        num_of_gpus=num_devices,
    )
    # The .log and the .log.json of a run carry the same name.
    runner.timestamp = timestamp

    runner.register_training_hooks(
        cfg.lr_config,
        optimizer_hook,
        _checkpoint_hook(cfg.checkpoint_config),
        cfg.log_config,
        cfg.get('momentum_config', None),
    )
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
        # The seed is for the draws of training; validation draws nothing.
        runner.register_hook(
            _eval_hook(cfg, distributed, dict(loader_settings, seed=None))
        )

    if cfg.resume_from:
        runner.resume(cfg.resume_from)
    elif cfg.load_from:
        runner.load_checkpoint(cfg.load_from)
    try:
        runner.run(data_loaders, cfg.workflow)
    finally:
        for loader in data_loaders:
            # Ends workers that outlive an epoch: torch has no other way.
            loader._iterator = None
