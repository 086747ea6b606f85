"""Checkpoints of a training: which there are, in what order, and where.

This is the one place that knows. A checkpoint says itself which training
wrote it when: ``meta`` holds ``iter``, ``epoch`` and ``run``, which counts
the starts of trainings in its folder. Times of files say nothing: clocks jump,
and copies are new.
"""

import logging
import os
import os.path as osp
import pickle
import re
import string
import time
import zipfile
from collections import namedtuple
from glob import escape, glob

import mmcv
from mmcv.runner import CheckpointHook
from mmcv.runner.checkpoint import load_from_local
from mmcv.runner.hooks.optimizer import amid_step, engine_of
from mmpose.core import EvalHook

from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.training.ranks import average_bn_stats, broadcast_object

BY_EPOCH, BY_ITER = 'epoch_{}.pth', 'iter_{}.pth'
LATEST = 'latest.pth'

# The description of a checkpoint is small; the numbers are beside it.
LARGEST_DESCRIPTION = 2**26

Saved = namedtuple('Saved', 'path run iter epoch')
Saved.__doc__ = """A checkpoint of a training.

Attributes:
    path (str): Its file.
    run (int): Which start of a training in this folder wrote it; 0 if it
        does not say, as those of mmcv.
    iter (int): Iterations done; -1 if it cannot be read.
    epoch (int): Epochs done.
"""


# What a checkpoint says of itself ------------------------------------------


class _Nothing:
    """Stand for whatever a checkpoint names, and do nothing."""

    def __init__(self, *unused, **ignored):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        """Leave an item away."""

    def extend(self, items):
        """Leave items away."""


# That of Python: the fast one reserves what memory a file asks for.
class _Description(pickle._Unpickler):
    """Read dicts, lists, texts and numbers; all else becomes nothing."""

    def find_class(self, module, name):
        return _Nothing

    def persistent_load(self, name):
        return None


def _read_meta(path):
    """Read what a checkpoint says of itself, without its tensors.

    Args:
        path (str): Any file.

    Returns:
        dict | None: ``meta``; None if there is none.
    """
    try:
        with open(path, 'rb') as file:
            if file.read(2) == b'PK':
                with zipfile.ZipFile(file) as archive:
                    (name,) = [
                        name
                        for name in archive.namelist()
                        if name.split('/')[-1] == 'data.pkl'
                    ]
                    if archive.getinfo(name).file_size > LARGEST_DESCRIPTION:
                        return None
                    with archive.open(name) as record:
                        content = _Description(record).load()
            else:
                # torch before 1.6: a magic number, a version, the machine.
                file.seek(0)
                for _ in range(4):
                    content = _Description(file).load()
        meta = content['meta']
    except Exception:  # broken files raise anything; loading them says why
        return None
    return meta if isinstance(meta, dict) else None


_described = {}


def _describe(path):
    """Return the :class:`Saved` of a file; read again only if it changed."""
    try:
        status = os.stat(path)
    except OSError:
        return Saved(path, -1, -1, -1)
    key = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    known = _described.get(path)
    if known is None or known[0] != key:
        known = _described[path] = key, _read_meta(path)
    if known[1] is None:
        return Saved(path, -1, -1, -1)
    numbers = [known[1].get(name) for name in Saved._fields[1:]]
    return Saved(
        path,
        *(n if type(n) is int and n >= 0 else 0 for n in numbers),
    )


# Names ----------------------------------------------------------------------


def check_template(template):
    """Refuse a name of checkpoints that would fail when the first is saved.

    Args:
        template (str): As for ``str.format``; it need have no place for the
            number: then one file is written again and again.

    Raises:
        UserError: It cannot be filled in, or stands for another file.
    """
    try:
        name = template.format(1)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        name = ''
    if osp.basename(name) in ('', '.', '..', LATEST):
        raise UserError(
            f'checkpoint_config.filename_tmpl is {template!r}: must be a name '
            "with one place for a number, such as 'epoch_{}.pth' or "
            f"'epoch_{{:03d}}.pth', and not {LATEST}"
        )


def has_place(template):
    """Tell whether a name of checkpoints has a place for the number."""
    return template.format(1) != template.format(2)


def _fields(template, place, text):
    """Put something for the places of a template, and for what is between."""
    return ''.join(
        text(before) + (place if field is not None else '')
        for before, field, _, _ in string.Formatter().parse(template)
    )


def _is_of(template, name, saved):
    """Tell whether a name is that of a template with a fitting number."""
    found = re.match(_fields(template, '(.+)', re.escape) + '$', name, re.S)
    if not found:
        return False
    numbers = {saved.iter, saved.epoch}
    numbers |= {int(text) for text in found.groups() if text.isdigit()}
    return any(template.format(number) == name for number in numbers)


class Checkpoints:
    """The checkpoints of a training.

    Args:
        folder (str): Where they are. It need not exist.
        filename_tmpl (str | None): Name of the checkpoints, with or without a
            place for the number, if it is not one of the usual two.
    """

    def __init__(self, folder, filename_tmpl=None):
        self.folder = folder
        self.templates = [BY_EPOCH, BY_ITER]
        if filename_tmpl is not None and filename_tmpl not in self.templates:
            self.templates.insert(0, filename_tmpl)

    @classmethod
    def of_config(cls, cfg):
        """Return those of the training that a config describes.

        Args:
            cfg (mmcv.Config): With ``work_dir``.
        """
        saving = cfg.get('checkpoint_config') or {}
        return cls(
            saving.get('out_dir') or cfg.work_dir, saving.get('filename_tmpl')
        )

    @classmethod
    def of_runner(cls, runner):
        """Return those of a training that runs, whatever hook saves them.

        Args:
            runner (BaseRunner): With its hooks.
        """
        hook = saving_hook(runner)
        if hook is None:
            return cls(runner.work_dir)
        return cls(
            hook.out_dir or runner.work_dir, hook.args.get('filename_tmpl')
        )

    @property
    def latest_link(self):
        """str: The name that stands for the latest one."""
        return osp.join(self.folder, LATEST)

    def list(self):
        """List the checkpoints, the latest first.

        Returns:
            list[Saved]: First those of the latest training that was started
            here, whatever their numbers: it may have resumed from an earlier
            one. Those that cannot be read come last.
        """
        found = {}
        for template in self.templates:
            pattern = _fields(template, '*', escape)
            for path in glob(osp.join(escape(self.folder), pattern)):
                name = osp.relpath(path, self.folder)
                if path not in found and osp.isfile(path):
                    saved = _describe(path)
                    if _is_of(osp.normpath(template), name, saved):
                        found[path] = saved
        latest = osp.realpath(self.latest_link)

        def order(saved):
            # Only those of mmcv do not tell what came after a resume.
            linked = saved.run == 0 and osp.realpath(saved.path) == latest
            return saved.run, linked, saved.iter, saved.epoch, saved.path

        return sorted(found.values(), key=order, reverse=True)

    def last_run(self):
        """Return the number of the last training that saved here; 0: none."""
        found = [saved.run for saved in self.list()]
        return max([0, _describe(self.latest_link).run, *found])

    def latest(self):
        """Return the path of the latest one, by its contents.

        Returns:
            str | None: ``latest.pth`` where it stands for it. None: there is
            none.
        """
        link = self.latest_link
        listed = self.list()
        if osp.isfile(link):
            linked = _describe(link)[1:]
            first = listed[0][1:] if listed else (-1,)
            # Those of mmcv do not tell what came after a resume.
            if linked >= first or linked[0] == first[0] == 0:
                return link
        return listed[0].path if listed else None

    def find_whole(self, logger=None):
        """Find the latest whole checkpoint.

        Damaged files are named in the log and stay where they are.

        Args:
            logger (logging.Logger | None): Told which are passed over.

        Returns:
            str | None: Path; None if there is no checkpoint at all.

        Raises:
            UserError: There are checkpoints, but none is whole.
        """
        paths = [saved.path for saved in self.list()]
        link = self.latest_link
        if osp.lexists(link):
            first = self.latest() == link or _describe(link).iter < 0
            paths.insert(0 if first else len(paths), link)
        # What says nothing of itself is looked at first, for its fault.
        paths.sort(key=lambda path: _describe(path).iter >= 0)
        tried, silent = set(), None
        for path in paths:
            if osp.realpath(path) in tried:
                continue
            tried.add(osp.realpath(path))
            try:
                load_from_local(path, 'cpu')
            except (OSError, ValueError) as error:
                # A damaged file is a mistake of the user; a bug is not.
                if not isinstance(error, OSError) and not is_user_error(error):
                    raise
                mmcv.print_log(
                    f'Passed over: {error}', logger, level=logging.WARNING
                )
                continue
            if _describe(path).iter >= 0:
                return path
            silent = silent or path
        if tried and silent is None:
            raise UserError(
                f'no checkpoint in {self.folder} is whole: bring one back, or '
                'remove them to start from the beginning'
            )
        return silent


def saving_hook(runner):
    """Return the hook of a runner that saves checkpoints, or None."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and (
            hook.interval > 0 or getattr(hook, 'interval_minutes', None)
        ):
            return hook
    return None


# Saving ---------------------------------------------------------------------


class ResumableCheckpointHook(CheckpointHook):
    """Save checkpoints that hold the random states of all ranks.

    ``max_keep_ckpts`` limits the number of files, of epochs and of iterations
    alike; the best checkpoint stays in addition. Those of more iterations
    also stay: they belong to a run that was given up.

    A checkpoint inside of an epoch is named by iterations, ``iter_N.pth``
    where ``filename_tmpl`` is for epochs.

    Args:
        *args: As for mmcv's ``CheckpointHook``.
        interval_minutes (float | None): Also save inside an epoch when the
            last checkpoint is this old. The file, ``iter_N.pth``, replaces
            the one that this run saved so before. None: never.
        **kwargs: As for mmcv's ``CheckpointHook``.

    Raises:
        UserError: ``interval_minutes`` is not a positive number, or
            ``filename_tmpl`` cannot be filled in.
    """

    # Iterations between two looks at the clock, at most.
    LOOK_AFTER = 1000

    def __init__(self, *args, interval_minutes=None, **kwargs):
        super().__init__(*args, **kwargs)
        if interval_minutes is not None and not (
            isinstance(interval_minutes, (int, float)) and interval_minutes > 0
        ):
            raise UserError(
                f'checkpoint_config.interval_minutes={interval_minutes!r} '
                'must be a positive number, or None'
            )
        if 'filename_tmpl' in self.args:
            check_template(self.args['filename_tmpl'])
        self.interval_minutes = interval_minutes
        self._run = 0
        self._saved = None  # iterations done and path of the last one
        self._saved_by_time = None
        self._saved_as_best = None
        self._amid = False  # an epoch
        self._late = False  # due, but a step was not complete

    def before_run(self, runner):
        """Start the clock; look which runs have saved here before."""
        self._restart_clock()
        if not self.out_dir:
            self.out_dir = runner.work_dir
        store = Checkpoints.of_runner(runner)
        if runner.rank == 0:
            self._run = store.last_run() + 1
        engine = engine_of(getattr(runner, 'optimizer', None))
        if engine is not None:
            engine.find_checkpoint = store.latest

    def before_train_iter(self, runner):
        """Note that an epoch is not complete."""
        self._amid = True

    def after_train_epoch(self, runner):
        """Save if a checkpoint is due, by epochs."""
        self._amid = False
        super().after_train_epoch(runner)

    def after_train_iter(self, runner):
        """Save if a checkpoint is due, by iterations or by the clock.

        Gradients that wait for further iterations of a step are in no
        checkpoint: what is due amid a step is saved when it is complete.
        """
        self._amid = True
        due = not self.by_epoch and self.every_n_iters(runner, self.interval)
        if amid_step(runner):
            self._late = self._late or due
        elif due:
            super().after_train_iter(runner)
        elif self._late:
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iters')
            average_bn_stats(runner.model)
            self._save_checkpoint(runner)
        elif self.interval_minutes is not None and self._is_time():
            self._save_by_time(runner)

    def _restart_clock(self):
        self._late = False
        self._saved_at = self._looked_at = time.monotonic()
        self._stride = self._iters_to_look = 1

    def _is_time(self):
        """Ask the clock of rank 0, which decides for all ranks.

        The ranks do not meet in every iteration: the next look is, by the
        pace so far, halfway to the time.
        """
        self._iters_to_look -= 1
        if self._iters_to_look:
            return False
        now = time.monotonic()
        left = self._saved_at + 60 * self.interval_minutes - now
        pace = max((now - self._looked_at) / self._stride, 1e-6)
        stride = min(max(int(left / pace / 2), 1), self.LOOK_AFTER)
        is_time, stride = broadcast_object((left <= 0, stride))
        self._looked_at = now
        self._stride = self._iters_to_look = stride
        return is_time

    def _iters_done(self, runner):
        return runner.iter + 1 if self._amid else runner.iter

    def _path(self, runner):
        """Return where a checkpoint of this moment belongs."""
        usual = BY_EPOCH if self.by_epoch else BY_ITER
        template = self.args.get('filename_tmpl', usual)
        number = self._iters_done(runner)
        if self.by_epoch and self._amid:
            # No epoch has a number yet; a name without one serves always.
            template = BY_ITER if has_place(template) else template
        elif self.by_epoch:
            number = runner.epoch + 1
        return osp.join(self.out_dir, template.format(number))

    def path_of_best(self, runner):
        """Return the file for the evaluation that follows an epoch.

        Args:
            runner (BaseRunner): At the end of an epoch.

        Returns:
            tuple[str, bool]: Path, and whether there is such a file already.
            One that the next checkpoint will overwrite does not serve.
        """
        if has_place(self.args.get('filename_tmpl', '{}')):
            if self._saved and self._saved[0] == self._iters_done(runner):
                return self._saved[1], True
            return self._path(runner), False
        name = BY_EPOCH.format(runner.epoch + 1)
        return osp.join(self.out_dir, name), False

    def note_resumed(self, runner, path):
        """Note which checkpoint holds what the run begins with.

        Args:
            runner (BaseRunner): Resumed.
            path (str): Its path or address.
        """
        path = path if '://' in path else osp.realpath(path)
        self._saved = runner.iter, path

    def save_best(self, runner):
        """Save what was evaluated as the best, where nothing else did.

        It replaces the one that this run saved so before. Every rank calls
        it.

        Args:
            runner (BaseRunner): At the end of an epoch.
        """
        path, _ = self.path_of_best(runner)
        before, self._saved_as_best = self._saved_as_best, path
        self._save(runner, self._replace, path, before)

    def _save_checkpoint(self, runner):
        path = self._path(runner)
        self._save(runner, self._write, path)
        # On every rank: path_of_best decides for all of them.
        self._saved = self._iters_done(runner), path

    def _save_by_time(self, runner):
        runner.logger.info(
            f'Saving checkpoint at {runner.iter + 1} iterations, '
            f'{self.interval_minutes} minutes after the last one'
        )
        average_bn_stats(runner.model)
        name = BY_ITER.format(runner.iter + 1)
        before = self._saved_by_time
        self._saved_by_time = osp.join(self.out_dir, name)
        self._save(runner, self._replace, self._saved_by_time, before)

    def _save(self, runner, write, *where):
        for hook in runner.hooks:
            if hasattr(hook, 'before_save'):
                hook.before_save(runner)
        # Every rank gathers; rank 0 writes.
        runner.gather_random_states()
        if runner.rank == 0:
            write(runner, *where)
        self._restart_clock()

    def _write_to(self, runner, path):
        settings = dict(self.args, save_optimizer=self.save_optimizer)
        settings['meta'] = dict(settings.get('meta') or {}, run=self._run)
        # The name is complete: a runner may number otherwise.
        name = osp.relpath(path, self.out_dir)
        settings['filename_tmpl'] = name.replace('{', '{{').replace('}', '}}')
        runner.save_checkpoint(self.out_dir, **settings)
        if runner.meta is not None:
            runner.meta.setdefault('hook_msgs', {})['last_ckpt'] = path

    def _write(self, runner, path):
        self._write_to(runner, path)
        if self.max_keep_ckpts > 0:
            self._remove_old(runner, path)

    def _remove_old(self, runner, path):
        """Remove what is too many, but the best, and what came later."""
        store = Checkpoints(self.out_dir, self.args.get('filename_tmpl'))
        newest = _describe(path)
        best = [
            osp.realpath(hook.best_json.get('best_ckpt', ''))
            for hook in runner.hooks
            if isinstance(hook, EvalHook)
        ]
        files = [
            saved
            for saved in store.list()
            if 0 <= saved.iter <= newest.iter
            and saved.path != self._saved_as_best
        ]
        for saved in files[self.max_keep_ckpts :]:
            if osp.realpath(saved.path) not in [*best, osp.realpath(path)]:
                self._remove(runner, saved.path)

    def _replace(self, runner, path, before):
        self._write_to(runner, path)
        if before not in (None, path) and osp.exists(before):
            self._remove(runner, before)

    def _remove(self, runner, path):
        try:
            os.remove(path)
        except OSError as error:
            runner.logger.warning('Could not be removed: %s', error)
