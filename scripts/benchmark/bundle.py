"""What the benchmark takes from the bundle beside mmcv and mmpose.

All of it stands here, so that a move of the bundle's files ends here. Nothing
is imported before it is asked for: stock's processes use this module, too.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'mmpose-master/configs/top_down/hourglass/mpii'
LARGE = CONFIGS / 'hourglass52_mpii_384x384.py'
SMALL = CONFIGS / 'hourglass_mpii_sample_96x96.py'


def ensure_packages(*names):
    """Go on in the bundle's environment if packages are missing here."""
    from bootstrap import ensure_packages

    ensure_packages(*names)


def draw_data(folder, train, val):
    """Draw people and write them as a data set in MPII's form.

    Args:
        folder (Path): Where to; made.
        train (int): Pictures to train on.
        val (int): Pictures to evaluate on.

    Raises:
        RuntimeError: It failed; with what was printed.
    """
    tool = ROOT / 'mmpose-master/tools/make_sample_mpii.py'
    counts = ['--train', str(train), '--val', str(val)]
    done = subprocess.run(
        [sys.executable, str(tool), '--out', str(folder), *counts],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f'drawing the data failed:\n{done.stdout}')


def to_stock_form(cfg):
    """Take from a config what mmpose 0.8.0 does not know; changed in place."""
    cfg.lean_input = False


def prepared(dataset, cfg):
    """Return training data as the bundle's ``train_model`` reads them."""
    if not cfg.get('lean_input', False):
        return dataset
    from mmpose.apis.train import lean_input

    # All that is asked of a model is that it can prepare its input.
    return lean_input(dataset, argparse.Namespace(data_preprocessor=0))


def cast_for_inference(model):
    """Cast a model to low precision, as ``test.py --amp`` does."""
    from mmcv.runner.hooks.optimizer import cast_for_inference

    cast_for_inference(model)
