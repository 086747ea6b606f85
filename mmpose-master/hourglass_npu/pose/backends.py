"""Run a pose network: a checkpoint with PyTorch, or an ONNX file.

Both classes take crops of people and return heatmaps, flip test included, so
that the steps before and after (decode.py) are the same. Their constructors
import what they need: torch, mmcv and mmpose, or onnxruntime.
"""

import json
import os

import numpy as np

from hourglass_npu.config.joints import joints_of
from hourglass_npu.config.load import load_config
from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes
from hourglass_npu.paths import CONFIGS, WORK_DIRS
from hourglass_npu.pose import onnx_file
from hourglass_npu.pose.decode import Settings, merge_flipped, normalise
from hourglass_npu.pose.joints import MPII, Joints
from hourglass_npu.weights import load_weights

DEFAULT_CONFIG = str(CONFIGS / 'hourglass52_mpii_384x384.py')
SAMPLE_CONFIG = str(CONFIGS / 'hourglass_mpii_sample_96x96.py')

BATCH = 32
"""People per pass through the network, so that a crowd fits into memory."""


def choose_model(config=None, checkpoint=None, sample=False):
    """Find config and checkpoint.

    Args:
        config (str | None): Config file; None for the default one.
        checkpoint (str | None): Its weights; None for the latest of its work
            folder.
        sample (bool): Take the sample's config as the default.

    Returns:
        tuple[str, str]: Both paths; the files exist.

    Raises:
        UserError: A file is missing; the message says how to get it.
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
    """Build a model and load its weights.

    Args:
        config (str): Config file of a top-down model.
        checkpoint (str): Its weights.
        device (str | None): As for the ``set_device`` of mmcv's dist_utils.

    Returns:
        tuple: The model in evaluation mode, its config, and the ``meta`` of
        the checkpoint.

    Raises:
        UserError: The device does not exist, the config cannot be used, or
            the checkpoint cannot be read or is of another model.
    """
    from mmcv.runner.dist_utils import set_device
    from mmpose.models import build_posenet

    device = set_device(device)
    cfg = load_config(config)
    cfg.model.pretrained = None
    model = build_posenet(cfg.model)
    meta = load_weights(model, checkpoint)
    # Weights may have been saved in half precision.
    return model.float().to(device).eval(), cfg, meta


def settings_from_config(cfg, meta=None):
    """Read the settings of a model from its config.

    Args:
        cfg (mmcv.Config): Config of a top-down model.
        meta (dict | None): Of its checkpoint, see :func:`joints_of`.

    Returns:
        Settings: What the model takes, and how to read its output.

    Raises:
        UserError: The config lacks a part, or describes other joints.
    """
    data = cfg.data.get('test') or cfg.data.val
    data_cfg = data.data_cfg
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
        joints=joints_of(cfg, meta),
        flip_test=bool(test_cfg.get('flip_test', True)),
        shift_heatmap=bool(test_cfg.get('shift_heatmap', False)),
        post_process=bool(test_cfg.get('post_process', True)),
        unbiased_decoding=bool(test_cfg.get('unbiased_decoding', False)),
        modulate_kernel=int(test_cfg.get('modulate_kernel', 11)),
    )


def last_heatmaps(model, img):
    """Return the heatmaps of the last stage of a model.

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
    """A checkpoint, run by PyTorch.

    Args:
        config (str): See :func:`load_model`.
        checkpoint (str): Likewise.
        device (str): Likewise.

    Attributes:
        model (nn.Module): In evaluation mode.
        cfg (mmcv.Config): The config.
        meta (dict): Of the checkpoint.
        settings (Settings): Of the config.
        decodes (bool): False: it returns heatmaps.
        place (str): What it runs on, for messages.
    """

    decodes = False

    def __init__(self, config, checkpoint, device=None):
        self.model, self.cfg, self.meta = load_model(
            config, checkpoint, device
        )
        self.settings = settings_from_config(self.cfg, self.meta)
        self._device = next(self.model.parameters()).device
        self.place = f'torch on {self._device}'

    def __call__(self, crops):
        """Run the network.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB.

        Returns:
            np.ndarray[N, K, h/4, w/4]: Heatmaps.
        """
        return _in_batches(self._run, crops, BATCH, self.settings)

    def _run(self, crops):
        import torch

        batch = normalise(crops, self.settings.mean, self.settings.std)
        with torch.no_grad():
            img = torch.from_numpy(batch).to(self._device)
            heatmaps = last_heatmaps(self.model, img).float().cpu().numpy()
        return _finite(heatmaps, 'the checkpoint')


class OnnxNetwork:
    """A file of pytorch2onnx.py, run by ONNX Runtime.

    The file contains the settings; no config is needed.

    Args:
        path (str): The file.
        device (str | None): 'npu', 'cuda', 'cpu', one with an index
            ('npu:1'), or None or 'auto' for the first of these that this
            ONNX Runtime has.

    Attributes:
        settings (Settings): Of the file.
        decodes (bool): Whether it returns joints instead of heatmaps.
        fixed (int | None): Batch that the file is fixed to.
        place (str): What it runs on, for messages.

    Raises:
        UserError: The file is missing or not one of pytorch2onnx.py, or the
            device does not exist.
    """

    PROVIDERS = {
        'npu': 'CANNExecutionProvider',
        'cuda': 'CUDAExecutionProvider',
        'cpu': 'CPUExecutionProvider',
    }

    def __init__(self, path, device=None):
        import onnxruntime

        if not os.path.exists(path):
            raise UserError(
                f'{path}: there is no such file; '
                '`python3 pytorch2onnx.py` makes it'
            )
        content = read_bytes(path)
        onnx_file.check(content, path)
        provider, options = self._provider(onnxruntime, device)
        try:
            # Name one provider, not the CPU as well: a device that the user
            # named is used or refused.
            self._session = onnxruntime.InferenceSession(
                content,
                self._session_options(onnxruntime),
                providers=[(provider, options)],
            )
        except Exception as error:  # ONNX Runtime raises anything
            raise UserError(
                f'{path}: ONNX Runtime cannot load it: '
                f'{_shortened(str(error))}'
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
        # A number where the file has a fixed batch, otherwise a name.
        batch = first.shape[0]
        self.fixed = batch if isinstance(batch, int) else None
        self.place = f'ONNX Runtime ({provider[: -len("ExecutionProvider")]})'

    def __call__(self, crops):
        """Run the network.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB.

        Returns:
            np.ndarray: Heatmaps, np.ndarray[N, K, h/4, w/4], or, if the
            graph decodes them, joints, np.ndarray[N, K, 3]: x, y (crop) and
            score.
        """
        settings = self.settings
        if self._flip_inside:
            settings = settings._replace(flip_test=False)
        return _in_batches(self._run, crops, self.fixed or BATCH, settings)

    def _run(self, crops):
        count = len(crops)
        if self.fixed and count < self.fixed:
            rest = np.repeat(crops[-1:], self.fixed - count, axis=0)
            crops = np.concatenate([crops, rest])
        feed = self.feed(crops)
        try:
            result = self._session.run(None, feed)[0][:count]
        except Exception as error:  # ONNX Runtime raises anything
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
                f'{self._path}: the output has shape {result.shape}, not '
                f'{joints} joints for each of {count} people'
            )
        return _finite(result, self._path)

    def feed(self, crops):
        """Make the input of the file.

        Args:
            crops (np.ndarray[N, h, w, 3]): 8-bit RGB; N as the file has it.

        Returns:
            dict[str, np.ndarray]: The array, by the name of the input.
        """
        batch = np.ascontiguousarray(crops)
        if not self._preprocess:
            batch = normalise(crops, self.settings.mean, self.settings.std)
        return {self._input: batch}

    @staticmethod
    def _session_options(onnxruntime):
        """Use as many threads as torch would: processes share the cores."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, too
        threads = os.environ.get('OMP_NUM_THREADS', '')
        if threads.isdigit():
            options.intra_op_num_threads = int(threads)
        return options

    @classmethod
    def _provider(cls, onnxruntime, device):
        """Return name and options of the execution provider for a device."""
        there = onnxruntime.get_available_providers()
        usable = [k for k, p in cls.PROVIDERS.items() if p in there]
        if device in (None, 'auto'):
            return cls.PROVIDERS[usable[0]], {}
        kind, _, index = device.partition(':')
        if kind not in cls.PROVIDERS or (index and not index.isdigit()):
            raise UserError(
                f'--device {device}: must be npu, cuda or cpu, or npu:1 for '
                'the second'
            )
        if kind not in usable:
            raise UserError(
                f'--device {device}: this ONNX Runtime has '
                f'{", ".join(usable)}; install the build for {kind}'
            )
        options = {'device_id': int(index)} if index and kind != 'cpu' else {}
        return cls.PROVIDERS[kind], options


def settings_to_properties(settings):
    """Turn settings into properties of an ONNX file.

    Args:
        settings (Settings): Of a model.

    Returns:
        dict[str, str]: Names and values in JSON.
    """
    values = settings._asdict()
    joints = values.pop('joints')
    values.update(
        # For other readers; ours takes the whole description.
        joints=joints.names,
        flip_pairs=joints.flip_pairs,
        dataset_info=joints.to_info(),
    )
    return {name: json.dumps(value) for name, value in values.items()}


def settings_from_properties(properties, path):
    """Read the settings from the properties of an ONNX file.

    Args:
        properties (dict[str, str]): See :func:`settings_to_properties`.
        path (str): The file, for the message.

    Returns:
        Settings: Of the model.

    Raises:
        UserError: A setting is missing or has an impossible value.
    """
    values = {n: _property(properties, n, path) for n in Settings._fields}
    values = {k: _tuples(v) for k, v in values.items() if k != 'joints'}
    joints = _joints_from_properties(properties, path)
    settings = Settings(joints=joints, **values)
    for name, holds in _SETTINGS.items():
        if not holds(getattr(settings, name)):
            raise UserError(
                f'{path}: the property {name} has an impossible value: '
                f'{_shortened(properties[name], 60)}'
            )
    return settings


def _joints_from_properties(properties, path):
    """Read the joints; files of earlier releases only have names and pairs."""
    names = _tuples(_property(properties, 'joints', path))
    pairs = _tuples(_property(properties, 'flip_pairs', path))
    info = None
    if 'dataset_info' in properties:
        info = _property(properties, 'dataset_info', path)
    try:
        joints = said = Joints.named(names, pairs)
        if info:
            joints = Joints.from_info(info, 'dataset_info')
        elif said.names == MPII.names:
            joints = MPII
        if (said.names, said.flip_pairs) != (joints.names, joints.flip_pairs):
            raise ValueError('they contradict each other')
    except (UserError, TypeError, ValueError) as error:
        raise UserError(
            f'{path}: the properties joints, flip_pairs and dataset_info have '
            f'impossible values: {_shortened(str(error))}'
        ) from error
    return joints


def _is_flag(value):
    return type(value) is bool


def _are_numbers(value, count, kinds=(int, float)):
    return (
        isinstance(value, tuple)
        and len(value) == count
        and all(type(v) in kinds and abs(v) < 1e5 for v in value)
    )


# Checks of the properties of a file, which can come from anywhere.
_SETTINGS = dict(
    image_size=lambda v: (
        _are_numbers(v, 2, (int,)) and min(v) > 0 and max(v) <= 4096
    ),
    mean=lambda v: _are_numbers(v, 3),
    std=lambda v: _are_numbers(v, 3) and min(v) > 0,
    flip_test=_is_flag,
    shift_heatmap=_is_flag,
    post_process=_is_flag,
    unbiased_decoding=_is_flag,
    modulate_kernel=lambda v: (
        _are_numbers((v,), 1, (int,)) and v % 2 == 1 and 0 < v < 100
    ),
)


def _graph_from_properties(properties, path):
    """Read which steps the graph contains: name and yes or no."""
    graph = _property(properties, 'graph', path)
    names = ('preprocess', 'flip_test', 'decode')
    if not isinstance(graph, dict) or not all(
        type(graph.get(name)) is bool for name in names
    ):
        raise UserError(
            f'{path}: the property graph has an impossible value: '
            f'{_shortened(properties["graph"], 60)}'
        )
    return graph


def _property(properties, name, path):
    """Read a property, which is in JSON."""
    try:
        return json.loads(properties[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: no file of pytorch2onnx.py: it has no property '
            f'{name} in JSON'
        ) from error


def _finite(result, source):
    if not np.isfinite(result).all():
        raise UserError(
            f'{source}: the network returns NaN or infinite numbers: its '
            'weights are no use'
        )
    return result


def _in_batches(run, crops, size, settings):
    """Run a network on so many crops at a time, with its flip test."""
    parts = [crops[i : i + size] for i in range(0, len(crops), size)]
    return np.concatenate(
        [_with_flip_test(run, part, settings) for part in parts]
    )


def _with_flip_test(run, crops, settings):
    heatmaps = run(crops)
    if not settings.flip_test:
        return heatmaps
    flipped = run(np.ascontiguousarray(crops[:, :, ::-1]))
    return merge_flipped(
        heatmaps,
        flipped,
        settings.joints.flip_pairs,
        settings.shift_heatmap,
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


def _tuples(value):
    """Turn lists, at any depth, into tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _shortened(text, limit=300):
    text = ' '.join(text.split())
    return text if len(text) <= limit else text[:limit] + ' ...'
