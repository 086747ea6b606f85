"""Make the baseline: mmcv and mmpose as released, fit to run here.

Both do not run on today's stack, nor on a CPU, without a handful of fixes
(``stock.json``). They are the smallest that let them run, and none of them
touches what is measured.
"""

import importlib
from pathlib import Path

import originals
import patch_engine

HERE = Path(__file__).parent
MANIFEST = HERE / 'stock.json'
OURS = HERE.parent / 'patches.json'
SHARED = (
    'mmcv/parallel/_functions.py',
    'mmpose/__init__.py',
    'mmpose/datasets/datasets/top_down/topdown_posetrack18_dataset.py',
    'mmpose/models/detectors/mesh.py',
)
"""Files that the baseline has with the one-line edits of the bundle."""

TORCHVISION = (
    'torchvision is not installed here: a stand-in of the two functions of '
    'it that mmpose uses, with the same operations.'
)


def fixes(device):
    """List the changes that the baseline carries on ``cpu`` or ``cuda``.

    Returns:
        dict[str, dict]: Entries of a manifest with ``edits`` and ``reason``,
        by path of the file.
    """
    entries = patch_engine.load_manifest(OURS)
    found = {f'{one["package"]}/{one["file"]}': one for one in entries}
    found = {name: found[name] for name in SHARED}
    for one in patch_engine.load_manifest(MANIFEST):
        if one.get('device', device) == device:
            found[f'{one["package"]}/{one["file"]}'] = one
    return found


def make(site, device):
    """Make the packages of the baseline, for a process's PYTHONPATH.

    Args:
        site (Path): The folder to be made.
        device (str): Kind of the device, ``cpu`` or ``cuda``.

    Returns:
        list[str]: Every change that was made to what was released, a
        sentence each.

    Raises:
        FileNotFoundError: mmcv or mmpose is not installed.
        patch_engine.PatchError: A file is not the released one.
    """
    site.mkdir()
    originals.copy_released(site)
    said = []
    for name, entry in fixes(device).items():
        path = site / name
        pairs = [
            (edit['old'].encode(), edit['new'].encode())
            for edit in entry['edits']
        ]
        data = patch_engine.substitute(path.read_bytes(), pairs)
        if data is None:
            raise patch_engine.PatchError([f'{name}: not as released'])
        path.write_bytes(data)
        said.append(f'{name}: {entry["reason"]}')
    try:
        importlib.import_module('torchvision')
    except Exception:  # one for another torch raises what it likes
        stand_in = site / 'torchvision'
        for name, text in {
            '': 'from . import models\n',
            'models': '',
            'transforms': '',
        }.items():
            (stand_in / name).mkdir()
            (stand_in / name / '__init__.py').write_text(text)
        source = HERE / 'torchvision_functional.py'
        place = stand_in / 'transforms' / 'functional.py'
        place.write_bytes(source.read_bytes())
        said.append(TORCHVISION)
    return said
