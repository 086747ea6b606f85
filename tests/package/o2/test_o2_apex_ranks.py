"""Apex on several devices: the same bits as the native engine.

With the stand-in for Apex in each run, and with Apex itself where
``APEX_TREE`` names a source tree of it.
"""

import functools

import pytest
import torch
from apex_tree import APEXES, CONTRACT, load_apex
from mmcv.parallel import MMDistributedDataParallel
from mmcv.runner.dist_utils import get_dist_info
from mmcv.utils import Config
from mmpose.apis.train import _wrap
from o2_cases import HALF, NativeDriver, Toy, equal, make_case, run_batch

from hourglass_npu.o2.apex import ApexO2
from hourglass_npu.o2.settings import AmpOptions

STEPS = 4
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
# Scale and passes of a step; rank 1 alone overflows in step 2 if it is
# dynamic, in the first pass of the step.
TRAININGS = dict(
    static=(2.0**15, 1),
    accumulated=(2.0**15, 2),
    dynamic=('dynamic', 1),
    dynamic_accumulated=('dynamic', 2),
)


def make_native(model, optimizer, scale):
    case = make_case('sgd', scale=scale)
    return NativeDriver(model, optimizer, case).engine


def make_apex(model, optimizer, scale):
    options = AmpOptions(loss_scale=scale, loss_in_half=True)
    return ApexO2(model, optimizer, options, HALF)


def train(make_engine, make_optimizer, scale, passes, wrap=None):
    """Train on this rank's batches; return what has become of it."""
    rank, _ = get_dist_info()
    model = Toy()
    optimizer = make_optimizer(list(model.parameters()))
    engine = make_engine(model, optimizer, scale)
    if wrap is None:
        config = Config(dict(find_unused_parameters=True))
        device = torch.device('cpu')
        wrapped = _wrap(model, config, device, True, optimizer)
    else:
        wrapped = wrap(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        for k in range(passes):
            index = 2 * (step * passes + k) + rank
            loss = run_batch(wrapped, index)
            bad = step == 2 and rank == 1 and k == 0 and scale == 'dynamic'
            with engine.scale_loss(loss) as scaled:
                (scaled * (1e8 if bad else 1)).backward()
        optimizer.step()
    engine.finish()
    return dict(
        masters=[p.detach().clone() for p in engine.master_params()],
        low=[p.detach().clone() for p in model.parameters()],
        skipped=engine.skipped_steps,
        scale=engine.loss_scale,
    )


def run_in_a_rank(tree):
    """Return what this rank finds in all cases."""
    found = {}
    for name, (scale, passes) in TRAININGS.items():
        native = train(make_native, SGD, scale, passes)
        found[name, 'native'] = native
        with load_apex(tree):
            found[name, 'apex'] = train(make_apex, SGD, scale, passes)
            if tree == CONTRACT:
                from apex.optimizers import NpuFusedSGD

                fused = functools.partial(NpuFusedSGD, lr=0.1, momentum=0.9)
                found[name, 'fused'] = train(make_apex, fused, scale, passes)
    # Programs that wrap the model in their own way.
    bare = MMDistributedDataParallel
    with load_apex(tree):
        for name, (scale, passes) in TRAININGS.items():
            found[name, 'views'] = train(make_apex, SGD, scale, passes, bare)
        if tree == CONTRACT:
            with pytest.raises(RuntimeError, match='gradient_as_bucket_view'):
                train(make_apex, fused, 2.0**15, 1, bare)
    return found


_ran = {}


@pytest.fixture(params=APEXES)
def found(ranks, request):
    """Return what the two processes found, in order of rank; run once."""
    if request.param not in _ran:
        _ran[request.param] = ranks(2, run_in_a_rank, request.param)
    return _ran[request.param]


@pytest.mark.parametrize('engine', ['apex', 'views', 'fused'])
@pytest.mark.parametrize('name', TRAININGS)
def test_two_ranks_with_apex_equal_native(found, name, engine):
    dynamic = TRAININGS[name][0] == 'dynamic'
    for rank in found:
        if (name, engine) not in rank:
            pytest.skip('this Apex has no such optimizer')
        theirs, native = rank[name, engine], rank[name, 'native']
        assert theirs['skipped'] == native['skipped']
        assert bool(theirs['skipped']) == dynamic
        assert theirs['scale'] == native['scale']
        assert equal(theirs['masters'], native['masters'])
        assert equal(theirs['low'], native['low'])
        assert equal(theirs['masters'], found[0][name, engine]['masters'])
