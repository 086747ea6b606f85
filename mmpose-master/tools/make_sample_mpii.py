"""Draws a small data set in the form of MPII, for trials without MPII.

The people are drawn, not photographed: whoever trains on them learns that the
whole chain works, not how people look. The same seed gives the same bytes on
the same versions of NumPy and OpenCV.

    python make_sample_mpii.py                 # data/mpii_sample
    python make_sample_mpii.py --out /tmp/s --train 40 --val 10 --seed 7
    python make_sample_mpii.py --demo          # the picture of demo.py
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from sample_people.picture import draw_demo, draw_picture
from scipy.io import savemat

MPII_JOINTS = (
    'rank',
    'rkne',
    'rhip',
    'lhip',
    'lkne',
    'lank',
    'pelv',
    'thor',
    'neck',
    'head',
    'rwri',
    'relb',
    'rsho',
    'lsho',
    'lelb',
    'lwri',
)
"""The joints' short names in `mpii_gt_val.mat`, in MPII's order."""

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_OUT = ROOT / 'data' / 'mpii_sample'
DEMO = ROOT / 'demo' / 'mpii_demo_img' / 'demo_mpii.jpg'
DRAWING = 1
"""Version of the drawing; another one draws other pictures."""

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_JSON_KEYS = ('joints_vis', 'joints', 'image', 'scale', 'center')
_SPLITS = ('train', 'val')


class SampleError(Exception):
    """Something that whoever called can put right."""


def encode_jpeg(picture):
    """Encodes a picture.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR.

    Returns:
        bytes: A JPEG file.
    """
    done, data = cv2.imencode('.jpg', picture, _JPEG)
    if not done:
        raise SampleError('OpenCV could not encode a JPEG picture')
    return data.tobytes()


def _draw(task):
    """Draws and writes one picture; runs in a worker process.

    Args:
        task (tuple): Split, seed of the picture, file to be written.

    Returns:
        tuple[str, list[dict]]: The split, and the picture's people.
    """
    split, seed, path = task
    picture, people = draw_picture(seed, path.name)
    path.write_bytes(encode_jpeg(picture))
    return split, people


def _one_thread():
    """Keeps each worker's OpenCV to one core: there is a worker for each."""
    cv2.setNumThreads(1)


def _write_json(path, value):
    path.write_text(json.dumps(value) + '\n')


def write_ground_truth(path, people):
    """Writes what MPII's evaluation compares with.

    Args:
        path (Path): The `.mat` file.
        people (list[dict]): N people with `joints`, `joints_vis` and
            `headbox`, counted from 1.
    """
    joints = np.array([one['joints'] for one in people], dtype=float)
    seen = np.array([one['joints_vis'] for one in people], dtype=float)
    boxes = np.array([one['headbox'] for one in people], dtype=float)
    names = np.empty((1, len(MPII_JOINTS)), dtype=object)
    names[0, :] = MPII_JOINTS
    savemat(
        str(path),
        dict(
            dataset_joints=names,  # 1 x 16
            jnt_missing=1 - seen.T,  # 16 x N
            pos_gt_src=joints.transpose(1, 2, 0),  # 16 x 2 x N
            headboxes_src=boxes.transpose(1, 2, 0),
        ),
    )  # corner x (x, y) x N
    # The file begins with 116 bytes of text, where SciPy puts the time of
    # day: the same people would not be the same bytes.
    with path.open('r+b') as file:
        file.write(b'MATLAB 5.0 MAT-file, drawn people'.ljust(116))


def _fill(folder, recipe, workers, progress):
    """Draws the whole data set into an empty folder.

    Args:
        folder (Path): Where to.
        recipe (dict): `seed`, and the number of pictures `train` and `val`.
        workers (int): Processes.
        progress (callable): Is told how many pictures of how many are done.

    Returns:
        dict[str, list[dict]]: The people of each split.
    """
    (folder / 'images').mkdir(parents=True)
    (folder / 'annotations').mkdir()
    tasks = []
    for number, split in enumerate(_SPLITS):
        for index in range(recipe[split]):
            name = f'{number * 10**8 + index + 1:09d}.jpg'
            seed = [recipe['seed'], number, index]
            tasks.append((split, seed, folder / 'images' / name))
    people = {split: [] for split in _SPLITS}
    # Fresh processes, not forks: OpenCV's threads don't survive a fork.
    context = multiprocessing.get_context('spawn')
    with context.Pool(min(workers, len(tasks)), _one_thread) as pool:
        for done, (split, some) in enumerate(pool.imap(_draw, tasks, 4), 1):
            people[split] += some
            progress(done, len(tasks))
    notes = {
        split: [{key: one[key] for key in _JSON_KEYS} for one in some]
        for split, some in people.items()
    }
    notes['trainval'] = notes['train'] + notes['val']
    for split, some in notes.items():
        _write_json(folder / 'annotations' / f'mpii_{split}.json', some)
    write_ground_truth(
        folder / 'annotations' / 'mpii_gt_val.mat', people['val']
    )
    return people


def _alive(pid):
    """Whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sweep(out):
    """Removes what killed runs have left beside `out`."""
    for left in out.parent.glob(f'.{out.name}.*-*'):
        pid = left.name.rpartition('-')[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(str(left), ignore_errors=True)


def make_sample(out, recipe, force=False, workers=1, progress=None):
    """Makes the data set, or leaves it where it is there already.

    It is built beside `out` and renamed when it is complete, so that `out`
    never holds a part of it, whatever happens.

    Args:
        out (Path): The folder to be made.
        recipe (dict): `seed`, and the number of pictures `train` and `val`.
        force (bool): Make it anew where there is one.
        workers (int): Processes.
        progress (callable): See `_fill`.

    Returns:
        dict[str, list[dict]] | None: The people of each split; None when a
        data set of this recipe was there.

    Raises:
        SampleError: There is something else at `out`.
    """
    recipe = dict(recipe, drawing=DRAWING)
    card = out / 'sample.json'
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not card.is_file():
            raise SampleError(
                f'{out} holds something that this tool has not made; remove '
                'it or name another folder with --out'
            )
        there = json.loads(card.read_text())
        if not force:
            if there == recipe:
                return None
            raise SampleError(
                f'{out} was made with {_recipe_text(there)}, not with '
                f'{_recipe_text(recipe)}; --force makes it anew'
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    making = out.with_name(f'.{out.name}.making-{os.getpid()}')
    old = out.with_name(f'.{out.name}.old-{os.getpid()}')
    try:
        people = _fill(making, recipe, workers, progress or (lambda *_: None))
        _write_json(making / 'sample.json', recipe)
        if out.exists():
            out.rename(old)
        making.rename(out)
    finally:
        for left in (making, old):
            shutil.rmtree(str(left), ignore_errors=True)
    return people


def _recipe_text(recipe):
    return ', '.join(f'{key} {value}' for key, value in sorted(recipe.items()))


def make_demo(path):
    """Draws the demo picture and its annotations.

    Args:
        path (Path): The `.jpg` file; the `.json` file is written beside it.

    Returns:
        int: Number of people.
    """
    picture, people = draw_demo(path.name)
    notes = [
        {key: one[key] for key in _JSON_KEYS + ('bbox',)} for one in people
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notes, indent=1) + '\n'
    for file, data in (
        (path, encode_jpeg(picture)),
        (path.with_suffix('.json'), text.encode()),
    ):
        part = file.with_name(f'.{file.name}.{os.getpid()}')
        try:
            part.write_bytes(data)
            os.replace(str(part), str(file))
        finally:
            if part.exists():
                part.unlink()
    return len(people)


def _tell_progress(done, total):
    """Says about every tenth of the work that it is done."""
    if done == total or done * 10 // total > (done - 1) * 10 // total:
        print(f'  {done} of {total} pictures', flush=True)


def parse_args(argv=None):
    """Reads the command line.

    Args:
        argv (list[str] | None): Arguments; None for the process's own.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        description='Draws a small data set in the form of MPII.'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=DEFAULT_OUT,
        help='folder to be made (default: %(default)s)',
    )
    parser.add_argument(
        '--train',
        type=int,
        default=400,
        metavar='N',
        help='pictures to train on, of one to four people each '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--val',
        type=int,
        default=60,
        metavar='N',
        help='pictures held out (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        help='another number draws other people (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(os.cpu_count() or 1, 16),
        metavar='N',
        help='processes; they change nothing but the time '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--force', action='store_true', help='make anew what is there'
    )
    parser.add_argument(
        '--demo',
        action='store_true',
        help=f'make {DEMO.name} and its .json instead',
    )
    args = parser.parse_args(argv)
    for name in ('train', 'val', 'workers'):
        value = getattr(args, name)
        if value < 1:
            parser.error(f'--{name} must be at least 1, not {value}')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed must be from 0 to {2**32 - 1}, not {args.seed}')
    return args


def main(argv=None):
    """Runs the command.

    Args:
        argv (list[str] | None): Arguments; None for the process's own.

    Returns:
        int: Exit status.
    """
    args = parse_args(argv)
    start = time.time()
    try:
        if args.demo:
            print(f'{DEMO}: {make_demo(DEMO)} people')
            return 0
        recipe = dict(seed=args.seed, train=args.train, val=args.val)
        out = args.out.absolute()
        print(f'Sample data: {out}', flush=True)
        people = make_sample(
            out, recipe, args.force, args.workers, _tell_progress
        )
    except (SampleError, OSError) as error:
        print(f'make_sample_mpii: {error}', file=sys.stderr)
        return 1
    if people is None:
        known = _recipe_text(recipe)
        print(f'  there already ({known}); --force makes it anew')
    else:
        for split in _SPLITS:
            count = len(people[split])
            print(f'  {split}: {count} people in {recipe[split]} pictures')
        print(f'  made in {time.time() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
