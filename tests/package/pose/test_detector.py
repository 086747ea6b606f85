"""Detectors of each form find the boxes that they say, where they are."""

import detector_files
import numpy as np
import onnx
import pytest
from detector_files import SIDE, cells
from onnx import TensorProto, helper

from hourglass_npu.errors import UserError
from hourglass_npu.pose import detector

# In a picture of 200 x 100: 64 x 32 pixels of the input, and the rest grey.
SHAPE = (100, 200, 3)
FACTOR = SIDE / 200
BOX = (25.0, 10.0, 50.0, 80.0)
"""x, y, width and height in the picture."""


def corners(corner=0):
    """The box in the input, which begins at ``corner`` rows."""
    x, y, w, h = (FACTOR * v for v in BOX)
    return [x, y + corner, x + w, y + h + corner]


def center(corner=0):
    x0, y0, x1, y1 = corners(corner)
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]


def rows(count, width, *filled):
    """Zeros, with the last rows filled."""
    table = np.zeros((count, width), np.float32)
    for index, row in enumerate(filled):
        table[count - 1 - index, : len(row)] = row
    return table[None]


def chosen(*filled):
    dets = np.float32([[(*row[:4], row[4]) for row in filled]])
    labels = np.int64([[row[5] for row in filled]])
    return dict(dets=dets.reshape(1, -1, 5), labels=labels.reshape(1, -1))


# Half of all rows are near the grid's end: its last cell is 32 pixels wide
# and begins at (32, 32).
LAST = [
    center()[0] / 32 - 1,
    center()[1] / 32 - 1,
    *np.log(np.float32(center()[2:]) / 32),
]
FORMS = {
    'rtmdet': (chosen([*corners(), 0.9, 0], [*corners(), 0.95, 2]), 'rtmdet'),
    'rtmdet without overlap test': (
        dict(
            dets=rows(9, 4, corners()),
            labels=rows(9, 3, [0.9, 0.1, 0]),
        ),
        'rtmdet',
    ),
    'yolox': (
        dict(out=rows(cells(), 8, [*LAST, 0.9, 1, 0.2, 0])),
        'yolox',
    ),
    'yolov5': (
        dict(out=rows(3 * cells(), 8, [*center(16), 0.9, 1, 0.2, 0])),
        'yolo',
    ),
    'yolov8': (
        dict(
            out=np.ascontiguousarray(
                rows(cells(), 7, [*center(16), 0.9, 0.2, 0]).transpose(0, 2, 1)
            )
        ),
        'yolo',
    ),
    'yolov8 of few rows': (
        dict(
            out=np.ascontiguousarray(
                rows(3, 84, [*center(16), 0.9, 0.2, 0]).transpose(0, 2, 1)
            )
        ),
        'yolo',
    ),
    'yolo of rows': (
        dict(out=rows(3, 85, [*center(16), 0.9, 1, 0.2, 0])),
        'yolo',
    ),
    'yolov10': (
        dict(out=rows(30, 6, [*corners(16), 0.9, 0], [*corners(16), 0.95, 2])),
        'yolo',
    ),
}


@pytest.mark.parametrize('form', sorted(FORMS))
def test_each_form_is_known_by_its_output(tmp_path, form):
    outputs, kind = FORMS[form]
    find = detector.Detector(
        detector_files.save(tmp_path / 'd.onnx', outputs), 'cpu'
    )
    assert find.kind == kind
    ((box, score),) = find(np.zeros(SHAPE, np.uint8))
    np.testing.assert_allclose(box, BOX, atol=1e-3)
    assert score == pytest.approx(0.9)


def test_yolox_that_decodes_is_known_by_its_operators(tmp_path):
    outputs = dict(out=rows(cells(), 8, [*center(), 0.9, 1, 0.2, 0]))
    exp = helper.make_node('Exp', ['out'], ['unused'])
    path = detector_files.save(tmp_path / 'd.onnx', outputs, nodes=[exp])
    find = detector.Detector(path, 'cpu')
    assert find.kind == 'yolox'
    ((box, _),) = find(np.zeros(SHAPE, np.uint8))
    np.testing.assert_allclose(box, BOX, atol=1e-3)


def fed(monkeypatch, kind, picture):
    """What a file is fed with."""
    find = detector.Detector.__new__(detector.Detector)
    find.kind, find._size, find._input = kind, (SIDE, SIDE), 'images'
    find._type = np.float32
    canvas, factor, corner = find._letterbox(picture)
    assert factor == FACTOR
    (batch,) = find._feed(canvas, kind).values()
    assert batch.shape == (1, 3, SIDE, SIDE) and batch.dtype == np.float32
    return batch[0], corner


@pytest.mark.parametrize(
    'kind, colour, grey, top',
    [
        ('yolox', (10, 20, 30), (114, 114, 114), 0),
        ('yolo', (30 / 255, 20 / 255, 10 / 255), (114 / 255,) * 3, 16),
        (
            'rtmdet',
            (-93.53 / 57.375, -96.28 / 57.12, -93.675 / 58.395),
            (10.47 / 57.375, -2.28 / 57.12, -9.675 / 58.395),
            0,
        ),
    ],
)
def test_pictures_are_fed_as_in_training(monkeypatch, kind, colour, grey, top):
    picture = np.empty(SHAPE, np.uint8)
    picture[:] = (10, 20, 30)  # B, G, R
    batch, corner = fed(monkeypatch, kind, picture)
    assert tuple(corner) == (0, top)
    np.testing.assert_allclose(batch[:, top + 9, 9], colour, rtol=1e-5)
    np.testing.assert_allclose(batch[:, -1, 9], grey, rtol=1e-4)


def test_scores_classes_and_overlap_decide(tmp_path):
    shifted = [corners()[0] + 1, *corners()[1:]]
    outputs = chosen(
        [*corners(), 0.6, 0],
        [*shifted, 0.5, 0],
        [40, 4, 60, 28, 0.4, 0],
        [0, 0, 9, 9, 0.29, 0],
        [0, 0, 9, 9, 0.8, 1],
    )
    path = detector_files.save(tmp_path / 'd.onnx', outputs)

    def scores(**options):
        find = detector.Detector(path, 'cpu', **options)
        return [round(s, 2) for _, s in find(np.zeros(SHAPE, np.uint8))]

    assert scores() == [0.6, 0.4]
    assert scores(threshold=0.1) == [0.6, 0.4, 0.29]
    assert scores(overlap=1) == [0.6, 0.5, 0.4]
    assert scores(category=1) == [0.8]


def test_boxes_end_at_the_picture(tmp_path):
    outputs = chosen([-9, -9, 99, 99, 0.9, 0], [10, 40, 20, 60, 0.8, 0])
    path = detector_files.save(tmp_path / 'd.onnx', outputs)
    found = detector.Detector(path, 'cpu')(np.zeros(SHAPE, np.uint8))
    # The second one lies in the grey below the picture.
    assert [box for box, _ in found] == [(0, 0, 200, 100)]


@pytest.mark.parametrize('side', [None, SIDE])
def test_nobody_is_found_in_nothing(tmp_path, side):
    path = detector_files.save(tmp_path / 'd.onnx', chosen(), side)
    find = detector.Detector(path, 'cpu')
    assert find(np.zeros(SHAPE, np.uint8)) == []
    assert find._size == ((side or 640,) * 2)


def test_half_precision_is_fed_as_such(tmp_path):
    outputs = chosen([*corners(), 0.9, 0])
    path = detector_files.save(
        tmp_path / 'd.onnx', outputs, kind=TensorProto.FLOAT16
    )
    assert len(detector.Detector(path, 'cpu')(np.zeros(SHAPE, np.uint8))) == 1


def test_what_is_no_detector_is_refused(tmp_path):
    path = tmp_path / 'd.onnx'

    def message(**outputs):
        detector_files.save(path, outputs)
        with pytest.raises(UserError) as caught:
            detector.Detector(str(path), 'cpu')(np.zeros(SHAPE, np.uint8))
        return str(caught.value)

    maps = np.zeros((1, 80, 8, 8), np.float32)
    assert 'of no known detector' in message(out=maps)
    assert 'of no known detector' in message(a=maps, b=maps, c=maps)
    with pytest.raises(UserError, match='no such detector'):
        detector.Detector(str(tmp_path / 'none.onnx'))
    detector_files.save(path, chosen(), kind=TensorProto.INT32)
    with pytest.raises(UserError, match='takes one picture'):
        detector.Detector(str(path), 'cpu')
    outputs, _ = FORMS['yolov8']
    detector_files.save(path, outputs)
    with pytest.raises(UserError, match='--det-cat-id 7: .* knows 3 classes'):
        detector.Detector(str(path), 'cpu', 7)(np.zeros(SHAPE, np.uint8))


def test_a_detector_is_looked_into_before_it_is_run(tmp_path):
    path = tmp_path / 'd.onnx'
    for kind in ('Loop', 'RandomNormal', 'Foreign'):
        model = onnx.load(
            detector_files.save(tmp_path / 'good.onnx', chosen())
        )
        model.graph.node.append(helper.make_node(kind, ['images'], ['x']))
        onnx.save(model, str(path))
        with pytest.raises(UserError, match=f'{kind}.*no detector needs'):
            detector.Detector(str(path), 'cpu')
