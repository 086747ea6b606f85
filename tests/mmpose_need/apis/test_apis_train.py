import copy
import hashlib
import json
import multiprocessing
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmcv import Config
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner import Hook
from mmcv.runner.dist_utils import get_dist_info
from mmpose import apis
from mmpose.apis import train as apis_train
from mmpose.apis import train_model
from mmpose.datasets import build_dataset
from mmpose.models import build_posenet
from mmpose.utils import get_root_logger
from mpii_data import make_tiny_config

from hourglass_npu.errors import UserError
from hourglass_npu.training import ranks as rank_hooks

pytestmark = pytest.mark.training


@pytest.fixture
def cfg(tmp_path):
    """The tiny network on six people, in pairs."""
    return make_tiny_config(tmp_path)


def train(cfg, function=train_model, **kwargs):
    """Train from a fixed start; returns the bare model."""
    import numpy as np

    # The released function would log to a file that is named by the level.
    get_root_logger()
    cfg = copy.deepcopy(cfg)
    torch.manual_seed(0)
    np.random.seed(0)
    model = build_posenet(cfg.model)
    # The released file wants the model on a GPU, whatever there is.
    model.cuda = lambda *args: model
    function(model, [build_dataset(cfg.data.train)], cfg, **kwargs)
    del model.cuda
    return model


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    return all(torch.equal(a[key], b[key]) for key in a)


class Losses(Hook):
    """Keep the loss of each iteration, to the bit."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner):
        self.seen.append(float(runner.outputs['loss']).hex())


def with_stock_pipeline(cfg):
    """Return the config without what the bundle adds to mmpose."""
    # Not above: a rank that imports this file does without scripts/.
    from benchmark.stock_form import to_stock_form

    cfg = Config(copy.deepcopy(dict(cfg._cfg_dict)))
    to_stock_form(cfg)
    steps = [step['type'] for step in cfg.data.train.pipeline]
    assert steps[-4:] == [
        *('ToTensor', 'NormalizeTensor', 'TopDownGenerateTarget', 'Collect')
    ]
    return cfg


@pytest.mark.parametrize('workers', [0, 2])
def test_training_is_bitwise_that_of_the_stock_function(cfg, stock, workers):
    # Three batches for two workers, so that they do not come out even.
    cfg.data.workers_per_gpu = workers
    cfg.total_epochs = 3
    theirs = stock('mmpose', 'apis/train.py').train_model
    start = torch.manual_seed(0) and build_posenet(cfg.model)
    known = with_stock_pipeline(cfg)
    known.frozen_parameters = []
    known.checkpoint_config.pop('interval_minutes', None)
    expected = train(known, theirs)
    ours = train(cfg)
    assert not same(expected, start)
    assert same(expected, ours)
    if workers:
        assert same(expected, train(with_stock_pipeline(cfg)))
        # They outlive an epoch, but not the training.
        assert not multiprocessing.active_children()


def test_each_loss_is_that_of_the_stock_pipeline(cfg):
    steps = [step['type'] for step in cfg.data.train.pipeline]
    assert {'ToPlanes', 'TopDownJointCells'} <= set(steps)
    lean, usual = Losses(), Losses()
    train(cfg, hooks=[lean])
    train(with_stock_pipeline(cfg), hooks=[usual])
    assert lean.seen == usual.seen
    assert len(set(lean.seen)) == 6


def test_freezing_changes_no_number_and_no_key_of_a_checkpoint(cfg):
    loose = Config(copy.deepcopy(dict(cfg._cfg_dict)))
    del loose._cfg_dict['frozen_parameters']
    cfg.work_dir, loose.work_dir = cfg.work_dir + '/a', cfg.work_dir + '/b'
    frozen, free = train(cfg), train(loose)
    assert same(frozen, free)
    idle = [n for n, p in frozen.named_parameters() if not p.requires_grad]
    assert len(idle) == 6 and all(
        n.startswith('backbone.inters.0.') for n in idle
    )
    assert all(p.requires_grad for p in free.parameters())
    saved = [
        torch.load(f'{w}/epoch_2.pth', map_location='cpu', **SAFE)
        for w in (cfg.work_dir, loose.work_dir)
    ]
    assert list(saved[0]['state_dict']) == list(saved[1]['state_dict'])
    groups = [s['optimizer']['param_groups'] for s in saved]
    assert groups[0] == groups[1]
    states = [s['optimizer']['state'] for s in saved]
    assert list(states[0]) == list(states[1])


# Our checkpoints hold plain data; torch 1.8 does not know the argument.
SAFE = dict(weights_only=True) if torch.__version__ >= '2' else {}


def test_a_set_that_fills_no_batch_is_refused(cfg):
    cfg.data.samples_per_gpu = 7
    with pytest.raises(UserError, match='^6 training samples .* of 7 .*1 pro'):
        train(cfg)


def test_several_devices_of_one_process_are_refused(cfg):
    cfg.gpu_ids = [0, 1]
    with pytest.raises(UserError, match='launcher'):
        train(cfg)


def test_files_that_do_not_belong_together_are_refused_before_training(cfg):
    path = Path(cfg.data.val.ann_file)
    notes = json.loads(path.read_text())
    path.write_text(json.dumps(notes[:-1]))
    with pytest.raises(ValueError, match='4 people.* 5'):
        train(cfg, validate=True)
    assert not list(Path(cfg.work_dir).glob('*.pth'))


def test_validation_sees_every_person(cfg, monkeypatch):
    from mmpose.datasets.datasets.top_down import topdown_mpii_dataset

    seen = []
    monkeypatch.setattr(
        topdown_mpii_dataset.TopDownMpiiDataset,
        'evaluate',
        lambda self, outputs, *args, **kwargs: (
            seen.append(len(outputs)) or dict(PCKh=1.0)
        ),
    )
    train(cfg, validate=True)
    assert seen == [5, 5]


def test_checkpoint_meta_and_log_are_written(cfg):
    train(cfg, validate=True, timestamp='stamp', meta=dict(seed=3))
    work = Path(cfg.work_dir)
    saved = torch.load(str(work / 'latest.pth'), **SAFE)
    assert saved['meta']['seed'] == 3 and saved['meta']['epoch'] == 2
    lines = (work / 'stamp.log.json').read_text().splitlines()
    modes = [json.loads(line).get('mode') for line in lines]
    assert modes[1:] == ['train', 'train', 'train', 'val'] * 2
    assert (work / 'pred.mat').is_file() and (work / 'best.json').is_file()


def test_resuming_goes_on_where_the_run_was(cfg):
    whole = train(cfg)
    again = copy.deepcopy(cfg)
    again.work_dir += '_resumed'
    again.resume_from = cfg.work_dir + '/epoch_2.pth'
    resumed = train(again)
    assert same(whole, resumed)  # nothing was left to do
    again.total_epochs = 3
    longer = train(again)
    assert not same(whole, longer)
    assert (Path(again.work_dir) / 'epoch_3.pth').is_file()
    assert not (Path(again.work_dir) / 'epoch_2.pth').exists()


def digest(state, part):
    chosen = [v for k, v in state.items() if part in k]
    assert chosen
    content = b''.join(v.numpy().tobytes() for v in chosen)
    return hashlib.sha256(content).hexdigest()


def train_in_a_rank(*paths):
    """Train by config after config; return what this rank saw."""
    return [_train_in_a_rank(path) for path in paths]


def _train_in_a_rank(path):
    cfg = Config.fromfile(str(path))
    rank, _ = get_dist_info()
    torch.manual_seed(rank)  # the wrapper makes them equal
    model = build_posenet(cfg.model)
    seen = dict(averaged=[], evaluated=[], people=[[]])

    average, test = rank_hooks.average_bn_stats, apis.multi_gpu_test

    def averaging(wrapped):
        before = digest(model.state_dict(), 'running_')
        average(wrapped)
        after = digest(model.state_dict(), 'running_')
        seen['averaged'].append((before, after))

    def testing(wrapped, *args, **kwargs):
        seen['evaluated'].append(digest(model.state_dict(), 'running_'))
        seen['people'].append([])
        return test(wrapped, *args, **kwargs)

    class Wrapper(MMDistributedDataParallel):
        def __init__(self, *args, **kwargs):
            seen['find_unused'] = kwargs['find_unused_parameters']
            seen['bucket_cap_mb'] = kwargs.get('bucket_cap_mb')
            super().__init__(*args, **kwargs)

    people = build_dataset(cfg.data.train)

    class Recorder(torch.utils.data.Dataset):
        dataset = people

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            seen['people'][-1].append(index)
            return self.dataset[index]

    with patch.object(rank_hooks, 'average_bn_stats', averaging), patch.object(
        apis, 'multi_gpu_test', testing
    ), patch.object(apis_train, 'MMDistributedDataParallel', Wrapper):
        apis.train_model(
            model, Recorder(), cfg, distributed=True, validate=True
        )
    seen['weights'] = digest(model.state_dict(), 'weight')
    by_epoch = cfg.checkpoint_config.get('by_epoch', True)
    names = ('epoch_1', 'epoch_2') if by_epoch else ('iter_3', 'iter_6')
    seen['saved'] = [
        digest(
            torch.load(f'{cfg.work_dir}/{name}.pth')['state_dict'],
            'running_',
        )
        for name in names[: cfg.total_epochs]
        if rank == 0
    ]
    return seen


def test_ranks_save_the_model_that_they_evaluated(ranks, cfg, tmp_path):
    cfg.data.samples_per_gpu = 1
    jobs = dict(
        by_epoch=dict(),
        by_iter=dict(checkpoint_config=dict(interval=1, by_epoch=False)),
        loose=dict(
            frozen_parameters=[], total_epochs=1, ddp=dict(bucket_cap_mb=0.1)
        ),
    )
    for name, changes in jobs.items():
        job = Config(copy.deepcopy(dict(cfg._cfg_dict, **changes)))
        job.work_dir = str(tmp_path / name)
        (tmp_path / f'{name}.py').write_text(job.pretty_text)
    found = ranks(
        2, train_in_a_rank, *[tmp_path / f'{name}.py' for name in jobs]
    )

    def read(name):
        return [seen[list(jobs).index(name)] for seen in found]

    # Averagings in an epoch of 3 iterations: its end, and each iteration
    # after which a checkpoint is due.
    for name, step in dict(by_epoch=1, by_iter=4).items():
        check_ranks(*read(name), step=step)
    first, second = read('by_epoch')
    # Data: everybody once in an epoch, in another order in the next.
    for mine, other in zip(first['people'][:2], second['people']):
        assert sorted(mine + other) == list(range(6))
    assert first['people'][0] != first['people'][1]
    # The same seed gives the same order.
    for mine, again in zip((first, second), read('by_iter')):
        assert mine['people'] == again['people']
    # Only what names its idle layers spares itself the search for them.
    loose = read('loose')
    assert not first['find_unused'] and loose[0]['find_unused']
    assert first['bucket_cap_mb'] is None
    assert loose[0]['bucket_cap_mb'] == 0.1
    assert loose[0]['weights'] == loose[1]['weights']


def test_compiling_changes_no_key_and_here_no_number(cfg):
    if not hasattr(torch.nn.Module, 'compile'):
        cfg.compile = dict(backend='eager')
        with pytest.raises(UserError, match='compile needs torch 2.2'):
            train(cfg)
        return
    plain = train(cfg)
    # Captured by the compiler's front end, run as it was.
    cfg.compile = dict(backend='eager')
    compiled = train(cfg)
    assert compiled.backbone._compiled_call_impl is not None
    assert compiled.keypoint_head._compiled_call_impl is not None
    assert same(compiled, plain)
    saved = torch.load(f'{cfg.work_dir}/latest.pth', **SAFE)
    assert list(saved['state_dict']) == list(plain.state_dict())


def test_channels_last_moves_last_bits_only(cfg):
    plain = train(cfg)
    cfg.channels_last = True
    other = train(cfg)
    kernel = other.backbone.stem[0].conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    for key, value in plain.state_dict().items():
        assert torch.allclose(
            value.float(), other.state_dict()[key].float(), atol=1e-3
        )


def test_prefetch_to_a_cpu_is_refused(cfg):
    cfg.device_prefetch = True
    with pytest.raises(UserError, match='device_prefetch is for a device'):
        train(cfg)


def check_ranks(first, second, step):
    """The model that is saved is the one that was evaluated, on all ranks."""
    assert len(first['averaged']) == 2 * step
    for mine, other in zip(first['averaged'], second['averaged']):
        assert mine[1] == other[1]
    # Ranks learn from different people, so their own statistics differ.
    assert first['averaged'][0][0] != second['averaged'][0][0]
    epochs = [pair[1] for pair in first['averaged'][step - 1 :: step]]
    assert epochs[0] != epochs[1]
    assert first['evaluated'] == second['evaluated'] == epochs
    assert first['saved'] == epochs
    assert first['weights'] == second['weights']
