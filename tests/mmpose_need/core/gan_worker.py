"""One rank of test_distributed_wrapper.py: ``gan_worker.py FOLDER``."""

import json
import sys
from pathlib import Path

import torch
from mmcv.parallel import DataContainer, MMDistributedDataParallel
from mmcv.runner.dist_utils import get_dist_info, init_dist, set_device
from mmpose.core.distributed_wrapper import DistributedDataParallelWrapper
from test_distributed_wrapper import Gan, batch, optimizers_of


def main():
    set_device('cpu')
    init_dist('pytorch')
    rank, _ = get_dist_info()
    torch.manual_seed(0 if rank == 0 else 5)
    gan = Gan()
    if rank:
        # Only what is trained is brought into line by the wrapper.
        torch.manual_seed(0)
        gan.fixed.load_state_dict(Gan().fixed.state_dict())
    wrapper = DistributedDataParallelWrapper(gan, None)
    data = dict(
        img=batch(rank),
        metas=DataContainer([f'of rank {rank}'], cpu_only=True),
    )
    optimizers = optimizers_of(gan)
    for _ in range(3):
        out = wrapper.train_step(data, optimizers)
    img = wrapper.val_step(data, None)
    seen = dict(
        metas=out['metas'],
        equal=torch.equal(img, batch(rank))
        and torch.equal(wrapper(img), gan(img)),
        wrapped=sorted(
            name
            for name, child in gan.named_children()
            if isinstance(child, MMDistributedDataParallel)
        ),
        weights={
            name.replace('.module', ''): parameter.tolist()
            for name, parameter in gan.named_parameters()
        },
    )
    (Path(sys.argv[1]) / f'rank{rank}.json').write_text(json.dumps(seen))


if __name__ == '__main__':
    main()
