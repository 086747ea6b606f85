"""How the time of a training step grows with the number of devices.

A model on paper (:func:`predict`), and its check: real ranks over gloo whose
network is throttled by the kernel, and whose device is replaced by a clock,
so that two cores serve for eight ranks. docs/SCALING.md explains both.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmark.measure import Subject, Worker, form_group, measure, summarise

MIB = 2**20
FIRST_BUCKET = 1 * MIB
BUCKET = 25 * MIB
"""Sizes of DDP's buckets of gradients, in bytes: the first one is smaller."""


def allreduce_seconds(size, ranks, bandwidth, latency=0.0, shared=False):
    """Time of a ring all-reduce.

    Every rank sends ``2 (n-1)/n`` times the data in ``2 (n-1)`` messages.

    Args:
        size (float): Bytes of the data.
        ranks (int): n.
        bandwidth (float): Bytes per second of each rank's link in each
            direction; of the one medium that carries all traffic if
            ``shared``.
        latency (float): Seconds that each message takes beside its bytes.
        shared (bool): Whether all ranks share one medium.

    Returns:
        float: Seconds.
    """
    if ranks == 1:
        return 0.0
    sent = 2 * (ranks - 1) / ranks * size
    if shared:
        sent *= ranks
    return sent / bandwidth + 2 * (ranks - 1) * latency


def buckets_of(sizes, limit=BUCKET, first=FIRST_BUCKET):
    """Put gradients into buckets as DDP does.

    Args:
        sizes (Sequence[float]): Bytes of each gradient, in the order in
            which they come.
        limit (float): A bucket is full when it holds that much.
        first (float): The same of the first bucket.

    Returns:
        list[float]: Bytes of each bucket.
    """
    buckets = [0.0]
    for size in sizes:
        if buckets[-1] >= (first if len(buckets) == 1 else limit):
            buckets.append(0.0)
        buckets[-1] += size
    return buckets


def exposed_seconds(buckets, backward, reduce_seconds):
    """Time of a reduction that the backward pass does not hide.

    Gradients come evenly over the backward pass. A bucket is reduced when it
    is full and the one before it is done.

    Args:
        buckets (Sequence[float]): Sizes in the order in which they fill.
        backward (float): Seconds of the backward pass.
        reduce_seconds (callable): Time of reducing so many bytes.

    Returns:
        float: Seconds between the end of the backward pass and the end of
        the last reduction.
    """
    total = sum(buckets) or 1.0  # nothing to reduce takes no time
    filled, done = 0.0, 0.0
    for size in buckets:
        filled += size
        done = max(done, backward * filled / total) + reduce_seconds(size)
    return max(0.0, done - backward)


def predict(
    ranks,
    forward,
    backward,
    update=0.0,
    gradients=(0.0,),
    bandwidth=float('inf'),
    latency=0.0,
    shared=False,
    hosts=1,
    host_seconds=0.0,
    cores=1,
    batch=1,
    overlap=True,
    bucket=BUCKET,
    first_bucket=FIRST_BUCKET,
):
    """Predict the time of a training step, term by term.

    Args:
        ranks (int): Devices, evenly on ``hosts``.
        forward (float): Seconds of the forward pass on its device.
        backward (float): Seconds of the backward pass.
        update (float): Seconds of the optimiser.
        gradients (Sequence[float]): Bytes of each gradient that is reduced,
            in the order in which they come.
        bandwidth (float): See :func:`allreduce_seconds`; of the slowest link
            in the ring.
        latency (float): See :func:`allreduce_seconds`.
        shared (bool): See :func:`allreduce_seconds`.
        hosts (int): Hosts, each with ``cores``.
        host_seconds (float): CPU seconds for one sample.
        cores (float): Cores of a host that make samples.
        batch (int): Samples of a rank in a step.
        overlap (bool): Whether gradients are reduced during the backward
            pass.
        bucket (float): See :func:`buckets_of`.
        first_bucket (float): See :func:`buckets_of`.

    Returns:
        dict: Seconds of ``compute``, of ``exposed`` communication, and of
        the ``host`` for the samples of a step; ``step``, the time of a step;
        ``bound``, the term that binds; ``images`` per second over all ranks;
        ``efficiency`` against one rank on a host of its own.
    """
    compute = forward + backward + update
    exposed = exposed_seconds(
        buckets_of(gradients, bucket, first_bucket)
        if overlap
        else [sum(gradients)],
        backward if overlap else 0.0,
        lambda size: allreduce_seconds(
            size, ranks, bandwidth, latency, shared
        ),
    )
    host = ranks / hosts * batch * host_seconds / cores
    alone = max(compute, batch * host_seconds / cores)
    step = max(compute + exposed, host)
    if host >= compute + exposed:
        bound = 'host'
    else:
        bound = 'communication' if exposed > compute else 'compute'
    return dict(
        compute=compute,
        exposed=exposed,
        host=host,
        step=step,
        bound=bound,
        images=ranks * batch / step,
        efficiency=alone / step,
    )


GRADIENTS = [2e6] * 94
"""Bytes of Hourglass-52's gradients in half precision: 93.7 M numbers."""

BATCH, GFLOP = 32, 193
"""Images of a device in a step, and the arithmetic of one, both passes."""

PLACES = {
    '1': dict(ranks=1, bandwidth=12e9),
    '8 in one host': dict(ranks=8, bandwidth=12e9),
    '8 hosts x 8, 100 Gbit/s': dict(ranks=64, hosts=8, bandwidth=12.5e9),
    '8 hosts x 8, 10 Gbit/s': dict(ranks=64, hosts=8, bandwidth=1.25e9),
}
"""Devices and the slowest link of the ring through them, bytes per second:
PCIe inside of a host, Ethernet between hosts."""


def forecast(hosts, teraflops, cores=64):
    """Predict training of Hourglass-52 at 384x384, batch 32 per device.

    Args:
        hosts (dict[str, float]): CPU seconds for one sample, by the name of
            the input.
        teraflops (float): What a device reaches, TFLOP/s.
        cores (int): Cores of a host that make samples.

    Returns:
        list[tuple[str, str, dict]]: Input, place, and what :func:`predict`
        says.
    """
    passes = BATCH * GFLOP / teraflops / 1000
    return [
        (
            name,
            place,
            predict(
                forward=passes / 3,
                backward=passes * 2 / 3,
                update=0.003,
                gradients=GRADIENTS,
                latency=2e-5,
                host_seconds=seconds,
                cores=cores,
                batch=BATCH,
                **where,
            ),
        )
        for name, seconds in hosts.items()
        for place, where in PLACES.items()
    ]


# The check ----------------------------------------------------------------


def _run(*command):
    subprocess.run([str(word) for word in command], check=True)


class Network:
    """A network of throttled links in namespaces of its own.

    Every worker gets a link to a switch; both ends are throttled, so it is
    full duplex. Nothing outside is touched, and all of it goes with this
    process. To be made in a network namespace of its own.

    Args:
        megabits (int): Rate of each link, Mbit/s.
    """

    PREFIX = ('unshare', '--net')
    numbers = itertools.count()

    def __init__(self, megabits):
        self.megabits, self.count = megabits, 0
        _run('ip', 'link', 'add', 'switch', 'type', 'bridge')
        _run('ip', 'link', 'set', 'switch', 'up')

    def remove(self):
        """Take the switch away; the links go with their workers."""
        _run('ip', 'link', 'del', 'switch')

    def connect(self, process):
        """Give a started worker its link.

        Args:
            process (subprocess.Popen): Started with ``PREFIX``.

        Returns:
            str: Its address.
        """
        pid = process.pid
        own = os.readlink('/proc/self/ns/net')
        for _ in range(500):
            if os.readlink(f'/proc/{pid}/ns/net') != own:
                break
            time.sleep(0.01)
        self.count += 1
        address = f'10.0.0.{self.count}'
        # Never a name twice: the kernel takes links away when it has time.
        end = f'link{next(self.numbers)}'
        peer = ('peer', 'name', 'eth0', 'netns', pid)
        _run('ip', 'link', 'add', end, 'type', 'veth', *peer)
        _run('ip', 'link', 'set', end, 'master', 'switch', 'up')
        inside = ('nsenter', '--net', '--target', pid)
        _run(*inside, 'ip', 'link', 'set', 'lo', 'up')
        _run(*inside, 'ip', 'addr', 'add', f'{address}/24', 'dev', 'eth0')
        _run(*inside, 'ip', 'link', 'set', 'eth0', 'up')
        rate = f'{self.megabits}mbit'
        # A burst of some milliseconds, or small rates are not reached.
        burst = f'{max(16, self.megabits // 2)}kb'
        limit = ('rate', rate, 'burst', burst, 'latency', '200ms')
        for where, device in (((), end), (inside, 'eth0')):
            _run(
                *where,
                'tc',
                'qdisc',
                'add',
                'dev',
                device,
                'root',
                'tbf',
                *limit,
            )
        return address


# unshare gives namespaces to whoever may have them, root or not.
NAMESPACE = ('unshare', '--net', '--map-root-user')


def why_not():
    """Tell why links cannot be throttled here.

    Returns:
        str: Empty if they can.
    """
    script = (
        'ip link add switch type bridge && '
        'ip link add link0 type veth peer name link1 && '
        'tc qdisc add dev link0 root tbf rate 1mbit burst 16kb latency 1ms'
    )
    try:
        done = subprocess.run(
            [*NAMESPACE, 'sh', '-c', script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return str(error)
    return done.stderr.decode().strip() if done.returncode else ''


def check(folder, ranks, megabits, overlap, compression, rounds, clock):
    """Measure steps of ranks with throttled links beside the prediction.

    Args:
        folder (Path): For logs.
        ranks (int): Number of ranks.
        megabits (int): Rate of each rank's link, Mbit/s.
        overlap (bool): Whether DDP reduces during the backward pass.
        compression (str | None): ``fp16`` or ``bf16``: half the bytes.
        rounds (int): Steps to be measured.
        clock (dict): ``gradients``, ``layers``, ``forward``, ``backward``
            and ``bucket`` of the case ``clocked_step``.

    Returns:
        dict: The settings; ``predicted`` and ``measured``, seconds of a step.
    """
    network = Network(megabits)
    workers, addresses = [], []
    try:
        for rank in range(ranks):
            worker = Worker(
                None,
                folder / f'rank{rank}.log',
                dict(OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='eth0'),
                prefix=Network.PREFIX,
            )
            workers.append(worker)
            addresses.append(network.connect(worker.process))
        if ranks > 1:
            form_group(workers, addresses[0], 29500)
        subject = Subject(
            'step',
            'ours',
            workers,
            'clocked_step',
            overlap=overlap,
            compression=compression,
            **clock,
        )
        measure([subject], rounds)
    finally:
        for worker in workers:
            worker.stop()
        network.remove()
    part = 1 if compression is None else 0.5
    layer = part * clock['gradients'] / clock['layers']
    predicted = predict(
        ranks,
        clock['forward'],
        clock['backward'],
        gradients=[layer] * clock['layers'],
        bandwidth=megabits * 1e6 / 8,
        overlap=overlap,
        bucket=part * clock['bucket'],
        first_bucket=part * clock['bucket'],
    )
    return dict(
        ranks=ranks,
        megabits=megabits,
        overlap=overlap,
        compression=compression,
        predicted=predicted['step'],
        measured=summarise([one['wall'] for one in subject.found]),
    )


CLOCK = dict(
    gradients=24 * MIB,
    layers=12,
    forward=0.1,
    backward=0.3,
    bucket=4 * MIB,
)


def main(small):
    """Run all checks and print what was found as JSON.

    Args:
        small (bool): Two ranks and little data, to see that it runs.
    """
    # torch 1.8 cannot compress over gloo.
    low = 'fp16' if hasattr(torch.distributed, 'GradBucket') else None
    cases, clock, rounds = [(1, 200, True, None)], CLOCK, 5
    for ranks in (2, 4, 8):
        cases += [
            (ranks, 200, True, None),
            (ranks, 800, True, None),
            (ranks, 200, False, None),
        ]
        cases += [(ranks, 200, True, low)] if low else []
    if small:
        cases, rounds = [(2, 200, True, low)], 1
        clock = dict(CLOCK, gradients=MIB, layers=2, forward=0, backward=0.01)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            check(Path(folder), *settings, rounds, clock) for settings in cases
        ]
    print(json.dumps(rows))


if __name__ == '__main__':
    main(small=sys.argv[1:] == ['small'])
