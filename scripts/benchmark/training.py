"""Cases of whole trainings, and the arithmetic that bounds them."""

import copy
import gc
import resource
import tempfile
from contextlib import nullcontext

import torch

from benchmark.case import Watch, accelerator, repeat, rounds


def training(
    cfg, batch, workers, skip, iterations, in_memory=False, profile=False
):
    """Train with ``train_model``, from files to weights; each round afresh.

    Several workers that have joined each other train together.

    Args:
        cfg (mmcv.Config): The config.
        batch (int): Samples of a process in an iteration.
        workers (int): Data workers of a process.
        skip (int): Iterations at the start of a round that do not count.
        iterations (int): Those that do.
        in_memory (bool): Whether one batch serves for all iterations.
        profile (bool): Whether to say which operators take the time.
    """
    ranks = 1
    if torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
    dataset = fed(cfg, batch, workers, ranks * (skip + iterations))
    if in_memory:
        dataset = Remembered(dataset, batch)
    cfg.total_epochs = 1
    spans = [((0, skip - 1, 'after'), (0, skip + iterations - 1, 'after'))]
    work = trainer(cfg, dataset, spans, ranks > 1, profile)
    yield from rounds(work, batch * ranks * iterations)


def next_epoch(cfg, batch, workers, epochs, spawned=False):
    """Train with ``train_model`` and take the time between two epochs.

    From the end of an epoch's last iteration until the first batch of the
    next is there. The CPU time is that of this process, and of workers that
    ended in that time. ``spawned`` starts workers as under a launcher.
    """
    if spawned:
        torch.multiprocessing.set_start_method('spawn', force=True)
    # An iteration for each worker.
    dataset = fed(cfg, batch, workers, workers)
    cfg.total_epochs = epochs
    spans = [
        ((epoch, workers - 1, 'after'), (epoch + 1, 0, 'before'))
        for epoch in range(epochs - 1)
    ]
    yield from rounds(trainer(cfg, dataset, spans), epochs - 1)


def fed(cfg, batch, workers, batches):
    """Set a config's batch and data workers; return so many batches."""
    from mmpose.datasets import build_dataset

    cfg.data.samples_per_gpu = batch
    cfg.data.workers_per_gpu = workers
    return repeat(build_dataset(cfg.data.train), batch * batches)


def trainer(
    cfg, dataset, spans, distributed=False, profile=False, listener=None
):
    """Return the work of training afresh, which takes its time itself.

    The config is changed, so that it saves nothing and has the clock of
    :func:`_register_clock`, which ``listener`` is for.
    """
    from mmpose.apis import train_model
    from mmpose.models import build_posenet

    cfg.gpu_ids, cfg.seed = [0], 0
    cfg.resume_from = cfg.load_from = cfg.checkpoint_config = None
    cfg.log_config = dict(interval=50, hooks=[dict(type='BenchClock')])

    def work():
        # A casting model is a ring of references, and its last round's would
        # count in the peak of memory.
        gc.collect()
        watch = _register_clock(spans, listener)
        model = build_posenet(cfg.model)
        if cfg.get('fp16'):
            _cast_input(model)
        # A copy: mmcv takes keys out of what it is given.
        own = copy.deepcopy(cfg)
        profiler = _profiler() if profile else nullcontext()
        with tempfile.TemporaryDirectory() as own.work_dir, profiler:
            train_model(model, dataset, own, distributed=distributed)
        found = dict(watch=watch, memory=_peak_memory())
        if profile:
            kind = 'cuda' if accelerator()[0] == 'cuda' else 'cpu'
            order = dict(sort_by=f'self_{kind}_time_total', row_limit=15)
            found['profile'] = profiler.key_averages().table(**order)
        return found

    return work


def _profiler():
    """Return torch's profiler; an NPU itself takes torch_npu's own."""
    kinds = torch.profiler.ProfilerActivity
    on_npu = accelerator()[0] == 'npu'
    return torch.profiler.profile(activities=[kinds.CPU] if on_npu else None)


def _register_clock(spans, listener=None):
    """Register a hook, BenchClock, that takes the time of parts of a run.

    It comes into the run as a logger, which is the one place where a config
    of mmpose 0.8.0 can name a hook.

    Args:
        spans (list[tuple]): First and last moment of each part. A moment is
            the epoch, the iteration in it, and ``before`` or ``after``.
        listener (ContextManager | None): In place of a clock.

    Returns:
        Watch: Takes the time, or the listener.
    """
    from mmcv.runner import HOOKS, Hook

    watch = listener or Watch()

    def mark(*moment):
        for first, last in spans:
            if moment == first:
                watch.__enter__()
            elif moment == last:
                watch.__exit__(None, None, None)

    class BenchClock(Hook):
        def __init__(self, interval):
            pass  # a logger is given one

        def before_train_iter(self, runner):
            mark(runner.epoch, runner.inner_iter, 'before')

        def after_train_iter(self, runner):
            mark(runner.epoch, runner.inner_iter, 'after')

    HOOKS.register_module(module=BenchClock, force=True)
    return watch


def _peak_memory():
    """Return the largest memory of the device or the process, in MiB."""
    module = accelerator()[1]
    if module is not None:
        return module.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cast_input(model):
    """Give a half network half pictures: mmpose's fp16 leaves them fp32."""

    def cast(module, inputs):
        dtype = next(module.parameters()).dtype
        return tuple(value.to(dtype) for value in inputs)

    model.backbone.register_forward_pre_hook(cast)


class Remembered(torch.utils.data.Dataset):
    """A few samples of a data set, made once and given again and again."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count
        self.samples = {}

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        index %= self.count
        if index not in self.samples:
            self.samples[index] = self.dataset[index]
        return self.samples[index]


def arithmetic(cfg, size, gflop):
    """Multiply half matrices: the speed that no network goes above.

    A unit of work is as much arithmetic as ``gflop`` says; ``cfg`` has no
    part in it.
    """
    kind, _ = accelerator()
    half = dict(device=kind, dtype=torch.float16) if kind else {}
    # Drawn here: not every device draws without compiling.
    left, right = torch.rand(2, size, size).to(**half)
    repeats = 50 if kind else 1

    def work():
        for _ in range(repeats):
            left @ right

    work()  # loads the library of products
    yield from rounds(work, repeats * 2e-9 * size**3 / gflop)
