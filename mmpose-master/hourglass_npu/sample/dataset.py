"""Draws a data set in MPII's form: pictures, annotations, ground truth.

Somebody who trains on it learns that the whole chain works, not how people
look. The same seed gives the same bytes with the same versions of NumPy and
OpenCV.
"""

import json
import multiprocessing
import os
import shutil

import cv2
import numpy as np
from scipy.io import savemat

from hourglass_npu.errors import UserError
from hourglass_npu.files import make_folder
from hourglass_npu.sample.picture import draw_demo, draw_picture

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

DRAWING = 1
"""Version of the drawing; another one draws other pictures."""

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_JSON_KEYS = ('joints_vis', 'joints', 'image', 'scale', 'center')
SPLITS = ('train', 'val')


def encode_jpeg(picture):
    """Encodes a picture.

    Args:
        picture (np.ndarray): H x W x 3, uint8, BGR.

    Returns:
        bytes: A JPEG file.
    """
    done, data = cv2.imencode('.jpg', picture, _JPEG)
    if not done:
        raise UserError('OpenCV could not encode a JPEG picture')
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
    for number, split in enumerate(SPLITS):
        for index in range(recipe[split]):
            name = f'{number * 10**8 + index + 1:09d}.jpg'
            seed = [recipe['seed'], number, index]
            tasks.append((split, seed, folder / 'images' / name))
    people = {split: [] for split in SPLITS}
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
        UserError: There is something else at `out`.
    """
    recipe = dict(recipe, drawing=DRAWING)
    card = out / 'sample.json'
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not card.is_file():
            raise UserError(
                f'{out} holds something that this tool has not made; remove '
                'it or name another folder with --out'
            )
        there = json.loads(card.read_text())
        if not force:
            if there == recipe:
                return None
            raise UserError(
                f'{out} was made with {recipe_text(there)}, not with '
                f'{recipe_text(recipe)}; --force makes it anew'
            )
    make_folder(str(out.parent))
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


def recipe_text(recipe):
    """Put a recipe into words.

    Args:
        recipe (dict): See :func:`make_sample`.

    Returns:
        str: One line.
    """
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
