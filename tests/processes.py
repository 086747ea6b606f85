"""Several real processes that work together, as a fixture."""

import pytest
from launching import torch_launcher


@pytest.fixture
def launch(run, free_port):
    """Runs a Python program in several processes with torch's launcher.

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
