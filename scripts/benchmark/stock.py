"""Makes the baseline: mmcv and mmpose as released, fit to run here.

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
TORCHVISION = (
    'torchvision is not installed here: a stand-in of the two functions of '
    'it that mmpose uses, with the same operations.'
)


def fixes(device):
    """List the changes that the baseline carries.

    Args:
        device (str): Kind of the device, ``cpu`` or ``cuda``.

    Returns:
        list[dict]: ``package``, ``file``, ``edits`` and ``reason`` of each.
        An entry of the manifest without edits stands for the one-line edit
        that the bundle itself makes in this file.
    """
    edits = {
        (entry['package'], entry['file']): entry.get('edits')
        for entry in patch_engine.load_manifest(OURS)
    }
    return [
        dict(dict(edits=edits[entry['package'], entry['file']]), **entry)
        if 'edits' not in entry
        else entry
        for entry in patch_engine.load_manifest(MANIFEST)
        if entry.get('device', device) == device
    ]


def make(site, device):
    """Make the packages of the baseline, for a process's PYTHONPATH.

    Args:
        site (Path): An empty folder.
        device (str): Kind of the device, ``cpu`` or ``cuda``.

    Returns:
        list[str]: Every change that was made to what was released, a
        sentence each.

    Raises:
        FileNotFoundError: mmcv or mmpose is not installed.
        patch_engine.PatchError: A file is not the released one.
    """
    originals.copy_released(site)
    said = []
    for entry in fixes(device):
        name = f'{entry["package"]}/{entry["file"]}'
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
        (stand_in / 'transforms').mkdir(parents=True)
        for part in ('models', 'transforms'):
            (stand_in / part).mkdir(exist_ok=True)
            (stand_in / part / '__init__.py').write_text('')
        (stand_in / '__init__.py').write_text('from . import models\n')
        source = HERE / 'torchvision_functional.py'
        place = stand_in / 'transforms' / 'functional.py'
        place.write_bytes(source.read_bytes())
        said.append(TORCHVISION)
    return said
