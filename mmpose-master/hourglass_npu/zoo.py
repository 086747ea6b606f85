"""The published weights of mmpose's model zoo, which 'zoo' stands for."""

import os

from hourglass_npu.errors import UserError
from hourglass_npu.paths import ROOT

NAME = 'zoo'
"""What stands for them as a checkpoint."""

BASE = 'https://download.openmmlab.com/mmpose/top_down/hourglass/'
"""Where they are; the variable HOURGLASS_ZOO names a mirror."""

FILES = {
    ('mpii', 256): 'hourglass52_mpii_256x256-ae358435_20200812.pth',
    ('mpii', 384): 'hourglass52_mpii_384x384-04090bc3_20200812.pth',
    ('coco', 256): 'hourglass52_coco_256x256-4ec713ba_20200709.pth',
    ('coco', 384): 'hourglass52_coco_384x384-be91ba2b_20200812.pth',
}
"""By data set and side of the crop. PCKh on MPII: 88.9 and 89.4. A name ends
in the beginning of the file's SHA-256, and a date."""


def file_for(cfg, exact=True):
    """Return the name of the published weights for a config.

    Args:
        cfg (mmcv.Config): Config of a top-down model.
        exact (bool): The joints must be those of the weights. Otherwise
            MPII's serve to begin a training with: only the last layer
            differs.

    Returns:
        str: One of FILES.

    Raises:
        UserError: There are none.
    """
    from hourglass_npu.config.joints import joints_of
    from hourglass_npu.pose.joints import find_joints

    joints = joints_of(cfg)
    names = [
        name
        for name in ('mpii', 'coco')
        if find_joints(name).names == joints.names
    ]
    if not names and not exact:
        names = ['mpii']
    data = cfg.data.get('test') or cfg.data.get('val') or cfg.data.train
    size = list(data.data_cfg.image_size)
    found = FILES.get((names[0], size[0])) if names else None
    if found is None or size[0] != size[1]:
        raise UserError(
            f"'zoo': there are no published weights for {len(joints)} joints "
            f'of {joints.dataset or "this data set"} at '
            f'{"x".join(map(str, size))}, only for '
            + ', '.join(f'{name} at {s}x{s}' for name, s in FILES)
        )
    return found


def find(cfg, exact=True):
    """Find the published weights for a config; download them if need be.

    A file that was carried here is found in torch's cache, in the working
    folder, beside the config and beside demo.py.

    Args:
        cfg (mmcv.Config): Config of a top-down model.
        exact (bool): See :func:`file_for`.

    Returns:
        str: Path of the file, whose hash is right.

    Raises:
        UserError: There are none, the file has another hash, or it cannot be
            downloaded; the message says which file to carry where.
    """
    import torch
    from mmcv.runner.checkpoint import (
        DownloadError,
        _download,
        _promised_hash,
        _sha256,
    )

    name = file_for(cfg, exact)
    cache = os.path.join(torch.hub.get_dir(), 'checkpoints')
    beside = os.path.dirname(os.path.abspath(cfg.filename))
    for folder in (cache, os.getcwd(), beside, str(ROOT)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            if not _sha256(path).startswith(_promised_hash(name)):
                raise UserError(
                    f'{path} is not the file that its name promises '
                    '(SHA-256): remove it, or carry it here once more'
                )
            return path
    base = os.environ.get('HOURGLASS_ZOO') or BASE
    url = base.rstrip('/') + '/' + name
    try:
        return _download(url, None)
    except DownloadError as error:
        raise UserError(
            f"'zoo' stands for {name}, which could not be downloaded "
            f'({error.__cause__ or error}). Without a network, fetch {url} '
            f'elsewhere and carry it to {cache} or {os.getcwd()}'
        ) from error
