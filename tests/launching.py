"""How the tests start several real processes on this host."""

import sys

import torch

TORCH = tuple(int(n) for n in torch.__version__.split('+')[0].split('.')[:2])


def torch_launcher(script, processes, port, *arguments):
    """Return the command that starts a script with torch's own launcher."""
    if TORCH < (1, 10):
        module = ['torch.distributed.launch', '--use_env']
    else:
        module = ['torch.distributed.run', '--master_addr=127.0.0.1']
    return [
        sys.executable,
        '-m',
        *module,
        f'--nproc_per_node={processes}',
        f'--master_port={port}',
        script,
        *arguments,
    ]
