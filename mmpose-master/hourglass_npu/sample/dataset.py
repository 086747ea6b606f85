"""Draw a data set in MPII's form: pictures, annotations, ground truth.

It shows that training works as a whole; it does not teach what people look
like. The same seed gives the same bytes with the same versions of NumPy and
OpenCV.
"""

import json
import multiprocessing
import os
import shutil

import cv2
import numpy as np
from tqdm import tqdm

from hourglass_npu import lifetime
from hourglass_npu.errors import UserError
from hourglass_npu.files import make_folder, read_json, replaced
from hourglass_npu.mpii.truth import SHORT_NAMES, write_truth
from hourglass_npu.sample.picture import draw_demo, draw_picture

DRAWING = 1
"""Version of the drawing; every change of the pictures needs another one."""

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_JSON_KEYS = ('joints_vis', 'joints', 'image', 'scale', 'center')
SPLITS = ('train', 'val')


def encode_jpeg(picture):
    """Encode a picture.

    Args:
        picture (np.ndarray[H, W, 3]): 8-bit BGR.

    Returns:
        bytes: A JPEG file.
    """
    return cv2.imencode('.jpg', picture, _JPEG)[1].tobytes()


def _draw(task):
    """Draw and write one picture; runs in a worker process.

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
    """Limit OpenCV to one core, as there is a worker for each."""
    cv2.setNumThreads(1)


def _write_json(path, value):
    path.write_text(json.dumps(value) + '\n')


def write_ground_truth(path, people):
    """Write the ground truth of an evaluation.

    Args:
        path (Path): The ``.mat`` file.
        people (list[dict]): N people with ``joints``, ``joints_vis`` and
            ``headbox``, counted from 1.
    """
    joints = np.array([one['joints'] for one in people], dtype=float)
    seen = np.array([one['joints_vis'] for one in people], dtype=float)
    boxes = np.array([one['headbox'] for one in people], dtype=float)
    write_truth(str(path), SHORT_NAMES, joints, seen, boxes)


def _fill(folder, recipe, workers):
    """Draw the whole data set into an empty folder.

    Args:
        folder (Path): The folder.
        recipe (dict): ``seed``, and the number of pictures ``train`` and
            ``val``.
        workers (int): Processes.

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
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context('spawn')
    with context.Pool(min(workers, len(tasks)), _one_thread) as pool:
        # A progress bar, only on a terminal.
        bar = dict(total=len(tasks), unit=' pictures', disable=None)
        for split, some in tqdm(pool.imap(_draw, tasks, 4), **bar):
            people[split] += some
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


def _sweep(out):
    """Remove what killed runs have left beside ``out``."""
    for left in out.parent.glob(f'.{out.name}.*-*'):
        pid = left.name.rpartition('-')[2]
        if pid.isdigit() and lifetime.identify(pid) is None:
            shutil.rmtree(str(left), ignore_errors=True)


def make_sample(out, recipe, force=False, workers=1):
    """Draw the data set, unless it exists.

    It is drawn beside ``out`` and renamed when it is complete, so that
    ``out`` never contains only a part of it.

    Args:
        out (Path): Its folder.
        recipe (dict): ``seed``, and the number of pictures ``train`` and
            ``val``.
        force (bool): Replace an existing data set.
        workers (int): Processes.

    Returns:
        dict[str, list[dict]] | None: The people of each split; None if a
        data set of this recipe exists.

    Raises:
        UserError: ``out`` contains something else.
    """
    recipe = dict(recipe, drawing=DRAWING)
    card = out / 'sample.json'
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not card.is_file():
            raise UserError(
                f'{out} contains files that this command has not made; remove '
                'it, or give another folder with --out'
            )
        there = read_json(str(card))
        if not isinstance(there, dict):
            raise UserError(f'{card} is no recipe; remove {out}')
        if not force:
            if there == recipe:
                return None
            raise UserError(
                f'{out} was made with {recipe_text(there)}, not with '
                f'{recipe_text(recipe)}; replace it with --force'
            )
    make_folder(str(out.parent))
    _sweep(out)
    making = out.with_name(f'.{out.name}.making-{os.getpid()}')
    old = out.with_name(f'.{out.name}.old-{os.getpid()}')
    try:
        people = _fill(making, recipe, workers)
        _write_json(making / 'sample.json', recipe)
        if out.exists():
            # Perhaps another process was faster, and others read it now.
            if not force and card.is_file() and read_json(card) == recipe:
                return None
            out.rename(old)
        making.rename(out)
    finally:
        for left in (making, old):
            shutil.rmtree(str(left), ignore_errors=True)
    return people


def recipe_text(recipe):
    """Describe a recipe.

    Args:
        recipe (dict): See :func:`make_sample`.

    Returns:
        str: One line.
    """
    return ', '.join(f'{key} {value}' for key, value in sorted(recipe.items()))


def make_demo(path):
    """Draw the demo picture and its annotations.

    Args:
        path (Path): The ``.jpg`` file; the ``.json`` file gets the same name.

    Returns:
        int: Number of people.
    """
    picture, people = draw_demo(path.name)
    notes = [
        {key: one[key] for key in _JSON_KEYS + ('bbox',)} for one in people
    ]
    make_folder(str(path.parent))
    text = json.dumps(notes, indent=1) + '\n'
    for file, data in (
        (path, encode_jpeg(picture)),
        (path.with_suffix('.json'), text.encode()),
    ):
        with replaced(str(file)) as part, open(part, 'wb') as stream:
            stream.write(data)
    return len(people)
