"""NpuFusedAdam on a device that is not the current one."""

import copy

import torch
from mmcv.runner import build_optimizer
from torch import nn


def make_model():
    # Each weight has a gradient that is more than noise, which Adam would
    # turn into whole steps: no bias stands before the batch norm.
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


def train(model, device, kind):
    """Take five steps; return the weights, on the CPU."""
    model = copy.deepcopy(model).to(device)
    optimizer = build_optimizer(model, dict(type=kind, lr=0.01))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        optimizer.zero_grad()
        images = torch.randn(4, 3, 6, 6, generator=generator)
        model(images.to(device)).pow(2).mean().backward()
        optimizer.step()
    return [weight.detach().cpu() for weight in model.parameters()]


def faults():
    """Return the devices, other than npu:1, where it is not torch's Adam."""
    model = make_model()
    expected = train(model, 'cpu', 'Adam')
    torch.npu.set_device('npu:1')
    found = []
    for device in ('npu:1', 'npu:0', 'npu:2'):
        try:
            weights = train(model, device, 'NpuFusedAdam')
        except RuntimeError as error:
            found.append(f'fused on {device}: {str(error).splitlines()[-1]}')
            break
        for one, other in zip(weights, expected):
            if not torch.allclose(one, other, rtol=0, atol=1e-6):
                found.append(f'fused on {device}: other weights')
                break
    return found
