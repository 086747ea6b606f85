"""Look at torch and its devices for doctor.py; may hang, may crash.

So it runs in a process of its own, and prints one line of JSON as soon as it
knows something::

    {"torch": {"version": ..., "build": ...}}
    {"devices": {"npu": 8, "cuda": 0, "cpu": 1}, "absent": {"cuda": ...}}
    {"card": {"kind": "npu", "name": ...}}
    {"collective": {"kind": "npu", "backend": "hccl", "name": ...}}

Several processes, with RANK and the like as a launcher sets them, and with
DOCTOR_RENDEZVOUS, the path of a file to be made, take a device each and form
a group. Then "collective" has "gb_per_s", too.
"""

import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path

SIZE, REPEATS = 2**23, 4
"""Numbers in fp32 of which the sum's time is taken, and how often."""

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

    # A group of one, or of several, in the way in which a training makes it.
    for name, value in dict(
        RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', LOCAL_WORLD_SIZE='1'
    ).items():
        os.environ.setdefault(name, value)
    os.environ['MASTER_ADDR'] = '127.0.0.1'
    device = seam.set_device()
    say(card=try_card(torch, device))
    with tempfile.TemporaryDirectory() as folder:
        place = os.environ.get('DOCTOR_RENDEZVOUS', f'{folder}/rendezvous')
        seam.init_dist(
            'pytorch',
            init_method=f'file://{place}',
            rank=int(os.environ['RANK']),
            world_size=int(os.environ['WORLD_SIZE']),
        )
        say(collective=try_sum(torch, device, seam))
        torch.distributed.destroy_process_group()


def try_card(torch, device):
    """Multiply two matrices; return kind and name of the device."""
    ones = torch.ones(64, 64, device=device)
    product = (ones @ ones).cpu()
    if not (product == 64).all():
        raise RuntimeError(f'a product of ones gives {product[0, 0]}, not 64')
    name = ''
    if device.type != 'cpu':
        name = getattr(torch, device.type).get_device_name(device.index)
    return dict(kind=device.type, name=name)


def try_sum(torch, device, seam):
    """Sum 1 to N over N processes, and take the time of it.

    Returns:
        dict: Backend, kind and name of the device. From two processes on
        also ``gb_per_s``: bytes that each of them has to send, by seconds.
    """
    rank, ranks = seam.get_dist_info()
    numbers = torch.full((SIZE,), rank + 1.0, device=device)
    torch.distributed.all_reduce(numbers)
    lowest, highest = float(numbers.min()), float(numbers.max())
    if not lowest == highest == ranks * (ranks + 1) / 2:
        raise RuntimeError(
            f'the sum of 1 to {ranks} is {lowest:g} to {highest:g}'
        )
    found = dict(
        try_card(torch, device), backend=torch.distributed.get_backend()
    )
    if ranks > 1:
        numbers.zero_()
        seam.synchronize()
        start = time.perf_counter()
        for _ in range(REPEATS):
            torch.distributed.all_reduce(numbers)
        seam.synchronize()
        taken = time.perf_counter() - start
        sent = REPEATS * 4 * SIZE * 2 * (ranks - 1) / ranks
        found['gb_per_s'] = sent / taken / 1e9
    return found


if __name__ == '__main__':
    main()
