"""Records in one block of memory are a list of dicts, for all who look."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
import torch

from hourglass_npu.mpii.records import Records, compact


def people(count=5, seed=0):
    """Make records as those of MPII, with names of any kind."""
    draw = np.random.RandomState(seed)
    names = ['a.jpg', '', 'b\u00e9\ud800.jpg', 'c' * 300, 'a.jpg']
    return [
        dict(
            image_file=names[i % 5],
            center=draw.rand(2).astype(np.float32),
            scale=draw.rand(2),
            rotation=0,
            joints_3d=draw.rand(16, 3).astype(np.float32),
            mark=draw.rand(3, 2).T > 0.5,
            dataset='mpii',
            flag=True,
            nothing=None,
        )
        for i in range(count)
    ]


def plain(value):
    """Turn arrays into what can be compared, with type and shape."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return type(value), value


@pytest.fixture
def both():
    db = compact(people())
    assert type(db) is Records
    return db, people()


def swap(db):
    db[0], db[3] = db[3], db[0]


def mark_one(db):
    db[1]['rotation'] = 7
    db[-1]['center'][:] = 1


def mark_all(db):
    for number, record in enumerate(db):
        record['number'] = number


def shuffle(db):
    random.Random(0).shuffle(db)


def each_of(db):
    return [db[i] for i in range(-len(db), len(db))]


USES = [
    list,
    tuple,
    len,
    bool,
    each_of,
    swap,
    mark_one,
    mark_all,
    shuffle,
    copy.copy,
    copy.deepcopy,
    lambda db: pickle.loads(pickle.dumps(db)),
    lambda db: db[1:4],
    lambda db: db[np.int64(2)],
    lambda db: db + db[:1],
    lambda db: db[:1] + db,
    lambda db: [0] + db,
    lambda db: db * 2,
    lambda db: 2 * db,
    lambda db: [*db, *db],
    lambda db: list(reversed(db)),
    lambda db: sorted(db, key=lambda one: one['scale'][0]),
    lambda db: list(zip(db, db[1:])),
    lambda db: db.append(dict(other=1)),
    lambda db: db.extend(people(2)),
    lambda db: db.insert(1, None),
    lambda db: db.pop(),
    lambda db: db.sort(key=lambda one: one['scale'][0]),
    lambda db: db.reverse(),
    lambda db: db.clear(),
    lambda db: db.__delitem__(slice(1, 3)),
    lambda db: db.__iadd__(people(1)),
    lambda db: db.index(db[2]),
    lambda db: db.count(db[2]),
    lambda db: db[2] in db,
    lambda db: list(db) == db,
    lambda db: [one.pop('mark') for one in db],
    lambda db: json.dumps(db, default=str),
    lambda db: list(np.array(db, dtype=object)),
    lambda db: random.Random(0).sample(db, 3),
    repr,
]


@pytest.mark.parametrize('use', USES)
def test_it_is_the_list_that_it_was(both, use):
    # What it gives, and what it leaves; then what workers would get.
    results = [plain(use(db)) for db in both]
    sent = pickle.loads(pickle.dumps(both[0]))
    assert results[0] == results[1]
    assert plain(sent) == plain(both[0]) == plain(both[1])


@pytest.mark.parametrize('index', [5, -6, 'a', None, 1.0])
def test_wrong_places_are_errors_as_of_a_list(both, index):
    errors = []
    for db in both:
        with pytest.raises((IndexError, TypeError)) as error:
            db[index]
        errors.append(error.type)
    assert errors[0] is errors[1]
    with pytest.raises(errors[1]):
        both[0].copy_of(index)


def test_a_record_stays_what_was_handed_out(both):
    db, _ = both
    assert db[1] is db[1] is db[-4] is next(iter(db[1:]))
    db = compact(people())
    kept = copy.copy(db)
    kept[0]['rotation'] = 3
    assert db[0]['rotation'] == 3  # as of any shallow copy


def test_copies_can_be_written_into(both):
    db, wanted = both
    for place in (0, -1):
        for key in ('center', 'mark', 'joints_3d'):
            db.copy_of(place)[key][:] = 1
        assert plain(db.copy_of(place)) == plain(wanted[place])
    db[0]['rotation'] = 7
    db.copy_of(0)['center'][:] = 1
    assert db.copy_of(0)['rotation'] == 7
    assert plain(db[0]['center']) == plain(wanted[0]['center'])
    del db[0]
    assert plain(db.copy_of(0)) == plain(wanted[1])


@pytest.mark.parametrize(
    'change',
    [
        dict(rotation=False),
        dict(rotation=1),
        dict(flag=1),
        dict(center=np.zeros(3, np.float32)),
        dict(center=np.zeros(2)),
        dict(center=[0, 0]),
        dict(dataset=b'mpii'),
        dict(more=1),
        dict(score=np.float32(1)),
    ],
)
def test_records_of_several_forms_stay_a_list(change):
    records = people()
    records[3].update(change)
    assert compact(records) is records
    assert type(compact(people())) is Records


@pytest.mark.parametrize(
    'records',
    [[], [{}], [{1: 2}], [{'': 'a'}], [dict(a=0.0), dict(a=-0.0)]],
)
def test_what_is_no_table_stays_a_list(records):
    assert compact(records) is records


@pytest.mark.parametrize('free', [0, 10**9])
def test_workers_get_a_handle_of_shared_memory(monkeypatch, free):
    monkeypatch.setattr('hourglass_npu.mpii.records.free_bytes', lambda: free)
    db = compact(people())
    block = db._table._given[0]
    assert block.is_shared() == bool(free)
    assert plain(list(db)) == plain(people())


class Names(torch.utils.data.Dataset):
    def __init__(self, db):
        self.db = db

    def __len__(self):
        return len(self.db)

    def __getitem__(self, index):
        return self.db.copy_of(index)['joints_3d']


def test_forked_workers_read_it():
    loader = torch.utils.data.DataLoader(Names(compact(people())), 5, False)
    (batch,) = loader
    wanted = np.stack([one['joints_3d'] for one in people()])
    assert np.array_equal(batch.numpy(), wanted)
