"""Every drop-in has the names and signatures of the file that it replaces."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLACES = {
    'builder.py': 'runner/optimizer/builder.py',
    'distributed.py': 'parallel/distributed.py',
    'data_parallel.py': 'parallel/data_parallel.py',
    'dist_utils.py': 'runner/dist_utils.py',
    'checkpoint.py': 'runner/checkpoint.py',
    'base_runner.py': 'runner/base_runner.py',
    'epoch_based_runner.py': 'runner/epoch_based_runner.py',
    'optimizer.py': 'runner/hooks/optimizer.py',
    'iter_timer.py': 'runner/hooks/iter_timer.py',
}
CONSTANTS = (str, int, float, tuple)


def installed(relpath):
    """Import the module that lies at a place inside mmcv."""
    return importlib.import_module(
        'mmcv.' + relpath[: -len('.py')].replace('/', '.')
    )


def defined_names(module):
    """List what a module defines: functions, classes and variables."""
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            targets = node.targets
            names += [t.id for t in targets if isinstance(t, ast.Name)]
    return sorted(names)


def signature_differences(theirs, ours):
    """Say where our signature does not serve a call that theirs serves.

    Ours may append parameters that have a default.
    """
    variable = (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )
    params = [
        list(inspect.signature(f).parameters.values()) for f in (theirs, ours)
    ]
    named = [[p for p in ps if p.kind not in variable] for ps in params]
    kinds = [{p.kind for p in ps if p.kind in variable} for ps in params]
    problems = []
    for i, their in enumerate(named[0]):
        our = named[1][i] if i < len(named[1]) else None
        same = our is not None and (
            (our.name, our.kind) == (their.name, their.kind)
            and (our.default is their.default or our.default == their.default)
        )
        if not same:
            problems.append(f'parameter {i}: {our} for {their}')
    for our in named[1][len(named[0]) :]:
        if our.default is inspect.Parameter.empty:
            problems.append(f'{our} is new and has no default')
    if not kinds[0] <= kinds[1]:
        problems.append('no *args or no **kwargs')
    return problems


def class_differences(theirs, ours):
    """Say what of a class is missing or has another signature."""
    problems = []
    for name, member in vars(theirs).items():
        if name.startswith('__') and name != '__init__':
            continue
        if not hasattr(ours, name):
            problems.append(f'{name} is missing')
            continue
        our = getattr(ours, name)
        if isinstance(member, property) != isinstance(our, property):
            problems.append(f'{name} is not a property in both')
        elif callable(getattr(theirs, name)):
            found = signature_differences(getattr(theirs, name), our)
            problems.extend(f'{name}: {problem}' for problem in found)
    our_bases = {base.__name__ for base in ours.__mro__}
    for base in theirs.__mro__:
        if base.__name__ not in our_bases:
            problems.append(f'does not derive from {base.__name__}')
    return problems


def differences(theirs, ours):
    """Say in what our module does not stand in for theirs."""
    problems = []
    for name in defined_names(theirs):
        their = getattr(theirs, name)
        if not hasattr(ours, name):
            problems.append(f'{name} is missing')
            continue
        our = getattr(ours, name)
        if inspect.isclass(their):
            found = class_differences(their, our)
        elif inspect.isfunction(their):
            found = signature_differences(their, our)
        else:
            same = isinstance(their, CONSTANTS) is False or our == their
            found = [] if same else [f'{our!r} for {their!r}']
        problems.extend(f'{name}: {problem}' for problem in found)
    return problems


@pytest.mark.parametrize('name', sorted(PLACES))
def test_stands_in_for_the_original(name, stock):
    theirs = stock('mmcv', PLACES[name])
    assert defined_names(theirs)
    assert differences(theirs, installed(PLACES[name])) == []


@pytest.mark.parametrize('name', sorted(PLACES))
def test_what_is_tested_is_what_lies_here(name):
    module = installed(PLACES[name])
    assert (
        Path(module.__file__).read_bytes()
        == (ROOT / 'mmcv_need' / name).read_bytes()
    ), 'apply the patches before the tests'


@pytest.mark.parametrize('name', sorted(PLACES))
def test_documents_what_it_offers(name):
    module = installed(PLACES[name])
    assert module.__doc__
    bare = [
        public
        for public in defined_names(module)
        if not public.startswith('_')
        and callable(getattr(module, public))
        and not getattr(module, public).__doc__
    ]
    assert bare == []


def test_differences_are_seen():
    def theirs(a, b=1, **kwargs): ...

    def appended(a, b=1, c=None, **kwargs): ...

    def renamed(a, c=1, **kwargs): ...

    def other_default(a, b=2, **kwargs): ...

    def demanding(a, b=1, *, c, **kwargs): ...

    def closed(a, b=1): ...

    def shorter(a, **kwargs): ...

    assert signature_differences(theirs, appended) == []
    for wrong in (renamed, other_default, demanding, closed, shorter):
        assert signature_differences(theirs, wrong), wrong

    class Theirs:
        def method(self): ...

        @property
        def size(self): ...

    class WithoutMethod:
        size = property()

    class WithoutProperty(Theirs):
        size = 3

    assert class_differences(Theirs, WithoutMethod)
    assert class_differences(Theirs, WithoutProperty)


def test_names_are_registered():
    from mmcv.runner import HOOKS, OPTIMIZER_BUILDERS, OPTIMIZERS, RUNNERS

    for registry, name, place in (
        (RUNNERS, 'EpochBasedRunner', 'epoch_based_runner.py'),
        (RUNNERS, 'Runner', 'epoch_based_runner.py'),
        (HOOKS, 'IterTimerHook', 'iter_timer.py'),
        (HOOKS, 'OptimizerHook', 'optimizer.py'),
        (HOOKS, 'Fp16OptimizerHook', 'optimizer.py'),
    ):
        assert registry.get(name) is getattr(installed(PLACES[place]), name)
    assert OPTIMIZER_BUILDERS.get('DefaultOptimizerConstructor')
    assert OPTIMIZERS.get('Adam') and OPTIMIZERS.get('SGD')
