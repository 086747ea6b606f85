"""Cases of the input: the floor, single samples, whole loaders."""

import hashlib
import time

import cv2
import numpy as np
import torch

from benchmark import bundle
from benchmark.case import data_loader, repeat, rounds


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
    """Build the data set that a training reads, for one thread.

    ``flip`` is the share of pictures to mirror, in place of the config's;
    ``cache`` is the loading step's, filled before.
    """
    from mmpose.datasets import build_dataset

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for step in cfg.data.train.pipeline:
        if step['type'] == 'TopDownRandomFlip' and flip is not None:
            step['flip_prob'] = flip
        if step['type'] == 'LoadImageFromFile' and cache is not None:
            step['cache'] = cache
    dataset = build_dataset(cfg.data.train)
    for index in range(len(dataset)) if cache is not None else ():
        dataset[index]
    return dataset


def _choose(dataset, count):
    """Choose samples at random, the same ones for each mmpose."""
    return np.random.randint(0, len(dataset), count)


def floor(cfg, count):
    """Decode a file and warp it once: what no exact input can go below.

    Pictures and warps are those of the samples that the same seed makes, but
    for the mirroring.
    """
    from mmpose.core.post_processing import get_affine_transform

    dataset = _training_data(cfg, flip=0.0)
    size = cfg.data_cfg.image_size
    name, decode = fast_decoder()

    def prepare(seed):
        chosen = [dataset[index] for index in _choose(dataset, count)]
        tasks = []
        for meta in (sample['img_metas'].data for sample in chosen):
            where = meta['center'], meta['scale'], meta['rotation']
            matrix = get_affine_transform(*where, np.array(size))
            tasks.append((meta['image_file'], matrix))
        return tasks

    def work(tasks):
        for path, matrix in tasks:
            with open(path, 'rb') as file:
                picture = decode(file.read())
            cv2.warpAffine(picture, matrix, tuple(size))

    yield from rounds(work, count, dict(decoder=name), prepare)


def _digest(samples):
    """Return a hash over the tensors of samples; None if they are bytes."""
    digest = hashlib.sha256()
    for sample in samples:
        if 'target' not in sample:
            return None
        for key in ('img', 'target', 'target_weight'):
            digest.update(np.ascontiguousarray(sample[key]).tobytes())
    return digest.hexdigest()


def sample(cfg, count, flip=None, cache=None):
    """Make samples one by one in this process; ``result`` is their hash."""
    dataset = _training_data(cfg, flip, cache)
    np.random.seed(0)
    first = _digest(dataset[i % len(dataset)] for i in range(8))

    def work(chosen):
        for index in chosen:
            dataset[index]

    facts = dict(result=first)
    yield from rounds(work, count, facts, lambda _: _choose(dataset, count))


def steps(cfg, count, cache=None):
    """Make samples one by one and take the time of each step."""
    dataset = _training_data(cfg, cache=cache)
    named = _joined(dataset.pipeline.transforms)
    # The record alone, as the steps find it.
    dataset.pipeline = dict

    def work(chosen):
        spent = dict.fromkeys((name for name, _ in named), 0.0)
        for index in chosen:
            results = dataset[index]
            for name, step in named:
                # This thread's own: steps are too short to share a core.
                before = time.thread_time()
                results = step(results)
                spent[name] += (time.thread_time() - before) / count
        return dict(account=spent)

    yield from rounds(work, count, {}, lambda _: _choose(dataset, count))


def loader(cfg, batches, batch, workers):
    """Load batches through worker processes, from their start to their end."""
    dataset = repeat(_training_data(cfg), batches * batch)
    settings = cfg.data.get('train_dataloader', {})

    def work(seed):
        # Its workers end with it, and are counted when they have ended.
        batches = data_loader(dataset, batch, workers, seed=seed, **settings)
        bundle.feed_as_train_model(batches)
        for _ in batches:
            pass

    yield from rounds(work, batches * batch, prepare=lambda seed: seed)
