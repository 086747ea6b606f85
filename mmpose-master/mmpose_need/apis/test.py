"""mmpose/apis/test.py: inference over a data set, by one rank or all."""

import shutil
import sys
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch
from mmcv.parallel import is_module_wrapper
from mmcv.parallel.data_parallel import find_device
from mmcv.runner.dist_utils import gather_objects, get_dist_info
from mmpose.models import TopDown


def single_gpu_test(model, data_loader):
    """Run a model over a data set in this process.

    Args:
        model (nn.Module): Wrapped model; it is called with
            ``return_loss=False`` and the loader's batches.
        data_loader (DataLoader): In the order of the data set. With an
            attribute ``in_threads`` that is true, a ``TopDown`` on a CPU has
            several batches at a time.

    Returns:
        list: What the model returned, one element per batch; of ``TopDown``,
        which returns a list for a batch of several, one per person.
    """
    return _predict(model, data_loader, _Progress(len(data_loader.dataset)))


def multi_gpu_test(model, data_loader, tmpdir=None, gpu_collect=False):
    """Run a model over a data set that is spread over all ranks.

    The results and their order are those of one process: the sampler deals
    the samples in turn and fills up the last turn, which is undone here.

    Args:
        model (nn.Module): Wrapped model.
        data_loader (DataLoader): This rank's share, in batches of one, or
            of several for a model that returns a list of results by person.
        tmpdir (str | None): Ignored. Results do not pass through files, so
            ranks on several hosts need no common folder.
        gpu_collect (bool): Ignored. Results never pass through the device.

    Returns:
        list | None: Results in the order of the data set on rank 0, None on
        the other ranks.
    """
    size = len(data_loader.dataset)
    rank, world_size = get_dist_info()
    progress = _Progress(size) if rank == 0 else None
    results = _predict(model, data_loader, progress, stride=world_size)
    if gpu_collect:
        return collect_results_gpu(results, size)
    return collect_results_cpu(results, size, tmpdir)


def collect_results_cpu(result_part, size, tmpdir=None):
    """Join the results of all ranks in the order of the data set.

    Args:
        result_part (list): This rank's results; picklable, and equally many
            on every rank.
        size (int): Number of samples in the data set; the rest is padding.
        tmpdir (str | None): Ignored, see :func:`multi_gpu_test`.

    Returns:
        list | None: All results on rank 0, None on the other ranks.
    """
    parts = gather_objects(result_part)
    if parts is None:
        return None
    return [result for turn in zip(*parts) for result in turn][:size]


def collect_results_gpu(result_part, size):
    """Join the results of all ranks, as :func:`collect_results_cpu`.

    mmpose sends them through the device. Here both functions use the host,
    which needs no support for data types from a device.

    Args:
        result_part (list): This rank's results.
        size (int): Number of samples in the data set.

    Returns:
        list | None: All results on rank 0, None on the other ranks.
    """
    return collect_results_cpu(result_part, size)


def _predict(model, data_loader, progress, stride=1):
    """Return the outputs by batch; ``stride`` ranks advance together."""
    model.eval()
    results = []
    forward = getattr(type(_inner(model)), 'forward_test', None)
    people = forward is TopDown.forward_test
    for batch, result in _outputs(model, data_loader):
        # The first entry of a batch tells its size.
        size = len(next(iter(batch.values())))
        # Of several people TopDown returns a list of what it returns of one;
        # what the list of another model means is its own affair.
        several = people and size > 1 and isinstance(result, list)
        results.extend(result if several else [result])
        if progress is not None:
            progress.advance(size * stride)
    if progress is not None:
        progress.close()
    return results


def _outputs(model, data_loader):
    """Call the model on each batch, on the CPU on several at a time.

    How a convolution is split over threads changes the order of its sums, and
    so its last bits; a predicted joint can depend on them. Ranks share the
    cores, so each has fewer threads than a single process. For equal results
    with any number of ranks one thread computes each batch, and the threads
    of this process take a batch each, which is no slower than all of them on
    one. That is done where the loader asks for it, and for ``TopDown`` alone:
    another model may keep something of its input in itself.

    Args:
        model (nn.Module): In evaluation mode.
        data_loader (DataLoader): The batches.

    Yields:
        tuple[dict, Any]: Each batch and what the model returned, in order.
    """

    def call(batch):
        # Gradients are switched off for the calling thread only.
        with torch.no_grad():
            return model(return_loss=False, **batch)

    threads = torch.get_num_threads()
    if (
        threads == 1
        or not getattr(data_loader, 'in_threads', False)
        or type(_inner(model)) is not TopDown
        or getattr(find_device(model), 'type', None) != 'cpu'
        or _has_modes()
    ):
        for batch in data_loader:
            yield batch, call(batch)
        return

    torch.set_num_threads(1)
    try:
        # OpenMP keeps the number for each thread, and torch 1.8 does not
        # carry it over to new ones.
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            waiting = deque()
            for batch in data_loader:
                waiting.append((batch, pool.submit(call, batch)))
                if len(waiting) > threads:
                    batch, result = waiting.popleft()
                    yield batch, result.result()
            for batch, result in waiting:
                yield batch, result.result()
    finally:
        torch.set_num_threads(threads)


def _inner(model):
    return model.module if is_module_wrapper(model) else model


def _has_modes():
    """Tell whether the caller has set what holds for its thread alone."""
    asked = [torch.is_autocast_enabled()]
    for name in ('is_inference_mode_enabled', 'is_autocast_cpu_enabled'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch 2.4 has new names
            asked.append(getattr(torch, name, bool)())
    return any(asked)


class _Progress:
    """Progress bar with rate and time left, on standard error.

    If that is not a terminal (a log file, a pipe), only one line is written,
    at the end.

    Args:
        total (int): Number of samples.
    """

    # Seconds between two drawings: a small model must not wait for its bar.
    PERIOD = 0.1

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.started = time.time()
        self.drawn = 0.0
        self.live = sys.stderr.isatty()

    def advance(self, samples):
        """Count samples that are done; padding does not count."""
        self.done = min(self.done + samples, self.total)
        now = time.time()
        if self.live and now - self.drawn >= self.PERIOD:
            self.drawn = now
            self._draw(now)

    def close(self):
        """Draw the last state, or write the one line."""
        now = time.time()
        if self.live:
            self._draw(now)
            sys.stderr.write('\n')
        else:
            sys.stderr.write(
                f'Tested {self.done} samples in {now - self.started:.1f} s, '
                f'{self._rate(now):.1f} per second\n'
            )
        sys.stderr.flush()

    def _rate(self, now):
        return self.done / max(now - self.started, 1e-9)

    def _draw(self, now):
        rate = self._rate(now)
        left = (self.total - self.done) / rate if rate else 0
        minutes, seconds = divmod(int(left + 0.5), 60)
        text = (
            f' {self.done}/{self.total}, {rate:.1f} per second, '
            f'{minutes}:{seconds:02d} left '
        )
        room = shutil.get_terminal_size().columns - len(text) - 3
        width = max(0, min(40, room))
        filled = width * self.done // max(self.total, 1)
        bar = f'[{"#" * filled}{"." * (width - filled)}]' if width else ''
        sys.stderr.write(f'\r{bar}{text}')
        sys.stderr.flush()
