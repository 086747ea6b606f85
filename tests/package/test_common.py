import json
import os
import re
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import cv2
import pytest
import torch
from hourglass_npu.config.load import check_data, choose_work_dir, load_config
from hourglass_npu.errors import (
    UserError,
    describe,
    explain_failure,
    is_user_error,
)
from hourglass_npu.files import write_json
from hourglass_npu.options import add_options, parse_args
from hourglass_npu.paths import MMPOSE_ROOT
from hourglass_npu.process import share_cores
from hourglass_npu.weights import load_weights
from mpii_data import CONFIGS

LARGE = str(CONFIGS / 'hourglass52_mpii_384x384.py')


def load(*overrides):
    return load_config(LARGE, [list(overrides)])


# Config --------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('b.py', None, 'there is no config file .*b.py'),
        ('hourglas.py', None, 'did you mean .*hourglass.py'),
        ('b.txt', '', 'must end in .py'),
        ('b.py', 'model = dict(', 'SyntaxError'),
        ('b.py', 'model = nothing', "NameError: name 'nothing'"),
        ('b.json', '{', 'cannot be read: JSONDecodeError'),
        ('b.py', "_base_ = ['c.py']", 'cannot be read: FileNotFoundError'),
        ('b.py', 'model = dict()', "has no 'data'"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, name, content, message):
    (tmp_path / 'hourglass.py').write_text('')
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize(
    'text, value',
    [
        ('3', 3),
        ('-1e-3', -1e-3),
        ('true', True),
        ('False', False),
        ('none', None),
        ('1,2', [1, 2]),
        ('[1, 2]', [1, 2]),
        ('(1,2)', (1, 2)),
        ('[a,b]', ['a', 'b']),
        ("[('train', 1), ('val', 1)]", [('train', 1), ('val', 1)]),
        ('a=b', 'a=b'),
        ('some where/x.pth', 'some where/x.pth'),
        ("{'max_norm': 35}", {'max_norm': 35}),
        ('', ''),
    ],
)
def test_values_of_overrides(text, value):
    cfg = load(f'evaluation.rule={text}')
    assert cfg.evaluation.rule == value
    assert type(cfg.evaluation.rule) is type(value) or isinstance(value, dict)


def test_overrides_may_be_given_several_times():
    cfg = load_config(
        LARGE,
        [['total_epochs=3', 'data.samples_per_gpu=2'], ['optimizer.lr=0.1']],
    )
    assert cfg.total_epochs == 3 and cfg.optimizer.lr == 0.1
    assert cfg.data.samples_per_gpu == 2 and cfg.data.workers_per_gpu == 2
    assert load('log_config.hooks.0.by_epoch=False').log_config.hooks == [
        dict(type='TextLoggerHook', by_epoch=False)
    ]


@pytest.mark.parametrize(
    'override, message',
    [
        ('total_epoch=3', 'did you mean total_epochs'),
        ('zzz=3', 'no such key'),
        ('optimizer.lrr=3', 'did you mean optimizer.lr'),
        ('data.val.ann_fil=x', 'did you mean data.val.ann_file'),
        ('data.train.pipeline.1.flip_prop=0', 'pipeline.1.flip_prob'),
        ('data.train.pipeline.9.flip_prob=0', 'is a list of 8'),
        ('total_epochs.x=1', 'total_epochs is 210'),
        ('optimizer_config.grad_clip.max_norm=1', 'grad_clip is None'),
        ('total_epochs', "KEY=VALUE, not 'total_epochs'"),
        ('=3', 'KEY=VALUE'),
        ('data.batch=3', 'has no such key'),
        ('data.sample_per_gpu=3', 'did you mean data.samples_per_gpu'),
        ('data.val_dataloder.drop_last=1', 'did you mean data.val_dataload'),
        ('data.workers_per_gpu=-1', 'workers_per_gpu is -1: a whole number'),
        ('evaluation.rule=[a,(b]', 'brackets'),
    ],
)
def test_wrong_overrides_are_refused_by_name(override, message):
    with pytest.raises(UserError, match=message):
        load(override)


@pytest.mark.parametrize(
    'override',
    [
        'optimizer.betas=(0.5,0.9)',
        'optimizer.weight_decay=0.1',
        'data.val_dataloader.samples_per_gpu=1',
        'data.train_dataloader.drop_last=False',
        'checkpoint_config.max_keep_ckpts=3',
        'find_unused_parameters=True',
        'cudnn_benchmark=True',
        'lr_config.min_lr=0',
        'model.backbone.downsample_times=4',
        'fp16.loss_scale=512',
    ],
)
def test_keys_that_a_config_may_leave_out_are_taken(override):
    key, value = override.split('=')
    node = load(override)
    for part in key.split('.'):
        node = node[part]
    assert str(node).replace(' ', '') == value


def test_data_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    root = MMPOSE_ROOT
    monkeypatch.delenv('MPII_ROOT', raising=False)
    cfg = load()
    assert cfg.data.train.ann_file == str(
        root / 'data/mpii/annotations/mpii_train.json'
    )
    assert cfg.data.test.img_prefix == str(root / 'data/mpii/images/') + '/'

    monkeypatch.setenv('MPII_ROOT', 'elsewhere')
    cfg = load(
        'data.val.ann_file=data/mpii_sample/x.json',
        'data.test.ann_file=/abs/x.json',
    )
    assert cfg.data.train.ann_file == str(
        tmp_path / 'elsewhere/annotations/mpii_train.json'
    )
    assert cfg.data.val.ann_file == str(root / 'data/mpii_sample/x.json')
    assert cfg.data.val.img_prefix == f'{tmp_path}/elsewhere/images/'
    assert cfg.data.test.ann_file == '/abs/x.json'


def test_steps_of_a_workflow_may_be_lists(tmp_path):
    path = tmp_path / 'c.json'
    path.write_text('{"model": {}, "data": {}, "workflow": [["train", 1]]}')
    assert load_config(str(path)).workflow == [('train', 1)]


def test_other_paths_of_a_config_start_from_mmpose_master():
    cfg = load('load_from=a.pth', 'work_dir=w', 'resume_from=s3://b/c.pth')
    assert cfg.load_from == str(MMPOSE_ROOT / 'a.pth')
    assert cfg.work_dir == str(MMPOSE_ROOT / 'w')
    assert cfg.resume_from == 's3://b/c.pth'


def test_work_dir_is_option_then_config_then_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def chosen(option, *overrides):
        cfg = load(*overrides)
        choose_work_dir(Namespace(work_dir=option, config=LARGE), cfg)
        return cfg.work_dir

    assert chosen(None) == str(
        MMPOSE_ROOT / 'work_dirs/hourglass52_mpii_384x384'
    )
    assert chosen(None, 'work_dir=w') == str(MMPOSE_ROOT / 'w')
    assert chosen('here', 'work_dir=w') == str(tmp_path / 'here')


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / 'scores.json'
    contents = [dict(scores=[n] * 5000) for n in range(2)]

    def write(content):
        for _ in range(30):
            write_json(str(path), content)

    threads = [
        threading.Thread(target=write, args=(content,)) for content in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert json.loads(path.read_text()) in contents
    assert [p.name for p in tmp_path.iterdir()] == ['scores.json']


def test_who_may_read_a_file_is_decided_by_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(str(tmp_path / 'scores.json'), {})
    finally:
        os.umask(before)
    assert (tmp_path / 'scores.json').stat().st_mode & 0o777 == 0o640
    with pytest.raises(UserError, match='none does not exist'):
        write_json(str(tmp_path / 'none/scores.json'), {})


# Data ----------------------------------------------------------------------


def test_missing_data_are_listed_with_their_source(monkeypatch, tmp_path):
    monkeypatch.setenv('MPII_ROOT', str(tmp_path))
    cfg = load()
    with pytest.raises(UserError) as caught:
        check_data(cfg, ['train', 'val'])
    text = str(caught.value)
    for name in (
        'annotations/mpii_train.json',
        'annotations/mpii_val.json',
        'annotations/mpii_gt_val.mat',
    ):
        assert text.count(f'\n  {tmp_path}/{name}') == 1
    assert text.count(f'\n  {tmp_path}/images/') == 1
    for word in (
        'human-pose.mpi-inf.mpg.de',
        'mpii_annotations.tar',
        'MPII_ROOT',
        'train_1p.sh --sample',
    ):
        assert word in text

    (tmp_path / 'images').mkdir()
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/mpii_train.json').write_text('[]')
    check_data(cfg, ['train'])  # needs no ground truth
    with pytest.raises(UserError, match="no 'trial'"):
        check_data(cfg, ['trial'])
    # Left to the class, which says it.
    del cfg.data.val['ann_file']
    with pytest.raises(UserError, match='mpii_gt_val.mat'):
        check_data(cfg, ['val'])


def test_what_should_be_a_path_is_named():
    with pytest.raises(UserError, match='bbox_file of the data is 3:'):
        load('data.val.data_cfg.bbox_file=3')


# Processes -----------------------------------------------------------------


@pytest.mark.parametrize(
    'device, ranks, omp, asked, threads, workers',
    [
        ('cpu', 1, None, None, None, 2),
        ('cpu', 4, None, None, 4, 2),
        ('cpu', 8, None, None, 2, 1),
        ('cpu', 16, None, None, 1, 0),
        ('cpu', 99, None, None, 1, 0),
        ('cpu', 8, '1', None, None, 1),
        ('cpu', 16, None, 'data.workers_per_gpu=2', 1, 2),
        ('cuda', 8, None, None, None, 2),
        ('cuda', 16, None, None, None, 1),
    ],
)
def test_cores_are_shared(
    monkeypatch, device, ranks, omp, asked, threads, workers
):
    set_to = []
    monkeypatch.setattr(torch, 'set_num_threads', set_to.append)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(16))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    if omp:
        monkeypatch.setenv('OMP_NUM_THREADS', omp)
    else:
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    cfg = load()
    args = Namespace(cfg_options=[[asked]] if asked else None)
    before = cv2.getNumThreads()
    share_cores(torch.device(device), args, cfg)
    cv2.setNumThreads(before)
    assert set_to == ([threads] if threads else [])
    assert cfg.data.workers_per_gpu == workers


@pytest.mark.parametrize(
    'device, ranks, asked, samples',
    [
        ('cpu', 1, None, 32),
        ('cpu', 2, None, 1),
        ('cpu', 8, 'data.samples_per_gpu=4', 4),
        ('cpu', 8, 'data.samples_per_cpu=3', 3),
        ('cpu', 8, 'data.samples_per_cpu=none', 32),
        ('cuda', 8, None, 32),
    ],
)
def test_memory_is_shared(monkeypatch, device, ranks, asked, samples):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    args = Namespace(cfg_options=[[asked]] if asked else None)
    cfg = load_config(LARGE, args.cfg_options)
    before = cv2.getNumThreads()
    share_cores(torch.device(device), args, cfg)
    cv2.setNumThreads(before)
    assert cfg.data.samples_per_gpu == samples


def test_an_unknown_option_is_answered_by_the_nearest(capsys):
    parser = ArgumentParser(allow_abbrev=False)
    add_options(parser)
    with pytest.raises(SystemExit) as caught:
        parse_args(parser, ['--work_dirs=x'])
    assert caught.value.code == 2
    assert 'did you mean --work-dir?' in capsys.readouterr().err
    args = parse_args(parser, ['--local-rank=3', '--options', 'a=1'])
    assert args.local_rank == 3 and args.cfg_options == [['a=1']]


# Errors --------------------------------------------------------------------


def error_of(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError('no error')


class Picky:
    """A data set that finds fault with its data, in a worker of torch's."""

    error = ValueError

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error('a.jpg: the file\nis empty')


@pytest.mark.parametrize('kind', [ValueError, FileNotFoundError])
@pytest.mark.parametrize('workers', [0, 1])
def test_what_is_wrong_with_data_is_said_without_the_workers_traceback(
    kind, workers, monkeypatch
):
    monkeypatch.setattr(Picky, 'error', kind)
    loader = torch.utils.data.DataLoader(Picky(), num_workers=workers)
    assert not is_user_error(error_of(next, iter(loader)))

    where = dict(__name__='mmpose.datasets.picky')
    # Errors are told apart by where they come from.
    program = "def fail(self, index):\n    raise self.error('a.jpg: is bad')"
    exec(compile(program, '/x/mmpose/datasets/picky.py', 'exec'), where)
    monkeypatch.setattr(Picky, '__getitem__', where['fail'])
    error = error_of(next, iter(loader))
    assert is_user_error(error)
    assert describe(error) == 'a.jpg: is bad'


class Step:
    """A data set that goes through one step of a pipeline."""

    def __init__(self, sample, **step):
        from mmpose.datasets.pipelines import Compose

        self.sample, self.pipeline = sample, Compose([step])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.pipeline(self.sample)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'dataset, message',
    [
        (
            lambda: Step({}, type='LoadImageFromFile'),
            r"a step .*\(loading.py, line \d+: KeyError: 'image_file'\)",
        ),
        (
            lambda: Step({}, type='Collect', keys=3, meta_keys=[]),
            r"a step .*TypeError: 'int' object is not iterable\)",
        ),
        (
            lambda: Step(
                dict(a='x'), type='Collect', keys=['a'], meta_keys=[]
            ),
            'its last step must be Collect',
        ),
    ],
)
def test_steps_of_a_pipeline_that_do_not_go_together(
    dataset, message, workers
):
    from mmcv.parallel import collate

    loader = torch.utils.data.DataLoader(
        dataset(), num_workers=workers, collate_fn=collate
    )
    error = error_of(list, loader)
    assert re.search(message, explain_failure(error))


def test_an_argument_that_a_class_lacks_is_answered_by_the_nearest():
    from mmcv.runner import HOOKS
    from mmcv.utils import build_from_cfg

    hook = dict(type='StepLrUpdaterHook', step=[1], warmup_itres=3)
    error = error_of(build_from_cfg, hook, HOOKS)
    assert is_user_error(error)
    assert 'did you mean warmup_iters?' in describe(error)
    refused = error_of(
        build_from_cfg, dict(type='StepLrUpdaterHook', step=[0]), HOOKS
    )
    assert is_user_error(refused)


def test_a_users_mistake_is_told_from_a_failure():
    from mmcv.runner import HOOKS, get_priority
    from mmcv.utils import build_from_cfg
    from mmpose.models import build_posenet

    ours = error_of(get_priority, 200)
    assert isinstance(ours, ValueError) and is_user_error(ours)
    unknown = error_of(build_posenet, dict(type='TopDawn'))
    assert isinstance(unknown, KeyError) and is_user_error(unknown)
    hook = dict(type='DistSamplerSeedHook', speed=3)
    extra = error_of(build_from_cfg, hook, HOOKS)
    assert isinstance(extra, TypeError) and is_user_error(extra)
    theirs = error_of(torch.nn.functional.one_hot, torch.tensor([1.5]))
    assert not is_user_error(theirs)
    assert not is_user_error(error_of(int, 'x'))
    assert not is_user_error(ValueError('nowhere'))
    assert is_user_error(UserError('x'))


PROGRAM = """
import sys
sys.path.append({tools!r})
from hourglass_npu.config.load import check_data, choose_work_dir, load_config
from hourglass_npu.errors import OTHERS_SPEAK_AFTER, Stopped, UserError, describe, explain_failure, is_user_error, run
from hourglass_npu.files import write_json
from hourglass_npu.options import add_options, parse_args
from hourglass_npu.paths import MMPOSE_ROOT
from hourglass_npu.process import share_cores
from hourglass_npu.weights import load_weights
OTHERS_SPEAK_AFTER = {wait}
def main():
    {body}
run(main)
print('went on')
"""


def run_main(run, body, wait=0, **env):
    tools = str(Path(_common.__file__).parent)
    program = PROGRAM.format(tools=tools, body=body, wait=wait)
    return run([sys.executable, '-c', program], env=env)


@pytest.mark.parametrize(
    'body, status, first',
    [
        ("raise UserError('give more')", 2, 'error: give more'),
        ("raise ValueError('mine')", 2, 'error: mine'),
        ("open('/nowhere/x')", 2, 'error: [Errno 2]'),
        ("raise OSError(28, 'c.pth: No space')", 1, 'error: [Errno 28] c.'),
        (
            "raise RuntimeError('DataLoader worker (pid(s) 7) exited unexp'"
            "'ectedly')",
            1,
            'error: a data worker is gone (process 7, exited unexpectedly).',
        ),
        (
            "raise RuntimeError('DataLoader worker (pid 7) is killed by '"
            "'signal: Killed. ')",
            1,
            'error: a data worker is gone (process 7, is killed by signal: K',
        ),
        ('raise Stopped(15)', 143, 'stopped by SIGTERM'),
        ("raise KeyError('x')", 1, 'Traceback'),
        ("int('x')", 2, 'error: invalid literal'),
        ('1 / 0', 1, 'Traceback'),
        ('raise KeyboardInterrupt', 130, 'interrupted'),
    ],
)
def test_statuses(run, body, status, first):
    done = run_main(run, body)
    assert done.returncode == status and done.stdout == ''
    assert done.stderr.startswith(first)
    if first != 'Traceback':
        assert len(done.stderr.splitlines()) == 1


def test_a_stopped_rank_tells_the_launcher_by_a_file(run, tmp_path):
    path = tmp_path / 'stopped'
    done = run_main(run, 'raise Stopped(15)', STOPPED_FILE=str(path))
    assert (done.returncode, path.read_text()) == (0, '15\n')


def test_success_goes_on(run):
    done = run_main(run, 'pass')
    assert (done.returncode, done.stdout) == (0, 'went on\n')


@pytest.mark.parametrize(
    'rank, body, waits',
    [
        (0, "raise UserError('x')", False),
        (1, "raise UserError('x')", True),
        (0, '1 / 0', False),
        (0, "raise RuntimeError('[gloo] Connection closed by peer')", True),
        (0, "raise RuntimeError('out of memory')", False),
    ],
)
def test_the_rank_that_knows_most_speaks_first(run, rank, body, waits):
    begun = time.time()
    run_main(run, body, wait=0, RANK=str(rank), WORLD_SIZE='2')
    quick = time.time() - begun
    begun = time.time()
    done = run_main(run, body, wait=3, RANK=str(rank), WORLD_SIZE='2')
    assert (time.time() - begun - quick > 1.5) is waits
    assert done.stderr


# Ctrl-C comes twice: from the terminal, and once more from the launcher.
INTERRUPTED = """
    import os, signal, threading
    for seconds in (0.3, 0.31):
        interrupt = os.kill, (os.getpid(), signal.SIGINT)
        threading.Timer(seconds, *interrupt).start()
    raise RuntimeError('[gloo] Connection closed by peer')
"""


@pytest.mark.parametrize('rank, message', [(0, 'interrupted\n'), (1, '')])
def test_ctrl_c_while_an_error_waits_is_said_by_one(run, rank, message):
    env = dict(RANK=str(rank), WORLD_SIZE='2')
    done = run_main(run, INTERRUPTED, wait=20, **env)
    assert (done.returncode, done.stderr) == (130, message)


# Weights -------------------------------------------------------------------


@pytest.fixture
def net():
    return torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)
    )


def test_weights_come_with_or_without_a_wrappers_prefix(net, tmp_path):
    path = str(tmp_path / 'a.pth')
    wanted = {k: torch.ones_like(v) for k, v in net.state_dict().items()}
    for content in (
        wanted,
        dict(state_dict=wanted, meta={}),
        dict(state_dict={f'module.{k}': v for k, v in wanted.items()}),
    ):
        torch.save(content, path)
        for parameter in net.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(net, path)
        assert all(bool((v == 1).all()) for v in net.state_dict().values())


def test_another_models_checkpoint_is_refused_with_both_numbers(net, tmp_path):
    path = str(tmp_path / 'a.pth')
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    other.add_module('5', torch.nn.Linear(1, 1))
    torch.save(dict(state_dict=other.state_dict()), path)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(net, path)
    text = str(caught.value)
    assert 'holds 4 tensors, the model has 9' in text
    assert '7 missing, such as 1.weight' in text
    assert '2 unknown, such as 5.weight' in text
    assert (
        '2 of another shape, such as 0.weight: (3, 2) instead of (2, 2)'
        in text
    )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
