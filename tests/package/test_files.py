"""Files are written as a whole or not at all."""

import json
import os
import threading

import pytest

from hourglass_npu.errors import UserError
from hourglass_npu.files import write_json


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
