"""The case of what the host does in a training iteration."""

import contextlib
import functools
from unittest import mock

from torch import nn

from benchmark.case import rounds
from benchmark.counting import is_kernel, listen
from benchmark.training import Remembered, fed, trainer

SIZE = 128
"""Of pictures: the smallest that Hourglass-52 takes."""


def iteration(cfg, skip, iterations, on_device=False):
    """Train with ``train_model``, two small pictures at a time.

    The network has as many operators as the config's, and a sixteenth of its
    channels: next to no arithmetic.

    Args:
        cfg (mmcv.Config): The config.
        skip (int): Iterations that do not count, at least two.
        iterations (int): Those that are timed.
        on_device (bool): Whether O2 undoes steps as on an accelerator.
    """
    for data_cfg in (cfg.data_cfg, cfg.data.train.data_cfg):
        data_cfg.image_size = [SIZE, SIZE]
        data_cfg.heatmap_size = [SIZE // 4, SIZE // 4]
    cfg.total_epochs = 1
    dataset = Remembered(fed(cfg, 2, 0, skip + iterations), 2)

    def run(last, listener=None):
        spans = [((0, skip - 1, 'after'), (0, last, 'after'))]
        with contextlib.ExitStack() as patches:
            for kind in (nn.Conv2d, nn.BatchNorm2d):
                patches.enter_context(_narrowed(kind))
            if on_device:
                patches.enter_context(_decided_on_device())
            return trainer(cfg, dataset, spans, listener=listener)()

    listener = listen()
    run(skip, listener)
    counts = listener.counts
    found = dict(
        dispatches=sum(counts.values()),
        kernels=sum(n for func, n in counts.items() if is_kernel(func)),
    )

    def work():
        timed = run(skip + iterations - 1)
        return dict(found, watch=timed['watch'])

    yield from rounds(work, iterations)


def _narrowed(kind):
    """Patch a kind of layer to have a sixteenth of channels from 128 on."""
    make = kind.__init__

    @functools.wraps(make)
    def narrow(self, *args, **kwargs):
        def few(n):
            return n // 16 if type(n) is int and n >= 128 else n

        kwargs = {key: few(n) for key, n in kwargs.items()}
        make(self, *map(few, args), **kwargs)

    return mock.patch.object(kind, '__init__', narrow)


def _decided_on_device():
    """Patch the engine of O2 to undo steps as on an accelerator."""
    from benchmark.bundle import o2_engine

    always = property(lambda self: True, lambda self, value: None)
    return mock.patch.object(
        o2_engine(), 'selects_on_device', always, create=True
    )
