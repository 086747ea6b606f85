"""What the doctor says, and its checks of the data and of the room."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

from hourglass_npu.commands.check import PEOPLE

ROOT = Path(__file__).resolve().parent.parent

GB = 10**9
# 94.85 M weights and two moments of each in fp32; the last three stay, the
# best, and one from inside of an epoch.
CHECKPOINT = 1.14 * GB
CHECKPOINTS = 5
# Data-loader workers hand a batch of 32 over in shared memory: 57 MB as fp32.
SHARED_MEMORY = 1 * GB

Finding = namedtuple('Finding', 'check severity text remedy')
"""What a check has found; ``remedy`` is empty only where all is well."""


def ok(check, text):
    """Return a finding that asks for nothing."""
    return Finding(check, 'ok', text, '')


def check_data(host):
    """Whether MPII is there, with every picture; check_mpii.py opens them."""
    named = os.environ.get('MPII_ROOT')
    folder = Path(named or ROOT / 'mmpose-master/data/mpii').expanduser()
    if not folder.is_dir():
        yield Finding(
            'data',
            'error' if named else 'note',
            f'there is no {folder}',
            'the part "Data" of README.md says where to get it; bash '
            'scripts/train_1p.sh --sample needs none',
        )
        return
    faults = []
    sizes = _sizes_in(folder / 'images')
    people = []
    for split, expected in PEOPLE.items():
        name = f'mpii_{split}.json'
        count, missing, fault = _read_annotations(folder, name, sizes)
        if fault is None and missing:
            fault = (
                f'{len(missing)} pictures of {name} are missing or empty, '
                f'such as {missing[0]}'
            )
        faults += [fault] if fault else []
        if fault is None and count != expected:
            yield Finding(
                'data',
                'warning',
                f'{folder}: {name} holds {count} people; of MPII it is '
                f'{expected}',
                'well if these are data of your own',
            )
        people.append(f'{count} people in {name}')
    truth = folder / 'annotations/mpii_gt_val.mat'
    if not truth.exists():
        yield Finding(
            'data',
            'warning',
            f'{folder}: annotations/mpii_gt_val.mat is missing: PCKh takes '
            'the heads of the annotations',
            "well if these are data of your own; MPII's comes with it",
        )
    elif not truth.is_file() or not truth.stat().st_size:
        faults.append('annotations/mpii_gt_val.mat is empty')
    for fault in faults:
        yield Finding(
            'data',
            'error',
            f'{folder}: {fault}',
            'unpack it once more, and see what python3 '
            'mmpose-master/tools/check_mpii.py says',
        )
    if not faults:
        yield ok('data', f'{folder}: {", ".join(people)}')


def _sizes_in(folder):
    """Return the size of each file of a folder, by its name."""
    try:
        with os.scandir(str(folder)) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    except OSError:
        return {}


def _read_annotations(folder, name, sizes):
    """Count the people of a split and look for their pictures.

    Returns:
        tuple[int, list[str], str | None]: People, pictures that are missing
        or empty, and what is wrong with the file itself.
    """
    try:
        path = folder / 'annotations' / name
        if not path.is_file() or path.stat().st_size > GB:
            raise OSError(f'{path} is no file')
        people = json.loads(path.read_text(encoding='utf-8-sig'))
        images = sorted({person['image'] for person in people})
    except OSError:
        return 0, [], f'annotations/{name} is missing or cannot be read'
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0, [], f'annotations/{name} is not what mmpose publishes'
    return len(people), [i for i in images if not sizes.get(i)], None


def check_room(host):
    """Whether checkpoints and the data workers' batches have room."""
    folder = ROOT / 'mmpose-master'
    work_dirs = folder / 'work_dirs'
    free = shutil.disk_usage(str(work_dirs if work_dirs.is_dir() else folder))
    text = f'{free.free / GB:.0f} GB free for checkpoints'
    all_of_them = CHECKPOINT * CHECKPOINTS
    if free.free < all_of_them:
        yield Finding(
            'disk',
            'error' if free.free < 2 * CHECKPOINT else 'warning',
            f'{text}; one takes {CHECKPOINT / GB:.1f} GB, a whole training '
            f'keeps {CHECKPOINTS} of them',
            'make room, name another place with --work-dir, or keep fewer: '
            '--cfg-options checkpoint_config.max_keep_ckpts=2',
        )
    else:
        yield ok('disk', text)
    shared = Path('/dev/shm')  # noqa: S108 (looked at, not written to)
    if shared.is_dir():
        size = shutil.disk_usage(str(shared)).free
        text = f'{size / GB:.1f} GB free in /dev/shm'
        if size < SHARED_MEMORY:
            yield Finding(
                'shared memory',
                'warning',
                f'{text}: data workers die of a bus error where it is full',
                'in a container: --shm-size=8g, or --ipc=host',
            )
        else:
            yield ok('shared memory', text)
