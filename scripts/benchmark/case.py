"""What all cases share: the config, the clock and the loop over rounds.

A case is a generator function, which is given a config and options. It
prepares itself and yields facts (a dict); then it is sent a seed for each
round and yields what it measured: ``wall`` and ``cpu``, seconds for one unit
of work, and what else it knows. ``result`` among the facts or in a round is
compared with stock's. The same seed gives the same work to every mmpose, which
is reached by public names only.
"""

import importlib
import resource
import time

import numpy as np
import torch

from benchmark.stock_form import to_stock_form


def start(name, source, options):
    """Make the generator of a case.

    Args:
        name (str): Module of this package and function: ``samples.floor``.
        source (dict): For :func:`load_config`.
        options (dict): For the case.
    """
    module, _, function = name.partition('.')
    case = getattr(importlib.import_module(f'benchmark.{module}'), function)
    return case(load_config(**source), **options)


def load_config(config, data, override=None, stock_form=False):
    """Read a config and point it at a data set.

    Args:
        config (str): Its path.
        data (str): Folder of a data set in MPII's form.
        override (dict): Values by dotted keys, in place of the config's.
        stock_form (bool): Whether to leave out what only the bundle knows.

    Returns:
        mmcv.Config: The config.
    """
    from mmcv import Config

    cfg = Config.fromfile(config)
    cfg.merge_from_dict(override or {})
    if stock_form:
        to_stock_form(cfg)
    for split, name in dict(train='train', val='val', test='val').items():
        cfg.data[split].ann_file = f'{data}/annotations/mpii_{name}.json'
        cfg.data[split].img_prefix = f'{data}/images/'
    return cfg


def repeat(dataset, count):
    """Let a data set have so many samples, its own again and again."""
    dataset.db = (dataset.db * count)[:count]
    return dataset


def data_loader(dataset, samples, workers=0, **settings):
    """Build the loader of batches of so many samples in one process."""
    from mmpose.datasets import build_dataloader

    return build_dataloader(
        dataset, samples, workers, dist=False, pin_memory=False, **settings
    )


def accelerator():
    """Return kind and module of the device in use: ``'npu', torch.npu``.

    Both are None where only the CPU is used.
    """
    for kind in ('npu', 'cuda'):
        module = getattr(torch, kind, None)
        if module is not None and module.is_initialized():
            return kind, module
    return None, None


class Watch:
    """Context manager that takes wall time and CPU time, and adds them up.

    The CPU time is that of all threads of this process, and of its child
    processes that have ended meanwhile. The device is waited for.
    """

    def __init__(self):
        self._taken = dict(wall=0.0, cpu=0.0)

    def _add(self, sign):
        module = accelerator()[1]
        if module is not None:
            module.synchronize()
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            used = resource.getrusage(who)
            self._taken['cpu'] += sign * (used.ru_utime + used.ru_stime)
        self._taken['wall'] += sign * time.perf_counter()

    def __enter__(self):
        self._add(-1)
        return self

    def __exit__(self, *_):
        self._add(1)

    def per(self, units):
        """Return the times of one unit."""
        return {name: taken / units for name, taken in self._taken.items()}


def rounds(work, units, facts=None, prepare=None):
    """Measure a piece of work, round after round: the body of a case.

    Args:
        work (callable): What is measured; may return a dict of findings, and
            in it the ``watch`` that took the time in place of this one's.
        units (float): Units of work in it.
        facts (dict): What to say before the first round.
        prepare (callable): Is given the seed; what it returns is given to
            ``work``. Its time does not count.
    """
    seed = yield facts or {}
    while True:
        np.random.seed(seed)
        torch.manual_seed(seed)
        given = [prepare(seed)] if prepare else []
        with Watch() as taken:
            found = work(*given) or {}
        taken = found.pop('watch', taken)
        seed = yield dict(found, **taken.per(units))
