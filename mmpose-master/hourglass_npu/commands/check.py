"""Check a data set in MPII's form: ``hourglass check [FOLDER]``.

Check the folders, every person of the annotations, every picture to its last
pixel, and the ground truth against its annotations. A fault stops or spoils a
training or an evaluation. A remark is unusual, but occurs in MPII too.
"""

import concurrent.futures
import glob
import multiprocessing
import os
import sys

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.errors import UserError
from hourglass_npu.files import check_output, read_bytes, write_json
from hourglass_npu.mpii.people import (
    person_faults,
    person_label,
    read_people,
)
from hourglass_npu.options import Parser, count
from hourglass_npu.paths import MMPOSE_ROOT
from hourglass_npu.pose.joints import MPII, find_joints

PEOPLE = dict(train=22246, val=2958)
"""People of MPII's two splits, on which the reference results are based."""

SPLITS = ('train', 'val', 'trainval', 'test')
NEEDED = ('train', 'val')
SHOWN = 20
"""Most messages of one kind to print; --json has all."""


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Check the files of MPII, or of a data set in its form.',
        'hourglass check',
        'hourglass check /data/mpii',
    )
    parser.add_argument(
        'folder',
        nargs='?',
        help='folder with images/ and annotations/ (default: '
        'MPII_ROOT, else mmpose-master/data/mpii)',
    )
    parser.add_argument(
        '--no-pictures',
        action='store_true',
        help='do not decode the pictures, which takes the longest',
    )
    parser.add_argument(
        '--workers',
        type=count,
        metavar='N',
        help='processes that decode pictures (default: one per core)',
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the whole report to FILE as JSON'
    )
    return parser.parse_args(argv)


class Report:
    """The results of the check.

    Attributes:
        files (dict[str, dict]): Numbers of people and pictures by file.
        faults (list[str]): Messages.
        remarks (list[str]): Messages.
    """

    def __init__(self):
        self.files = {}
        self.faults = []
        self.remarks = []

    def print(self):
        """Print the report, with the first messages of each kind."""
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


def find_description(folder):
    """Return the joints of a data set.

    Args:
        folder (str): Of the data set. ``hourglass convert`` leaves a
            description in ``annotations/joints.json``.

    Returns:
        Joints: MPII's without a description.
    """
    path = os.path.join(folder, 'annotations', 'joints.json')
    return find_joints(path) if os.path.exists(path) else MPII


def check_annotations(folder, joints, report):
    """Check the people of all annotation files.

    Args:
        folder (str): Of the data set.
        joints (Joints): Of it.
        report (Report): Gets the results.

    Returns:
        dict[str, list[tuple[int, dict]]]: Index and person of all sound
        people, by split.
    """
    sound = {}
    for split in SPLITS:
        path = os.path.join(folder, 'annotations', f'mpii_{split}.json')
        if not os.path.isfile(path):
            found = report.faults if split in NEEDED else report.remarks
            found.append(f'{path} is missing')
            continue
        try:
            people = read_people(path)
        except (OSError, UserError) as error:
            report.faults.append(str(error))
            continue
        sound[split] = []
        for index, person in enumerate(people):
            # The joints of test people are not public.
            faults = person_faults(
                person, 0 if split == 'test' else len(joints)
            )
            label = person_label(path, index, person)
            report.faults += [f'{label}: {fault}' for fault in faults]
            if not faults:
                sound[split].append((index, person))
        pictures = {person['image'] for _, person in sound[split]}
        report.files[path] = dict(people=len(people), pictures=len(pictures))
        if not people:
            report.faults.append(f'{path} has no people')
        elif joints is MPII and len(people) != PEOPLE.get(split, len(people)):
            report.remarks.append(
                f'{path} has {len(people)} people; MPII has {PEOPLE[split]}'
            )
    return sound


def check_truth(folder, people, joints, report):
    """Compare the ground truth with the annotations of the same people.

    Args:
        folder (str): Of MPII.
        people (list[tuple[int, dict]] | None): Index and person of the sound
            people of mpii_val.json.
        joints (Joints): Of the data set.
        report (Report): Gets the results.
    """
    import numpy as np

    from hourglass_npu.mpii.pckh import PCKH
    from hourglass_npu.mpii.truth import load_truth_of, truth_path

    annotations = os.path.join(folder, 'annotations', 'mpii_val.json')
    if people is None:
        return
    path = truth_path(annotations)
    there = os.path.isfile(path)
    if not there and len(people) < report.files[annotations]['people']:
        return  # what is wrong with the others has been said
    try:
        truth = load_truth_of(
            annotations, report.files[annotations]['people'], joints
        )
    except (OSError, UserError) as error:
        report.faults.append(str(error))
        return
    measure = truth['measure']
    if not there:
        report.remarks.append(
            f'{path} is missing: {measure.name} will be measured by '
            f'{truth["basis"]}'
        )
        return
    report.files[path] = dict(people=len(truth['joints']))
    uncounted = int((truth['sizes'] == 0).sum())
    if measure != PCKH:
        report.remarks.append(
            f'{path} has no head boxes: {measure.name} will be measured by '
            f'{truth["basis"]}'
        )
    elif uncounted:
        report.remarks.append(
            f'{path}: {uncounted} people have no head box and do not count'
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
        # One wrong joint can be a slip; many mean other people, or another
        # order.
        found = report.faults if wrong > both.sum() / 100 else report.remarks
        first = places[int((apart & both).any(1).argmax())]
        found.append(
            f'{path}: {wrong} of {int(both.sum())} joints differ from those '
            f'in {annotations}, first at person {first}'
        )
    unlike = int((visible != truth['visible'][places]).sum())
    if unlike:
        report.remarks.append(
            f'{path}: {unlike} joints are visible there or in {annotations}, '
            'but not in both'
        )


def look_at_picture(path):
    """Decode a picture to its end.

    Args:
        path (str): The file.

    Returns:
        tuple[str | None, tuple[int, int] | None]: What is wrong, with the
        path, or None; width and height, or None.
    """
    from hourglass_npu.pose.images import LARGEST_PICTURE, fault_and_size

    try:
        content = read_bytes(path, LARGEST_PICTURE)
        fault, size = fault_and_size(content, path)
    except (OSError, UserError) as error:
        return str(error), None
    return fault and f'{path}: {fault}', size


def check_pictures(folder, people, report, workers):
    """Decode every picture, and compare its size with its people.

    Args:
        folder (str): Of MPII.
        people (dict[str, list]): See :func:`check_annotations`.
        report (Report): Gets the results.
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
    for name, (fault, size) in zip(names, _mapped(paths, workers)):
        if fault:
            report.faults.append(fault)
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
        report.remarks.append(f'{root}: {unused} files show no person')


def _check_place(path, index, person, sizes, report):
    """Check that a person is in the picture."""
    label = person_label(path, index, person)
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
    """Yield the results of look_at_picture, in order, with a progress bar."""
    from tqdm import tqdm

    # None: only on a terminal.
    bar = dict(total=len(paths), unit=' pictures', disable=None)
    if workers == 1:
        yield from tqdm(map(look_at_picture, paths), **bar)
        return
    # An executor notices a worker that dies; a Pool waits for ever.
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context('spawn')
    ) as executor:
        yield from tqdm(
            executor.map(look_at_picture, paths, chunksize=16), **bar
        )


def inputs_in(folder):
    """List the files that are checked, apart from the pictures.

    Args:
        folder (str): The data set.

    Returns:
        list[str]: Paths of annotations and truth.
    """
    return glob.glob(os.path.join(glob.escape(folder), '**', '*.json')) + [
        os.path.join(folder, 'mpii_gt_val.mat')
    ]


def main():
    """Check as the command line says."""
    args = parse_args()
    ensure_packages('numpy', 'cv2', 'PIL', 'scipy', 'tqdm')
    folder = args.folder or os.environ.get('MPII_ROOT')
    folder = os.path.expanduser(folder or str(MMPOSE_ROOT / 'data/mpii'))
    if not os.path.isdir(folder):
        raise UserError(f'there is no folder {folder}')
    if args.json:
        check_output(args.json, ['.json'], inputs_in(folder))
    report = Report()
    joints = find_description(folder)
    people = check_annotations(folder, joints, report)
    check_truth(folder, people.get('val'), joints, report)
    if not args.no_pictures:
        workers = args.workers or len(os.sched_getaffinity(0))
        check_pictures(folder, people, report, workers)
    report.print()
    if args.json:
        write_json(args.json, dict(vars(report), folder=folder))
    if report.faults:
        sys.exit(1)
