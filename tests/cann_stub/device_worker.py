"""Tries on the device what has to work and what must be refused.

Usage: device_worker.py PART...    prints what went wrong, if anything
"""

import io
import multiprocessing
import os
import sys

import torch
import torch_npu
from torch import nn

import counts

HERE = 'npu:1'
faults = []


def refused(name, function, *words):
    try:
        function()
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        if not any(word in str(error) for word in words):
            faults.append(f'{name}: {error}')
    else:
        faults.append(f'{name} was not refused')


def holds(name, truth):
    if not truth:
        faults.append(name)


def visible():
    """ASCEND_RT_VISIBLE_DEVICES is ascending, and renumbers from 0."""
    name = 'ASCEND_RT_VISIBLE_DEVICES'
    for value, count, words in (
        ('4,6', 2, ''),
        ('3,1', 0, 'not in ascending order'),
        ('1,9', 0, "device '9' is invalid"),
    ):
        os.environ[name] = value
        found = counts.visible_devices()
        holds(f'{value}: {found}', found[0] == count and words in found[1])
    del os.environ[name]
    holds('eight', torch.npu.device_count() == 8)


def seam():
    """The bundle's choice of a device sets what it says."""
    from mmcv.runner.dist_utils import set_device

    # What CANN was told: before torch_npu 2.13 is_jit_compile_false stays
    # true.
    for value, number, told in (('1', 2, 'enable'), ('0', 1, 'disable')):
        os.environ['NPU_JIT_COMPILE'] = value
        set_device(f'npu:{number}')
        mode = counts.report()['settings']['jit_compile'][-1]
        holds(f'jit_compile {mode}', mode == told)
    holds('current', torch.npu.current_device() == 1)


def mix():
    """Tensors of two devices, in every place where they can meet."""
    here, host = torch.ones(4, 3, device=HERE), torch.ones(4, 3)
    other = torch.ones(4, 3, device='npu:2')
    image, pairs = torch.ones(1, 3, 8, 8), torch.zeros(4, dtype=torch.long)
    convolution = nn.Conv2d(3, 2, 3).to(HERE)
    norm = nn.BatchNorm2d(3).to(HERE)
    functional = nn.functional
    for name, call in dict(
        add=lambda: here + host,
        add_in_place=lambda: here.add_(host),
        two_npus=lambda: here * other,
        cat=lambda: torch.cat([here, host]),
        stack=lambda: torch.stack([host, here]),
        where=lambda: torch.where(here > 0, host, here),
        matmul=lambda: here @ host.t(),
        linear=lambda: functional.linear(here, host),
        convolution=lambda: convolution(image),
        weights=lambda: functional.conv2d(
            image.to(HERE), convolution.weight.cpu()
        ),
        norm=lambda: norm(image),
        mse=lambda: functional.mse_loss(here, host),
        gather=lambda: here.gather(1, pairs[:, None]),
        scatter=lambda: here.scatter(1, pairs[:, None], 1.0),
        addcmul=lambda: here.addcmul(here, host),
        masked=lambda: here.masked_fill(host > 0, 0.0),
        interpolate_add=lambda: (
            functional.interpolate(image.to(HERE), scale_factor=2)
            + torch.ones(1, 3, 16, 16)
        ),
    ).items():
        refused(name, call, 'device', "host's memory", 'npu')
    refused('numpy', here.numpy, 'npu:1')
    refused('a ninth', lambda: torch.ones(1, device='npu:9'), 'Invalid', '9')


def train(device):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 4, 3, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 25, 4),
    )
    batch, target = torch.randn(4, 3, 8, 8), torch.randn(4, 4)
    model, batch, target = (x.to(device) for x in (model, batch, target))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, foreach=True)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), target).backward()
        optimizer.step()
    return model.state_dict()


def work():
    """A training, a checkpoint, views and resizing."""
    on_cpu, on_npu = train('cpu'), train(HERE)
    for name, value in on_cpu.items():
        holds(name, str(on_npu[name].device) == HERE)
        # The optimiser's kernels round in another order.
        holds(name, torch.allclose(value, on_npu[name].cpu(), atol=1e-6))
    file = io.BytesIO()
    torch.save(on_npu, file)
    for where, expected in ((None, HERE), ('npu:2',) * 2, ('cpu',) * 2):
        file.seek(0)
        loaded = torch.load(file, map_location=where)
        holds(f'load {where}', str(loaded['0.weight'].device) == expected)
    values = torch.zeros(4, device=HERE)
    pairs = values.view(2, 2)
    pairs[0] += 1
    holds('views', values.tolist() == [1, 1, 0, 0])
    out = torch.empty(0, device=HERE)
    torch.add(values, 1, out=out)
    holds('out', out.tolist() == [2, 2, 1, 1])
    pinned = torch.ones(4).pin_memory()
    holds('pinned', pinned[1:].is_pinned() and not out.cpu().is_pinned())
    holds('number', (out + torch.tensor(1.0))[0].item() == 3)
    holds('indices', out[torch.tensor([0, 3])].tolist() == [2, 1])
    holds('nonzero', values.nonzero().flatten().tolist() == [0, 1])
    refused('no kernel', lambda: torch.erfinv(out), 'rfinv')
    holds('named', 'Erfinv' in ' '.join(counts.report()['missing']))


def count():
    """What counts as a wait of the host, and under which line."""
    torch.npu.set_device(HERE)
    values = torch.ones(3, device=HERE)
    pinned = torch.empty(3).pin_memory()

    def waits(call):
        before = counts.waits()
        call()
        after = counts.waits()
        return {
            place: number - before.get(place, 0)
            for place, number in after.items()
            if number != before.get(place, 0)
        }

    for expected, calls in (
        (
            True,
            dict(
                item=lambda: values[0].item(),
                copy=values.cpu,
                nonzero=values.nonzero,
                upload=lambda: torch.ones(3).to(HERE),
                blocking=lambda: pinned.to(HERE),
                synchronize=torch.npu.synchronize,
            ),
        ),
        (
            False,
            dict(
                add=lambda: values + 1,
                sum=values.sum,
                upload=lambda: pinned.to(HERE, non_blocking=True),
                download=lambda: pinned.copy_(values, non_blocking=True),
            ),
        ),
    ):
        for name, call in calls.items():
            found = waits(call)
            if bool(found) != expected:
                faults.append(f'{name} waits: {found}')
            for place in found:
                holds(f'{name}: {place}', 'device_worker.py:' in place)
    report = counts.report()
    holds('dtype', report['kernels']['aclnnReduceSum'].get('float32', 0) > 0)
    holds('bytes', report['bytes_copied']['host to device'] > 0)
    holds('memory', report['peak_memory']['1'] > 0)


def streams():
    """What a card would be free to do in another order is refused."""
    npu = torch.npu
    npu.set_device(HERE)
    main, side = npu.current_stream(), npu.Stream()
    pinned = torch.ones(3).pin_memory()

    def sent(wait=None, record=True):
        with npu.stream(side):
            values = pinned.to(HERE, non_blocking=True)
        if wait is not None:
            wait()
        if record:
            values.record_stream(main)
        return values

    early = side.record_event()
    for name, wait in dict(
        nothing=lambda: None,
        # Of what was in the stream before, or the other way round.
        too_early=lambda: main.wait_event(early),
        reversed=lambda: side.wait_stream(main),
        recorded_only=side.record_event,
    ).items():
        values = sent(wait)
        for use in (values.sum, values.zero_, values.view(3, 1).clone):
            refused(f'wait for {name}', use, 'has not waited for it')
        npu.synchronize()

    for name, wait in dict(
        stream=lambda: main.wait_stream(side),
        event=lambda: main.wait_event(side.record_event()),
        event_synchronize=lambda: side.record_event().synchronize(),
        synchronize=side.synchronize,
        device=npu.synchronize,
    ).items():
        holds(f'wait {name}', sent(wait).sum().item() == 3)

    # The other way: a copy into what the computation still reads.
    values = sent(lambda: main.wait_stream(side))
    values.sum()
    with npu.stream(side):
        refused('overwrite', values.zero_, 'aclnnReduceSum in stream')
        side.wait_stream(main)
        values.zero_()

    # Memory that goes back to its stream while another one reads it.
    for record in (True, False):
        npu.synchronize()
        values = sent(lambda: main.wait_stream(side), record)
        values + 1
        del values
        if record:
            sent()
        else:
            refused('reuse', sent, 'record_stream before the memory')


def early():
    """Without a wait the host reads what was there before."""
    torch.npu.set_device(HERE)
    values = torch.ones(3, device=HERE)
    pinned = torch.zeros(3).pin_memory()
    pinned.copy_(values, non_blocking=True)
    holds('too early', pinned.tolist() == [0, 0, 0])
    torch.npu.synchronize()
    holds('in time', pinned.tolist() == [1, 1, 1])


def fork():
    """A process that was forked after the device had been touched."""

    def use():
        refused('fork', lambda: torch.ones(1, device=HERE), 're-initialize')
        os._exit(bool(faults))

    torch.ones(1, device=HERE)
    sys.stdout.flush()
    # torch_npu sees forks of multiprocessing, not those of os.fork.
    child = multiprocessing.get_context('fork').Process(target=use)
    child.start()
    child.join(30)
    if child.exitcode != 0:
        child.kill()
        faults.append(f'fork: {child.exitcode}')


def memory():
    """A device with 64 MiB."""
    held = torch.ones(2**22, device=HERE)
    refused('too much', lambda: torch.ones(2**24, device=HERE), 'memory')
    holds('still there', held[0].item() == 1)


def saturate():
    """A chip that shows no inf, but has a flag."""
    utils = torch_npu.npu.utils
    torch.npu.set_device(HERE)
    torch.npu.set_compile_mode(jit_compile=False)
    torch.npu.config.allow_internal_format = False
    holds('support', not utils.is_support_inf_nan())
    large = torch.full((2,), 60000.0, device=HERE).half()
    for name, call, expected in (
        ('half', lambda: large * large, 65504.0),
        ('nan', lambda: torch.zeros(2, device=HERE) / 0.0, 0.0),
    ):
        holds(name, call().tolist() == [expected] * 2)
        holds(f'{name}: flag', utils.get_npu_overflow_flag())
        utils.clear_npu_overflow_flag()
        holds(f'{name}: clear', not utils.get_npu_overflow_flag())
    # The kernel of the loss scale reads the flag, and clears it.
    large * large
    found = torch.zeros(1, device=HERE)
    scale = torch.ones(1, device=HERE)
    for expected in (1, 0):
        found.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(
            [torch.ones(3, device=HERE)], found, scale
        )
        holds(f'found {expected}', found.item() == expected)
    image = torch.rand(1, 3, 8, 8)
    weight = torch.rand(2, 3, 3, 3)
    there = nn.functional.conv2d(image.to(HERE), weight.to(HERE)).cpu()
    for name, like, expected in (
        ('fp32', image, False),
        ('fp16', image.half().float(), True),
    ):
        rounded = weight if like is image else weight.half().float()
        here = nn.functional.conv2d(like, rounded)
        holds(f'convolution in {name}', torch.equal(here, there) == expected)
    holds('bf16', not torch.npu.is_bf16_supported())
    refused(
        'bf16',
        lambda: torch.ones(2, device=HERE).bfloat16() * 2,
        'has no bfloat16',
    )


if __name__ == '__main__':
    for part in sys.argv[1:]:
        globals()[part]()
    print('\n'.join(faults))
