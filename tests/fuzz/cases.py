"""Spoilt input of every kind, and what has to become of it.

Each kind is a class that prepares sound files once and then runs case after
case by number. Of a case there are two good ends: the input is used, or it is
refused with one message. Everything else is raised: a bare traceback, code
that a file brought along and that ran, a result that was half written.
"""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parents[1]
for folder in (HERE, HERE.parent):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from calling import call, command  # noqa: E402
from mutation import (  # noqa: E402
    STRANGE,
    misspelt,
    places,
    spoil_bytes,
    spoil_value,
)

from hourglass_npu.config.load import load_config  # noqa: E402
from hourglass_npu.errors import (  # noqa: E402
    describe,
    explain_failure,
    is_user_error,
)
from hourglass_npu.weights import load_weights  # noqa: E402

LONGEST_MESSAGE = 3000
"""Characters; nobody reads more."""


class NotRefused(AssertionError):
    """The input came to neither of its two good ends."""


def judged(function):
    """Run what a command would run and judge how it ends.

    Args:
        function (Callable[[], Any]): The command's work.

    Returns:
        str | None: The message of a refusal; None if the input was used.

    Raises:
        NotRefused: The command would have shown a traceback.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(
            said
        ):
            function()
    except SystemExit as end:
        if end.code not in (0, 1, 2):
            raise NotRefused(f'status {end.code}') from end
        return said.getvalue() or 'status'
    except Exception as error:
        if is_user_error(error):
            message = describe(error)
        else:
            message = explain_failure(error)
        if message is None:
            raise NotRefused(f'{type(error).__name__}: {error}') from error
        if not message.strip() or len(message) > LONGEST_MESSAGE:
            raise NotRefused(f'a message like {message[:200]!r}') from error
        if 'Traceback (most' in message:
            raise NotRefused(
                f'a traceback for a message: {message}'
            ) from error
        return message
    if 'Traceback (most' in said.getvalue():
        raise NotRefused(
            f'a traceback among what is printed: {said.getvalue()}'
        )
    return None


class Kind:
    """A kind of input.

    Args:
        folder (Path): For its files; empty.
    """

    share = 1
    """How many of all cases, in relation to other kinds."""

    def __init__(self, folder):
        self.folder = folder
        self.prepare()

    def prepare(self):
        """Make the sound files."""

    def run(self, number):
        """Run one case.

        Args:
            number (int): The same number is the same case.

        Returns:
            str | None: As :func:`judged`.
        """
        raise NotImplementedError


def generator(kind, number):
    """Make the generator of a case.

    Args:
        kind (Kind): The kind.
        number (int): The case.

    Returns:
        random.Random: Seeded by both.
    """
    return random.Random(f'{type(kind).__name__} {number}')


class Config(Kind):
    """A config file and overrides: read, and checked."""

    share = 20

    def prepare(self):
        from mmcv import Config as Reader
        from mpii_data import CONFIGS, write_mpii

        self.path = self.folder / 'config.py'
        os.environ['MPII_ROOT'] = str(write_mpii(self.folder / 'mpii', 2, 2))
        cfg = Reader.fromfile(str(CONFIGS / 'hourglass52_mpii_256x256.py'))
        # Text without calls: what is spoilt is data, not a program.
        self.content = json.loads(json.dumps(cfg._cfg_dict.to_dict()))
        self.keys = ['.'.join(map(str, at)) for at in places(self.content)]

    def write(self, content, draw):
        """Write a config as Python or JSON."""
        if draw.random() < 0.5 or not isinstance(content, dict):
            path = self.folder / 'config.json'
            text = json.dumps(content)
        else:
            path = self.path
            text = '\n'.join(
                f'{key} = {value!r}'
                for key, value in content.items()
                if str(key).isidentifier()
            )
            for name in ('nan', 'inf'):
                text = f'{name} = float("{name}")\n' + text
        path.write_bytes(text.encode())
        return path

    def overrides(self, draw):
        """Draw what --cfg-options may be given."""
        key = draw.choice(self.keys)
        if draw.random() < 0.4:
            key = misspelt(key, draw)
        value = str(draw.choice(STRANGE))
        return draw.choice((f'{key}={value}',) * 8 + (key, '=' + value, ''))

    def run(self, number):
        train = command('train')
        draw = generator(self, number)
        content = self.content
        groups = []
        if draw.random() < 0.6:
            for _ in range(draw.choice((1, 1, 2, 5))):
                content = spoil_value(content, draw)
        else:
            groups = [f'--cfg-options={self.overrides(draw)}']
            groups += ['--cfg-options'] + [
                self.overrides(draw) for _ in range(draw.randrange(1, 3))
            ]
        path = self.write(content, draw)
        if draw.random() < 0.1:
            path = self.folder / 'config.json'
            data = json.dumps(self.content).encode()
            path.write_bytes(spoil_bytes(data, draw))

        def work():
            train.check_request(train.parse_args([str(path), *groups]))

        return judged(work)


def quick_places(content):
    """List places of a config but those of sizes.

    Large ones are slow and nothing worse.

    Args:
        content (dict): The config.

    Returns:
        list[tuple]: As of :func:`mutation.places`.
    """
    large = {'backbone', 'image_size', 'total_epochs', 'work_dir'}
    return [
        path
        for path in places(content)
        if not (large & set(path) and path[-1] != 'type')
    ]


class Training(Config):
    """A whole training, of two people, on a config that passed the checks."""

    share = 1

    def prepare(self):
        super().prepare()
        from mmcv import Config as Reader
        from mpii_data import write_tiny_config

        tiny = str(write_tiny_config(self.folder))
        self.content = json.loads(
            json.dumps(Reader.fromfile(tiny)._cfg_dict.to_dict())
        )
        self.content['total_epochs'] = 1
        self.content['work_dir'] = str(self.folder / 'work')
        self.at = quick_places(self.content)

    def run(self, number):
        import logging

        draw = generator(self, number)
        path = self.write(spoil_value(self.content, draw, self.at), draw)
        argv = sys.argv
        sys.argv = ['train.py', str(path), '--device=cpu']
        try:
            return judged(command('train').main)
        finally:
            sys.argv = argv
            for logger in ('mmpose', 'root'):
                for handler in list(logging.getLogger(logger).handlers):
                    handler.close()
                    logging.getLogger(logger).removeHandler(handler)
            from mmcv.utils import logging as loggers

            loggers.logger_initialized.clear()
            shutil.rmtree(str(self.folder / 'work'), ignore_errors=True)


class Annotations(Kind):
    """mpii_train.json: by a training's data set, and by check_mpii.py."""

    share = 20

    def prepare(self):
        from mpii_data import write_mpii, write_tiny_config

        self.data = write_mpii(self.folder / 'mpii', 3, 3)
        self.path = self.data / 'annotations/mpii_train.json'
        self.people = json.loads(self.path.read_text())
        os.environ['MPII_ROOT'] = str(self.data)
        tiny = str(write_tiny_config(self.folder))
        self.config = load_config(tiny).data.train

    def run(self, number):
        from mmpose.datasets import build_dataset

        from hourglass_npu.commands import check
        from hourglass_npu.pose.joints import MPII

        draw = generator(self, number)
        if draw.random() < 0.2:
            data = spoil_bytes(json.dumps(self.people).encode(), draw)
        else:
            people = self.people
            for _ in range(draw.choice((1, 1, 3))):
                people = spoil_value(people, draw)
            data = json.dumps(people).encode()
        self.path.write_bytes(data)

        def work():
            dataset = build_dataset(self.config)
            for index in range(len(dataset)):
                dataset[index]

        refused = judged(work)
        report = check.Report()
        judged_again = judged(
            lambda: check.check_pictures(
                str(self.data),
                check.check_annotations(str(self.data), MPII, report),
                report,
                1,
            )
        )
        if judged_again:
            raise NotRefused(f'check_mpii.py itself said: {judged_again}')
        if refused and not report.faults:
            raise NotRefused(f'check_mpii.py did not find: {refused}')
        return refused


class Mat(Kind):
    """mpii_gt_val.mat: read, and predictions compared with it."""

    share = 15

    def prepare(self):
        from mmpose.datasets import build_dataset
        from mpii_data import write_mpii, write_tiny_config
        from scipy.io import loadmat

        data = write_mpii(self.folder / 'mpii', 3, 3)
        os.environ['MPII_ROOT'] = str(data)
        tiny = str(write_tiny_config(self.folder))
        config = load_config(tiny).data.val
        self.dataset = build_dataset(config, dict(test_mode=True))
        self.path = data / 'annotations/mpii_gt_val.mat'
        self.sound = self.path.read_bytes()
        self.values = {
            key: value
            for key, value in loadmat(str(self.path)).items()
            if not key.startswith('__')
        }

    def spoil(self, draw):
        """Spoils one of the arrays, not the file."""
        import numpy as np

        values = dict(self.values)
        name = draw.choice(sorted(values))
        array = values[name]
        kind = draw.randrange(6)
        if kind == 0:
            del values[name]
        elif kind == 1:
            values[name] = array.T
        elif kind == 2:
            values[name] = array[:, : draw.randrange(array.shape[1])]
        elif kind == 3:
            values[name] = np.array('x')
        elif kind == 4 and array.dtype != object:
            spoilt = array.astype(float)
            spoilt.flat[draw.randrange(array.size)] = draw.choice(
                (np.nan, np.inf, -1, 1e300)
            )
            values[name] = spoilt
        else:
            values[name] = np.zeros((0,) * array.ndim)
        return values

    def run(self, number):
        import numpy as np
        from scipy.io import savemat

        draw = generator(self, number)
        if draw.random() < 0.6:
            self.path.write_bytes(spoil_bytes(self.sound, draw))
        else:
            savemat(str(self.path), self.spoil(draw))

        def work():
            self.dataset.load_truth()
            outputs = [(np.zeros((1, 16, 3)), None, None, None)] * 3
            self.dataset.evaluate(outputs, str(self.folder))

        return judged(work)


class Picture(Kind):
    """A JPEG: read for the demo, by a training, and by check_mpii.py."""

    share = 20

    def prepare(self):
        import cv2
        import numpy as np

        noise = np.random.RandomState(0).randint(0, 255, (9, 12, 3))
        picture = cv2.resize(noise.astype(np.uint8), (96, 72))
        self.sound = []
        for suffix, options in (
            ('.jpg', []),
            ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
            ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
            ('.png', []),
        ):
            self.sound.append(cv2.imencode(suffix, picture, options)[1])
        self.sound = [data.tobytes() for data in self.sound]
        self.path = self.folder / 'a.jpg'

    def bomb(self, data, draw):
        """Let a JPEG claim to be larger than it is."""
        data = bytearray(data)
        for mark in (b'\xff\xc0', b'\xff\xc2'):
            at = data.find(mark)
            if at > 0:
                sides = [draw.choice((0, 1, 97, 30000, 60000)) for _ in 'hw']
                data[at + 5 : at + 9] = struct.pack('>HH', *sides)
        return bytes(data)

    def run(self, number):
        from mmpose.datasets.pipelines import LoadImageFromFile

        from hourglass_npu.commands import check
        from hourglass_npu.pose import images

        draw = generator(self, number)
        data = draw.choice(self.sound)
        data = (self.bomb if draw.random() < 0.2 else spoil_bytes)(data, draw)
        self.path.write_bytes(data)
        path = str(self.path)
        refused = judged(lambda: images.read_picture(path))
        judged(lambda: LoadImageFromFile()(dict(image_file=path)))
        if judged(lambda: check.look_at_picture(path)):
            raise NotRefused('check_mpii.py stopped at it')
        return refused


class Attack:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Checkpoint(Kind):
    """A checkpoint: for an evaluation, and to resume from."""

    share = 20

    def prepare(self):
        import torch
        from torch import nn

        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        )
        self.path = self.folder / 'a.pth'
        self.marker = self.folder / 'ran'
        self.content = dict(
            state_dict=self.model.state_dict(),
            meta=dict(epoch=1, iter=2, config='x', seed=None),
            optimizer=torch.optim.Adam(self.model.parameters()).state_dict(),
        )
        self.sound = [self.saved(self.content, form) for form in (0, 1)]

    def saved(self, content, form=0):
        """Bytes of a checkpoint, as a zip archive or in the old form."""
        import torch

        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=not form)
        return file.getvalue()

    def spoil(self, draw):
        """Spoils what the checkpoint holds, not the file."""
        import torch

        content = dict(self.content)
        weights = OrderedDict(content['state_dict'])
        content['state_dict'] = weights
        key = draw.choice(list(weights))
        kind = draw.randrange(8)
        if kind == 0:
            del weights[key]
        elif kind == 1:
            weights[misspelt(key, draw)] = weights.pop(key)
        elif kind == 2:
            shape = [draw.randrange(4) for _ in range(draw.randrange(5))]
            weights[key] = torch.zeros(shape)
        elif kind == 3:
            dtype = draw.choice((torch.half, torch.long, torch.bool))
            weights[key] = weights[key].to(dtype)
        elif kind == 4:
            weights[key] = draw.choice(STRANGE)
        elif kind == 5:
            weights[draw.choice((3, None, ('a',)))] = weights[key]
        elif kind == 6:
            part = draw.choice(('state_dict', 'meta'))
            content[part] = draw.choice(STRANGE)
        else:
            content = draw.choice(STRANGE)
        return self.saved(content, draw.randrange(2))

    def attack(self, draw):
        """A file that makes the marker when it is believed."""
        command = f'touch {self.marker}'
        call = draw.choice(
            (
                Attack(os.system, command),
                Attack(eval, f'open({str(self.marker)!r}, "w").close()'),
                Attack(exec, f'open({str(self.marker)!r}, "w").close()'),
                Attack(open, str(self.marker), 'w'),
                Attack(os.mkdir, str(self.marker)),
            )
        )
        content = spoil_value(
            dict(state_dict=dict(a=1), meta=dict(epoch=1)), draw
        )
        if isinstance(content, dict):
            content[draw.choice(('state_dict', 'meta', 'optimizer'))] = call
        else:
            content = call
        if draw.random() < 0.5:
            return self.saved(content, draw.randrange(2))
        payload = pickle.dumps(content, draw.choice((0, 2, 4)))
        if draw.random() < 0.3:
            return payload
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('archive/data.pkl', payload)
            archive.writestr('archive/version', '3\n')
        return file.getvalue()

    def run(self, number):
        import torch
        from mmcv.runner import load_checkpoint

        draw = generator(self, number)
        make = draw.choice(
            (
                lambda: spoil_bytes(draw.choice(self.sound), draw),
                lambda: self.spoil(draw),
                lambda: self.attack(draw),
            )
        )
        self.path.write_bytes(make())
        path = str(self.path)
        before = {
            key: value.clone()
            for key, value in self.model.state_dict().items()
        }
        refused = judged(lambda: load_weights(self.model, path))
        if refused and not all(
            torch.equal(value, before[key])
            for key, value in self.model.state_dict().items()
        ):
            raise NotRefused('refused, but the model has changed')
        judged(
            lambda: load_checkpoint(
                self.model, path, map_location='cpu', strict=True
            )
        )
        self.model.load_state_dict(before)
        if self.marker.exists():
            raise NotRefused('code of the checkpoint was executed')
        return refused


class Onnx(Kind):
    """A file for ``demo.py --onnx``."""

    share = 8

    def prepare(self):
        import cv2
        import pose_model

        config, checkpoint = pose_model.make(self.folder)
        sound = self.folder / 'sound.onnx'
        options = ['--config', str(config), '--checkpoint', str(checkpoint)]
        with contextlib.redirect_stdout(io.StringIO()):
            done = call('export', *options, '--out', sound)
        assert done == 0
        self.sound = sound.read_bytes()
        self.path = self.folder / 'a.onnx'
        self.picture = str(self.folder / 'a.png')
        cv2.imwrite(self.picture, pose_model.picture())

    def spoil(self, draw):
        """Spoils the properties or the graph, not the file."""
        import onnx

        model = onnx.load_model_from_string(self.sound)
        if draw.random() < 0.6:
            prop = draw.choice(model.metadata_props)
            if draw.random() < 0.3:
                model.metadata_props.remove(prop)
            else:
                try:
                    value = [json.loads(prop.value)]
                except ValueError:
                    value = [prop.value]
                value = spoil_value(value, draw)
                if isinstance(value, list) and len(value) == 1:
                    (value,) = value
                prop.value = json.dumps(value)
        else:
            node = draw.choice(model.graph.node)
            if draw.random() < 0.5:
                node.op_type = draw.choice(('Conv', 'Relu', 'None', 'Add'))
            else:
                model.graph.node.remove(node)
        return model.SerializeToString()

    def run(self, number):
        draw = generator(self, number)
        spoilt = draw.random() < 0.5
        data = self.spoil(draw) if spoilt else spoil_bytes(self.sound, draw)
        self.path.write_bytes(data)
        out = self.folder / 'out.png'
        options = ['--img', self.picture, '--out', str(out)]

        def work():
            options_of = ['--onnx', self.path, '--device=cpu', *options]
            status = call('demo', *options_of)
            if status:
                raise SystemExit(status)

        refused = judged(work)
        if refused and out.exists():
            raise NotRefused('refused, but there is a result')
        if out.exists():
            out.unlink()
        return refused


class CommandLine(Kind):
    """Options of the commands, as far as no model is needed for them."""

    share = 20

    PROGRAMS = ('train', 'eval', 'check', 'demo', 'export')

    def prepare(self):
        from mpii_data import write_mpii, write_tiny_config

        os.environ['MPII_ROOT'] = str(write_mpii(self.folder / 'mpii', 2, 2))
        self.config = str(write_tiny_config(self.folder))
        (self.folder / 'a.pth').write_bytes(b'')
        self.words = [
            self.config,
            str(self.folder),
            str(self.folder / 'a.pth'),
            str(self.folder / 'none'),
            '/dev/null',
            'auto',
            '0',
            '-1',
            '1e99',
            'nan',
            '1,2,3,4',
            '0,0,-1,inf',
            'cpu',
            'npu:99',
            'data.samples_per_gpu=0',
            'optimizer.lr=nan',
            'total_epochs=1',
            '',
            '--',
            '-x',
            '\udcff',
        ]
        self.options = {}
        for name in self.PROGRAMS:
            module = command(name)
            self.options[name] = module, _options_of(module)

    def run(self, number):
        draw = generator(self, number)
        name = draw.choice(self.PROGRAMS)
        module, options = self.options[name]
        words = [self.config] if draw.random() < 0.7 else []
        for _ in range(draw.randrange(5)):
            option = draw.choice(options)
            if draw.random() < 0.15:
                option = misspelt(option, draw)
            words.append(option)
            if draw.random() < 0.7:
                words.append(draw.choice(self.words))
        before = set(os.listdir(str(self.folder)))

        def work():
            if name in ('train', 'eval'):
                arguments = module.parse_args(words)
                if name == 'train':
                    module.check_device_count(arguments)
                module.check_request(arguments)
                return
            # Processes of its own could not import what is loaded here.
            more = ['--workers=1'] if name == 'check' else []
            status = call(name, *words, *more)
            if status:
                raise SystemExit(status)

        refused = judged(work)
        left = set(os.listdir(str(self.folder))) - before
        if refused and left - {'none', '-1'}:
            raise NotRefused(f'refused, but {left} is left behind')
        return refused


class Program(Kind):
    """Whole commands as processes of their own, one input of each spoilt."""

    share = 1

    TOOLS = BUNDLE / 'mmpose-master/tools'
    LONGEST = 120
    """Seconds; they take some three where nothing else runs."""

    def prepare(self):
        import pose_model
        import torch
        from mmcv import Config as Reader
        from mmpose.models import build_posenet
        from mpii_data import write_mpii, write_tiny_config

        data = write_mpii(self.folder / 'mpii', 2, 2)
        cfg = Reader.fromfile(str(write_tiny_config(self.folder)))
        cfg.total_epochs = 1
        config = self.folder / 'config.json'
        config.write_text(json.dumps(cfg._cfg_dict.to_dict()))
        self.at = quick_places(json.loads(config.read_text()))
        checkpoint = self.folder / 'sound.pth'
        model = build_posenet(cfg.model)
        torch.save(dict(state_dict=model.state_dict()), str(checkpoint))
        small = [str(path) for path in pose_model.make(self.folder)]
        model_of = ['--config', small[0], '--checkpoint', small[1]]
        onnx = self.folder / 'sound.onnx'
        with contextlib.redirect_stdout(io.StringIO()):
            done = call('export', *model_of, '--out', onnx)
        assert done == 0
        train, val = [
            data / f'annotations/mpii_{x}.json' for x in ('train', 'val')
        ]
        truth = data / 'annotations/mpii_gt_val.mat'
        first, other = [data / f'images/{x}0.jpg' for x in ('train', 'val')]
        work = ['--device=cpu', '--work-dir', self.folder / 'work']
        drawn = ['--out', self.folder / 'out.png']
        made = ['--out', self.folder / 'out.onnx']
        demo = [BUNDLE / 'demo.py', '--device=cpu', '--img', first]
        self.commands = [
            (
                [self.TOOLS / 'train.py', config, *work],
                [config, train, first, truth],
            ),
            (
                [self.TOOLS / 'train.py', config, *work]
                + ['--cfg-options', f'load_from={checkpoint}'],
                [checkpoint],
            ),
            (
                [self.TOOLS / 'test.py', config, checkpoint, *work]
                + ['--json', self.folder / 'out.json'],
                [config, checkpoint, val, other, truth],
            ),
            ([self.TOOLS / 'check_mpii.py', data], [train, val, first, truth]),
            ([*demo, *model_of, *drawn], [Path(small[1]), first]),
            ([*demo, '--onnx', onnx, *drawn], [onnx, first]),
            ([BUNDLE / 'pytorch2onnx.py', *model_of, *made], [Path(small[1])]),
        ]
        files = {file for _, files in self.commands for file in files}
        self.sound = {file: file.read_bytes() for file in files}

    def spoil(self, file, draw):
        """Spoils one file, as data where it is of JSON."""
        data = self.sound[file]
        if file.suffix == '.json' and draw.random() < 0.7:
            at = self.at if file.name == 'config.json' else None
            return json.dumps(spoil_value(json.loads(data), draw, at)).encode()
        return spoil_bytes(data, draw)

    def run(self, number):
        draw = generator(self, number)
        command, files = draw.choice(self.commands)
        file = draw.choice(files)
        file.write_bytes(self.spoil(file, draw))
        # The alarm of a case in this process does not reach that one.
        signal.alarm(0)
        try:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=str(self.folder),
                env=dict(os.environ, MPII_ROOT=str(self.folder / 'mpii')),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.LONGEST,
            )
            left = [str(p) for p in self.folder.glob('**/*.part')]
            left += [str(p) for p in self.folder.glob('**/.*.tmp')]
            if done.returncode:
                left += [str(p) for p in self.folder.glob('out*')]
        finally:
            file.write_bytes(self.sound[file])
            shutil.rmtree(str(self.folder / 'work'), ignore_errors=True)
            for path in self.folder.glob('out*'):
                path.unlink()
        said = (done.stdout + done.stderr).decode('utf-8', 'replace')
        what = f'{Path(command[0]).name} with spoilt {file.name}'
        if done.returncode not in (0, 1, 2):
            raise NotRefused(
                f'{what}: status {done.returncode}: {said[-900:]}'
            )
        if 'Traceback (most' in said:
            raise NotRefused(f'{what}: a traceback: {said[-1500:]}')
        if left:
            raise NotRefused(f'{what}: left behind: {left}')
        return f'{what}: {said[-200:]}' if done.returncode else None


def _options_of(module):
    """All options of a command, as its help lists them."""
    import re

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        module.parse_args(['--help'])
    return sorted(set(re.findall(r'(?<![\w-])--?\w[\w-]*', said.getvalue())))


KINDS = {
    kind.__name__: kind
    for kind in (
        Config,
        Annotations,
        Mat,
        Picture,
        Checkpoint,
        Onnx,
        CommandLine,
        Program,
        Training,
    )
}
"""All kinds by name."""
