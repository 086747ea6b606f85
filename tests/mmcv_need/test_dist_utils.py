"""The device seam, by stand-ins for devices that cannot be here.

What several processes do together is tried by real ones.
"""

import os
import subprocess
import sys
import types
from datetime import timedelta

import group_cases
import pytest
import torch
from device_stand_ins import Device, fresh_process, host_with  # noqa: F401
from mmcv.runner import dist_utils
from processes import call_of, returned

from hourglass_npu.training import ranks

# Which device


@pytest.mark.parametrize(
    'devices, expected',
    [
        (dict(npu=8, cuda=2), 'npu:0'),
        (dict(cuda=2), 'cuda:0'),
        (dict(), 'cpu'),
    ],
)
def test_the_preferred_kind_is_taken(host, devices, expected):
    host(**devices)
    assert str(dist_utils.set_device()) == expected
    assert str(dist_utils.set_device('auto')) == expected
    assert str(dist_utils.get_device()) == expected


def test_backends_stand_in_order_of_preference():
    assert list(dist_utils.BACKENDS.items()) == [
        ('npu', 'hccl'),
        ('cuda', 'nccl'),
        ('cpu', 'gloo'),
    ]


def test_counts(host):
    host(npu=8)
    counts = {
        kind: dist_utils.device_count(kind)
        for kind in ('npu', 'cuda', 'cpu', 'tpu')
    }
    assert counts == {'npu': 8, 'cuda': 0, 'cpu': 1, 'tpu': 0}


@pytest.mark.parametrize('kind', ['npu', 'cuda'])
def test_a_device_is_made_current_and_remembered(host, kind):
    accelerator = host(npu=8, cuda=8)[kind]
    device = dist_utils.set_device(f'{kind}:3')
    assert (device.type, device.index) == (kind, 3)
    assert accelerator.current in (f'{kind}:3', '3')
    assert dist_utils.get_device() is device
    assert str(dist_utils.set_device('cpu')) == 'cpu'
    assert str(dist_utils.get_device()) == 'cpu'


def test_a_device_object_is_a_request_too(host):
    host(cuda=2)
    assert str(dist_utils.set_device(Device('cuda', 1))) == 'cuda:1'


def test_the_number_on_a_cpu_is_dropped():
    device = dist_utils.set_device('cpu:5')
    assert device == torch.device('cpu') and device.index is None


# 10 and 9 as texts would compare the other way round.
@pytest.mark.parametrize(
    'environment, expected',
    [
        (dict(LOCAL_RANK='2'), 'npu:2'),
        (dict(NPUID='9'), 'npu:9'),
        (dict(NPUID='10', LOCAL_RANK='1'), 'npu:11'),
        (dict(NPUID='', LOCAL_RANK=''), 'npu:0'),
        (dict(LOCAL_RANK='9', LOCAL_WORLD_SIZE='10'), 'npu:9'),
    ],
)
def test_local_rank_and_npuid_choose_the_npu(host, environment, expected):
    host(npu=12)
    os.environ.update(environment)
    assert str(dist_utils.set_device('npu')) == expected
    assert str(dist_utils.set_device('npu:7')) == 'npu:7'


def test_npuid_is_for_npus_only(host):
    host(cuda=2)
    os.environ.update(NPUID='1')
    assert str(dist_utils.set_device('cuda')) == 'cuda:0'


@pytest.mark.parametrize(
    'request_, environment, words',
    [
        ('cuda', {}, ["'cuda' was asked for", 'CUDA', 'npu (8), cpu']),
        ('npu:8', {}, ["'npu:8'", '8 npu', '0 to 7']),
        ('npu', dict(NPUID='8'), ['NPUID=8', '0 to 7']),
        ('npu', dict(NPUID='two'), ["NPUID='two'", 'whole number']),
        ('npu', dict(NPUID='-1'), ["NPUID='-1'", 'whole number']),
        ('npu', dict(LOCAL_RANK='8'), ['9 processes', '8', 'NPROC=8']),
        (None, dict(LOCAL_WORLD_SIZE='16'), ['16 processes', 'NPROC=8']),
        (
            'npu',
            dict(LOCAL_WORLD_SIZE='8', NPUID='2'),
            ['8 processes', 'NPUID=2', 'NPROC=6'],
        ),
        ('gpu', {}, ["'gpu'", 'npu, cuda or cpu']),
        ('npu:x', {}, ["'npu:x'", 'npu:3']),
        ('NPU ', {}, ["'NPU '"]),
        (3, {}, ["'3'"]),
        ('npu', dict(NPU_JIT_COMPILE='maybe'), ['NPU_JIT_COMPILE', '0 or 1']),
    ],
)
def test_what_cannot_be_is_refused(host, request_, environment, words):
    host(npu=8)
    os.environ.update(environment)
    with pytest.raises(ValueError) as refusal:
        dist_utils.set_device(request_)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    'error',
    [
        ImportError('libhccl.so: cannot open shared object file'),
        RuntimeError('two accelerators cannot be used at the same time'),
        AttributeError('module torch has no attribute of that name'),
    ],
)
def test_why_torch_npu_is_unusable_is_said(host, monkeypatch, error):
    host()
    finder = types.SimpleNamespace(attempts=0)

    def find_spec(name, path=None, target=None):
        if name == 'torch_npu':
            finder.attempts += 1
            raise error
        return None

    finder.find_spec = find_spec
    monkeypatch.delitem(sys.modules, 'torch_npu')
    monkeypatch.setattr(sys, 'meta_path', [finder] + sys.meta_path)
    assert str(dist_utils.set_device()) == 'cpu'
    with pytest.raises(ValueError) as refusal:
        dist_utils.set_device('npu')
    assert str(error) in str(refusal.value)
    assert 'Available here: cpu' in str(refusal.value)
    assert finder.attempts == 1


def test_a_driver_that_does_not_answer_is_no_device(host):
    def fail():
        raise RuntimeError('drvGetDevNum failed')

    host(npu=8)['npu'].device_count = fail
    assert str(dist_utils.set_device()) == 'cpu'
    with pytest.raises(ValueError, match='drvGetDevNum failed'):
        dist_utils.set_device('npu')


@pytest.mark.parametrize(
    'text, expected', [('0', False), ('1', True), ('off', False)]
)
def test_npu_switches_are_set(host, text, expected):
    npu = host(npu=1)['npu']
    os.environ.update(NPU_JIT_COMPILE=text, NPU_INTERNAL_FORMAT=text)
    dist_utils.set_device('npu')
    assert npu.calls == [('jit_compile', expected)]
    assert npu.config.allow_internal_format is expected


@pytest.mark.parametrize('text', [None, ''])
def test_without_a_switch_the_chip_decides(host, text):
    """Both are on by default on the first 910, and off on later chips."""
    npu = host(npu=1)['npu']
    if text is not None:
        os.environ.update(NPU_JIT_COMPILE=text, NPU_INTERNAL_FORMAT=text)
    dist_utils.set_device('npu')
    assert npu.calls == []
    assert not vars(npu.config)


@pytest.mark.parametrize('kind', ['npu', 'cuda'])
def test_synchronize_waits_for_a_device_in_use(host, kind):
    accelerator = host(**{kind: 1})[kind]
    dist_utils.synchronize()
    assert accelerator.calls == []
    dist_utils.set_device()
    dist_utils.synchronize()
    assert accelerator.calls[-1] == ('synchronize',)
    before = len(accelerator.calls)
    dist_utils.set_device('cpu')
    dist_utils.synchronize()
    assert len(accelerator.calls) == before


# Joining


@pytest.fixture
def joined(monkeypatch):
    """Keep what the group would have been started with."""
    calls = []
    monkeypatch.setattr(
        torch.distributed, 'init_process_group', lambda **kw: calls.append(kw)
    )
    monkeypatch.setattr(
        torch.multiprocessing, 'get_start_method', lambda allow_none: 'fork'
    )
    return calls


def launched(rank=0, size=1, **more):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), **more)


@pytest.mark.parametrize('backend', ['nccl', None, 'own'])
@pytest.mark.parametrize(
    'devices, own',
    [(dict(npu=4), 'hccl'), (dict(cuda=4), 'nccl'), ({}, 'gloo')],
)
def test_nccl_means_the_backend_of_the_device(
    host, joined, devices, own, backend
):
    host(**devices)
    launched(1, 2, LOCAL_RANK='1', LOCAL_WORLD_SIZE='2')
    dist_utils.init_dist('pytorch', own if backend == 'own' else backend)
    assert joined == [dict(backend=own)]
    assert dist_utils.get_device().index == (1 if devices else None)


def test_arguments_reach_torch(host, joined):
    host(cuda=1)
    launched()
    limit = timedelta(seconds=7)
    dist_utils.init_dist('pytorch', backend='gloo', timeout=limit)
    assert joined == [dict(backend='gloo', timeout=limit)]


@pytest.mark.parametrize(
    'devices, backend',
    [(dict(npu=1), 'gloo'), (dict(cuda=1), 'hccl'), (dict(), 'hccl')],
)
def test_a_backend_that_cannot_serve_is_refused(
    host, joined, devices, backend
):
    host(**devices)
    launched()
    with pytest.raises(ValueError, match=f"'{backend}' does not serve"):
        dist_utils.init_dist('pytorch', backend)
    assert joined == []


def test_the_kind_chosen_before_is_kept(host, joined):
    host(npu=8, cuda=8)
    dist_utils.set_device('cuda')
    launched(3, 4, LOCAL_RANK='3', LOCAL_WORLD_SIZE='4')
    dist_utils.init_dist('pytorch')
    assert str(dist_utils.get_device()) == 'cuda:3'
    dist_utils.set_device('cpu')
    dist_utils.init_dist('pytorch')
    assert [call['backend'] for call in joined] == ['nccl', 'gloo']


def test_a_number_is_kept_by_one_process_and_refused_for_several(host, joined):
    host(npu=8)
    dist_utils.set_device('npu:5')
    launched(LOCAL_RANK='0')
    dist_utils.init_dist('pytorch')
    assert str(dist_utils.get_device()) == 'npu:5'
    launched(0, 2, LOCAL_RANK='0', LOCAL_WORLD_SIZE='2')
    with pytest.raises(ValueError, match="'npu:5' was asked for by number"):
        dist_utils.init_dist('pytorch')
    assert len(joined) == 1


def test_fewer_devices_than_processes_is_refused_by_all_of_them(host, joined):
    host(cuda=2)
    for rank in range(4):
        launched(rank, 4, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE='4')
        with pytest.raises(ValueError) as refusal:
            dist_utils.init_dist('pytorch')
        for word in ('4 processes', 'there are 2', 'NPROC=2'):
            assert word in str(refusal.value)
    assert joined == []


def test_without_a_local_rank_the_rank_counts_as_in_stock(host, joined):
    host(cuda=4)
    launched(6, 8, MASTER_ADDR='10.0.0.1')
    dist_utils.init_dist('pytorch')
    assert str(dist_utils.get_device()) == 'cuda:2'


@pytest.mark.parametrize(
    'environment, words',
    [
        ({}, ['RANK is not set']),
        (dict(RANK='0'), ['WORLD_SIZE is not set']),
        (
            dict(RANK='0', WORLD_SIZE='4', LOCAL_WORLD_SIZE='2'),
            ['MASTER_ADDR', '4', '2'],
        ),
    ],
)
def test_an_incomplete_launch_is_refused(joined, environment, words):
    os.environ.update(environment)
    with pytest.raises(ValueError) as refusal:
        dist_utils.init_dist('pytorch')
    for word in words:
        assert word in str(refusal.value)


def test_an_unknown_launcher_is_refused(joined):
    with pytest.raises(ValueError, match='pytorch, mpi, slurm'):
        dist_utils.init_dist('none')


@pytest.mark.parametrize('started', [None, 'fork'])
def test_workers_are_spawned_unless_the_program_has_chosen(
    monkeypatch, joined, started
):
    chosen = []
    mp = torch.multiprocessing
    monkeypatch.setattr(mp, 'get_start_method', lambda allow_none: started)
    monkeypatch.setattr(mp, 'set_start_method', chosen.append)
    launched()
    dist_utils.init_dist('pytorch')
    assert chosen == ([] if started else ['spawn'])


def slurm(rank, **more):
    os.environ.update(
        SLURM_PROCID=str(rank),
        SLURM_NTASKS='16',
        SLURM_NODELIST='node[1-2],gpu-7',
        **more,
    )


def test_slurm_becomes_the_environment_of_torch(host, joined, monkeypatch):
    host(npu=8)
    asked = []

    def getoutput(command):
        asked.append(command)
        return 'node1'

    monkeypatch.setattr(subprocess, 'getoutput', getoutput)
    slurm(11, SLURM_LOCALID='3')
    dist_utils.init_dist('slurm', port=1234)
    found = {
        name: os.environ[name]
        for name in (
            'RANK',
            'LOCAL_RANK',
            'WORLD_SIZE',
            'MASTER_ADDR',
            'MASTER_PORT',
        )
    }
    assert found == dict(
        RANK='11',
        LOCAL_RANK='3',
        WORLD_SIZE='16',
        MASTER_ADDR='node1',
        MASTER_PORT='1234',
    )
    assert str(dist_utils.get_device()) == 'npu:3'
    assert joined == [dict(backend='hccl')]
    assert 'node[1-2],gpu-7' in asked[0]
    assert 'GLOO_SOCKET_IFNAME' not in os.environ
    dist_utils.init_dist('slurm')
    assert os.environ['MASTER_PORT'] == '1234' and len(asked) == 1


def test_slurm_tasks_with_devices_of_their_own(host, joined):
    host(cuda=1)
    slurm(5, SLURM_LOCALID='5', MASTER_ADDR='node1')
    with pytest.raises(ValueError, match='NPROC=1'):
        dist_utils.init_dist('slurm')
    os.environ['SLURM_GPUS_PER_TASK'] = '1'
    dist_utils.init_dist('slurm')
    assert str(dist_utils.get_device()) == 'cuda:0'


def test_nothing_but_host_names_gets_into_or_out_of_the_shell(
    joined, monkeypatch
):
    monkeypatch.setattr(
        subprocess, 'getoutput', lambda _: '/bin/sh: scontrol: not found'
    )
    slurm(0)
    with pytest.raises(ValueError, match='scontrol: not found'):
        dist_utils.init_dist('slurm')
    for nodes in ('node1; touch x', '--help', '$(touch x)', ''):
        os.environ['SLURM_NODELIST'] = nodes
        with pytest.raises(ValueError, match='no list of hosts'):
            dist_utils.init_dist('slurm')
    assert joined == []


# Together


def test_alone(monkeypatch):
    assert dist_utils.get_dist_info() == (0, 1)
    assert dist_utils.gather_objects('mine') == ['mine']
    assert ranks.broadcast_object('mine') == 'mine'
    assert dist_utils.master_only(lambda x: x + 1)(1) == 2
    ranks.barrier()
    params = group_cases.tensors(0)
    dist_utils.allreduce_params(params)
    assert all(
        torch.equal(a, b) for a, b in zip(params, group_cases.tensors(0))
    )


def check_ranks(folder, size=2, address='127.0.0.1'):
    """Check what each process has found."""
    ranks = returned(folder, size)
    for rank, found in enumerate(ranks):
        assert found['place'] == (rank, size)
        assert (found['device'], found['backend']) == ('cpu', 'gloo')
        assert found['side group']
        assert found['start method'] == 'spawn'
        assert found['address'] == address
        assert found['master'] == ('here' if rank == 0 else None)
        assert len(found['ours']) == len(found['theirs']) > 10
        for ours, theirs in zip(found['ours'], found['theirs']):
            assert torch.equal(ours, theirs)
        # 4, 7, 10 and 0, 1, 2: a counter stays a whole number.
        mean = {2: [5, [0.5, 0.5]], 3: [7, [1.0, 1.0]]}[size]
        assert [c.tolist() for c in found['counters']] == mean
        if os.path.isdir('/sys/class/net/lo'):
            assert found['network'] == 'lo'
    first, second = ranks[0]['gathered']
    assert [item['rank'] for item in first] == list(range(size))
    assert [len(item['scores']) for item in first] == [1, 2, 3][:size]
    assert second == list(range(size))
    assert ranks[1]['gathered'] == [None, None]
    for rank in ranks:
        assert rank['shared']['rank'] == 5
        assert rank['shared']['scores'].tolist() == [0.5] * 6
    return ranks


@pytest.fixture
def stock_file(original):
    return original('mmcv', 'runner/dist_utils.py')


def test_torch_s_launcher(launch, tmp_path, stock_file):
    # Three: dividing by two would be exact before and after adding up.
    script, *arguments = call_of(
        group_cases.work_together, tmp_path, stock_file, launcher='pytorch'
    )
    done = launch(3, script, *arguments)
    assert done.stdout.split().count('left') == 3, done.stderr
    ranks = check_ranks(tmp_path, size=3)
    assert [rank['local rank'] for rank in ranks] == ['0', '1', '2']
    # Both took the mean: different values are equal afterwards.
    assert torch.equal(ranks[0]['ours'][0], ranks[1]['ours'][0])


# The second process in the background; the first one's status counts.
START_TWO = """
rank1 "$@" & second=$!
rank0 "$@"; status=$?
wait $second || status=$?
exit $status
"""


def start_two(run, tmp_path, launcher, stock_file, variables, env):
    """Start two processes with an environment as a launcher makes it."""
    lines = []
    for rank in (0, 1):
        settings = ' '.join(f'{k}={v[rank]}' for k, v in variables.items())
        lines.append(f'rank{rank}() {{ {settings} "$@"; }}')
    script = '\n'.join(lines) + START_TWO
    work = group_cases.work_together
    words = call_of(work, tmp_path, stock_file, launcher=launcher)
    command = [sys.executable, *words]
    done = run(['bash', '-c', script, 'bash', *command], env=env)
    assert done.returncode == 0, done.stderr


def test_mpirun(run, free_port, tmp_path, stock_file):
    variables = {
        'OMPI_COMM_WORLD_RANK': (0, 1),
        'OMPI_COMM_WORLD_LOCAL_RANK': (0, 1),
        'OMPI_COMM_WORLD_SIZE': (2, 2),
        'OMPI_COMM_WORLD_LOCAL_SIZE': (2, 2),
    }
    env = dict(MASTER_PORT=str(free_port))
    start_two(run, tmp_path, 'mpi', stock_file, variables, env)
    ranks = check_ranks(tmp_path)
    assert [rank['local rank'] for rank in ranks] == ['0', '1']


def test_srun(run, free_port, tmp_path, stock_file):
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "show hostname node[1-2]" ] || exit 1\n'
        'echo localhost; echo node2\n'
    )
    scontrol.chmod(0o755)
    variables = {'SLURM_PROCID': (0, 1), 'SLURM_LOCALID': (0, 1)}
    env = dict(
        PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}',
        SLURM_NTASKS='2',
        SLURM_NODELIST='node[1-2]',
        MASTER_PORT=str(free_port),
    )
    start_two(run, tmp_path, 'slurm', stock_file, variables, env)
    ranks = check_ranks(tmp_path, address='localhost')
    assert [rank['local rank'] for rank in ranks] == ['0', '1']
