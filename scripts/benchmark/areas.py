"""What belongs to each area of the benchmark, at full and at small size.

An area is a function that adds to a :class:`Bench` what it measures; the
first line of its docstring is its help. For a new one, write it here, and
what it measures as cases, see :mod:`.case`.
"""

import os

from benchmark import bundle
from benchmark.counting import can_listen
from benchmark.measure import Subject
from benchmark.worker import start_group

GFLOP_PER_IMAGE = 193
"""Of one training image of the large network at 384x384, both passes."""

BOTH = dict(stock={}, ours={})
FORMS = {'stock': {}, 'ours, stock config': dict(stock_form=True), 'ours': {}}

# One thread in each process, for what is compared sample by sample.
ONE_THREAD = dict(OMP_NUM_THREADS='1')

AREAS = {}


def area(
    name, rounds=7, default=False, warm_up=True, trains=False, device=None
):
    """Register a function as an area.

    Args:
        name (str): Its name on the command line.
        rounds (int): How many count.
        default (bool): Whether it is measured where no area is named.
        warm_up (bool): Whether a round goes before. What is long warms itself
            up, and skips its first iterations.
        trains (bool): Whether it trains, which any device can.
        device (str | None): Kind of the device that it wants; on ``cuda``
            stock is measured beside it.
    """

    def register(function):
        function.rounds, function.default = rounds, default
        function.warm_up, function.device = warm_up, device
        function.trains = trains or device is not None
        AREAS[name] = function
        return function

    return register


class Bench:
    """What the areas share: sizes, data, the baseline and the processes.

    Args:
        folder (Path): An empty one, for logs.
        data (Path): A data set in MPII's form.
        small (bool): Small sizes, to see that everything runs.
        site (Path | None): What :func:`.stock.make` has made, if the
            baseline is measured, too.
        workers (int): Data workers of each training process.
        environment (dict): Variables of the processes that measure.
        device (str): Kind of the device that ours uses.

    Attributes:
        config (Path): Of the network, which is the large one at full size.
        subjects (list[Subject]): What is measured.
    """

    def __init__(
        self, folder, data, small, site, workers, environment, device='cpu'
    ):
        self.folder, self.data, self.small = folder, data, small
        self.site, self.workers = site, workers
        self.environment, self.device = environment, device
        self.config = bundle.SMALL if small else bundle.LARGE
        self.subjects, self._groups = [], {}

    def pick(self, full, small):
        """Return what fits the size of this run."""
        return small if self.small else full

    def add(self, what, case, forms, own=False, ranks=1, **options):
        """Add a case in several forms.

        Args:
            what (str): The quantity.
            case (str): See :func:`.case.start`.
            forms (dict[str, dict]): Options by variant. ``stock`` is left out
                where it is not measured, and gets the config that mmpose 0.8.0
                understands.
            own (bool): Whether each has processes of its own; else one process
                measures all of ours, and one all of stock.
            ranks (int): Processes of each, which form a group.
            **options: For all forms. ``override`` and ``stock_form`` are for
                :func:`.case.load_config`, others for the case.
        """
        for variant, form in forms.items():
            is_stock = variant == 'stock'
            if is_stock and self.site is None:
                continue
            given = dict(options, **form)
            source = dict(
                config=str(self.config),
                data=str(self.data),
                override=given.pop('override', None),
                stock_form=given.pop('stock_form', False) or is_stock,
            )
            name = (what, variant) if own else None
            group = self._group(is_stock, name, ranks)
            subject = Subject(what, variant, group, case, source, given)
            self.subjects.append(subject)

    def _group(self, is_stock, name, ranks):
        """Return the processes of that name; starts them the first time."""
        site = self.site if is_stock else None
        if (site, name) not in self._groups:
            logs = self.folder / f'worker{len(self._groups)}'
            self._groups[site, name] = start_group(
                ranks, site, logs, self.environment, self.device
            )
        return self._groups[site, name]

    def stop(self):
        """End all processes."""
        while self._groups:
            for worker in self._groups.popitem()[1]:
                worker.shutdown()


def low_precision(device='cpu', **form):
    """Return a form as ``ours, bf16``, where torch has it (from 1.10)."""
    import torch

    if device != 'cpu':
        return {'ours, fp16': form}
    # Before, there is no batch norm in bfloat16 on a CPU.
    return {'ours, bf16': form} if hasattr(torch, 'autocast') else {}


def quick_inference():
    """Return the forms of ``--fuse-conv-bn`` and ``--amp``."""
    forms = {'ours, folded': dict(fold=True)}
    for name, form in low_precision(amp=True).items():
        forms.update({name: form, f'{name}, folded': dict(form, fold=True)})
    return forms


@area('pipeline', default=True)
def pipeline(bench):
    """Input: samples, their steps, whole loaders, beside the floor."""
    bench.environment.update(ONE_THREAD)
    case, count = 'samples.sample', bench.pick(32, 2)
    cached = {
        f'{name}, cache': dict(form, cache='ram')
        for name, form in FORMS.items()
        if name != 'stock'
    }
    both = dict(FORMS, **cached)
    bench.add(
        'decode + one warp', 'samples.floor', dict(floor={}), count=count
    )
    bench.add('sample', case, both, count=count)
    for name, flip in {'flipped': 1.0, 'not flipped': 0.0}.items():
        bench.add(f'sample, {name}', case, FORMS, count=count, flip=flip)
    bench.add(
        'whole loader',
        'samples.loader',
        FORMS,
        batches=bench.pick(16, 2),
        batch=count,
        workers=bench.workers,
    )
    bench.add('steps', 'samples.steps', both, count=count)


@area('step', default=True)
def step(bench):
    """Training step without the network."""
    bench.add(
        'loss, accuracy, log values',
        'network.outside_network',
        BOTH,
        batch=bench.pick(32, 2),
        steps=bench.pick(4, 1),
    )


@area('host', rounds=5)
def host(bench):
    """What the host does in an iteration, counted and without arithmetic."""
    if not can_listen():
        raise bundle.UserError('area host: needs torch 1.13 or later')
    bench.config = bundle.LARGE
    bench.environment.update(ONE_THREAD)
    forms = {'stock': {}, 'ours, fp32': {}}
    for name, form in low_precision(
        override={'amp.enabled': True, 'amp.backend': 'native'}
    ).items():
        forms[name] = form
        forms[f'{name}, undone on the device'] = dict(form, on_device=True)
    # mmcv's own mixed precision goes from weight to weight, as Apex does.
    by_weight = {'amp': None, 'fp16': dict(loss_scale=512.0)}
    forms['stock, fp16 by weight'] = dict(override=by_weight)
    bench.add(
        'iteration',
        'host.iteration',
        forms,
        own=True,
        skip=2,
        iterations=bench.pick(10, 1),
    )


@area('eval', default=True)
def evaluation(bench):
    """Evaluation with flip test."""
    case = 'network.evaluation'
    # A batch for each core, which takes it alone.
    batch = bench.pick(2, 1)
    batches = {f'ours, batches of {batch}': dict(samples_per_gpu=batch)}
    forms = dict(BOTH, **batches)
    people = bench.pick(16, 2)
    what = 'person, without the network'
    bench.add(what, case, forms, people=people, network=False)
    forms.update(quick_inference())
    people = batch * len(os.sched_getaffinity(0))
    bench.add('person', case, forms, people=people, network=True)


@area('train', rounds=3, default=True, warm_up=False, trains=True)
def train(bench):
    """Training end to end on one device, fp32 and low precision."""
    bench.add(
        'image, fp32',
        'training.training',
        dict(
            BOTH,
            **low_precision(bench.device, override={'amp.enabled': True}),
        ),
        own=True,  # for the peak of memory
        batch=2,
        workers=bench.workers,
        skip=1,
        iterations=bench.pick(3, 1),
    )


@area('ranks', rounds=2, warm_up=False, trains=True)
def ranks(bench):
    """Training end to end in 1, 2, 4 and 8 processes."""
    bench.config = bundle.SMALL
    cores = len(os.sched_getaffinity(0))
    for count in bench.pick((1, 2, 4, 8), (1, 2)):
        threads = str(max(1, cores // count))
        bench.environment.update(
            OMP_NUM_THREADS=threads, OMP_WAIT_POLICY='PASSIVE'
        )
        bench.add(
            f'image, {count} rank' + 's' * (count > 1),
            'training.training',
            BOTH,
            own=True,
            ranks=count,
            batch=2,
            workers=bench.workers,
            skip=bench.pick(2, 1),
            iterations=bench.pick(6, 1),
        )


@area('epochs', rounds=3, warm_up=False)
def epochs(bench):
    """From the end of an epoch to the first batch of the next."""
    bench.config = bundle.SMALL
    bench.environment.update(ONE_THREAD)
    new = {'data.train_dataloader': dict(persistent_workers=False)}
    # It takes time to start what is spawned.
    for start in bench.pick(('forked', 'spawned'), ('forked',)):
        bench.add(
            f'next epoch, {start}',
            'training.next_epoch',
            dict(BOTH, **{'ours, new workers': dict(override=new)}),
            own=True,
            spawned=start == 'spawned',
            batch=bench.pick(8, 2),
            workers=max(bench.workers, 1),
            epochs=bench.pick(3, 2),
        )


@area('onnx', default=True)
def onnx(bench):
    """Inference in torch and in ONNX Runtime."""
    onnx = {'ours, onnxruntime': dict(onnx=True)}
    forms = dict({'ours': {}}, **quick_inference(), **onnx)
    bench.add('crop', 'network.inference', forms)


@area('cuda', rounds=2, warm_up=False, device='cuda')
def cuda(bench):
    """Training on a GPU, from JPEGs and from memory, with a profile."""
    _train_fast(bench)


@area('npu', rounds=2, warm_up=False, device='npu')
def npu(bench):
    """The same on an NPU, for which there is no stock."""
    _train_fast(bench)


def _train_fast(bench):
    """Add what an accelerator is measured by."""
    half = {'amp.enabled': True}
    in_turn = dict(half, device_prefetch=False)
    forms = {
        'stock': dict(override=dict(fp16=dict(loss_scale=512.0))),
        'ours': dict(override=half),
        'ours, copies in turn': dict(override=in_turn),
    }
    sizes = dict(
        own=True,
        batch=bench.pick(32, 2),
        workers=bench.workers,
        skip=bench.pick(10, 1),
        iterations=bench.pick(30, 1),
    )
    case = 'training.training'
    for place, in_memory in {'JPEGs': False, 'memory': True}.items():
        what = f'image, from {place}'
        bench.add(what, case, forms, in_memory=in_memory, **sizes)
    sizes.update(iterations=bench.pick(5, 1), in_memory=True, profile=True)
    ours = dict(ours=forms['ours'])
    bench.add('image, profiled', case, ours, **sizes)
    bench.add(
        'half matrix product',
        'training.arithmetic',
        {'arithmetic limit': {}},
        own=True,
        size=bench.pick(8192, 64),
        gflop=GFLOP_PER_IMAGE,
    )
