"""Where the bundle keeps its files."""

from pathlib import Path

MMPOSE_ROOT = Path(__file__).resolve().parents[1]
"""The folder mmpose-master, from which relative paths in configs start."""

ROOT = MMPOSE_ROOT.parent
"""The checkout."""

CONFIGS = MMPOSE_ROOT / 'configs/top_down/hourglass/mpii'
WORK_DIRS = MMPOSE_ROOT / 'work_dirs'
DEMO_PICTURE = MMPOSE_ROOT / 'demo/mpii_demo_img/demo_mpii.jpg'
DEMO_PEOPLE = DEMO_PICTURE.with_suffix('.json')
SAMPLE_DATA = MMPOSE_ROOT / 'data/mpii_sample'
DEFAULT_DATA = 'data/mpii'
"""Data folder below MMPOSE_ROOT; the variable MPII_ROOT replaces it."""
