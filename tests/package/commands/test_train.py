import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from calling import command as module_of
from mpii_data import CONFIGS, copy_real_mpii

from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.paths import MMPOSE_ROOT

TOOLS = MMPOSE_ROOT / 'tools'
# Our checkpoints hold plain data; torch 1.8 does not know the argument.
SAFE = dict(weights_only=True) if torch.__version__ >= '2' else {}


def load(path):
    return torch.load(str(path), map_location='cpu', **SAFE)


def same_weights(a, b):
    a, b = load(a)['state_dict'], load(b)['state_dict']
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def train(main, tiny, tmp_path):
    """Run the command on the tiny network, on the CPU."""

    def execute(*arguments, work='work', config=tiny):
        if work:
            arguments += ('--work-dir', tmp_path / work)
        main('train', config, '--device', 'cpu', *arguments)
        return tmp_path / (work or '')

    return execute


def test_a_run_leaves_checkpoints_scores_and_config(train):
    work = train('--seed', 3, '--cfg-options', 'optimizer.lr=0.01')
    assert os.path.samefile(
        str(work / 'latest.pth'), str(work / 'epoch_2.pth')
    )
    meta = load(work / 'latest.pth')['meta']
    assert meta['seed'] == 3 and meta['epoch'] == 2
    assert 'lr=0.01' in meta['config']
    best = json.loads((work / 'best.json').read_text())
    assert best['key_indicator'] == 'PCKh'
    assert (work / 'pred.mat').is_file()
    assert (work / 'training.png').stat().st_size > 10000


def test_a_figure_that_fails_does_not_fail_the_training(
    train, monkeypatch, caplog
):
    from matplotlib.figure import Figure

    def fail(*args, **kwargs):
        raise OSError('no space left')

    monkeypatch.setattr(Figure, 'savefig', fail)
    work = train('--no-validate', '--cfg-options', 'total_epochs=1')
    assert "no figure of the training (OSError('no space" in caplog.text
    assert 'plot_log.py' in caplog.text and 'Done: ' in caplog.text
    assert not list(work.glob('*.png'))


TENSORBOARD = """
log_config = dict(
    interval=1,
    hooks=[dict(type='TextLoggerHook'), dict(type='TensorboardLoggerHook')])
"""


def test_tensorboard_is_a_line_of_the_config(train, tiny):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing import event_accumulator

    tiny.write_text(tiny.read_text() + TENSORBOARD)
    work = train('--cfg-options', 'total_epochs=1')
    events = event_accumulator.EventAccumulator(str(work / 'tf_logs'))
    events.Reload()
    losses = events.Scalars('train/loss')
    assert [event.step for event in losses] == [1, 2, 3]
    assert events.Scalars('val/PCKh')


def test_tensorboard_that_is_not_there_is_said(train, tiny, monkeypatch):
    tiny.write_text(tiny.read_text() + TENSORBOARD)
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    with pytest.raises(UserError, match='pip install tensorboard'):
        train()


def test_a_seed_decides_about_everything(train):
    options = ['--no-validate', '--cfg-options', 'total_epochs=1']
    for work, seed in dict(a=0, b=0, c=2).items():
        root = train('--seed', seed, *options, work=work).parent
    paths = [root / name / 'latest.pth' for name in 'abc']
    assert same_weights(paths[0], paths[1])
    assert not same_weights(paths[0], paths[2])
    # Repeatable kernels without a seed would repeat nothing.
    train('--deterministic', *options, work='d')
    torch.backends.cudnn.deterministic = False
    assert load(root / 'd/latest.pth')['meta']['seed'] == 0


def test_resume_auto_starts_afresh_and_then_goes_on(train, caplog):
    options = ['--resume-from', 'auto', '--no-validate', '--cfg-options']
    work = train(*options, 'total_epochs=1')
    assert 'work to resume from: starting afresh' in caplog.text
    first = load(work / 'epoch_1.pth')
    train(*options, 'total_epochs=2')
    assert 'resumed epoch 1' in caplog.text
    second = load(work / 'latest.pth')
    assert (first['meta']['iter'], second['meta']['iter']) == (3, 6)
    # A file by its name; the learning rate goes on too.
    train('--resume-from', work / 'epoch_1.pth', '--no-validate', work='other')
    assert load(work.parent / 'other/latest.pth')['meta']['iter'] == 6


def test_resume_auto_passes_over_what_is_damaged(train, caplog):
    options = ['--resume-from', 'auto', '--no-validate', '--cfg-options']
    work = train(*options, 'total_epochs=2')
    whole = (work / 'epoch_2.pth').read_bytes()
    (work / 'epoch_2.pth').write_bytes(whole[:-100])
    train(*options, 'total_epochs=2')
    assert re.search('Passed over: .*latest.pth cannot be read', caplog.text)
    assert 'resumed epoch 1, iter 3' in caplog.text
    assert load(work / 'latest.pth')['meta']['iter'] == 6
    for path in work.glob('*.pth'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match='no checkpoint .* is whole'):
        train(*options, 'total_epochs=2')


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of its own at a folder; needs root."""
    mounted = []

    def mount(folder, *options):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ['mount', *options, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            pytest.skip(f'cannot mount: {done.stdout.decode().strip()}')
        if not options[0].startswith('-oremount'):
            mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(train, small_disk, tmp_path):
    options = ['--no-validate', '--cfg-options', 'total_epochs=1']
    size = os.path.getsize(str(train(*options, work='try') / 'epoch_1.pth'))
    work = tmp_path / 'work'
    small_disk(work, '-t', 'tmpfs', f'-osize={size * 3 // 2}', 'tmpfs')
    with pytest.raises(OSError, match='epoch_2.pth was not written: No sp'):
        train('--no-validate')
    assert [path.name for path in work.glob('*.pth')].count('epoch_2.pth') == 0
    assert not list(work.glob('.*'))
    assert os.readlink(str(work / 'latest.pth')) == 'epoch_1.pth'
    assert load(work / 'latest.pth')['meta']['epoch'] == 1


def test_no_room_for_the_log_ends_nothing(run, tiny, small_disk, tmp_path):
    work = tmp_path / 'work'
    small_disk(work, '-t', 'tmpfs', '-osize=64k', 'tmpfs')
    (work / 'filler').write_bytes(bytes(64 << 10))
    options = ['--device=cpu', '--no-validate', '--work-dir', work]
    options += ['--cfg-options', 'total_epochs=1', 'checkpoint_config=none']
    done = run(
        command('train', tiny, *options),
        env=dict(MPII_ROOT=os.environ['MPII_ROOT']),
    )
    assert done.returncode == 0 and 'Epoch [1][3/3]' in done.stderr
    told = done.stderr.count('warning: the log cannot be written: [Errno 28]')
    assert told == done.stderr.count('ReadableLogHook cannot log') == 1
    assert 'Traceback' not in done.stderr


def test_a_work_folder_that_goes_or_cannot_be_written(
    train, small_disk, tmp_path, monkeypatch
):
    from mmpose.datasets import TopDownMpiiDataset

    work, calls = tmp_path / 'work', []
    real = TopDownMpiiDataset.__getitem__

    def item(self, index):
        calls.append(index)
        if len(calls) == 1:  # before the first checkpoint
            shutil.rmtree(str(work))
        if len(calls) == 7:  # of epoch 2
            small_disk(work, '--bind', str(work))
            small_disk(work, '-oremount,bind,ro')
        return real(self, index)

    monkeypatch.setattr(TopDownMpiiDataset, '__getitem__', item)
    with pytest.raises(OSError, match='epoch_2.pth was not written: Read-o'):
        train('--no-validate')
    assert load(work / 'latest.pth')['meta']['epoch'] == 1


def test_training_alone_needs_no_validation_data(train, tiny):
    for path in (tiny.parent / 'mpii/annotations').glob('*val*'):
        path.unlink()
    with pytest.raises(UserError, match='mpii_val.json'):
        train()
    train('--no-validate')


def test_a_flow_of_validation_logs_its_loss(train, tiny, tmp_path, caplog):
    config = tmp_path / 'repeated.py'
    config.write_text(
        f'_base_ = {str(tiny)!r}\n'
        'from mmcv import Config\n'
        f'data = Config.fromfile({str(tiny)!r})._cfg_dict.data.to_dict()\n'
        "inner = dict(type='RepeatDataset', times=1, dataset=data['train'])\n"
        "data['train'] = dict(inner, _delete_=True, times=2, dataset=inner)\n"
        'del inner, Config\n'
    )
    for name in (tiny, config):
        caplog.clear()
        work = train(
            '--no-validate',
            '--cfg-options',
            "workflow=[('train',1),('val',1)]",
            'total_epochs=1',
            work=name.stem,
            config=name,
        )
        assert 'Epoch(val) [1]' in caplog.text
        lines = next(work.glob('*.log.json')).read_text().splitlines()
        (found,) = [
            line
            for line in map(json.loads, lines)
            if line.get('mode') == 'val'
        ]
        assert found['loss'] > 0 and 0 <= found['acc_pose'] <= 1


def test_learning_rate_is_scaled_on_request(train, caplog):
    options = ['lr_config.warmup=none', 'total_epochs=1', '--no-validate']
    train('--autoscale-lr', '--cfg-options', *options)
    assert 'lr: 6.250e-05' in caplog.text  # 5e-4 / 8


@pytest.mark.parametrize(
    'options, message',
    [
        (['--gpus', 8], 'NPROC=8 bash scripts/train_8p.sh'),
        (['--npus', 2], '1 process.* started'),
        (['--gpu-ids', 0, 1], 'NPROC=2'),
        (['--gpus', 0], 'at least 1'),
        (['--resume-from', '/none.pth'], 'no checkpoint /none.pth'),
        (['--cfg-options', 'load_from=/none.pth'], 'no checkpoint /none'),
        (['--cfg-options', 'total_epoch=3'], 'did you mean total_epochs'),
        (['--work-dir', '/dev/null/x'], 'cannot make the folder'),
        (['--device', 'npu:99'], "'npu:99' was asked for"),
        (['--device', 'tpu'], "'tpu' is not known"),
        (['--launcher', 'pytorch'], 'RANK is not set'),
    ],
)
def test_mistakes_are_said_before_training(
    main, tiny, tmp_path, monkeypatch, options, message
):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    if '--work-dir' not in options:
        options = ['--work-dir', tmp_path / 'work', *options]
    with pytest.raises(ValueError, match=message) as caught:
        main('train', tiny, *options)
    assert is_user_error(caught.value)
    assert not list(tmp_path.glob('work/*.pth'))


def test_a_config_without_a_recipe_is_refused(main, tmp_path):
    path = tmp_path / 'bare.py'
    path.write_text('model = dict()\ndata = dict()\ntotal_epochs = 1\n')
    with pytest.raises(UserError, match='has no .*lr_config.*optim'):
        main('train', path)


@pytest.mark.parametrize(
    'options, message',
    [
        ([], 'required: config'),
        (['--seed', '-1'], "invalid seed_number value: '-1'"),
        (['--gpus', '1', '--gpu-ids', '1'], 'not allowed with'),
        (['--resume_from=x'], 'did you mean --resume-from?'),
    ],
)
def test_the_parser_refuses_with_status_2(capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        module_of('train').parse_args(['x.py'] * bool(options) + options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def command(name, *arguments):
    return [sys.executable, TOOLS / f'{name}.py', *arguments]


def test_missing_data_cost_no_traceback_and_status_2(run, tmp_path):
    done = run(
        command('train', CONFIGS / 'hourglass52_mpii_384x384.py'),
        env=dict(MPII_ROOT=str(tmp_path)),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: these data are missing:')
    assert '--sample' in done.stderr and 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_needs_no_packages(run):
    done = run([sys.executable, '-S', TOOLS / 'train.py', '--help'])
    assert done.returncode == 0 and '--resume-from' in done.stdout


def test_two_ranks_train_and_any_number_evaluates(launch, run, tiny, tmp_path):
    """Sees the log of rank 0 alone, and one table for 1 and 3 processes."""
    environment = dict(MPII_ROOT=os.environ['MPII_ROOT'])
    work = tmp_path / 'work'
    options = [tiny, '--device', 'cpu', '--work-dir', work]
    begun = time.time()
    done = launch(
        2,
        TOOLS / 'train.py',
        *options,
        '--gpus=2',
        '--seed=1',
        # Workers are spawned under a launcher: what they get must pickle.
        '--cfg-options',
        'data.workers_per_gpu=1',
        'data.val_dataloader.workers_per_gpu=0',
        'data.samples_per_gpu=1',
        'total_epochs=1',
        env=environment,
    )
    wall = time.time() - begun
    assert done.stderr.count('Training on 2 x cpu, per process 1 thread') == 1
    assert done.stderr.count('FPS: ') == 1
    assert done.stdout.count('6 people in 6 pictures') == 1
    # The six people of the epoch took less time than all that was done.
    speed = float(done.stderr.split('FPS: ')[1].split()[0])
    assert speed > 6 / wall
    (log,) = work.glob('*.log')
    # The first screen is for the training; these are long.
    for head in ('Environment:\n', 'Config:\n'):
        assert head in log.read_text() and head not in done.stderr
    # On CPU the seed's draws differ between ranks, the weights do not.
    assert load(work / 'latest.pth')['meta']['seed'] == 1

    tables, predictions = [], []
    for ranks in (1, 3):
        arguments = [*options, f'--out={tmp_path}/out{ranks}.json']
        if ranks == 1:
            done = run(command('test', *arguments), env=environment)
            assert done.returncode == 0, done.stderr
        else:
            done = launch(
                ranks, TOOLS / 'test.py', *arguments, env=environment
            )
        tables.append([x for x in done.stdout.splitlines() if x[:1] == '|'])
        predictions.append((tmp_path / f'out{ranks}.json').read_text())
        assert done.stderr.count('Tested 5 samples') == 1
    assert len(tables[0]) == 3 and tables[0] == tables[1]
    assert predictions[0] == predictions[1]


def test_the_rank_that_fails_is_the_one_that_speaks(launch, tmp_path):
    script = tmp_path / 'job.py'
    script.write_text(
        'from hourglass_npu import errors\n'
        'def main():\n'
        '    import torch\n'
        '    from mmcv.runner.dist_utils import init_dist, set_device\n'
        '    set_device("cpu")\n'
        '    init_dist("pytorch")\n'
        '    if torch.distributed.get_rank() == 1:\n'
        '        raise RuntimeError("rank 1 is at fault")\n'
        '    torch.distributed.all_reduce(torch.ones(1))\n'
        'if __name__ == "__main__":\n'
        '    errors.run(main)\n'
    )
    begun = time.time()
    done = launch(2, script, check=False)
    assert done.returncode != 0 and time.time() - begun < 60
    assert done.stderr.count('RuntimeError: rank 1 is at fault') == 1
    assert 'all_reduce' not in done.stderr
    left = subprocess.run(
        ['pgrep', '-f', str(script)], stdout=subprocess.PIPE, check=False
    )
    assert left.stdout == b''


def test_the_large_network_trains_on_real_pictures(
    main, real_mpii, tmp_path, monkeypatch, caplog
):
    folder = copy_real_mpii(real_mpii, tmp_path / 'mpii')
    monkeypatch.setenv('MPII_ROOT', str(folder))
    main(
        'train',
        CONFIGS / 'hourglass52_mpii_256x256.py',
        '--device=cpu',
        '--seed=0',
        f'--work-dir={tmp_path}/work',
        '--cfg-options',
        'data.samples_per_gpu=2',
        'data.workers_per_gpu=0',
        'total_epochs=1',
        'evaluation.interval=1',
        'checkpoint_config=none',
        'log_config.interval=1',
    )
    log = caplog.text
    assert 'Epoch [1][2/2]' in log and 'FPS: ' in log
    assert 'Epoch(val) [1][2]' in log and 'PCKh@0.1' in log
    assert 'loss: nan' not in log
