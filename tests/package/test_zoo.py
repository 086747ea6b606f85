"""'zoo': published weights, from a server of our own."""

import functools
import hashlib
import http.server
import threading

import pytest
from calling import call
from mpii_data import CONFIGS

from hourglass_npu import zoo
from hourglass_npu.config.load import load_config
from hourglass_npu.errors import UserError, is_user_error
from hourglass_npu.pose.backends import choose_model

CONFIG = str(CONFIGS / 'hourglass52_mpii_384x384.py')


class _Handler(http.server.SimpleHTTPRequestHandler):
    asked = []

    def log_message(self, *args):
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve a file of our making in place of the weights for MPII."""
    (tmp_path / 'web').mkdir()
    (tmp_path / 'here').mkdir()
    content = b'weights of our making'
    name = f'our-{hashlib.sha256(content).hexdigest()[:8]}_20200812.pth'
    (tmp_path / 'web' / name).write_bytes(content)
    monkeypatch.setitem(zoo.FILES, ('mpii', 384), name)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path / 'here')
    handler = functools.partial(_Handler, directory=str(tmp_path / 'web'))
    _Handler.asked = []
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_address[1]
    monkeypatch.setenv('HOURGLASS_ZOO', f'http://127.0.0.1:{port}/')
    yield tmp_path, name
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_downloaded_once_and_kept_in_the_cache(served):
    folder, name = served
    _, path = choose_model(CONFIG, 'zoo')
    assert path == str(folder / 'cache/hub/checkpoints' / name)
    assert choose_model(CONFIG, 'zoo')[1] == path
    assert len(_Handler.asked) == 1


def test_a_carried_file_is_found_and_its_hash_is_checked(served):
    folder, name = served
    content = (folder / 'web' / name).read_bytes()
    (folder / 'here' / name).write_bytes(content)
    assert zoo.find(load_config(CONFIG)) == str(folder / 'here' / name)
    assert not _Handler.asked
    (folder / 'here' / name).write_bytes(b'something else')
    with pytest.raises(UserError, match='not the file that its name'):
        zoo.find(load_config(CONFIG))


def test_without_it_the_message_says_what_to_carry_where(served):
    folder, name = served
    (folder / 'web' / name).unlink()
    with pytest.raises(UserError) as caught:
        zoo.find(load_config(CONFIG))
    text = str(caught.value)
    assert name in text and str(folder / 'cache/hub/checkpoints') in text
    assert not list(folder.glob('cache/**/*.pth'))


def test_another_file_under_its_name_is_refused(served):
    folder, name = served
    (folder / 'web' / name).write_bytes(b'something else')
    with pytest.raises(Exception, match='not the file') as caught:
        zoo.find(load_config(CONFIG))
    assert is_user_error(caught.value)


def test_the_table_is_asked_by_joints_and_size(served):
    six = [
        'data.test.data_cfg.image_size=[256,256]',
        'data.test.data_cfg.dataset_info=coco',
        'data.test.data_cfg.num_output_channels=17',
    ]
    cfg = load_config(CONFIG, [six])
    assert zoo.file_for(cfg) == zoo.FILES['coco', 256]
    for side in ('[192,256]', '[96,96]'):
        cfg = load_config(CONFIG, [[f'data.test.data_cfg.image_size={side}']])
        with pytest.raises(UserError, match='no published weights'):
            zoo.file_for(cfg)


def test_the_sample_has_no_published_weights(capsys):
    assert call('demo', '--sample', '--checkpoint=zoo') == 2
    assert 'zoo is not for' in capsys.readouterr().err
