"""Run a file of scripts/onnx2om.sh on an NPU: ``hourglass om``.

The same as ``hourglass demo --om FILE`` and ``hourglass eval CONFIG --om
FILE``.
"""

import sys

from hourglass_npu.errors import UserError
from hourglass_npu.options import Parser


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`.

    Returns:
        argparse.Namespace: With ``rest``, the options of the other command.
    """
    parser = Parser(
        'Run a compiled file (OM) on an NPU. Options: those of demo and eval.',
        'hourglass om demo deploy.om --img a.jpg --bbox 120,40,200,460',
        'hourglass om eval deploy.om CONFIG.py --json scores.json',
    )
    parser.add_argument('what', choices=['demo', 'eval'], help='demo or eval')
    parser.add_argument('file', help='the OM')
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words[:2])
    args.rest = list(words[2:])
    return args


def main():
    """Run the demo or the evaluation.

    Returns:
        int | None: Its status.
    """
    args = parse_args()
    if args.file.startswith('-'):
        raise UserError(f'{args.file}: the OM comes first, then the options')
    if args.what == 'demo':
        from hourglass_npu.commands import demo as command
    else:
        from hourglass_npu.commands import evaluate as command
    sys.argv[1:] = [*args.rest, '--om', args.file]
    return command.main()
