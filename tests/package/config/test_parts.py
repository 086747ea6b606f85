"""Types and arguments of a config are checked before anything is built."""

import inspect

import pytest
from mmcv.utils import Registry
from mpii_data import CONFIGS

from hourglass_npu.config.load import load_config
from hourglass_npu.config.parts import (
    Part,
    arguments,
    check_parts,
    part_faults,
)
from hourglass_npu.errors import UserError

LARGE = str(CONFIGS / 'hourglass52_mpii_384x384.py')


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')))
def test_our_configs_are_sound(path):
    for training in (True, False):
        check_parts(load_config(str(path)), training)


@pytest.mark.parametrize(
    'override, message',
    [
        ('model.type=TopDawn', r'model.type is .TopDawn.*mean TopDown\?'),
        ('model.pretrain=x', r'model.pretrain: TopDown has no.*pretrained'),
        ('model.backbone.num_stack=2', 'HourglassNet has no.*num_stacks'),
        ('model.backbone.type=HourglasNet', 'not in the backbone registry'),
        ('model.keypoint_head.x=1', 'TopDownMultiStageHead has no such'),
        ('model.loss_pose.use_target=1', 'did you mean use_target_weight'),
        (
            'data.train.type=Mpii',
            'data.train.type is .Mpii., .*dataset registry',
        ),
        ('data.train.pipelines=1', 'TopDownMpiiDataset has no such'),
        ('data.val.pipeline.0.type=Load', 'data.val.pipeline.0.type is'),
        ('data.val.pipeline.0.to_float=1', 'LoadImageFromFile has no such'),
        ('optimizer.learning=1', 'optimizer.learning: Adam has no such'),
        ('lr_config.policy=stap', r'lr_config.type.*StapLr.*StepLr'),
        ('lr_config.warmup_itres=3', 'did you mean warmup_iters'),
        ('log_config.hooks.0.type=TextLogger', 'log_config.hooks.type is'),
    ],
)
def test_a_wrong_part_is_named_with_the_nearest(override, message):
    # Not by an override, which is refused for a near miss itself.
    cfg = load_config(LARGE)
    key, _, value = override.partition('=')
    *parts, last = key.split('.')
    node = cfg._cfg_dict
    for part in parts:
        node = node[int(part) if part.isdigit() else part]
    node[last] = value
    with pytest.raises(UserError, match=message):
        check_parts(cfg, training=True)


COSINE = dict(policy='CosineRestart', periods=[1], restart_weights=[1])


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            dict(lr_config=COSINE),
            'lr_config: CosineRestartLrUpdaterHook: give either min_lr or '
            'min_lr_ratio, not both',
        ),
        (
            dict(lr_config=dict(COSINE, min_lr=0.0, min_lr_ratio=0.1)),
            'give either min_lr or min_lr_ratio',
        ),
        (
            dict(lr_config=dict(COSINE, min_lr=0.0, periods=[1, 2])),
            '.*periods',
        ),
        (
            dict(momentum_config=dict(policy='CosineAnnealing')),
            'momentum_config: .*either min_momentum or min_momentum_ratio',
        ),
        (
            dict(lr_config=dict(policy='step', step=[-1])),
            'lr_config: StepLrUpdaterHook: .* s > 0 must hold',
        ),
        (
            dict(custom_hooks=[dict(type='EMAHook', momentum=2)]),
            'custom_hooks.0: EMAHook: momentum > 0 and momentum < 1 must',
        ),
    ],
)
def test_an_assertion_without_a_message_is_put_into_words(changes, message):
    cfg = load_config(LARGE)
    for key, value in changes.items():
        cfg._cfg_dict.pop(key, None)
        cfg._cfg_dict[key] = value
    with pytest.raises(UserError, match=message):
        check_parts(cfg, training=True)


def test_a_setting_of_the_prediction_is_missing():
    cfg = load_config(LARGE)
    del cfg.model.test_cfg['unbiased_decoding']
    with pytest.raises(UserError, match='test_cfg has no unbiased_decoding'):
        check_parts(cfg, training=True)


def test_a_step_of_no_type():
    cfg = load_config(LARGE)
    cfg.data.val.pipeline[0] = {}
    with pytest.raises(UserError, match='data.val.pipeline.0 has no type'):
        check_parts(cfg, training=True)


@pytest.mark.parametrize('policy', [True, 3, ['step']])
def test_a_policy_that_is_no_name(policy):
    cfg = load_config(LARGE)
    cfg.lr_config.policy = policy
    with pytest.raises(UserError, match='lr_config.type is .*must be a name'):
        check_parts(cfg, training=True)


@pytest.mark.parametrize('kind', [None, 3, [1], {}])
def test_a_model_of_no_type(kind):
    cfg = load_config(LARGE)
    cfg.model.type = kind
    with pytest.raises(UserError, match='model.*type'):
        check_parts(cfg, training=True)


def test_an_evaluation_does_not_ask_for_the_optimizer():
    cfg = load_config(LARGE, [['optimizer.learning=1']])
    check_parts(cfg, training=False)


def test_a_missing_argument_is_named():
    registry = Registry('people')

    @registry.register_module()
    class Person:
        def __init__(self, name, age, size=1):
            pass

    part = Part('x', dict(type='Person', size=2, age=1), registry, ())
    assert part_faults(part) == ['x: Person needs name']
    assert part_faults(part._replace(added=('name',))) == []


class Base:
    def __init__(self, a, b=1):
        pass


class Passing(Base):
    def __init__(self, c, **kwargs):
        super().__init__(**kwargs)


class Anything:
    def __init__(self, d, **kwargs):
        pass


@pytest.mark.parametrize(
    'made, known, required',
    [
        (Base, ['a', 'b'], ['a']),
        (Passing, ['c', 'a', 'b'], ['c']),
        (Anything, None, ['d']),
        (lambda x, y=1: None, ['x', 'y'], ['x']),
        (object, [], []),
    ],
)
def test_arguments_are_read_through_the_bases(made, known, required):
    assert arguments(made) == (known, required)


def test_every_registered_class_can_be_read():
    """Mmpose's own, so that no stock config is refused for its form."""
    from mmpose.datasets.registry import DATASETS, PIPELINES
    from mmpose.models.registry import BACKBONES, HEADS, LOSSES, POSENETS

    for registry in (
        *(BACKBONES, HEADS, LOSSES, POSENETS),
        *(DATASETS, PIPELINES),
    ):
        for made in registry.module_dict.values():
            known, required = arguments(made)
            # Not of the class: Python 3.7 gives that of Generic.__new__.
            function = getattr(made, '__init__', made)
            signature = inspect.signature(function).parameters
            assert set(required) <= set(signature)
            assert known is None or set(required) <= set(known)
