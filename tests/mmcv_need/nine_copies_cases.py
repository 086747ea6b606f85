"""What a user of mmcv does, on the released package with nine files copied."""

import logging
import os
import sys
from pathlib import Path

import mmcv
import torch
from mmcv import Config
from mmcv.parallel import DataContainer, MMDataParallel, collate
from mmcv.runner import (
    EpochBasedRunner,
    IterBasedRunner,
    build_optimizer,
    load_checkpoint,
)
from mmcv.runner.dist_utils import UserError
from torch import nn
from torch.utils.data import DataLoader

CONFIG = """
optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
lr_config = dict(policy='step', step=[2])
optimizer_config = dict(grad_clip=dict(max_norm=1.0))
checkpoint_config = dict(interval=1)
log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook')])
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        return self.layer(x)

    def train_step(self, data, optimizer, **kwargs):
        assert data['number'] == sorted(data['number'])
        loss = (self(data['x']) - 1).pow(2).mean()
        return dict(
            loss=loss,
            log_vars=dict(loss=loss.item()),
            num_samples=len(data['x']),
        )

    val_step = train_step


def make_loader():
    """Return six samples in threes, packed as mmcv's pipelines do it."""
    values = torch.linspace(-1, 1, 24).view(6, 4)
    samples = [
        dict(
            x=DataContainer(value, stack=True, pad_dims=None),
            number=DataContainer(number, cpu_only=True),
        )
        for number, value in enumerate(values)
    ]
    return DataLoader(
        samples, 3, collate_fn=lambda batch: collate(batch, samples_per_gpu=3)
    )


def train(kind, cfg, work_dir, length, resume_from=None):
    """Train to epoch or iteration ``length``; return model and runner."""
    torch.manual_seed(0)
    model = MMDataParallel(Net(), device_ids=[0])
    limit = 'max_epochs' if kind is EpochBasedRunner else 'max_iters'
    runner = kind(
        model,
        optimizer=build_optimizer(model, cfg.optimizer),
        work_dir=str(work_dir),
        logger=logging.getLogger('nine'),
        **{limit: length},
    )
    runner.register_training_hooks(
        cfg.lr_config,
        cfg.optimizer_config,
        cfg.checkpoint_config,
        cfg.log_config,
    )
    if resume_from:
        # Where nothing is said, IterBasedRunner wants to load to CUDA.
        where = 'default' if kind is EpochBasedRunner else 'cpu'
        runner.resume(str(resume_from), map_location=where)
    runner.run([make_loader()], [('train', 1)])
    return model.module, runner


def refuses_mixed_precision(cfg, out):
    """Expect one sentence that says what to call and what to install."""
    cfg = Config(dict(cfg._cfg_dict))
    cfg.optimizer_config = dict(type='AmpOptimizerHook')
    try:
        train(EpochBasedRunner, cfg, out, 1)
    except UserError as error:
        text = str(error)
        assert 'hourglass_npu.o2.choice.initialize' in text, text
        assert 'pip install' in text, text
    else:
        raise AssertionError('it trained without an engine')


class Attack:
    def __reduce__(self):
        return os.mkdir, ('attacked',)


def refuses_code(out):
    """Expect that a checkpoint cannot run code."""
    path = out / 'attack.pth'
    torch.save(dict(state_dict=Attack()), str(path))
    os.chdir(str(out))
    try:
        load_checkpoint(Net(), str(path))
    except ValueError as error:
        assert str(path) in str(error), error
    else:
        raise AssertionError('it loaded code')
    assert not (out / 'attacked').exists()


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def use_mmcv(site, out):
    folder = Path(mmcv.__file__).parent
    assert folder.parent == Path(site), folder
    out = Path(out)

    (out / 'config.py').write_text(CONFIG)
    cfg = Config.fromfile(str(out / 'config.py'))
    (out / 'again.py').write_text(cfg.pretty_text)
    again = Config.fromfile(str(out / 'again.py'))
    assert again._cfg_dict == cfg._cfg_dict

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    for kind, name in (
        (EpochBasedRunner, 'epoch_{}.pth'),
        (IterBasedRunner, 'iter_{}.pth'),
    ):
        whole, parts = out / f'{kind.__name__}_a', out / f'{kind.__name__}_b'
        model, runner = train(kind, cfg, whole, 4)
        assert not same(model, Net())
        train(kind, cfg, parts, 2)
        resumed, again = train(
            kind, cfg, parts, 4, resume_from=parts / name.format(2)
        )
        assert again.iter == runner.iter
        assert same(resumed, model)
        loaded = Net()
        load_checkpoint(loaded, str(parts / 'latest.pth'))
        assert same(loaded, model)

    refuses_mixed_precision(cfg, out / 'amp')
    refuses_code(out)
    # The package may be installed; nothing of mmcv needs it.
    assert not [name for name in sys.modules if name == 'hourglass_npu']
