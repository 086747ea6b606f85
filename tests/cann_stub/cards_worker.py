"""One of two ranks: Apex and fused optimizers on the real torch_npu.

Usage: cards_worker.py    prints what went wrong, if anything
"""

import logging
import os

import torch
import torch_npu  # noqa: F401
from mmcv import Config
from mmcv.runner.dist_utils import init_dist, set_device
from mmpose.apis.train import _build_optimizer, _wrap
from torch import nn

from hourglass_npu.o2.choice import initialize

logger = logging.getLogger('quiet')
rank = int(os.environ['RANK'])
faults = []


def holds(name, truth):
    if not truth:
        faults.append(f'rank {rank}: {name}')


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 16, 4),
    )


def train(optimizer, amp=None, passes=1):
    """Train as train_model does; return weights and who did it."""
    device = torch.device('npu', torch.npu.current_device())
    config = Config(dict(optimizer=optimizer, amp=amp))
    model = make_model().to(device)
    made = _build_optimizer(model, config, device, logger)
    engine = None
    if amp is not None:
        engine = initialize(model, made, logger, **amp)
    wrapped = _wrap(model, config, device, True, made)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(4):
        made.zero_grad()
        for _ in range(passes):
            batch = torch.randn(2, 3, 8, 8, generator=generator).to(device)
            loss = wrapped(batch).float().pow(2).mean()
            if engine is None:
                loss.backward()
                continue
            with engine.scale_loss(loss) as scaled:
                scaled.backward()
        made.step()
    if engine is not None:
        engine.finish()
    weights = [p.detach().cpu() for p in made.param_groups[0]['params']]
    return weights, f'{type(made).__module__} {getattr(engine, "name", None)}'


def same(some, others, tolerance=0):
    return all(
        torch.allclose(a, b, rtol=0, atol=tolerance)
        for a, b in zip(some, others)
    )


def main():
    set_device('npu')
    init_dist('pytorch')
    sgd = dict(type='SGD', lr=0.1, momentum=0.9)
    fused = dict(sgd, type='NpuFusedSGD')
    for passes in (1, 2):
        static = dict(loss_scale=1024.0)
        native, who = train(sgd, dict(static, backend='native'), passes)
        holds(who, who.endswith('native'))
        apex, who = train(sgd, static, passes)
        holds(who, who.endswith(' apex'))
        holds(f'apex, {passes}', same(native, apex))
        apex, who = train(fused, static, passes)
        holds(who, who.startswith('apex.optimizers') and who[-5:] == ' apex')
        holds(f'fused of apex, {passes}', same(native, apex))
    # On this chip Ascend's Apex would unscale in half.
    _, who = train(sgd, dict(loss_scale='dynamic'))
    holds(who, who.endswith('native'))
    # Those of torch_npu, in fp32; told by module where marks are alike.
    plain, _ = train(sgd)
    weights, who = train(fused)
    holds(who, who.startswith('torch_npu.optim'))
    holds('fused in fp32', same(plain, weights, 1e-6))
    resume()


def resume():
    """A state of torch's Adam goes on in NpuFusedAdam."""
    from mmcv.runner.optimizer.builder import keep_form

    device = torch.device('npu', rank)
    weights = [nn.Parameter(torch.ones(3, device=device)) for _ in range(2)]
    saved = torch.optim.Adam(weights, lr=0.01)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    saved.step()
    fused = torch_npu.optim.NpuFusedAdam(weights, lr=0.01)
    fused.load_state_dict(keep_form(fused, saved.state_dict()))
    fused.step()
    fused.step()
    steps = [state['step'] for state in fused.state_dict()['state'].values()]
    holds(f'steps {steps}', steps == [3, 3])


if __name__ == '__main__':
    main()
    print('\n'.join(faults), end='')
