"""How many kernels a step takes, by the real torch_npu.

Usage: launches_worker.py PART...    prints what went wrong, if anything
"""

import sys
from collections import Counter

import torch
import torch_npu  # noqa: F401
from mmcv.runner import build_optimizer
from torch import nn

import counts
from hourglass_npu.o2 import tensors

DEVICE = torch.device('npu', 1)
WEIGHTS = 40
faults = []


def holds(name, truth):
    if not truth:
        faults.append(name)


def kernels(function):
    """Return a function's kernels by name, and the host's waits in it."""
    found = []
    for call in (lambda: None, function):
        call()
        waits = sum(counts.waits().values())
        torch.npu.synchronize()
        report = counts.report()['kernels']
        own = {name: sum(times.values()) for name, times in report.items()}
        found.append((Counter(own), waits))
    # The first measurement's own wait.
    return found[1][0] - found[0][0], found[1][1] - found[0][1] - 1


def adam():
    """Torch's Adam divides in few kernels, to the same bits."""
    model = nn.ParameterList(
        nn.Parameter(torch.linspace(0, i, 5)) for i in range(WEIGHTS)
    ).to(DEVICE)
    copies = [nn.Parameter(p.detach().clone()) for p in model]
    options = dict(lr=0.1, weight_decay=0.01)
    ours = build_optimizer(model, dict(options, type='Adam'))
    plain = torch.optim.Adam(copies, **options)
    for step in range(4):
        for i, (own, other) in enumerate(zip(model, copies)):
            # The last weight steps later: then the numbers differ.
            late = i == WEIGHTS - 1 and step < 2
            own.grad = None if late else torch.full_like(own, step + i)
            other.grad = None if late else own.grad.clone()
        few, waits = kernels(ours.step)
        many, _ = kernels(plain.step)
        holds(f'{step}: the same bits', all(map(torch.equal, model, copies)))
        if not step:
            continue  # makes the state
        holds(f'{step}: no wait', not waits)
        name = 'Scalar' if step < 2 else 'ScalarList'
        few = {k: n for k, n in few.items() if 'ddcdiv' in k}
        holds(f'{step}: {few}', len(few) == 1 and sum(few.values()) <= 4)
        holds(f'{step}: {name}', any(name in k for k in few))
        many = sum(n for k, n in many.items() if 'ddcdiv' in k)
        holds(f'{step}: {many} by itself', many >= WEIGHTS - 1)


def compiled():
    """Gradients are unscaled without a wait where operators are compiled."""
    grads = [torch.full((3,), 2.0 * i, device=DEVICE) for i in range(WEIGHTS)]
    torch.npu.set_compile_mode(jit_compile=True)
    kernel = tensors.has_unscale_kernel(DEVICE)
    torch.npu.set_compile_mode(jit_compile=False)
    holds('not the kernel of the loss scale', not kernel)
    result = []
    found, waits = kernels(lambda: result.append(tensors.unscale(grads, 0.5)))
    holds('no wait', not waits)
    holds('not a kernel for each', found['aclnnForeachMulScalarV2'] == 1)
    holds('not its kernel', not [k for k in found if 'NonFinite' in k])
    holds('no overflow', result[0].item() == 0)
    holds('unscaled', [g[0].item() for g in grads] == [*range(WEIGHTS)])
    grads[1][2] = float('inf')
    holds('overflow', tensors.unscale(grads, 0.5).item() == 1)


if __name__ == '__main__':
    torch.npu.set_device(DEVICE)
    for part in sys.argv[1:]:
        globals()[part]()
    print('\n'.join(faults), end='')
