"""Runs a pose network: a checkpoint with torch, or a file of ONNX.

Both kinds take crops of people and give heatmaps, flip test included, so
that all that comes before and after (topdown.py) is the same. torch, mmcv
and mmpose are imported by the one, onnxruntime by the other, when they are
made.
"""

import json
import os

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.paths import CONFIGS, WORK_DIRS
from hourglass_npu.pose.decode import Settings, merge_flipped, normalise
from hourglass_npu.pose.joints import JOINT_NAMES
from hourglass_npu.weights import load_weights

DEFAULT_CONFIG = str(CONFIGS / 'hourglass52_mpii_384x384.py')
SAMPLE_CONFIG = str(CONFIGS / 'hourglass_mpii_sample_96x96.py')

# People per pass through the network; bounds the memory that a picture with
# a crowd takes.
BATCH = 32


def choose_model(config=None, checkpoint=None, sample=False):
    """Finds the config and the checkpoint that were asked for.

    Args:
        config (str): Config file; None for the default one.
        checkpoint (str): Its weights; None for the latest of its work dir.
        sample (bool): The sample's config in place of the default one.

    Returns:
        tuple[str, str]: Both paths; the files are there.

    Raises:
        ValueError: One of them is not, with the ways to get it.
    """
    if sample and config:
        raise UserError('--sample and --config both name a config: give one')
    config = config or (SAMPLE_CONFIG if sample else DEFAULT_CONFIG)
    if not os.path.isfile(config):
        raise UserError(f'{config}: there is no such config')
    if checkpoint:
        if '://' not in checkpoint and not os.path.isfile(checkpoint):
            raise UserError(f'{checkpoint}: there is no such checkpoint')
        return config, checkpoint
    checkpoint = _latest_checkpoint(config)
    if not os.path.isfile(checkpoint):
        raise UserError(_how_to_get(checkpoint))
    return config, checkpoint


def load_model(config, checkpoint, device=None):
    """Builds a model and loads its weights.

    Args:
        config (str): Config file of a top-down model of MPII's 16 joints.
        checkpoint (str): Its weights.
        device (str): As for the seam's ``set_device``.

    Returns:
        tuple: The model in evaluation mode, its config, and the ``meta`` of
        the checkpoint.

    Raises:
        ValueError: The device is not there, the config cannot be used, or
            the checkpoint cannot be read or belongs to another model.
    """
    from mmcv import Config
    from mmcv.runner.dist_utils import set_device
    from mmpose.models import build_posenet

    device = set_device(device)
    try:
        cfg = Config.fromfile(config)
        cfg.model.pretrained = None
        model = build_posenet(cfg.model)
    except Exception as error:
        raise UserError(f'{config}: not a usable config: {error}') from error
    meta = load_weights(model, checkpoint)
    # Weights may have been saved in half precision.
    return model.float().to(device).eval(), cfg, meta


def settings_from_config(cfg):
    """Reads the settings of a model from its config.

    Args:
        cfg (mmcv.Config): Config of a top-down model.

    Returns:
        Settings: What goes in and how to read what comes out.

    Raises:
        ValueError: The config is not for MPII's joints, or lacks a part.
    """
    data = cfg.data.get('test') or cfg.data.val
    data_cfg = data.data_cfg
    if data_cfg.num_output_channels != len(JOINT_NAMES):
        raise UserError(
            f'{cfg.filename}: this is for models of MPII, with '
            f'{len(JOINT_NAMES)} joints, not '
            f'{data_cfg.num_output_channels}'
        )
    steps = [s for s in data.pipeline if s.type == 'NormalizeTensor']
    if len(steps) != 1:
        raise UserError(
            f'{cfg.filename}: the test pipeline needs one NormalizeTensor'
        )
    test_cfg = cfg.model.test_cfg
    return Settings(
        image_size=tuple(int(side) for side in data_cfg.image_size),
        mean=tuple(steps[0].mean),
        std=tuple(steps[0].std),
        joints=JOINT_NAMES,
        flip_pairs=_mirror_pairs(JOINT_NAMES),
        flip_test=bool(test_cfg.get('flip_test', True)),
        shift_heatmap=bool(test_cfg.get('shift_heatmap', False)),
        post_process=bool(test_cfg.get('post_process', True)),
        unbiased_decoding=bool(test_cfg.get('unbiased_decoding', False)),
        modulate_kernel=int(test_cfg.get('modulate_kernel', 11)),
    )


def last_heatmaps(model, img):
    """Heatmaps of the last stage of a model.

    Args:
        model (TopDown): mmpose's model.
        img (Tensor[N, 3, h, w]): Normalised crops.

    Returns:
        Tensor[N, K, h/4, w/4]: Heatmaps.
    """
    output = model.backbone(img)
    if model.with_keypoint:
        output = model.keypoint_head(output)
    return output[-1] if isinstance(output, (list, tuple)) else output


class TorchNetwork:
    """A checkpoint, run by torch.

    Args:
        config (str): See :func:`load_model`.
        checkpoint (str): Likewise.
        device (str): Likewise.

    Attributes:
        model (nn.Module): In evaluation mode.
        cfg (mmcv.Config): The config.
        meta (dict): Of the checkpoint.
        settings (Settings): Of the config.
        decodes (bool): False: it gives heatmaps.
        place (str): What it runs on, in words.
    """

    decodes = False

    def __init__(self, config, checkpoint, device=None):
        self.model, self.cfg, self.meta = load_model(
            config, checkpoint, device
        )
        self.settings = settings_from_config(self.cfg)
        self._device = next(self.model.parameters()).device
        self.place = f'torch on {self._device}'

    def __call__(self, crops):
        """Runs the network.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB.

        Returns:
            np.ndarray[N, K, h/4, w/4]: Heatmaps.
        """
        parts = [
            _with_flip_test(self._run, crops[i : i + BATCH], self.settings)
            for i in range(0, len(crops), BATCH)
        ]
        return np.concatenate(parts)

    def _run(self, crops):
        import torch

        batch = normalise(crops, self.settings.mean, self.settings.std)
        with torch.no_grad():
            img = torch.from_numpy(batch).to(self._device)
            return last_heatmaps(self.model, img).float().cpu().numpy()


class OnnxNetwork:
    """A file of pytorch2onnx.py, run by ONNX Runtime.

    The settings are in the file, so that no config is needed.

    Args:
        path (str): The file.
        device (str): 'npu', 'cuda', 'cpu', one with an index ('npu:1'), or
            None or 'auto' for the first of these that this ONNX Runtime has.

    Attributes:
        settings (Settings): Of the file.
        decodes (bool): Whether it gives joints in place of heatmaps.
        fixed (int | None): Batch that the file is fixed to.
        place (str): What it runs on, in words.

    Raises:
        ValueError: No such file, not one of pytorch2onnx.py, or the device
            is not there.
    """

    PROVIDERS = {
        'npu': 'CANNExecutionProvider',
        'cuda': 'CUDAExecutionProvider',
        'cpu': 'CPUExecutionProvider',
    }

    def __init__(self, path, device=None):
        import onnxruntime

        if not os.path.isfile(path):
            raise UserError(
                f'{path}: there is no such file; '
                '`python3 pytorch2onnx.py` makes it'
            )
        provider, options = self._provider(onnxruntime, device)
        try:
            # A provider's own fall-back to the CPU is not wanted: a device
            # that was named is used or refused.
            self._session = onnxruntime.InferenceSession(
                path,
                self._session_options(onnxruntime),
                providers=[(provider, options)],
            )
        except Exception as error:
            raise UserError(
                f'{path}: ONNX Runtime cannot load it: {error}'
            ) from error
        if provider not in self._session.get_providers():
            raise UserError(
                f'--device {device}: {provider} of ONNX Runtime did not start'
            )
        properties = self._session.get_modelmeta().custom_metadata_map
        self.settings = settings_from_properties(properties, path)
        self._path = path
        graph = _graph_from_properties(properties, path)
        self._preprocess = graph['preprocess']
        self._flip_inside = graph['flip_test']
        self.decodes = graph['decode']
        first = self._session.get_inputs()[0]
        self._input = first.name
        # A number where the file has a fixed batch, a name where it has not.
        batch = first.shape[0]
        self.fixed = batch if isinstance(batch, int) else None
        self.place = f'ONNX Runtime ({provider[: -len("ExecutionProvider")]})'

    def __call__(self, crops):
        """Runs the network.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB.

        Returns:
            np.ndarray: Heatmaps [N, K, h/4, w/4], or, if decoding is in the
            graph, joints [N, K, 3]: x, y (crop) and score.
        """
        step = self.fixed or BATCH
        settings = self.settings
        if self._flip_inside:
            settings = settings._replace(flip_test=False)
        parts = [
            _with_flip_test(self._run, crops[i : i + step], settings)
            for i in range(0, len(crops), step)
        ]
        return np.concatenate(parts)

    def _run(self, crops):
        count = len(crops)
        if self.fixed and count < self.fixed:
            rest = np.repeat(crops[-1:], self.fixed - count, axis=0)
            crops = np.concatenate([crops, rest])
        feed = self.feed(crops)
        try:
            result = self._session.run(None, feed)[0][:count]
        except Exception as error:
            raise UserError(
                f'{self._path}: ONNX Runtime cannot run it on '
                f'{feed[self._input].shape}: {_shortened(str(error))}'
            ) from error
        joints = len(self.settings.joints)
        wanted = (count, joints, 3) if self.decodes else (count, joints)
        if (
            result.shape[: len(wanted)] != wanted
            or result.ndim != (3 if self.decodes else 4)
            or not result.size
        ):
            raise UserError(
                f'{self._path}: the output is of shape {result.shape}, not of '
                f'{joints} joints for each of {count} people'
            )
        return result

    def feed(self, crops):
        """Makes what the file takes.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB; N as the file has it.

        Returns:
            dict[str, np.ndarray]: By the name of the input.
        """
        batch = np.ascontiguousarray(crops)
        if not self._preprocess:
            batch = normalise(crops, self.settings.mean, self.settings.std)
        return {self._input: batch}

    @staticmethod
    def _session_options(onnxruntime):
        """As many threads as torch would take: processes share the cores."""
        options = onnxruntime.SessionOptions()
        threads = os.environ.get('OMP_NUM_THREADS', '')
        if threads.isdigit():
            options.intra_op_num_threads = int(threads)
        return options

    @classmethod
    def _provider(cls, onnxruntime, device):
        """Name and options of the execution provider for a device."""
        there = onnxruntime.get_available_providers()
        usable = [k for k, p in cls.PROVIDERS.items() if p in there]
        if device in (None, 'auto'):
            return cls.PROVIDERS[usable[0]], {}
        kind, _, index = device.partition(':')
        if kind not in cls.PROVIDERS or (index and not index.isdigit()):
            raise UserError(
                f'--device {device}: give npu, cuda or cpu, npu:1 for the '
                'second'
            )
        if kind not in usable:
            raise UserError(
                f'--device {device}: this ONNX Runtime has '
                f'{", ".join(usable)}; install the build for {kind}'
            )
        options = {'device_id': int(index)} if index and kind != 'cpu' else {}
        return cls.PROVIDERS[kind], options


def settings_to_properties(settings):
    """Puts settings into a form that a file of ONNX can carry.

    Args:
        settings (Settings): Of a model.

    Returns:
        dict[str, str]: Names and values in JSON.
    """
    return {name: json.dumps(v) for name, v in settings._asdict().items()}


def settings_from_properties(properties, path):
    """Reads what :func:`settings_to_properties` has written.

    Args:
        properties (dict[str, str]): Of a file of ONNX.
        path (str): The file, for the message.

    Returns:
        Settings: Of the model.

    Raises:
        ValueError: Something is missing.
    """
    try:
        values = {
            name: json.loads(properties[name]) for name in Settings._fields
        }
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: no file of pytorch2onnx.py: its properties lack {error}'
        ) from error
    settings = Settings(**{k: _tuples(v) for k, v in values.items()})
    for name, holds in _SETTINGS.items():
        if not holds(getattr(settings, name), settings):
            raise UserError(
                f'{path}: its property {name} makes no sense: '
                f'{_shortened(properties[name], 60)}'
            )
    return settings


def _is_flag(value, _):
    return type(value) is bool


def _are_numbers(value, count, kinds=(int, float)):
    return (
        isinstance(value, tuple)
        and len(value) == count
        and all(type(v) in kinds and abs(v) < 1e5 for v in value)
    )


def _are_pairs(value, settings):
    return isinstance(value, tuple) and all(
        _are_numbers(pair, 2, (int,))
        and all(0 <= joint < len(settings.joints) for joint in pair)
        for pair in value
    )


# What a file of ONNX has to say of itself, as it comes from anywhere.
_SETTINGS = dict(
    image_size=lambda v, _: (
        _are_numbers(v, 2, (int,)) and min(v) > 0 and max(v) <= 4096
    ),
    mean=lambda v, _: _are_numbers(v, 3),
    std=lambda v, _: _are_numbers(v, 3) and min(v) > 0,
    joints=lambda v, _: v == JOINT_NAMES,
    flip_pairs=_are_pairs,
    flip_test=_is_flag,
    shift_heatmap=_is_flag,
    post_process=_is_flag,
    unbiased_decoding=_is_flag,
    modulate_kernel=lambda v, _: (
        _are_numbers((v,), 1, (int,)) and v % 2 == 1 and 0 < v < 100
    ),
)


def _graph_from_properties(properties, path):
    """What is folded into a graph: name and whether it is."""
    try:
        graph = json.loads(properties['graph'])
        flags = {
            name: graph[name] for name in ('preprocess', 'flip_test', 'decode')
        }
        if not all(type(flag) is bool for flag in flags.values()):
            raise UserError(f'graph: {graph}')
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: no file of pytorch2onnx.py: its properties lack {error}'
        ) from error
    return flags


def _with_flip_test(run, crops, settings):
    heatmaps = run(crops)
    if not settings.flip_test:
        return heatmaps
    flipped = run(np.ascontiguousarray(crops[:, :, ::-1]))
    return merge_flipped(
        heatmaps, flipped, settings.flip_pairs, settings.shift_heatmap
    )


def _latest_checkpoint(config):
    name = os.path.splitext(os.path.basename(config))[0]
    return str(WORK_DIRS / name / 'latest.pth')


def _how_to_get(checkpoint):
    lines = [
        f'there is no checkpoint yet at {checkpoint}. Ways to get one:',
        '  train on MPII:      bash scripts/train_1p.sh   (or train_8p.sh)',
        '  train in minutes:   bash scripts/train_1p.sh --sample,'
        '   then add --sample here',
        '  use a file:         --checkpoint FILE   (for instance of '
        "mmpose's model zoo)",
    ]
    sample = _latest_checkpoint(SAMPLE_CONFIG)
    if checkpoint != sample and os.path.isfile(sample):
        lines.append('The sample model is trained already: add --sample.')
    return '\n'.join(lines)


def _mirror_pairs(names):
    """Joints that a mirror exchanges, by their names."""
    return tuple(
        (index, names.index('left' + name[len('right') :]))
        for index, name in enumerate(names)
        if name.startswith('right')
    )


def _tuples(value):
    """Turns lists, at any depth, into tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _shortened(text, limit=300):
    text = ' '.join(text.split())
    return text if len(text) <= limit else text[:limit] + ' ...'
