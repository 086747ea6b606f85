"""Whatever stands in the training section of a checkpoint: no traceback."""

import copy
import random

import numpy as np
import pytest
import torch
from mmcv.runner.checkpoint import _load_checkpoint
from resume_cases import train_from as train


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    train(folder, epochs=1)
    return _load_checkpoint(str(folder / 'iter_5.pth'))


def resume(saved, folder):
    """Go on from a checkpoint; return the user's error, or None."""
    path = folder / 'spoilt.pth'
    torch.save(saved, str(path))
    before = torch.get_rng_state()
    try:
        train(folder / 'again', path, epochs=1)
    except Exception as error:
        assert getattr(error, 'is_user_error', False), repr(error)
        message = str(error)
        assert '\n' not in message and len(message) < 700, message
        return message
    finally:
        torch.set_rng_state(before)
    return None


def put(saved, path, value):
    """Return a copy with a value at a path of keys; None: as it is."""
    changed = copy.deepcopy(saved)
    *parents, last = path
    part = changed
    for key in parents:
        part = part[key]
    if value is KeyError:
        del part[last]
    else:
        part[last] = value
    return changed


GROUP = ('optimizer', 'param_groups', 0)
MOMENTS = ('optimizer', 'state', 0)
RANDOM = ('resume', 'random', 0, 'now')
SPOILT = [
    (('meta', 'epoch'), 'x'),
    (('meta', 'epoch'), -1),
    (('meta', 'epoch'), 1.5),
    (('meta', 'iter'), None),
    (('meta', 'iter'), 10**200),
    (('optimizer',), 'x'),
    (('optimizer', 'param_groups'), []),
    (('optimizer', 'param_groups'), KeyError),
    (('optimizer', 'state'), [1]),
    ((*GROUP, 'lr'), 'x'),
    ((*GROUP, 'lr'), KeyError),
    ((*GROUP, 'betas'), (0.9,)),
    ((*GROUP, 'betas'), (1.0, 1.0)),
    ((*GROUP, 'eps'), None),
    ((*GROUP, 'initial_lr'), 'x'),
    ((*GROUP, 'params'), [0]),
    ((*MOMENTS, 'exp_avg'), torch.zeros(5)),
    ((*MOMENTS, 'exp_avg'), 3),
    ((*MOMENTS, 'exp_avg_sq'), KeyError),
    ((*MOMENTS, 'step'), 'x'),
    ((*MOMENTS, 'step'), -1),
    (MOMENTS, 7),
    (('resume', 'batches_done'), 'x'),
    (('resume', 'batches_done'), -3),
    (('resume', 'setup'), None),
    (('resume', 'setup', 'ranks'), 0.5),
    (('resume', 'setup', 'samples_per_gpu'), 'x'),
    (('resume', 'setup', 'seed'), torch.zeros(2)),
    (('resume', 'random'), []),
    (('resume', 'random'), [None]),
    (RANDOM, {}),
    ((*RANDOM, 'torch'), torch.zeros(3)),
    ((*RANDOM, 'torch'), 'x'),
    ((*RANDOM, 'python', 'words'), torch.zeros(3)),
    ((*RANDOM, 'python', 'gauss'), 'x'),
    ((*RANDOM, 'numpy', 'position'), 10**6),
    ((*RANDOM, 'numpy', 'keys'), torch.zeros(3)),
    ((*RANDOM, 'numpy', 'cached_gaussian'), 'x'),
    (('resume', 'hooks'), 3),
]


@pytest.mark.parametrize('path, value', SPOILT)
def test_a_spoilt_value_is_named_in_one_line(path, value, saved, tmp_path):
    message = resume(put(saved, path, value), tmp_path)
    assert message is not None and 'spoilt.pth' in message, message


def test_param_groups_twice(saved, tmp_path):
    changed = copy.deepcopy(saved)
    changed['optimizer']['param_groups'] *= 2
    assert 'spoilt.pth' in resume(changed, tmp_path)


def test_an_intact_one_is_taken(saved, tmp_path):
    """Without this the tests above might pass for a slip in the copy."""
    assert resume(copy.deepcopy(saved), tmp_path) is None


def paths_in(part, path=()):
    """List the paths of all parts."""
    found = [path] if path else []
    keys = ()
    if isinstance(part, dict):
        keys = list(part)
    elif isinstance(part, (list, tuple)):
        keys = range(len(part))
    for key in keys:
        found += paths_in(part[key], (*path, key))
    return found


def spoil(rng, value):
    """Return another value."""
    others = [
        None, True, -1, 0, 2**70, 1.5, float('nan'), 'x', '', b'x', [], {}, (),
        [None], {'a': 1}, {0: {}}, torch.zeros(0), torch.ones(3, 2),
        torch.tensor(float('inf')), np.zeros(3), KeyError, range(3),
    ]  # fmt: skip
    if isinstance(value, torch.Tensor):
        others += [value[None], value.double(), value.reshape(-1)[:1], -value]
    if isinstance(value, (int, float)):
        others += [-value, value + 1, float(value), str(value)]
    if isinstance(value, (list, tuple)):
        others += [value * 2, value[1:]]
    return rng.choice(others)


@pytest.mark.parametrize('seed', range(3))
def test_random_changes(seed, saved, tmp_path):
    rng = random.Random(seed)
    places = [
        (section, *path)
        for section in ('meta', 'optimizer', 'resume')
        for path in [(), *paths_in(saved[section])]
    ]
    seen = [0, 0]
    for number in range(60):
        path = rng.choice(places)
        part = saved
        for key in path:
            part = part[key]
        value = spoil(rng, part)
        try:
            changed = put(saved, path, value)
        except TypeError:  # an item of a tuple
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            seen[resume(changed, folder) is None] += 1
        except AssertionError as error:
            raise AssertionError(f'{number}: {path}: {value!r}') from error
    assert min(seen) > 2
