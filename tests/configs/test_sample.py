"""The sample's recipe on several devices is that on one, but for the step."""

from mmcv import Config
from mpii_data import CONFIGS


def read(name):
    path = CONFIGS / f'hourglass_mpii_sample_96x96{name}.py'
    return dict(Config.fromfile(str(path))._cfg_dict)


def test_same_model_and_data_other_steps():
    one, eight = read(''), read('_8p')
    changed = {key for key in eight if eight[key] != one.get(key)}
    assert changed == {'data', 'optimizer', 'work_dir'}
    assert set(one) <= set(eight)
    assert eight['work_dir'] == 'work_dirs/hourglass_mpii_sample_96x96'
    one['data'].pop('samples_per_gpu')
    eight['data'].pop('samples_per_gpu')
    assert one['data'] == eight['data']
