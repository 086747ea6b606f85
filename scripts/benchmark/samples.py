"""Cases of the input: the floor, single samples, whole loaders."""

import contextlib
import hashlib
import importlib.util
import time
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image

from benchmark import bundle
from benchmark.case import Watch, repeat, rounds

PARTS = {
    'cv2.imdecode': 'decode',
    'cv2.imread': 'decode',
    'simplejpeg.decode_jpeg': 'decode',
    'cv2.warpAffine': 'warp',
    'cv2.flip': 'mirrored copy',
    'mmpose.datasets.pipelines.top_down_transform'
    '.get_affine_transform': 'matrix',
    'ToTensor, NormalizeTensor': 'tensor',
    'ToPlanes': 'tensor',
    'TopDownGenerateTarget': 'target',
    'TopDownJointCells': 'target',
}
"""Parts of a sample's time, by function (dotted) and by step."""


class Account:
    """CPU time of this thread by what it was spent on.

    As a context manager it takes the time of the functions in :data:`PARTS`,
    from wherever they are called; that of steps is taken by :meth:`timed`.

    Args:
        by (str): ``part`` of :data:`PARTS`, or ``step`` of the pipeline.
    """

    def __init__(self, by):
        self.by = by
        self.spent = dict.fromkeys(PARTS.values() if by == 'part' else (), 0.0)

    def timed(self, part, function):
        """Return a function that also enters its time under a part."""

        def call(*args, **kwargs):
            before = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                used = time.thread_time() - before
                self.spent[part] = self.spent.get(part, 0.0) + used

        return call

    def timed_steps(self, steps):
        """Return the steps of :func:`joined`, timed where they are wanted."""
        names = (
            PARTS if self.by == 'part' else {name: name for name, _ in steps}
        )
        return [
            self.timed(names[name], step) if name in names else step
            for name, step in steps
        ]

    def __enter__(self):
        self._patches = contextlib.ExitStack()
        for name, part in PARTS.items() if self.by == 'part' else ():
            module, _, function = name.rpartition('.')
            if module and importlib.util.find_spec(module):
                owner = importlib.import_module(module)
                timed = self.timed(part, getattr(owner, function))
                patch = mock.patch.object(owner, function, timed)
                self._patches.enter_context(patch)
        self._before = time.thread_time()
        return self

    def __exit__(self, *_):
        total = time.thread_time() - self._before
        self._patches.close()
        self.spent['rest'] = total - sum(self.spent.values())

    def per(self, units):
        """Return the times of one unit; ``account`` has it in its parts."""
        parts = {part: spent / units for part, spent in self.spent.items()}
        total = sum(parts.values())
        return dict(wall=total, cpu=total, account=parts)


def joined(steps):
    """Name the steps of a pipeline, and join what is done in one go.

    Returns:
        list[tuple[str, callable]]: Names, and steps or chains of two.
    """
    from mmpose.datasets.pipelines import Compose

    named = []
    for step in steps:
        name = type(step).__name__
        if name == 'NormalizeTensor' and named[-1][0] == 'ToTensor':
            first, before = named.pop()
            name, step = f'{first}, {name}', Compose([before, step])
        named.append((name, step))
    return named


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


def _training_data(cfg, flip=None, cache=None):
    """Build the data set that a training reads.

    Args:
        cfg (mmcv.Config): The config; changed.
        flip (float): How many of the pictures to mirror; None as it says.
        cache (str): The loading step's ``cache``, filled before.

    Returns:
        Dataset: The data set.
    """
    from mmpose.datasets import build_dataset

    wanted = dict(
        TopDownRandomFlip=dict(flip_prob=flip),
        LoadImageFromFile=dict(cache=cache),
    )
    for step in cfg.data.train.pipeline:
        for key, value in wanted.get(step['type'], {}).items():
            if value is not None:
                step[key] = value
    dataset = bundle.prepared(build_dataset(cfg.data.train), cfg)
    for index in range(len(dataset)) if cache is not None else ():
        dataset[index]
    return dataset


def floor(cfg, count, middle=False, account=None):
    """Decode a file and warp it once: what no exact input can go below.

    Pictures and warps are those of the samples that the same seed makes, but
    for the mirroring. With ``middle`` the warps are all the same: they fill
    the crop with the middle of the picture, turned a little. ``account`` is
    for :class:`Account`.
    """
    from mmpose.core.post_processing import get_affine_transform

    cv2.setNumThreads(1)
    dataset = _training_data(cfg, flip=0.0)
    size = cfg.data_cfg.image_size
    name, decode = fast_decoder()

    def task(index):
        meta = dataset[index]['img_metas'].data
        path = meta['image_file']
        if not middle:
            where = meta['center'], meta['scale'], meta['rotation']
            return path, get_affine_transform(*where, np.array(size))
        with Image.open(path) as picture:
            columns, rows = picture.size
        centre = columns / 2, rows / 2
        return path, cv2.getRotationMatrix2D(centre, 20, size[0] / rows)

    def prepare(seed):
        return [task(i) for i in np.random.randint(0, len(dataset), count)]

    def work(tasks):
        for path, matrix in tasks:
            with open(path, 'rb') as file:
                picture = decode(file.read())
            cv2.warpAffine(picture, matrix, tuple(size))

    yield from rounds(
        work,
        count,
        dict(decoder=name),
        prepare,
        (lambda: Account(account)) if account else Watch,
    )


def _digest(samples):
    """Return a hash over the tensors of samples; None if they are bytes."""
    digest = hashlib.sha256()
    for sample in samples:
        if 'target' not in sample:
            return None
        for key in ('img', 'target', 'target_weight'):
            digest.update(np.ascontiguousarray(sample[key]).tobytes())
    return digest.hexdigest()


def sample(cfg, count, flip=None, cache=None, account=None):
    """Make samples one by one in this process, one thread.

    Args:
        cfg (mmcv.Config): The config.
        count (int): How many, in a round.
        flip (float): How many of them to mirror.
        cache (str): With all pictures in this cache of the loading step.
        account (str): Tells apart what the time is spent on, see
            :class:`Account`.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    dataset = _training_data(cfg, flip, cache)
    np.random.seed(0)
    first = _digest(dataset[i % len(dataset)] for i in range(8))
    steps = joined(dataset.pipeline.transforms)

    def watch():
        if account is None:
            return Watch()
        taken = Account(account)
        dataset.pipeline.transforms = taken.timed_steps(steps)
        return taken

    def prepare(seed):
        return np.random.randint(0, len(dataset), count)

    def work(chosen):
        for index in chosen:
            dataset[index]

    yield from rounds(work, count, dict(result=first), prepare, watch)


def loader(cfg, batches, batch, workers):
    """Load batches through worker processes, from their start to their end."""
    from mmpose.datasets import build_dataloader

    dataset = repeat(_training_data(cfg), batches * batch)
    settings = dict(
        samples_per_gpu=batch,
        workers_per_gpu=workers,
        dist=False,
        pin_memory=False,
    )
    settings.update(cfg.data.get('train_dataloader', {}))

    def work(seed):
        # Its workers end with it, and are counted when they have ended.
        for _ in build_dataloader(dataset, seed=seed, **settings):
            pass

    yield from rounds(work, batches * batch, prepare=lambda seed: seed)
