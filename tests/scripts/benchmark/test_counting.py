"""What is counted is what an accelerator would wait for, or launch."""

import torch

from benchmark.bundle import SMALL
from benchmark.case import start
from benchmark.counting import HostReads, count_operators


def test_each_read_counts_once_with_its_bytes():
    values = torch.zeros(6)
    with HostReads() as reads:
        values.cpu().tolist()
        values.numpy()
        float(values[0])
        values[:2].tolist()
        if values[0] > 1:
            raise AssertionError
        values * 2
    assert reads.names == ['cpu', '__float__', 'tolist', '__bool__']
    assert reads.bytes == 6 * 4 + 4 + 2 * 4 + 1
    # And nothing is left behind.
    assert torch.zeros(1).item() == 0
    assert reads.bytes == 37


def test_operators_are_counted_with_the_backward_pass():
    weight = torch.ones(3, requires_grad=True)
    forward = count_operators(lambda: weight * 2)
    both = count_operators(lambda: (weight * 2).sum().backward())
    assert 1 <= forward < both


def test_a_step_launches_little_and_waits_for_nothing():
    source = dict(config=str(SMALL), data='')
    sizes = dict(batch=2, steps=1)
    facts = next(start('network.outside_network', source, sizes))
    # mmpose 0.8.0: more than 700 operators, four reads, all heatmaps.
    assert facts['operators'] < 300
    assert facts['host_reads'] == facts['host_bytes'] == 0
