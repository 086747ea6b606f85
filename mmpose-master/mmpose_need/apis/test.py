"""mmpose/apis/test.py: inference over a data set, by one rank or all."""

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
from tqdm import tqdm


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
    return _predict(model, data_loader)


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
    results = _predict(model, data_loader, *get_dist_info())
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


def _predict(model, data_loader, rank=0, ranks=1):
    """Return the outputs by batch; rank 0 tells how far all ranks are.

    A bar is for a terminal only; elsewhere (a log file, a pipe) one line at
    the end says the same.
    """
    model.eval()
    results = []
    total, started = len(data_loader.dataset), time.time()
    bar = tqdm(total=total, unit=' samples', disable=True if rank else None)
    done, silent = 0, bar.disable
    forward = getattr(type(_inner(model)), 'forward_test', None)
    people = forward is TopDown.forward_test
    for batch, result in _outputs(model, data_loader):
        # The first entry of a batch tells its size.
        size = len(next(iter(batch.values())))
        # Of several people TopDown returns a list of what it returns of one;
        # what the list of another model means is its own affair.
        several = people and size > 1 and isinstance(result, list)
        results.extend(result if several else [result])
        before, done = done, min(done + size * ranks, total)
        bar.update(done - before)  # padding does not count
    bar.close()
    if silent and rank == 0:
        seconds = time.time() - started
        sys.stderr.write(
            f'Tested {done} samples in {seconds:.1f} s, '
            f'{done / max(seconds, 1e-9):.1f} per second\n'
        )
        sys.stderr.flush()
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
