"""Records of a data set are copied before a pipeline writes into them."""

import numpy as np
from mmpose.datasets.datasets.top_down.topdown_base_dataset import (
    TopDownBaseDataset,
    copy_record,
)

DATA_CFG = dict(
    image_size=[96, 128],
    heatmap_size=[24, 32],
    num_joints=2,
    num_output_channels=2,
    dataset_channel=[[0, 1]],
    inference_channel=[0, 1],
)


class People(TopDownBaseDataset):
    def _get_db(self):
        return []

    def evaluate(self, *args, **kwargs):
        return {}


def record():
    mixed = np.empty(1, dtype=object)
    mixed[0] = [1]
    return dict(
        image_file='a.jpg',
        center=np.arange(2.0),
        joints_3d=np.ones((2, 3), np.float32)[:, ::-1],
        rotation=0,
        bbox_score=np.float32(0.5),
        boxes=[[1, 2], [3, 4]],
        mixed=mixed,
    )


def test_copies_share_nothing():
    source, wanted = record(), record()
    copied = copy_record(source)
    assert copied.keys() == wanted.keys()
    copied['center'][:] = 7
    copied['joints_3d'][:] = 7
    copied['boxes'][0].append(7)
    copied['mixed'][0].append(7)
    for key, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(source[key], value), key
        else:
            assert source[key] == value, key
    assert type(copied['bbox_score']) is np.float32


def test_samples(stock):
    relpath = 'datasets/datasets/top_down/topdown_base_dataset.py'
    base = stock('mmpose', relpath).TopDownBaseDataset
    theirs = type('Theirs', (base,), dict(vars(People)))

    def spoil(results):
        results['center'] += 1
        return results

    people = [
        kind('a.json', 'images/', DATA_CFG, [spoil], test_mode=True)
        for kind in (People, theirs)
    ]
    for one in people:
        one.db = [record()]
    assert vars(people[0]).keys() == vars(people[1]).keys()
    for key, wanted in people[1].ann_info.items():
        assert np.array_equal(people[0].ann_info[key], wanted), key
    for _ in range(2):
        ours, wanted = (one[0] for one in people)
        assert ours.keys() == wanted.keys()
        assert np.array_equal(ours['center'], wanted['center'])
        assert ours['ann_info'] is people[0].ann_info
