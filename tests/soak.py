"""Kill trainings at random moments, and sees that nothing is lost.

    python tests/soak.py --kills 30 --ranks 1
    python tests/soak.py --kills 30 --ranks 3 --single

A training of a tiny network is started, killed with ``kill -9`` (all its
processes at once, as when a machine goes down; with ``--single``, mostly one
of them: what stands for its launcher, after which the ranks must end by
themselves, one rank, or a data worker), and started again with
``--resume-from auto``, over and over. The moment is drawn anew for each life:
while it starts, trains, writes a checkpoint, or evaluates. After some kills
the latest checkpoint is damaged, too. Seen to is that

- every life finds a whole checkpoint by itself, and passes over what is
  damaged;
- it goes on from at most one interval of checkpoints before the kill (one
  more for each file that was damaged);
- the run ends with the weights of one that was never stopped, to the bit
  (but for three ranks and more on torch 1.8, see docs/RESUME.md);
- nothing is left behind in the work folder or in shared memory.

Ranks are forked from this process, which has loaded the packages: so a life
takes about a second. Everything else is what train.py does by itself.
"""

import argparse
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

for threads in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[threads] = '1'

import torch  # noqa: E402
from calling import command  # noqa: E402
from mpii_data import write_mpii, write_tiny_config  # noqa: E402

from hourglass_npu.errors import run  # noqa: E402
from hourglass_npu.lifetime import LAUNCHERS, identify  # noqa: E402

EPOCH = 4  # iterations
INTERVAL = 3  # iterations from one checkpoint to the next
MORE = f"""
checkpoint_config = dict(interval={INTERVAL}, by_epoch=False, max_keep_ckpts=4)
log_config = dict(interval=1)
# Three ranks, too, add up in one order then.
find_unused_parameters = True
"""
VICTIMS = ('all', 'launcher', 'rank', 'worker')
PHASES = ('starting', 'training', 'saving', 'evaluating')
DAMAGES = ('truncated', 'empty', 'flipped', 'half')
LONGEST = 120  # seconds for anything; a life that takes longer hangs


class Lost(AssertionError):
    """What must not happen, has."""


class Soak:
    """One training that is killed again and again.

    Args:
        folder (Path): For everything.
        ranks (int): Processes that train together.
        seed (int): Of the moments.
        single (bool): Whether to kill single processes, too.
    """

    def __init__(self, folder, ranks, seed=0, single=False):
        self.folder = folder
        self.single = single
        self.launcher = None
        self.work = folder / 'work'
        self.ranks = ranks
        self.random = random.Random(seed)
        self.lives = 0
        self.pids = set()
        self.done = 0  # iterations at the last kill, as far as logged
        self.damaged = 0
        self.counts = collections.Counter()
        data = write_mpii(folder / 'mpii', train=2 * EPOCH * ranks, val=4)
        self.config = write_tiny_config(folder, MORE)
        self.environment = dict(MPII_ROOT=str(data))
        self.main = load_train()

    def start(self, epochs, work=None):
        """Start a life; returns its ranks' process ids and its log."""
        self.lives += 1
        log = self.folder / f'life{self.lives}.log'
        arguments = [
            'train.py',
            str(self.config),
            '--device=cpu',
            '--seed=1',
            '--resume-from=auto',
            f'--work-dir={work or self.work}',
            '--cfg-options',
            f'total_epochs={epochs}',
            # As EPOCH says; else less where ranks share the CPU.
            'data.samples_per_gpu=2',
            'data.workers_per_gpu=' + ('1' if self.ranks == 1 else '0'),
        ]
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        pids = []
        if self.launcher is not None:
            kill([self.launcher])
        self.launcher = os.fork()
        if not self.launcher:
            os.setsid()
            signal.pause()
        self.environment[LAUNCHERS] = identify(self.launcher)
        for rank in range(self.ranks):
            pid = os.fork()
            if not pid:
                self._be_rank(rank, port, arguments, log)
            pids.append(pid)
        self.pids.update(map(str, pids))
        return pids, log

    def _be_rank(self, rank, port, arguments, log):
        """Becomes one rank; does not return."""
        try:
            os.setsid()
            stream = os.open(str(log), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            os.environ.update(self.environment)
            if self.ranks > 1:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(self.ranks),
                    LOCAL_WORLD_SIZE=str(self.ranks),
                    MASTER_ADDR='127.0.0.1',
                    MASTER_PORT=str(port),
                )
            sys.argv = arguments
            run(self.main)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(1)

    def kill_once(self):
        """Let a training live for a while, and kills it."""
        phase = self.random.choice(PHASES)
        pids, log = self.start(epochs=100000)
        end = time.monotonic() + LONGEST
        if phase == 'starting':
            time.sleep(self.random.uniform(0, 1.5))
        else:
            # Some iterations, then the event, then a moment.
            wanted = self.random.randint(1, 2 * INTERVAL)
            while len(iterations(log)) < wanted:
                self._check_alive(pids, log, end)
                time.sleep(0.005)
            if phase == 'saving':
                while not list(self.work.glob('.*.tmp')):
                    self._check_alive(pids, log, end)
                time.sleep(self.random.uniform(0, 0.01))
            elif phase == 'evaluating':
                tested = log.read_text().count('Epoch(val)')
                done = iterations(log)[-1]
                while iterations(log)[-1] // EPOCH == done // EPOCH:
                    self._check_alive(pids, log, end)
                    time.sleep(0.001)
                time.sleep(self.random.uniform(0, 0.1))
                # Counted as such only if it had not come to its end.
                if log.read_text().count('Epoch(val)') != tested:
                    phase = 'training'
            else:
                time.sleep(self.random.uniform(0, 0.2))
        saving = bool(list(self.work.glob('.*.tmp')))
        self._kill_some(pids, log)
        if saving:
            phase = 'saving'
        elif phase == 'saving' or not iterations(log):
            phase = 'training' if iterations(log) else 'starting'
        self.counts[phase] += 1
        self._check_life(log)

    def _kill_some(self, pids, log):
        """Kill one process or all; nothing is left of them afterwards."""
        victim = self.random.choice(VICTIMS) if self.single else 'all'
        workers = children(pids[-1])
        if victim == 'worker' and not workers:
            victim = 'rank'
        if victim == 'launcher':
            os.kill(self.launcher, signal.SIGKILL)
            self._wait(pids, log, victim)
        elif victim == 'worker':
            os.kill(self.random.choice(workers), signal.SIGKILL)
            self._wait(pids, log, victim)
        elif victim == 'rank':
            os.kill(self.random.choice(pids), signal.SIGKILL)
            time.sleep(self.random.uniform(0, 0.5))
        kill(pids)
        if self.single:
            self.counts[f'victim: {victim}'] += 1

    def _wait(self, pids, log, victim):
        """Wait until the ranks have ended by themselves.

        A worker that had handed over its last batch is not missed: two
        epochs later it is clear that the run goes on.
        """
        end = time.monotonic() + 60
        enough = max(iterations(log), default=0) + 2 * EPOCH
        left = set(pids)
        while left:
            left -= {p for p in left if os.waitpid(p, os.WNOHANG)[0]}
            done = max(iterations(log), default=0)
            if victim == 'worker' and done > enough:
                self.counts['worker was not missed'] += 1
                return
            if time.monotonic() > end:
                kill(pids)
                raise Lost(f'lives on without its {victim}:\n{tail(log)}')
            time.sleep(0.01)

    def _check_alive(self, pids, log, end):
        for pid in pids:
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise Lost(f'a rank ended by itself:\n{tail(log)}')
        if time.monotonic() > end:
            kill(pids)
            raise Lost(f'hangs:\n{tail(log)}')

    def _check_life(self, log):
        """Sees that the life that has just ended began where it should."""
        text = log.read_text()
        resumed = re.search(r'resumed epoch \d+, iter (\d+)', text)
        logged = iterations(log)
        if resumed or logged:
            began = int(resumed.group(1)) if resumed else 0
            least = self.done - INTERVAL * (1 + self.damaged)
            if began < least:
                raise Lost(
                    f'{self.done} iterations were done, {self.damaged} files '
                    f'damaged, but it went on from {began}:\n{text[-4000:]}'
                )
            passed = set(re.findall(r'Passed over: \S*/(\S+\.pth)', text))
            if len(passed) < self.damaged:
                raise Lost(f'{self.damaged} damaged, named: {passed}')
            self.counts['passed over'] += len(passed)
            for name in passed - {'latest.pth'}:
                (self.work / name).unlink()
            self.damaged = 0
            self.done = logged[-1] if logged else began
        if 'Traceback' in text:
            raise Lost(text[-4000:])

    def damage(self):
        """Damages the latest checkpoint, as disks do."""
        files = sorted(self.work.glob('iter_*.pth'), key=os.path.getmtime)
        if len(files) < 2 or self.damaged:
            return
        how = self.random.choice(DAMAGES)
        content = bytearray(files[-1].read_bytes())
        if how == 'flipped':
            # In the middle of the weights, where nothing else would tell.
            content[len(content) // 2] ^= 1 << self.random.randrange(8)
        else:
            length = dict(
                empty=0, half=len(content) // 2, truncated=len(content) - 1
            )
            del content[length[how] :]
        status = files[-1].stat()
        files[-1].write_bytes(content)
        os.utime(str(files[-1]), ns=(status.st_atime_ns, status.st_mtime_ns))
        # A kill between two renames leaves it as the one before.
        latest = (self.work / 'latest.pth').resolve()
        self.damaged = int(latest == files[-1].resolve())
        self.counts[how] += 1

    def finish(self):
        """Let the training end, and compares it with one never killed."""
        epochs = self.done // EPOCH + 2
        for work in (self.work, self.folder / 'whole'):
            pids, log = self.start(epochs, work)
            end = time.monotonic() + LONGEST + epochs
            for pid in pids:
                while True:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        break
                    if time.monotonic() > end:
                        kill(pids)
                        raise Lost(f'hangs:\n{tail(log)}')
                    time.sleep(0.02)
                if status:
                    raise Lost(f'status {status}:\n{tail(log)}')
            if work == self.work:
                self._check_life(log)
        name = f'iter_{epochs * EPOCH // INTERVAL * INTERVAL}.pth'
        one, other = (
            torch.load(str(work / name))['state_dict']
            for work in (self.work, self.folder / 'whole')
        )
        exact = self.ranks < 3 or torch.__version__ >= '2'
        for key, value in other.items():
            if exact and not torch.equal(one[key], value):
                raise Lost(f'{key} is not that of a training never killed')
        left = [str(path) for path in self.work.glob('.*')]
        if left:
            raise Lost(f'left behind: {left}')
        return epochs * EPOCH


def load_train():
    """Load train.py and everything that it will need."""
    train = command('train')
    import mmpose.apis  # noqa: F401
    import mmpose.datasets  # noqa: F401
    import mmpose.models  # noqa: F401

    torch.set_num_threads(1)
    return train.main


def iterations(log):
    """Return the numbers of the iterations that a log tells of."""
    try:
        text = log.read_text()
    except FileNotFoundError:
        return []
    return [
        (int(epoch) - 1) * EPOCH + int(i)
        for epoch, i in re.findall(r'Epoch \[(\d+)\]\[(\d+)/\d+\]', text)
    ]


def tail(log):
    """Return the end of a log, or nothing."""
    return log.read_text()[-4000:] if log.exists() else ''


def kill(pids):
    """Kill ranks and their data workers, and waits for the ranks."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet in a session of its own
                os.kill(pid, signal.SIGKILL)
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def children(pid):
    """Return the data workers of a process."""
    path = f'/proc/{pid}/task/{pid}/children'
    try:
        with open(path) as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def soak(folder, ranks, kills, seed=0, damage_every=5, single=False):
    """Kill a training again and again.

    Args:
        folder (Path): For everything; must exist.
        ranks (int): Processes.
        kills (int): How often.
        seed (int): Of the moments.
        damage_every (int): Kills from one damaged checkpoint to the next.
        single (bool): Whether to kill single processes, too.

    Returns:
        dict: Counts by phase and kind of damage, and ``iterations``.

    Raises:
        Lost: Something was.
    """
    shared = set(os.listdir('/dev/shm'))
    job = Soak(folder, ranks, seed, single)
    for number in range(1, kills + 1):
        job.kill_once()
        if number % damage_every == 0:
            job.damage()
    total = job.finish()
    kill([job.launcher])
    ours = [
        name
        for name in set(os.listdir('/dev/shm')) - shared
        if name.startswith('torch_') and name.split('_')[1] in job.pids
    ]
    if ours:
        raise Lost(f'left in shared memory: {ours}')
    return dict(job.counts, iterations=total, kills=kills)


def main():
    """Run the soak that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--ranks', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--single', action='store_true', help='kill single processes, too'
    )
    args = parser.parse_args()
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix='soak'))
    try:
        counts = soak(
            folder, args.ranks, args.kills, args.seed, single=args.single
        )
    except Lost as lost:
        print(f'LOST (all is kept in {folder}): {lost}')
        return 1
    shutil.rmtree(str(folder))
    counts['seconds'] = round(time.monotonic() - begun)
    print(f'torch {torch.__version__}, {args.ranks} rank(s): {counts}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
