"""A process that measures on request.

Run as ``python -m benchmark.worker``. It reads requests from stdin and
answers on stdout, a JSON text in a line each:

- ``["make", KEY, CASE, OPTIONS]`` prepares a case of :mod:`.cases`;
- ``["round", KEY, SEED]`` measures it once and answers what it found;
- ``["end", KEY]`` lets go of it;
- ``["join", RANK, RANKS, ADDRESS, PORT]`` joins other workers as a process
  group.

An answer is ``{"result": ...}`` or ``{"error": TRACEBACK}``. Which mmpose is
measured is a matter of PYTHONPATH: everything is reached by public names.
"""

import json
import os
import sys
import traceback
from datetime import timedelta


def join(rank, ranks, address, port):
    """Form a process group over gloo."""
    import torch

    variables = dict(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE=ranks,
        MASTER_ADDR=address,
        MASTER_PORT=port,
    )
    os.environ.update({key: str(value) for key, value in variables.items()})
    torch.distributed.init_process_group(
        'gloo', timeout=timedelta(seconds=300)
    )


def answer(request, running):
    """Do what a request says.

    Args:
        request (list): See this module's docstring.
        running (dict): Cases by key; changed in place.
    """
    word, *arguments = request
    if word == 'join':
        return join(*arguments)
    if word == 'make':
        from benchmark.cases import CASES

        key, name, options = arguments
        running[key] = CASES[name](**options)
        return next(running[key])
    if word == 'round':
        key, seed = arguments
        return running[key].send(seed)
    key, *_ = arguments
    return running.pop(key).close()


def main():
    """Answer until stdin ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), 'w', 1)
    os.dup2(2, 1)
    running = {}
    for line in sys.stdin:
        try:
            reply = dict(result=answer(json.loads(line), running))
        except Exception:
            reply = dict(error=traceback.format_exc())
        answers.write(json.dumps(reply) + '\n')
        answers.flush()
    # Threads of a process group can abort an orderly end.
    sys.stderr.flush()
    os._exit(0)


if __name__ == '__main__':
    main()
