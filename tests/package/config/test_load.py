"""Config files, overrides, paths, missing data."""

from argparse import Namespace

import pytest
from mpii_data import CONFIGS

from hourglass_npu.config.load import check_data, choose_work_dir, load_config
from hourglass_npu.errors import UserError
from hourglass_npu.paths import MMPOSE_ROOT

LARGE = str(CONFIGS / 'hourglass52_mpii_384x384.py')


def load(*overrides):
    return load_config(LARGE, [list(overrides)])


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
        dict(type='ReadableLogHook', by_epoch=False)
    ]


@pytest.mark.parametrize(
    'override, message',
    [
        ('total_epoch=3', 'did you mean total_epochs'),
        ('zzz=3', 'no such key'),
        ('optimizer.lrr=3', 'did you mean optimizer.lr'),
        ('data.val.ann_fil=x', 'did you mean data.val.ann_file'),
        ('data.train.pipeline.1.flip_prop=0', 'pipeline.1.flip_prob'),
        ('data.train.pipeline.9.flip_prob=0', 'is a list of 7'),
        ('total_epochs.x=1', 'total_epochs is 210'),
        ('optimizer_config.grad_clip.max_norm=1', 'grad_clip is None'),
        ('total_epochs', "KEY=VALUE, not 'total_epochs'"),
        ('=3', 'KEY=VALUE'),
        ('data.batch=3', 'has no such key'),
        ('data.sample_per_gpu=3', 'did you mean data.samples_per_gpu'),
        ('data.val_dataloder.drop_last=1', 'did you mean data.val_dataload'),
        ('data.workers_per_gpu=-1', 'workers_per_gpu is -1: must be a whole'),
        ('evaluation.rule=[a,(b]', 'brackets'),
        ('lr_config.warmup=steep', 'constant, linear or exp'),
        ('model.keypoint_head.in_channels=-16', 'must be a whole number'),
        ('model.backbone.num_stacks=0', 'must be a whole number'),
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
