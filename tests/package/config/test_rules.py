"""Numbers and keys of a config that make no sense are refused by name."""

import pytest
from mmcv import Config
from mpii_data import CONFIGS

from hourglass_npu.config import rules

LARGE = str(CONFIGS / 'hourglass52_mpii_384x384.py')


def faults(**overrides):
    cfg = Config.fromfile(LARGE)
    cfg.merge_from_dict(
        {k.replace('__', '.'): v for k, v in overrides.items()}
    )
    return rules.faults(cfg)


@pytest.mark.parametrize(
    'config', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem
)
def test_our_configs_have_no_fault(config):
    assert rules.faults(Config.fromfile(str(config))) == []


@pytest.mark.parametrize(
    'key, value, wanted',
    [
        ('data__samples_per_gpu', 0, 'a whole number, at least 1'),
        ('data__samples_per_gpu', 2.5, 'a whole number, at least 1'),
        ('data__samples_per_gpu', True, 'a whole number, at least 1'),
        ('data__workers_per_gpu', -1, 'a whole number, at least 0'),
        ('data__val_dataloader', dict(samples_per_gpu=0), 'at least 1'),
        ('optimizer__lr', float('nan'), 'a number, at least 0'),
        ('optimizer__lr', -1e-4, 'a number, at least 0'),
        ('optimizer__lr', 'nan', 'a number, at least 0'),
        (
            'optimizer__betas',
            [0.9, 1.0],
            'a list of 2, each value a number from 0 to less than 1',
        ),
        ('optimizer', dict(first=dict(type='SGD', lr=-1)), 'at least 0'),
        ('total_epochs', 0, 'a whole number, at least 1'),
        ('seed', -1, 'a whole number, at least 0, or None'),
        ('checkpoint_config__interval', 0, 'at least 1, or -1'),
        ('evaluation__interval', 0, 'a whole number, at least 1'),
        ('log_config__interval', 0, 'a whole number, at least 1'),
        ('lr_config__step', [170, -1], 'or a list of such numbers'),
        ('lr_config__warmup_ratio', 0, 'a number above 0, at most 1'),
        (
            'data__train__data_cfg__image_size',
            [0, 64],
            'or a list of such numbers',
        ),
        ('find_unused_parameters', 'yes', 'true or false'),
        (
            'data__val',
            dict(_delete_=True, ann_file='a.json'),
            'dict(type=..., ...)',
        ),
        ('log_config', dict(_delete_=True), 'dict(hooks=[...], ...)'),
        (
            'log_config__hooks',
            [dict(typ='TextLoggerHook')],
            'a list, each value dict(type=..., ...)',
        ),
        ('allow_tf32', 1, 'true or false, or None'),
        ('device_prefetch', 1, 'true or false, or None'),
        ('ddp', dict(compression='int8'), "'fp16', 'bf16' or None"),
        ('ddp', dict(bucket_cap_mb=0), 'a number above 0, or None'),
    ],
)
def test_a_value_out_of_range_is_named(key, value, wanted):
    (fault,) = faults(**{key: value})
    assert fault.startswith(key.replace('__', '.'))
    assert repr(value).strip('{}') in fault or isinstance(value, dict)
    assert ': must be ' in fault and fault.endswith(wanted)


def test_a_step_of_the_pipeline_is_found_by_its_place():
    (fault,) = faults(data__train__pipeline=[dict(flip_prob=1.5)])
    assert fault.startswith('data.train.pipeline.0.flip_prob is 1.5: ')


def test_colours_are_one_or_three():
    for mean in ([0.449], [-0.5, 0.4, 0]):
        step = dict(type='NormalizeTensor', mean=mean)
        assert not faults(data__val__pipeline=[step])
    (fault,) = faults(
        data__val__pipeline=[dict(type='NormalizeTensor', std=[1, 1, 1, 1])]
    )
    place = 'data.val.pipeline.0.std is [1, 1, 1, 1]'
    assert f'{place}: must be a list of 1 or 3, each value ' in fault


def test_what_a_step_collects_are_names_and_pairs_of_names():
    for keys in (['img', ('target', 'heatmap')], (), 'img'):
        step = dict(type='Collect', keys=keys, meta_keys=[])
        assert not faults(data__train__pipeline=[step])
    for keys in (3.5, None, ['img', 7], [('a', 'b', 'c')]):
        step = dict(type='Collect', keys=['img'], meta_keys=keys)
        (fault,) = faults(data__train__pipeline=[step])
        assert 'pipeline.0.meta_keys' in fault and 'a list of names' in fault


def test_what_may_stand_there_has_no_fault():
    assert not faults(
        seed=None,
        checkpoint_config=dict(
            interval=-1, max_keep_ckpts=3, filename_tmpl='{}.pth'
        ),
        data__train__data_cfg__image_size=512,
        data__train_dataloader=dict(drop_last=False, persistent_workers=True),
        lasting_workers=True,
        optimizer__weight_decay=0,
        momentum_config=dict(policy='step', step=[1]),
        data__note='anything of your own',
    )


@pytest.mark.parametrize(
    'overrides, message',
    [
        (
            dict(checkpoint_config=dict(intervall=1)),
            'checkpoint_config.intervall is not known (did you mean '
            'checkpoint_config.interval?)',
        ),
        (
            dict(data__sample_per_gpu=3),
            'data.sample_per_gpu is not known (did you mean '
            'data.samples_per_gpu?)',
        ),
        (
            dict(data__val_dataloader=dict(xyz=1)),
            'data.val_dataloader.xyz is not known',
        ),
        (
            dict(ddp=dict(compress='fp16')),
            'ddp.compress is not known (did you mean ddp.compression?)',
        ),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(overrides, message):
    assert faults(**overrides) == [message]


def test_arguments_of_bases_count():
    class Base:
        def __init__(self, first, *rest, **more):
            pass

    class Derived(Base):
        def __init__(self, second=1, **more):
            pass

    assert rules.parameters(Derived) == ['second', 'first']
    assert rules.parameters(len) in ([], ['obj'])


def test_an_unknown_option_of_the_group_is_named():
    assert not faults(dist_params=dict(timeout=5, init_method='env://'))
    (fault,) = faults(dist_params=dict(time_out=5))
    assert 'did you mean dist_params.timeout?' in fault
