"""Draw a sheet of training samples: ``hourglass browse CONFIG``.

It shows samples after the config's pipeline, augmentation included: each crop
with its joints, and beside it the target heatmaps.
"""

import os
import random

from hourglass_npu.config.joints import joints_of
from hourglass_npu.config.load import (
    check_data,
    choose_work_dir,
    inner_data,
    load_config,
)
from hourglass_npu.errors import UserError
from hourglass_npu.files import check_output, make_folder
from hourglass_npu.options import Parser

COLUMNS = 3


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Show training samples with joints and target heatmaps.',
        'hourglass browse CONFIG.py',
        'hourglass browse CONFIG.py --number 12',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--number',
        type=int,
        default=12,
        metavar='N',
        help='number of samples (default: 12)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='seed of the choice of samples and of their augmentation '
        '(default: 0)',
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='picture to write (default: samples.jpg in '
        'mmpose-master/work_dirs/CONFIG NAME)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='append',
        metavar='KEY=VALUE',
        help='override values of the config',
    )
    args = parser.parse_args(argv)
    if args.number < 1:
        parser.error(f'--number {args.number}: must be at least 1')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed {args.seed}: must be from 0 to 4294967295')
    return args


def take_samples(cfg, number, seed):
    """Run training samples through the pipeline.

    Args:
        cfg (mmcv.Config): With a top-down data set for training.
        number (int): Most samples.
        seed (int): Of choice and augmentation.

    Returns:
        list[tuple]: For each sample its crop, np.ndarray[h, w, 3], 8-bit BGR;
        joints, np.ndarray[K, 3]: x, y in pixels of the crop, and 1 for a
        visible joint or 0; target heatmaps, np.ndarray[K, h/4, w/4]; and a
        line of text.

    Raises:
        UserError: The pipeline does not return these.
    """
    import numpy as np
    from mmpose.datasets import build_dataset

    dataset = build_dataset(inner_data(cfg.data.train))
    random.seed(seed)
    np.random.seed(seed)
    number = min(number, len(dataset))
    chosen = np.random.choice(len(dataset), number, replace=False)
    samples = []
    for index in sorted(chosen.tolist()):
        sample = dataset[index]
        meta = getattr(sample.get('img_metas'), 'data', {})
        heatmaps = _heatmaps(sample)
        if heatmaps is None or 'joints_3d' not in meta:
            raise UserError(
                "data.train.pipeline must end in Collect with 'img', and "
                "'joint_cells' and 'heatmap' (or 'target') in keys, "
                "'joints_3d' and 'joints_3d_visible' in meta_keys"
            )
        joints = meta['joints_3d'].copy()
        joints[:, 2] = meta['joints_3d_visible'][:, 0] > 0
        samples.append(
            (
                _crop(sample['img'], cfg),
                joints,
                heatmaps,
                _text(meta, dataset.db[index]),
            )
        )
    return samples


def _heatmaps(sample):
    """Return the heatmaps that the network is to learn, or None."""
    import numpy as np
    import torch

    from hourglass_npu.pose.heatmaps import render_heatmaps

    if 'target' in sample:
        return np.asarray(sample['target'])
    if 'joint_cells' not in sample or 'heatmap' not in sample:
        return None
    cells = torch.from_numpy(sample['joint_cells'])[None]
    return render_heatmaps(cells, **sample['heatmap'].data)[0].numpy()


def _crop(img, cfg):
    """Turn normalised network input into a picture."""
    import numpy as np

    crop = np.asarray(img).transpose(1, 2, 0)
    if crop.dtype == np.uint8:
        return np.ascontiguousarray(crop[..., ::-1])
    for step in inner_data(cfg.data.train).get('pipeline', ()):
        if step['type'] == 'NormalizeTensor':
            crop = crop * np.float32(step['std']) + np.float32(step['mean'])
    return (crop[..., ::-1] * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _text(meta, person):
    """Describe a sample: the picture, and its augmentation."""
    words = [os.path.basename(meta['image_file'])]
    if 'center' in meta:
        # Only a flip moves the centre sideways and not down.
        moved = meta['center'] != person['center']
        if moved[0] and not moved[1]:
            words.append('flipped')
    rotation = round(meta.get('rotation', 0))
    if rotation:
        words.append(f'rotated by {rotation}')
    if 'scale' in meta:
        zoom = person['scale'][0] / meta['scale'][0]
        words.append(f'x {zoom:.2f}')
    return '  '.join(words)


def contact_sheet(samples, known):
    """Draw samples on a sheet, each as a pair of tiles.

    Args:
        samples (list[tuple]): See :func:`take_samples`.
        known (Joints): Of the data set.

    Returns:
        np.ndarray[H, W, 3]: 8-bit BGR picture.
    """
    import cv2
    import numpy as np

    from hourglass_npu.pose.draw import draw_heatmaps, draw_people
    from hourglass_npu.reports.sheets import CAPTION, MARGIN, TILE, caption

    height, width = samples[0][0].shape[:2]
    size = (TILE * width // height, TILE)
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    pair = 2 * size[0] + 2 + 2 * MARGIN
    sheet = np.full(
        (rows * (TILE + CAPTION + MARGIN) + MARGIN, columns * pair, 3),
        255,
        np.uint8,
    )
    for number, (crop, joints, target, text) in enumerate(samples):
        tile = cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC)
        # The centre of the first pixel is at zero, in crop and in tile.
        zoom = np.float64(size) / (width, height)
        pose = joints.copy()
        pose[:, :2] = (pose[:, :2] + 0.5) * zoom - 0.5
        cells = target.shape[-2:][::-1]
        stride = np.float64((width, height)) / cells
        to_tile = np.column_stack([np.diag(stride * zoom), 0.5 * zoom - 0.5])
        tiles = np.hstack(
            [
                draw_people(tile, [pose], known, sizes=[TILE / 2]),
                np.full((TILE, 2, 3), 255, np.uint8),
                draw_heatmaps(tile, target[None], [to_tile], known),
            ]
        )
        row, column = divmod(number, columns)
        left = column * pair + MARGIN
        top = row * (TILE + CAPTION + MARGIN) + MARGIN
        sheet[top : top + TILE, left : left + tiles.shape[1]] = tiles
        caption(sheet, text, left, top + TILE)
    return sheet


def main():
    """Draw the sheet as the command line says."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    check_data(cfg, ['train'])
    from hourglass_npu.pose.images import PICTURE_SUFFIXES, write_picture

    out = args.out
    if out:
        data = cfg.data.train.get('dataset', cfg.data.train)
        picture = os.path.join(
            data.get('img_prefix', ''), os.path.basename(out)
        )
        check_output(out, PICTURE_SUFFIXES, [args.config, picture])
    else:
        args.work_dir = None
        choose_work_dir(args, cfg)
        make_folder(cfg.work_dir)
        out = os.path.join(cfg.work_dir, 'samples.jpg')
    samples = take_samples(cfg, args.number, args.seed)
    write_picture(out, contact_sheet(samples, joints_of(cfg)))
    print(f'Wrote {out}')
