"""Write the weights of a checkpoint for others: ``hourglass publish``.

The file has weights only, the config and the joints, but no state of the
training. Its name ends in the beginning of its SHA-256.
"""

import os
import tempfile

from hourglass_npu.bootstrap import ensure_packages
from hourglass_npu.errors import UserError
from hourglass_npu.files import make_folder
from hourglass_npu.options import Parser, add_trust_option, apply_trust

KEPT = ('epoch', 'iter', 'mmpose_version', 'config', 'joints')
"""Of a checkpoint's ``meta``."""


def parse_args(argv=None):
    """Parse the command line, see :class:`hourglass_npu.options.Parser`."""
    parser = Parser(
        'Write the weights of a checkpoint for others.',
        'hourglass publish work_dirs/mine/epoch_40.pth',
        'hourglass publish old.pth --config mine.py --out weights/mine.pth',
    )
    parser.add_argument('checkpoint', help='checkpoint of a training')
    parser.add_argument(
        '--config',
        metavar='FILE',
        help='config (default: the one in the checkpoint)',
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='name of the file, to which the hash is added (default: that of '
        "the checkpoint's folder, beside it)",
    )
    add_trust_option(parser)
    return parser.parse_args(argv)


def publish(checkpoint, config=None, out=None):
    """Write the file.

    Args:
        checkpoint (str): Checkpoint of a training.
        config (str | None): Config; None for the one in the checkpoint.
        out (str | None): See ``--out``.

    Returns:
        str: The file.

    Raises:
        UserError: The checkpoint cannot be read or has no config, or the
            weights are not those of the config.
    """
    import torch
    from mmcv.runner.checkpoint import _sha256

    from hourglass_npu.config.joints import joints_of
    from hourglass_npu.config.load import load_config
    from hourglass_npu.weights import load_weights, read_weights

    if not os.path.isfile(checkpoint):
        raise UserError(f'{checkpoint}: there is no such checkpoint')
    content, weights = read_weights(checkpoint)
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    meta = {key: meta[key] for key in KEPT if key in meta}
    if config:
        from mmpose.models import build_posenet

        cfg = load_config(config)
        cfg.model.pretrained = None
        load_weights(build_posenet(cfg.model), checkpoint)
        meta['config'] = cfg.pretty_text
        meta['joints'] = joints_of(cfg, meta).to_info()
    missing = [key for key in ('config', 'joints') if key not in meta]
    if missing:
        raise UserError(
            f'{checkpoint} has no {" and no ".join(missing)} inside: give '
            '--config'
        )
    if out is None:
        folder = os.path.dirname(os.path.abspath(checkpoint))
        out = os.path.join(folder, os.path.basename(folder) + '.pth')
    folder, name = os.path.split(os.path.abspath(out))
    stem = name[:-4] if name.endswith('.pth') else name
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            # torch writes the name into the file: always the same. (torch 1.8
            # also writes addresses: there each file has its own hash.)
            path = os.path.join(partial, 'weights.pth')
            weights = {
                key: value.detach().cpu().clone()
                for key, value in weights.items()
            }
            torch.save(dict(meta=meta, state_dict=weights), path)
            digest = _sha256(path)
            length = 8
            while digest[:length].isdigit():  # would be taken for a date
                length += 1
            out = os.path.join(folder, f'{stem}-{digest[:length]}.pth')
            os.replace(path, out)
    except OSError as error:
        raise UserError(f'{folder} cannot be written to: {error}') from error
    return out


def main():
    """Publish as the command line says."""
    args = parse_args()
    ensure_packages()
    apply_trust(args)
    out = publish(args.checkpoint, args.config, args.out)
    before, after = (
        os.path.getsize(path) / 10**6 for path in (args.checkpoint, out)
    )
    print(f'{out}: {after:.1f} MB of {before:.1f} MB')
