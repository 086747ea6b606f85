"""One of two gloo processes that train in mixed precision O2.

Leaves its masters, losses and counts in ``OUT/<rank>.pt``.

Usage: o2_worker.py OUT
"""

import sys
from unittest import mock

import torch
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner.dist_utils import get_dist_info, init_dist, set_device
from o2_cases import NativeDriver, Toy, make_case, run_batch

from hourglass_npu.o2 import engine as engine_module

STEPS = 4


def train(saturating=False):
    """Train; rank 1 alone overflows in step 2.

    Args:
        saturating (bool): As on a chip where no gradient shows it.
    """
    rank, _ = get_dist_info()
    overflows = {'now': False}
    flag = (lambda: None, lambda: overflows['now']) if saturating else None
    model = Toy()
    with torch.no_grad():
        model.first.weight.add_(rank)  # initialize makes them equal
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with mock.patch.object(
        engine_module, 'saturation_flag', lambda device: flag
    ):
        driver = NativeDriver(model, optimizer, make_case('sgd'))
    wrapped = MMDistributedDataParallel(model)
    engine, losses = driver.engine, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = run_batch(wrapped, 2 * step + rank)
        losses.append(loss.detach())
        bad = step == 2 and rank == 1
        overflows['now'] = bad and saturating
        with engine.scale_loss(loss) as scaled:
            (scaled * (1e8 if bad and not saturating else 1)).backward()
        if step == 0:
            first = [p.grad for p in engine.master_params()]
            first = [g.clone() for g in first if g is not None]
        optimizer.step()
    return dict(
        masters=[p.detach() for p in engine.master_params()],
        losses=losses,
        first=first,
        skipped=engine.skipped_steps,
    )


def accumulate(*indices):
    """Return the gradients of several backward passes before one step."""
    rank, _ = get_dist_info()
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = NativeDriver(model, optimizer, make_case('sgd')).engine
    wrapped = MMDistributedDataParallel(model)
    for index in indices:
        with engine.scale_loss(run_batch(wrapped, index + rank)) as scaled:
            scaled.backward()
    return [p.grad for p in engine.master_params() if p.grad is not None]


def main():
    """Run the cases."""
    set_device('cpu')
    init_dist('pytorch')
    rank, _ = get_dist_info()
    found = dict(
        shown=train(),
        hidden=train(saturating=True),
        passes=[accumulate(0), accumulate(2), accumulate(0, 2)],
    )
    torch.save(found, f'{sys.argv[1]}/{rank}.pt')


if __name__ == '__main__':
    main()
