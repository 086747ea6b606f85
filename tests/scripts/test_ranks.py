"""The store through which ranks find each other."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: it sets the module's store. The kinds of store are
# torch 2.7's, where the newer one takes no socket.
CODE = """
import sys
from torch import distributed
store = distributed.TCPStore
class Store(store):
    def __init__(self, *args, use_libuv=True, **kwargs):
        assert not (use_libuv and 'master_listen_fd' in kwargs)
        super().__init__(*args, use_libuv=use_libuv, **kwargs)
Store.__init__.__doc__ = store.__init__.__doc__
distributed.TCPStore = Store
sys.path.insert(0, 'scripts')
import ranks
ranks.listen_at_loopback()
from torch.distributed.elastic.rendezvous import static_tcp_rendezvous
from datetime import timedelta
made = static_tcp_rendezvous.TCPStore(
    '127.0.0.1', int(sys.argv[1]), 1, True, timedelta(seconds=20)
)
made.set('key', 'value')
print(made.get('key').decode())
"""


@pytest.mark.skipif(
    'use_libuv' not in str(torch.distributed.TCPStore.__init__.__doc__),
    reason='this torch has one kind of store',
)
def test_the_store_is_of_a_kind_that_takes_a_socket():
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    done = subprocess.run(
        [sys.executable, '-c', CODE, str(port)],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding='utf-8',
        timeout=100,
    )
    assert done.stdout == 'value\n'
