"""Find joints in pictures or a video, and draw them."""

import itertools
import os
import sys
import time

from hourglass_npu.errors import UserError
from hourglass_npu.files import (
    check_output,
    is_stream,
    make_folder,
    write_json,
)
from hourglass_npu.options import apply_speed, apply_trust, check_speed_options
from hourglass_npu.paths import DEMO_PEOPLE, DEMO_PICTURE, SAMPLE_DATA
from hourglass_npu.pose import boxes, decode, draw, geometry
from hourglass_npu.pose.backends import (
    OnnxNetwork,
    TorchNetwork,
    choose_model,
)
from hourglass_npu.pose.detector import Detector
from hourglass_npu.pose.images import (
    PICTURE_SUFFIXES,
    RESULT_PREFIX,
    find_pictures,
    read_picture,
    write_picture,
)
from hourglass_npu.pose.om import OmNetwork
from hourglass_npu.pose.results import describe_people
from hourglass_npu.pose.sessions import session_devices
from hourglass_npu.pose.video import (
    CODES,
    Progress,
    Video,
    is_video,
    result_name,
    video_writer,
)

ROUNDS = 10
"""Repetitions for --fps, after one that does not count."""

WARM_UP_FRAMES = 5
"""Frames of a video that --fps does not count."""


def run(args):
    """Run the demo as the options say.

    Args:
        args (argparse.Namespace): Options of demo.py.

    Returns:
        int: Exit status: 0, or 1 if there were no people, or if a picture of
        several could not be used.

    Raises:
        UserError: An option cannot be obeyed.
    """
    _check(args)
    apply_trust(args)
    sources = args.img or [_default_picture()]
    videos = [source for source in sources if is_video(source)]
    if videos and len(sources) > 1:
        raise UserError(
            f'{videos[0]} is a video, stream or camera: it must be the only '
            '--img'
        )
    # Find faults of the sources before loading a model.
    if videos:
        outputs = {videos[0]: _video_output(videos[0], args.out)}
        video = Video(videos[0])
    else:
        outputs = _outputs(find_pictures(sources), args.out)
        if len(outputs) == 1:
            read_picture(next(iter(outputs)))
    json_path = _json_path(args.json, list(outputs.values()))
    folder = _new_folder(args.out, outputs)
    _check_outputs(args, outputs, json_path, folder)
    network = _network(args)
    if args.sample and not _are_drawn(outputs):
        print(
            'the model of --sample knows drawn people only: take '
            '--checkpoint zoo in place of --sample for photographs',
            file=sys.stderr,
        )
    finder = _Finder(args, network.settings.image_size, list(outputs))
    print(f'model: {network.place}')
    if folder:
        make_folder(folder)
    if videos:
        found = _run_video(args, network, finder, video, *outputs.popitem())
    else:
        found = _run_pictures(args, network, finder, outputs)
    records, failures = found
    if json_path is not None:
        _write_json(json_path, network.settings.joints.names, records)
    return 1 if failures or not any(r['people'] for r in records) else 0


def _check_outputs(args, outputs, json_path, folder):
    """Check the output paths, except a folder that is yet to be made."""
    named = (args.config, args.checkpoint, args.onnx, args.om)
    named += (args.bbox_file, args.detector)
    inputs = [*outputs, *filter(None, named)]
    places = [(path, ()) for path in outputs.values()]
    if json_path is not None:
        places.append((json_path, ['.json']))
    for path, suffixes in places:
        if not folder or os.path.dirname(path) != os.path.normpath(folder):
            check_output(path, suffixes, inputs)


def _are_drawn(sources):
    """Tell whether pictures are those that the sample's model was made for."""
    drawn = [os.path.realpath(p) for p in (DEMO_PICTURE, SAMPLE_DATA)]
    return all(
        os.path.realpath(source).startswith(tuple(drawn)) for source in sources
    )


def _run_pictures(args, network, finder, outputs):
    records = []
    failures = 0
    measured = False
    for path, output in outputs.items():
        try:
            picture = read_picture(path)
            people = finder(picture, path)
        except UserError as error:
            if len(outputs) == 1:
                raise
            print(f'{error}; skipped', file=sys.stderr)
            failures += 1
            continue
        records.append(_record(path, picture, people))
        if not people:
            print(f'{path}: {finder.nobody}; skipped', file=sys.stderr)
            continue
        result = decode.estimate(network, picture, people, network.settings)
        names = network.settings.joints.names
        _add_keypoints(records[-1], people, result, names)
        write_picture(
            output, _drawn(args, network.settings, picture, people, result)
        )
        count = '1 person' if len(people) == 1 else f'{len(people)} people'
        print(f'{path}: {count} -> {output}')
        if args.fps and not measured:
            measured = True
            _measure(network, picture, people)
    return records, failures


def _run_video(args, network, finder, video, source, output):
    records = []
    start = None
    counts = [n for n in (video.count, args.frames) if n is not None]
    progress = Progress(min(counts, default=None))
    frames = itertools.islice(video, args.frames)
    with video_writer(output, video.rate) as write:
        try:
            for number, frame in enumerate(frames):
                if number == WARM_UP_FRAMES:
                    start = time.perf_counter()
                people = finder(frame, source)
                records.append(_record(source, frame, people, number))
                if people:
                    result = decode.estimate(
                        network, frame, people, network.settings
                    )
                    _add_keypoints(
                        records[-1],
                        people,
                        result,
                        network.settings.joints.names,
                    )
                    frame = _drawn(
                        args, network.settings, frame, people, result
                    )
                write(frame)
                progress(number + 1)
        except KeyboardInterrupt:
            # The usual end of what has none.
            if not video.live or not records:
                raise
        finally:
            progress.close()
        if not records:
            raise UserError(f'{source}: this video has no frames')
    timed = len(records) - WARM_UP_FRAMES
    print(f'{source}: {len(records)} frames -> {output}')
    if args.fps and timed > 0:
        rate = timed / (time.perf_counter() - start)
        print(
            f'FPS: {rate:.2f} frames/s, reading, drawing and writing '
            f'included ({timed} frames, {network.place})'
        )
    elif args.fps:
        print(f'FPS: --fps needs more than {WARM_UP_FRAMES} frames')
    return records, 0


class _Finder:
    """Return the people of a picture, as the options say.

    Attributes:
        nobody (str): What to say where there are none.
    """

    def __init__(self, args, image_size, paths):
        self._image_size = image_size
        self._boxes = [boxes.parse_box(text) for text in args.bbox or ()]
        self._file = self._detector = None
        self._hinted = False
        path = args.bbox_file
        if args.img is None and not (path or self._boxes or args.detector):
            # The demo picture and its people.
            path = str(DEMO_PEOPLE) if DEMO_PEOPLE.exists() else None
        threshold = args.bbox_thr
        if threshold is None:
            threshold = boxes.DEFAULT_THRESHOLD
        if path:
            self._file = boxes.BoxFile(path, image_size, threshold, paths)
            self.nobody = f'{path} has no people for this picture'
            if self._file.left_out:
                self.nobody += f' (left out: {self._file.left_out})'
                print(
                    f'note: {path}: left out: {self._file.left_out}',
                    file=sys.stderr,
                )
        elif args.detector:
            self._detector = _detector(args, threshold)
            self.nobody = (
                f'{args.detector} finds nobody with a score of at least '
                f'{threshold:g}'
            )

    def __call__(self, picture, path):
        if self._file:
            found = self._file.of(path)
            return boxes.inside(found, picture.shape, path)
        if self._detector:
            return boxes.detected(self._detector(picture), self._image_size)
        if self._boxes:
            people = [
                boxes.from_box(box, self._image_size) for box in self._boxes
            ]
            boxes.check_inside(people, picture.shape, path)
            return people
        if not self._hinted:
            self._hinted = True
            print(
                'note: no boxes are given, so the whole picture is taken as '
                'one person; for several people: --detector, --bbox or '
                '--bbox-file',
                file=sys.stderr,
            )
        return [boxes.whole_picture(picture.shape, self._image_size)]


def _detector(args, threshold):
    """Load the detector, on the device of the network if that is possible."""
    kind = (args.device or 'auto').partition(':')[0]
    detector = Detector(
        args.detector,
        args.device if kind in session_devices() else None,
        args.det_cat_id,
        threshold,
        args.nms_thr,
        args.det_kind,
    )
    print(f'detector: {detector.kind}, {detector.place}')
    return detector


def _check(args):
    """Check options that exclude each other or have limits."""
    if args.onnx and args.om:
        raise UserError('--onnx and --om both name a model: give one')
    if (args.onnx or args.om) and (
        args.config or args.checkpoint or args.sample or args.trust_checkpoint
    ):
        raise UserError(
            f'{"--onnx" if args.onnx else "--om"} includes the model: leave '
            'out --config, --checkpoint, --trust-checkpoint and --sample'
        )
    check_speed_options(args)
    if not 0 <= args.kpt_thr <= 1:
        raise UserError(f'--kpt-thr {args.kpt_thr}: must be from 0 to 1')
    if args.bbox_thr is not None and not (args.bbox_file or args.detector):
        raise UserError('--bbox-thr needs --bbox-file or --detector')
    if not 0 <= args.nms_thr <= 1:
        raise UserError(f'--nms-thr {args.nms_thr}: must be from 0 to 1')
    if args.det_cat_id < 0:
        raise UserError(f'--det-cat-id {args.det_cat_id}: must be at least 0')
    if args.frames is not None and args.frames < 1:
        raise UserError(f'--frames {args.frames}: must be at least 1')
    for text in args.bbox or ():
        boxes.parse_box(text)


def _default_picture():
    if not DEMO_PICTURE.is_file():
        raise UserError(
            f'{DEMO_PICTURE}: there is no such file; give --img, or draw it '
            'with `python3 mmpose-master/tools/make_sample_mpii.py --demo`'
        )
    return str(DEMO_PICTURE)


def _network(args):
    if args.onnx:
        network = OnnxNetwork(args.onnx, args.device)
    elif args.om:
        network = OmNetwork(args.om, args.device)
    else:
        config, checkpoint = choose_model(
            args.config, args.checkpoint, args.sample
        )
        network = TorchNetwork(config, checkpoint, args.device)
        apply_speed(args, network.model)
    if args.heatmaps and network.decodes:
        raise UserError(
            f'--heatmaps: {args.onnx or args.om} was exported with '
            '--decode, so it returns joints instead of heatmaps'
        )
    return network


def _drawn(args, settings, picture, people, result):
    joints = settings.joints
    if args.heatmaps:
        height, width = result.heatmaps.shape[2:]
        transforms = [
            geometry.affine(p.center, p.scale, (width, height), inverse=True)
            for p in people
        ]
        picture = draw.draw_heatmaps(
            picture, result.heatmaps, transforms, joints
        )
    drawn = draw.draw_people(
        picture, list(result.keypoints), joints, args.kpt_thr
    )
    if args.boxes:
        draw.draw_boxes(drawn, people)
    if args.legend:
        draw.draw_legend(drawn, joints)
    return drawn


def _outputs(paths, out):
    """Return the path of each picture's result.

    Returns:
        dict[str, str]: Path of a picture to path of its result.
    """
    if out and (out.lower().endswith(PICTURE_SUFFIXES) or is_stream(out)):
        if len(paths) > 1:
            raise UserError(
                f'--out {out}: one file for {len(paths)} pictures; give a '
                'folder'
            )
        outputs = {paths[0]: out}
    else:
        _check_folder(out, PICTURE_SUFFIXES)
        outputs = {}
        for path in paths:
            folder, name = os.path.split(path)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in PICTURE_SUFFIXES:
                suffix = '.jpg'
            outputs[path] = os.path.join(
                folder if out is None else out, RESULT_PREFIX + stem + suffix
            )
    taken = {}
    for path, output in outputs.items():
        real = os.path.realpath(output)
        if real == os.path.realpath(path):
            raise UserError(f'--out {out} is the picture itself')
        if real in taken:
            raise UserError(
                f'{taken[real]} and {path} would both be written to {output}'
            )
        taken[real] = path
    return outputs


def _check_folder(out, suffixes):
    """Refuse a folder that is a file, or is named like one of another kind."""
    if not out or os.path.isdir(out):
        return
    if os.path.exists(out):
        raise UserError(f'--out {out}: this is neither a folder nor a result')
    suffix = os.path.splitext(out)[1]
    if suffix and not out.endswith(os.sep):
        raise UserError(
            f'--out {out}: results are not written as {suffix}; the name must '
            f'end in one of {" ".join(suffixes)}, or in / for a folder'
        )


def _new_folder(out, outputs):
    """Return the folder to make for the results, or None."""
    made = out and out not in outputs.values() and not os.path.isdir(out)
    return out if made else None


def _video_output(source, out):
    """Return the path of a video's result."""
    if out and out.lower().endswith(tuple(CODES)) and not os.path.isdir(out):
        output = out
    else:
        _check_folder(out, CODES)
        folder, stem = result_name(source)
        output = os.path.join(out or folder, f'{RESULT_PREFIX}{stem}.mp4')
    if os.path.realpath(output) == os.path.realpath(source):
        raise UserError(f'--out {out} is the video itself')
    return output


def _json_path(option, outputs):
    """Return the path of the JSON file; None without --json."""
    if option is None or option:
        return option
    if len(outputs) > 1:
        folder = os.path.dirname(outputs[0])
        return os.path.join(folder, RESULT_PREFIX + 'keypoints.json')
    return os.path.splitext(outputs[0])[0] + '.json'


def _record(path, picture, people, frame=None):
    """Make a picture's entry in the JSON file, without joints."""
    record = {'file': path}
    if frame is not None:
        record['frame'] = frame
    record['width'], record['height'] = picture.shape[1], picture.shape[0]
    record['people'] = describe_people(people)
    return record


def _add_keypoints(record, people, result, names):
    record['people'] = describe_people(people, result.keypoints, names)


def _write_json(path, joints, records):
    content = {'joints': list(joints), 'pictures': records}
    write_json(path, content, indent=1)
    print(f'joints -> {path}')


def _measure(network, picture, people):
    """Print the speed of estimating one picture, step by step."""
    spent = [0.0, 0.0, 0.0]
    for number in range(ROUNDS + 1):
        times = [time.perf_counter()]
        crops = decode.cut(picture, people, network.settings)
        times.append(time.perf_counter())
        output = network(crops)
        times.append(time.perf_counter())
        decode.read(output, people, network.settings)
        times.append(time.perf_counter())
        if number:
            steps = zip(times, times[1:])
            spent = [s + b - a for s, (a, b) in zip(spent, steps)]
    cut, net, read = (1000 * s / ROUNDS for s in spent)
    total = (cut + net + read) / 1000
    print(
        f'FPS: {len(people) / total:.2f} people/s, {1 / total:.2f} pictures/s '
        f'(crop {cut:.1f} ms, network {net:.1f} ms, joints {read:.1f} ms; '
        f'{network.place}, mean of {ROUNDS})'
    )
