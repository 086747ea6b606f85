"""What MMDistributedDataParallel does in each of two gloo processes.

Every function named ``case_*`` is one case; :func:`run_all` returns what each
returned, and the tests compare.
"""

import importlib.util
import threading

import torch
from mmcv.parallel import DataContainer, MMDistributedDataParallel
from mmcv.parallel.distributed import compress_gradients
from mmcv.runner.dist_utils import get_dist_info
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 5
BATCH = 4


class Model(nn.Module):
    """A small regression; ``spare`` is a layer that no loss reaches."""

    def __init__(self, spare=False):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)
        )
        self.spare = nn.Linear(7, 5) if spare else None

    def forward(self, img, target=None, **extra):
        out = self.layers(img)
        return out if target is None else (out - target).pow(2).mean()

    def train_step(self, data, optimizer=None, **extra):
        loss = self.forward(**data)
        return {'loss': loss, 'num_samples': len(data['img']), 'data': data}

    def val_step(self, data, optimizer=None, **extra):
        return {'out': self.forward(data['img']), 'data': data}


def batches():
    """Return the whole batches of all processes, one for each step."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            'img': torch.randn(2 * BATCH, 3, 8, 8, generator=generator),
            'target': torch.randn(2 * BATCH, 2, 4, 4, generator=generator),
        }
        for _ in range(STEPS)
    ]


def train(step, model, data):
    """Train with SGD; return the losses and all weights after each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, weights = [], []
    for batch in data:
        optimizer.zero_grad()
        loss = step(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().clone())
        weights.append([p.detach().clone() for p in model.parameters()])
    return {'losses': losses, 'weights': weights}


def my_batches():
    rank, _ = get_dist_info()
    part = slice(rank * BATCH, (rank + 1) * BATCH)
    return [{k: v[part] for k, v in batch.items()} for batch in batches()]


def by_train_step(wrapper):
    return train(
        lambda batch: wrapper.train_step(batch, None)['loss'],
        wrapper.module,
        my_batches(),
    )


def case_plain():
    wrapper = MMDistributedDataParallel(Model())
    assert wrapper.gradient_as_bucket_view
    return by_train_step(wrapper)


def case_torch():
    wrapper = DistributedDataParallel(Model())
    return train(lambda b: wrapper(**b), wrapper.module, my_batches())


def case_copied_gradients():
    wrapper = MMDistributedDataParallel(Model(), gradient_as_bucket_view=False)
    assert not wrapper.gradient_as_bucket_view
    return by_train_step(wrapper)


def case_buckets():
    # Of two numbers the sum has no order, whatever is sent with what.
    return by_train_step(
        MMDistributedDataParallel(Model(), bucket_cap_mb=0.0001)
    )


def case_unused():
    return by_train_step(
        MMDistributedDataParallel(
            Model(spare=True), find_unused_parameters=True
        )
    )


def case_static_graph():
    try:
        wrapper = MMDistributedDataParallel(
            Model(spare=True), static_graph=True
        )
    except TypeError:
        return None  # torch 1.8 has no such argument
    return by_train_step(wrapper)


def compressed(precision):
    wrapper = MMDistributedDataParallel(Model())
    try:
        compress_gradients(wrapper, precision)
    except ValueError as error:
        return str(error)
    return by_train_step(wrapper)


def case_fp16():
    return compressed('fp16')


def case_bf16():
    return compressed('bf16')


def case_accumulation():
    """Two batches, one step: the first gives gradients to this rank only."""
    wrapper = MMDistributedDataParallel(Model())
    first, second = my_batches()[:2]
    with wrapper.no_sync():
        wrapper.train_step(first, None)['loss'].backward()
    wrapper.train_step(second, None)['loss'].backward()
    return [p.grad.clone() for p in wrapper.module.parameters()]


def case_containers():
    """What arrives in the model when inputs come as the collate packs them."""
    wrapper = MMDistributedDataParallel(Model())
    batch = my_batches()[0]
    meta = [{'name': str(i), 'shift': torch.ones(1)} for i in range(BATCH)]

    def packed():
        return {
            'img': DataContainer([batch['img']], stack=True),
            'target': batch['target'],
            'meta': DataContainer([meta], cpu_only=True),
        }

    with torch.no_grad():
        plain = wrapper.module(**batch)
        value = wrapper.module(batch['img'])
        seen = wrapper.train_step(packed(), None)
        val = wrapper.val_step(data=packed())
        loss = wrapper(**packed())
    return {
        'train': torch.equal(seen['loss'], plain)
        and seen['data']['meta'] == meta,
        'val': torch.equal(val['out'], value) and val['data']['meta'] == meta,
        'forward': torch.equal(loss, plain),
    }


def case_forward_is_restored():
    """``forward`` of the module is its own again, whatever happens."""
    wrapper = MMDistributedDataParallel(Model())
    model = wrapper.module
    batch = my_batches()[0]
    found = {}

    def fail(data, optimizer):
        raise RuntimeError('in the step')

    model.train_step = fail
    try:
        wrapper.train_step(batch, None)
    except RuntimeError as error:
        found['error'] = str(error)
    found['after error'] = 'forward' not in vars(model)
    del model.train_step

    hook = model.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        wrapper.train_step(batch, None)
    except ZeroDivisionError:
        found['after hook'] = 'forward' not in vars(model)
    hook.remove()

    def patched(*args, **kwargs):
        return Model.forward(model, *args, **kwargs) * 2

    model.forward = patched
    doubled = wrapper.train_step(batch, None)['loss']
    found['patched stays'] = vars(model).get('forward') is patched
    del model.forward
    single = wrapper.train_step(batch, None)['loss']
    found['patched is used'] = torch.equal(doubled, single * 2)

    def patches_itself(data, optimizer):
        model.forward = patched
        return {'loss': model(**data)}

    model.train_step = patches_itself
    late = wrapper.train_step(batch, None)['loss']
    found['patched late'] = torch.equal(late, doubled) and (
        vars(model).get('forward') is patched
    )
    return found


def case_other_threads():
    """A call from another thread in the middle is an ordinary call."""
    wrapper = MMDistributedDataParallel(Model())
    batch = my_batches()[0]
    answer = []

    def elsewhere():
        with torch.no_grad():
            answer.append(Model.__call__(wrapper.module, **batch))

    def in_the_middle(*_):
        hook.remove()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    hook = wrapper.module.register_forward_pre_hook(in_the_middle)
    loss = wrapper.train_step(batch, None)['loss']
    return torch.equal(answer[0], loss.detach())


def case_stock(path):
    """The replaced file itself, where torch still has what it calls."""
    spec = importlib.util.spec_from_file_location(
        'mmcv.parallel._stock_distributed', path
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wrapper = module.MMDistributedDataParallel(Model())
    if not hasattr(wrapper, '_sync_params'):
        return None
    return by_train_step(wrapper)


def run_all(stock):
    """Run all cases in this rank; results by the names of the cases."""
    results = {'stock': case_stock(stock)}
    for name, case in list(globals().items()):
        if name.startswith('case_') and name != 'case_stock':
            results[name[len('case_') :]] = case()
    return results
