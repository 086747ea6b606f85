"""Find people with a detector that was exported to ONNX.

The form of its output tells how a file is fed and read:

============================== ====================== ======================
outputs                        exported from          fed with
============================== ====================== ======================
[1,N,5] and [1,N]              RTMDet, by mmdeploy    BGR minus mean over std
[1,N,4] and [1,N,C]            the same, no overlap   the same
                               test inside
[1,N,5+C], one row for each    YOLOX                  BGR, 0 to 255
cell
[1,N,5+C], other N             YOLOv5                 RGB, 0 to 1
[1,4+C,N]                      YOLOv8 and later       RGB, 0 to 1
[1,N,6], few rows              the same, with the     RGB, 0 to 1
                               overlap test inside
============================== ====================== ======================

A cell is a square of 8, 16 or 32 pixels, in files for large pictures of 64
too. The picture is scaled to fit and filled up with grey: at the right and at
the bottom for RTMDet and YOLOX, on all sides for the others.
"""

import os

import cv2
import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes
from hourglass_npu.pose import onnx_file
from hourglass_npu.pose.sessions import shortened, start_session

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
"""Sizes of the cells in pixels of the input."""

SIDE = 640
"""Width and height of the input where the file leaves them free."""

GREY = 114
"""What surrounds the picture, as in training."""

MEAN_BGR = np.float32([103.53, 116.28, 123.675])
STD_BGR = np.float32([57.375, 57.12, 58.395])
"""Of RTMDet."""

KINDS = ('rtmdet', 'yolox', 'yolo')
"""How a file is fed: see the table above."""

MOST_BOXES = 1000
"""Boxes, the best ones, of which overlapping ones are taken out."""


class Detector:
    """A detector, run by ONNX Runtime.

    Args:
        path (str): ONNX file.
        device (str | None): As for
            :class:`hourglass_npu.pose.backends.OnnxNetwork`.
        category (int): Number of the class that is wanted, from 0; people
            are 0 in every detector that was trained on COCO.
        threshold (float): Lowest score of a box.
        overlap (float): Of two boxes whose intersection over union is
            larger, the better one is kept.
        kind (str | None): One of :data:`KINDS`; None: as the output tells.

    Attributes:
        place (str): What it runs on, for messages.

    Raises:
        UserError: The file is missing, refused or no detector, or the device
            does not exist.
    """

    def __init__(
        self,
        path,
        device=None,
        category=0,
        threshold=0.3,
        overlap=0.65,
        kind=None,
    ):
        if not os.path.exists(path):
            raise UserError(f'{path}: there is no such detector')
        content = read_bytes(path)
        operators = onnx_file.check(
            content, path, onnx_file.DETECTOR, 'which no detector needs'
        )
        self._path = path
        self._category = category
        self._threshold = threshold
        self._overlap = overlap
        self._decoded = 'Exp' in operators
        self._session, self.place = start_session(content, path, device)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        types = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[1] != 3
            or inputs[0].type not in types
        ):
            raise UserError(
                f'{path}: a detector takes one picture, as [1,3,H,W] of '
                f'floats, not {[[i.type, i.shape] for i in inputs]}'
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise UserError(
                f'{path}: it takes {shape[0]} pictures at a time: export it '
                'for one'
            )
        self._input = inputs[0].name
        self._type = types[inputs[0].type]
        self._size = tuple(
            side if isinstance(side, int) and side > 0 else SIDE
            for side in (shape[3], shape[2])
        )
        # The shapes of the outputs may be free: one run tells them.
        blank = np.full((*self._size[::-1], 3), GREY, np.uint8)
        outputs = self._run(self._feed(blank, 'yolo'))
        self.kind = kind or self._form(outputs)[1]

    def __call__(self, picture):
        """Find the objects of the wanted class.

        Args:
            picture (np.ndarray[H, W, 3]): 8-bit BGR.

        Returns:
            list[tuple]: Boxes, x, y, width and height in pixels of the
            picture and inside of it, each with its score, best first.
        """
        canvas, factor, corner = self._letterbox(picture)
        outputs = self._run(self._feed(canvas, self.kind))
        read, _ = self._form(outputs)
        boxes, scores = read(self, outputs)
        fine = np.isfinite(boxes).all(axis=1) & (scores >= self._threshold)
        boxes, scores = boxes[fine], scores[fine]
        boxes = (boxes - np.tile(corner, 2)) / factor
        height, width = picture.shape[:2]
        boxes = np.clip(boxes, 0, [width, height, width, height])
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, scores = boxes[inside], scores[inside]
        return [
            ((*boxes[i, :2], *(boxes[i, 2:] - boxes[i, :2])), float(scores[i]))
            for i in suppress(boxes, scores, self._overlap)
        ]

    def _letterbox(self, picture):
        """Scale a picture into the input.

        Returns:
            tuple[np.ndarray, float, np.ndarray[2]]: The input, the factor
            and the place of the picture's corner in it.
        """
        height, width = picture.shape[:2]
        factor = min(self._size[0] / width, self._size[1] / height)
        size = tuple(max(1, round(side * factor)) for side in (width, height))
        way = cv2.INTER_AREA if factor < 0.5 else cv2.INTER_LINEAR
        small = cv2.resize(picture, size, interpolation=way)
        room = np.array(self._size) - size
        left, top = room // 2 if self.kind == 'yolo' else (0, 0)
        canvas = np.full((*self._size[::-1], 3), GREY, np.uint8)
        canvas[top : top + size[1], left : left + size[0]] = small
        return canvas, factor, np.float64([left, top])

    def _feed(self, canvas, kind):
        pixels = canvas.astype(np.float32)
        if kind == 'rtmdet':
            pixels = (pixels - MEAN_BGR) / STD_BGR
        elif kind == 'yolo':
            pixels = pixels[..., ::-1] / np.float32(255)
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        return {self._input: batch.astype(self._type)}

    def _run(self, feed):
        try:
            outputs = self._session.run(None, feed)
        except Exception as error:  # ONNX Runtime raises anything
            raise UserError(
                f'{self._path}: ONNX Runtime cannot run it on '
                f'{feed[self._input].shape}: {shortened(str(error))}'
            ) from error
        return [np.asarray(output, np.float64) for output in outputs]

    def _form(self, outputs):
        """Return the reader of the outputs, and how their file is fed."""
        shapes = [output.shape for output in outputs]
        if len(shapes) >= 2 and all(s[0] == 1 for s in shapes[:2]):
            first, second = shapes[:2]
            if len(first) == 3 and first[2] == 5 and second == first[:2]:
                return Detector._read_chosen, 'rtmdet'
            if len(first) == len(second) == 3 and first[1] == second[1]:
                if first[2] == 4:
                    return Detector._read_scored, 'rtmdet'
        elif len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] == 1:
            return self._form_of_one(*shapes[0][1:])
        raise UserError(
            f'{self._path}: outputs of the shapes {shapes} are of no known '
            'detector. Known are YOLOX [1,N,5+C], RTMDet [1,N,5] with [1,N] '
            '(exported by mmdeploy) and YOLO [1,4+C,N]'
        )

    def _form_of_one(self, rows, columns):
        cells = [self._cells(strides) for strides in STRIDES]
        of_coco = columns == 85, rows == 84
        if columns > 5 and rows in cells:
            return Detector._read_yolox, 'yolox'
        if of_coco[0] or (columns > 5 and rows in [3 * n for n in cells]):
            return Detector._read_rows, 'yolo'
        if of_coco[1] or columns in cells:
            return Detector._read_columns, 'yolo'
        if columns == 6:
            return Detector._read_numbered, 'yolo'
        # Only files that were made for a try have so few.
        if rows > columns > 5:
            return Detector._read_rows, 'yolo'
        return Detector._read_columns, 'yolo'

    def _cells(self, strides):
        width, height = self._size
        return sum((width // s) * (height // s) for s in strides)

    def _read_chosen(self, outputs):
        """Read boxes that the file has chosen: corners, score; classes."""
        rows = outputs[0][0][outputs[1][0] == self._category]
        return rows[:, :4], rows[:, 4]

    def _read_scored(self, outputs):
        """Read boxes with a score for each class."""
        return outputs[0][0], self._of_class(outputs[1][0])

    def _read_numbered(self, outputs):
        """Read rows of corners, score and class."""
        rows = outputs[0][0][outputs[0][0][:, 5].round() == self._category]
        return rows[:, :4], rows[:, 4]

    def _read_columns(self, outputs):
        rows = outputs[0][0].T
        return _corners(rows[:, :4]), self._of_class(rows[:, 4:])

    def _read_rows(self, outputs):
        rows = outputs[0][0]
        scores = rows[:, 4] * self._of_class(rows[:, 5:])
        return _corners(rows[:, :4]), scores

    def _read_yolox(self, outputs):
        """Read cells: where the centre is in a cell, and log of the size.

        An export with ``--decode_in_inference`` has pixels already, and with
        them the operator Exp, which nothing else in the network needs.
        """
        rows = outputs[0][0]
        if not self._decoded:
            rows = rows.copy()
            strides = next(s for s in STRIDES if self._cells(s) == len(rows))
            corners, sides = self._grid(strides)
            rows[:, :2] = (rows[:, :2] + corners) * sides
            rows[:, 2:4] = np.exp(np.minimum(rows[:, 2:4], 20)) * sides
        return self._read_rows([rows[None]])

    def _grid(self, strides):
        """Return each cell's column and row, and its side in pixels."""
        corners, sides = [], []
        for stride in strides:
            columns, rows = (side // stride for side in self._size)
            x, y = np.meshgrid(np.arange(columns), np.arange(rows))
            corners.append(np.stack([x, y], axis=2).reshape(-1, 2))
            sides.append(np.full((rows * columns, 1), stride))
        return np.concatenate(corners), np.concatenate(sides)

    def _of_class(self, scores):
        """Return the scores of the wanted class where it is the best one."""
        if self._category >= scores.shape[1]:
            raise UserError(
                f'--det-cat-id {self._category}: {self._path} knows '
                f'{scores.shape[1]} classes, from 0'
            )
        wanted = scores[:, self._category]
        return np.where(wanted >= scores.max(axis=1), wanted, 0)


def _corners(boxes):
    """Turn centre, width and height into two corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def suppress(boxes, scores, overlap):
    """Choose the best of boxes that overlap.

    Args:
        boxes (np.ndarray[N, 4]): Two corners: x1, y1, x2, y2.
        scores (np.ndarray[N]): Their scores.
        overlap (float): Largest intersection over union of two boxes that
            are both kept.

    Returns:
        list[int]: Indices, best first.
    """
    order = np.argsort(-scores, kind='stable')[:MOST_BOXES]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    chosen = []
    while len(order):
        best, order = order[0], order[1:]
        chosen.append(int(best))
        low = np.maximum(boxes[order, :2], boxes[best, :2])
        high = np.minimum(boxes[order, 2:], boxes[best, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[order] + areas[best] - common
        order = order[common <= overlap * union]
    return chosen
