"""Output that nobody reads, of real processes and real pipes."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

ENVIRONMENT = dict(os.environ, PYTHONDONTWRITEBYTECODE='1')
ENVIRONMENT.pop('PYTHONUNBUFFERED', None)


def shell(script, *arguments):
    """Run a line of bash; "$0" is Python."""
    return subprocess.run(
        ['bash', '-c', script, sys.executable, *map(str, arguments)],
        capture_output=True,
        env=ENVIRONMENT,
        timeout=120,
        text=True,
        check=False,
    )


COMMAND = """
import sys
from hourglass_npu import errors
def main():
    what = sys.argv[1]
    if what == 'lines':
        for number in range(100000):
            print('line', number)
    elif what == 'late':
        print('line')
    elif what == 'mistake':
        raise errors.UserError('give more')
    elif what == 'help':
        print('usage')
        raise SystemExit
    elif what == 'other pipe':
        raise BrokenPipeError(32, 'Broken pipe')
errors.run(main)
"""


@pytest.mark.parametrize(
    'what, to, status, said',
    [
        ('lines', '| head -1', 141, ''),
        ('late', '| true', 141, ''),
        ('help', '| true', 141, ''),
        ('lines', '2>&1 | head -1', 141, ''),
        ('lines', '> /dev/full', 1, 'No space left on device'),
        (
            'late',
            '> /dev/full',
            1,
            'error: [Errno 28] standard output: No space left on device',
        ),
        ('lines', '>&-', 0, ''),
        ('late', '>&- 2>&- <&-', 0, ''),
        ('mistake', '2>&-', 2, ''),
        ('mistake', '2> /dev/full', 2, ''),
        ('mistake', '2>&1 | true', 2, ''),
        ('other pipe', '', 1, 'BrokenPipeError'),
    ],
)
def test_a_command_ends_quietly(what, to, status, said):
    # The reader of `true` must be gone by then.
    script = f'{{ sleep 0.5; "$0" -c "$1" "$2"; }} {to}'
    if '|' in to:
        script += '; exit ${PIPESTATUS[0]}'
    done = shell(script, COMMAND, what)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert bool(done.stderr) is bool(said)
    assert ('Traceback' in done.stderr) is (what == 'other pipe')


def test_help_of_the_command_itself_ends_quietly():
    script = '{ sleep 0.5; "$0" -m hourglass_npu --help; } | true'
    done = shell(script + '; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (141, '')


def test_a_closed_stream_is_not_the_next_file(tmp_path):
    program = (
        'import os, sys\n'
        'from hourglass_npu import output\n'
        'output.plug()\n'
        'file = open(sys.argv[1], "w")\n'
        'os.write(1, b"from C"); os.write(2, b"from C")\n'
        'print("lost"); print("lost", file=sys.stderr)\n'
        'file.write("kept")\n'
    )
    done = shell('"$0" -c "$1" "$2" >&- 2>&- <&-', program, tmp_path / 'f')
    assert done.returncode == 0
    assert (tmp_path / 'f').read_text() == 'kept'


# A training as far as its output is concerned.
LASTING = """
import logging, os, sys
from hourglass_npu import errors, output
def main():
    with output.lasting():
        print('before the log', flush=True)
        logger = logging.getLogger('training')
        logger.addHandler(logging.StreamHandler())
        logger.addHandler(logging.FileHandler(sys.argv[1]))
        output.tell_losses_to(logger)
        for number in range(3):
            logger.warning('step %d', number)
            print('bar', flush=True)
            os.write(1, b'from C')
        if not os.fork():
            print('from a worker', flush=True)
            os._exit(0)
        os.wait()
    return 3
errors.run(main)
"""


@pytest.mark.parametrize(
    'to, lost',
    [
        ('| true', ['standard output is lost (Broken pipe)']),
        ('2>&1 | true', ['standard output is', 'standard error is lost']),
        ('> /dev/full', ['standard output is lost (No space left on device)']),
        ('2> /dev/full', ['standard error is lost (No space left on device)']),
        ('>&- 2>&-', []),
    ],
)
def test_a_training_goes_on_and_says_once_what_is_lost(tmp_path, to, lost):
    script = f'{{ sleep 0.5; "$0" -c "$1" "$2"; }} {to}'
    if '|' in to:
        script += '; exit ${PIPESTATUS[0]}'
    done = shell(script, LASTING, tmp_path / 'log')
    assert done.returncode == 3, done.stderr
    assert 'Traceback' not in done.stderr
    lines = (tmp_path / 'log').read_text().splitlines()
    assert [line for line in lines if line.startswith('step')] == [
        'step 0',
        'step 1',
        'step 2',
    ]
    told = [line for line in lines if not line.startswith('step')]
    assert len(told) == len(lost)
    for words in lost:
        assert sum(words in line for line in told) == 1
