"""Export a checkpoint: from the options to a verified file."""

import os

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.export import graph
from hourglass_npu.files import check_output, replaced
from hourglass_npu.options import apply_trust
from hourglass_npu.paths import DEMO_PEOPLE, DEMO_PICTURE
from hourglass_npu.pose import boxes, decode
from hourglass_npu.pose.backends import TorchNetwork, choose_model
from hourglass_npu.pose.images import find_pictures, read_picture


def convert(args, tolerance):
    """Export as the options say.

    Args:
        args (argparse.Namespace): Options of pytorch2onnx.py.
        tolerance (float): Largest difference allowed, as a part of the
            highest peak.

    Raises:
        UserError: An option cannot be obeyed.
        WrongFile: The file is wrong; it is not kept.
    """
    inputs = filter(None, (args.config, args.checkpoint, *(args.img or ())))
    check_output(args.out, ['.onnx'], inputs)
    apply_trust(args)
    if args.int8 and args.fp16:
        raise UserError('--int8 and --fp16 exclude each other: give one')
    if args.int8 and args.opset < 10:
        raise UserError(f'--opset {args.opset}: --int8 needs 10 or later')
    pictures = [read_picture(p) for p in find_pictures(args.img or ())]
    config, checkpoint = choose_model(
        args.config, args.checkpoint, args.sample
    )
    trained = TorchNetwork(config, checkpoint, 'cpu')
    settings = trained.settings
    batch, height, width = _shape(args.shape, settings, trained.cfg)
    settings = settings._replace(image_size=(width, height))
    if args.decode and not args.flip_test:
        # Joints cannot be averaged afterwards; heatmaps can.
        settings = settings._replace(flip_test=False)
    # A flip test outside the file is the same for both; it would only make
    # the comparison slower and half as sharp.
    trained.settings = settings._replace(flip_test=args.flip_test)
    if batch > 1 and not args.static:
        raise UserError(
            f'--shape with a batch of {batch} has no effect without --static'
        )
    if args.int8:
        from hourglass_npu.export import int8

        people = int8.load_people(config, settings)
    network = graph.DeployedNetwork(
        trained.model, settings, args.preprocess, args.flip_test, args.decode
    )
    batches = _batches(settings, pictures, batch, args.static)
    precision = 'fp16' if args.fp16 else 'int8' if args.int8 else 'fp32'
    properties = graph.make_properties(
        settings,
        network,
        precision=precision,
        config=os.path.basename(config),
        checkpoint=os.path.basename(checkpoint),
        mmpose_version=trained.meta.get('mmpose_version'),
        **graph.training_result(checkpoint, trained.meta),
    )
    with replaced(args.out) as temporary:
        graph.export(
            network, temporary, (batch, height, width), args.opset, args.static
        )
        graph.finish(temporary, args.opset, properties)
        if args.fp16:
            graph.to_half(temporary)
        _compare(temporary, trained, batches, args.static, tolerance)
        if args.int8:
            single = int8.measure(temporary, people)
            int8.quantise(temporary, people.calibration)
            graph.check_form(temporary, args.opset, args.static)
            integer = int8.measure(temporary, people)
            int8.report(single, integer, people)
        size = os.path.getsize(temporary) / 2**20
    print(
        f'{args.out}: opset {args.opset}, {precision}, input img '
        f'{_described(network, batch, height, width, args.static)}, output '
        f'{"joints" if args.decode else "heatmap"}, {size:.1f} MiB'
    )


def _shape(shape, settings, cfg):
    """Return batch, height and width of the input."""
    width, height = settings.image_size
    batch = 1
    if shape:
        if len(shape) == 2:
            height, width = shape
        elif len(shape) == 4 and shape[1] == 3:
            batch, _, height, width = shape
        else:
            raise UserError(
                f'--shape {" ".join(map(str, shape))}: must be H W or N 3 H W'
            )
    if batch < 1:
        raise UserError(f'--shape: a batch of {batch}: must be at least 1')
    backbone = cfg.model.backbone
    if backbone.type == 'HourglassNet':
        # The stem reduces by 4, each stage by 2, and both ways through a
        # stage must end at the same size.
        unit = 4 * 2 ** backbone.get('downsample_times', 5)
        if height < 1 or width < 1 or height % unit or width % unit:
            raise UserError(
                f'--shape: {height} x {width} does not fit this Hourglass: '
                f'height and width must be multiples of {unit}'
            )
    return batch, height, width


def _batches(settings, pictures, batch, static):
    """Make crops to compare on: real people and random numbers."""
    crops = _real_crops(settings, pictures)
    if crops is None:
        print('no demo picture: comparing on random numbers only')
    random = np.random.RandomState(0)
    width, height = settings.image_size
    batches = {}
    for size in (batch,) if static else (1, 2, 3):
        batches[f'random numbers, batch {size}'] = random.randint(
            0, 256, (size, height, width, 3)
        ).astype(np.uint8)
        if crops is not None:
            chosen = np.arange(size) % len(crops)
            batches[f'real pictures, batch {size}'] = crops[chosen]
    return batches


def _real_crops(settings, pictures):
    """Cut people out of real pictures; return None without pictures."""
    size = settings.image_size
    crops = [
        decode.cut(p, [boxes.whole_picture(p.shape, size)], settings)
        for p in pictures
    ]
    if not pictures and DEMO_PICTURE.is_file():
        picture = read_picture(str(DEMO_PICTURE))
        people = [boxes.whole_picture(picture.shape, size)]
        if DEMO_PEOPLE.is_file():
            people += boxes.BoxFile(str(DEMO_PEOPLE), size).of(
                str(DEMO_PICTURE)
            )
        crops = [decode.cut(picture, people, settings)]
    return np.concatenate(crops) if crops else None


def _compare(path, trained, batches, static, tolerance):
    result, peak = graph.verify(path, trained, batches, static)
    for name, difference in result.items():
        print(f'  {name}: largest difference {difference:.2e}')
    worst = max(result.values())
    limit = tolerance * peak
    if not worst <= limit:
        raise graph.WrongFile(
            f'ONNX Runtime and PyTorch differ by {worst:.2e}; the tolerance '
            f'is {limit:.2e} ({tolerance:g} of the highest peak, {peak:.2e});'
            ' no file was written'
        )
    print(
        f'verified: largest difference {worst:.2e} at a highest peak of '
        f'{peak:.2e}'
    )


def _described(network, batch, height, width, static):
    count = batch if static else 'N'
    if network.preprocess:
        return f'uint8 {count}x{height}x{width}x3 (RGB)'
    return f'float32 {count}x3x{height}x{width}'
