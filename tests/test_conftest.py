"""The shared fixtures do what the other tests rely on."""

import os
import sys

import pytest

pytest_plugins = ['pytester']


def test_the_original_is_loaded_beside_ours(stock):
    from mmcv.runner import HOOKS, OPTIMIZERS
    from mmcv.runner.hooks import optimizer as ours

    before = dict(HOOKS.module_dict), dict(OPTIMIZERS.module_dict)
    theirs = stock('mmcv', 'runner/hooks/optimizer.py')
    builder = stock('mmcv', 'runner/optimizer/builder.py')

    assert theirs.OptimizerHook is not ours.OptimizerHook
    assert '.originals' in theirs.__file__
    assert (HOOKS.module_dict, OPTIMIZERS.module_dict) == before
    # Its own registry is filled all the same.
    assert 'Adam' in builder.OPTIMIZERS.module_dict
    with pytest.raises(KeyError):
        HOOKS.register_module(module=ours.OptimizerHook)
    assert stock('mmcv', 'runner/hooks/optimizer.py') is theirs


def test_an_original_that_wants_torchvision_loads_without_it(stock):
    theirs = stock('mmpose', 'datasets/pipelines/shared_transform.py')
    assert theirs.ToTensor.__module__.startswith('mmpose.')
    stock('mmcv', 'runner/checkpoint.py')
    stubbed = sys.modules.get('torchvision')
    assert stubbed is None or hasattr(stubbed, '__version__')


@pytest.mark.parametrize(
    'body, complaint',
    [
        ('import os; os.environ["LEAKED_NAME"] = "1"', 'LEAKED_NAME'),
        ('import os; os.environ.pop("LANG", None)', 'LANG'),
        ('import os; os.chdir("/")', 'working directory'),
    ],
)
def test_a_leak_fails_its_test(pytester, monkeypatch, body, complaint):
    monkeypatch.setenv('LANG', 'C')
    conftest = os.path.join(os.path.dirname(__file__), 'conftest.py')
    pytester.makeconftest(
        'import importlib.util as u\n'
        f's = u.spec_from_file_location("shared", {conftest!r})\n'
        'm = u.module_from_spec(s)\n'
        's.loader.exec_module(m)\n'
        'no_leaks = m.no_leaks\n'
    )
    pytester.makepyfile(f'def test_it():\n    {body}\n')
    result = pytester.runpytest_inprocess('-p', 'no:cacheprovider')
    result.assert_outcomes(passed=1, errors=1)
    assert complaint in result.stdout.str()


def test_run_kills_the_whole_group_on_time_out(run, tmp_path):
    mark = tmp_path / 'pid'
    command = f'sleep 60 & echo $! > {mark}; wait'
    with pytest.raises(pytest.fail.Exception, match='still ran'):
        run(['bash', '-c', command], timeout=1)
    state = f'/proc/{int(mark.read_text())}/stat'
    gone = not os.path.exists(state)
    assert gone or open(state).read().split()[2] == 'Z'


def test_run_hides_our_environment(run, monkeypatch):
    monkeypatch.setenv('MPII_ROOT', '/nowhere')
    code = 'import os; print(sorted(os.environ))'
    result = run([sys.executable, '-c', code], env={'EXTRA': '1'})
    assert result.returncode == 0
    assert 'EXTRA' in result.stdout and 'MPII_ROOT' not in result.stdout
