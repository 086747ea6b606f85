#!/usr/bin/env python3
"""Writes OPERATORS.md, the table of the operators that the stand-in has.

Usage: operator_table.py [--check]    --check compares, status 1 if it differs
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / 'OPERATORS.md'
SOURCES = ('elementwise', 'shapes', 'layers', 'optimizers')

HEAD = """\
# Operators of the stand-in

Made by `python tests/cann_stub/operator_table.py` from the sources in
`operators/`. torch_npu knows some 1,800; a call of another one fails with its
name. docs/CANN_STUB.md says how to add one.
"""


def names_of(text):
    """Return the operators that a line of a source declares.

    Args:
        text (str): All of the source before and with the line.

    Yields:
        tuple[str, str]: Title of the section, and name.
    """
    title = ''
    macros = {}
    # A macro goes on where a line ends with a backslash.
    for line in text.replace('\\\n', ' ').splitlines():
        heading = re.match(r'// (.+?) -{5,}$', line)
        define = re.match(r'#define (\w+)\((\w+)', line)
        use = re.match(r'(\w+)\((\w+)', line)
        if heading:
            title = heading.group(1)
        elif define:
            forms = re.findall(r'OPERATOR\(([\w#]+)', line)
            macros[define.group(1)] = [
                form.replace('#', '').replace(define.group(2), '{}')
                for form in forms
            ]
        elif use and use.group(1) == 'OPERATOR':
            yield title, use.group(2)
        elif use and use.group(1) in macros:
            for form in macros[use.group(1)]:
                yield title, form.format(use.group(2))


def table():
    """Return the operators: {(file's summary, section): [names]}."""
    found = {}
    for stem in SOURCES:
        text = (HERE / 'operators' / f'{stem}.cpp').read_text()
        summary = re.match(r'((?://.*\n)+)', text).group(1)
        summary = ' '.join(summary.replace('//', '').split())
        for title, name in names_of(text):
            found.setdefault((summary, title), []).append(name)
    return found


def render():
    """Return the text of OPERATORS.md."""
    lines = [HEAD]
    last = None
    for (summary, title), names in table().items():
        if summary != last:
            lines.append(f'## {summary}\n')
            last = summary
        if title:
            lines.append(f'**{title}**\n')
        lines += [f'- `{name}`' for name in sorted(names)] + ['']
    return '\n'.join(lines)


def main():
    """Run the command."""
    if sys.argv[1:] == ['--check']:
        return int(TABLE.read_text() != render())
    TABLE.write_text(render())
    return 0


if __name__ == '__main__':
    sys.exit(main())
