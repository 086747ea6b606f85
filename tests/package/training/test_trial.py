"""Dry runs, profiles, and the search for the largest batch."""

import json
import os
import subprocess
import sys
import types

import pytest
import torch

from hourglass_npu.errors import UserError
from hourglass_npu.training import profiler, trial


@pytest.fixture
def train(main, tiny, tmp_path):
    def execute(*arguments, device='cpu'):
        work = tmp_path / 'work'
        status = main(
            *('train', tiny, '--device', device, '--work-dir', work),
            *arguments,
        )
        return status, work

    return execute


def test_a_dry_run_shows_all_and_keeps_nothing(train, capsys, caplog):
    status, work = train('--dry-run')
    assert not status
    out = capsys.readouterr().out
    assert 'Dry run: 3 iterations are done; a checkpoint has' in out
    assert 'Saving checkpoint at 1 epochs' in caplog.text + out
    assert 'PCKh' in caplog.text
    assert not work.exists()
    assert not work.with_name('work.dry_run').exists()


def test_a_dry_run_has_three_steps_of_any_data(train, monkeypatch):
    seen = []
    real = trial.shorten

    def note(cfg, *args):
        real(cfg, *args)
        seen.append(cfg)

    monkeypatch.setattr(trial, 'shorten', note)
    train('--dry-run', '--batch', '7')
    (cfg,) = seen
    assert cfg.data.train['most'] == 21 and cfg.data.samples_per_gpu == 7
    assert cfg.total_epochs == cfg.log_config.interval == 1


@pytest.mark.parametrize('option', ['--dry-run', '--profile=1'])
def test_what_is_short_resumes_nothing(train, option):
    with pytest.raises(UserError, match='leave out --resume-from'):
        train(option, '--resume-from', 'auto')


def test_a_profile_names_operators_and_leaves_a_trace(train, caplog):
    status, work = train('--profile', '2')
    assert not status
    assert '10 most expensive operators of 2 iterations' in caplog.text
    table = caplog.text.split('most expensive operators')[1].splitlines()
    assert 'calls' in table[1] and 'conv' in '\n'.join(table[2:12])
    trace = json.loads((work / 'profile/trace.json').read_text())
    events = trace['traceEvents'] if isinstance(trace, dict) else trace
    assert any('conv' in str(event.get('name')) for event in events)
    assert [p.name for p in work.iterdir()] == ['profile']
    assert not list((work / 'profile').glob('*.pth'))


KERNELS = """Step Id,Name,Type,Duration(us)
1,conv2d_1,Conv2D,3000.5
1,conv2d_2,Conv2D,1000.5
1,relu_1,Relu,999
"""


def test_torch_npu_profiles_an_npu(tmp_path, monkeypatch):
    """A stand-in for the calls of torch_npu.profiler."""

    class Profile:
        def __init__(self, activities, on_trace_ready):
            assert activities == ['cpu', 'npu']
            self.ready = on_trace_ready

        def start(self):
            pass

        def stop(self):
            self.ready(self)

    def handler(folder):
        def write(_):
            place = os.path.join(folder, 'host_1_ascend_pt')
            place = os.path.join(place, 'ASCEND_PROFILER_OUTPUT')
            os.makedirs(place)
            with open(os.path.join(place, 'kernel_details.csv'), 'w') as file:
                file.write(KERNELS)
            with open(os.path.join(place, 'trace_view.json'), 'w') as file:
                file.write('[]')

        return write

    module = types.SimpleNamespace(
        profiler=types.SimpleNamespace(
            ProfilerActivity=types.SimpleNamespace(CPU='cpu', NPU='npu'),
            profile=Profile,
            tensorboard_trace_handler=handler,
        )
    )
    monkeypatch.setitem(sys.modules, 'torch_npu', module)
    monkeypatch.setattr(
        profiler, 'get_device', lambda: types.SimpleNamespace(type='npu')
    )
    running = profiler._start(str(tmp_path))
    trace, rows = running.stop()
    assert trace.endswith('trace_view.json')
    assert [row[:3] for row in rows] == [
        ('Conv2D', 2, 4.001),
        ('Relu', 1, 0.999),
    ]
    assert rows[0][3] == pytest.approx(0.8002)
    assert 'Conv2D' in profiler.format_rows(rows).splitlines()[1]


@pytest.mark.parametrize(
    'limit, start, found',
    [(1, 8, 1), (13, 8, 13), (63, 64, 63), (100, 8, 96), (5000, 1, 1000)],
)
def test_the_largest_batch_is_found(monkeypatch, limit, start, found):
    tried = []

    def fits(arguments, batch):
        tried.append(batch)
        return batch <= limit

    monkeypatch.setattr(trial, '_try_batch', fits)
    assert trial.find_batch([], start, most=1000) == found
    assert len(tried) == len(set(tried)) < 16


def test_a_device_without_room_for_one_is_refused(monkeypatch):
    monkeypatch.setattr(trial, '_try_batch', lambda *args: False)
    with pytest.raises(UserError, match='not even one sample'):
        trial.find_batch([], 16)


def test_a_trial_is_a_process_that_says_how_it_ended(monkeypatch):
    commands = []

    def ended(status, text=''):
        def run(command, **settings):
            commands.append(command)
            return types.SimpleNamespace(returncode=status, stdout=text)

        monkeypatch.setattr(subprocess, 'run', run)

    ended(0)
    assert trial._try_batch(['c.py', '--device', 'npu'], 8)
    command = commands[0][2:]
    assert command[:6] == 'c.py --device npu --batch 8 --try-batch'.split()
    ended(trial.TOO_LARGE)
    assert not trial._try_batch([], 8)
    ended(1, 'Traceback\nerror: a picture is broken\nmore\n')
    with pytest.raises(UserError, match='with 8 failed.*a picture is broken'):
        trial._try_batch([], 8)


def test_a_trial_ends_with_a_status_of_its_own(train, monkeypatch):
    from hourglass_npu.commands import train as command

    def fail(*args, **kwargs):
        raise RuntimeError('NPU out of memory. Tried to allocate 2.00 GiB')

    assert train('--try-batch', '--batch', '3')[0] == 0
    monkeypatch.setattr(command, 'train', fail)
    assert train('--try-batch', '--batch', '3')[0] == trial.TOO_LARGE
    with pytest.raises(RuntimeError, match='out of memory'):
        train('--batch', '3')


def test_the_words_of_a_trial_are_those_of_the_training():
    words = 'c.py --batch auto --amp --dry-run --seed 1 --batch=auto'.split()
    assert trial._without_batch(words) == ['c.py', '--amp', '--seed', '1']


def test_the_search_is_for_a_device_with_memory(train, monkeypatch):
    with pytest.raises(UserError, match='on a CPU give a number'):
        train('--batch', 'auto')
    monkeypatch.setenv('HOURGLASS_NPROC', '2')
    with pytest.raises(UserError, match='tries on one device'):
        train('--batch', 'auto')


def test_torch_says_what_we_look_for():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert trial.lacks_memory(caught.value)
    assert not trial.lacks_memory(RuntimeError('shapes differ'))
