"""One rank of test_apis_test.py: ``gather_worker.py OUT TMPDIR SIZE ...``."""

import json
import sys
import warnings

import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner.dist_utils import get_dist_info, init_dist, set_device
from mmpose.apis import multi_gpu_test
from mmpose.apis import test as apis_test
from mmpose.datasets import build_dataloader
from test_apis_test import Net, Numbers


def main():
    out, tmpdir = sys.argv[1:3]
    # As for mmpose's, whatever the model.
    Net.forward_test, apis_test.TopDown = None, Net
    set_device('cpu')
    init_dist('pytorch')
    # Ranks of other widths: the result must not depend on them.
    torch.set_num_threads(1 + get_dist_info()[0])
    found = {}
    for size in map(int, sys.argv[3:]):
        torch.manual_seed(0)
        model = MMDataParallel(Net(), device_ids=[-1])
        loader = build_dataloader(
            Numbers(size),
            samples_per_gpu=1,
            workers_per_gpu=0,
            dist=True,
            shuffle=False,
            pin_memory=False,
        )
        loader.in_threads = True
        found[size] = []
        for settings in (dict(tmpdir=tmpdir), dict(gpu_collect=True)):
            results = multi_gpu_test(model, loader, **settings)
            if results is not None:
                found[size].append([x.double().sum().item() for x in results])
    if get_dist_info()[0] == 0:
        with open(out, 'w') as file:
            json.dump(found, file)
    else:
        assert not any(found.values())


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main()
