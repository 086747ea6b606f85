"""What belongs to each area of the benchmark, at full and at small size."""

import os
from pathlib import Path

import torch

from benchmark import measure
from benchmark.measure import Subject, Worker

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'mmpose-master/configs/top_down/hourglass/mpii'
LARGE = CONFIGS / 'hourglass52_mpii_384x384.py'
SMALL = CONFIGS / 'hourglass_mpii_sample_96x96.py'

GFLOP_PER_IMAGE = 193
"""Of one training image of the large network at 384x384, both passes."""

# One thread in each process, for what is compared sample by sample.
ONE_THREAD = dict(OMP_NUM_THREADS='1')


class Bench:
    """What the areas share: sizes, data, the baseline and the workers.

    Args:
        folder (Path): An empty one, for logs.
        data (Path): A data set in MPII's form.
        small (bool): Small sizes, to see that everything runs.
        site (Path | None): What :func:`.stock.make` has made, if the
            baseline is measured, too.
        device (str): ``cpu`` or ``cuda``.
        workers (int): Data workers of each training process.
        config (Path): In place of the large network's.
    """

    def __init__(
        self,
        folder,
        data,
        small=False,
        site=None,
        device='cpu',
        workers=1,
        config=None,
    ):
        self.folder, self.data, self.small = folder, data, small
        self.device, self.workers = device, workers
        self.config = config or (SMALL if small else LARGE)
        self.site = site
        self._started = []

    def variants(self, **ours):
        """Return the options of what is compared, by name.

        Stock gets the config in the form that mmpose 0.8.0 understands.

        Args:
            **ours (dict): Options of ours, by name; none: the config as it
                is.
        """
        stock = dict(stock=dict(stock_form=True)) if self.site else {}
        return dict(stock, **(ours or dict(ours={})))

    def worker(self, variant, environment=None, **kwargs):
        """Start a process that measures stock or ours."""
        # What is measured on a CPU must not find a GPU.
        hidden = dict(CUDA_VISIBLE_DEVICES='') if self.device == 'cpu' else {}
        worker = Worker(
            self.site if variant == 'stock' else None,
            self.folder / f'worker{len(self._started)}.log',
            dict(hidden, **(environment or {})),
            **kwargs,
        )
        self._started.append(worker)
        return worker

    def stop(self):
        """End all processes."""
        while self._started:
            self._started.pop().stop()

    def source(self, **more):
        """Return the options that name config and data."""
        return dict(config=str(self.config), data=str(self.data), **more)


def has_bfloat16():
    """Tell whether torch has batch norm in bfloat16 on a CPU (from 1.10)."""
    return hasattr(torch, 'autocast')


def pipeline(bench):
    """The input: samples in one process, their steps, whole loaders."""
    count = 2 if bench.small else 32
    batch = 2 if bench.small else 32
    flips = {
        'sample': None,
        'sample, flipped': 1.0,
        'sample, not flipped': 0.0,
    }
    variants = bench.variants(
        **{'ours, stock config': dict(stock_form=True), 'ours': {}}
    )
    # The floor and all of ours are measured in one process.
    ours = [bench.worker('ours', ONE_THREAD)]
    stock = [bench.worker('stock', ONE_THREAD)] if bench.site else None
    subjects = []

    def add(what, variant, case, **options):
        group = stock if variant == 'stock' else ours
        subjects.append(
            Subject(what, variant, group, case, **bench.source(**options))
        )

    floor = dict(case='floor', count=count)
    add('decode + one warp', 'floor', **floor)
    add('decode + one warp', 'floor, middle', middle=True, **floor)
    add(measure.ACCOUNT, 'floor', account=True, **floor)
    for variant, form in variants.items():
        sample = dict(form, case='sample', count=count)
        for what, flip in flips.items():
            add(what, variant, flip=flip, **sample)
        add(measure.ACCOUNT, variant, account=True, **sample)
        if variant != 'stock':
            sample['cache'] = 'ram'
            add('sample', f'{variant}, cache', **sample)
            add(measure.ACCOUNT, f'{variant}, cache', account=True, **sample)
        add('steps together', variant, 'parts', count=count, **form)
        add(
            'whole loader',
            variant,
            'loader',
            batches=2 if bench.small else 16,
            batch=batch,
            workers=bench.workers,
            **form,
        )
    return subjects


def step(bench):
    """The training step without the network; the optimiser's step."""
    sizes = dict(batch=32, joints=16, size=96, steps=4)
    if bench.small:
        sizes = dict(batch=2, joints=16, size=24, steps=1)
    subjects = []
    for variant, form in bench.variants().items():
        workers = [bench.worker(variant)]
        subjects.append(
            Subject(
                'loss, accuracy, log values',
                variant,
                workers,
                'outside_network',
                device=bench.device,
                **sizes,
            )
        )
        subjects.append(
            Subject(
                'optimiser',
                variant,
                workers,
                'optimizer',
                **bench.source(steps=1, **form),
            )
        )
    return subjects


def evaluation(bench):
    """Testing with flip: what surrounds the network, and all of it."""
    subjects = []
    # A batch for each core, which takes it alone.
    batch = 1 if bench.small else 2
    people = batch * len(os.sched_getaffinity(0))
    ours = {
        'ours': {},
        f'ours, batches of {batch}': dict(samples_per_gpu=batch),
        'ours, folded': dict(fold=True),
    }
    if has_bfloat16():
        ours['ours, bf16'] = dict(amp=True)
        ours['ours, bf16, folded'] = dict(amp=True, fold=True)
    for variant, form in bench.variants(**ours).items():
        workers = [bench.worker(variant)]
        for what, network, count in (
            ('person, without the network', False, 2 if bench.small else 16),
            ('person', True, people),
        ):
            if not network and ('fold' in form or 'amp' in form):
                continue
            subjects.append(
                Subject(
                    what,
                    variant,
                    workers,
                    'evaluation',
                    **bench.source(
                        people=count,
                        network=network,
                        device=bench.device,
                        **form,
                    ),
                )
            )
    return subjects


def train(bench):
    """Training end to end on one device, fp32 and low precision."""
    sizes = dict(batch=2, workers=bench.workers, skip=1, iterations=3)
    if bench.small:
        sizes['iterations'] = 1
    subjects = [
        Subject(
            'image, fp32',
            variant,
            # A process each: its peak of memory is its own.
            [bench.worker(variant)],
            'training',
            **bench.source(**sizes, **form),
        )
        for variant, form in bench.variants().items()
    ]
    if has_bfloat16():
        subjects.append(
            Subject(
                'image, fp32',
                'ours, bf16',
                [bench.worker('ours')],
                'training',
                **bench.source(amp=True, **sizes),
            )
        )
    return subjects


def ranks(bench):
    """Training end to end in several processes of this machine."""
    bench.config = SMALL
    counts = (1, 2) if bench.small else (1, 2, 4, 8)
    sizes = dict(batch=2, workers=bench.workers, skip=2, iterations=6)
    if bench.small:
        sizes.update(skip=1, iterations=1)
    cores = len(os.sched_getaffinity(0))
    subjects = []
    for count in counts:
        threads = dict(
            OMP_NUM_THREADS=str(max(1, cores // count)),
            OMP_WAIT_POLICY='PASSIVE',
        )
        for variant, form in bench.variants().items():
            group = [bench.worker(variant, threads) for _ in range(count)]
            if count > 1:
                measure.form_group(group)
            subjects.append(
                Subject(
                    f'image, {count} rank' + 's' * (count > 1),
                    variant,
                    group,
                    'training',
                    **bench.source(**sizes, **form),
                )
            )
    return subjects


def epochs(bench):
    """The time between two epochs, by what becomes of the data workers."""
    bench.config = SMALL
    sizes = dict(batch=8, workers=max(bench.workers, 1), epochs=3)
    if bench.small:
        sizes.update(batch=2, epochs=2)
    new = {'data.train_dataloader': dict(persistent_workers=False)}
    variants = bench.variants(
        **{'ours': {}, 'ours, new workers': dict(options=new)}
    )
    return [
        Subject(
            f'next epoch, {start}',
            variant,
            [bench.worker(variant, ONE_THREAD)],
            'next_epoch',
            **bench.source(spawned=start == 'spawned', **sizes, **form),
        )
        # It takes time to start the latter.
        for start in ('forked', 'spawned')[: 1 if bench.small else 2]
        for variant, form in variants.items()
    ]


def onnx(bench):
    """Inference of one crop: torch, and what was exported from it."""
    workers = [bench.worker('ours')]
    engines = ['torch', 'torch, folded', 'onnxruntime']
    if has_bfloat16():
        engines[2:2] = ['torch, bf16', 'torch, bf16, folded']
    return [
        Subject(
            'crop',
            'ours, ' + engine,
            workers,
            'inference',
            **bench.source(engine=engine),
        )
        for engine in engines
    ]


def cuda(bench):
    """Training on a GPU in batches of 32, from files and from memory."""
    sizes = dict(
        batch=32,
        workers=bench.workers,
        skip=10,
        iterations=30,
        device=bench.device,
    )
    if bench.small:
        sizes.update(batch=2, skip=1, iterations=1)
    variants = bench.variants(
        **{
            'ours': {},
            'ours, copies in turn': dict(options=dict(device_prefetch=False)),
        }
    )
    subjects = []
    for what, in_memory in (
        ('image, from JPEGs', False),
        ('image, from memory', True),
    ):
        for variant, form in variants.items():
            precision = dict(form, amp=True)
            if variant == 'stock':
                precision = dict(form, fp16=dict(loss_scale=512.0))
            subjects.append(
                Subject(
                    what,
                    variant,
                    [bench.worker(variant)],
                    'training',
                    **bench.source(in_memory=in_memory, **precision, **sizes),
                )
            )
    sizes['iterations'] = min(sizes['iterations'], 5)
    subjects.append(
        Subject(
            'image, profiled',
            'ours',
            [bench.worker('ours')],
            'training',
            **bench.source(in_memory=True, amp=True, profile=True, **sizes),
        )
    )
    subjects.append(
        Subject(
            'arithmetic limit',
            'half matrix product',
            [bench.worker('ours')],
            'arithmetic',
            size=64 if bench.small else 8192,
            gflop=GFLOP_PER_IMAGE,
            device=bench.device,
        )
    )
    return subjects


AREAS = dict(
    pipeline=pipeline,
    step=step,
    eval=evaluation,
    train=train,
    ranks=ranks,
    epochs=epochs,
    onnx=onnx,
    cuda=cuda,
)
ROUNDS = dict(train=3, ranks=2, epochs=3, cuda=2)
"""Rounds of the areas that are slow; others have seven."""
