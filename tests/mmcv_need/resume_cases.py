"""A small training in which everything draws random numbers."""

import itertools
import logging
import random

import numpy as np
import torch
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner import (
    CheckpointHook,
    DistSamplerSeedHook,
    EpochBasedRunner,
    OptimizerHook,
)
from mmcv.runner.dist_utils import get_dist_info
from mmcv.runner.hooks.optimizer import AmpOptimizerHook, engine_of
from tiny_models import Convolutions
from torch.utils.data import DataLoader, Dataset, DistributedSampler

SAMPLES = 14
TRAIN = [('train', 1)]


class Net(Convolutions):
    """Its loss holds random numbers, too."""

    def loss(self, data):
        return super().loss(
            (data + random.random() + np.random.rand()).float()
        )


class Noise(Dataset):
    """Samples that hold their number, and noise from every generator."""

    def __init__(self, loaded=None):
        self.loaded = loaded

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if self.loaded is not None:
            self.loaded.append(index)
        noise = torch.randn(1, 4, 4) + random.random() + np.random.rand()
        return noise + index / SAMPLES


def seed_worker(worker_id):
    """Seed numpy, which torch before 1.9 leaves alone in workers."""
    np.random.seed(torch.initial_seed() % 2**32)


def make_loader(workers=0, loaded=None, batch_size=2, **kwargs):
    return DataLoader(
        Noise(loaded),
        batch_size=batch_size,
        shuffle='sampler' not in kwargs,
        num_workers=workers,
        worker_init_fn=seed_worker,
        **kwargs,
    )


def scramble():
    """Put all generators where no run of the tests has them."""
    torch.manual_seed(987)
    random.seed(987)
    np.random.seed(987)


def make_runner(
    work_dir, epochs=3, model=None, passes=1, prepare=None, **kwargs
):
    """Make a runner, with all generators in their first state.

    Args:
        work_dir (Path): Its folder.
        epochs (int): To train.
        model (nn.Module | type | None): Default: a Net.
        passes (int): Iterations that make one step.
        prepare (callable | None): Gets model and optimizer, for mixed
            precision.
        **kwargs: For the runner.
    """
    kwargs.setdefault('logger', logging.getLogger('resume'))
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    hook = OptimizerHook(grad_clip=dict(max_norm=0.5))
    model = model or Net
    if isinstance(model, type):
        model = model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if passes > 1 or prepare:
        hook = AmpOptimizerHook(dict(max_norm=0.5), passes)
        optimizer.amp_engine = None  # fp32
    if prepare:
        prepare(model, optimizer)
    runner = EpochBasedRunner(
        model,
        optimizer=optimizer,
        work_dir=str(work_dir),
        max_epochs=epochs,
        **kwargs,
    )
    runner.register_training_hooks(
        dict(policy='step', step=[1], warmup='linear', warmup_iters=9), hook
    )
    return runner


def outcome(runner):
    """Everything that a stop must not change."""
    engine = engine_of(runner.optimizer)
    return (
        runner.iter,
        engine and engine.state_dict(),
        runner.model.state_dict(),
        runner.optimizer.state_dict(),
        random.random(),
        np.random.rand(),
        torch.rand(1),
    )


def train_from(
    folder, resume=None, workers=0, workflow=TRAIN, hooks=(), **kwargs
):
    """Train to the end, from a checkpoint if one is given; save often."""
    loaders = [make_loader(workers) for _ in workflow]
    runner = make_runner(folder, **kwargs)
    runner.register_checkpoint_hook(dict(interval=1))
    if resume is None:
        runner.register_checkpoint_hook(dict(interval=1, by_epoch=False))
    for hook in hooks:
        runner.register_hook(hook)
    if resume is not None:
        scramble()
        runner.resume(str(resume))
    runner.run(loaders, workflow)
    return outcome(runner)


def assert_same(one, other, path=''):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (mine, its) in enumerate(zip(one, other)):
            assert_same(mine, its, f'{path}[{i}]')
    else:
        assert one == other, path


class Saving(CheckpointHook):
    """Checkpoints of a run of several processes."""

    def _save_checkpoint(self, runner):
        runner.gather_random_states()
        super()._save_checkpoint(runner)


def train_rank(work_dir, checkpoint=None, passes=1):
    """Train as one rank of several, from a checkpoint if one is given."""
    rank, _ = get_dist_info()
    torch.manual_seed(0)
    model = MMDistributedDataParallel(Net(), broadcast_buffers=False)
    runner = make_runner(work_dir, model=model, epochs=2, passes=passes)
    runner.register_hook(Saving(interval=1, by_epoch=False))
    runner.register_hook(Saving(interval=1))
    runner.register_hook(DistSamplerSeedHook())
    torch.manual_seed(rank)
    random.seed(rank)
    np.random.seed(rank)
    if checkpoint:
        scramble()
        runner.resume(checkpoint)
    # Workers are spawned here, which takes seconds for each epoch.
    loader = make_loader(sampler=DistributedSampler(Noise()))
    runner.run([loader], [('train', 1)])
    return outcome(runner)


def resume_in_ranks(work_dir, *names):
    """Resume from the checkpoints of such names; return what went wrong."""
    failed = {}
    for passes, name in itertools.product((1, 2), names):
        folder = f'{work_dir}/{passes}'
        if name == names[0]:
            whole = train_rank(f'{folder}/whole', passes=passes)
        path = f'{folder}/whole/{name}.pth'
        again = train_rank(f'{folder}/{name}', path, passes)
        try:
            # Buffers are each rank's own here: nobody averages them.
            trained = dict(again[2]), dict(whole[2])
            for state in trained:
                for key in [k for k in state if 'running' in k]:
                    del state[key]
            assert_same(trained[0], trained[1])
            assert_same(again[3:], whole[3:])
            assert again[0] == whole[0]
        except AssertionError as error:
            failed[f'{passes} {name}'] = str(error)
    return failed
