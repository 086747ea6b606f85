"""One of two ranks: what hccl carries, and what it refuses.

Usage: hccl_worker.py [SAME]    SAME: both ranks stay on the first device
"""

import gc
import os
import sys

import torch
import torch.distributed as dist
import torch_npu  # noqa: F401
from torch import nn

rank = int(os.environ['RANK'])
if len(sys.argv) == 1:
    torch.npu.set_device(rank)
dist.init_process_group('hccl')


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.unused = nn.Linear(1, 1)

    def forward(self, images):
        return self.used(images)


def refused(call, words):
    try:
        call()
    except RuntimeError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f'{words} was not said')


if len(sys.argv) > 1:
    refused(lambda: dist.all_reduce(torch.ones(2, device='npu')), 'share')
    dist.destroy_process_group()
    sys.exit()

for dtype in (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
):
    total = torch.full((3,), rank + 1, device='npu', dtype=dtype)
    dist.all_reduce(total)
    assert total.tolist() == [3, 3, 3], dtype
for dtype in (torch.uint8, torch.bool, torch.float64):
    value = torch.full((3,), rank, device='npu', dtype=dtype)
    refused(lambda value=value: dist.all_reduce(value), 'does not reduce')
    dist.broadcast(value, 1)
    assert value.tolist() == [1, 1, 1], dtype
refused(lambda: dist.all_reduce(torch.ones(3)), 'cpu')
refused(lambda: dist.all_reduce(torch.ones(3, device='npu:5')), 'npu:5')

objects = [None, None]
dist.all_gather_object(objects, {'rank': rank})
assert objects == [{'rank': 0}, {'rank': 1}]
both = torch.zeros(4, device='npu')
dist.all_gather_into_tensor(both, torch.full((2,), float(rank), device='npu'))
assert both.tolist() == [0, 0, 1, 1]
part = torch.zeros(2, device='npu')
dist.reduce_scatter_tensor(part, torch.arange(4.0, device='npu'))
assert part.tolist() == [[0, 2], [4, 6]][rank]
dist.barrier()


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


for find_unused in (False, True):
    train_one_step(find_unused)
# Whatever holds on to the group keeps its threads from ending with it, and
# one that still lets go of a tensor while Python comes down aborts the
# process; see mmcv_need/dist_utils.py. A wrapped model is such, in cycles.
gc.collect()
dist.destroy_process_group()
