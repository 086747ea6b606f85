"""A small sample of what run.py feeds; docs/RELIABILITY.md has the whole."""

import re
import sys
from pathlib import Path

RUN = Path(__file__).with_name('run.py')

# Cases that led to something else once, beside those that run.py begins with.
QUICK = (
    'Config',
    'Annotations',
    'Mat',
    'Picture',
    'Checkpoint',
    'CommandLine',
)


def feed(run, cases, first, *kinds):
    """Feed cases of some kinds; all have to come to a good end."""
    options = [f'--kind={kind}' for kind in kinds]
    done = run(
        [sys.executable, RUN, '--cases', cases, '--first', first, *options],
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r'^(\d+) cases, 0 failed$', done.stdout, re.M)
    assert int(found.group(1)) >= cases
    # Neither all refused nor all used: they are near what is sound.
    for kind in kinds:
        counts = re.search(
            rf"^{kind}: {{'used': (\d+), 'refused': (\d+),", done.stdout, re.M
        )
        assert all(int(count) > 0 for count in counts.groups()), done.stdout


def test_spoilt_input_is_used_or_refused(run):
    feed(run, 600, 1000000, *QUICK)


def test_spoilt_networks_are_used_or_refused(run):
    feed(run, 20, 1000000, 'Onnx')


def test_what_is_neither_is_found(run, tmp_path):
    """The runner counts an error, a crash and a hang as what they are."""
    script = tmp_path / 'ends.py'
    script.write_text(
        'import os, sys, time\n'
        f'sys.path.insert(0, {str(RUN.parent)!r})\n'
        'import cases, run\n'
        'class Ends(cases.Kind):\n'
        '    def run(self, number):\n'
        '        if number == 1:\n'
        '            cases.judged(lambda: 1 / 0)\n'
        '        if number == 2:\n'
        '            os.abort()\n'
        '        if number == 3:\n'
        '            time.sleep(60)\n'
        '        if number == 4:\n'
        '            raise SystemExit(0)\n'
        "        return 'no' if number == 5 else None\n"
        "cases.KINDS['Ends'] = Ends\n"
        'run.SECONDS_PER_CASE = 1\n'
        'run.__file__ = __file__\n'
        'run.main()\n'
    )
    done = run(
        [sys.executable, script, '--kind=Ends', '--cases=7', '--show'],
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    ends = dict(re.findall(r'^Ends (\d) (\w+):', done.stdout, re.M))
    assert ends == dict(
        zip('0123456', ['used', *['failed'] * 4, 'refused', 'used'])
    )
    for words in ('ZeroDivisionError', 'status -6', 'still at it after 1 s'):
        assert words in done.stdout
