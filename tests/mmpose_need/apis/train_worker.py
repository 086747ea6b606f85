"""One rank of test_apis_train.py: ``train_worker.py CONFIG ...``.

Leaves what the rank saw beside each config, in ``NAME.rankN.json``.
"""

import hashlib
import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from mmcv import Config
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner.dist_utils import get_dist_info, init_dist, set_device
from mmpose import apis
from mmpose.apis import train as apis_train
from mmpose.datasets import build_dataset
from mmpose.models import build_posenet

from hourglass_npu.training import ranks


def digest(state, part):
    chosen = [v for k, v in state.items() if part in k]
    assert chosen
    content = b''.join(v.numpy().tobytes() for v in chosen)
    return hashlib.sha256(content).hexdigest()


def main():
    set_device('cpu')
    init_dist('pytorch')
    for path in sys.argv[1:]:
        train(Path(path))


def train(path):
    cfg = Config.fromfile(str(path))
    rank, _ = get_dist_info()
    torch.manual_seed(rank)  # the wrapper makes them equal
    model = build_posenet(cfg.model)
    seen = dict(averaged=[], evaluated=[], people=[[]])

    average, test = ranks.average_bn_stats, apis.multi_gpu_test

    def averaging(wrapped):
        before = digest(model.state_dict(), 'running_')
        average(wrapped)
        after = digest(model.state_dict(), 'running_')
        seen['averaged'].append((before, after))

    def testing(wrapped, *args, **kwargs):
        seen['evaluated'].append(digest(model.state_dict(), 'running_'))
        seen['people'].append([])
        return test(wrapped, *args, **kwargs)

    class Wrapper(MMDistributedDataParallel):
        def __init__(self, *args, **kwargs):
            seen['find_unused'] = kwargs['find_unused_parameters']
            seen['bucket_cap_mb'] = kwargs.get('bucket_cap_mb')
            super().__init__(*args, **kwargs)

    people = build_dataset(cfg.data.train)

    class Recorder(torch.utils.data.Dataset):
        dataset = people

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            seen['people'][-1].append(index)
            return self.dataset[index]

    with patch.object(ranks, 'average_bn_stats', averaging), patch.object(
        apis, 'multi_gpu_test', testing
    ), patch.object(apis_train, 'MMDistributedDataParallel', Wrapper):
        apis.train_model(
            model, Recorder(), cfg, distributed=True, validate=True
        )
    seen['weights'] = digest(model.state_dict(), 'weight')
    by_epoch = cfg.checkpoint_config.get('by_epoch', True)
    names = ('epoch_1', 'epoch_2') if by_epoch else ('iter_3', 'iter_6')
    seen['saved'] = [
        digest(
            torch.load(f'{cfg.work_dir}/{name}.pth')['state_dict'],
            'running_',
        )
        for name in names[: cfg.total_epochs]
        if rank == 0
    ]
    path.with_suffix(f'.rank{rank}.json').write_text(json.dumps(seen))


if __name__ == '__main__':
    main()
