"""The joints of a data set: names, pairs, limbs, colours, rows of scores.

Every part that shows, mirrors or scores joints takes them from a
:class:`Joints`, which is read from a description (see dataset_info.py). Only
the standard library is needed.
"""

import dataclasses
import math
from typing import Dict, Optional, Tuple

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_json
from hourglass_npu.pose import dataset_info

SIDE_COLORS = {
    'left': (0, 114, 178),
    'right': (213, 94, 0),
    'centre': (240, 228, 66),
}
"""RGB, 0-255. Vermilion, blue and yellow of Okabe and Ito ("Color Universal
Design", 2008) differ in every common kind of colour blindness."""

PAIR_SIDES = ('side 1', 'side 2')
"""Sides of a pair whose names say neither left nor right."""

MOST = 1000
"""Joints; no data set has more."""

_LIKE = dict(zip(PAIR_SIDES, ('left', 'right')))


@dataclasses.dataclass(frozen=True)
class Joints:
    """The K joints of a data set. Equal if all parts are equal.

    Use :meth:`from_info`, :meth:`numbered` or :func:`find_joints` to make
    one. ``len()`` gives K.

    Attributes:
        dataset (str): Name of the data set.
        names (tuple[str]): In the order of annotations and heatmaps.
        flip_pairs (tuple[tuple[int, int]]): Joints that change places in a
            mirror.
        limbs (tuple[tuple[int, int]]): Joints that a line connects.
        sides (tuple[str]): The person's own side for each joint: 'left',
            'right' or 'centre'; PAIR_SIDES if the names do not tell.
        colors (tuple[tuple[int, int, int]]): R, G, B of each joint.
        limb_colors (tuple[tuple[int, int, int]]): R, G, B of each limb.
        upper, lower (tuple[int]): Joints of the upper and the lower body.
        weights (tuple[float]): Of the joints in the loss.
        sigmas (tuple[float] | None): COCO's constant of each joint.
        groups (dict[str, tuple[int]]): Rows of the table of scores.
        scored (tuple[int]): Joints that count in the mean score.
        head (tuple[int, int] | None): Joints whose distance is the length of
            the head.
    """

    dataset: str
    names: Tuple[str, ...]
    flip_pairs: tuple
    limbs: tuple
    sides: tuple
    colors: tuple
    limb_colors: tuple
    upper: Tuple[int, ...]
    lower: Tuple[int, ...]
    weights: Tuple[float, ...]
    sigmas: Optional[Tuple[float, ...]]
    groups: Dict[str, Tuple[int, ...]] = dataclasses.field(hash=False)
    scored: Tuple[int, ...]
    head: Optional[Tuple[int, int]]

    def __len__(self):
        return len(self.names)

    @classmethod
    def from_info(cls, info, source='dataset_info'):
        """Read a description.

        Args:
            info (dict): See :mod:`hourglass_npu.pose.dataset_info`. JSON's
                form, whose keys are text, will do.
            source (str): Where it comes from, for messages.

        Returns:
            Joints: The joints.

        Raises:
            UserError: The description is wrong; the message says where.
        """
        return _Reader(info, source).read()

    @classmethod
    def numbered(cls, count, flip_pairs=(), dataset=''):
        """Make joints that have no description.

        Args:
            count (int): K.
            flip_pairs (Sequence[tuple[int, int]]): Joints that change places
                in a mirror.
            dataset (str): Name of the data set.

        Returns:
            Joints: Named 'joint 0' and so on, without limbs.

        Raises:
            UserError: A pair names no joint.
        """
        names = [f'joint {number}' for number in range(count)]
        return cls.named(names, flip_pairs, dataset)

    @classmethod
    def named(cls, names, flip_pairs=(), dataset=''):
        """Make joints of which names and pairs are known.

        Args:
            names (Sequence[str]): Of K joints.
            flip_pairs (Sequence[tuple[int, int]]): Joints that change places
                in a mirror.
            dataset (str): Name of the data set.

        Returns:
            Joints: Without limbs.

        Raises:
            UserError: A name is there twice, or a pair names no joint.
        """
        keypoints = {
            number: dict(name=name, id=number)
            for number, name in enumerate(names)
        }
        for first, second in flip_pairs:
            for one, other in ((first, second), (second, first)):
                if one not in keypoints or other not in keypoints:
                    raise UserError(
                        f'flip_pairs has ({first}, {second}), but there are '
                        f'{len(names)} joints'
                    )
                keypoints[one]['swap'] = keypoints[other]['name']
        info = dict(dataset_name=dataset, keypoint_info=keypoints)
        return cls.from_info(info)

    def to_info(self):
        """Return the description, which JSON and checkpoints can hold.

        Returns:
            dict: :meth:`from_info` makes an equal object from it.
        """
        swaps = {}
        for first, second in self.flip_pairs:
            swaps[first], swaps[second] = second, first
        body = {joint: 'upper' for joint in self.upper}
        body.update({joint: 'lower' for joint in self.lower})
        info = dict(
            dataset_name=self.dataset,
            keypoint_info={
                str(number): dict(
                    name=name,
                    id=number,
                    color=list(self.colors[number]),
                    type=body.get(number, ''),
                    swap=self.names[swaps[number]] if number in swaps else '',
                )
                for number, name in enumerate(self.names)
            },
            skeleton_info={
                str(number): dict(
                    link=[self.names[end] for end in limb],
                    id=number,
                    color=list(self.limb_colors[number]),
                )
                for number, limb in enumerate(self.limbs)
            },
            joint_weights=list(self.weights),
            groups={
                row: [self.names[joint] for joint in joints]
                for row, joints in self.groups.items()
            },
            not_scored=[
                name
                for joint, name in enumerate(self.names)
                if joint not in self.scored
            ],
            head=[self.names[joint] for joint in self.head or ()],
        )
        if self.sigmas:
            info['sigmas'] = list(self.sigmas)
        return info

    def legend(self):
        """Return what the colours mean, as far as sides explain them.

        Returns:
            dict[str, tuple[int, int, int]]: R, G, B by side, for sides whose
            joints have one colour.
        """
        found = {}
        for side, color in zip(self.sides, self.colors):
            found.setdefault(side, set()).add(color)
        sides = [*SIDE_COLORS, *PAIR_SIDES]
        return {
            side: next(iter(found[side]))
            for side in sorted(found, key=sides.index)
            if len(found[side]) == 1 and len(found) > 1
        }


def shorten(value):
    """Return a value for a message, in one short line.

    Args:
        value (Any): Anything.

    Returns:
        str: At most 60 characters.
    """
    text = ' '.join(repr(value)[:200].split())
    return text if len(text) <= 60 else text[:57] + '...'


class _Reader:
    """Read a description, and say what is wrong with it."""

    def __init__(self, info, source):
        self._source = source
        self._info = info
        self._need(isinstance(info, dict), f'must be a dict, not {info!r:.60}')

    def _need(self, holds, text):
        if not holds:
            raise UserError(f'{self._source}: {text}')

    def _list(self, key, count=None):
        """Return a list of the description; None if it is missing."""
        value = self._info.get(key)
        if value is None:
            return None
        self._need(isinstance(value, (list, tuple)), f'{key} must be a list')
        if count is not None:
            self._need(
                len(value) == count,
                f'{key} has {len(value)} numbers for {count} joints',
            )
        return list(value)

    def _entries(self, key):
        """Return the entries of keypoint_info or skeleton_info by id."""
        table = self._info.get(key) or {}
        self._need(isinstance(table, dict), f'{key} must be a dict')
        entries = []
        for place, (name, entry) in enumerate(table.items()):
            self._need(
                isinstance(entry, dict), f'{key}[{name!r}] must be a dict'
            )
            entries.append((entry.get('id', place), entry))
        ids = [number for number, _ in entries]
        whole = all(type(number) is int for number in ids)
        self._need(
            whole and sorted(ids) == list(range(len(ids))),
            f'the ids of {key} must be 0 to {len(ids) - 1}, each once, '
            f'not {shorten(ids)}',
        )
        return [entry for _, entry in sorted(entries, key=lambda e: e[0])]

    def _joint(self, name, place):
        self._need(
            isinstance(name, str) and name in self._ids,
            f'{place} names {shorten(name)}, which is no joint of it',
        )
        return self._ids[name]

    def _joints(self, names, place):
        self._need(isinstance(names, (list, tuple)), f'{place} must be a list')
        return tuple(self._joint(name, place) for name in names)

    def _color(self, entry, place, default):
        color = entry.get('color')
        if color is None:
            return default
        self._need(
            isinstance(color, (list, tuple))
            and len(color) == 3
            and all(type(v) is int and 0 <= v <= 255 for v in color),
            f'{place}: color is {shorten(color)}: must be R, G, B from 0 to '
            '255',
        )
        return tuple(color)

    def read(self):
        joints = self._entries('keypoint_info')
        self._need(
            0 < len(joints) <= MOST,
            f'keypoint_info has {len(joints)} joints: must be 1 to {MOST}',
        )
        names = [joint.get('name') for joint in joints]
        for name in names:
            self._need(
                isinstance(name, str) and 0 < len(name) <= 100,
                f'keypoint_info: name is {shorten(name)}: must be text',
            )
            self._need(
                names.count(name) == 1,
                f'keypoint_info names {name!r} twice',
            )
        self._ids = {name: number for number, name in enumerate(names)}
        pairs = self._pairs(joints)
        sides = _sides(names, pairs)
        usual = [SIDE_COLORS[_LIKE.get(side, side)] for side in sides]
        limbs, limb_colors = self._limbs(sides)
        count = len(names)
        weights = self._list('joint_weights', count) or [1.0] * count
        sigmas = self._list('sigmas', count)
        for key, values in (('joint_weights', weights), ('sigmas', sigmas)):
            for value in values or ():
                self._need(
                    type(value) in (int, float)
                    and math.isfinite(value)
                    and value >= 0,
                    f'{key} has {shorten(value)}: must be a number from 0 up',
                )
        groups = self._groups(names)
        unscored = self._joints(
            self._info.get('not_scored') or (), 'not_scored'
        )
        name = self._info.get('dataset_name', '')
        self._need(
            isinstance(name, str) and len(name) <= 100,
            f'dataset_name is {shorten(name)}: must be text',
        )
        return Joints(
            dataset=name,
            names=tuple(names),
            flip_pairs=pairs,
            limbs=limbs,
            sides=sides,
            colors=tuple(
                self._color(joint, f'keypoint_info, {joint["name"]}', color)
                for joint, color in zip(joints, usual)
            ),
            limb_colors=limb_colors,
            upper=self._of_type(joints, 'upper'),
            lower=self._of_type(joints, 'lower'),
            weights=tuple(map(float, weights)),
            sigmas=sigmas and tuple(map(float, sigmas)),
            groups=groups,
            scored=tuple(j for j in range(count) if j not in unscored),
            head=self._head(names),
        )

    def _pairs(self, joints):
        pairs = []
        for number, joint in enumerate(joints):
            swap = joint.get('swap') or ''
            if swap == '':
                continue
            other = self._joint(swap, f'swap of {joint["name"]}')
            back = joints[other].get('swap')
            self._need(
                back == joint['name'] and other != number,
                f'{joint["name"]} swaps with {swap}, but {swap} with '
                f'{shorten(back or None)}',
            )
            if number < other:
                pairs.append((number, other))
        return tuple(pairs)

    def _limbs(self, sides):
        limbs, colors = [], []
        for number, limb in enumerate(self._entries('skeleton_info')):
            place = f'link {number} of skeleton_info'
            ends = self._joints(limb.get('link'), place)
            self._need(
                len(ends) == 2 and ends[0] != ends[1],
                f'{place} must name two joints',
            )
            # A limb belongs to a side, unless its ends are on two of them.
            found = {sides[end] for end in ends} - {'centre'}
            side = found.pop() if len(found) == 1 else 'centre'
            usual = SIDE_COLORS[_LIKE.get(side, side)]
            limbs.append(ends)
            colors.append(self._color(limb, place, usual))
        return tuple(limbs), tuple(colors)

    def _of_type(self, joints, kind):
        for joint in joints:
            self._need(
                joint.get('type') in (None, '', 'upper', 'lower'),
                f'type of {joint["name"]} is {shorten(joint.get("type"))}: '
                "must be 'upper', 'lower' or ''",
            )
        return tuple(n for n, j in enumerate(joints) if j.get('type') == kind)

    def _groups(self, names):
        given = self._info.get('groups')
        if given is None:
            given = {}
            for name in names:
                row = _plain(name) or name
                row = row[0].upper() + row[1:]
                given.setdefault(row, []).append(name)
        self._need(isinstance(given, dict), 'groups must be a dict')
        groups = {}
        for row, members in given.items():
            self._need(
                isinstance(row, str) and row and members,
                f'groups: {shorten(row)} must have a name and joints',
            )
            groups[row] = self._joints(members, f'groups, {row},')
        return groups

    def _head(self, names):
        given = self._list('head')
        if given is None:
            necks = [n for n in ('upper_neck', 'neck') if n in names]
            given = ['head_top', necks[0]] if necks else ()
            if 'head_top' not in names:
                given = ()
        head = self._joints(given, 'head')
        self._need(
            len(head) in (0, 2) and len(set(head)) == len(head),
            'head must name two joints',
        )
        return head or None


def _words(name):
    return name.replace('-', '_').replace(' ', '_').lower().split('_')


def _side_of(name):
    words = _words(name)
    for side in ('left', 'right'):
        if side in words or side[0] in (words[0], words[-1]):
            return side
    return None


def _plain(name):
    """Return the name of a joint without its side."""
    words = _words(name)
    kept = [w for w in words if w not in ('left', 'right', 'l', 'r')]
    return ' '.join(kept)


def _sides(names, pairs):
    """Return the side of each joint; what has no partner is in the centre."""
    sides = ['centre'] * len(names)
    for pair in pairs:
        said = tuple(_side_of(names[joint]) for joint in pair)
        if set(said) != {'left', 'right'}:
            said = PAIR_SIDES
        for joint, side in zip(pair, said):
            sides[joint] = side
    return tuple(sides)


def read_info(given):
    """Return a description that is given by name, file or itself.

    Args:
        given (dict | str): A description; 'mpii' or 'coco', which ship with
            the package; or a JSON file of one.

    Returns:
        dict: The description, not checked.

    Raises:
        UserError: There is no such description.
    """
    if isinstance(given, dict):
        return given
    if isinstance(given, str) and given in dataset_info.SHIPPED:
        return dataset_info.SHIPPED[given]
    if not isinstance(given, str) or not given.endswith('.json'):
        raise UserError(
            f'dataset_info is {shorten(given)}: must be a dict, '
            f'{", ".join(dataset_info.SHIPPED)}, or a .json file'
        )
    return read_json(given)


def find_joints(given):
    """Read joints that are given by name, file or description.

    Args:
        given (dict | str): See :func:`read_info`.

    Returns:
        Joints: The joints.

    Raises:
        UserError: There is no such description, or it is wrong.
    """
    source = given if isinstance(given, str) else 'dataset_info'
    return Joints.from_info(read_info(given), source)


MPII = Joints.from_info(dataset_info.MPII)
COCO = Joints.from_info(dataset_info.COCO)
