"""The bundle's commands on the real torch_npu, as a user calls them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mpii_data import CONFIGS
from work_folder import read_losses, same_weights

from hourglass_npu.training import trial

TRAIN = ('bash', 'scripts/launch.sh', 'train')
FP32 = 'amp=none'
# Not that chip's own way, for which the stand-in lacks the operators.
FIRST_GENERATION = dict(
    CANN_STUB_SOC='Ascend910A', NPU_JIT_COMPILE='0', NPU_INTERNAL_FORMAT='0'
)
# The arithmetic of a CPU's Adam, to compare with: in fp32 NpuFusedAdam is
# taken otherwise.
PLAIN = 'optimizer.fused=False'


def table_of(output):
    """Return the last table of an output, line by line."""
    return [line for line in output.splitlines() if line.startswith('|')][-3:]


def copies(report):
    """Return the number of copies in streams that do not compute."""
    return sum(
        tasks.get('copy', 0)
        for tasks in report['streams'].values()
        if 'aclnnConvolution' not in tasks
    )


def device_of(report):
    """Return the number of the device that was set last."""
    return int(report['settings']['device'][-1])


@pytest.fixture(scope='module')
def trained(cann_stub, run, few, tmp_path_factory):
    """A training of ``train_1p.sh --sample`` in fp32: output and folder."""
    work = tmp_path_factory.mktemp('trained')
    done = run(
        ['bash', 'scripts/train_1p.sh', '--sample', '--work-dir', work]
        + ['--cfg-options', *few, FP32, PLAIN],
        env=cann_stub,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done, work


def test_train_1p_gives_what_the_cpu_gives(trained, run, few, tmp_path):
    done, work = trained
    assert 'Training on 1 x npu' in done.stderr + done.stdout
    config = CONFIGS / 'hourglass_mpii_sample_96x96.py'
    on_cpu = run(
        [*TRAIN, 1, config, '--device', 'cpu', '--no-validate']
        + ['--work-dir', tmp_path, '--cfg-options', *few],
        timeout=300,
    )
    assert on_cpu.returncode == 0, on_cpu.stderr[-4000:]
    losses = read_losses(work)
    assert len(losses) == 4 and losses == read_losses(tmp_path)
    assert same_weights(work / 'latest.pth', tmp_path / 'latest.pth')


@pytest.mark.timeout(900)
def test_eight_devices_train(npu, tiny, tmp_path):
    config, data = tiny
    done = npu(
        *(*TRAIN, 8, config, '--no-validate', '--work-dir', tmp_path / 'work'),
        *('--cfg-options', 'total_epochs=1', 'data.samples_per_gpu=1', FP32),
        timeout=800,
        **data,
    )
    assert [report['rank'] for report in done.reports] == list(range(8))
    for report in done.reports:
        # The request first, and then the rank's own.
        assert device_of(report) == report['rank']
        assert report['collectives']['AllReduce'] > 2
        assert copies(report) == 2 * 3  # iterations, tensors of a batch
    losses = read_losses(tmp_path / 'work')
    assert len(losses) == 2 and all(np.isfinite(losses))


def test_evaluations_give_what_the_cpu_gives(trained, npu, run, few):
    # `train_1p.sh --sample` has ended with `eval.sh 1`.
    done, work = trained
    options = ['--sample', '--work-dir', work, '--cfg-options', *few]
    two = npu('bash', 'scripts/eval.sh', 2, *options)
    assert [device_of(report) for report in two.reports] == [0, 1]
    cpu = run(
        ['bash', 'scripts/eval.sh', 1, '--device', 'cpu', *options],
        timeout=300,
    )
    assert len(table_of(cpu.stdout)) == 3, cpu.stderr
    assert table_of(done.stdout) == table_of(cpu.stdout)
    assert table_of(two.stdout) == table_of(cpu.stdout)


def test_the_demo_finds_the_same_joints(trained, npu, run, tmp_path):
    options = ['--sample', '--checkpoint', str(trained[1] / 'latest.pth')]
    options += ['--out', str(tmp_path / 'demo.jpg')]
    found = []
    for name, execute in dict(npu=npu, cpu=run).items():
        result = tmp_path / f'{name}.json'
        command = [sys.executable, 'demo.py', *options, '--json', result]
        if execute is npu:
            done = npu(*command, NPUID='3')
            (report,) = done.reports
            assert device_of(report) == 3
            assert report['kernels']['aclnnConvolution']['float32'] > 10
        else:
            assert run(command + ['--device', 'cpu']).returncode == 0
        found.append(json.loads(result.read_text())['pictures'])
    assert found[0] == found[1]


def test_a_batch_that_is_too_large_ends_with_its_own_status(
    npu, tiny, tmp_path
):
    """What ``--batch auto`` goes by: a trial each, in a process of its own."""
    config, data = tiny
    command = [sys.executable, 'mmpose-master/tools/train.py', config]
    command += ['--device', 'npu', '--work-dir', tmp_path / 'work']
    command += ['--try-batch', '--cfg-options', FP32, PLAIN, '--batch']
    # Enough for the batch, but not for what the network makes of it.
    for batch, status in (('2', 0), ('512', trial.TOO_LARGE)):
        done = npu(
            *command, batch, status=status, CANN_STUB_MEMORY='128', **data
        )
        assert len(done.reports) == 1
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_the_export_works_where_npus_are(trained, npu, tmp_path):
    path = tmp_path / 'hourglass.onnx'
    npu(
        *(sys.executable, 'pytorch2onnx.py', '--sample', '--out', path),
        *('--checkpoint', trained[1] / 'latest.pth'),
    )
    assert path.stat().st_size > 100000


def test_a_killed_training_goes_on_to_the_bit(
    cann_stub, npu, run, tiny, tmp_path
):
    config, data = tiny
    command = [*TRAIN, 1, config, '--no-validate', '--seed', '1']
    options = ['--cfg-options', 'checkpoint_config.by_epoch=False', FP32]
    options += ['total_epochs=3', 'checkpoint_config.interval=1']
    done = npu(
        *(*command, '--work-dir', tmp_path / 'whole', *options),
        'device_prefetch=False',
        **data,
    )
    assert copies(done.reports[0]) == 0

    clean = {
        name: os.environ[name]
        for name in ('HOME', 'PATH', 'VENV')
        if name in os.environ
    }
    clean.update(cann_stub, OMP_NUM_THREADS='1', **data)
    work = tmp_path / 'killed'
    words = [*command, '--work-dir', work, *options, 'total_epochs=1000']
    process = subprocess.Popen(
        [str(word) for word in words],
        env=clean,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 200
        while not (work / 'iter_4.pth').exists():
            assert process.poll() is None, 'training has ended'
            assert time.monotonic() < end, 'training did not begin'
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for path in work.glob('iter_*.pth'):
        if path.name != 'iter_4.pth':
            path.unlink()
    done = npu(
        *(*command, '--work-dir', work, *options),
        *('--resume-from', work / 'iter_4.pth'),
        **data,
    )
    # Batches, of three tensors, go beside the steps now, which moves nothing.
    # Four of 18 are loaded but not trained on, and not sent either.
    assert copies(done.reports[0]) == 3 * (18 - 4)
    assert same_weights(work / 'latest.pth', tmp_path / 'whole' / 'latest.pth')


def test_o2_with_a_static_scale(npu, tiny, tmp_path):
    config, data = tiny
    done = npu(
        *(*TRAIN, 1, config, '--no-validate', '--work-dir', tmp_path / 'work'),
        ASCEND_RT_VISIBLE_DEVICES='4,6',
        NPUID='1',
        CANN_STUB_SOC='Ascend910_9391',
        **data,
    )
    assert 'float16 on npu:1, loss scale 32768 (static)' in done.stderr
    (report,) = done.reports
    assert report['chip'] == 'Ascend910_9391'
    assert device_of(report) == 1
    assert report['kernels']['aclnnConvolution'] == {'float16': 16 * 12}
    # Adam divides in few kernels.
    assert 'aclnnInplaceAddcdiv' not in report['kernels']
    assert sum(report['kernels']['aclnnForeachAddcdivScalarV2'].values()) < 40
    assert not report['missing']
    losses = read_losses(tmp_path / 'work')
    assert len(losses) == 12 and all(np.isfinite(losses))


def test_steps_that_overflow_unseen_are_skipped(npu, tiny, tmp_path):
    # This chip shows no inf: only its flag tells.
    config, data = tiny
    done = npu(
        *(*TRAIN, 1, config, '--no-validate', '--work-dir', tmp_path / 'work'),
        *('--cfg-options', 'amp.loss_scale=1e9', 'total_epochs=1'),
        'amp.max_consecutive_overflows=0',
        **FIRST_GENERATION,
        **data,
    )
    assert 'step skipped (6 so far, 6 in a row)' in done.stderr
    checkpoint = torch.load(str(tmp_path / 'work/latest.pth'))
    assert all(
        weight.isfinite().all() for weight in checkpoint['state_dict'].values()
    )
    assert not checkpoint['optimizer']['state']


def test_the_fused_adam_of_torch_npu_keeps_its_memory(npu, tiny, tmp_path):
    # It says so if a parameter or a gradient is put elsewhere.
    config, data = tiny
    weights = []
    for name, form in (
        ('NpuFusedAdam', 'Optimizer: NpuFusedAdam, fused'),
        ('Adam', "Optimizer: Adam, torch's default on npu"),
    ):
        work = tmp_path / name
        done = npu(
            *(*TRAIN, 2, config, '--no-validate', '--seed', '1'),
            *('--work-dir', work, '--cfg-options', FP32),
            *([PLAIN] if name == 'Adam' else []),
            *('total_epochs=1', 'lr_config.warmup=none'),
            **data,
        )
        assert form in done.stdout + done.stderr
        checkpoint = torch.load(str(work / 'latest.pth'), map_location='cpu')
        weights.append(checkpoint['state_dict'])
    for key, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][key], atol=1e-5, rtol=0)


def test_what_is_not_there_is_refused(npu, tiny):
    config, data = tiny
    for environment, words in (
        (dict(NPUID='8'), 'NPUID=8, but the 8 npu device(s)'),
        (
            dict(ASCEND_RT_VISIBLE_DEVICES='1', NPUID='1'),
            'NPUID=1, but the 1 npu device(s)',
        ),
    ):
        refused = npu(*TRAIN, 1, config, status=2, **data, **environment)
        assert words in refused.stderr
        assert 'Traceback' not in refused.stderr
    refused = npu(*TRAIN, 1, config, '--device', 'npu:9', status=2, **data)
    assert 'numbered 0 to 7' in refused.stderr


def test_the_doctor_tries_the_devices(cann_stub, run):
    done = run(
        [sys.executable, 'scripts/doctor.py', '--json', '--devices', 3],
        env=dict(cann_stub, VENV=sys.prefix),
        timeout=240,
    )
    account = json.loads(done.stdout)
    assert account['verdict'] == 'ready to train'
    found = {finding['check']: finding for finding in account['findings']}
    for check, words in (
        ('devices', 'npu (8), cpu (1)'),
        ('collective', 'hccl works in a group of one on Ascend910B3'),
        ('cards', '3 x npu (Ascend910B3): hccl sums 1 to 3 at '),
        ('cann', '9.1.0'),
        ('nodes', '8 in /dev'),
        ('driver', 'stub'),
    ):
        assert found[check]['severity'] == 'ok', found[check]
        assert words in found[check]['text']


def test_the_benchmark_trains_on_the_devices(npu, tiny, tmp_path):
    found = tmp_path / 'bench.json'
    done = npu(
        *(sys.executable, 'scripts/bench.py', '--device', 'npu', 'ranks'),
        *('--small', '--rounds', '1', '--workers', '0', '--json', found),
        *('--data', tiny[1]['MPII_ROOT']),
    )
    result = json.loads(found.read_text())
    assert result['machine']['accelerator'] == 'Ascend910B3'
    what = [row['what'] for row in result['areas']['ranks']]
    assert what == ['image, 1 rank', 'image, 2 ranks']
    trained = [r for r in done.reports if 'aclnnConvolution' in r['kernels']]
    assert sorted(map(device_of, trained)) == [0, 0, 1]


def test_what_the_stand_in_lacks_is_refused_by_name(npu, tiny, tmp_path):
    # The first generation's own way: compiled operators.
    config, data = tiny
    done = npu(
        *(*TRAIN, 1, config, '--no-validate', '--work-dir', tmp_path / 'work'),
        status=1,
        CANN_STUB_SOC='Ascend910A',
        **data,
    )
    assert 'compiling operators on (the default)' in done.stderr
    assert 'the old operator interface has no kernels here' in done.stderr


def test_overflow_on_a_first_chip_ends_a_training_in_fp32(npu, tiny, tmp_path):
    # Its convolutions round to half; no number shows that one was too large.
    config, data = tiny
    done = npu(
        *(*TRAIN, 1, config, '--no-validate', '--work-dir', tmp_path / 'work'),
        *('--cfg-options', FP32, 'optimizer.lr=1e30'),
        status=2,
        **dict(FIRST_GENERATION, CANN_STUB_SOC='Ascend310P3'),
        **data,
    )
    assert 'This chip computes fp32 convolutions in half' in done.stderr
    assert 'numbers overflow on this chip' in done.stderr
