"""Keys of a config that nothing reads are named."""

from mpii_data import CONFIGS, write_tiny_config

from hourglass_npu.config.load import load_config
from hourglass_npu.config.unread import unread_keys

MORE = """
lasting = 3
evaluation = dict(interval=lasting)
dataset_type = 'x'
data_root = 'y'
old_pipeline = []
auto_scale_lr = dict(enable=True)
max_epochs = 3
runner = dict(type='EpochBasedRunner', max_epochs=max_epochs)
find_unused_parameter = True
mp_start_method = 'fork'
"""


def test_what_nothing_reads_is_named(tmp_path):
    cfg = load_config(str(write_tiny_config(tmp_path, MORE)))
    assert unread_keys(cfg) == [
        'Nothing reads auto_scale_lr of the config (here it is the option '
        '--autoscale-lr of train.py)',
        'Nothing reads runner of the config (here it is total_epochs, for '
        'epochs)',
        'Nothing reads find_unused_parameter of the config (did you mean '
        'find_unused_parameters?)',
        'Nothing reads mp_start_method of the config',
    ]


def test_our_configs_have_no_such_keys():
    for path in sorted(CONFIGS.glob('*.py')):
        assert unread_keys(load_config(str(path))) == [], path


def test_variables_of_a_base_serve_too(tmp_path):
    (tmp_path / 'tiny.py').write_text('')
    base = write_tiny_config(tmp_path, 'some = 1\nother = some\n')
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {str(base)!r}\nvalue = 2\n')
    names = [line.split()[2] for line in unread_keys(load_config(str(child)))]
    assert sorted(names) == ['other', 'value']
