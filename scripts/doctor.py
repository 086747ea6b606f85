#!/usr/bin/env python3
"""Look at this host as a training would, and say what is in its way.

Prints one block that can be pasted into a report as it is: it names no user,
no host and no address. It changes nothing, and runs with any Python 3.7 or
later; where this one lacks the packages and the bundle's .venv (or what VENV
names) has them, that one is looked at.

Exit status: 0 all is in order; 1 there are warnings; 2 something is in the
way of training, or the command line makes no sense.

examples: python3 scripts/doctor.py
          python3 scripts/doctor.py --devices 8
          VENV=/opt/venv python3 scripts/doctor.py --json
"""

import argparse
import json
import os
import runpy
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / 'mmpose-master/hourglass_npu/bootstrap.py'
runpy.run_path(str(BOOTSTRAP))['use_this_package']()

from doctor_checks import CHECKS, Finding, Host  # noqa: E402
from hourglass_npu.bootstrap import look_for  # noqa: E402
from hourglass_npu.errors import run  # noqa: E402

SEVERITIES = ('ok', 'note', 'warning', 'error')
EXIT_STATUS = {'ok': 0, 'note': 0, 'warning': 1, 'error': 2}


def _tidy(text):
    """Shorten paths, so that none holds the name of a user."""
    text = text.replace(f'{ROOT}/', '').replace(str(ROOT), '.')
    home = os.path.expanduser('~')
    return text if home in ('/', '~') else text.replace(home, '~')


def examine(devices=0):
    """Run all checks.

    Args:
        devices (int): How many devices to try together; 0: one alone.

    Returns:
        list[Finding]: In the order of the report.
    """
    host = Host(devices)
    found = []
    for check in CHECKS:
        try:
            found += check(host)
        except Exception as error:
            # A check that fails must not hide what the others know.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f'{os.path.basename(frame.filename)}:{frame.lineno}'
            found.append(
                Finding(
                    check.__name__[len('check_') :],
                    'warning',
                    f'could not be checked ({type(error).__name__}: {error}, '
                    f'{place})',
                    'please report this, with the whole block',
                )
            )
    return [
        f._replace(text=_tidy(f.text), remedy=_tidy(f.remedy)) for f in found
    ]


def render(found):
    """Yield the lines of the block."""
    yield '--- Hourglass-52 on NPUs: report of scripts/doctor.py ---'
    for finding in found:
        first, *more = finding.text.splitlines()
        yield f'{finding.severity:<8}{finding.check:<14}{first}'
        yield from (f'{"":<22}{line}' for line in more)
        for number, line in enumerate(finding.remedy.splitlines()):
            yield f'{"":<22}{"   " if number else "-> "}{line}'
    counts = Counter(finding.severity for finding in found)
    summary = ', '.join(f'{counts[s]} {s}' for s in SEVERITIES if counts[s])
    yield f'--- {summary}; {verdict(found)} ---'


def verdict(found):
    """Say in a word or two whether a training could start here."""
    broken = any(finding.severity == 'error' for finding in found)
    return f'{"not " if broken else ""}ready to train'


def render_brief(found):
    """Yield one line for each finding that asks for something."""
    for finding in found:
        if finding.severity in ('warning', 'error'):
            yield (
                f'{finding.severity}: {finding.check}: {finding.text} '
                f'-> {finding.remedy}'
            )


def main(arguments=None):
    """Print the report.

    Args:
        arguments (list[str], optional): In place of ``sys.argv[1:]``.

    Returns:
        int: Exit status, as this module's docstring says.
    """
    summary, _, rest = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='doctor.py',
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='answer in JSON')
    form.add_argument(
        '--brief',
        action='store_true',
        help='only what asks for something, a line for each',
    )
    parser.add_argument(
        '--devices',
        type=int,
        metavar='N',
        help='try N devices together, a process each, and how fast they sum '
        '(default: one alone)',
    )
    options = parser.parse_args(arguments)
    if options.devices is not None and options.devices < 1:
        parser.error(f'--devices {options.devices}: at least 1')
    look_for('torch', 'mmcv', 'mmpose')
    found = examine(options.devices or 0)
    status = max(EXIT_STATUS[finding.severity] for finding in found)
    if options.json:
        account = dict(
            status=status,
            verdict=verdict(found),
            findings=[finding._asdict() for finding in found],
        )
        print(json.dumps(account, indent=2))
    else:
        for line in (render_brief if options.brief else render)(found):
            print(line)
    return status


if __name__ == '__main__':
    run(main)
