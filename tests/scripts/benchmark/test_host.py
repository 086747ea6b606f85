"""Mixed precision costs the host little: counts, no times."""

import pytest
from mpii_data import write_mpii

from benchmark.bundle import LARGE
from benchmark.case import start
from benchmark.counting import can_listen


@pytest.mark.skipif(
    not can_listen(), reason='this torch cannot list its operators'
)
def test_o2_dispatches_hardly_more_than_fp32(tmp_path):
    source = dict(config=str(LARGE), data=str(write_mpii(tmp_path / 'mpii')))

    def counts(enabled, **options):
        override = {'amp.enabled': enabled, 'amp.backend': 'native'}
        case = start(
            'host.iteration',
            dict(source, override=override),
            dict(skip=2, iterations=1, **options),
        )
        next(case)
        found = case.send(1)
        case.close()
        return found['dispatches'], found['kernels']

    plain = counts(False)
    assert plain[0] > 2000
    for on_device in (False, True):
        o2 = counts(True, on_device=on_device)
        # From weight to weight it was 1.4 times, undone on the device 3 times.
        assert o2[0] <= 1.15 * plain[0] and o2[1] <= 1.05 * plain[1]
