"""Boxes from the command line and from files."""

import json

import numpy as np
import pytest
from pose_model import ROOT

from hourglass_npu.errors import UserError
from hourglass_npu.pose import boxes as people
from hourglass_npu.pose import geometry, images

SIZE = (128, 128)


def box_file(tmp_path, content, **options):
    path = tmp_path / 'people.json'
    path.write_text(json.dumps(content))
    return people.BoxFile(str(path), SIZE, **options)


@pytest.mark.parametrize(
    'text', ['', '1,2,3', '1,2,3,4,5', 'a,b,c,d', '1,2,nan,4', '1 2 3 4']
)
def test_a_box_that_is_none_is_explained(text):
    with pytest.raises(ValueError, match='x,y,w,h'):
        people.parse_box(text)


@pytest.mark.parametrize('text', ['1,2,0,4', '1,2,3,-4'])
def test_a_box_has_an_area(text):
    with pytest.raises(ValueError, match='no area'):
        people.parse_box(text)


def test_mpii_people_are_cropped_as_by_the_data_set(tmp_path):
    entry = dict(image='a.jpg', center=[300.0, 200.0], scale=2.0, joints=[])
    (person,) = box_file(tmp_path, [entry]).of('/any/where/a.jpg')
    # TopDownMpiiDataset: 15 units lower, a quarter larger, counted from 0.
    np.testing.assert_allclose(person.center, [299, 229])
    np.testing.assert_allclose(person.scale, [2.5, 2.5])
    assert person.box == (99, -1, 400, 400)
    entry['bbox'] = [150, 60, 90, 300]
    (boxed,) = box_file(tmp_path, [entry]).of('a.jpg')
    assert boxed.box == (150, 60, 90, 300)
    np.testing.assert_array_equal(boxed.center, person.center)


def test_the_demo_picture_has_its_people():
    folder = ROOT / 'mmpose-master' / 'demo' / 'mpii_demo_img'
    picture_file = folder / 'demo_mpii.jpg'
    boxes = people.BoxFile(str(folder / 'demo_mpii.json'), SIZE)
    found = boxes.of(str(picture_file))
    assert len(found) >= 2
    shape = images.read_picture(str(picture_file)).shape
    people.check_inside(found, shape, 'demo')


@pytest.mark.parametrize(
    'content',
    [
        [dict(file_name='x/7.jpg', bbox=[10, 20, 30, 40], score=0.9)],
        [dict(image_id=7, bbox=[10, 20, 30, 40], score=0.9)],
        dict(
            images=[dict(id=1, file_name='7.jpg')],
            annotations=[dict(image_id=1, bbox=[10, 20, 30, 40])],
        ),
    ],
)
def test_coco_boxes_are_found_by_name_or_number(tmp_path, content):
    boxes = box_file(tmp_path, content)
    (person,) = boxes.of('y/7.jpg')
    assert person.box == (10, 20, 30, 40)
    center, scale = geometry.box_to_center_scale((10, 20, 30, 40), SIZE)
    np.testing.assert_array_equal(person.center, center)
    np.testing.assert_array_equal(person.scale, scale)
    assert boxes.of('8.jpg') == []


def test_a_number_with_leading_zeros_is_the_number(tmp_path):
    boxes = box_file(tmp_path, [dict(image_id=39, bbox=[0, 0, 5, 5])])
    assert len(boxes.of('000000000039.jpg')) == 1


def test_unsure_boxes_are_left_out(tmp_path):
    entry = dict(file_name='a.jpg', bbox=[0, 0, 5, 5])
    content = [dict(entry, score=s) for s in (0.2, 0.8)]
    assert len(box_file(tmp_path, content, threshold=0.5).of('a.jpg')) == 1


@pytest.mark.parametrize(
    'content',
    [
        [1],
        [dict(name='a')],
        [dict(bbox=[1, 2], image_id=1)],
        [dict(bbox=[1, 2, 'x', 4], image_id=1)],
        [dict(bbox=[1, 2, 3, 4], image_id=1, score='high')],
        [dict(bbox=[1, 2, 3, 4])],
        [dict(image='a.jpg', center=[1, 2], scale='x')],
        [dict(center=[1, 2], scale=1)],
    ],
)
def test_an_entry_of_another_form_is_refused(tmp_path, content):
    message = 'people.json: entry 0 is neither an MPII person'
    with pytest.raises(UserError, match=message):
        box_file(tmp_path, content)


def coco(*entries, **categories):
    return dict(
        images=[dict(id=1, file_name='a.jpg')],
        annotations=[
            dict(dict(image_id=1, bbox=[1, 2, 30, 40]), **entry)
            for entry in entries
        ],
        categories=[dict(id=n, name=k) for k, n in categories.items()],
    )


@pytest.mark.parametrize(
    'content, count',
    [
        (coco(dict(category_id=1), dict(category_id=8)), 1),
        (coco(dict(category_id=1), dict(category_id=8), person=8, truck=1), 1),
        (coco(dict(category_id=8), Person=1, truck=8), 0),
        (coco(dict(category_id=3), dict(category_id=3), mouse=3), 2),
        (coco(dict(), dict(category_name='car'), person=1), 1),
        ([dict(file_name='a.jpg', category_id=3, bbox=[1, 2, 3, 4])], 0),
    ],
)
def test_people_only(tmp_path, content, count):
    boxes = box_file(tmp_path, content)
    assert len(boxes.of('a.jpg')) == count
    assert bool(boxes.left_out) == ('person' in boxes.left_out)


def test_categories_without_a_person_are_named(tmp_path):
    with pytest.raises(UserError, match='named person .car, truck'):
        box_file(tmp_path, coco(dict(category_id=3), car=3, truck=8))


def test_weak_detections_are_left_out_unless_asked_for(tmp_path):
    content = coco(dict(score=0.29), dict(score=0.3), dict())
    boxes = box_file(tmp_path, content)
    assert [p.score for p in boxes.of('a.jpg')] == [0.3, 1.0]
    assert boxes.left_out == '1 with a score below 0.3'
    assert len(box_file(tmp_path, content, threshold=0).of('a.jpg')) == 3


@pytest.mark.parametrize(
    'entry',
    [
        dict(bbox=[float('nan'), 2, 3, 4]),
        dict(bbox=[1, 2, 0, 4]),
        dict(bbox=[1, 2, 3, -4]),
        dict(bbox=[1, 2, 3, 1e12]),
        dict(score=float('inf')),
    ],
)
def test_an_impossible_box_is_named_and_left_out(tmp_path, capsys, entry):
    boxes = box_file(tmp_path, coco(entry, dict()))
    assert len(boxes.of('a.jpg')) == 1
    error = capsys.readouterr().err
    assert 'people.json: entry 0 (a.jpg): ' in error and 'skipped' in error


def test_impossible_people_of_mpii_too(tmp_path, capsys):
    entry = dict(image='a.jpg', center=[3.0, 2.0], scale=2.0)
    content = [dict(entry, scale=0), dict(entry, bbox=[1, 2, 0, 4])]
    (person,) = box_file(tmp_path, content).of('a.jpg')
    assert person.box == (-198, -199, 400, 400)
    error = capsys.readouterr().err
    assert 'entry 0 (a.jpg)' in error and 'entry 1 (a.jpg)' in error


def test_boxes_of_mmpose_belong_to_every_picture(tmp_path, capsys):
    content = [
        dict(bbox=[10, 20, 40, 60, 0.9]),
        dict(bbox=[10, 20, 40, 60, 0.1]),
        dict(bbox=[10, 20, 5, 60, 0.9]),
    ]
    boxes = box_file(tmp_path, content)
    for name in ('a.jpg', 'b.jpg'):
        (person,) = boxes.of(name)
        assert person.box == (10, 20, 30, 40) and person.score == 0.9
    assert 'entry 2: bbox' in capsys.readouterr().err


def test_a_score_in_the_box_counts(tmp_path):
    entry = dict(file_name='a.jpg', bbox=[1, 2, 3, 4, 0.5])
    (person,) = box_file(tmp_path, [entry]).of('a.jpg')
    assert person.box == (1, 2, 3, 4) and person.score == 0.5


def test_pictures_are_told_apart_by_the_end_of_their_path(
    tmp_path, monkeypatch
):
    content = [
        dict(file_name=name, bbox=[number, 2, 3, 4])
        for number, name in enumerate(('a/1.jpg', 'b/1.jpg', 'b/2.jpg'))
    ]
    asked = ['x/a/1.jpg', 'x/b/1.jpg', 'x/c/2.jpg', 'x/d/2.jpg']
    boxes = box_file(tmp_path, content, pictures=asked)
    assert [p.box[0] for p in boxes.of('x/a/1.jpg')] == [0]
    assert [p.box[0] for p in boxes.of('x/b/1.jpg')] == [1]
    with pytest.raises(UserError, match='several pictures of this name'):
        box_file(tmp_path, content).of('x/c/1.jpg')
    # Two pictures of this name, and the file has neither.
    assert boxes.of('x/c/2.jpg') == boxes.of('x/d/2.jpg') == []
    assert len(box_file(tmp_path, content).of('x/c/2.jpg')) == 1
    (tmp_path / 'b').mkdir()
    monkeypatch.chdir(tmp_path / 'b')
    assert [p.box[0] for p in boxes.of('1.jpg')] == [1]


def test_boxes_outside_are_named_and_left_out(capsys):
    found = [people.from_box((x, 0, 9, 9), SIZE) for x in (0, 500)]
    assert people.inside(found, (100, 100), 'a.jpg') == found[:1]
    assert 'a.jpg: the box 500,0,9,9 lies outside' in capsys.readouterr().err


@pytest.mark.parametrize(
    'content', [1, dict(a=1), dict(images=[1], annotations=[])]
)
def test_a_file_of_another_form_is_refused(tmp_path, content):
    with pytest.raises(UserError, match='people.json: (has no list|an image)'):
        box_file(tmp_path, content)


def test_a_broken_or_missing_file_is_named(tmp_path):
    path = tmp_path / 'people.json'
    with pytest.raises(ValueError, match='people.json'):
        people.BoxFile(str(path), SIZE)
    path.write_text('{')
    with pytest.raises(ValueError, match='people.json'):
        people.BoxFile(str(path), SIZE)


def test_a_box_outside_of_the_picture_is_refused():
    inside = people.from_box((90, 90, 50, 50), SIZE)
    people.check_inside([inside], (100, 100), 'a.jpg')
    for box in ((100, 0, 9, 9), (0, 100, 9, 9), (-9, 0, 9, 9), (0, -9, 9, 9)):
        with pytest.raises(ValueError, match='a.jpg: the box .*100 x 100'):
            people.check_inside(
                [inside, people.from_box(box, SIZE)], (100, 100), 'a.jpg'
            )
