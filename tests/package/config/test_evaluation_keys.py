"""Evaluation keys that cannot work are found before the training."""

import re

import pytest
from mpii_data import write_tiny_config

from hourglass_npu.config.evaluation import evaluation_faults, known_metrics
from hourglass_npu.config.load import load_config
from hourglass_npu.config.parts import check_parts
from hourglass_npu.errors import UserError


@pytest.mark.parametrize(
    'settings, message',
    [
        (
            dict(metric='mAP'),
            "metric is 'mAP': TopDownMpiiDataset knows PCKh, PCK",
        ),
        (dict(metric=['PKCh']), r"'PKCh': .* \(did you mean PCKh\?\)"),
        (dict(save_best='PCKh'), "evaluation.key_indicator='PCKh' says"),
        (dict(rule='greatest'), r'greater or less .*did you mean greater\?'),
        (dict(inteval=5), r'inteval is not .*mean evaluation.interval\?'),
        (dict(key_indicator='PKCh'), r'@0.05 \(did you mean PCKh\?\)'),
        (dict(key_indicator='AP'), "'AP': TopDownMpiiDataset gives Head"),
        (dict(key_indicator=None), 'key_indicator is None: must be the name'),
        (dict(key_indicator='Head'), 'say with evaluation.rule whether'),
    ],
)
def test_what_cannot_work_is_told_with_the_nearest_word(
    tmp_path, settings, message
):
    more = f'\nevaluation.update({settings!r})\n'
    cfg = load_config(str(write_tiny_config(tmp_path, more)))
    with pytest.raises(UserError, match=message):
        check_parts(cfg, training=True)


@pytest.mark.parametrize(
    'settings',
    [
        dict(key_indicator='Head', rule='greater'),
        dict(key_indicator='PCKh@0.1', gpu_collect=True),
        dict(key_indicator=None, save_best=False),
        dict(something_of_the_data_set=3),
    ],
)
def test_what_works_is_let_through(tmp_path, settings):
    more = f'\nevaluation.update({settings!r})\n'
    cfg = load_config(str(write_tiny_config(tmp_path, more)))
    assert evaluation_faults(cfg) == []


def test_metrics_are_those_that_stock_accepts(stock):
    stocks = stock(
        'mmpose', 'datasets/datasets/top_down/topdown_mpii_dataset.py'
    )
    theirs = stocks.TopDownMpiiDataset
    assert known_metrics(theirs) == ['PCKh']
    from mmpose.datasets import TopDownCocoDataset, TopDownMpiiDataset

    assert known_metrics(TopDownMpiiDataset) == ['PCKh', 'PCK']
    assert known_metrics(TopDownCocoDataset) == ['mAP']
    with pytest.raises(KeyError, match=re.escape('metric mAP is not')):
        theirs.evaluate(None, [], '', 'mAP')
    assert known_metrics(None) == known_metrics(int) == []
