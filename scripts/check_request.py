"""Checks a command line of mmpose-master/tools/ before it is given to many.

usage: check_request.py PROGRAM [ARGUMENT ...]

Every process that a launcher starts would print the same usage message, and
the launcher a table of failures on top. PROGRAM (train or test) says itself
what is wrong, with its usual exit status.
"""

import importlib
import os
import sys

TOOLS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    'mmpose-master',
    'tools',
)


def main():
    """Parses the arguments with PROGRAM's parser."""
    name = sys.argv[1]
    sys.path.insert(0, TOOLS)
    sys.argv = [os.path.join(TOOLS, name + '.py')] + sys.argv[2:]
    program = importlib.import_module(name)
    arguments = program.parse_args()
    # Config and data too, where the program can check them apart.
    check = getattr(program, 'check_request', None)
    if check is not None:
        importlib.import_module('_common').run(lambda: check(arguments))


if __name__ == '__main__':
    main()
