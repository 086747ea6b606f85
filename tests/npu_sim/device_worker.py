"""Tries on the simulated device what has to work and what must be refused.

Usage: device_worker.py    prints what went wrong, if anything
"""

import io
import os
import sys

import torch
import torch_npu
from torch import nn

HERE = 'npu:1'
faults = []


def refused(name, function, words):
    try:
        function()
    except (RuntimeError, TypeError, AssertionError) as error:
        if words not in str(error):
            faults.append(f'{name}: {error}')
    else:
        faults.append(f'{name} was not refused')


def holds(name, truth):
    if not truth:
        faults.append(name)


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
        add_reversed=lambda: host + here,
        add_in_place=lambda: here.add_(host),
        add_to_host=lambda: host.add_(here),
        add_number_to_host=lambda: torch.zeros(()).add_(here.sum()),
        two_npus=lambda: here * other,
        out=lambda: torch.add(here, here, out=host),
        cat=lambda: torch.cat([here, host]),
        stack=lambda: torch.stack([host, here]),
        where=lambda: torch.where(here > 0, host, here),
        where_mask=lambda: torch.where(host > 0, here, here),
        matmul=lambda: here @ host.t(),
        linear=lambda: functional.linear(here, host),
        convolution=lambda: convolution(image),
        weights=lambda: functional.conv2d(
            image.to(HERE), convolution.weight.cpu()
        ),
        norm=lambda: norm(image),
        running=lambda: functional.batch_norm(
            image.to(HERE), torch.zeros(3), torch.ones(3), training=True
        ),
        mse=lambda: functional.mse_loss(here, host),
        entropy=lambda: functional.cross_entropy(here, pairs),
        gather=lambda: here.gather(1, pairs[:, None]),
        index_add=lambda: here.index_add(0, pairs, here),
        scatter=lambda: here.scatter(1, pairs[:, None], 1.0),
        addcmul=lambda: here.addcmul(here, host),
        lerp=lambda: torch.lerp(here, host, 0.5),
        clamp=lambda: torch.clamp(here, min=host),
        foreach=lambda: torch._foreach_add_([here, here], [here, host]),
        norms=lambda: torch.dot(here[0], host[0]),
        masked=lambda: here.masked_fill(host > 0, 0.0),
        equal=lambda: torch.equal(here, host),
        interpolate_add=lambda: (
            functional.interpolate(image.to(HERE), scale_factor=2)
            + torch.ones(1, 3, 16, 16)
        ),
    ).items():
        refused(name, call, 'device')
    refused('numpy', here.numpy, 'npu:1')
    refused('a ninth', lambda: torch.ones(1, device='npu:9'), 'npu:9')
    refused('cuda', torch.cuda.current_device, 'CUDA')
    refused(
        'generator',
        lambda: torch.rand(2, device=HERE, generator=torch.Generator()),
        'generator',
    )


def train(device):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )
    batch, target = torch.randn(4, 3, 8, 8), torch.randn(4, 4)
    model, batch, target = (x.to(device) for x in (model, batch, target))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), target).backward()
        optimizer.step()
    return model.state_dict()


def work():
    on_cpu, on_npu = train('cpu'), train(HERE)
    for name, value in on_cpu.items():
        holds(name, str(on_npu[name].device) == HERE)
        holds(name, torch.equal(value, on_npu[name].cpu()))
    file = io.BytesIO()
    torch.save(on_npu, file)
    for where, expected in ((None, HERE), ('npu:2',) * 2, ('cpu',) * 2):
        file.seek(0)
        loaded = torch.load(file, map_location=where)
        holds(f'load {where}', str(loaded['0.weight'].device) == expected)

    # Views stay views, and what is resized is resized everywhere.
    values = torch.zeros(4, device=HERE)
    pairs = values.view(2, 2)
    windows = values.unfold(0, 2, 1)
    pairs[0] += 1
    holds('views', windows.tolist() == [[1, 1], [1, 0], [0, 0]])
    out = torch.empty(0, device=HERE)
    torch.add(values, 1, out=out)
    holds('out', out.tolist() == [2, 2, 1, 1])
    values.resize_(6)
    holds('resize', values.shape == (6,) and values[0].item() == 1)
    pinned = torch.ones(4).pin_memory()
    holds('pinned', pinned[1:].is_pinned() and not out.cpu().is_pinned())
    holds('number', (out + torch.tensor(1.0))[0].item() == 3)
    holds('indices', out[torch.tensor([0, 3])].tolist() == [2, 1])

    torch.manual_seed(5)
    first = torch.rand(3, device=HERE)
    state = torch.npu.get_rng_state(HERE)
    second = torch.rand(3, device=HERE)
    torch.npu.set_rng_state(state, HERE)
    holds('state', torch.equal(second, torch.rand(3, device=HERE)))
    torch.manual_seed(5)
    torch.rand(3)
    holds(
        'a generator of its own',
        torch.equal(first, torch.rand(3, device=HERE)),
    )


def count():
    """What counts as a wait of the host."""
    values = torch.ones(3, device=HERE)
    pinned = torch.empty(3).pin_memory()

    def waits(call):
        before = sum(torch_npu.sim.host_syncs.values())
        call()
        return sum(torch_npu.sim.host_syncs.values()) - before

    for expected, calls in (
        (
            1,
            dict(
                item=lambda: values[0].item(),
                copy=values.cpu,
                nonzero=values.nonzero,
                equal=lambda: torch.equal(values, values),
                upload=lambda: torch.ones(3).to(HERE, non_blocking=True),
                blocking=lambda: pinned.to(HERE),
                synchronize=torch.npu.synchronize,
            ),
        ),
        (
            0,
            dict(
                add=lambda: values + 1,
                sum=values.sum,
                upload=lambda: pinned.to(HERE, non_blocking=True),
                download=lambda: pinned.copy_(values, non_blocking=True),
                between=lambda: values.to('npu:2'),
            ),
        ),
    ):
        for name, call in calls.items():
            found = waits(call)
            if found != expected:
                faults.append(f'{name}: {found} waits, not {expected}')


def streams():
    """What a card would be free to do in another order is refused."""
    npu = torch.npu
    npu.set_device(HERE)
    main, side = npu.current_stream(), npu.Stream()
    holds('streams', main == npu.default_stream() and main != side)
    pinned = torch.ones(3).pin_memory()

    def sent(wait=None, record=True):
        with npu.stream(side):
            holds('inside', npu.current_stream() == side)
            values = pinned.to(HERE, non_blocking=True)
        holds('outside', npu.current_stream() == main)
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

    def event_wait():
        event = npu.Event()
        event.record(side)
        event.wait()

    def event_synchronize():
        side.record_event(npu.Event()).synchronize()

    for name, wait in dict(
        stream=lambda: main.wait_stream(side),
        event=lambda: main.wait_event(side.record_event()),
        event_wait=event_wait,
        event_synchronize=event_synchronize,
        synchronize=side.synchronize,
        device=npu.synchronize,
    ).items():
        holds(f'wait {name}', sent(wait).sum().item() == 3)

    # The other way: a copy into what the computation still reads.
    values = sent(lambda: main.wait_stream(side))
    values.sum()
    with npu.stream(side):
        refused('overwrite', values.zero_, 'writes to what stream 0')
        side.wait_stream(main)
        values.zero_()

    # Memory that goes back to its stream while another one reads it.
    for record in (True, False):
        main.wait_stream(side)
        values = sent(lambda: main.wait_stream(side), record)
        values + 1
        del values
        if record:
            sent()
        else:
            refused('reuse', sent, 'record_stream was not called')
            side.wait_stream(main)
            sent()


def fork():
    """A process that was forked after the device had been touched."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        refused('fork', lambda: torch.ones(1, device=HERE), 're-initialize')
        holds('fork initialized', not torch.npu.is_initialized())
        torch.manual_seed(0)  # must do nothing there
        os._exit(bool(faults))
    if os.waitpid(pid, 0)[1]:
        faults.append('fork')


mix()
work()
count()
streams()
fork()
print('\n'.join(faults))
