"""The benchmark compares what it says, and says what it did not measure."""

import functools
import json
import os
import sys
from pathlib import Path

import bench
import pytest
import torch
from mmcv.runner import dist_utils
from mpii_data import write_mpii

from benchmark import bundle, measure, report, stock
from benchmark import worker as processes

ROOT = Path(__file__).resolve().parents[2]


class Subject:
    """Take the times of its rounds from a list."""

    def __init__(self, what, variant, walls, facts=None, **more):
        self.what, self.variant, self.walls = what, variant, iter(walls)
        self.key = f'{what}/{variant}'
        self.facts, self.found, self.more = facts or {}, [], more
        self.seeds = []

    def make(self):
        pass

    def run(self, seed):
        self.seeds.append(seed)
        wall = next(self.walls)
        return dict(self.more, wall=wall, cpu=wall / 2)


def measured(*subjects, rounds=3):
    measure.measure(subjects, rounds, warm_up=False)
    return measure.rows_of(subjects)


def test_ratios_are_those_of_the_same_round():
    # In each round twice as fast, on a machine that slows down tenfold.
    stocks = Subject('x', 'stock', [2, 20, 200])
    ours = Subject('x', 'ours', [1, 10, 100])
    floor = Subject('y', 'floor', [0.5, 5, 50])
    rows = {
        row['variant']: row for row in measured(floor, stocks, ours, rounds=3)
    }
    equal = dict(median=2, low=2, high=2)
    quotients = dict.fromkeys(
        ('CPU / floor', 'stock / this', 'CPU, stock / this'), equal
    )
    assert rows['ours']['quotients'] == quotients
    assert not rows['floor']['quotients']
    assert rows['ours']['wall'] == dict(median=10, low=5.5, high=55)
    assert rows['ours']['cpu']['median'] == 5


def test_subjects_take_turns_and_get_the_same_work():
    said = []
    first = Subject('x', 'stock', range(1, 9))
    second = Subject('x', 'ours', range(1, 9))
    measure.measure([first, second], 2, tell=said.append)
    turns = [text.split(':')[0] for text in said if 'round' in text]
    # A round to warm up, then two that count; the order is turned round.
    assert turns == ['x/ours', 'x/stock', 'x/stock', 'x/ours'] + [
        'x/ours',
        'x/stock',
    ]
    assert first.seeds == second.seeds == [0, 1, 2]
    assert [one['wall'] for one in first.found] == [2, 3]


def test_the_time_of_steps_is_a_table_of_its_own():
    stocks = dict(Load=0.003, Warp=0.0)
    ours = dict(Load=0.001, Fuse=0.002)
    rows = measured(
        Subject('x', 'floor', [1, 1]),
        Subject('steps', 'stock', [0.008, 0.008], account=stocks),
        Subject('steps', 'ours', [0.008, 0.008], account=ours),
        rounds=2,
    )
    result = dict(machine=report.describe_machine(), fixes=[])
    text = report.render(dict(result, areas=dict(pipeline=rows)))
    tables = text.split('**pipeline, by step**')
    assert '| x | floor |' in tables[0] and 'ours' not in tables[0]
    heads, _, *lines = tables[1].strip().splitlines()
    assert heads == '| CPU ms | Load | Warp | Fuse | in all |'
    assert lines == [
        '| stock | 3.00 |  |  | 4.00 |',
        '| ours | 1.00 |  | 2.00 | 4.00 |',
    ]


def test_bars_are_said_to_be_met_or_not():
    rows = measured(
        Subject('decode + one warp', 'floor', [1]),
        Subject('sample', 'stock', [8]),
        Subject('sample', 'ours', [1.06]),
        Subject('whole loader', 'ours', [1.21]),
        Subject('sample', 'ours, stock config, cache', [1]),
        Subject('sample, flipped', 'ours', [9]),
        rounds=1,
    )
    result = dict(machine={}, fixes=[], areas=dict(pipeline=rows))
    text = report.render(result).split('**pipeline, bars**')[1]
    states = [line.split('|')[1:] for line in text.strip().splitlines()[2:]]
    assert [(s[0].strip(), s[-2].strip()) for s in states] == [
        ('sample, ours: CPU / floor', 'yes'),
        ('whole loader, ours: CPU / floor', 'NO'),
        ('sample, ours, stock config, cache: CPU, stock / this', 'yes'),
    ]


def test_drawn_pictures_have_a_photographs_detail(tmp_path):
    bundle.draw_data(tmp_path / 'data', train=2, val=1)
    for path in (tmp_path / 'data/images').iterdir():
        # Within a tenth of five photographs of MPII.
        assert 0.43 < path.stat().st_size / (1280 * 720) < 0.53


def test_another_result_than_stocks_is_said():
    rows = measured(
        Subject('x', 'stock', [1], dict(result=1.0)),
        Subject('x', 'ours', [1], dict(result=1.0)),
        Subject('x', 'near', [1], dict(result=1.001)),
        Subject('x', 'other', [1], dict(result='b')),
        Subject('x', 'silent', [1]),
        rounds=1,
    )
    same = [row['facts'].get('same') for row in rows]
    assert same == [None, 'yes', 'to 1e-03', 'NO', None]
    assert 'same result as stock: NO' in report.time_table(rows)


def test_share_of_the_arithmetic_limit():
    rows = measured(
        Subject('image, from memory', 'ours', [4]),
        Subject('half matrix product', 'arithmetic limit', [1]),
        rounds=1,
    )
    assert rows[0]['quotients']['limit / this']['median'] == 0.25
    assert '| limit / this |' in report.time_table(rows)


def test_without_a_gpu_nothing_is_claimed(monkeypatch, tmp_path):
    sizes = []

    @functools.wraps(bench.AREAS['cuda'])
    def area(of):
        # Tried all the same, as far as a CPU goes.
        sizes.append(of.small)
        of.subjects += [Subject('image, from memory', 'ours', [1, 1])]

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(stock, 'make', lambda *_: [])
    monkeypatch.setitem(bench.AREAS, 'cuda', area)
    args = bench.parse(['cuda'])
    rows, _ = bench.measure_area('cuda', args, tmp_path, tmp_path)
    result = dict(machine={}, fixes=[], areas=dict(cuda=rows))
    text = report.render(result)
    assert sizes == [True]
    assert 'Not measured: no GPU' in text
    assert not any(character.isdigit() for character in text)


def test_the_baseline_is_what_was_released_but_for_its_fixes(
    run, tmp_path, original
):
    tmp_path = tmp_path / 'stock'
    said = stock.make(tmp_path, 'cpu')
    fixed = set(stock.fixes('cpu'))
    assert fixed <= {line.split(':')[0] for line in said}
    for package in ('mmcv', 'mmpose'):
        for path in (tmp_path / package).rglob('*.py'):
            name = path.relative_to(tmp_path / package).as_posix()
            released = original(package, name).read_bytes()
            same = path.read_bytes() == released
            assert same != (f'{package}/{name}' in fixed), name
    done = run(
        [sys.executable, '-c', 'import mmpose.apis as a; print(a.__file__)'],
        env=dict(PYTHONPATH=str(tmp_path)),
    )
    # CUDA builds of torch 1.8 print a line of their own.
    last = done.stdout.splitlines()[-1]
    assert last == str(tmp_path / 'mmpose/apis/__init__.py')


def test_all_cases_run_beside_stock(run, tmp_path):
    data = write_mpii(tmp_path / 'mpii', train=4, val=2)
    found = tmp_path / 'bench.json'
    words = 'pipeline step eval onnx train epochs --stock --small --rounds 1'
    done = run(
        [sys.executable, ROOT / 'scripts/bench.py', *words.split()]
        + ['--data', data, '--json', found],
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert 'Stock is mmcv 1.2.7 and mmpose 0.8.0 as released' in done.stdout
    result = json.loads(found.read_text())
    assert set(result['areas']) == set(words.split(' --')[0].split())
    rows = [row for area in result['areas'].values() for row in area]
    assert all(row['wall']['median'] > 0 for row in rows if 'facts' in row)
    compared = {
        row['what']: row['facts']['same']
        for row in rows
        # Low precision may move a joint.
        if row['facts'].get('same') and 'bf16' not in row['variant']
    }
    # The loss is summed up in another order.
    loss = compared.pop('loss, accuracy, log values')
    assert loss == 'yes' or float(loss.split()[1]) < 1e-6
    assert len(compared) >= 5
    assert set(compared.values()) == {'yes'}, compared


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['pipelines'], 'no area pipelines'),
        (['--rounds', '0'], '--rounds 0'),
        (['--workers', '-1'], '--workers -1'),
        (['--device', 'npu', 'eval'], 'area eval does not train on npu'),
        (['--device', 'npu', 'cuda'], 'area cuda does not train on npu'),
        (['--device', 'npu', '--stock'], 'stock mmpose knows no NPU'),
        (['npu', '--stock'], 'stock mmpose knows no NPU'),
    ],
)
def test_wrong_requests_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.main(words)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    assert bench.parse(['--device', 'npu']).areas == ['npu']
    assert bench.parse(['--device', 'cpu']).areas == bench.parse([]).areas
    monkeypatch.setitem(sys.modules, 'torch_npu', None)
    dist_utils._import_npu.cache_clear()
    words = '--device npu: torch_npu cannot be imported'
    with pytest.raises(bundle.UserError, match=words):
        bench.main(['--device', 'npu'])
    dist_utils._import_npu.cache_clear()


def test_a_folder_without_data_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.main(['step', '--data', str(tmp_path)])
    assert exit_.value.code == 2
    assert 'annotations/mpii_train.json' in capsys.readouterr().err


@pytest.fixture
def worker(tmp_path):
    made = processes.Worker(None, tmp_path / 'log', dict(ASKED='yes'))
    yield made
    made.shutdown()


def test_a_worker_passes_an_error_on_with_its_place(worker):
    request = 'key', 'samples.none', {}, {}
    with pytest.raises(AttributeError, match='none') as error:
        processes.ask_all([worker], processes.make, *request)
    assert 'benchmark/case.py' in str(error.value.__cause__)
    # And goes on.
    assert processes.ask_all([worker], os.getenv, 'ASKED') == ['yes']


def test_a_worker_that_ends_leaves_its_last_words(worker):
    with pytest.raises(RuntimeError, match='Aborted|has ended'):
        processes.ask_all([worker], os.abort)
