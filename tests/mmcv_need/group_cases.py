"""What dist_utils does in each of several real gloo processes."""

import importlib.util
import os
from unittest.mock import patch

import torch
from mmcv.runner import dist_utils
from torch import distributed as dist
from torch import nn

from hourglass_npu.training import ranks

OPTIONS = [(True, -1), (True, 1), (False, -1)]


def tensors(rank):
    """Tensors of several types and shapes that differ between ranks."""
    generator = torch.Generator().manual_seed(rank)
    shapes = [(3, 5), (300, 1000), (), (7,)]
    found = [torch.randn(shape, generator=generator) for shape in shapes]
    return found + [t.double() for t in found[:2]]


def average(module, rank):
    """Average parameters and gradients in all the ways of a module."""
    results = []
    for coalesce, bucket in OPTIONS:
        params = [nn.Parameter(t) for t in tensors(rank)]
        for param, grad in zip(params, tensors(rank + 100)):
            param.grad = grad
        params[1].requires_grad = False
        params[2].grad = None
        module.allreduce_params(params, coalesce, bucket)
        module.allreduce_grads(params, coalesce, bucket)
        results += [p.detach() for p in params]
        results += [p.grad for p in params if p.grad is not None]
    return results


def objects(rank):
    return {'rank': rank, 'scores': torch.full((rank + 1,), 0.5)}


def work_together(stock):
    """Use everything of dist_utils, and of its original, the file STOCK."""
    rank, world_size = dist_utils.get_dist_info()
    spec = importlib.util.spec_from_file_location('stock_dist_utils', stock)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    counters = [torch.tensor(4 + 3 * rank), torch.ones(2) * rank]
    dist_utils.allreduce_params(counters)
    gathered = [dist_utils.gather_objects(objects(rank))]
    # As beside the backend of an accelerator: a gloo group of its own.
    with patch.object(dist, 'get_backend', return_value='hccl'):
        dist_utils._Process.host_group = (None, None)
        gathered.append(dist_utils.gather_objects(rank))
        shared = ranks.broadcast_object(objects(rank + 5))
        group = dist_utils.get_host_group()
        assert group is dist_utils.get_host_group(), 'made twice'
        ranks.barrier()
    ranks.barrier()
    dist_utils.synchronize()
    return {
        'place': (rank, world_size),
        'device': str(dist_utils.get_device()),
        'backend': dist.get_backend(),
        'side group': group is not dist.distributed_c10d._get_default_group(),
        'start method': torch.multiprocessing.get_start_method(),
        'address': os.environ['MASTER_ADDR'],
        'network': os.environ.get('GLOO_SOCKET_IFNAME'),
        'local rank': os.environ.get('LOCAL_RANK'),
        'master': dist_utils.master_only(lambda: 'here')(),
        'counters': counters,
        'gathered': gathered,
        'shared': shared,
        'ours': average(dist_utils, rank),
        'theirs': average(theirs, rank),
    }
