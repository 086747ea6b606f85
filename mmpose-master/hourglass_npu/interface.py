"""The demo as a function of a program: ``from hourglass_npu import Pose``."""

import os

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.pose import boxes as given
from hourglass_npu.pose import decode
from hourglass_npu.pose.backends import (
    BATCH,
    OnnxNetwork,
    TorchNetwork,
    choose_model,
)
from hourglass_npu.pose.images import read_picture
from hourglass_npu.pose.results import describe_people


class Pose:
    """A model that finds the joints of people in pictures.

    ::

        from hourglass_npu import Pose

        pose = Pose('zoo', device='npu')
        people = pose('a.jpg', boxes=[(120, 40, 200, 460)])

    Args:
        model (str | None): A checkpoint, as for ``demo.py --checkpoint``, or
            a file that ends in ``.onnx`` or ``.om``. None takes the latest
            checkpoint of the config.
        config (str | None): Config of a checkpoint; None for the default one.
        device (str | None): 'npu', 'cuda', 'cpu', one with an index
            ('npu:1'), or None for the best there is.
        detector (str | None): ONNX file that finds the people where no boxes
            are given, see :class:`hourglass_npu.pose.detector.Detector`.
        **detection: Further arguments of ``Detector``: ``category``,
            ``threshold``, ``overlap``, ``kind``.

    Attributes:
        joints (tuple[str]): Names of the joints, in the order of the results.
        place (str): What the model runs on, for messages.

    Raises:
        UserError: A file is missing or cannot be used, or the device does
            not exist. It is a ValueError.
    """

    def __init__(
        self, model=None, config=None, device=None, detector=None, **detection
    ):
        model = None if model is None else os.fspath(model)
        if model is not None and model.endswith('.onnx'):
            self._network = OnnxNetwork(model, device)
        elif model is not None and model.endswith('.om'):
            from hourglass_npu.pose.om import OmNetwork

            self._network = OmNetwork(model, device)
        else:
            self._network = TorchNetwork(*choose_model(config, model), device)
        self._detector = None
        if detector is not None:
            from hourglass_npu.pose.detector import Detector

            self._detector = Detector(os.fspath(detector), **detection)
        elif detection:
            raise UserError(f'{", ".join(detection)}: there is no detector')
        self.joints = self._network.settings.joints.names
        self.place = self._network.place

    def __call__(self, pictures, boxes=None):
        """Find the joints of people.

        Args:
            pictures (str | os.PathLike | np.ndarray | Sequence): A file, an
                array [H, W, 3] (8-bit, B G R, as OpenCV reads it), or several
                of these: a list, or an array [B, H, W, 3].
            boxes (Sequence | np.ndarray | None): People of the picture: x, y,
                width and height in pixels, and a score if there is one:
                [N, 4] or [N, 5]. For several pictures a list with the boxes
                of each, None for some. None asks the detector; without one
                the whole picture is one person.

        Returns:
            list: For one picture its people, as ``demo.py --json`` has them:
            dicts with ``number``, ``bbox``, ``score`` and ``keypoints``, a
            list of dicts with ``name``, ``x``, ``y`` and ``score``. For
            several pictures a list of these.

        Raises:
            UserError: A picture cannot be read, or a box is none or lies
                outside of its picture.
        """
        single = isinstance(pictures, (str, os.PathLike)) or (
            isinstance(pictures, np.ndarray) and pictures.ndim < 4
        )
        if single:
            pictures, boxes = [pictures], [boxes]
        elif boxes is None:
            boxes = [None] * len(pictures)
        if len(boxes) != len(pictures):
            raise UserError(
                f'boxes for {len(boxes)} pictures, and there are '
                f'{len(pictures)}'
            )
        found, waiting = [], []
        for number, (source, some) in enumerate(zip(pictures, boxes)):
            picture, name = _picture(source, number)
            people = self._people(picture, some, name)
            crops = ()
            if people:
                settings = self._network.settings
                crops = decode.cut(picture, people, settings)
            waiting.append((people, crops))
            # Crops of a few pictures go together; not of all, for memory.
            if sum(len(people) for people, _ in waiting) >= BATCH:
                found += self._estimate(waiting)
                waiting = []
        found += self._estimate(waiting)
        return found[0] if single else found

    def _people(self, picture, some, name):
        size = self._network.settings.image_size
        if some is not None:
            people = [_person(box, size, name) for box in some]
            given.check_inside(people, picture.shape, name)
            return people
        if self._detector is not None:
            return given.detected(self._detector(picture), size)
        return [given.whole_picture(picture.shape, size)]

    def _estimate(self, waiting):
        """Estimate people whose crops are cut; keep the pictures apart."""
        everyone = [one for people, _ in waiting for one in people]
        poses = None
        if everyone:
            crops = np.concatenate([c for _, c in waiting if len(c)])
            output = self._network(crops)
            settings = self._network.settings
            poses = decode.read(output, everyone, settings).keypoints
        found, at = [], 0
        for people, _ in waiting:
            part = None if poses is None else poses[at : at + len(people)]
            at += len(people)
            found.append(describe_people(people, part, self.joints))
        return found


def _picture(source, number):
    """Return a picture as an array, and its name for messages."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return read_picture(name), name
    name = f'picture {number}'
    if (
        not isinstance(source, np.ndarray)
        or source.dtype != np.uint8
        or source.ndim != 3
        or source.shape[2] != 3
        or not source.size
    ):
        form = getattr(source, 'shape', type(source).__name__)
        raise UserError(
            f'{name}: must be a path or an array [H, W, 3] of 8 bits (BGR), '
            f'not {form} {getattr(source, "dtype", "")}'.rstrip()
        )
    return source, name


def _person(box, size, name):
    try:
        values = [float(v) for v in box]
    except (TypeError, ValueError):
        values = []
    if (
        len(values) not in (4, 5)
        or not np.isfinite(values).all()
        or min(values[2:4]) <= 0
    ):
        raise UserError(
            f'{name}: a box is x, y, width, height and maybe a score, not '
            f'{box!r}'
        )
    score = values[4] if len(values) == 5 else 1.0
    return given.from_box(values, size, score)
