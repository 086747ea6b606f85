"""Look at torch and its devices for doctor.py; may hang, may crash.

So it runs in a process of its own, and prints one line of JSON as soon as it
knows something::

    {"torch": {"version": ..., "build": ..., "folder": ...}}
    {"devices": {"npu": 8, "cuda": 0, "cpu": 1}, "absent": {"cuda": ...}}
    {"collective": {"kind": "npu", "backend": "hccl", "name": ...}}
"""

import importlib.util
import json
import os
import tempfile
from pathlib import Path

SEAM = Path(__file__).resolve().parents[1] / 'mmcv_need' / 'dist_utils.py'


def say(**facts):
    """Print one line for doctor.py."""
    print(json.dumps(facts), flush=True)


def load_seam():
    """Load the device seam; it needs torch and numpy, but no mmcv."""
    spec = importlib.util.spec_from_file_location('seam', str(SEAM))
    seam = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seam)
    return seam


def why_absent(seam, kind):
    """Return in words why there is no device of a kind."""
    try:
        seam.set_device(kind)
    except ValueError as error:
        return str(error)
    return ''


def main():
    """Look at torch, at the devices, at a collective on the best of them."""
    import torch

    built_for = 'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'
    say(torch=dict(version=torch.__version__, build=built_for))

    seam = load_seam()
    counts = {kind: seam.device_count(kind) for kind in seam.BACKENDS}
    absent = {
        kind: why_absent(seam, kind)
        for kind, count in counts.items()
        if not count
    }
    say(devices=counts, absent=absent)

    # A group of one, in the way in which a training makes its group.
    os.environ.update(
        RANK='0', LOCAL_RANK='0', LOCAL_WORLD_SIZE='1', MASTER_ADDR='127.0.0.1'
    )
    device = seam.set_device()
    with tempfile.TemporaryDirectory() as folder:
        seam.init_dist(
            'pytorch',
            init_method=f'file://{folder}/rendezvous',
            rank=0,
            world_size=1,
        )
        ones = torch.ones(4, device=device)
        torch.distributed.all_reduce(ones)
        if ones.tolist() != [1.0] * 4:
            raise RuntimeError(f'the sum over one process is {ones.tolist()}')
        name = ''
        if device.type != 'cpu':
            name = getattr(torch, device.type).get_device_name(device.index)
        say(
            collective=dict(
                kind=device.type,
                backend=torch.distributed.get_backend(),
                name=name,
            )
        )
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main()
