"""Every command, option, path and link of README.md exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
TEXT = README.read_text(encoding='utf-8')

# Written by commands of the README; not part of a fresh clone.
MADE = {
    '.venv',
    '.log',
    'infer_demo_mpii.jpg',
    'hourglass.onnx',
    'pred.mat',
    'mmpose-master/data/mpii',
}

# Scripts that pass their options on, and to which program.
PASSES_ON = {
    'scripts/train_1p.sh': 'mmpose-master/tools/train.py',
    'scripts/train_8p.sh': 'mmpose-master/tools/train.py',
    'scripts/eval.sh': 'mmpose-master/tools/test.py',
}


def commands():
    blocks = re.findall(r'^```bash\n(.*?)^```', TEXT, re.M | re.S)
    inline = re.findall(r'`((?:[A-Z]\w*=\S+ )*(?:bash|python3?) [^`]+)`', TEXT)
    lines = '\n'.join(blocks).splitlines() + [
        ' '.join(command.split()) for command in inline
    ]
    return sorted({line for line in lines if line.strip()})


def words_of(command):
    """Split a command; drop the assignments before it."""
    words = shlex.split(command)
    while re.match(r'\w+=', words[0]):
        words.pop(0)
    return words


def help_of(script):
    if script == 'tests/run.sh':  # passes --help on to pytest
        return (ROOT / script).read_text(encoding='utf-8')
    program = 'bash' if script.endswith('.sh') else sys.executable
    answer = subprocess.run(
        [program, str(ROOT / script), '--help'],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_two_commands_come_first():
    blocks = re.findall(r'^```bash\n(.*?)^```', TEXT, re.M | re.S)
    assert blocks[0] == 'bash scripts/train_1p.sh --sample\n'
    assert blocks[1] == 'bash tests/run.sh\n'


@pytest.mark.parametrize('command', commands())
def test_command(command):
    program, script, *arguments = words_of(command)
    assert program in ('bash', 'python', 'python3', 'source'), command
    assert (ROOT / script).is_file(), f'no file {script}'
    options = [a for a in arguments if a[:2] == '--' and a != '--help']
    if not arguments:
        return
    known = help_of(script)
    if script in PASSES_ON:
        known += help_of(PASSES_ON[script])
    for option in options:
        assert re.search(rf'{option}\b', known), f'{option}: not in --help'


def paths():
    """Words in backquotes that look like a path of this project."""
    words = set(re.findall(r'`([^`\s]+)`', TEXT))
    return sorted(
        word.rstrip('/')
        for word in words
        if re.match(r'[\w.-]+(/[\w.-]+)*/?$', word)
        and ('/' in word or re.search(r'\.\w{2,4}$', word))
    )


@pytest.mark.parametrize('path', paths())
def test_path(path):
    places = [ROOT, ROOT / 'mmpose-master', ROOT / 'scripts']
    found = any((place / path).exists() for place in places)
    assert found or path in MADE | {'mpii_annotations.tar'}, path


def test_links():
    targets = re.findall(r'\]\(([^)]+)\)', TEXT)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_length():
    assert len(TEXT.splitlines()) <= 200


def test_nine_drop_ins():
    names = sorted(path.stem for path in (ROOT / 'mmcv_need').glob('*.py'))
    assert names == sorted(
        'builder distributed data_parallel dist_utils checkpoint base_runner '
        'epoch_based_runner optimizer iter_timer'.split()
    )
