"""COCO keypoint JSON to MPII's form, and back: ``hourglass convert``.

The converted data set has all that training needs: ``annotations/`` with a
split by picture, the truth and a description of the joints, ``images``, and a
config.
"""

import os
import random

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.errors import UserError
from hourglass_npu.files import (
    check_output,
    make_folder,
    read_bytes,
    write_json,
)
from hourglass_npu.options import Parser
from hourglass_npu.paths import CONFIGS

CONFIG = """# Written by `hourglass convert`: {count} joints.
# On top of published weights; a last layer of another size starts afresh.
_base_ = ['{base}']
num_joints = {count}
model = dict(keypoint_head=dict(out_channels=num_joints))
data_cfg = dict(
    num_joints=num_joints,
    num_output_channels=num_joints,
    dataset_channel=list(range(num_joints)),
    inference_channel=list(range(num_joints)),
    dataset_info={folder!r} + '/annotations/joints.json',
)
val_split = dict(
    ann_file={folder!r} + '/annotations/mpii_val.json',
    img_prefix={folder!r} + '/images/',
    data_cfg=data_cfg,
)
data = dict(
    train=dict(
        ann_file={folder!r} + '/annotations/mpii_train.json',
        img_prefix={folder!r} + '/images/',
        data_cfg=data_cfg,
    ),
    val=val_split,
    test=val_split,
)
evaluation = dict(metric='{measure}', key_indicator='{measure}')
"""
SHOWN = 10
"""Most faults to print."""


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        "Convert COCO keypoint JSON to MPII's form, or back.",
        'hourglass convert person_keypoints.json --img photos --out data/mine',
        'hourglass convert data/mine --out mine_coco.json',
    )
    parser.add_argument(
        'source', help="a COCO .json, or a folder in MPII's form"
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='PATH',
        help='folder to make (from COCO), or .json to write (back)',
    )
    parser.add_argument(
        '--img',
        metavar='DIR',
        help="folder of COCO's pictures; images of the new folder becomes a "
        'link to it (default: images in the new folder)',
    )
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.1,
        metavar='S',
        help='share of the pictures for validation (default: 0.1)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of the split (default: 0)'
    )
    parser.add_argument(
        '--category', metavar='NAME', help='category, if several have joints'
    )
    parser.add_argument(
        '--joints',
        metavar='INFO',
        help='description of the joints: mpii, coco or a .json file (default: '
        'names, limbs and pairs of the category)',
    )
    parser.add_argument(
        '--split',
        choices=['train', 'val'],
        help='back: only this split (default: both)',
    )
    args = parser.parse_args(argv)
    if not 0 < args.val_share < 1:
        parser.error(f'--val-share {args.val_share}: must be between 0 and 1')
    return args


def from_coco(args):
    """Convert a COCO file into a folder in MPII's form.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.

    Raises:
        UserError: The file, its people or their pictures are wrong; nothing
            is written.
    """
    from hourglass_npu.mpii import coco
    from hourglass_npu.pose.joints import find_joints

    out = os.path.abspath(args.out)
    notes, images = (os.path.join(out, n) for n in ('annotations', 'images'))
    if os.path.lexists(notes):
        raise UserError(f'{notes} exists already: give another --out')
    pictures = os.path.abspath(args.img or images)
    if not os.path.isdir(pictures):
        raise UserError(
            f'there is no folder {pictures}: --img says where the pictures are'
        )
    if pictures != images and os.path.lexists(images):
        raise UserError(f'{images} exists already: leave out --img, or it')
    index = coco.read_index(args.source)
    category = coco.choose_category(index, args.source, args.category)
    if args.joints:
        joints = find_joints(args.joints)
        if len(joints) != len(category['keypoints']):
            raise UserError(
                f'--joints {args.joints} describes {len(joints)} joints, but '
                f'{args.source} has {len(category["keypoints"])}'
            )
    else:
        joints = coco.joints_of_category(category, args.source)
    by_picture, left = _people(args, index, category, joints, pictures)
    train, val = _split(sorted(by_picture), args.val_share, args.seed)
    if not val:
        raise UserError(
            f'{args.source}: {len(by_picture)} picture(s) with people cannot '
            'be split into training and validation'
        )
    splits = {
        split: [person for name in names for person in by_picture[name]]
        for split, names in (('train', train), ('val', val))
    }
    make_folder(out)
    measure = _write(notes, splits, joints)
    if pictures != images:
        os.symlink(pictures, images)
    config = os.path.join(out, 'finetune.py')
    with open(config, 'w', encoding='utf-8') as file:
        file.write(
            CONFIG.format(
                base=CONFIGS / 'hourglass52_mpii_384x384_finetune.py',
                count=len(joints),
                folder=out,
                measure=measure,
            )
        )
    for split, names in (('train', train), ('val', val)):
        print(f'{split}: {len(splits[split])} people in {len(names)} pictures')
    for why, number in left.items():
        print(f'left out: {number} {why}')
    pairs = [
        f'{joints.names[a]}/{joints.names[b]}' for a, b in joints.flip_pairs
    ]
    print(
        f'{len(joints)} joints, {len(joints.limbs)} limbs, pairs: '
        f'{", ".join(pairs) or "none"} ({notes}/joints.json)'
    )
    print(f'evaluation: {measure}; config: {config}')


def _people(args, index, category, joints, folder):
    """Convert and check the people; return them by picture, and the rest."""
    by_picture, faults = {}, []
    left = {}
    sizes = {}
    ids = index.getAnnIds(catIds=[category['id']])
    for annotation in index.loadAnns(ids):
        place = f'{args.source}, annotation {annotation["id"]}'
        image = index.imgs.get(annotation['image_id'])
        why = None
        if annotation.get('iscrowd'):
            why = 'crowds (iscrowd)'
        elif not annotation.get('keypoints') or (
            isinstance(annotation['keypoints'], list)
            and not any(annotation['keypoints'][2::3])
        ):
            why = 'people without a visible joint'
        if why:
            left[why] = left.get(why, 0) + 1
            continue
        if image is None:
            faults.append(f'{place}: no picture {annotation["image_id"]}')
            continue
        person, found = _checked(annotation, image, joints, folder, sizes)
        faults += [f'{place}: {fault}' for fault in found]
        if not found:
            by_picture.setdefault(person['image'], []).append(person)
    if faults:
        more = len(faults) - SHOWN
        listing = ''.join(f'\n  {fault}' for fault in faults[:SHOWN])
        raise UserError(
            f'{len(faults)} fault(s), nothing was converted:{listing}'
            + (f'\n  and {more} more' if more > 0 else '')
        )
    if not by_picture:
        raise UserError(f'{args.source} has no people with joints')
    return by_picture, left


def _checked(annotation, image, joints, folder, sizes):
    """Convert one person; check that it is in its picture."""
    from hourglass_npu.mpii import coco

    person, faults = coco.to_person(annotation, image, len(joints))
    if faults:
        return person, faults
    name = person['image']
    if name not in sizes:
        sizes[name] = _size_of(os.path.join(folder, name))
    if isinstance(sizes[name], str):
        return person, [sizes[name]]
    width, height = sizes[name]
    x, y, w, h = person['bbox']
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        faults.append(
            f'bbox {person["bbox"]} lies outside of {name}, which has '
            f'{width} x {height}'
        )
    return person, faults


def _size_of(path):
    """Return width and height of a picture, or what is wrong with it."""
    from hourglass_npu.pose.images import LARGEST_PICTURE, fault_and_size

    try:
        content = read_bytes(path, LARGEST_PICTURE)
        fault, size = fault_and_size(content, path, decode=False)
    except (OSError, UserError) as error:
        return str(error)
    return size or f'{path}: {fault}'


def _split(names, share, seed):
    """Split pictures; each side gets one, if there are two."""
    names = list(names)
    random.Random(seed).shuffle(names)  # noqa: S311 (no secret)
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    return sorted(names[count:]), sorted(names[:count])


def _write(folder, splits, joints):
    """Write the annotations, all or none; return the name of the measure."""
    import shutil

    from hourglass_npu.mpii.truth import load_truth_of

    partial = folder + '.part'
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.mkdir(partial)
        write_json(os.path.join(partial, 'joints.json'), joints.to_info())
        for split, people in splits.items():
            path = os.path.join(partial, f'mpii_{split}.json')
            write_json(path, people, indent=None)
        truth = load_truth_of(path, len(people), joints)
        _write_mat(os.path.join(partial, 'mpii_gt_val.mat'), truth, joints)
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return truth['measure'].name


def _write_mat(path, truth, joints):
    """Write the truth; the boxes of heads are empty where there are none."""
    import numpy as np

    from hourglass_npu.mpii.pckh import PCKH
    from hourglass_npu.mpii.truth import (
        HEAD_SIZE_FACTOR,
        SHORT_NAMES,
        write_truth,
    )
    from hourglass_npu.pose.joints import MPII

    boxes = np.zeros((len(truth['joints']), 2, 2))
    if truth['measure'] == PCKH:
        # A square around the head whose diagonal gives its length.
        half = truth['sizes'] / HEAD_SIZE_FACTOR / 8**0.5
        middle = truth['joints'][:, list(joints.head)].mean(axis=1)
        boxes = middle[:, None] + half[:, None, None] * [[[-1]], [[1]]]
        boxes[truth['sizes'] == 0] = 0
    names = SHORT_NAMES if joints.names == MPII.names else joints.names
    write_truth(path, names, truth['joints'], truth['visible'], boxes)


def to_coco(args):
    """Convert a folder in MPII's form into a COCO file.

    Args:
        args (argparse.Namespace): From :func:`parse_args`.

    Raises:
        UserError: A person or picture is wrong; nothing is written.
    """
    from hourglass_npu.commands.check import find_description
    from hourglass_npu.mpii import coco
    from hourglass_npu.mpii.people import (
        person_faults,
        person_label,
        read_people,
    )

    joints = find_description(args.source)
    people, sizes = [], {}
    for split in [args.split] if args.split else ['train', 'val']:
        path = os.path.join(args.source, f'annotations/mpii_{split}.json')
        check_output(args.out, ['.json'], [path])
        for number, person in enumerate(read_people(path)):
            faults = person_faults(person, len(joints))
            if not faults and person['scale'] == -1:
                faults = ['it has no box']
            if not faults and person['image'] not in sizes:
                picture = os.path.join(args.source, 'images', person['image'])
                size = _size_of(picture)
                faults = [size] if isinstance(size, str) else []
                sizes[person['image']] = size
            if faults:
                raise UserError(
                    f'{person_label(path, number, person)}: {faults[0]}'
                )
            people.append(person)
    write_json(args.out, coco.to_coco(people, sizes, joints), indent=None)
    coco.read_index(args.out)
    print(f'{args.out}: {len(people)} people in {len(sizes)} pictures')


def main():
    """Convert as the command line says."""
    args = parse_args()
    ensure_packages('numpy', 'cv2', 'PIL', 'scipy', 'xtcocotools')
    if os.path.isdir(args.source):
        to_coco(args)
    else:
        from_coco(args)
