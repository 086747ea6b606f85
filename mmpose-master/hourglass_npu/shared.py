"""Memory that the processes of a data loader share."""

import os
import shutil

import torch


def shared_bytes(count):
    """Make a tensor that all processes of a data loader share.

    The system provides its memory page by page as it is written to, and frees
    it with the last process, however that ends.

    Args:
        count (int): Its size.

    Returns:
        Tensor[count]: Of uint8, zeros.
    """
    kind = getattr(torch, 'UntypedStorage', torch.ByteStorage)
    return torch.empty(0, dtype=torch.uint8).set_(kind._new_shared(count))


def free_bytes():
    """Return how much shared memory this process may take.

    Training processes on one host share it equally.
    """
    # The folder is only measured; no file is opened in it.
    free = [shutil.disk_usage('/dev/shm').free]  # noqa: S108
    with open('/proc/meminfo') as file:
        facts = dict(line.split(':') for line in file)
    free.append(int(facts['MemAvailable'].split()[0]) * 1024)
    return min(free) // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
