"""Workers, what they measure, and how rounds are told apart from luck."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).resolve().parents[1]

ACCOUNT = 'where the time goes'
"""What subjects measure whose time is taken apart."""
FLOORS = dict(to_floor='floor', to_middle='floor, middle')
"""Variants that others are compared with, by name of the quotient."""


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for."""


class Worker:
    """A process that measures, see :mod:`.worker`.

    Args:
        site (Path | None): Folder whose packages go before the installed
            ones; None measures what is installed.
        log (Path): File for what the process prints.
        environment (dict): Variables beside the present ones.
        prefix (Sequence[str]): Command that starts the process in its place.
    """

    def __init__(self, site, log, environment=None, prefix=()):
        folders = [SCRIPTS] if site is None else [site, SCRIPTS]
        inherited = os.environ.get('PYTHONPATH')
        path = os.pathsep.join(
            [str(folder) for folder in folders] + [inherited] * bool(inherited)
        )
        variables = dict(os.environ, PYTHONPATH=path)
        variables.update(PYTHONDONTWRITEBYTECODE='1', **(environment or {}))
        self.log = log
        with open(str(log), 'a') as stream:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, '-m', 'benchmark.worker'],
                env=variables,
                # Stock mmpose writes its log into the working directory.
                cwd=str(Path(log).resolve().parent),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                universal_newlines=True,
            )

    def send(self, *request):
        """Send a request without waiting for its answer."""
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # receive() says what there is to say

    def receive(self):
        """Wait for an answer and return what it holds.

        Raises:
            WorkerError: The request failed, or the process has ended.
        """
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            tail = self.log.read_text(errors='replace')[-2000:]
            raise WorkerError(f'a worker ended with status {status}\n{tail}')
        reply = json.loads(line)
        if 'error' in reply:
            raise WorkerError(reply['error'])
        return reply.get('result')

    def stop(self):
        """End the process."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def ask_all(workers, *request):
    """Send one request to several workers and return their answers."""
    for worker in workers:
        worker.send(*request)
    return [worker.receive() for worker in workers]


def free_port():
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def form_group(workers, address='127.0.0.1', port=None):
    """Let workers join each other as the ranks of one process group."""
    port = port or free_port()
    for rank, worker in enumerate(workers):
        worker.send('join', rank, len(workers), address, port)
    for worker in workers:
        worker.receive()


class Subject:
    """One thing that is measured: a row of a table.

    Args:
        what (str): The quantity. Those with the same one are compared.
        variant (str): Whose: ``floor``, ``stock``, or one of ours.
        group (list[Worker]): One, or the ranks of a process group.
        case (str): Name in :data:`.cases.CASES`.
        options (dict): For the case.
    """

    def __init__(self, what, variant, group, case, **options):
        self.what, self.variant, self.group = what, variant, group
        self.case, self.options = case, options
        self.facts, self.found = {}, []

    @property
    def key(self):
        """Name of this subject among those of a worker."""
        return f'{self.what}/{self.variant}'

    def make(self):
        """Prepare it."""
        request = ('make', self.key, self.case, self.options)
        self.facts = ask_all(self.group, *request)[0]

    def run(self, seed):
        """Measure one round and return what was found.

        The time is that of the first worker; CPU time and memory are those
        of all together.
        """
        found = ask_all(self.group, 'round', self.key, seed)
        sums = {
            name: sum(one[name] for one in found)
            for name in ('cpu', 'memory')
            if name in found[0]
        }
        return dict(found[0], **sums)

    def end(self):
        """Let go of it."""
        ask_all(self.group, 'end', self.key)


def measure(subjects, rounds, warm_up=True, progress=None):
    """Measure subjects in turn, round after round.

    Whatever else the machine does meanwhile meets all of them alike; the
    order is turned round after each round, so that none is always first.

    Args:
        subjects (list[Subject]): Their ``found`` is filled, a dict a round.
        rounds (int): How many rounds count.
        warm_up (bool): Whether one round goes before that does not.
        progress (callable): Is told what is going on.
    """
    tell = progress or (lambda text: None)
    for subject in subjects:
        tell(f'{subject.key}: preparing')
        subject.make()
    for number in range(-1 if warm_up else 0, rounds):
        for subject in subjects[:: -1 if number % 2 else 1]:
            tell(f'{subject.key}: round {number + 1} of {rounds}')
            # Seeds are not negative.
            found = subject.run(number + 1)
            if number >= 0:
                subject.found.append(found)
    for subject in subjects:
        subject.end()


def summarise(values):
    """Return median and quartiles of some numbers as a dict."""
    low, median, high = np.percentile(list(values), [25, 50, 75])
    return dict(median=float(median), low=float(low), high=float(high))


def ratio(above, below):
    """Summarise the quotients of two lists, round by round.

    Both numbers of a quotient are from the same round, so what slowed the
    machine down in it is in both.
    """
    return summarise(a / b for a, b in zip(above, below))


def rows_of(subjects):
    """Turn what was measured into rows.

    Args:
        subjects (list[Subject]): Measured ones.

    Returns:
        list[dict]: Of each subject ``what``, ``variant``; ``wall`` and
        ``cpu``, summaries of seconds; quotients of :data:`FLOORS` where a
        floor was measured, CPU time of this one over the floor's;
        ``stock_wall`` and ``stock_cpu`` where stock was measured, times of
        stock over this one's; ``account`` where the time was taken apart,
        summaries of seconds by part; ``facts``. Steps of a pipeline follow
        as rows of their own.
    """

    def times(subject, clock, part=None):
        return [
            one[clock] if part is None else one['parts'][part]
            for one in subject.found
        ]

    rows = []
    floors = {
        name: [s for s in subjects if s.variant == variant][:1]
        for name, variant in FLOORS.items()
    }
    for subject in subjects:
        stock = [
            other
            for other in subjects
            if other.what == subject.what and other.variant == 'stock'
        ]
        for part in (None, *subject.found[-1].get('parts', ())):
            row = dict(
                what=subject.what if part is None else part,
                variant=subject.variant,
                wall=summarise(times(subject, 'wall', part)),
                cpu=summarise(times(subject, 'cpu', part)),
                facts={},
            )
            if part is None:
                row['facts'] = dict(subject.facts, **subject.found[-1])
                for name in ('wall', 'cpu', 'parts', 'account'):
                    row['facts'].pop(name, None)
                for name, found in floors.items():
                    for floor in found:
                        row[name] = ratio(
                            times(subject, 'cpu'), times(floor, 'cpu')
                        )
                accounts = [one.get('account', {}) for one in subject.found]
                if accounts[-1]:
                    row['account'] = {
                        name: summarise(one[name] for one in accounts)
                        for name in accounts[-1]
                    }
            if stock and part in (None, *stock[0].found[-1].get('parts', ())):
                for clock in ('wall', 'cpu'):
                    row[f'stock_{clock}'] = ratio(
                        times(stock[0], clock, part),
                        times(subject, clock, part),
                    )
            rows.append(row)
    # What is compared stands together, in the order of its first mention.
    order = [row['what'] for row in rows]
    return sorted(rows, key=lambda row: order.index(row['what']))
