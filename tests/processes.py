"""Several real processes that work together, as a fixture."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from launching import TORCH, torch_launcher

IN_RANK = Path(__file__).with_name('in_rank.py')
# Plain data of our own making; torch 1.8 does not know the argument.
TRUSTED = dict(weights_only=False) if TORCH >= (2, 0) else {}


@pytest.fixture
def launch(run, free_port):
    """Run a Python program in several processes with torch's launcher.

    Returns:
        callable: ``launch(processes, script, *arguments, check=True)`` gives
        the CompletedProcess; a status other than 0 fails the test if
        ``check``. Further keyword arguments are for the fixture ``run``.
    """

    def execute(processes, script, *arguments, check=True, **kwargs):
        command = torch_launcher(script, processes, free_port, *arguments)
        done = run(command, **kwargs)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return execute


def call_of(function, out, *arguments, launcher='none'):
    """Return the words after Python's that call a function, see in_rank.py."""
    file = inspect.getsourcefile(function)
    return [IN_RANK, launcher, out, file, function.__name__, *arguments]


def returned(out, count):
    """Return what a function returned in each of so many processes."""
    return [
        torch.load(str(out / f'{rank}.pt'), **TRUSTED) for rank in range(count)
    ]


@pytest.fixture
def apart(run, tmp_path_factory):
    """Call a function in a process of its own.

    Returns:
        callable: ``apart(function, *arguments)`` gives what the function
        returned, and the CompletedProcess. Arguments arrive as text.
        Keyword arguments are for the fixture ``run``.
    """

    def execute(function, *arguments, **kwargs):
        out = tmp_path_factory.mktemp('apart')
        command = [sys.executable, *call_of(function, out, *arguments)]
        done = run(command, **kwargs)
        assert done.returncode == 0, done.stdout + done.stderr
        return returned(out, 1)[0], done

    return execute


@pytest.fixture
def ranks(launch, tmp_path_factory):
    """Call a function in several ranks of a gloo group.

    Returns:
        callable: ``ranks(processes, function, *arguments)`` gives what the
        function returned, in order of rank. It is imported from its file;
        arguments arrive as text.
    """

    def execute(processes, function, *arguments, **kwargs):
        out = tmp_path_factory.mktemp('ranks')
        words = call_of(function, out, *arguments, launcher='pytorch')
        launch(processes, *words, **kwargs)
        return returned(out, processes)

    return execute
