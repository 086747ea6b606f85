"""Files are written as a whole or not at all."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from hourglass_npu.errors import UserError
from hourglass_npu.files import (
    check_output,
    read_bytes,
    read_json,
    read_json_lines,
    write_json,
)


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


# ------------------------------------------- devices, pipes, inputs, suffixes


def test_a_pipe_and_a_device_are_written_to(tmp_path):
    fifo = str(tmp_path / 'fifo')
    os.mkfifo(fifo)
    read = []

    def reader():
        with open(fifo) as stream:
            read.append(stream.read())

    thread = threading.Thread(target=reader)
    thread.start()
    write_json(fifo, dict(a=1))
    thread.join()
    assert json.loads(read[0]) == dict(a=1)
    assert stat.S_ISFIFO(os.stat(fifo).st_mode)
    write_json('/dev/null', dict(a=1))
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    assert os.listdir(str(tmp_path)) == ['fifo']


@pytest.mark.parametrize('target', ['file', 'pipe'])
def test_standard_output_is_written_to(target, tmp_path):
    code = (
        'from hourglass_npu.files import check_output, write_json\n'
        'print("before")\n'
        'check_output("/dev/stdout", [".json"])\n'
        'write_json("/dev/stdout", dict(a=1))\n'
        'print("after")'
    )
    command = [sys.executable, '-c', code]
    if target == 'pipe':
        text = subprocess.check_output(command, universal_newlines=True)
    else:
        with open(str(tmp_path / 'out'), 'w') as stream:
            subprocess.check_call(command, stdout=stream)
        text = (tmp_path / 'out').read_text()
    assert text.splitlines() == ['before', '{', '  "a": 1', '}', 'after']
    assert os.path.islink('/dev/stdout')


def test_what_cannot_be_an_output_is_said_before_the_work(tmp_path):
    photo = tmp_path / 'a.json'
    photo.write_text('{}')
    link = tmp_path / 'b.json'
    link.symlink_to(photo)
    folder = tmp_path / 'c.json'
    folder.mkdir()
    for path, words in (
        (tmp_path / 'holiday.jpg', 'must end in .json'),
        (photo, 'is read by this run'),
        (link, 'is read by this run'),
        (folder, 'this is a folder'),
        (tmp_path / 'none/a.json', 'none does not exist'),
    ):
        with pytest.raises(UserError, match=words):
            check_output(str(path), ['.json'], [str(photo)])
    check_output(str(tmp_path / 'd.JSON'), ['.json'], [str(photo)])


def test_a_link_without_its_target_is_replaced(tmp_path):
    link = tmp_path / 'a.json'
    link.symlink_to(tmp_path / 'nowhere')
    write_json(str(link), {})
    assert not link.is_symlink() and link.read_text() == '{}\n'


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(str(tmp_path / 'a.json'), dict(a=float('nan')))
    assert os.listdir(str(tmp_path)) == []


def test_spoilt_lines_of_a_log_are_passed_over(tmp_path):
    path = tmp_path / 'a.log.json'
    lines = [b'{"epoch": 1}', b'[1]', b'[' * 10**5, b'{"ep', b'\xff\xfe', b'']
    path.write_bytes(b'\n'.join(lines))
    assert read_json_lines(str(path)) == [dict(epoch=1)]


def test_a_pipe_is_no_input(tmp_path):
    fifo = str(tmp_path / 'a.json')
    os.mkfifo(fifo)
    for read in (read_bytes, read_json, read_json_lines):
        with pytest.raises(UserError, match='a device or a pipe'):
            read(fifo)
    large = tmp_path / 'large.json'
    with open(str(large), 'wb') as stream:
        stream.truncate(2**31)
    with pytest.raises(UserError, match='is too large'):
        read_json(str(large))
