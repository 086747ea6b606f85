"""Each operator of a training has a kernel in each torch_npu that is served.

By the lists that Ascend publishes (``tests/npu_operators.json``), for the
releases of torch 2.1 and later. What an iteration launches is seen on a CPU.
"""

from unittest import mock

import operator_lists
import pytest
import torch
from mmcv.runner import EpochBasedRunner
from mmcv.runner.hooks.optimizer import AmpOptimizerHook, OptimizerHook

from hourglass_npu.training.guards import LossGuard

dispatch = pytest.importorskip('torch.utils._python_dispatch')
if not hasattr(dispatch, 'TorchDispatchMode'):
    pytest.skip('this torch cannot list operators', allow_module_level=True)

SERVED = [
    number
    for number, name in enumerate(operator_lists.RELEASES)
    if name >= '2.1'
]
# Types that an operator computes on the AI CPU, which is slow.
SLOW = dict(
    mul=(torch.int16, torch.complex128),
    eq=(torch.int16, torch.complex64, torch.complex128),
    lt=(torch.int16, torch.int64),
    gt=(torch.int16, torch.int64),
)
# torch's own, with forms for this CPU only.
OF_THE_CPU = {'_to_dense', 'mkldnn_convolution'}


class Listen(dispatch.TorchDispatchMode):
    """Notes operators and the types of their first tensors."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        dtypes = self.found.setdefault(func, set())
        if args and torch.is_tensor(args[0]) and args[0].dim():
            dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def needs_no_kernel(func):
    """Tell whether an operator is a view, or is made of others."""
    keys = ('CompositeImplicitAutograd', 'CompositeExplicitAutograd')
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    view = any(
        result.alias_info is not None and not result.alias_info.is_write
        for result in func._schema.returns
    )
    return view or any(has(func.name(), key) for key in keys)


@pytest.fixture(params=['fp32', 'o2'])
def launched(request, main, tiny, tmp_path, monkeypatch):
    """Return what a short training launches in its iterations."""
    listen = Listen()

    def noted(owner, name):
        plain = getattr(owner, name)

        def method(self, runner, *args, **kwargs):
            engine = getattr(
                getattr(runner, 'optimizer', None), 'amp_engine', None
            )
            if engine is not None:
                engine.selects_on_device = True  # as on an accelerator
            with listen:
                return plain(self, runner, *args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    noted(EpochBasedRunner, 'run_iter')
    for hook in (OptimizerHook, AmpOptimizerHook, LossGuard):
        noted(hook, 'after_train_iter')
    amp = ['amp.dtype=float16', 'amp.enabled=True']
    with mock.patch('torch.cuda.is_available', lambda: False):
        main(
            *('train', tiny, '--device', 'cpu', '--no-validate'),
            *('--work-dir', tmp_path / 'work', '--cfg-options'),
            *('total_epochs=1', 'optimizer.foreach=True'),
            *(amp if request.param == 'o2' else ['amp=none']),
        )
    return listen.found


def test_each_operator_has_a_kernel(launched):
    lists = operator_lists.load()
    names = {func: func.name().partition('::')[2] for func in launched}
    assert {'convolution', 'convolution_backward'} <= set(names.values())
    missing, compiled = set(), set()
    for func, name in names.items():
        letters = lists.get(name, '-' * len(operator_lists.RELEASES))
        for number in SERVED:
            if letters[number] == 'a':
                compiled.add(name)
            elif letters[number] == '-' and not needs_no_kernel(func):
                missing.add(f'{name} in {operator_lists.RELEASES[number]}')
    assert not missing - OF_THE_CPU
    assert not compiled, 'slow: operators that are compiled when called'


def test_nothing_is_computed_on_the_ai_cpu(launched):
    slow = {
        (func.name(), str(dtype))
        for func, dtypes in launched.items()
        for dtype in dtypes
        if dtype in SLOW.get(func.name()[6:].partition('.')[0], ())
    }
    assert not slow
