"""What the tests share: the replaced originals, processes, ports, data."""

import contextlib
import gc
import importlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

# Read when torch is loaded. Threads that spin while they wait for each other
# take the cores from whatever runs beside the tests: beside another run of
# them, trainings in this process took five times as long.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

ROOT = Path(__file__).resolve().parent.parent
# For `import patches`: the tool is a script, not an installed package.
sys.path.insert(0, str(ROOT / 'scripts'))

from originals import copy_released, original  # noqa: E402

# OpenCV, mmpose.apis and our own cli set these when they are imported.
SET_BY_IMPORTS = (
    'KMP_DUPLICATE_LIB_OK',
    'LD_LIBRARY_PATH',
    'TORCHINDUCTOR_CACHE_DIR',
    'TORCH_DEVICE_BACKEND_AUTOLOAD',
)

# What a process needs of our environment: everything else that happens to be
# set here must not decide whether a test passes.
INHERITED = (
    'HOME',
    'LANG',
    'LD_LIBRARY_PATH',
    'PATH',
    'PIP_CONFIG_FILE',
    'PIP_INDEX_URL',
    'PYTHONPATH',
    'TMPDIR',
    'VENV',
)


# A test that takes one of these fixtures starts processes, or trains.
STARTS_PROCESSES = {'apart', 'launch', 'ranks', 'run'}
TRAINS = {'checkpoint', 'convert', 'export', 'exported', 'main', 'train'}


def pytest_collection_modifyitems(items):
    """Mark what fixtures and folders tell of the needs of a test."""
    for item in items:
        if STARTS_PROCESSES & set(item.fixturenames):
            item.add_marker('processes')
        if TRAINS & set(item.fixturenames):
            item.add_marker('training')
        if 'cann_stub' in Path(str(item.fspath)).parts:
            item.add_marker('compiles')


# Files whose tests take longest: they go first, so that no core is idle at
# the end. The other files follow by their number of tests.
LONG_FILES = (
    'test_main_job.py',
    'test_train_resume.py',
    'test_stopped_training.py',
    'test_soak.py',
    'test_train.py',
    'test_train_losses.py',
    'test_bench.py',
    'test_hosts.py',
    'test_killed_launcher.py',
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give whole files to the processes of pytest-xdist, long ones first."""
    if config.getvalue('dist') != 'loadfile':
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongFirst(LoadFileScheduling):
        def _assign_work_unit(self, node):
            for name in reversed(LONG_FILES):
                for scope in list(self.workqueue):
                    if scope.endswith(f'/{name}'):
                        self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return LongFirst(config, log)


@pytest.fixture(scope='session', name='original')
def _original():
    return original


@contextlib.contextmanager
def _torchvision_or_stub():
    """Let ``import torchvision`` work where there is none that does."""
    try:
        importlib.import_module('torchvision')
        yield
        return
    except Exception:  # one for another torch raises what it likes
        before = set(sys.modules)
    names = (
        'torchvision',
        'torchvision.models',
        'torchvision.transforms',
        'torchvision.transforms.functional',
    )
    for name in names:
        stub = types.ModuleType(name)
        stub.__path__ = []
        sys.modules[name] = stub
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], child, stub)
    try:
        yield
    finally:
        for name in set(names) - before:
            del sys.modules[name]


@contextlib.contextmanager
def _registries_untouched():
    """Let a module register what is registered; put all back afterwards."""
    from mmcv.utils import Registry

    # By type(): isinstance would wake lazy objects of other libraries.
    saved = [
        (item, dict(item._module_dict))
        for item in gc.get_objects()
        if type(item) is Registry
    ]
    register = Registry._register_module

    def overriding(self, module_class, module_name=None, force=False):
        register(self, module_class, module_name, force=True)

    Registry._register_module = overriding
    try:
        yield
    finally:
        Registry._register_module = register
        for registry, modules in saved:
            registry._module_dict.clear()
            registry._module_dict.update(modules)


@pytest.fixture(scope='session')
def stock():
    """Load a replaced file's original beside ours.

    Returns:
        callable: ``stock(package, relpath)`` gives the module object. What it
        imports from its own package is what is installed, so ours; it is in
        no registry, and a registry that it defines is its own.
    """
    loaded = {}

    def load(package, relpath):
        if (package, relpath) in loaded:
            return loaded[package, relpath]
        folder, _, stem = relpath[: -len('.py')].rpartition('/')
        parent = '.'.join([package] + folder.split('/') * bool(folder))
        importlib.import_module(parent)
        # A name inside the package, for its relative imports.
        name = f'{parent}._stock_{stem}'
        spec = importlib.util.spec_from_file_location(
            name, str(original(package, relpath))
        )
        module = importlib.util.module_from_spec(spec)
        # Not in sys.modules, unless something looks it up while it loads.
        sys.modules[name] = module
        try:
            with _torchvision_or_stub(), _registries_untouched():
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        loaded[package, relpath] = module
        return module

    yield load
    for module in loaded.values():
        sys.modules.pop(module.__name__, None)


@pytest.fixture(scope='session')
def released(tmp_path_factory):
    """Copy mmcv and mmpose as released: the installed ones, reverted.

    Returns:
        Path: A folder with ``mmcv/`` and ``mmpose/``; not to be written to.
    """
    site = tmp_path_factory.mktemp('released')
    try:
        copy_released(site)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    return site


@pytest.fixture(autouse=True)
def no_restart(monkeypatch):
    """Fail a test that would have pytest start again as another program.

    bootstrap.py does that with a command that lacks packages.
    """

    def execv(path, arguments):
        raise AssertionError(f'this would start another program: {path}')

    monkeypatch.setattr(os, 'execv', execv)


@pytest.fixture(autouse=True)
def no_leaks():
    """Fail a test that changes the environment or the working directory."""
    environment, folder = dict(os.environ), os.getcwd()
    yield
    now = dict(os.environ)
    changed = sorted(
        name
        for name in set(environment) | set(now)
        if environment.get(name) != now.get(name)
        and not name.startswith('PYTEST_')
        and name not in SET_BY_IMPORTS
    )
    moved = os.getcwd() != folder
    for name in changed:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
    os.chdir(folder)
    assert not changed, f'left in the environment: {changed}'
    assert not moved, 'left in another working directory'


@pytest.fixture
def free_port():
    """Return a TCP port of the loopback that nobody listens on.

    Below those that the system gives out, and by chance: other processes run
    tests at the same time.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(('127.0.0.1', port))
            return port


@pytest.fixture(scope='session')
def real_mpii():
    """Return the folder of the real MPII pictures, or skip."""
    default = ROOT.parent / 'shared' / 'data' / 'mpii_real'
    folder = Path(os.environ.get('MPII_REAL', str(default)))
    if not folder.is_dir():
        pytest.skip(f'no real MPII pictures in {folder}; set MPII_REAL')
    return folder


def _kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.fixture(scope='session')
def run():
    """Run a command as a user would, and leave no process behind.

    Returns:
        callable: ``run(command, env=None, cwd=None, timeout=120)`` gives a
        CompletedProcess with text in ``stdout`` and ``stderr``. The process
        sees the variables of :data:`INHERITED`, one thread for each library,
        and ``env``. On time-out the whole process group is killed and the
        test fails with what was printed.
    """

    def execute(command, env=None, cwd=None, timeout=120):
        clean = {k: os.environ[k] for k in INHERITED if k in os.environ}
        clean.update(OMP_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1')
        clean.update(env or {})
        process = subprocess.Popen(
            [str(word) for word in command],
            env=clean,
            cwd=str(cwd or ROOT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            stdout, stderr = process.communicate()
            pytest.fail(
                f'{command} still ran after {timeout} s\n'
                f'{stdout[-2000:]}\n{stderr[-4000:]}'
            )
        finally:
            _kill_group(process)
        return subprocess.CompletedProcess(
            command, process.returncode, stdout, stderr
        )

    return execute
