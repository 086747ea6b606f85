"""One of two ranks: what hccl carries, and what it refuses.

Usage: hccl_worker.py [same | dies | late | differs]
    same     both ranks stay on the first device
    dies     the second rank ends before a collective
    late     the second rank does not come to one
    differs  the ranks call different ones
"""

import gc
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
import torch_npu  # noqa: F401
from torch import nn

rank = int(os.environ['RANK'])
case = sys.argv[1] if len(sys.argv) > 1 else ''
torch.npu.set_device(0 if case == 'same' else rank)
dist.init_process_group('hccl')
REDUCED = (
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
)


def full(value, count=3, dtype=torch.float32):
    return torch.full((count,), value, device='npu', dtype=dtype)


def refused(call, words):
    try:
        call()
        torch.npu.synchronize()
    except (RuntimeError, TypeError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(f'{words} was not said')


def faulty():
    """A collective that cannot be done."""
    if case != 'same':
        dist.all_reduce(full(1))
        torch.npu.synchronize()
    words = dict(
        same='share a device',
        dies='rank 1 has died',
        late='did not come in time',
        differs='rank 1 in Broadcast of 12',
    )[case]
    if rank == 1 and case == 'dies':
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and case == 'late':
        time.sleep(8)
        os._exit(0)
    if rank == 1 and case == 'differs':
        words = 'rank 0 in AllReduce of 12'
        refused(lambda: dist.broadcast(full(1), 1), words)
    else:
        refused(lambda: dist.all_reduce(full(1)), words)
    print(f'rank {rank}: {words}', flush=True)
    os._exit(0)


def collectives():
    for dtype in REDUCED:
        total = full(rank + 1, dtype=dtype)
        dist.all_reduce(total)
        assert total.tolist() == [3, 3, 3], dtype
    for op, expected in (('MAX', 2), ('MIN', 1), ('PRODUCT', 2)):
        value = full(rank + 1)
        dist.all_reduce(value, op=getattr(dist.ReduceOp, op))
        assert value.tolist() == [expected] * 3, op
    for dtype in (torch.uint8, torch.bool, torch.float64):
        value = full(rank, dtype=dtype)
        dist.broadcast(value, 1)
        assert value.tolist() == [1, 1, 1], dtype
    # More than fits into the memory between the ranks at a time.
    large = full(rank + 1, 700001)
    dist.all_reduce(large)
    assert large[0].item() == 3 and large[-1].item() == 3
    # Rounded to the nearest half, ties to even.
    tie = full([2048.0, 1.0][rank], dtype=torch.float16)
    dist.all_reduce(tie)
    assert tie.tolist() == [2048] * 3

    objects = [None, None]
    dist.all_gather_object(objects, {'rank': rank})
    assert objects == [{'rank': 0}, {'rank': 1}]
    both = full(0, 4)
    dist.all_gather_into_tensor(both, full(rank, 2))
    assert both.tolist() == [0, 0, 1, 1]
    several = [full(9, 2), full(9, 2)]
    dist.all_gather(several, full(rank, 2))
    assert [one[0].item() for one in several] == [0, 1]
    part = full(0, 2)
    dist.reduce_scatter_tensor(part, torch.arange(4.0, device='npu'))
    assert part.tolist() == [[0, 2], [4, 6]][rank]
    value = full(rank + 1)
    dist.reduce(value, 1)
    assert rank == 0 or value.tolist() == [3, 3, 3]
    given = [full(5, 2), full(6, 2)] if rank == 0 else None
    dist.scatter(part, given, 0)
    assert part.tolist() == [5 + rank] * 2
    swapped = full(0, 2)
    dist.all_to_all_single(swapped, full(rank, 2))
    assert swapped.tolist() == [0, 1]
    if rank == 0:
        dist.send(full(7), 1)
    else:
        dist.recv(value, 0)
        assert value.tolist() == [7, 7, 7]
    dist.barrier()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.unused = nn.Linear(1, 1)

    def forward(self, images):
        return self.used(images)


def train_one_step(find_unused):
    """One step of a wrapped model; nothing of it is left when it returns."""
    torch.manual_seed(0)
    model = Model().to('npu')
    model.unused.requires_grad_(find_unused)
    wrapped = nn.parallel.DistributedDataParallel(
        model, device_ids=[rank], find_unused_parameters=find_unused
    )
    torch.manual_seed(rank)
    wrapped(torch.randn(2, 3, 8, 8).to('npu')).square().sum().backward()
    grads = model.used[0].weight.grad.sum().reshape(1)
    both = [torch.zeros_like(grads) for _ in range(2)]
    dist.all_gather(both, grads)
    assert torch.equal(*both) and both[0].item() != 0


if case:
    faulty()
collectives()
for find_unused in (False, True):
    train_one_step(find_unused)
refused(lambda: dist.all_reduce(torch.ones(3)), 'cpu')
refused(lambda: dist.all_reduce(full(1, dtype=torch.float64)), 'HCCL')
gc.collect()
dist.destroy_process_group()
