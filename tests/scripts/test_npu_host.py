"""npu_host.py: the matrix, and what is read off a host."""

import re
from pathlib import Path

import pytest

import npu_host

ROOT = Path(__file__).resolve().parents[2]


def test_the_matrix_is_sound():
    matrix = npu_host.load_matrix()
    versions = [row.torch_npu for row in matrix]
    assert len(set(versions)) == len(versions)
    for row in matrix:
        assert row.torch_npu.startswith(row.torch)
        assert all(re.fullmatch(r'3\.\d+', p) for p in row.pythons)
        # Every row can be reached, from both kinds of machine.
        for machine in ('x86_64', 'aarch64'):
            chosen = npu_host.choose(
                row.cann, row.pythons[0], machine, row.torch
            )
            assert chosen == row


@pytest.mark.parametrize('name', ['README.md', 'README.zh-CN.md'])
def test_the_readme_has_rows_of_the_matrix(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    section = text.partition('cards and versions')[2].partition('\n## ')[0]
    supported = ('3.7', '3.9', '3.10', '3.11', '3.12', '3.13')
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in section.splitlines()
        if re.match(r'\|.*\d', line)
    ]
    assert len(rows) >= 6
    matrix = {
        (r.torch, r.torch_npu, r.cann): r for r in npu_host.load_matrix()
    }
    for _, pythons, torch, torch_npu, cann in rows:
        row = matrix[torch, torch_npu, cann]
        both = [python for python in row.pythons if python in supported]
        assert pythons == ', '.join(both)
    newest = npu_host.load_matrix()[0]
    assert rows[-1][2:] == [newest.torch, newest.torch_npu, newest.cann]


@pytest.mark.parametrize(
    'cann, python, torch_npu',
    [
        ('9.1.0', '3.9', '2.7.1.post8'),
        ('8.5.0', '3.10', '2.9.0'),
        ('8.3.RC1', '3.11', '2.8.0'),
        ('8.2.RC1', '3.11', '2.6.0'),
        ('8.0.RC2', '3.7', '1.11.0.post14'),
    ],
)
def test_the_newest_that_fits_is_chosen(cann, python, torch_npu):
    chosen = npu_host.choose(cann, python, 'aarch64')
    assert chosen.torch_npu == torch_npu


@pytest.mark.parametrize(
    'installed, counts_as',
    [
        ('8.0.RC2', '8.0.RC2'),
        ('8.0.rc2', '8.0.RC2'),
        ('8.2.RC1.alpha003', '8.2.RC1'),
        ('8.5.0-beta.1', '8.5.0'),
        ('8.5.2', '8.5.0'),
        ('6.3.RC3.1', '6.3.RC3.1'),
        ('6.3.RC3.2', '6.3.RC3'),
        ('8.4.0', None),
        ('8.1.0', None),
        ('20.2.rc1', None),
        ('9', None),
        ('', None),
    ],
)
def test_what_a_cann_counts_as(installed, counts_as):
    assert npu_host.cann_in_matrix(installed) == counts_as


@pytest.mark.parametrize(
    'torch, torch_npu, cann, python, words',
    [
        ('2.6.0+cpu', '2.6.0.post5', '8.5.0', '3.11', []),
        ('2.6.0', '2.6.0.post5', None, None, []),
        ('2.7.1', '2.6.0.post5', '8.5.0', '3.11', ['made for torch 2.6.0']),
        ('2.6.0', '2.6.0.post5', '8.3.RC1', '3.11', ['or torch_npu 2.6.0.p']),
        ('2.6.0', '2.6.0.post5', '9.1.0', '3.11', ['install CANN 8.5.0']),
        ('2.6.0', '2.6.0.post5', '8.5.0', '3.12', ['use Python 3.11']),
        ('2.99.0', '2.99.0', '8.5.0', '3.12', ['not in the matrix']),
    ],
)
def test_what_is_installed_is_judged(torch, torch_npu, cann, python, words):
    faults = npu_host.judge(torch, torch_npu, cann, python)
    assert len(faults) == len(words)
    for (fault, remedy), word in zip(faults, words):
        assert word in f'{fault}: {remedy}'


@pytest.mark.parametrize(
    'file, text, version',
    [
        ('x86_64-linux/ascend_toolkit_install.info', 'version=8.5.0', '8.5.0'),
        ('ascend_nnae_install.info', 'a=b\nversion=8.0.RC3\n', '8.0.RC3'),
        ('latest/version.cfg', 'x_running_version=[7.2.0:8.1.RC1]', '8.1.RC1'),
        ('lib64/libhccl.so', '', None),
    ],
)
def test_where_cann_tells_its_version(tmp_path, file, text, version):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = npu_host.find_cann({'ASCEND_HOME_PATH': str(tmp_path)})
    assert found == (tmp_path, version)


@pytest.mark.parametrize(
    'name, version', [('8.0.RC2', '8.0.RC2'), ('cann-9.1.0', '9.1.0')]
)
def test_the_folder_tells_if_no_file_does(tmp_path, name, version):
    (tmp_path / name).mkdir()
    (tmp_path / 'latest').symlink_to(name)
    script = str(tmp_path / 'set_env.sh')
    assert npu_host.find_cann({'HOURGLASS_CANN': script})[1] == version


def test_no_cann_is_no_error():
    assert npu_host.find_cann({}) == (None, None)
