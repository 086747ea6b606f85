"""Checks MPII's files before a training does: ``check_mpii.py [FOLDER]``.

Looks at the folders, every person of the annotations, every picture to its
last pixel, and at the ground truth beside the annotations that it belongs to.
What would stop or spoil a training or an evaluation is a fault; what is odd,
but has its place in MPII too, is a remark.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.errors import UserError
from hourglass_npu.files import check_folder_of, write_json
from hourglass_npu.options import count, parse
from hourglass_npu.paths import MMPOSE_ROOT

PEOPLE = dict(train=22246, val=2958)
"""People of MPII's two splits, as the reference results are made with."""

SPLITS = ('train', 'val', 'trainval', 'test')
NEEDED = ('train', 'val')
SHOWN = 20
"""Messages of a kind that are printed; --json has them all."""


def parse_args(argv=None):
    """Parses the command line.

    Args:
        argv (list[str] | None): Arguments; None takes ``sys.argv``.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        description='Check the files of MPII.', allow_abbrev=False
    )
    parser.add_argument(
        'folder',
        nargs='?',
        help='the folder that holds images/ and annotations/ (default: '
        'MPII_ROOT, else mmpose-master/data/mpii)',
    )
    parser.add_argument(
        '--no-pictures',
        action='store_true',
        help='leave out decoding the pictures, which takes the longest',
    )
    parser.add_argument(
        '--workers',
        type=count,
        metavar='N',
        help='processes that decode pictures (default: one for each core)',
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the whole report to FILE as JSON'
    )
    return parse(parser, argv)


class Report:
    """Collects what is found.

    Attributes:
        files (dict[str, dict]): Numbers of people and pictures by file.
        faults (list[str]): In the words in which they are printed.
        remarks (list[str]): Likewise.
    """

    def __init__(self):
        self.files = {}
        self.faults = []
        self.remarks = []

    def print(self):
        """Prints the report; of many messages the first ones."""
        for name, facts in self.files.items():
            numbers = ', '.join(f'{n} {what}' for what, n in facts.items())
            print(f'{name}: {numbers}')
        for kind in ('faults', 'remarks'):
            messages = getattr(self, kind)
            for message in messages[:SHOWN]:
                print(f'{kind[:-1]}: {message}')
            if len(messages) > SHOWN:
                print(f'... and {len(messages) - SHOWN} more {kind} (--json)')
        print(
            f'{len(self.faults)} fault(s), {len(self.remarks)} remark(s): '
            + ('not fit for use' if self.faults else 'fit for use')
        )


def check_annotations(folder, report):
    """Checks the people of all annotation files.

    Args:
        folder (str): Of MPII.
        report (Report): Gets what is found.

    Returns:
        dict[str, list]: Sound people by split, with their places: tuples of
        index and person.
    """
    from mmpose.datasets.datasets.top_down import topdown_mpii_dataset as mpii

    sound = {}
    for split in SPLITS:
        path = os.path.join(folder, 'annotations', f'mpii_{split}.json')
        if not os.path.isfile(path):
            found = report.faults if split in NEEDED else report.remarks
            found.append(f'{path} is missing')
            continue
        try:
            people = mpii.read_people(path)
        except (OSError, ValueError) as error:
            report.faults.append(str(error))
            continue
        sound[split] = []
        for index, person in enumerate(people):
            # Where the joints of test people are is not public.
            faults = mpii.person_faults(person, joints=split != 'test')
            label = mpii.person_label(path, index, person)
            report.faults += [f'{label}: {fault}' for fault in faults]
            if not faults:
                sound[split].append((index, person))
        pictures = {person['image'] for _, person in sound[split]}
        report.files[path] = dict(people=len(people), pictures=len(pictures))
        if not people:
            report.faults.append(f'{path} has no people')
        elif len(people) != PEOPLE.get(split, len(people)):
            report.remarks.append(
                f'{path} has {len(people)} people; MPII has {PEOPLE[split]}'
            )
    return sound


def check_truth(folder, people, report):
    """Compares the ground truth with the annotations of the same people.

    Args:
        folder (str): Of MPII.
        people (list | None): Sound people of mpii_val.json with their places.
        report (Report): Gets what is found.
    """
    import numpy as np
    from mmpose.datasets.datasets.top_down import topdown_mpii_dataset as mpii

    annotations = os.path.join(folder, 'annotations', 'mpii_val.json')
    if people is None:
        return
    if not os.path.isfile(mpii.truth_path(annotations)):
        report.faults.append(f'{mpii.truth_path(annotations)} is missing')
        return
    try:
        truth = mpii.load_truth_of(
            annotations, report.files[annotations]['people']
        )
    except (OSError, ValueError) as error:
        report.faults.append(str(error))
        return
    path = mpii.truth_path(annotations)
    report.files[path] = dict(people=len(truth['joints']))
    headless = int((truth['head_sizes'] == 0).sum())
    if headless:
        report.remarks.append(
            f'{path}: {headless} people have no head box and are not counted'
        )
    if not people:
        return
    places = [index for index, _ in people]
    joints = np.array([person['joints'] for _, person in people], float)
    visible = np.array([person['joints_vis'] for _, person in people], bool)
    both = visible & truth['visible'][places]
    apart = np.linalg.norm(joints - truth['joints'][places], axis=-1) > 1
    wrong = int((apart & both).sum())
    if wrong:
        # One wrong joint may be a slip; many are other people, or another
        # order of them.
        found = report.faults if wrong > both.sum() / 100 else report.remarks
        first = places[int((apart & both).any(1).argmax())]
        found.append(
            f'{path}: {wrong} of {int(both.sum())} joints lie elsewhere than '
            f'in {annotations}, first those of person {first}'
        )
    unlike = int((visible != truth['visible'][places]).sum())
    if unlike:
        report.remarks.append(
            f'{path}: {unlike} joints are visible there or in {annotations}, '
            'but not in both'
        )


def look_at_picture(path):
    """Decodes a picture to its end.

    Args:
        path (str): The file.

    Returns:
        tuple: What is wrong or None, and width and height or None.
    """
    from mmpose.datasets.pipelines.loading import fault_and_size

    try:
        with open(path, 'rb') as file:
            return fault_and_size(file.read())
    except OSError as error:
        return error.strerror, None


def check_pictures(folder, people, report, workers):
    """Decodes every picture, and looks where people are in it.

    Args:
        folder (str): Of MPII.
        people (dict[str, list]): From :func:`check_annotations`.
        report (Report): Gets what is found.
        workers (int): Processes.
    """
    root = os.path.join(folder, 'images')
    if not os.path.isdir(root):
        report.faults.append(f'the folder {root} is missing')
        return
    names = {p['image'] for split in people.values() for _, p in split}
    names = sorted(names)
    paths = [os.path.join(root, name) for name in names]
    sizes = {}
    for name, path, (fault, size) in zip(
        names, paths, _mapped(paths, workers)
    ):
        if fault:
            report.faults.append(f'{path}: {fault}')
        elif size:
            sizes[name] = size
    report.files[root] = dict(pictures=len(sizes))
    for split in people:
        path = os.path.join(folder, 'annotations', f'mpii_{split}.json')
        for index, person in people[split]:
            if person['image'] in sizes:
                _check_place(path, index, person, sizes, report)
    unused = len(set(os.listdir(root)) - set(names))
    if unused:
        report.remarks.append(f'{root}: nobody is in {unused} of the files')


def _check_place(path, index, person, sizes, report):
    """Checks whether a person is in the picture."""
    from mmpose.datasets.datasets.top_down import topdown_mpii_dataset as mpii

    label = mpii.person_label(path, index, person)
    width, height = sizes[person['image']]
    x, y = person['center']
    reach = 100 * person['scale']
    if person['scale'] != -1 and not (
        -reach < x < width + reach and -reach < y < height + reach
    ):
        report.faults.append(
            f'{label}: the box around ({x}, {y}) lies outside the picture of '
            f'{width} x {height}'
        )
    for joint, (point, visible) in enumerate(
        zip(person.get('joints', ()), person.get('joints_vis', ()))
    ):
        if visible and not (
            0 <= point[0] <= width and 0 <= point[1] <= height
        ):
            report.remarks.append(
                f'{label}: joint {joint} at ({point[0]}, {point[1]}) lies '
                f'outside the picture of {width} x {height}'
            )


def _mapped(paths, workers):
    """Results of look_at_picture in order, with a bar of their progress."""
    if workers == 1:
        yield from _with_progress(map(look_at_picture, paths), len(paths))
        return
    # An executor notices a worker that dies; a Pool waits for ever.
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context('spawn')
    ) as executor:
        results = executor.map(look_at_picture, paths, chunksize=16)
        yield from _with_progress(results, len(paths))


def _with_progress(results, total):
    """Passes results on; on a terminal a line says how far it is."""
    shows = sys.stderr.isatty()
    begun = said = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if shows and (now - said > 0.2 or done == total):
            said = now
            bar = '#' * (30 * done // total)
            left = (now - begun) / done * (total - done)
            print(
                f'\r[{bar:30}] {done} of {total} pictures, {left:.0f} s left ',
                end='\n' if done == total else '',
                file=sys.stderr,
                flush=True,
            )


def main():
    """Checks as the command line says."""
    args = parse_args()
    ensure_packages()
    folder = args.folder or os.environ.get('MPII_ROOT')
    folder = os.path.expanduser(folder or str(MMPOSE_ROOT / 'data/mpii'))
    if not os.path.isdir(folder):
        raise UserError(f'there is no folder {folder}')
    if args.json:
        check_folder_of(args.json)
    report = Report()
    people = check_annotations(folder, report)
    check_truth(folder, people.get('val'), report)
    if not args.no_pictures:
        workers = args.workers or len(os.sched_getaffinity(0))
        check_pictures(folder, people, report, workers)
    report.print()
    if args.json:
        write_json(args.json, dict(vars(report), folder=folder))
    if report.faults:
        sys.exit(1)
