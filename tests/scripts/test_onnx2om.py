"""onnx2om.sh with a stand-in for ATC that notes its arguments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip('onnx')
ROOT = Path(__file__).resolve().parents[2]

ATC = """#!/bin/bash
printf '%s\\n' "$@" > "$NOTES"
for argument in "$@"; do
  case $argument in
    --output=*) echo om > "${argument#--output=}$ATC_SUFFIX" ;;
  esac
done
exit "${ATC_STATUS:-0}"
"""

NPU_SMI = """#!/bin/bash
cat <<'TABLE'
+------------------------------------------------------------------------+
| npu-smi 23.0.rc1                 Version: 23.0.rc1                       |
+---------------------------+---------------+------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)          |
| Chip  Device              | Bus-Id        | AICore(%)   Memory-Usage(MB) |
+===========================+===============+==============================+
| 2     {name:<20}| OK            | 67.5        44               |
| 0     0                   | 0000:C1:00.0  | 0           2567 / 65536     |
TABLE
"""


def save(path, shape, kind=1):
    """An ONNX file with an input of a shape."""
    make = onnx.helper
    img = make.make_tensor_value_info('img', kind, shape)
    out = make.make_tensor_value_info('heatmap', kind, shape)
    node = make.make_node('Identity', ['img'], ['heatmap'])
    graph = make.make_graph([node], 'g', [img], [out])
    onnx.save(make.make_model(graph), str(path))


@pytest.fixture
def host(tmp_path):
    """A host with ATC; .run(*arguments, **variables) runs the script."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    for name in (
        'bash',
        'basename',
        'dirname',
        'find',
        'head',
        'mv',
        'readlink',
        'rm',
        'sed',
        'cat',
    ):
        (tools / name).symlink_to(shutil.which(name))

    class Host:
        folder = tmp_path
        file = tmp_path / 'a.onnx'

        def install(self, name, text):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)

        def run(self, *arguments, **variables):
            return subprocess.run(
                ['bash', str(ROOT / 'scripts' / 'onnx2om.sh'), *arguments],
                env=dict(
                    os.environ,
                    PATH=str(tools),
                    PYTHON=sys.executable,
                    NOTES=str(tmp_path / 'notes'),
                    ATC_SUFFIX='.om',
                    **variables,
                ),
                capture_output=True,
                text=True,
                cwd=str(tmp_path),
            )

        def arguments(self):
            lines = (tmp_path / 'notes').read_text().splitlines()
            return dict(line.split('=', 1) for line in lines)

    save(Host.file, ['batch', 3, 384, 384])
    host = Host()
    host.install('atc', ATC)
    return host


@pytest.mark.parametrize('suffix', ['.om', '_linux_aarch64.om'])
def test_atc_is_told_file_shape_and_chip(host, suffix):
    host.install('atc', ATC.replace('$ATC_SUFFIX', suffix))
    done = host.run('a.onnx', '--soc', 'Ascend310P3', '--', '--log=info')
    assert done.returncode == 0, done.stderr
    arguments = host.arguments()
    assert arguments.pop('--output')
    assert arguments == {
        '--framework': '5',
        '--model': 'a.onnx',
        '--input_format': 'NCHW',
        '--input_shape': 'img:1,3,384,384',
        '--soc_version': 'Ascend310P3',
        '--log': 'info',
    }
    assert (host.folder / 'a.om').read_text() == 'om\n'
    left = sorted(p.name for p in host.folder.iterdir())
    assert left == ['a.om', 'a.onnx', 'bin', 'notes']


@pytest.mark.parametrize(
    'shape, kind, options, told, layout',
    [
        (['batch', 3, 64, 64], 1, ['--batch', '8'], 'img:8,3,64,64', 'NCHW'),
        ([4, 3, 64, 64], 1, [], 'img:4,3,64,64', 'NCHW'),
        (['batch', 64, 32, 3], 2, [], 'img:1,64,32,3', 'ND'),
        (['n', 3, 9, 9], 1, ['--shape', '2,3,64,64'], 'img:2,3,64,64', 'NCHW'),
    ],
)
def test_the_shape(host, shape, kind, options, told, layout):
    save(host.file, shape, kind)
    out = str(host.folder / 'b.om')
    done = host.run('a.onnx', '--soc', 'X', '--out', out, *options)
    assert done.returncode == 0, done.stderr
    assert host.arguments()['--input_shape'] == told
    assert host.arguments()['--input_format'] == layout
    assert os.path.exists(out)


@pytest.mark.parametrize(
    'shape, kind, told, option',
    [
        (
            ['batch', 3, 64, 64],
            1,
            'img:-1,3,64,64',
            ('--dynamic_batch_size', '1,4,8'),
        ),
        (
            ['batch', 64, 32, 3],
            2,
            'img:-1,64,32,3',
            ('--dynamic_dims', '1;4;8'),
        ),
    ],
)
def test_several_batches(host, shape, kind, told, option):
    save(host.file, shape, kind)
    done = host.run('a.onnx', '--soc', 'X', '--batch', '1,4,8')
    assert done.returncode == 0, done.stderr
    arguments = host.arguments()
    assert arguments['--input_shape'] == told
    assert arguments[option[0]] == option[1]


def test_the_properties_are_put_beside(host):
    model = onnx.load(str(host.file))
    onnx.helper.set_model_props(model, dict(joints='[1]', note='ü'))
    onnx.save(model, str(host.file))
    for options in ([], ['--shape', '2,3,384,384']):
        done = host.run('a.onnx', '--soc', 'X', '--out', 'b.om', *options)
        assert done.returncode == 0, done.stderr
        left = sorted(p.name for p in host.folder.iterdir())
        assert left == ['a.onnx', 'b.json', 'b.om', 'bin', 'notes']
        beside = host.folder / 'b.json'
        assert json.loads(beside.read_text()) == dict(joints='[1]', note='ü')
        beside.unlink()


@pytest.mark.parametrize('name', ['310P3', '910B3', 'Ascend310P3'])
def test_the_chip_is_asked_of_npu_smi(host, name):
    host.install('npu-smi', NPU_SMI.format(name=name))
    assert host.run('a.onnx').returncode == 0
    chip = 'Ascend' + name.replace('Ascend', '')
    assert host.arguments()['--soc_version'] == chip


@pytest.mark.parametrize(
    'table', [None, NPU_SMI.format(name='910'), '#!/bin/bash\nexit 1\n']
)
def test_a_chip_that_is_not_certain_is_asked_for(host, table):
    if table:
        host.install('npu-smi', table)
    done = host.run('a.onnx')
    assert done.returncode == 2 and 'give --soc' in done.stderr
    assert not (host.folder / 'notes').exists()


def test_without_atc_it_says_what_to_install(host):
    (host.folder / 'bin' / 'atc').unlink()
    done = host.run('a.onnx', '--soc', 'X')
    assert done.returncode == 2
    assert 'Ascend-cann-toolkit' in done.stderr


@pytest.mark.parametrize(
    'options, message',
    [
        (['none.onnx'], 'pytorch2onnx.py'),
        (['a.onnx', 'b.onnx'], 'one file at a time'),
        (
            ['a.onnx', '--soc', 'X', '--batch', '1,x'],
            '--batch x: must be a whole number',
        ),
        (['a.onnx', '--soc', 'X', '--batch', '1,2,1'], 'names a batch twice'),
        (['a.onnx', '--soc', 'X', '--batch', ',2'], 'ends in a comma'),
        (['a.onnx', '--chip', 'X'], 'unknown option --chip'),
        (['a.onnx', '--soc'], '--soc needs a value'),
        (['a.onnx', '--batch', 'many'], 'whole number'),
        (['a.onnx', '--batch', '2', '--shape', '1,3,8,8'], 'leave out'),
        (['a.onnx', '--out', 'a.bin'], 'must end in .om'),
        (['a.onnx', '--out', 'no/a.om'], 'no such folder'),
        (['notes.onnx', '--soc', 'X'], 'no file of pytorch2onnx.py'),
    ],
)
def test_requests_that_cannot_be_met(host, options, message):
    (host.folder / 'notes.onnx').write_text('no graph')
    done = host.run(*options)
    assert done.returncode in (1, 2)
    assert message in done.stderr.splitlines()[0]
    assert not list(host.folder.glob('*.om'))


def test_a_fixed_batch_cannot_be_another(host):
    save(host.file, [4, 3, 64, 64])
    done = host.run('a.onnx', '--soc', 'X', '--batch', '2')
    assert done.returncode == 2 and 'for a batch of 4, not 2' in done.stderr


def test_what_atc_leaves_after_a_failure_is_removed(host):
    (host.folder / 'a.om').write_text('old')
    done = host.run('a.onnx', '--soc', 'X', ATC_STATUS='3')
    assert done.returncode == 1 and 'atc failed' in done.stderr
    assert (host.folder / 'a.om').read_text() == 'old'
    left = sorted(p.name for p in host.folder.iterdir())
    assert left == ['a.om', 'a.onnx', 'bin', 'notes']
