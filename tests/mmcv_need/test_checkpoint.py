"""Checkpoints: what mmcv's are, from anywhere, whole or not at all."""

import collections
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import mmcv
import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    checkpoint,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from mmcv.runner.checkpoint import get_state_dict
from torch import nn


def net():
    torch.manual_seed(0)
    layers = dict(
        conv=nn.Conv2d(1, 2, 3),
        norm=nn.BatchNorm2d(2),
        inner=MMDataParallel(nn.Linear(2, 1), device_ids=[-1]),
    )
    return nn.Sequential(collections.OrderedDict(layers))


KEYS = [
    'conv.weight',
    'conv.bias',
    'norm.weight',
    'norm.bias',
    'norm.running_mean',
    'norm.running_var',
    'norm.num_batches_tracked',
    'inner.weight',
    'inner.bias',
]


@pytest.fixture
def theirs(stock):
    """Return the original module."""
    return stock('mmcv', 'runner/checkpoint.py')


def assert_equal(one, other):
    assert list(one) == list(other)
    for key in one:
        assert one[key].dtype == other[key].dtype
        assert torch.equal(one[key], other[key]), key


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize('wrapped', [False, True])
def test_state_dict_is_that_of_the_original(theirs, wrapped):
    model = net()
    model.norm.register_buffer('fleeting', torch.ones(1), persistent=False)

    def hook(module, state, prefix, metadata):
        state[prefix + 'hooked'] = torch.tensor(float(len(prefix)))

    model.conv._register_state_dict_hook(hook)
    model.norm._register_state_dict_hook(lambda *args: args[1])
    if wrapped:
        model = MMDataParallel(model, device_ids=[-1])
    mine, original = get_state_dict(model), theirs.get_state_dict(model)
    assert_equal(mine, original)
    assert set(KEYS) < set(mine)
    assert mine._metadata == original._metadata
    assert not any(value.requires_grad for value in mine.values())
    kept = get_state_dict(model, prefix='x.', keep_vars=True)
    original = theirs.get_state_dict(model, prefix='x.', keep_vars=True)
    assert_equal(kept, original)
    assert kept['x.conv.weight'].requires_grad
    assert_equal(weights_to_cpu(mine), theirs.weights_to_cpu(mine))


def test_weights_go_through_wrappers_at_any_depth():
    weights = get_state_dict(net())
    for model in (net(), MMDataParallel(net(), device_ids=[-1])):
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        load_state_dict(model, weights, strict=True)
        assert_equal(get_state_dict(model), weights)


def test_mismatches_are_told(capsys, caplog):
    weights = get_state_dict(net())
    del weights['conv.bias'], weights['norm.num_batches_tracked']
    weights['surplus'] = torch.ones(1)
    weights['inner.bias'] = torch.ones(7)
    model = net()
    nn.init.zeros_(model.conv.weight)
    load_state_dict(model, weights)
    told = capsys.readouterr().out
    assert torch.equal(model.conv.weight, weights['conv.weight'])
    load_state_dict(model, weights, logger=logging.getLogger('weights'))
    assert capsys.readouterr().out == ''
    with pytest.raises(RuntimeError) as raised:
        load_state_dict(net(), weights, strict=True)
    for message in (told, caplog.text, str(raised.value)):
        assert 'missing keys: conv.bias' in message
        assert 'unexpected keys: surplus' in message
        assert 'inner.bias' in message
        assert 'num_batches_tracked' not in message
    load_state_dict(net(), get_state_dict(net()))
    assert capsys.readouterr().out == ''


def test_prefix_of_a_wrapper_is_cut_off(tmp_path, capsys):
    weights = {'module.' + k: v for k, v in get_state_dict(net()).items()}
    path = str(tmp_path / 'c.pth')
    for content in (weights, dict(state_dict=weights)):
        torch.save(content, path)
        load_checkpoint(net(), path, strict=True)
    torch.save({}, path)
    assert load_checkpoint(net(), path) == {}
    capsys.readouterr()


@pytest.mark.parametrize(
    'content', [3, [1], dict(state_dict=[1]), {1: torch.ones(1)}]
)
def test_file_without_weights_is_named(tmp_path, content):
    path = str(tmp_path / 'c.pth')
    torch.save(content, path)
    with pytest.raises(RuntimeError, match='c.pth holds no weights'):
        load_checkpoint(net(), path)


def test_one_part_of_a_model(tmp_path):
    path = str(tmp_path / 'c.pth')
    save_checkpoint(net(), path)
    weights = get_state_dict(net())
    part = _load_checkpoint_with_prefix('norm', path)
    assert len(part) == 5
    assert torch.equal(part['weight'], weights['norm.weight'])
    assert _load_checkpoint_with_prefix('norm.', path).keys() == part.keys()
    torch.save(weights, path)
    assert len(_load_checkpoint_with_prefix('conv', path)) == 2
    with pytest.raises(AssertionError, match='c.pth.*nor'):
        _load_checkpoint_with_prefix('nor', path)


# ------------------------------------------------------------- round trip


def trained():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.conv(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('several', [False, True])
def test_files_of_ours_and_theirs_hold_the_same(
    tmp_path, theirs, wrapped, several
):
    model, optimizer = trained()
    model.CLASSES = ('person',)
    if wrapped:
        model = MMDataParallel(model, device_ids=[-1])
    if several:
        optimizer = dict(one=optimizer)
    paths = [str(tmp_path / 'new' / 'ours.pth'), str(tmp_path / 'theirs.pth')]
    given = dict(epoch=1, note='x')
    save_checkpoint(model, paths[0], optimizer, given)
    assert given == dict(epoch=1, note='x')
    theirs.save_checkpoint(model, paths[1], optimizer, dict(given))
    # Each by the other's loader; the original's needs to be let.
    ours = torch.load(paths[0])
    others = _load_checkpoint(paths[1])
    assert list(ours) == list(others)
    assert ours['meta'].keys() == others['meta'].keys()
    assert ours['meta']['CLASSES'] == ('person',)
    assert ours['meta']['mmcv_version'] == mmcv.__version__
    assert_equal(ours['state_dict'], others['state_dict'])
    states = [c['optimizer'] for c in (ours, others)]
    if several:
        assert [list(state) for state in states] == [['one']] * 2
        states = [state['one'] for state in states]
    assert states[0]['param_groups'] == states[1]['param_groups']
    assert len(states[0]['state']) == 2
    for number, state in states[0]['state'].items():
        for name, value in state.items():
            other = states[1]['state'][number][name]
            assert torch.equal(*map(torch.as_tensor, (value, other)))


def test_meta_must_be_a_dict(tmp_path):
    with pytest.raises(TypeError, match='meta'):
        save_checkpoint(net(), str(tmp_path / 'c.pth'), meta=[1])
    assert list(tmp_path.iterdir()) == []


def test_map_location_is_that_of_torch(tmp_path):
    path = str(tmp_path / 'c.pth')
    save_checkpoint(net(), path)
    seen = []

    def place(storage, location):
        seen.append(location)
        return storage

    for where in (None, 'cpu', torch.device('cpu'), {'cpu': 'cpu'}, place):
        weights = _load_checkpoint(path, where)['state_dict']
        assert_equal(weights, get_state_dict(net()))
    assert seen == ['cpu'] * 9


def test_load_checkpoint_returns_all(tmp_path):
    path = str(tmp_path / 'c.pth')
    save_checkpoint(net(), path, meta=dict(epoch=4))
    model = MMDataParallel(net(), device_ids=[-1])
    assert load_checkpoint(model, path, 'cpu', True)['meta']['epoch'] == 4


# ---------------------------------------------------------------- schemes


def test_every_scheme_has_its_loader(theirs):
    schemes = theirs.CheckpointLoader._schemes
    assert len(schemes) == 10
    for scheme, loader in schemes.items():
        found = CheckpointLoader._get_checkpoint_loader(scheme + 'x.pth')
        assert found.__name__ == loader.__name__
        assert found.__module__ == checkpoint.__name__


def test_schemes_can_be_added(monkeypatch, capsys):
    monkeypatch.setattr(
        CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
    )

    @CheckpointLoader.register_scheme(prefixes=['ab', 'ftp://'])
    def load_short(filename, map_location):
        return 'short', filename, map_location

    CheckpointLoader.register_scheme('abc', lambda name, where: 'long')
    assert _load_checkpoint('abd', 'cpu') == ('short', 'abd', 'cpu')
    assert _load_checkpoint('abcd') == 'long'
    assert 'load_short' in capsys.readouterr().out
    with pytest.raises(KeyError, match='ftp'):
        CheckpointLoader.register_scheme('ftp://', load_short)
    CheckpointLoader.register_scheme('ftp://', lambda n, w: 1, force=True)
    assert _load_checkpoint('ftp://x') == 1


@pytest.fixture
def addresses(monkeypatch):
    """Record what would be downloaded; give a classifier's weights."""
    asked = []

    def load_from_http(url, map_location=None):
        asked.append(url)
        weights = {'backbone.a': 1, 'head.b': 2}
        return dict(state_dict=weights)

    monkeypatch.setattr(checkpoint, 'load_from_http', load_from_http)
    return asked


def test_openmmlab(addresses, tmp_path, monkeypatch):
    monkeypatch.setenv('MMCV_HOME', str(tmp_path / 'home'))
    zoo = mmcv.load(mmcv.__path__[0] + '/model_zoo/open_mmlab.json')
    name, url = sorted(zoo.items())[0]
    _load_checkpoint('open-mmlab://' + name)
    _load_checkpoint('openmmlab://' + name)
    assert addresses == [url] * 2
    old, new = sorted(checkpoint.get_deprecated_model_names().items())[0]
    with pytest.warns(UserWarning, match=f'{old} is deprecated.*{new}'):
        _load_checkpoint('open-mmlab://' + old)
    assert addresses[-1] == zoo[new]
    with pytest.raises(ValueError, match=f'open-mmlab://no.*{name}'):
        _load_checkpoint('open-mmlab://no')
    # One's own table, with a file beside it.
    own = tmp_path / 'home' / 'open_mmlab.json'
    mmcv.dump(dict(mine='mine.pth', gone='gone.pth'), str(own))
    save_checkpoint(net(), str(tmp_path / 'home' / 'mine.pth'))
    assert list(_load_checkpoint('openmmlab://mine')['state_dict']) == KEYS
    with pytest.raises(IOError, match='gone.pth is not a checkpoint file'):
        _load_checkpoint('openmmlab://gone')


def test_home_of_mmcv(tmp_path, monkeypatch):
    monkeypatch.delenv('MMCV_HOME', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert checkpoint._get_mmcv_home() == str(tmp_path / 'cache' / 'mmcv')
    assert (tmp_path / 'cache' / 'mmcv').is_dir()


def test_mmcls(addresses):
    name, url = sorted(checkpoint.get_mmcls_models().items())[0]
    assert _load_checkpoint('mmcls://' + name) == dict(state_dict=dict(a=1))
    assert addresses == [url]


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """Stand in for torchvision, of the old and the new way of naming."""
    package = types.ModuleType('torchvision')
    models = types.ModuleType('torchvision.models')
    models.__path__ = [str(tmp_path / 'models')]
    (tmp_path / 'models' / 'detection').mkdir(parents=True)
    (tmp_path / 'models' / 'detection' / '__init__.py').write_text('1 / 0')
    (tmp_path / 'models' / 'old.py').write_text(
        'model_urls = {"vgg11": "https://x/vgg.pth"}'
    )
    (tmp_path / 'models' / 'new.py').write_text(
        'class V1:\n    url = "https://x/net.pth"\n'
        'class ResNet50_Weights:\n    IMAGENET1K_V1 = V1\n'
    )
    for module in (package, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    for name in ('old', 'new'):
        sys.modules.pop('torchvision.models.' + name, None)


def test_torchvision(addresses, torchvision):
    _load_checkpoint('torchvision://vgg11')
    with pytest.warns(UserWarning, match='torchvision://resnet50'):
        _load_checkpoint('modelzoo://resnet50')
    assert addresses == ['https://x/vgg.pth', 'https://x/net.pth']
    with pytest.raises(ValueError, match='torchvision://no: .*vgg11'):
        _load_checkpoint('torchvision://no')


@pytest.mark.parametrize('error', [ImportError, RuntimeError, OSError])
def test_torchvision_that_cannot_be_imported(monkeypatch, error):
    def fail(name):
        raise error('built for another torch')

    monkeypatch.setattr(checkpoint, 'import_module', fail)
    assert checkpoint.get_torchvision_models() == {}
    with pytest.raises(ValueError, match='needs torchvision'):
        _load_checkpoint('torchvision://resnet50')


def test_ceph(tmp_path, monkeypatch):
    path = tmp_path / 'c.pth'
    save_checkpoint(net(), str(path))
    client = types.SimpleNamespace(get=lambda name: path.read_bytes())
    monkeypatch.setattr(checkpoint, 'FileClient', lambda backend: client)
    assert list(_load_checkpoint('s3://b/c.pth')['state_dict']) == KEYS
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='s3://b/c.pth is empty'):
        _load_checkpoint('s3://b/c.pth')
    with pytest.raises(ValueError, match='petrel'):
        checkpoint.load_from_ceph('s3://b/c.pth', backend='petrel')


def test_pavi(tmp_path, monkeypatch):
    stored = {}

    class NotFound(Exception):
        pass

    class Model:
        name = 'c.pth'

        def create_file(self, path, name):
            with open(path, 'rb') as file:
                stored[name] = file.read()

        def download(self, path):
            with open(path, 'wb') as file:
                file.write(stored[self.name])

    def get(name):
        if name == 'new':
            raise NotFound
        return Model()

    folder = types.SimpleNamespace(create_training_model=lambda name: Model())
    cloud = types.SimpleNamespace(get=get, Folder=lambda: folder)
    pavi, errors = types.ModuleType('pavi'), types.ModuleType('pavi.exception')
    pavi.modelcloud, errors.NodeNotFoundError = cloud, NotFound
    with pytest.raises(ImportError, match='pavi'):
        save_checkpoint(net(), 'pavi://new/c.pth')
    monkeypatch.setitem(sys.modules, 'pavi', pavi)
    monkeypatch.setitem(sys.modules, 'pavi.exception', errors)
    for folder_name in ('new', 'old'):
        stored.clear()
        save_checkpoint(net(), f'pavi://{folder_name}/c.pth')
        loaded = _load_checkpoint('pavi://old/c.pth')
        assert list(loaded['state_dict']) == KEYS
    with pytest.raises(AssertionError):
        checkpoint.load_from_pavi('c.pth')


class Web:
    """A server on the loopback; answers are set, requests counted."""

    def __init__(self):
        self.answers, self.requests = {}, []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                web.requests.append(self.path)
                content = web.answers.get(self.path.partition('?')[0])
                self.send_response(404 if content is None else 200)
                self.send_header('Content-Length', str(len(content or b'')))
                self.end_headers()
                self.wfile.write(content or b'')

            def log_message(self, *args):
                pass

        self.server = HTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'


@pytest.fixture
def web(monkeypatch):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, args=[0.01])
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


def bytes_of(model, path):
    save_checkpoint(model, str(path))
    return path.read_bytes()


def test_http(web, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    web.answers['/c.pth'] = bytes_of(net(), tmp_path / 'c.pth')
    for _ in range(2):
        loaded = _load_checkpoint(web.url + '/c.pth?version=1')
        assert list(loaded['state_dict']) == KEYS
    cached = tmp_path / 'torch' / 'hub' / 'checkpoints' / 'c.pth'
    assert cached.read_bytes() == web.answers['/c.pth']
    assert len(web.requests) == 1
    folder = tmp_path / 'own'
    checkpoint.load_from_http(web.url + '/c.pth', model_dir=str(folder))
    assert [path.name for path in folder.iterdir()] == ['c.pth']
    with pytest.raises(OSError, match='none.pth was not downloaded.*404'):
        _load_checkpoint(web.url + '/none.pth')
    with pytest.raises(ValueError, match='names no file'):
        _load_checkpoint(web.url + '/')
    web.answers['/half.pth'] = web.answers['/c.pth'][:500]
    with pytest.raises(ValueError, match='half.pth.*came from.*remove it'):
        _load_checkpoint(web.url + '/half.pth')


@pytest.mark.parametrize(
    'name, sound',
    [
        ('a-{hash}.pth', True),
        ('a-{hash}_20200812.pth', True),
        ('a-20200812.pth', True),
        ('a-0123abcd.pth', False),
        ('a-0123abcd_20200812.pth', False),
    ],
)
def test_a_download_is_the_file_that_its_name_promises(
    web, tmp_path, name, sound
):
    content = bytes_of(net(), tmp_path / 'c.pth')
    name = name.format(hash=hashlib.sha256(content).hexdigest()[:8])
    web.answers['/' + name] = content
    folder = tmp_path / 'own'
    if sound:
        checkpoint.load_from_http(f'{web.url}/{name}', model_dir=str(folder))
        assert [path.name for path in folder.iterdir()] == [name]
    else:
        with pytest.raises(ValueError, match='name promises.*invalid hash'):
            checkpoint.load_from_http(
                f'{web.url}/{name}', model_dir=str(folder)
            )
        assert not list(folder.iterdir())


RANK = """
import os
import sys
import time
import torch.distributed as dist
from mmcv.runner import _load_checkpoint

start = time.time()
rank, url, store = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group(
    'gloo', init_method='file://' + store, rank=rank, world_size=2)
try:
    print(len(_load_checkpoint(url)['state_dict']))
except Exception as error:
    print(type(error).__name__, error)
# Only a failure on all ranks leaves them able to go on together.
dist.barrier()
print('done', flush=True)
# How gloo is taken down is not looked at here: a rank that goes first can
# make the other abort.
time.sleep(0.5)
os._exit(0)
"""


@pytest.mark.parametrize('served', [True, False])
def test_two_ranks_load_or_fail_together(web, tmp_path, run, served):
    if served:
        web.answers['/c.pth'] = bytes_of(net(), tmp_path / 'c.pth')

    def start(rank):
        env = dict(
            TORCH_HOME=str(tmp_path / 'torch'),
            LOCAL_RANK=str(rank),
            GLOO_SOCKET_IFNAME='lo',
        )
        command = [sys.executable, '-c', RANK, rank, web.url + '/c.pth']
        return run(command + [tmp_path / 'store'], env=env, timeout=60)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(start, range(2)))
    for result in results:
        assert result.returncode == 0, result.stderr
    lines = [r.stdout.splitlines()[-2:] for r in results]
    assert [line[-1] for line in lines] == ['done'] * 2
    # The second rank finds the file, or does not even try.
    assert web.requests == ['/c.pth']
    if served:
        assert lines[0][0] == lines[1][0] == str(len(KEYS))
    else:
        assert lines[0][0].startswith('DownloadError ')
        assert '404' in lines[0][0]
        assert lines[1][0].startswith('OtherRankError ')
        assert 'rank 0' in lines[1][0]


# ---------------------------------------------------------------- writing


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(net(), str(tmp_path / 'c.pth'))
    finally:
        os.umask(before)
    assert os.stat(str(tmp_path / 'c.pth')).st_mode & 0o777 == 0o640


def test_bare_name_goes_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(net(), 'c.pth')
    checkpoint.link_checkpoint('c.pth', 'latest.pth')
    assert list(_load_checkpoint('latest.pth')['state_dict']) == KEYS
    monkeypatch.undo()


def test_failure_leaves_all_as_it_was(tmp_path, monkeypatch):
    path = str(tmp_path / 'c.pth')
    save_checkpoint(net(), path)
    before = content(tmp_path)
    with pytest.raises(Exception, match='pickle'):
        save_checkpoint(net(), path, meta=dict(bad=lambda: None))
    assert content(tmp_path) == before

    def fail(*args):
        raise OSError(28, 'No space left on device')

    for call in ('fsync', 'replace'):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match='c.pth was not.*No space') as e:
                save_checkpoint(net(), path)
        assert e.value.errno == 28
        assert content(tmp_path) == before
    with pytest.raises(OSError, match='was not written'):
        save_checkpoint(net(), path + '/below/c.pth')
    assert content(tmp_path) == before


LIMITED = """
import resource, signal, sys
import torch
from mmcv.runner import save_checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in sys.argv[2:]:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
    try:
        save_checkpoint(torch.nn.Linear(300, 300), sys.argv[1])
    except OSError as error:
        print(error)
print('alive')
"""


def test_full_disk_is_told_and_survived(tmp_path, run):
    path = tmp_path / 'c.pth'
    path.write_bytes(b'the one before')
    # Full at the first, at a middle and at the last of 361,000 bytes.
    limits = [100, 200000, 361000]
    result = run([sys.executable, '-c', LIMITED, path] + limits)
    assert result.returncode == 0, result.stderr
    told = f'[Errno 27] {path} was not written: File too large'
    assert result.stdout.splitlines()[-4:] == [told] * 3 + ['alive']
    assert content(tmp_path) == {'c.pth': b'the one before'}


KILLED = """
import os, random, signal, sys, time
import torch
from mmcv.runner import save_checkpoint
from mmcv.runner.checkpoint import link_checkpoint

folder = sys.argv[1]
path, link = folder + '/c.pth', folder + '/latest.pth'
random.seed(3)
model = torch.nn.Linear(400, 400)


def save(number):
    with torch.no_grad():
        model.weight.fill_(number)
        model.bias.fill_(number)
    save_checkpoint(model, path, meta=dict(number=number))
    link_checkpoint(path, link)


save(0)
left = 0
for attempt in range(25):
    child = os.fork()
    if not child:
        for number in range(1, 10 ** 6):
            save(number)
    time.sleep(random.uniform(0.002, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for name in (path, link):
        found = torch.load(name)
        values = torch.cat([w.flatten() for w in found['state_dict'].values()])
        assert len(values) == 400 * 401
        assert (values == found['meta']['number']).all()
    left += len(os.listdir(folder)) > 2
save(0)
print(left, sorted(os.listdir(folder)))
"""


def test_killed_while_saving_leaves_a_whole_checkpoint(tmp_path, run):
    result = run([sys.executable, '-c', KILLED, tmp_path])
    assert result.returncode == 0, result.stderr
    left, _, names = result.stdout.splitlines()[-1].partition(' ')
    # Some were killed in the middle; the next save cleans up after them.
    assert int(left) > 0
    assert names == "['c.pth', 'latest.pth']"


def test_link_falls_back_to_a_copy(tmp_path, monkeypatch):
    paths = [str(tmp_path / name) for name in ('1.pth', '2.pth')]
    for number, path in enumerate(paths):
        save_checkpoint(net(), path, meta=dict(number=number))
    link = str(tmp_path / 'latest.pth')
    checkpoint.link_checkpoint(paths[0], link)
    assert os.readlink(link) == '1.pth'

    def unsupported(*args):
        raise OSError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'symlink', unsupported)
    checkpoint.link_checkpoint(paths[1], link)
    assert not os.path.islink(link)
    assert _load_checkpoint(link)['meta']['number'] == 1
    # What the link stood for is not written over.
    assert _load_checkpoint(paths[0])['meta']['number'] == 0
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.undo()
    checkpoint.link_checkpoint(paths[0], link)
    assert os.readlink(link) == '1.pth'


def test_files_are_closed(tmp_path):
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        save_checkpoint(net(), str(tmp_path / 'c.pth'))
        checkpoint.link_checkpoint(
            str(tmp_path / 'c.pth'), str(tmp_path / 'latest.pth')
        )
        _load_checkpoint(str(tmp_path / 'c.pth'))
        (tmp_path / 'bad.pth').write_bytes(b'PK')
        with pytest.raises(ValueError):
            _load_checkpoint(str(tmp_path / 'bad.pth'))
    assert len(os.listdir('/proc/self/fd')) == before


# Writes one name again and again, and says what has gone wrong.
WRITER = """
import sys, torch
from mmcv.runner.checkpoint import link_checkpoint, save_checkpoint
model = torch.nn.Linear(200, 200)
torch.nn.init.constant_(model.weight, int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    save_checkpoint(model, sys.argv[1] + '/epoch_1.pth')
    link_checkpoint(sys.argv[1] + '/epoch_1.pth', sys.argv[1] + '/latest.pth')
"""


def start_writer(folder, number, times):
    return subprocess.Popen(
        [sys.executable, '-c', WRITER, *map(str, (folder, number, times))],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.processes
def test_two_processes_write_one_name(tmp_path):
    writers = [start_writer(tmp_path, number, 40) for number in (1, 2)]
    for writer in writers:
        _, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors
    for name in ('epoch_1.pth', 'latest.pth'):
        weight = _load_checkpoint(str(tmp_path / name))['state_dict']['weight']
        assert weight.unique().tolist() in ([1.0], [2.0])
    assert not list(tmp_path.glob('.*'))


@pytest.mark.processes
def test_a_folder_that_goes_while_it_is_saved_comes_again(tmp_path):
    folder = tmp_path / 'work'
    writer = start_writer(folder, 1, 300)
    removed = 0
    while writer.poll() is None:
        if folder.exists():
            shutil.rmtree(str(folder), ignore_errors=True)
            removed += 1
        time.sleep(0.2)  # several savings, on a busy machine too
    assert writer.returncode == 0, writer.stderr.read()
    writer.stderr.close()
    assert removed


def test_files_of_killed_writers_go_and_those_of_others_stay(tmp_path):
    mine = tmp_path / '.a.pth.1.tmp'
    dead = [tmp_path / '.a.pth.2.tmp', tmp_path / '.a.pth.3.tmp']
    dead[0].write_bytes(b'half')
    dead[1].symlink_to('b.pth')
    with mine.open('wb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save_checkpoint(torch.nn.Linear(2, 2), str(tmp_path / 'a.pth'))
        assert sorted(tmp_path.glob('.*')) == [mine]
    save_checkpoint(torch.nn.Linear(2, 2), str(tmp_path / 'a.pth'))
    assert not list(tmp_path.glob('.*'))
