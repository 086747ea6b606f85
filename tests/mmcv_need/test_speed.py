"""The speed in the log is what a stopwatch says."""

import logging
import time

import pytest
import torch
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner import EpochBasedRunner, Hook
from torch import nn
from torch.utils.data import DataLoader

BATCH = 3
SECONDS = 0.03
# Of each epoch; the first five iterations of it do not count.
ITERATIONS = [16, 4]
COUNTED = [11, 4]


class Model(nn.Module):
    """A weight, and a pause in each step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, data):
        return (self.weight * data).mean()

    def train_step(self, data, optimizer):
        time.sleep(SECONDS)
        return dict(loss=self(data), num_samples=len(data))


class Stopwatch(Hook):
    """Measures the iterations of an epoch that are said to count."""

    def __init__(self):
        self.measured = []

    def before_train_epoch(self, runner):
        self.ticks = [time.perf_counter()]

    def after_train_iter(self, runner):
        self.ticks.append(time.perf_counter())

    def after_train_epoch(self, runner):
        counted = COUNTED[runner.epoch]
        self.measured.append(self.ticks[-1] - self.ticks[-1 - counted])


def train(model):
    """Train one epoch of each length.

    Args:
        model (nn.Module): Has a ``train_step``.

    Returns:
        tuple[list[float], list[float]]: Speeds in the log, images per second,
        none on a rank other than 0; seconds of what counts in each epoch.
    """
    lines = []
    logger = logging.getLogger('speed')
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        logger=logger,
        max_epochs=len(ITERATIONS),
    )
    stopwatch = Stopwatch()
    runner.register_training_hooks(
        dict(policy='fixed'), optimizer_config=dict(grad_clip=None)
    )
    runner.register_hook(stopwatch)
    loaders = [
        DataLoader(torch.ones(count * BATCH, 4), batch_size=BATCH)
        for count in ITERATIONS
    ]
    runner.run(loaders, [('train', 1)] * len(loaders))
    logger.removeHandler(handler)
    speeds = [line for line in lines if line.startswith('FPS: ')]
    return [float(line.split()[1]) for line in speeds], stopwatch.measured


def train_in_a_rank():
    """Train as :func:`train`, wrapped."""
    return train(MMDistributedDataParallel(Model()))


def check(speeds, measured, ranks):
    assert len(speeds) == len(measured) == len(ITERATIONS)
    for speed, seconds, counted in zip(speeds, measured, COUNTED):
        images = ranks * counted * BATCH
        assert seconds >= counted * SECONDS
        # The runner's clock starts a little earlier, and stops a little
        # later; a busy machine may take it away for a moment.
        assert images / (seconds + 0.2) < speed <= images / seconds * 1.02


def test_speed_of_one_process():
    check(*train(Model()), ranks=1)


def test_speed_of_two_processes_is_that_of_both(ranks):
    first, second = ranks(2, train_in_a_rank)
    check(*first, ranks=2)
    assert second[0] == []
    # They wait for each other in every step, so they take the same time.
    assert second[1] == pytest.approx(first[1], rel=0.2, abs=0.2)
