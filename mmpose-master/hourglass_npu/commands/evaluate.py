"""Evaluate a pose model: ``test.py CONFIG [CHECKPOINT]``.

Prints a table of scores and leaves ``pred.mat`` in the work folder. Any
number of processes gives the same predictions and the same table.
"""

import math
import os

from hourglass_npu import zoo
from hourglass_npu.config.load import check_data, choose_work_dir, load_config
from hourglass_npu.config.parts import check_parts
from hourglass_npu.errors import UserError
from hourglass_npu.files import (
    check_output,
    is_stream,
    make_folder,
    replaced,
    write_json,
)
from hourglass_npu.options import (
    Parser,
    add_options,
    add_speed_options,
    apply_speed,
    check_speed_options,
)
from hourglass_npu.process import check_enough_devices, start
from hourglass_npu.weights import load_weights

# What mmcv.dump can write.
OUT_SUFFIXES = ('.json', '.pkl', '.pickle', '.yml', '.yaml')


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Evaluate a pose model.',
        'hourglass eval CONFIG.py',
        'hourglass eval CONFIG.py best.pth --json scores.json',
        'hourglass eval CONFIG.py --onnx hourglass.onnx',
        'hourglass eval CONFIG.py --om hourglass.om',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="checkpoint file; zoo: mmpose's published weights (default: the "
        'latest of the work folder)',
    )
    parser.add_argument(
        '--onnx',
        metavar='FILE',
        help='evaluate a file of pytorch2onnx.py, by ONNX Runtime, in place '
        'of a checkpoint',
    )
    parser.add_argument(
        '--om',
        metavar='FILE',
        help='evaluate a file of scripts/onnx2om.sh, on an NPU',
    )
    add_options(parser)
    add_speed_options(parser)
    parser.add_argument(
        '--eval',
        nargs='+',
        metavar='METRIC',
        help="metrics (default: those of the config's evaluation)",
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help=f'write the raw predictions to FILE ({", ".join(OUT_SUFFIXES)})',
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the scores to FILE as JSON'
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='write pictures of the best, median and worst people, and a '
        'plot of the errors of each joint, to DIR',
    )
    parser.add_argument(
        '--gpu-collect',
        '--gpu_collect',
        action='store_true',
        help='accepted for compatibility; results always cross processes '
        'over the host',
    )
    parser.add_argument(
        '--tmpdir', help='accepted for compatibility; no files are exchanged'
    )
    args = parser.parse_args(argv)
    if (
        args.out
        and not is_stream(args.out)
        and not args.out.endswith(OUT_SUFFIXES)
    ):
        parser.error(
            f'--out {args.out}: the name must end in one of '
            f'{", ".join(OUT_SUFFIXES)}'
        )
    return args


def check_request(args):
    """Check what can be checked before anything is started.

    Args:
        args (argparse.Namespace): From :func:`parse_args`; ``checkpoint`` is
            filled in, unless there is ``onnx`` or ``om``.

    Returns:
        mmcv.Config: The config, with its work folder.

    Raises:
        UserError: The config cannot be used, or a file or folder is not
            there.
    """
    cfg = load_config(args.config, args.cfg_options)
    check_parts(cfg, training=False)
    check_data(cfg, ['test'])
    choose_work_dir(args, cfg)
    check_speed_options(args)
    exported = args.onnx or args.om
    if args.onnx and args.om:
        raise UserError('--onnx and --om both name a model: give one')
    if exported and args.checkpoint:
        raise UserError(
            f'{"--onnx" if args.onnx else "--om"} includes the weights: leave '
            'out the checkpoint'
        )
    path = args.checkpoint
    if path is None and not exported:
        from hourglass_npu.training.checkpoints import Checkpoints

        saved = Checkpoints.of_config(cfg)
        path = saved.latest() or saved.latest_link
    if exported:
        if not os.path.isfile(exported):
            maker = 'scripts/onnx2om.sh' if args.om else 'pytorch2onnx.py'
            raise UserError(f'there is no file {exported}: {maker} makes one')
        path = None
    elif path == zoo.NAME:
        path = zoo.find(cfg)
    elif '://' not in path and not os.path.isfile(path):
        raise UserError(
            f'there is no checkpoint {path}: train first (scripts/'
            'train_1p.sh, with --sample for the drawn people), or name '
            'another'
        )
    args.checkpoint = path
    named = (args.checkpoint, exported, cfg.data.test.get('ann_file'))
    inputs = [args.config, *filter(None, named)]
    if args.out:
        check_output(args.out, inputs=inputs)
    if args.json:
        check_output(args.json, ['.json'], inputs)
    return cfg


def check_truth(dataset, metrics, pictures):
    """Find out before a long run whether its results can be scored.

    Args:
        dataset (Dataset): The people to evaluate on.
        metrics (list[str]): What is asked for.
        pictures (bool): Whether pictures are asked for too.

    Raises:
        UserError: There are no people, a metric is unknown, or pictures
            cannot be made.
        ValueError: Annotations and truth do not belong together.
    """
    if len(dataset) == 0:
        raise UserError('the test set is empty')
    known = getattr(dataset, 'METRICS', metrics)
    for metric in metrics:
        if metric not in known:
            raise UserError(
                f'--eval {metric}: this data set knows {", ".join(known)}'
            )
    if hasattr(dataset, 'load_truth'):
        dataset.load_truth()
    elif pictures:
        from hourglass_npu.mpii.truth import truth_of

        truth_of(dataset)


def predict(model, dataset, cfg, device, distributed):
    """Run the model over the people, on all processes.

    Args:
        model (nn.Module): The bare model.
        dataset (Dataset): In test mode.
        cfg (mmcv.Config): ``data.test_dataloader`` overrides the settings
            of the loader.
        device (torch.device): Of this process.
        distributed (bool): Whether this process is one of a group.

    Returns:
        list | None: One result per person on rank 0, None on the others.
    """
    from mmcv.parallel import MMDataParallel
    from mmpose.apis import multi_gpu_test, single_gpu_test
    from mmpose.datasets import build_dataloader

    from hourglass_npu.devices import let_pin

    settings = dict(
        samples_per_gpu=1,
        workers_per_gpu=cfg.data.get('workers_per_gpu', 0),
        dist=distributed,
        shuffle=False,
        drop_last=False,
        pin_memory=device.type != 'cpu',
    )
    settings.update(cfg.data.get('test_dataloader', {}))
    loader = build_dataloader(dataset, **settings)
    let_pin(loader, device)
    loader.in_threads = True
    # Ranks share no gradients here: each has its own whole model.
    model = MMDataParallel(model.to(device), device_ids=[-1])
    test = multi_gpu_test if distributed else single_gpu_test
    return test(model, loader)


def format_table(scores):
    """Lay scores out as a table of one row.

    Args:
        scores (dict[str, float]): NaN becomes n/a.

    Returns:
        str: Three lines in Markdown.
    """
    cells = [
        (name, 'n/a' if math.isnan(score) else f'{score:.4f}')
        for name, score in scores.items()
    ]
    widths = [max(map(len, cell)) for cell in cells]

    def line(row):
        return '| ' + ' | '.join(row) + ' |'

    return '\n'.join(
        [
            line([name.ljust(w) for (name, _), w in zip(cells, widths)]),
            line(['-' * w for w in widths]),
            line([score.rjust(w) for (_, score), w in zip(cells, widths)]),
        ]
    )


def write_scores(path, scores, **facts):
    """Write scores as JSON; NaN becomes null.

    Args:
        path (str): The file.
        scores (dict[str, float]): Under the key ``scores``.
        **facts: Further keys.
    """
    clean = {k: None if math.isnan(v) else v for k, v in scores.items()}
    write_json(path, dict(facts, scores=clean))


def _exported(args, device, chip):
    """Load the file to evaluate; each process of several has its own NPU."""
    if args.onnx:
        from hourglass_npu.pose.backends import OnnxNetwork

        return OnnxNetwork(args.onnx, str(device))
    from hourglass_npu.pose.om import OmNetwork

    rank = os.environ.get('LOCAL_RANK')
    if rank is not None and chip in (None, 'auto', 'npu'):
        chip = f'npu:{rank}'
    return OmNetwork(args.om, chip)


def main():
    """Evaluate as the command line says."""
    args = parse_args()
    cfg = check_request(args)
    if args.check_request:
        check_enough_devices(args)
        return

    import mmcv
    from mmcv.runner.dist_utils import get_dist_info
    from mmpose.core import wrap_fp16_model
    from mmpose.datasets import build_dataset
    from mmpose.models import build_posenet

    chip = args.device
    if args.om:
        # torch has only the pictures to do; CANN's own interface has the NPU.
        args.device = 'cpu'
    device, distributed = start(args, cfg)
    make_folder(cfg.work_dir)
    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    settings = dict(cfg.get('eval_config', {}))
    metrics = (
        args.eval
        or settings.get('metric')
        or cfg.get('evaluation', {}).get('metric', 'PCKh')
    )
    settings['metric'] = [metrics] if isinstance(metrics, str) else metrics
    check_truth(dataset, settings['metric'], bool(args.show_dir))

    cfg.model.pretrained = None
    if args.onnx or args.om:
        from hourglass_npu.export.evaluate import ExportedPose

        network = _exported(args, device, chip)
        model = ExportedPose(network, args.onnx or args.om, cfg)
    else:
        model = build_posenet(cfg.model)
        if cfg.get('fp16') is not None:
            wrap_fp16_model(model)
        load_weights(model, args.checkpoint)
        apply_speed(args, model.to(device).eval())
    outputs = predict(model, dataset, cfg, device, distributed)
    if get_dist_info()[0] != 0:
        return
    if args.out:
        suffix = os.path.splitext(args.out)[1][1:]
        with replaced(args.out) as partial:
            mmcv.dump(outputs, partial, file_format=suffix or 'json')
    scores = dataset.evaluate(outputs, cfg.work_dir, **settings)
    source = args.onnx or args.om or args.checkpoint
    print(f'{source} on {len(dataset)} samples:')
    print(format_table(scores))
    if args.json:
        write_scores(
            args.json,
            scores,
            config=os.path.abspath(args.config),
            checkpoint=os.path.abspath(source),
            samples=len(dataset),
        )
    if args.show_dir:
        from hourglass_npu.config.joints import joints_of
        from hourglass_npu.reports import sheets

        joints = getattr(dataset, 'joints', None) or joints_of(cfg)
        for path in sheets.write(dataset, outputs, args.show_dir, joints):
            print(f'Wrote {path}')
