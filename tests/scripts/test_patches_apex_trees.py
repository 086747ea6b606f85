"""The tool's edit of Apex, on real source trees instead of drawn ones.

``APEX_GIT`` names clones of Apex, separated like a PATH: NVIDIA's, whose
releases up to 25.05 have the line with index 1 and later ones no
``apex.amp``; and Ascend's builds, which carry the change already. All
releases (tags) and the newest commit of a clone are tried, or the one
revision of ``CLONE@REVISION``.
"""

import json
import os
import subprocess
import tarfile
from io import BytesIO

import pytest

import patch_engine
import patches

LINE = 'if cached_x.grad_fn.next_functions[{}][0].variable is not x:'


def git(repository, *words):
    command = ['git', '-C', str(repository)] + list(words)
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def trees():
    """Return repository and revision of every tree to try."""
    found = []
    for entry in filter(None, os.environ.get('APEX_GIT', '').split(':')):
        repository, _, revision = entry.partition('@')
        revisions = [revision]
        if not revision:
            revisions = git(repository, 'tag').decode().split() + ['HEAD']
        found += [(repository, revision) for revision in revisions]
    return found


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Run the tool beside torch 2.1."""
    torch = tmp_path / 'site' / 'torch'
    torch.mkdir(parents=True)
    (torch / '__init__.py').write_text('')
    (torch / 'version.py').write_text("__version__ = '2.1.0'\n")
    locate = patch_engine.locate

    def found(name, directory=None):
        if directory is None and name in ('torch', 'torch_npu'):
            directory = torch.parent
        return locate(name, directory)

    monkeypatch.setattr(patch_engine, 'locate', found)

    def execute(command, root):
        options = [command, '--json', '--apex', str(root)]
        status = patches.main(options)
        return status, json.loads(capsys.readouterr().out)

    return execute


def unpack(repository, revision, folder):
    listed = git(repository, 'ls-tree', '--name-only', revision, 'apex')
    if not listed:
        pytest.skip(f'{revision} holds no package apex')
    archive = git(repository, 'archive', revision, 'apex')
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(str(folder))
    return folder / 'apex'


@pytest.mark.skipif(not trees(), reason='APEX_GIT names no clone of Apex')
@pytest.mark.parametrize(
    'repository, revision',
    trees(),
    ids=str,
)
def test_a_real_tree(call, tmp_path, repository, revision):
    root = unpack(repository, revision, tmp_path)
    utils = root / 'amp' / 'utils.py'
    if not utils.is_file():
        status, account = call('apply', root)
        assert status == 1 and '25.07' in account['problems'][0]
        return
    before = utils.read_bytes()
    status, account = call('apply', root)
    if LINE.format(0).encode() not in before and (
        LINE.format(1).encode() not in before
    ):
        # Another form, such as ROCm's, which copes with either by itself.
        assert status == 1 and 'exactly once' in account['problems'][0]
        assert utils.read_bytes() == before
        return
    (file,) = account['packages'][0]['files']
    assert status == 0
    if LINE.format(0).encode() in before:
        assert file['state'] == 'by hand' and utils.read_bytes() == before
    else:
        assert file['state'] == 'applied'
        assert utils.read_bytes() == before.replace(
            LINE.format(1).encode(), LINE.format(0).encode()
        )
        compile(utils.read_bytes(), str(utils), 'exec')
    assert call('status', root)[0] == 0
    assert call('revert', root)[0] == 0
    assert utils.read_bytes() == before
