"""What guards a training: hooks against signals, hangs and broken losses.

Hooks for ``train_model``; :func:`make` gives those of a run. What a user sees
of them is in docs/RELIABILITY.md.
"""

import functools
import json
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch
from mmcv.runner import Hook
from mmcv.runner.dist_utils import (
    get_device,
    get_dist_info,
    get_host_group,
)
from mmcv.runner.hooks.optimizer import amid_step, engine_of

from hourglass_npu.errors import (
    OTHERS_SPEAK_AFTER,
    Stopped,
    UserError,
    explain_failure,
    leave,
    note_signal,
)
from hourglass_npu.lifetime import end_with_parent
from hourglass_npu.o2.overflow import DeviceFlag, saturation_flag
from hourglass_npu.training.checkpoints import Checkpoints, saving_hook
from hourglass_npu.training.ranks import average_bn_stats, barrier

DEFAULT_TIMEOUT = 1800
"""Seconds without progress until a rank counts as stuck, as in torch."""


def make(cfg):
    """Make the hooks that guard a training.

    Args:
        cfg (mmcv.Config): ``dist_params.timeout`` is the limit for ranks.

    Returns:
        list[Hook]: In the order to register them.
    """
    limit = cfg.dist_params.get('timeout') or DEFAULT_TIMEOUT
    return [LossGuard(), SignalGuard(), RankGuard(limit)]


# Signals ------------------------------------------------------------------

_NOHUP = signal.SIGHUP, signal.SIG_IGN


class SignalGuard(Hook):
    """Stop a training in good order, or save, when a signal asks for it.

    SIGTERM, SIGINT and SIGHUP: finish the step, with all its iterations
    (``cumulative_iters``), write a checkpoint and raise
    :class:`hourglass_npu.errors.Stopped`. A second signal, a second or more
    later, ends the process at once (one Ctrl-C can come twice, from the
    terminal and from the launcher). SIGUSR1: the same without the end. While
    the run is evaluated, which changes nothing, the first three end that.
    Under nohup, SIGHUP stays ignored.

    All ranks have to save in the same iteration. So each sends the others, in
    a sum of two numbers through the host's memory, what it was asked for, and
    reads the answer an iteration later, when it has arrived. Nothing waits
    for a device, and a signal to one rank is a signal to all.

    Register it behind the checkpoint hook and before the evaluation.
    """

    SIGNALS = (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
    )

    def __init__(self):
        self.asked = [0, 0]  # signal to stop by, whether to save
        self._first = None
        self._pending = None
        self._evaluating = False
        self._unsaved = None
        self._previous = {}
        self._process = os.getpid()

    def before_run(self, runner):
        """Take the signals over, as far as this is the main thread."""
        self._evaluating = True  # a resumed run may begin with it
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if (number, signal.getsignal(number)) != _NOHUP:
                    self._previous[number] = signal.signal(number, self._note)

    def after_run(self, runner):
        """Give the signals back."""
        self._answer()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if os.getpid() != self._process:  # forked from us: a data worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGUSR1:
            self.asked[1] = 1
        elif self._first is None:
            self._first = time.monotonic()
            self.asked[0] = number
            note_signal(number)
            if self._evaluating:
                raise Stopped(number)
        elif time.monotonic() - self._first > 1:
            leave(128 + number, 'stopped at once, without saving')

    def before_train_epoch(self, runner):
        """Let data workers outlive the signals that this process gets."""
        self._evaluating = False
        self._unsaved = None
        loader = runner.data_loader
        start = getattr(loader, 'worker_init_fn', None)
        if getattr(start, 'func', None) is not _outlive_signals:
            loader.worker_init_fn = functools.partial(_outlive_signals, start)

    def after_train_iter(self, runner):
        """Do what all ranks were asked for an iteration ago."""
        if get_dist_info()[1] == 1:
            self._obey(runner, *self.asked)
            return
        answer = self._answer()
        self._ask()
        if answer is not None:
            self._obey(runner, *answer)

    def after_train_epoch(self, runner):
        """Obey before the evaluation begins, which may take long."""
        if get_dist_info()[1] > 1:
            self._answer()
            self._ask()
            self._obey(runner, *self._answer())
        else:
            self._obey(runner, *self.asked)
        saving = saving_hook(runner)
        if saving is not None and not (
            saving.by_epoch and self.every_n_epochs(runner, saving.interval)
        ):
            self._unsaved = runner
        self._evaluating = True

    def save_epoch(self):
        """Save an epoch whose evaluation was stopped, if nothing else did.

        To be called for :class:`hourglass_npu.errors.Stopped`, by every rank.
        """
        runner, self._unsaved = self._unsaved, None
        if runner is not None and runner.mode == 'train':
            self._save(runner)

    def _ask(self):
        asked = torch.tensor(self.asked, dtype=torch.int32)
        work = torch.distributed.all_reduce(
            asked,
            op=torch.distributed.ReduceOp.MAX,
            group=get_host_group(),
            async_op=True,
        )
        self._pending = work, asked

    def _answer(self):
        if self._pending is None:
            return None
        (work, asked), self._pending = self._pending, None
        work.wait()
        return asked.tolist()

    def _obey(self, runner, number, save):
        if amid_step(runner):
            return  # still asked in the next iteration
        if save or number:
            self.asked[1] = 0
            self._save(runner)
        if number:
            raise Stopped(number)

    def _save(self, runner):
        saving = saving_hook(runner)
        if saving is None:
            runner.logger.warning('checkpoint_config is None: nothing saved')
            return
        if get_dist_info()[1] > 1:
            average_bn_stats(runner.model)
        saving._save_checkpoint(runner)
        runner.logger.info('Saved a checkpoint, as a signal asked for')
        # Nobody may leave, and have the launcher end the others, before the
        # file is there. Behind that it does not matter who is gone already.
        with suppress(RuntimeError):
            barrier()


def _outlive_signals(start, worker_id):
    """Start a data worker that is there until its parent has finished.

    Signals often go to all processes of a job. SIGTERM leaves the worker 20 s,
    less than launchers leave ranks. If the parent is killed, the worker is,
    too; torch alone would see it after 5 s.

    Args:
        start (callable | None): What else to do at the start.
        worker_id (int): Number of the worker.
    """
    # The thread that starts workers is the one that trains, and outlives them.
    end_with_parent()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(
        _end_without_batch
    )
    sys.excepthook = _say_in_a_line
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(20))
    if start is not None:
        start(worker_id)


def _say_in_a_line(kind, error, trace):
    """Print what a thread of a data worker has failed for."""
    words = explain_failure(error)
    if words is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f'error: in a data worker: {words}', file=sys.stderr)


def _end_without_batch(error, batch):
    """End a data worker that cannot hand over a batch.

    Python would print a traceback and go on, and the training would wait for
    the batch for ever.
    """
    words = explain_failure(error) or repr(error)
    leave(1, f'error: a batch could not be handed over: {words}')


# Ranks that hang ----------------------------------------------------------


class RankGuard(Hook):
    """End a job of several ranks that makes no progress, and say why.

    A thread of each rank looks once a second how many iterations, or batches
    of an evaluation, the rank has begun and finished, and tells the others
    through the store of the group. Where nothing has moved for too long, the
    rank that does not tell any more, or that is behind, is named. That works
    wherever ranks wait, in a collective of whatever kind of device too.

    Args:
        timeout (float): Seconds without progress.
    """

    def __init__(self, timeout):
        self.timeout = timeout
        self.steps = 0
        self._told = 0
        self._ended = threading.Event()
        self._thread = None
        self._forward = None

    def before_run(self, runner):
        """Start the thread."""
        self.rank, self.ranks = get_dist_info()
        if self.ranks == 1:
            return
        self._store = _connect()
        # Evaluation calls no hooks, but the model.
        self._forward = runner.model.register_forward_pre_hook(self._step)
        main = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch, args=(main,), daemon=True
        )
        self._thread.start()

    def after_run(self, runner):
        """End the thread."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._forward.remove()

    def _step(self, *unused):
        self.steps += 1

    before_train_iter = after_train_iter = _step
    before_epoch = after_epoch = _step

    def _watch(self, main):
        seen, since = self.steps, time.monotonic()
        while not self._ended.wait(min(1, self.timeout / 4)):
            self._tell(main)
            if self.steps != seen:
                seen, since = self.steps, time.monotonic()
            elif time.monotonic() - since > self.timeout:
                self._give_up()

    def _tell(self, main):
        self._told += 1
        news = [self._told, self.steps, _place(main)]
        with suppress(RuntimeError):
            if self._store is not None:
                self._store.set(f'guard/{self.rank}', json.dumps(news))

    def _ask(self):
        """Return by rank what it told last, None if that is not known."""
        news = [None] * self.ranks
        for rank in range(self.ranks):
            with suppress(RuntimeError):
                if self._store is not None:
                    news[rank] = json.loads(self._store.get(f'guard/{rank}'))
        return news

    def _give_up(self):
        before = self._ask()
        time.sleep(2)
        self._tell(threading.main_thread().ident)
        now = self._ask()
        message = describe_hang(before, now, self.rank, self.timeout)
        if self.rank:  # one of them is enough, if it can speak
            time.sleep(OTHERS_SPEAK_AFTER)
        leave(1, f'error: {message}')


def describe_hang(before, now, me, timeout):
    """Say in words which rank a job waits for.

    Args:
        before (list): By rank what it told a while ago: how often it has
            told, the steps it has done, and where it is. None: nothing known.
        now (list): The same now; a rank that runs has told more often.
        me (int): Rank that asks.
        timeout (float): Seconds for which nothing has moved.

    Returns:
        str: Two sentences or three.
    """
    text = f'no progress for {timeout:g} s (dist_params.timeout).'
    silent = [
        rank
        for rank, (old, new) in enumerate(zip(before, now))
        if rank != me and (new is None or old == new)
    ]
    steps = [0 if new is None else new[1] for new in now]
    behind = [rank for rank, done in enumerate(steps) if done < max(steps)]
    stuck = silent or behind
    names = ', '.join(map(str, stuck))
    if silent:
        text += f' Rank {names} is stuck: it does not answer any more.'
    elif behind:
        text += f' Rank {names} is stuck: the others wait for it.'
    else:
        text += ' All ranks are in the same step.'
    places = [f'rank {rank}: {new[2]}' for rank, new in enumerate(now) if new]
    return f'{text} They were last seen in {"; ".join(places) or "no place"}.'


def _connect():
    """Return a store of this process's own, to be used by one thread."""
    address, port = (os.environ.get(f'MASTER_{n}') for n in ('ADDR', 'PORT'))
    if not address or not port:
        return None
    try:
        return torch.distributed.TCPStore(
            address, int(port), 1, False, timedelta(seconds=10)
        )
    except (RuntimeError, ValueError):
        return None


def _place(thread):
    """Return where a thread is: the innermost three functions."""
    frame = sys._current_frames().get(thread)
    names = []
    while frame is not None and len(names) < 3:
        code = frame.f_code
        file = os.path.basename(code.co_filename)
        names.append(f'{code.co_name} ({file}:{frame.f_lineno})')
        frame = frame.f_back
    return ' < '.join(names)


# Losses -------------------------------------------------------------------


class LossGuard(Hook):
    """End a training whose loss is not a finite number any more.

    The loss is looked at on the device. On a CPU that is before the step; on
    an accelerator the outcome is read one iteration later, when it has
    arrived, and before any checkpoint is written. On a chip that shows
    neither inf nor NaN its flag tells, of the last step, too. In mixed
    precision O2 such a step is left out, and the engine sees to it.
    """

    priority_name = 'HIGH'  # before the step

    def __init__(self):
        self._open = None
        self._saturation = None

    def before_train_epoch(self, runner):
        """Forgets what an evaluation may have left in the chip's flag."""
        self._saturation = saturation_flag(get_device())
        if self._saturation is not None:
            self._saturation[0]()

    def after_train_iter(self, runner):
        """Look at the loss.

        Raises:
            UserError: It is infinite or no number.
        """
        self.before_save(runner)
        loss = (runner.outputs or {}).get('loss')
        if not torch.is_tensor(loss) or engine_of(runner.optimizer):
            return
        loss = loss.detach()
        broken = (~torch.isfinite(loss)).any().float()
        if self._saturation is not None:
            clear, read = self._saturation
            broken = torch.max(broken, read())
            clear()
        place = (runner.iter + 1, runner.epoch + 1, runner.current_lr())
        batch = getattr(runner, 'data_batch', None)
        self._open = DeviceFlag(broken), loss, place, batch
        if loss.device.type == 'cpu':
            self.before_save(runner)

    def after_train_epoch(self, runner):
        """Read what is open."""
        self.before_save(runner)

    def before_save(self, runner):
        """Read what is open, so that no broken weights are saved."""
        if self._open is None:
            return
        (flag, loss, place, batch), self._open = self._open, None
        if flag.read():
            self._stop(runner, loss, place, batch)

    def _stop(self, runner, loss, place, batch):
        iteration, epoch, rates = place
        rates = rates if isinstance(rates, dict) else {'': rates}
        report = dict(
            iteration=iteration,
            epoch=epoch,
            rank=runner.rank,
            loss=str(loss.tolist()),
            learning_rates=rates.get('', rates),
            people=_people(batch, runner.data_loader.dataset),
        )
        name = f'nonfinite_iter{iteration}_rank{runner.rank}.json'
        path = os.path.join(runner.work_dir, name)
        try:
            with open(path, 'w') as stream:
                json.dump(report, stream, indent=1)
            listed = f'the {len(report["people"])} people are listed in {path}'
        except OSError as error:
            listed = f'the people could not be listed: {error}'
        good = None
        with suppress(UserError):
            good = Checkpoints.of_runner(runner).find_whole('silent')
        good = os.path.realpath(good) if good else 'none'
        rate = next(iter(rates.values()))[0]
        what = f'the loss is {report["loss"]}'
        if torch.isfinite(loss).all():
            what = f'numbers overflow on this chip ({what} where no inf shows)'
        raise UserError(
            f'{what} in iteration {iteration} (epoch '
            f'{epoch}, learning rate {rate:g}, rank {runner.rank}); {listed}. '
            f'Last good checkpoint: {good}. Lower the learning rate, or look '
            'at these people'
        )


def _people(batch, dataset):
    """Describe the people of a batch.

    Args:
        batch (dict): From the data loader.
        dataset (Dataset): Where they are from.

    Returns:
        list[dict]: Of each what JSON can hold: ``image_file``, the crop,
        ``annotations`` (numbers of the people in that picture), and
        ``broken_inputs``, tensors of the sample that are not finite.
    """
    batch = batch or {}
    metas = batch.get('img_metas', ())
    while hasattr(metas, 'data') or (
        isinstance(metas, (list, tuple))
        and len(metas) == 1
        and not isinstance(metas[0], dict)
    ):
        metas = metas.data if hasattr(metas, 'data') else metas[0]
    while not hasattr(dataset, 'db') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    numbers = {}
    for number, record in enumerate(getattr(dataset, 'db', ())):
        numbers.setdefault(record.get('image_file'), []).append(number)
    people = []
    for index, meta in enumerate(metas):
        person = {
            key: getattr(meta[key], 'tolist', lambda v=meta[key]: v)()
            for key in ('image_file', 'center', 'scale', 'rotation')
            if key in meta
        }
        person['annotations'] = numbers.get(meta.get('image_file'), [])
        person['broken_inputs'] = [
            key
            for key, value in batch.items()
            if torch.is_tensor(value)
            and len(value) == len(metas)
            and not torch.isfinite(value[index].float()).all()
        ]
        people.append(person)
    return people
