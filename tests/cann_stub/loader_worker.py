"""Load two samples as a command does; print where torch_npu was needed.

Usage: loader_worker.py    prints "parent" and "data worker", each with 0 or 1
"""

import sys

from hourglass_npu import cli

cli._load('train')

import torch  # noqa: E402
from mmcv.runner.dist_utils import set_device  # noqa: E402


class Modules(torch.utils.data.Dataset):
    """Say as a sample whether this process has torch_npu."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return int('torch_npu' in sys.modules)


def main():
    set_device('npu')
    loader = torch.utils.data.DataLoader(
        Modules(),
        num_workers=1,
        multiprocessing_context='spawn',
        pin_memory=True,
    )
    there = {int(batch) for batch in loader}
    print('parent', int('torch_npu' in sys.modules), 'data worker', *there)


if __name__ == '__main__':
    main()
