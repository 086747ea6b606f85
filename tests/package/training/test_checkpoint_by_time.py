"""Checkpoints inside of an epoch, by the clock of rank 0."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from hourglass_npu.errors import UserError
from hourglass_npu.training import checkpoints
from hourglass_npu.training.checkpoints import ResumableCheckpointHook


class Job:
    """Iterations of a training that take what time they are told to."""

    def __init__(self, folder, monkeypatch, **settings):
        self.now, self.iter, self.folder = 1000.0, 0, folder
        self.asked = []
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(checkpoints, 'time', clock)
        monkeypatch.setattr(checkpoints, 'broadcast_object', self.share)
        self.answer = None
        self.hook = ResumableCheckpointHook(**settings)
        self.model = SimpleNamespace(modules=lambda: ())
        self.logger = SimpleNamespace(info=lambda text: None)
        self.hooks, self.rank = [], 0
        self.work_dir, self.meta, self.epoch = str(folder), None, 0
        self.hook.before_run(self)

    def share(self, mine):
        self.asked.append(self.iter)
        return self.answer or mine

    def gather_random_states(self):
        pass

    def save_checkpoint(self, folder, save_optimizer, filename_tmpl, **_):
        (Path(folder) / filename_tmpl.format(self.iter + 1)).touch()

    def run(self, iters, seconds):
        """Return the files after each iteration in which they changed."""
        changes = []
        for _ in range(iters):
            self.now += seconds
            before = sorted(self.folder.iterdir())
            self.hook.after_train_iter(self)
            after = sorted(self.folder.iterdir())
            if after != before:
                changes.append((self.iter + 1, [p.name for p in after]))
            self.iter += 1
        return changes


def test_one_file_that_moves_on_with_the_time(tmp_path, monkeypatch):
    job = Job(tmp_path, monkeypatch, interval_minutes=1)
    assert job.run(130, 1.0) == [
        (60, ['iter_60.pth']),
        (120, ['iter_120.pth']),
    ]
    # The ranks meet ever more often as the time comes near, and seldom
    # before: 60, 30, 15, 8, 4, 2, 1 seconds are left.
    assert len(job.asked) < 20


def test_a_slow_iteration_is_a_checkpoint_late_and_not_two(
    tmp_path, monkeypatch
):
    job = Job(tmp_path, monkeypatch, interval_minutes=2)
    assert job.run(3, 300.0) == [
        (1, ['iter_1.pth']),
        (2, ['iter_2.pth']),
        (3, ['iter_3.pth']),
    ]


def test_other_checkpoints_restart_the_clock(tmp_path, monkeypatch):
    job = Job(
        tmp_path,
        monkeypatch,
        interval=50,
        by_epoch=False,
        interval_minutes=1,
        filename_tmpl='it{}.pth',
    )
    names = [names for _, names in job.run(105, 1.0)]
    assert names == [['it50.pth'], ['it100.pth', 'it50.pth']]
    # A pause counts, as soon as the ranks look again.
    job.now += 40
    assert job.run(40, 1.0)[0] == (
        130,
        ['it100.pth', 'it50.pth', 'iter_130.pth'],
    )
    # Nobody else's files are removed.
    assert job.run(70, 1.0)[-1][1] == [
        'it100.pth',
        'it150.pth',
        'it200.pth',
        'it50.pth',
        'iter_130.pth',
    ]


class Steps:
    """A hook whose steps have three iterations."""

    job = None

    @property
    def amid_step(self):
        return (self.job.iter + 1) % 3 > 0


def test_what_is_due_amid_a_step_waits_for_its_end(tmp_path, monkeypatch):
    steps = Steps()
    job = Job(
        tmp_path,
        monkeypatch,
        interval=4,
        by_epoch=False,
        interval_minutes=1,
        filename_tmpl='it{}.pth',
    )
    job.hooks, steps.job = [steps], job
    # Due are 4, 8 and 12, of which 12 ends a step.
    names = ['it12.pth', 'it6.pth', 'it9.pth']
    assert [iter_ for iter_, _ in job.run(14, 1.0)] == [6, 9, 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    # So is what is due by the clock.
    job = Job(tmp_path, monkeypatch, interval_minutes=1)
    job.hooks, steps.job = [steps], job
    job.now += 60
    assert [iter_ for iter_, _ in job.run(4, 1.0)] == [3]


def test_the_clock_of_rank_0_counts(tmp_path, monkeypatch):
    job = Job(tmp_path, monkeypatch, interval_minutes=1)
    job.answer = (False, 7)
    assert job.run(30, 100.0) == []
    assert job.asked == [0, 7, 14, 21, 28]
    job.answer = (True, 7)
    assert job.run(6, 0.0) == [(36, ['iter_36.pth'])]


@pytest.mark.parametrize('minutes', [0, -1, '5'])
def test_minutes_are_a_positive_number(minutes):
    with pytest.raises(UserError, match='interval_minutes=.* positive'):
        ResumableCheckpointHook(interval_minutes=minutes)
