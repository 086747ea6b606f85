"""What can be measured, by public names of mmcv and mmpose only.

A case is a generator. It prepares itself and yields facts about it (a dict);
after that it is sent a seed for each round and yields what it measured in
it: ``wall`` and ``cpu``, seconds for one unit of work, and what else it
knows. The same seed gives the same work to every mmpose.
"""

import contextlib
import copy
import gc
import hashlib
import inspect
import os
import resource
import tempfile
import time
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image

from benchmark.stock_form import to_stock_form

CASES = {}


def case(function):
    """Register a generator function as a case."""
    CASES[function.__name__] = function
    return function


class Watch:
    """Context manager that takes wall time and CPU time.

    The CPU time is that of all threads of this process, and of its child
    processes that have ended meanwhile.
    """

    @staticmethod
    def _cpu():
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(
                resource.getrusage,
                (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN),
            )
        )

    def __enter__(self):
        self._cpu_before = self._cpu()
        self._before = time.perf_counter()
        return self

    def __exit__(self, *_):
        self._wall = time.perf_counter() - self._before
        self._cpu_used = self._cpu() - self._cpu_before

    def per(self, units):
        """Return the times of one unit."""
        return dict(wall=self._wall / units, cpu=self._cpu_used / units)


def peak_memory():
    """Return the largest memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load_config(path, data, options=None, stock_form=False):
    """Read a config and point it at a data set.

    Args:
        path (str): The config.
        data (str): Folder of a data set in MPII's form.
        options (dict): Values by dotted keys, in place of the config's.
        stock_form (bool): Whether to leave out what only the bundle knows:
            the input that leaves work to the model.

    Returns:
        mmcv.Config: The config.
    """
    from mmcv import Config

    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    if stock_form:
        to_stock_form(cfg)
    for split in ('train', 'val', 'test'):
        name = 'train' if split == 'train' else 'val'
        cfg.data[split].ann_file = f'{data}/annotations/mpii_{name}.json'
        cfg.data[split].img_prefix = f'{data}/images/'
    return cfg


# Input ------------------------------------------------------------------


def _train_dataset(cfg):
    """Build the training data as ``train_model`` will read them."""
    from mmpose.datasets import build_dataset

    return build_dataset(cfg.data.train)


def fast_decoder():
    """Return the fastest JPEG decoder that is here, and its name."""
    try:
        import simplejpeg
    except ImportError:
        return 'OpenCV', lambda data: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR
        )
    return 'simplejpeg', lambda data: simplejpeg.decode_jpeg(
        data, colorspace='BGR'
    )


STEPS = {
    'ToTensor, NormalizeTensor': 'tensor',
    'ToPlanes': 'tensor',
    'TopDownGenerateTarget': 'target',
    'TopDownJointCells': 'target',
}
"""Steps that are a part of an :class:`Account`."""


class Account:
    """CPU time of this thread by what it was spent on.

    As a context manager it takes the time of calls of libraries, whoever
    makes them; that of steps is taken by :meth:`timed`.
    """

    PARTS = 'decode', 'warp', 'mirrored copy', 'matrix', 'tensor', 'target'

    def __init__(self):
        self.spent = dict.fromkeys(self.PARTS, 0.0)

    def timed(self, part, function):
        """Return a function that also enters its time under a part."""

        def call(*args, **kwargs):
            before = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += time.thread_time() - before

        return call

    def __enter__(self):
        from mmpose.datasets.pipelines import top_down_transform

        functions = [
            ('decode', cv2, 'imdecode'),
            ('decode', cv2, 'imread'),
            ('warp', cv2, 'warpAffine'),
            ('mirrored copy', cv2, 'flip'),
            ('matrix', top_down_transform, 'get_affine_transform'),
        ]
        with contextlib.suppress(ImportError):
            import simplejpeg

            functions.append(('decode', simplejpeg, 'decode_jpeg'))
        self._patches = contextlib.ExitStack()
        for part, module, name in functions:
            timed = self.timed(part, getattr(module, name))
            self._patches.enter_context(mock.patch.object(module, name, timed))
        self._before = time.thread_time()

    def __exit__(self, *_):
        total = time.thread_time() - self._before
        self._patches.close()
        self.spent['rest'] = total - sum(self.spent.values())

    def per(self, units):
        """Return the times of one unit; ``account`` has it by part."""
        parts = {part: spent / units for part, spent in self.spent.items()}
        total = sum(parts.values())
        return dict(wall=total, cpu=total, account=parts)


def _joined(steps):
    """Name the steps of a pipeline, and join what is done in one go.

    Returns:
        list[tuple[str, callable]]: Names, and steps or chains of two.
    """
    from mmpose.datasets.pipelines import Compose

    named = []
    for step in steps:
        name = type(step).__name__
        if name == 'NormalizeTensor' and named[-1][0] == 'ToTensor':
            before = named.pop()
            name, step = f'{before[0]}, {name}', Compose([before[1], step])
        named.append((name, step))
    return named


@case
def floor(
    config,
    data,
    count,
    options=None,
    stock_form=False,
    middle=False,
    account=False,
):
    """Decode a file and warp it once: what no exact input can go below.

    Pictures and warps are those of the samples that the same seed makes, but
    for the mirroring. With ``middle`` the warps are all the same: they fill
    the crop with the middle of the picture, turned a little.
    """
    from mmpose.core.post_processing import get_affine_transform

    cv2.setNumThreads(1)
    cfg = load_config(config, data, options, stock_form)
    _mirror(cfg, 0.0)
    dataset = _train_dataset(cfg)
    size = cfg.data_cfg.image_size
    name, decode = fast_decoder()

    def work(index):
        meta = dataset[index]['img_metas'].data
        path = meta['image_file']
        if not middle:
            where = meta['center'], meta['scale'], meta['rotation']
            return path, get_affine_transform(*where, np.array(size))
        with Image.open(path) as picture:
            columns, rows = picture.size
        matrix = cv2.getRotationMatrix2D(
            (columns / 2, rows / 2), 20, size[0] / rows
        )
        return path, matrix

    seed = yield dict(decoder=name)
    while True:
        np.random.seed(seed)
        chosen = np.random.randint(0, len(dataset), count)
        todo = [work(index) for index in chosen]
        watch = Account() if account else Watch()
        with watch:
            for path, matrix in todo:
                with open(path, 'rb') as file:
                    picture = decode(file.read())
                cv2.warpAffine(picture, matrix, tuple(size))
        seed = yield watch.per(count)


def _digest(samples):
    """Return a hash over the tensors of samples; None if they are bytes."""
    digest = hashlib.sha256()
    for sample in samples:
        if 'target' not in sample:
            return None
        for key in ('img', 'target', 'target_weight'):
            digest.update(np.ascontiguousarray(sample[key]).tobytes())
    return digest.hexdigest()


def _mirror(cfg, probability):
    """Let a config mirror its training pictures that often."""
    for step in cfg.data.train.pipeline:
        if step['type'] == 'TopDownRandomFlip':
            step['flip_prob'] = probability


@case
def sample(
    config,
    data,
    count,
    options=None,
    stock_form=False,
    flip=None,
    cache=None,
    account=False,
):
    """Make samples one by one in this process, one thread.

    Also says a hash of what it made in the first round (``digest``). With a
    ``cache`` all pictures are in it before. With ``account`` it says what the
    time was spent on.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cfg = load_config(config, data, options, stock_form)
    if flip is not None:
        _mirror(cfg, flip)
    if cache is not None:
        cfg.data.train.pipeline[0]['cache'] = cache
    dataset = _train_dataset(cfg)
    if cache is not None:
        for index in range(len(dataset)):
            dataset[index]
    np.random.seed(0)
    facts = dict(digest=_digest(dataset[i % len(dataset)] for i in range(8)))
    named = _joined(dataset.pipeline.transforms)
    seed = yield facts
    while True:
        np.random.seed(seed)
        chosen = np.random.randint(0, len(dataset), count)
        watch = Watch()
        if account:
            watch = Account()
            dataset.pipeline.transforms = [
                watch.timed(STEPS[name], step) if name in STEPS else step
                for name, step in named
            ]
        with watch:
            for index in chosen:
                dataset[index]
        seed = yield watch.per(count)


@case
def parts(config, data, count, options=None, stock_form=False):
    """Make samples one by one and take the time of each step."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cfg = load_config(config, data, options, stock_form)
    dataset = _train_dataset(cfg)
    names, steps = zip(*_joined(dataset.pipeline.transforms))
    # The record alone, as the steps find it.
    dataset.pipeline = dict
    seed = yield dict()
    while True:
        np.random.seed(seed)
        spent = np.zeros(len(steps))
        for index in np.random.randint(0, len(dataset), count):
            results = dataset[index]
            for i, step in enumerate(steps):
                # This thread's own: steps are too short to share a core.
                before = time.thread_time()
                results = step(results)
                spent[i] += time.thread_time() - before
        spent /= count
        seed = yield dict(
            wall=spent.sum(), cpu=spent.sum(), parts=dict(zip(names, spent))
        )


@case
def loader(
    config, data, batches, batch, workers, options=None, stock_form=False
):
    """Load batches through worker processes, from their start to their end."""
    from mmpose.datasets import build_dataloader

    cfg = load_config(config, data, options, stock_form)
    dataset = _train_dataset(cfg)
    dataset.db = (dataset.db * batches * batch)[: batches * batch]
    settings = dict(
        samples_per_gpu=batch,
        workers_per_gpu=workers,
        dist=False,
        pin_memory=False,
    )
    settings.update(cfg.data.get('train_dataloader', {}))
    seed = yield dict()
    while True:
        torch.manual_seed(seed)
        with Watch() as watch:
            batches_of = build_dataloader(dataset, seed=seed, **settings)
            for _ in batches_of:
                pass
            # Children are counted when they have ended.
            del batches_of, _
        seed = yield watch.per(batches * batch)


# Step -------------------------------------------------------------------


def _heatmap_model(shape, test_cfg=None):
    """Build a detector whose network returns heatmaps that it holds."""
    from mmpose.models import build_posenet
    from mmpose.models.builder import BACKBONES

    class BenchHeatmaps(torch.nn.Module):
        def __init__(self, shape):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            maps = torch.rand(shape, generator=generator)
            self.maps = torch.nn.Parameter(maps)

        def init_weights(self, pretrained=None):
            pass

        def forward(self, img):
            if len(img) == len(self.maps):
                return [self.maps * 1]
            return [self.maps[:1].expand(len(img), -1, -1, -1) * 1]

    BACKBONES.register_module(module=BenchHeatmaps, force=True)
    return build_posenet(
        dict(
            type='TopDown',
            backbone=dict(type='BenchHeatmaps', shape=shape),
            keypoint_head=None,
            train_cfg=dict(),
            test_cfg=test_cfg or dict(),
            loss_pose=dict(type='JointsMSELoss', use_target_weight=True),
        )
    )


@case
def outside_network(batch, joints, size, steps, device='cpu'):
    """Run train_step and backward of all that is not the network.

    That is the loss, the accuracy of the log and the log's values, read
    after the last of ``steps`` steps as a log that is due.
    """
    from benchmark.counting import HostReads, count_operators

    shape = (batch, joints, size, size)
    model = _heatmap_model(shape).to(device)
    generator = torch.Generator().manual_seed(1)
    inputs = dict(
        img=torch.zeros(batch, 3, 4, 4),
        target=torch.rand(shape, generator=generator),
        target_weight=torch.ones(batch, joints, 1),
    )
    inputs = {key: value.to(device) for key, value in inputs.items()}
    inputs['img_metas'] = [dict() for _ in range(batch)]

    def step():
        model.zero_grad()
        outputs = model.train_step(inputs, None)
        outputs['loss'].backward()
        return outputs

    with HostReads() as reads:
        outputs = step()
    facts = dict(
        operators=count_operators(step),
        host_reads=len(reads.names),
        host_bytes=reads.bytes,
        loss=float(outputs['loss']),
        accuracy=float(outputs['log_vars']['acc_pose']),
    )
    yield facts
    while True:
        with Watch() as watch:
            for _ in range(steps):
                outputs = step()
            {k: float(v) for k, v in outputs['log_vars'].items()}
        yield watch.per(steps)


@case
def optimizer(config, data, steps, options=None, stock_form=False):
    """Let the config's optimiser step over the weights of its network."""
    from mmpose.core import build_optimizers
    from mmpose.models import build_posenet

    cfg = load_config(config, data, options, stock_form)
    model = build_posenet(cfg.model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimiser = build_optimizers(model, cfg.optimizer)
    optimiser.step()
    total = sum(p.numel() for p in model.parameters())
    yield dict(parameters=total)
    while True:
        with Watch() as watch:
            for _ in range(steps):
                optimiser.step()
        yield watch.per(steps)


# Evaluation -------------------------------------------------------------


@case
def evaluation(
    config,
    data,
    people,
    options=None,
    stock_form=False,
    network=True,
    samples_per_gpu=1,
    workers=0,
    device='cpu',
    fold=False,
    amp=False,
):
    """Test people with flip, from their pictures to joints in the picture.

    Without ``network`` ready heatmaps take the place of its output.
    """
    from mmcv.parallel import MMDataParallel
    from mmpose.apis import single_gpu_test
    from mmpose.datasets import build_dataloader, build_dataset
    from mmpose.models import build_posenet

    cfg = load_config(config, data, options, stock_form)
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    dataset.db = (dataset.db * people)[:people]
    torch.manual_seed(0)
    if network:
        model = build_posenet(cfg.model)
    else:
        width, height = cfg.data_cfg.heatmap_size
        model = _heatmap_model((1, 16, height, width), cfg.model.test_cfg)
    ids = None if device == 'cpu' else [0]
    _quicken(model.to(device).eval(), fold, amp)
    model = MMDataParallel(model, device_ids=ids)
    people_of = build_dataloader(
        dataset,
        samples_per_gpu=samples_per_gpu,
        workers_per_gpu=workers,
        dist=False,
        shuffle=False,
        drop_last=False,
        pin_memory=False,
    )
    yield dict()
    while True:
        with Watch() as watch:
            results = single_gpu_test(model, people_of)
        joints = np.concatenate([one[0] for one in results])
        yield dict(
            watch.per(people),
            # Rounded: batches change the last bits of a convolution.
            joints=joints[:2, :, :2].round(2).tolist(),
        )


def _quicken(model, fold, amp):
    """Fold batch norm and cast to low precision, as tools/test.py does."""
    if fold:
        from mmcv.cnn import fuse_conv_bn

        fuse_conv_bn(model)
    if amp:
        from hourglass_npu.o2.casting import cast_for_inference

        cast_for_inference(model)


@case
def inference(
    config, data, options=None, stock_form=False, engine='torch', count=1
):
    """Run the network on one crop, in torch or in ONNX Runtime."""
    from mmpose.models import build_posenet

    cfg = load_config(config, data, options, stock_form)
    torch.manual_seed(0)
    model = build_posenet(cfg.model).eval()
    width, height = cfg.data_cfg.image_size
    img = torch.rand(1, 3, height, width)

    def network(img):
        return model.keypoint_head(model.backbone(img))[-1]

    with contextlib.ExitStack() as stack:
        if engine == 'onnxruntime':
            import onnxruntime

            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = os.path.join(folder, 'network.onnx')
            _export(model, img, path)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(
                path, settings, providers=['CPUExecutionProvider']
            )
            feed = {session.get_inputs()[0].name: img.numpy()}

            def infer():
                return session.run(None, feed)
        else:
            stack.enter_context(torch.no_grad())
            _quicken(model, 'folded' in engine, 'bf16' in engine)

            def infer():
                return network(img)

        infer()
        yield dict()
        while True:
            with Watch() as watch:
                for _ in range(count):
                    infer()
            yield watch.per(count)


def _export(model, img, path):
    """Write the network's inference as ONNX, opset 11."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, img):
            return self.model.keypoint_head(self.model.backbone(img))[-1]

    # Today's default is an exporter that cannot write opset 11.
    known = inspect.signature(torch.onnx.export).parameters
    legacy = dict(dynamo=False) if 'dynamo' in known else {}
    torch.onnx.export(
        Network().eval(),
        img,
        path,
        opset_version=11,
        input_names=['img'],
        output_names=['heatmap'],
        **legacy,
    )


# Training ---------------------------------------------------------------


class Finished(Exception):
    """Enough iterations have been measured."""


def _make_clock(skip, iterations, device):
    """Register a hook that takes the time and ends the run.

    It comes into the run as a logger, which is the one place where a config
    of mmpose 0.8.0 can name a hook.
    """
    from mmcv.runner import HOOKS, Hook

    class BenchClock(Hook):
        watch = None

        def __init__(self, interval=1):
            BenchClock.watch = Watch()
            self.done = 0

        def after_train_iter(self, runner):
            self.done += 1
            if self.done in (skip, skip + iterations) and device != 'cpu':
                torch.cuda.synchronize()
            if self.done == skip:
                self.watch.__enter__()
            elif self.done == skip + iterations:
                self.watch.__exit__()
                raise Finished

    HOOKS.register_module(module=BenchClock, force=True)
    return BenchClock


def _training_config(config, data, batch, workers, clock, options, stock_form):
    """Return a config of a training that saves nothing and has a clock."""
    cfg = load_config(config, data, options, stock_form)
    cfg.data.samples_per_gpu = batch
    cfg.data.workers_per_gpu = workers
    cfg.gpu_ids = [0]
    cfg.seed = 0
    cfg.resume_from = cfg.load_from = cfg.checkpoint_config = None
    cfg.log_config = dict(interval=50, hooks=[dict(type=clock.__name__)])
    return cfg


def _cast_input(model):
    """Give a half network half pictures: mmpose's fp16 leaves them fp32."""

    def cast(module, inputs):
        dtype = next(module.parameters()).dtype
        return tuple(value.to(dtype) for value in inputs)

    model.backbone.register_forward_pre_hook(cast)


@case
def training(
    config,
    data,
    batch,
    workers,
    skip,
    iterations,
    options=None,
    stock_form=False,
    amp=False,
    fp16=None,
    device='cpu',
    in_memory=False,
    profile=False,
):
    """Train with ``train_model``, from files to weights; each round afresh.

    Several workers that have joined each other train together. With
    ``in_memory`` one batch serves for all iterations. The first ``skip``
    iterations of a round are not counted.
    """
    from mmpose.apis import train_model
    from mmpose.datasets import build_dataset
    from mmpose.models import build_posenet

    ranks = 1
    if torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
    clock = _make_clock(skip, iterations, device)
    cfg = _training_config(
        config, data, batch, workers, clock, options, stock_form
    )
    if amp:
        cfg.amp = dict(cfg.get('amp') or {}, enabled=True)
    if fp16:
        cfg.fp16 = fp16
    dataset = build_dataset(cfg.data.train)
    needed = batch * ranks * (skip + iterations)
    dataset.db = (dataset.db * needed)[:needed]
    if in_memory:
        dataset = _Remembered(dataset, batch)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        seed = yield dict()
        while True:
            # A casting model is a ring of references, and its last round's
            # would count in the peak of memory.
            gc.collect()
            torch.manual_seed(seed)
            np.random.seed(seed)
            model = build_posenet(cfg.model)
            if fp16:
                _cast_input(model)
            with _profiled(profile) as found:
                try:
                    # A copy: mmcv takes keys out of what it is given.
                    train_model(
                        model,
                        dataset,
                        copy.deepcopy(cfg),
                        distributed=ranks > 1,
                    )
                except Finished:
                    pass
            del model
            result = clock.watch.per(batch * ranks * iterations)
            result['memory'] = peak_memory()
            if device != 'cpu':
                result['memory'] = torch.cuda.max_memory_allocated() / 2**20
            result.update(found)
            seed = yield result


def _make_gap_clock():
    """Register a hook that takes the time between epochs."""
    from mmcv.runner import HOOKS, Hook

    class BenchGaps(Hook):
        watches = []

        def __init__(self, interval=1):
            self.watches.clear()

        def after_train_iter(self, runner):
            if runner.inner_iter + 1 == len(runner.data_loader):
                self.watches.append(Watch())
                self.watches[-1].__enter__()

        def before_train_iter(self, runner):
            if runner.epoch and not runner.inner_iter:
                self.watches[-1].__exit__()

    HOOKS.register_module(module=BenchGaps, force=True)
    return BenchGaps


@case
def next_epoch(
    config,
    data,
    batch,
    workers,
    epochs,
    spawned=False,
    options=None,
    stock_form=False,
):
    """Train with ``train_model`` and take the time between two epochs.

    From the end of an epoch's last iteration until the first batch of the
    next is there. The CPU time is that of this process, and of workers that
    ended in that time. ``spawned`` starts workers as under a launcher.
    """
    from mmpose.apis import train_model
    from mmpose.datasets import build_dataset
    from mmpose.models import build_posenet

    if spawned:
        torch.multiprocessing.set_start_method('spawn', force=True)
    clock = _make_gap_clock()
    cfg = _training_config(
        config, data, batch, workers, clock, options, stock_form
    )
    cfg.total_epochs = epochs
    dataset = build_dataset(cfg.data.train)
    needed = batch * workers
    dataset.db = (dataset.db * needed)[:needed]
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        seed = yield dict()
        while True:
            torch.manual_seed(seed)
            np.random.seed(seed)
            model = build_posenet(cfg.model)
            train_model(model, dataset, copy.deepcopy(cfg))
            gaps = [watch.per(1) for watch in clock.watches[: epochs - 1]]
            seed = yield {
                name: float(np.mean([gap[name] for gap in gaps]))
                for name in ('wall', 'cpu')
            }


class _Remembered(torch.utils.data.Dataset):
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


@contextlib.contextmanager
def _profiled(wanted):
    """Profile what runs inside; adds the dearest operators afterwards."""
    found = {}
    if not wanted:
        yield found
        return
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        yield found

    def own_time(event):
        for name in ('self_device_time_total', 'self_cuda_time_total'):
            if torch.cuda.is_available() and hasattr(event, name):
                return getattr(event, name)
        return event.self_cpu_time_total

    averages = sorted(profiler.key_averages(), key=own_time, reverse=True)
    total = sum(map(own_time, averages)) or 1
    found['profile'] = [
        [event.key, event.count, own_time(event) / total]
        for event in averages[:15]
    ]


@case
def arithmetic(size, gflop, device='cpu'):
    """Multiply half matrices: the speed that no network goes above.

    A unit of work is as much arithmetic as ``gflop`` says.
    """
    dtype = torch.float32 if device == 'cpu' else torch.float16
    left, right = torch.rand(2, size, size, device=device, dtype=dtype)
    repeats = 1 if device == 'cpu' else 50

    def wait():
        if device != 'cpu':
            torch.cuda.synchronize()

    wait()
    yield dict()
    while True:
        with Watch() as watch:
            for _ in range(repeats):
                left @ right
            wait()
        yield watch.per(repeats * 2e-9 * size**3 / gflop)


@case
def clocked_step(
    gradients,
    layers,
    forward,
    backward,
    bucket,
    overlap=True,
    compression=None,
):
    """Step in a process group with a clock in place of the device.

    Each layer's passes take their share of ``forward`` and ``backward``
    seconds without using a core, as those on a device do; its gradient is
    real, and so is its way through DDP.

    Args:
        gradients (int): Bytes of all gradients.
        layers (int): Number of layers, of equal size.
        forward (float): Seconds of the forward pass.
        backward (float): Seconds of the backward pass.
        bucket (int): Bytes of DDP's buckets.
        overlap (bool): Let DDP reduce during the backward pass; else in one
            go after it.
        compression (str | None): ``fp16`` or ``bf16``; with overlap.
    """
    from mmcv.parallel.distributed import compress_gradients
    from torch.distributed import is_initialized
    from torch.nn.parallel import DistributedDataParallel

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, weight):
            time.sleep(forward / layers)
            ctx.size = weight.shape
            return value * 1

        @staticmethod
        def backward(ctx, grad):
            time.sleep(backward / layers)
            return grad, grad.new_ones(ctx.size)

    class Clocked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            size = gradients // 4 // layers
            self.weights = torch.nn.ParameterList(
                [torch.nn.Parameter(torch.zeros(size)) for _ in range(layers)]
            )

        def forward(self, value):
            for weight in self.weights:
                value = Layer.apply(value, weight)
            return value

    torch.set_num_threads(1)
    model = bare = Clocked()
    if is_initialized() and overlap:
        model = DistributedDataParallel(
            bare,
            bucket_cap_mb=bucket / 2**20,
            gradient_as_bucket_view=True,
        )
        if compression is not None:
            compress_gradients(model, compression)
    value = torch.zeros(1, requires_grad=True)

    def step():
        bare.zero_grad()
        model(value).sum().backward()
        if is_initialized() and not overlap:
            flat = torch.cat([w.grad for w in bare.weights])
            torch.distributed.all_reduce(flat)

    # DDP makes its buckets anew after the first step.
    step()
    step()
    yield dict()
    while True:
        with Watch() as watch:
            step()
        yield watch.per(1)
