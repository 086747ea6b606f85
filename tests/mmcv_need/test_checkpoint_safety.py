"""Loading a checkpoint runs no code, and a damaged one is named."""

import argparse
import collections
import datetime
import functools
import importlib
import io
import os
import pathlib
import pickle
import random
import runpy
import struct
import subprocess
import sys
import tarfile
import time
import types
import warnings
import zipfile
from collections import OrderedDict
from decimal import Decimal

import mmcv
import numpy as np
import pytest
import torch
from mmcv.runner import _load_checkpoint, checkpoint, save_checkpoint
from mmcv.runner.hooks import iter_timer
from torch import nn

FORMATS = ['zip', 'legacy']


@pytest.fixture
def trust():
    """Trust checkpoints for the rest of the test."""
    checkpoint.trust_checkpoints()
    yield
    checkpoint.trust_checkpoints(False)


def save(content, path, form):
    is_zip = form == 'zip'
    torch.save(content, str(path), _use_new_zipfile_serialization=is_zip)
    return str(path)


def craft(payload, path, form):
    """Put a pickle of our choice where torch.load looks for one."""
    if form == 'zip':
        with zipfile.ZipFile(str(path), 'w') as archive:
            archive.writestr('archive/data.pkl', payload)
            archive.writestr('archive/version', '3\n')
    else:
        system = dict(
            protocol_version=1001,
            little_endian=True,
            type_sizes=dict(short=2, int=4, long=4),
        )
        parts = [0x1950A86A20F9469CFC6C, 1001, system]
        parts = [pickle.dumps(part, 2) for part in parts]
        parts += [payload, pickle.dumps([], 2)]
        path.write_bytes(b''.join(parts))
    return str(path)


class Call:
    """Pickles as a call of a function, which may be a call itself."""

    def __init__(self, function, *args):
        self.call = function, args

    def __call__(self):
        """Only what can be called is pickled as a function."""

    def __reduce__(self):
        return self.call


def pickled(function, *args):
    return pickle.dumps(Call(function, *args), 2)


def short(text):
    """Opcodes of protocol 4 for a short string."""
    return b'\x8c' + bytes([len(text)]) + text.encode()


def get(*names):
    """Pickle ``names[0].names[1]...`` as calls of getattr."""
    found = Call(importlib.import_module, names[0])
    for name in names[1:]:
        found = Call(getattr, found, name)
    return found


def nested(command):
    inner = io.BytesIO()
    torch.save(Call(os.system, command), inner)
    return inner.getvalue()


def script(marker):
    path = marker.parent / 'script.py'
    path.write_text(f'open({str(marker)!r}, "w").close()')
    return str(path)


# Each makes the file ``m`` when it is loaded by plain pickle.
ATTACKS = dict(
    system=lambda m: pickled(os.system, f'touch {m}'),
    popen=lambda m: pickled(subprocess.Popen, ['touch', str(m)]),
    check_output=lambda m: pickled(subprocess.check_output, ['touch', str(m)]),
    eval=lambda m: pickled(eval, f'open({str(m)!r}, "w")'),
    exec=lambda m: pickled(exec, f'open({str(m)!r}, "w")'),
    open=lambda m: pickled(open, str(m), 'w'),
    getattr=lambda m: pickled(get('os', 'system'), f'touch {m}'),
    getattr_of_torch=lambda m: pickled(
        get('torch', 'hub', 'os', 'system'), f'touch {m}'
    ),
    partial=lambda m: pickled(
        Call(functools.partial, os.system, f'touch {m}')
    ),
    list_of_map=lambda m: pickled(list, Call(map, os.system, [f'touch {m}'])),
    runpy=lambda m: pickled(runpy.run_path, script(m)),
    config=lambda m: pickled(mmcv.Config.fromfile, script(m)),
    pickle_loads=lambda m: pickled(
        pickle.loads, pickled(os.system, f'touch {m}')
    ),
    torch_storage=lambda m: pickled(
        torch.storage._load_from_bytes, nested(f'touch {m}')
    ),
    inside_weights=lambda m: pickle.dumps(
        dict(state_dict=OrderedDict(a=Call(os.system, f'touch {m}'))), 2
    ),
    inst=lambda m: f"(S'touch {m}'\nios\nsystem\n.".encode(),
    obj=lambda m: f"(cos\nsystem\nS'touch {m}'\no.".encode(),
    python_2=lambda m: (
        f'c__builtin__\neval\n(S\'open({str(m)!r},"w")\'\ntR.'.encode()
    ),
    stack_global=lambda m: (
        b'\x80\x04'
        + short('os')
        + short('system')
        + b'\x93'
        + short(f'touch {m}')
        + b'\x85R.'
    ),
    dotted_name=lambda m: (
        b'\x80\x04'
        + short('torch.serialization')
        + short('os.system')
        + b'\x93'
        + short(f'touch {m}')
        + b'\x85R.'
    ),
)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('name', sorted(ATTACKS))
def test_attack_is_refused(name, form, tmp_path):
    folder = tmp_path / 'x'  # short, for one byte of length
    folder.mkdir()
    marker = folder / 'm'
    path = craft(ATTACKS[name](marker), folder / 'evil.pth', form)
    with pytest.raises(ValueError, match='evil.pth.*--trust-checkpoint'):
        _load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize('name', sorted(ATTACKS))
def test_attack_is_one(name, tmp_path):
    """Without this the tests above might pass for a slip in the attack."""
    marker = tmp_path / 'm'
    payload = ATTACKS[name](marker)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ResourceWarning)
        found = pickle.loads(payload)
        if callable(found):
            found()
        elif isinstance(found, subprocess.Popen):
            found.wait()
        del found
    assert marker.exists()


@pytest.mark.parametrize('form', FORMATS)
def test_trusted_checkpoint_may_do_anything(form, tmp_path, trust):
    marker = tmp_path / 'm'
    path = craft(ATTACKS['system'](marker), tmp_path / 'c.pth', form)
    assert _load_checkpoint(path) == 0
    assert marker.exists()


def test_message_names_what_was_refused(tmp_path):
    path = craft(pickled(os.system, 'true'), tmp_path / 'c.pth', 'zip')
    with pytest.raises(ValueError, match='c.pth.*posix.system.*plain data'):
        _load_checkpoint(path)


def test_trust_is_given_by_the_program_and_nothing_else(
    tmp_path, monkeypatch, trust
):
    checkpoint.trust_checkpoints(False)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    path = save(nn.Linear(1, 1), tmp_path / 'c.pth', 'zip')
    with pytest.raises(ValueError, match='Linear'):
        _load_checkpoint(path)
    checkpoint.trust_checkpoints()
    assert isinstance(_load_checkpoint(path), nn.Linear)
    checkpoint.trust_checkpoints(False)
    with pytest.raises(ValueError, match='Linear'):
        _load_checkpoint(path)


# Refused as well, though plain pickle survives them: they would change
# functions of this process, or make numpy follow pointers out of the file.
GLOBAL_STATE = {
    'function': b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n'
    b'}X\x01\x00\x00\x00aK\x01sb.',
    'class': b'\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.',
}


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('kind', sorted(GLOBAL_STATE))
def test_state_of_functions_and_classes_is_refused(kind, form, tmp_path):
    path = craft(GLOBAL_STATE[kind], tmp_path / 'c.pth', form)
    with pytest.raises(ValueError, match='c.pth'):
        _load_checkpoint(path)
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'a')


class Dtype:
    """Pickles as a numpy dtype with a state of our choice."""

    def __init__(self, code, *state):
        self.parts = code, state

    def __reduce__(self):
        return np.dtype, (self.parts[0], False, True), self.parts[1]


PLAIN = (3, '<', None, None, None, -1, -1, 0)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize(
    'dtype',
    [
        Dtype('O', 3, '|', None, None, None, -1, -1, 0),
        Dtype('f8', 3, '<', None, None, None, -1, -1, 63),
        Dtype('f8', 3, '<', (np.dtype('f8'), (99,)), None, None, -1, -1, 0),
        Dtype('V8', *PLAIN),
        Dtype('f8,O', *PLAIN),
        Dtype('f8', *PLAIN + (1,)),
    ],
)
def test_dtype_with_pointers_is_refused(dtype, form, tmp_path):
    payload = pickle.dumps(dtype, 2)
    path = craft(payload, tmp_path / 'c.pth', form)
    with pytest.raises(ValueError, match='c.pth'):
        _load_checkpoint(path)


@pytest.mark.parametrize('form', FORMATS)
def test_array_cannot_be_made_over_foreign_memory(form, tmp_path):
    payload = pickled(np.ndarray, (4,), 'O', b'x' * 32)
    path = craft(payload, tmp_path / 'c.pth', form)
    assert _load_checkpoint(path).size == 0


def test_torchscript_is_refused(tmp_path):
    path = str(tmp_path / 'c.pth')
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(ValueError, match='c.pth'):
        _load_checkpoint(path)


# ------------------------------------------ out of memory, and out of bounds


class Raw:
    """Builds pickles of tensors with numbers of our choice."""

    @staticmethod
    def text(value):
        data = value.encode()
        return b'X' + struct.pack('<I', len(data)) + data

    @staticmethod
    def number(value):
        size = value.bit_length() // 8 + 1
        return (
            b'\x8a'
            + bytes([size])
            + value.to_bytes(size, 'little', signed=True)
        )

    @classmethod
    def tensor(cls, elements, size, stride, offset=0, key='0', legacy=False):
        def group(*parts):
            return b'(' + b''.join(parts) + b't'

        storage = group(
            cls.text('storage'),
            b'ctorch\nFloatStorage\n',
            cls.text(key),
            cls.text('cpu'),
            cls.number(elements),
            *([b'N'] if legacy else []),
        )
        arguments = group(
            storage + b'Q',
            cls.number(offset),
            group(*map(cls.number, size)),
            group(*map(cls.number, stride)),
            b'\x89ccollections\nOrderedDict\n)R',
        )
        return b'ctorch._utils\n_rebuild_tensor_v2\n' + arguments + b'R'

    @classmethod
    def weights(cls, *tensors):
        items = b''.join(
            cls.text(f'w{i}') + tensor for i, tensor in enumerate(tensors)
        )
        return b'\x80\x02}(' + items + b'u.'


def craft_storages(payload, path, legacy, keys=('0',), numbers=16):
    """Put a pickle into a file with storages of floats."""
    if not legacy:
        craft(payload, path, 'zip')
        with zipfile.ZipFile(str(path), 'a') as archive:
            for key in keys:
                archive.writestr(f'archive/data/{key}', bytes(4 * numbers))
        return str(path)
    craft(payload, path, 'legacy')
    content = path.read_bytes()
    empty = pickle.dumps([], 2)
    assert content.endswith(empty)
    records = (struct.pack('<q', numbers) + bytes(4 * numbers)) * len(keys)
    path.write_bytes(
        content[: -len(empty)] + pickle.dumps(list(keys), 2) + records
    )
    return str(path)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
    'elements, size, stride, offset',
    [
        (4096, [4096], [1], 0),
        (16, [17], [1], 0),
        (16, [4], [1], 13),
        (16, [4], [1], -1),
        (16, [2], [-1], 4),
        (-16, [16], [1], 0),
        (16, [2, 2], [2**62 + 2500, 2**62 - 2501], 0),
        (16, [2**32, 2**32], [0, 2**40], 0),
        (16, [4, 4], [4], 0),
        (2**62 + 4, [16], [1], 0),
    ],
)
def test_a_tensor_stays_inside_of_what_the_file_holds(
    legacy, elements, size, stride, offset, tmp_path
):
    tensor = Raw.tensor(elements, size, stride, offset, legacy=legacy)
    path = craft_storages(Raw.weights(tensor), tmp_path / 'c.pth', legacy)
    with pytest.raises(ValueError, match='c.pth cannot be read'):
        _load_checkpoint(path)


@pytest.mark.parametrize('legacy', [False, True])
def test_a_tensor_that_fills_its_storage_is_loaded(legacy, tmp_path):
    """Without this the test above might pass for a slip in the file."""
    tensor = Raw.tensor(16, [2, 3], [8, 3], 1, legacy=legacy)
    path = craft_storages(Raw.weights(tensor), tmp_path / 'c.pth', legacy)
    assert _load_checkpoint(path)['w0'].stride() == (8, 3)


@pytest.mark.parametrize(
    'keys', [[], ['0'], ['0', '1', '2'], ['0', '0'], ['0', '1', '1']]
)
def test_storages_made_are_storages_read(keys, tmp_path):
    weights = Raw.weights(
        *(Raw.tensor(16, [16], [1], key=key, legacy=True) for key in '01')
    )
    path = craft_storages(weights, tmp_path / 'c.pth', True, keys)
    with pytest.raises(ValueError, match='c.pth cannot be read'):
        _load_checkpoint(path)
    craft_storages(weights, tmp_path / 'c.pth', True, ['1', '0'])
    assert len(_load_checkpoint(path)) == 2


def test_a_storage_has_one_size(tmp_path):
    weights = Raw.weights(
        Raw.tensor(16, [16], [1]), Raw.tensor(4096, [4096], [1])
    )
    path = craft_storages(weights, tmp_path / 'c.pth', False)
    with pytest.raises(ValueError, match='c.pth cannot be read'):
        _load_checkpoint(path)


class Array:
    """Pickles as an array whose shape is larger than its bytes."""

    def __init__(self, *shape):
        self.shape = shape

    def __reduce__(self):
        return (
            np.core.multiarray._reconstruct,
            (np.ndarray, (0,), b'b'),
            (1, self.shape, np.dtype('f8'), False, b''),
        )


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('shape', [(1,), (2**32, 2**32), (-1,), (2**61,)])
def test_an_array_stays_inside_of_its_bytes(shape, form, tmp_path):
    payload = pickle.dumps(Array(*shape), 2)
    path = craft(payload, tmp_path / 'c.pth', form)
    with pytest.raises(ValueError, match='c.pth'):
        _load_checkpoint(path)


def doubled(levels):
    part = []
    for _ in range(levels):
        part = [part, part]
    return part


def endless():
    part = []
    part.append(part)
    return part


GREEDY = dict(
    bytes=lambda: pickled(bytearray, 3 * 10**9),
    shared=lambda: pickle.dumps(doubled(60), 2),
    deep=lambda: b'\x80\x02' + b']' * 5000 + b'a' * 4999 + b'.',
    endless=lambda: pickle.dumps(endless(), 2),
    integers=lambda: pickle.dumps(
        {n * (2**61 - 1): 0 for n in range(1, 20000)}, 2
    ),
    complexes=lambda: pickle.dumps(
        {(complex(1000003 * n, -n)): 0 for n in range(20000)}, 2
    ),
    elements=lambda: pickle.dumps(
        OrderedDict(((n, n), 0) for n in range(20000)), 2
    ),
    digits=lambda: b'\x80\x02L' + b'9' * 10**6 + b'L\n.',
    memo=lambda: b'\x80\x02Np9999999999999\n.',
    message=lambda: b'\x80\x02cos\n' + b'x' * 10**5 + b'\n.',
)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('kind', sorted(GREEDY))
def test_what_costs_far_more_than_its_size_is_refused(kind, form, tmp_path):
    hash_of = sys.hash_info.modulus
    if kind == 'integers' and hash_of != 2**61 - 1:
        pytest.skip('integers of this Python collide elsewhere')
    path = craft(GREEDY[kind](), tmp_path / 'c.pth', form)
    begun = time.process_time()
    with pytest.raises(ValueError, match='c.pth') as caught:
        _load_checkpoint(path)
    assert time.process_time() - begun < 5
    assert len(str(caught.value)) < 1000


def test_packed_and_doubled_records_are_refused(tmp_path):
    plain = Raw.weights(Raw.tensor(16, [16], [1]))
    path = tmp_path / 'c.pth'
    for packed in (True, False):
        craft_storages(plain, path, False)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)
            with zipfile.ZipFile(str(path), 'a') as archive:
                archive.writestr(
                    'archive/data/' + ('1' if packed else '0'),
                    bytes(10**6),
                    zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED,
                )
        with pytest.raises(ValueError, match='c.pth cannot be read'):
            _load_checkpoint(str(path))


def test_a_tar_archive_that_begins_as_a_pickle_is_refused(tmp_path):
    path = tmp_path / 'c.pth'
    name = (pickle.dumps(0x1950A86A20F9469CFC6C, 2)).decode('latin-1')
    tar = tarfile.open(
        str(path), 'w', encoding='latin-1', format=tarfile.USTAR_FORMAT
    )
    with tar as archive:
        archive.addfile(tarfile.TarInfo(name.replace('\n', 'n')))
    assert path.read_bytes()[:1] == b'\x80'
    with pytest.raises(ValueError, match='c.pth cannot be read'):
        _load_checkpoint(str(path))


# --------------------------------------------------- what ordinary ones hold


CONTENT = dict(
    state_dict=OrderedDict(
        half=torch.ones(2, dtype=torch.half),
        brain=torch.ones(2, dtype=torch.bfloat16),
        integer=torch.arange(3),
        flag=torch.tensor(True),
        parameter=nn.Parameter(torch.ones(2)),
        view=torch.arange(6.0).view(2, 3).t(),
        empty=torch.empty(0),
    ),
    meta=dict(
        score=np.float64(0.5),
        single=np.float32(0.25),
        count=np.int64(3),
        flag=np.bool_(True),
        array=np.arange(6, dtype='f4').reshape(2, 3),
        fortran=np.asfortranarray(np.arange(6).reshape(2, 3)),
        big_endian=np.arange(3, dtype='>i4'),
        random_state=np.random.RandomState(1).get_state(),
        torch_random_state=torch.get_rng_state(),
        when=datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.timezone.utc),
        day=datetime.date(2020, 1, 2),
        took=datetime.timedelta(seconds=3),
        raw=b'\x00\xff',
        mutable=bytearray(b'ab'),
        names={'a', 'b'},
        frozen=frozenset('ab'),
        number=1 + 2j,
        huge=10**30,
        size=torch.Size([1, 2]),
        dtype=torch.float16,
        device=torch.device('cpu'),
        ordered=OrderedDict(a=1),
        nothing=None,
        text='\u00e9',
        python_random_state=random.Random(1).getstate(),
    ),
)


def assert_same(one, other):
    if isinstance(other, np.ndarray):
        # numpy itself unpickles into the order of bytes of this machine.
        assert one.dtype == other.dtype.newbyteorder('=')
        np.testing.assert_array_equal(one, other)
    elif isinstance(other, dict):
        assert type(one) is type(other) and list(one) == list(other)
        for key in other:
            assert_same(one[key], other[key])
    elif isinstance(other, (list, tuple)):
        assert type(one) is type(other) and len(one) == len(other)
        for pair in zip(one, other):
            assert_same(*pair)
    elif isinstance(other, torch.Tensor):
        assert type(one) is type(other) and one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert type(one) is type(other) and one == other


@pytest.mark.parametrize('form', FORMATS)
def test_ordinary_content_is_loaded(form, tmp_path):
    path = save(CONTENT, tmp_path / 'c.pth', form)
    loaded = _load_checkpoint(path)
    assert_same(loaded, CONTENT)
    # What was loaded can be used, saved and loaded again by anybody.
    np.random.RandomState().set_state(loaded['meta']['random_state'])
    again = pickle.loads(pickle.dumps(loaded['meta']['array'], 2))
    assert type(again) is np.ndarray
    assert_same(again, CONTENT['meta']['array'])
    path = save(loaded, tmp_path / 'd.pth', form)
    assert_same(_load_checkpoint(path), CONTENT)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_numpy_of_either_version(module, form, tmp_path):
    payload = pickle.dumps(dict(a=np.float64(0.5), b=np.arange(2)), 2)
    here = np.core.multiarray.scalar.__module__.rpartition('.')[0]
    moved = payload.replace(here.encode(), module.encode())
    assert moved.count(module.encode() + b'.multiarray') == 2
    loaded = _load_checkpoint(craft(moved, tmp_path / 'c.pth', form))
    assert_same(loaded, dict(a=np.float64(0.5), b=np.arange(2)))


# ----------------------------------------------------------------- damaged


@pytest.mark.parametrize(
    'content, words',
    [
        (b'', 'is empty'),
        (b'P', 'is not a checkpoint'),
        (b'hello', 'is not a checkpoint'),
        (b'PK\x03\x04 or so', 'cannot be read'),
        (b'\x80\x02.', 'cannot be read'),
        (b'\x80' + bytes(500), 'cannot be read'),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    path = tmp_path / 'c.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='c.pth ' + words):
        _load_checkpoint(str(path))


def test_tar_and_missing_files_are_named(tmp_path):
    path = str(tmp_path / 'c.pth')
    with tarfile.open(path, 'w') as archive:
        archive.add(__file__, 'storages')
    with pytest.raises(ValueError, match='c.pth is not a checkpoint'):
        _load_checkpoint(path)
    for missing in (path + 'x', str(tmp_path)):
        with pytest.raises(OSError, match='is not a checkpoint file'):
            _load_checkpoint(missing)


@pytest.mark.parametrize('trusted', [False, True])
@pytest.mark.parametrize('form', FORMATS)
def test_truncated_files_are_named(form, trusted, tmp_path, trust):
    checkpoint.trust_checkpoints(trusted)
    weights = dict(state_dict=nn.Linear(20, 20).state_dict())
    whole = open(save(weights, tmp_path / 'c.pth', form), 'rb').read()
    path = tmp_path / 'c.pth'
    for length in [1, 2, 3, 10, 100] + [len(whole) - n for n in (1, 30, 500)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match='c.pth') as raised:
            _load_checkpoint(str(path))
        message = str(raised.value)
        assert '\n' not in message and len(message) < 500, message
    path.write_bytes(whole)
    _load_checkpoint(str(path))


def test_a_flipped_bit_is_found_wherever_it_matters(tmp_path):
    model = nn.Linear(5, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    path = str(tmp_path / 'c.pth')
    save_checkpoint(model, path, optimizer, meta=dict(epoch=1, iter=3))
    with open(path, 'rb') as stream:
        whole = stream.read()
    good = _load_checkpoint(path)
    rng = random.Random(0)
    refused = 0
    for place in rng.sample(range(len(whole)), 700):
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        with open(path, 'wb') as stream:
            stream.write(content)
        try:
            loaded = _load_checkpoint(path)
        except ValueError as error:
            assert path in str(error)
            refused += 1
        else:
            # A time, or what fills a gap between two records.
            assert_same(loaded, good)
    assert refused > 300


def test_a_file_of_torch_without_checksums_is_loaded(tmp_path):
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes checksums')
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(a=torch.ones(3)), str(tmp_path / 'c.pth'))
    finally:
        torch.serialization.set_crc32_options(True)
    assert _load_checkpoint(str(tmp_path / 'c.pth'))['a'].sum() == 3


def test_bytes_go_through_no_other_codec():
    assert iter_timer._latin1_bytes('\xff', 'latin1') == b'\xff'
    with pytest.raises(pickle.UnpicklingError, match='rot13'):
        iter_timer._latin1_bytes('ab', 'rot13')


# ---------------------------------------------- plain data of other classes


PLAIN_KINDS = [
    (mmcv.ConfigDict(a=1, b=dict(c=[2])), dict(a=1, b=dict(c=[2]))),
    (collections.defaultdict(list, a=[1]), dict(a=[1])),
    (collections.Counter('aab'), dict(a=2, b=1)),
    (collections.deque([1, 2], maxlen=3), [1, 2]),
    (argparse.Namespace(lr=0.1), types.SimpleNamespace(lr=0.1)),
    (pathlib.PurePosixPath('/a/b'), pathlib.PurePosixPath('/a/b')),
    (pathlib.Path('a/b'), pathlib.PurePath('a/b')),
    (range(1, 7, 2), range(1, 7, 2)),
    (slice(1, None), slice(1, None)),
    (torch.__version__, str(torch.__version__)),
]


@pytest.mark.parametrize('form', FORMATS)
def test_plain_data_of_other_classes_is_loaded(form, tmp_path):
    given, wanted = zip(*PLAIN_KINDS)
    path = save(dict(meta=given), tmp_path / 'c.pth', form)
    loaded = _load_checkpoint(path)['meta']
    for one, other in zip(loaded, wanted):
        assert type(one) is type(other) and one == other
    for text in (np.array(['a', 'bcd']), np.array([b'a'])):
        path = save(dict(a=text, b=text[0]), tmp_path / 'c.pth', form)
        loaded = _load_checkpoint(path)
        assert loaded['a'].dtype == text.dtype
        assert loaded['a'].tolist() == text.tolist()
        assert loaded['b'] == text[0]


@pytest.mark.parametrize('form', FORMATS)
def test_a_tensor_with_an_attribute_is_loaded(form, tmp_path):
    plain, weight = torch.ones(2), nn.Parameter(torch.ones(3))
    plain.note = weight.note = 'of mine'
    path = save(dict(plain=plain, weight=weight), tmp_path / 'c.pth', form)
    loaded = _load_checkpoint(path)
    assert torch.equal(loaded['plain'], plain)
    assert isinstance(loaded['weight'], nn.Parameter)


def test_what_is_intact_is_not_called_damaged(tmp_path):
    array = np.array([dict()], object)
    for content in (dict(a=array), dict(a=Decimal(1)), nn.Linear(1, 1)):
        path = save(content, tmp_path / 'c.pth', 'zip')
        with pytest.raises(ValueError, match='not plain data') as caught:
            _load_checkpoint(path)
        assert 'damaged' not in str(caught.value)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize(
    'payload',
    [
        # State of a tensor is not set past the checks.
        pickle.dumps(dict(a=1), 2)[:-1] + b'ctorch\nTensor\n)\x81}b.',
        # Methods of a dict are not hidden.
        b'\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.',
        # Nothing is called over and over with what is there once.
        b'\x80\x02cbuiltins\nbytearray\nq\x00X\x10\x27\x00\x00'
        + b'a' * 10000
        + b'q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x03'
        + b'0]('
        + b'h\x00h\x03R' * 10**5
        + b'e.',
        # A range is not laid out.
        b'\x80\x02cbuiltins\nset\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R.',
        b'\x80\x02cbuiltins\nset\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85RR.',
    ],
)
def test_tricks_of_an_unpickler(payload, form, tmp_path):
    path = craft(payload, tmp_path / 'c.pth', form)
    begun = time.process_time()
    with pytest.raises(ValueError, match='c.pth'):
        _load_checkpoint(path)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize('name', sorted(ATTACKS))
def test_ranks_send_each_other_no_code(name, tmp_path):
    folder = tmp_path / 'x'
    folder.mkdir()
    marker = folder / 'm'
    path = craft(ATTACKS[name](marker), folder / 'evil.pth', 'legacy')
    with open(path, 'rb') as stream:
        sent = torch.tensor(list(stream.read()), dtype=torch.uint8)
    with pytest.raises(ValueError, match='must be plain'):
        checkpoint.unpack(sent)
    assert not marker.exists()


def test_what_is_sent_arrives_whole():
    packed = checkpoint.pack(CONTENT)
    filled = torch.cat([packed, torch.zeros(99, dtype=torch.uint8)])
    assert_same(checkpoint.unpack(filled), CONTENT)
