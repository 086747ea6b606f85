"""Plot trainings: ``hourglass plot WORK_DIR [WORK_DIR ...]``."""

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.options import Parser
from hourglass_npu.reports.curves import plot


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Plot one or several trainings.',
        'hourglass plot work_dirs/a',
        'hourglass plot work_dirs/a work_dirs/b --out curves.png',
    )
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='folder of a training; several share one figure',
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='figure to write: .png, .pdf or .svg (default: training.png in '
        'WORK_DIR, trainings.png in the first of several)',
    )
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.png', '.pdf', '.svg')):
        parser.error(
            f'--out {args.out}: the name must end in .png, .pdf or .svg'
        )
    return args


def main():
    """Plot as the command line says."""
    args = parse_args()
    ensure_packages('matplotlib', 'cv2')
    print(f'Wrote {plot(args.work_dirs, args.out)}')
