"""Which optimisers a config can name."""

import sys
import textwrap
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from mmcv.runner.optimizer import builder
from torch import nn

PACKAGE = """
    import torch

    class {first}(torch.optim.SGD):
        pass

    class Shared(torch.optim.SGD):
        origin = __name__

    class Adam(torch.optim.Adam):
        origin = __name__

    class Scheduler:
        pass
"""

CHECK = """
    import sys
    from torch import device, nn, optim
    from mmcv.runner import OPTIMIZERS, build_optimizer
    from mmcv.runner.optimizer.builder import TORCH_OPTIMIZERS, choose_form

    model = nn.Linear(1, 1)
    build_optimizer(model, dict(type='SGD', lr=0.1))
    assert not {'torch_npu', 'apex'} & set(sys.modules), 'imported too early'

    fused = build_optimizer(model, dict(type='NpuFusedAdam', lr=0.1))
    assert type(fused).__module__ == 'torch_npu.optim'
    assert OPTIMIZERS.get('FusedAdam').__module__ == 'apex.optimizers'
    assert OPTIMIZERS.get('Shared').origin == 'torch_npu.optim'
    shared = dict(type='Shared', lr=0.1)
    chosen, said = choose_form(shared, device('cpu'), with_apex=True)
    assert build_optimizer(model, chosen).origin == 'apex.optimizers'
    assert (shared['type'], said) == ('Shared', "Apex's own")
    plain = dict(type='Adam', lr=0.1)
    assert choose_form(plain, device('cpu'), with_apex=True)[0] == plain
    assert OPTIMIZERS.get('Adam') is optim.Adam
    assert 'Scheduler' not in OPTIMIZERS
    assert not {'NpuFusedAdam', 'FusedAdam'} & set(TORCH_OPTIMIZERS)
    assert OPTIMIZERS.unavailable == {}
"""

REFUSALS = """
    from torch import nn
    from mmcv.runner import OPTIMIZERS, build_optimizer

    try:
        build_optimizer(nn.Linear(1, 1), dict(type='NpuFusedAdam', lr=0.1))
    except KeyError as error:
        print(type(error).is_user_error, error.args[0])
    assert 'SGD' in OPTIMIZERS.module_dict
"""


def run_beside(run, folder, files, code):
    """Run code where these files come first on ``sys.path``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    start = f'import sys; sys.path.insert(0, {str(folder)!r})\n'
    done = run([sys.executable, '-c', start + textwrap.dedent(code)])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_of_the_accelerators_are_looked_into(run, tmp_path):
    files = {
        'torch_npu/__init__.py': '',
        'torch_npu/optim.py': PACKAGE.format(first='NpuFusedAdam'),
        'apex/__init__.py': '',
        'apex/optimizers.py': PACKAGE.format(first='FusedAdam'),
    }
    run_beside(run, tmp_path, files, CHECK)


def test_packages_that_cannot_serve_are_named_when_asked_for(run, tmp_path):
    files = {
        'torch_npu/__init__.py': "raise OSError('libhccl.so is missing')",
        'apex/__init__.py': "'''A web toolkit.'''",
    }
    said = run_beside(run, tmp_path, files, REFUSALS)
    assert 'NpuFusedAdam is not in the optimizer registry' in said
    assert 'libhccl.so is missing' in said
    assert 'True NpuFusedAdam' in said
    assert "No module named 'apex.optimizers'" in said


def test_a_torch_npu_that_ends_the_process_does_not(run, tmp_path):
    """As 1.8.1 does where CANN is missing: with status 0, nothing done."""
    said = run_beside(
        run,
        tmp_path,
        {'torch_npu/__init__.py': 'import sys; sys.exit()'},
        REFUSALS
        + """
    from mmcv.runner.dist_utils import set_device
    print(set_device('auto'))
    try:
        set_device('npu')
    except ValueError as error:
        print(error)
    """,
    )
    assert 'no torch_npu.optim (SystemExit' in said
    assert '\ncpu\n' in said
    assert "'npu' was asked for, but torch_npu cannot be imported (Sys" in said


def test_names_of_torch_are_as_in_stock(stock):
    theirs = stock('mmcv', 'runner/optimizer/builder.py')
    assert builder.TORCH_OPTIMIZERS == theirs.TORCH_OPTIMIZERS
    for name in theirs.TORCH_OPTIMIZERS:
        expected = theirs.OPTIMIZERS.get(name)
        assert builder.OPTIMIZERS.get(name) is expected


def test_the_config_is_left_as_it_is():
    cfg = dict(type='SGD', lr=0.1, paramwise_cfg=dict(bias_lr_mult=2.0))
    before = dict(cfg)
    optimizer = builder.build_optimizer(nn.Conv2d(1, 1, 1), cfg)
    assert cfg == before
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group['lr'] for group in optimizer.param_groups] == [0.1, 0.2]


def test_an_error_inside_an_optimiser_is_not_taken_for_a_missing_name():
    with pytest.raises(TypeError):
        builder.build_optimizer(
            nn.Linear(1, 1), dict(type='SGD', lr=0.1, no_such_option=1)
        )
    with pytest.raises(KeyError, match='builder'):
        builder.build_optimizer(
            nn.Linear(1, 1), dict(type='SGD', lr=0.1, constructor='Missing')
        )


CPU = SimpleNamespace(type='cpu')
CUDA = SimpleNamespace(type='cuda')
NPU = SimpleNamespace(type='npu')
ADAM = dict(type='Adam', lr=0.1)
HAS_FUSED = 'fused' in vars(torch.optim.Adam([torch.zeros(1)]))['defaults']


def test_the_fused_form_is_taken_where_the_device_has_one(monkeypatch):
    before = dict(ADAM)
    chosen, said = builder.choose_form(ADAM, CUDA)
    assert chosen == (dict(ADAM, fused=True) if HAS_FUSED else ADAM)
    assert said == ('fused' if HAS_FUSED else "torch's default on cuda")
    assert builder.choose_form(ADAM, CPU)[0] == ADAM == before

    class NpuFusedAdam(torch.optim.Adam):
        pass

    known = dict(builder.OPTIMIZERS._module_dict, NpuFusedAdam=NpuFusedAdam)
    monkeypatch.setattr(builder.OPTIMIZERS, '_module_dict', known)
    chosen, said = builder.choose_form(ADAM, NPU)
    assert (chosen, said) == (dict(ADAM, type='NpuFusedAdam'), 'fused')
    assert type(builder.build_optimizer(nn.Linear(1, 1), chosen)) is (
        NpuFusedAdam
    )
    # Masters and the optimisers of a GAN move their gradients; and there is
    # no amsgrad in it.
    assert builder.choose_form(ADAM, NPU, False)[0] == ADAM
    exact = dict(ADAM, amsgrad=True)
    assert builder.choose_form(exact, NPU)[0] == exact


def test_without_torch_npu_s_optimisers_torch_s_is_taken(monkeypatch):
    monkeypatch.setattr(builder.OPTIMIZERS, '_complete', True)
    assert builder.choose_form(ADAM, NPU)[0] == ADAM


def test_the_config_s_word_about_the_form_counts():
    form = dict(ADAM, fused=False)
    for device in (CUDA, NPU, CPU):
        chosen, said = builder.choose_form(form, device)
        # Passed on, it would keep torch from foreach, too.
        assert chosen == ADAM
        assert said == f"torch's default on {device.type}"
    form = dict(ADAM, foreach=True)
    chosen, said = builder.choose_form(form, CUDA)
    assert chosen == form and said == 'foreach=True as the config says'
    if HAS_FUSED:
        chosen, said = builder.choose_form(dict(ADAM, fused=True), CPU)
        assert chosen['fused'] and said == 'fused=True as the config says'
    with pytest.raises(ValueError, match='Rprop of torch .* has no such form'):
        builder.choose_form(dict(type='Rprop', fused=True), CUDA)


def steps(**form):
    """Make a few steps of Adam; return weights and optimiser."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(33, 7)) for _ in range(3)]
    optimizer = torch.optim.Adam(weights, lr=0.01, **form)
    for _ in range(6):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return weights, optimizer


@pytest.mark.skipif(not HAS_FUSED, reason='this torch has one form only')
def test_on_a_cpu_only_the_fused_form_has_other_bits():
    plain, _ = steps(foreach=False)
    for form in (dict(foreach=True), {}):
        assert all(map(torch.equal, plain, steps(**form)[0]))
    try:
        fused, _ = steps(fused=True)
    except RuntimeError:
        pytest.skip('this torch has no fused form on a CPU')
    assert not all(map(torch.equal, plain, fused))
    for one, other in zip(plain, fused):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.skipif(not HAS_FUSED, reason='this torch has one form only')
def test_a_checkpoint_does_not_bring_its_form_along():
    _, optimizer = steps(foreach=False)
    _, saved = steps(foreach=True)
    state = saved.state_dict()
    state['param_groups'][0].update(fused=True, lr=0.5)
    optimizer.load_state_dict(builder.keep_form(optimizer, state))
    (group,) = optimizer.param_groups
    assert (group['fused'], group['foreach']) == (None, False)
    assert group['lr'] == 0.5
    assert state['param_groups'][0]['fused'] is True
    # Of a torch that had no forms yet.
    for form in builder.FORMS:
        state['param_groups'][0].pop(form, None)
    optimizer.load_state_dict(builder.keep_form(optimizer, state))
    assert optimizer.param_groups[0]['foreach'] is False


def make_fused(module, mark, **members):
    """Make an optimizer that is marked as fused, as if of a module."""
    members.update({'__module__': module, mark: True})
    kind = type('NpuFusedAdam', (torch.optim.Adam,), members)
    return kind([nn.Parameter(torch.ones(2)) for _ in range(2)], lr=0.1)


@pytest.mark.parametrize(
    'module, mark, owner',
    [
        ('torch_npu.optim.npu_fused_adam', 'is_fused_optimizer', 'torch_npu'),
        ('torch_npu.optim.adam', 'is_npu_fused_optimizer', 'torch_npu'),
        ('apex.optimizers.adam', 'is_npu_fused_optimizer', 'apex'),
        ('torch_npu.optim.adam', 'no_mark', None),
    ],
)
def test_fused_optimizers_are_told_by_mark_and_module(module, mark, owner):
    """Up to 2.0 those of torch_npu have the mark of Apex's."""
    assert builder.fused_by(make_fused(module, mark)) == owner


def test_a_fused_optimizer_gets_plain_numbers_of_steps():
    """It would share torch's tensor between weights, and count it twice."""
    fused = make_fused('torch_npu.optim', 'is_fused_optimizer')
    saved = torch.optim.Adam([torch.zeros(2) for _ in range(2)], lr=0.1)
    for weight in saved.param_groups[0]['params']:
        weight.grad = torch.ones(2)
    saved.step()
    state = saved.state_dict()
    kept = builder.keep_form(fused, state)
    assert [type(own['step']) for own in kept['state'].values()] == [int] * 2
    assert [own['step'] for own in kept['state'].values()] == [1, 1]
    assert kept['state'][0]['exp_avg'] is state['state'][0]['exp_avg']
    unchanged = builder.keep_form(saved, state)
    assert unchanged['state'] is state['state']


class Card(SimpleNamespace):
    __hash__ = object.__hash__


def test_a_fused_optimizer_computes_where_its_weights_are(monkeypatch):
    """Wherever the current device is: its blocks are made there."""
    entered = []

    @contextmanager
    def device(chosen):
        entered.append(chosen)
        yield
        entered.append('left')

    monkeypatch.setattr(
        torch, 'card', SimpleNamespace(device=device), raising=False
    )
    stepped = []
    fused = make_fused(
        'torch_npu.optim',
        'is_fused_optimizer',
        step=lambda self: stepped.append('step'),
        zero_grad=lambda self: stepped.append('zero_grad'),
    )
    builder._keep_to_its_device(fused)
    torch.optim.lr_scheduler.StepLR(fused, 1)  # reads the method's function
    cards = [Card(type='card', index=i) for i in range(2)]
    weights = [SimpleNamespace(device=card) for card in cards]
    fused.param_groups[0]['params'] = weights[1:] * 2
    fused.zero_grad()
    fused.step()
    assert stepped == ['zero_grad', 'step']
    assert entered == [cards[1], 'left'] * 2
    fused.param_groups[0]['params'] = weights
    with pytest.raises(ValueError, match='has weights on'):
        fused.step()


def test_a_default_that_loading_adds_is_no_fault():
    # As torch_npu's optimizers get torch's newer ones.
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    optimizer.defaults['later'] = None
    builder.load_optimizer_state(optimizer, optimizer.state_dict())


def test_numbers_that_are_the_same_are_given_as_one(monkeypatch):
    """What an NPU does in few kernels; see also the test of launches."""
    given = []

    def note(tensors, *others):
        *_, numbers = others
        given.append(numbers)
        raise StopIteration

    monkeypatch.setattr(torch, '_foreach_addcdiv_', note, raising=False)
    lists = [torch.zeros(1)], [torch.zeros(1)], [torch.zeros(1)]
    for numbers in ([0.5, 0.5], [0.5, 0.25], [torch.ones(1)], 2.0):
        with pytest.raises(StopIteration):
            with builder._numbers_in_one(note):
                torch._foreach_addcdiv_(*lists, numbers)
        assert torch._foreach_addcdiv_ is note
    one, several, tensors, plain = given
    assert (one, plain) == (0.5, 2.0) and isinstance(tensors, list)
    if hasattr(torch.ops.aten._foreach_addcdiv_, 'Tensor'):
        several = several.tolist()
    assert several == [0.5, 0.25]


def test_a_step_in_few_kernels_is_that_step(monkeypatch):
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.rand(3)) for _ in range(4)]
    copies = [nn.Parameter(w.detach().clone()) for w in weights]
    few, plain = (torch.optim.AdamW(p, lr=0.1) for p in (weights, copies))
    for optimizer in (few, plain):
        optimizer.param_groups[0]['foreach'] = True
    builder._launch_little(few)
    torch.optim.lr_scheduler.StepLR(few, 1)
    for step in range(3):
        for i, (weight, other) in enumerate(zip(weights, copies)):
            # One steps later, so that the numbers differ.
            weight.grad = None if i == 3 and step < 2 else torch.rand(3)
            other.grad = None if i == 3 and step < 2 else weight.grad.clone()
        few.step()
        plain.step()
        assert all(map(torch.equal, weights, copies))
