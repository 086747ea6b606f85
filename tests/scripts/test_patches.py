"""The patch tool, on copies of mmcv and mmpose as they were released."""

import hashlib
import json
import os
import py_compile
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

import patch_engine
import patches

TOOL = Path(patches.__file__)
PACKAGES = ('mmcv', 'mmpose')
CAST = 'if cached_x.grad_fn.next_functions[{}][0].variable is not x:\n'


def snapshot(folder):
    """Return the hash and the access rights of every file below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode,
        )
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def entries(package=None):
    manifest = patch_engine.load_manifest(patches.MANIFEST)
    return [e for e in manifest if package in (None, e['package'])]


DROP_INS = [e for e in entries() if e['kind'] == 'drop-in']


@pytest.fixture
def site(released, tmp_path):
    """Copy both packages as released, to be written to."""
    for package in PACKAGES:
        shutil.copytree(str(released / package), str(tmp_path / package))
    return tmp_path


@pytest.fixture
def tool(site, capsys):
    """Run the tool in this process on the copies; returns status and JSON."""

    def call(command, *options, packages=PACKAGES):
        where = [w for p in packages for w in (f'--{p}', str(site))]
        status = patches.main([command, '--json'] + where + list(options))
        account = json.loads(capsys.readouterr().out)
        assert account['ok'] == (status == 0)
        return status, account

    return call


def states(account, package='mmcv'):
    for found in account['packages']:
        if found['name'] == package:
            return {f['file']: f['state'] for f in found['files']}
    raise AssertionError(package)


@pytest.mark.parametrize('entry', entries('mmcv') + entries('mmpose'))
def test_every_entry_fits_the_release(entry, released):
    data = (released / entry['package'] / entry['file']).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry['sha256']
    assert entry['reason'] and entry['until']
    for edit in entry.get('edits', ()):
        assert data.count(edit['old'].encode()) == 1
        data = data.replace(edit['old'].encode(), edit['new'].encode())
    if entry['file'].endswith('.py'):
        compile(data, entry['file'], 'exec')


def test_a_file_has_one_entry_of_one_kind():
    files = [(e['package'], e['file']) for e in entries()]
    assert len(set(files)) == len(files)
    for entry in entries():
        keys = {'drop-in': {'source'}, 'edit': {'edits'}}[entry['kind']]
        assert keys == {'source', 'edits'} & set(entry)
        assert entry['package'] in patches.PACKAGES


def test_no_drop_in_of_the_bundle_is_forgotten():
    listed = {e['source'] for e in DROP_INS}
    for folder in ('mmcv_need', 'mmpose-master/mmpose_need'):
        for path in (patches.BUNDLE / folder).rglob('*.py'):
            assert str(path.relative_to(patches.BUNDLE)) in listed


def test_docs_say_what_the_manifest_says(run):
    result = run([sys.executable, TOOL, 'docs', '--check'])
    assert result.returncode == 0, result.stderr
    text = patches.DOCS.read_text(encoding='utf-8')
    assert all(e['reason'] in text for e in entries())


def test_apply_then_revert_gives_the_exact_bytes(site, tool):
    before = snapshot(site)
    status, account = tool('status')
    assert status == 1
    assert set(states(account).values()) == {'not applied'}

    assert tool('apply')[0] == 0
    status, account = tool('status')
    assert status == 0
    assert set(states(account).values()) == {'applied'}
    for entry in DROP_INS:
        ours = (patches.BUNDLE / entry['source']).read_bytes()
        assert (site / entry['package'] / entry['file']).read_bytes() == ours

    applied = snapshot(site)
    assert tool('apply')[0] == 0
    assert snapshot(site) == applied

    assert tool('revert')[0] == 0
    assert snapshot(site) == before
    assert not (site / 'mmcv' / patch_engine.STORE).exists()
    assert tool('revert')[0] == 0
    assert snapshot(site) == before


def test_access_rights_stay(site, tool):
    path = site / 'mmcv/runner/checkpoint.py'
    path.chmod(0o640)
    tool('apply')
    assert path.stat().st_mode & 0o777 == 0o640
    tool('revert')
    assert path.stat().st_mode & 0o777 == 0o640


def test_compiled_files_of_replaced_ones_go(site, tool):
    path = site / 'mmcv/utils/config.py'
    cached = Path(py_compile.compile(str(path), doraise=True))
    assert cached.exists()
    tool('apply')
    assert not cached.exists()


@pytest.mark.parametrize('command', ['apply', 'revert'])
@pytest.mark.parametrize(
    'file', ['runner/hooks/iter_timer.py', 'utils/config.py']
)
def test_unknown_bytes_stop_everything(site, tool, command, file):
    if command == 'revert':
        tool('apply')
    path = site / 'mmcv' / file
    path.write_bytes(path.read_bytes() + b'# mine\n')
    before = snapshot(site)
    status, account = tool(command)
    assert status == 1
    assert file in account['problems'][0]
    assert account['problems'][-1] == 'Nothing was written.'
    assert snapshot(site) == before
    assert states(tool('status')[1])[file] == 'unknown'


def test_a_missing_file_stops_everything(site, tool):
    (site / 'mmcv/parallel/data_parallel.py').unlink()
    before = snapshot(site)
    status, account = tool('apply')
    assert status == 1 and 'data_parallel.py' in account['problems'][0]
    assert snapshot(site) == before


def test_another_version_is_refused(site, tool):
    version = site / 'mmcv/version.py'
    version.write_text(version.read_text().replace('1.2.7', '1.3.0'))
    before = snapshot(site)
    status, account = tool('apply')
    assert status == 1
    assert len(account['problems']) == 2  # the reason, and that is all
    assert 'mmcv 1.3.0' in account['problems'][0]
    assert '1.2.7' in account['problems'][0]
    assert snapshot(site) == before


def test_copied_by_hand(site, tool):
    # As the manual way does: the nine files and nothing else.
    for entry in entries('mmcv'):
        if entry['kind'] == 'drop-in':
            source = patches.BUNDLE / entry['source']
            shutil.copy(str(source), str(site / 'mmcv' / entry['file']))
    by_hand = {e['file'] for e in DROP_INS if e['package'] == 'mmcv'}

    found = states(tool('status')[1])
    assert {f for f, state in found.items() if state == 'by hand'} == by_hand
    assert tool('apply')[0] == 0
    assert tool('status')[0] == 0

    status, account = tool('revert')
    assert status == 1
    (problem,) = account['problems']
    assert all(file in problem for file in by_hand)
    assert 'mmcv==1.2.7' in problem
    found = states(tool('status')[1])
    assert {f for f, state in found.items() if state == 'by hand'} == by_hand
    assert found['utils/config.py'] == 'not applied'


def test_an_edit_made_by_hand_can_be_reverted(site, tool):
    before = snapshot(site)
    tool('apply')
    shutil.rmtree(str(site / 'mmcv' / patch_engine.STORE))
    tool('revert')
    after = snapshot(site)
    for entry in entries('mmcv'):
        name = f'mmcv/{entry["file"]}'
        assert (after[name] == before[name]) == (entry['kind'] == 'edit')


def test_a_newer_bundle_replaces_an_older_drop_in(site, tool, monkeypatch):
    before = snapshot(site)
    older = [dict(e) for e in entries()]
    for entry in older:
        if entry['file'] == 'runner/checkpoint.py':
            entry.update(source='scripts/patches.py')  # any other bytes
        if entry['file'] == 'utils/config.py':
            edit = dict(entry['edits'][0], new='FormatCode(text)')
            entry.update(edits=[edit])
    # A file that the newer bundle has no change for any more.
    path = site / 'mmcv/visualization/color.py'
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    retired = dict(
        package='mmcv',
        version='1.2.7',
        file='visualization/color.py',
        kind='edit',
        sha256=digest,
        edits=[dict(old='class Color(Enum):', new='class Color(Enum):  #')],
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            patch_engine, 'load_manifest', lambda path: older + [retired]
        )
        assert tool('apply')[0] == 0

    status, account = tool('status')
    assert status == 1
    aged = {f for f, s in states(account).items() if s == 'older'}
    assert aged == {
        'runner/checkpoint.py',
        'utils/config.py',
        'visualization/color.py',
    }
    assert tool('apply')[0] == 0
    assert tool('status')[0] == 0
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    tool('revert')
    assert snapshot(site) == before


def test_a_drop_in_that_the_bundle_lacks_is_said(site, tool, monkeypatch):
    broken = [dict(e) for e in entries()]
    broken[0]['source'] = 'mmcv_need/absent.py'
    monkeypatch.setattr(patch_engine, 'load_manifest', lambda path: broken)
    before = snapshot(site)
    status, account = tool('apply')
    assert status == 1 and 'mmcv_need/absent.py' in account['problems'][0]
    assert snapshot(site) == before


def test_a_folder_without_write_permission_is_said(site, tool, monkeypatch):
    # Root may write anywhere, so the system's answer is played.
    real = os.access
    locked = str((site / 'mmcv/runner').resolve())
    monkeypatch.setattr(
        os, 'access', lambda path, mode: path != locked and real(path, mode)
    )
    before = snapshot(site)
    status, account = tool('apply')
    assert status == 1 and 'no permission' in account['problems'][0]
    assert snapshot(site) == before


# Runs the tool and dies by SIGKILL at the n-th step that changes a file.
DRIVER = """
import os, shutil, signal, sys
sys.path.insert(0, sys.argv[1])
import patches
left = int(sys.argv[2])
def dying(step):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **kwargs)
    return wrapped
for name in ('replace', 'unlink', 'rmdir', 'mkdir', 'fsync'):
    setattr(os, name, dying(getattr(os, name)))
sys.exit(patches.main(sys.argv[3:]))
"""


CHOSEN = {
    'runner/hooks/iter_timer.py',
    'runner/optimizer/builder.py',
    'utils/config.py',
}


def small_bundle(folder, newer=False):
    """Make a bundle of three changes."""
    scripts = folder / 'scripts'
    shutil.copytree(str(TOOL.parent), str(scripts))
    shutil.copytree(
        str(patches.BUNDLE / 'mmcv_need'), str(folder / 'mmcv_need')
    )
    chosen = json.loads(patches.MANIFEST.read_text(encoding='utf-8'))
    chosen = [entry for entry in chosen if entry['file'] in CHOSEN]
    assert len(chosen) == len(CHOSEN)
    if newer:
        with open(str(folder / 'mmcv_need' / 'builder.py'), 'a') as stream:
            stream.write('# newer\n')
        for entry in chosen:
            for edit in entry.get('edits', ()):
                edit['new'] = edit['new'] + ['        # newer']
    (scripts / 'patches.json').write_text(json.dumps(chosen))
    return folder


@pytest.mark.parametrize(
    'start, first, second, goal',
    [
        ('stock', 'old apply', 'old apply', 'old'),
        ('stock', 'old apply', 'old revert', 'stock'),
        ('stock', 'old apply', 'new apply', 'new'),
        # Two files and the record are replaced, each in two steps.
        ('old', 'new apply', 'new apply', 'new'),
        ('old', 'old revert', 'old revert', 'stock'),
    ],
)
def test_killed_between_any_two_writes(
    released, tmp_path, run, monkeypatch, start, first, second, goal
):
    """Wherever the first run dies, the second one reaches the goal.

    ``old`` and ``new`` are two versions of the bundle, and what each makes
    of a package.
    """
    site = tmp_path / 'site'
    bundles = {
        'old': small_bundle(tmp_path / 'bundle-old'),
        'new': small_bundle(tmp_path / 'bundle-new', newer=True),
    }

    def call(version, command):
        manifest = bundles[version] / 'scripts' / 'patches.json'
        monkeypatch.setattr(patches, 'BUNDLE', bundles[version])
        monkeypatch.setattr(patches, 'MANIFEST', manifest)
        return patches.main([command, '--mmcv', str(site)])

    package = tmp_path / 'stock' / 'mmcv'
    for file in sorted(CHOSEN | {'__init__.py', 'version.py'}):
        place = package / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(released / 'mmcv' / file), str(place))
    holds = {'stock': snapshot(package)}
    for version in bundles:
        shutil.copytree(str(tmp_path / 'stock'), str(site))
        assert call(version, 'apply') == 0
        holds[version] = snapshot(site / 'mmcv')
        shutil.move(str(site), str(tmp_path / version))

    version, command = first.split()
    scripts = bundles[version] / 'scripts'
    driver = [sys.executable, '-S', '-c', DRIVER, scripts]
    for died in range(1000):
        shutil.copytree(str(tmp_path / start), str(site))
        result = run(driver + [died, command, '--mmcv', site])
        if result.returncode == 0:
            break
        assert result.returncode == -9, result.stderr
        now = snapshot(site / 'mmcv')
        for file in CHOSEN:  # never half of one
            assert now[file] in (holds[start][file], holds[version][file]) or (
                now[file] == holds['stock'][file]
            )
        assert call(*second.split()) == 0
        now = snapshot(site / 'mmcv')
        for name in set(now) | set(holds[goal]):
            # What was ever written is remembered, also of a former bundle.
            if Path(name).name != patch_engine.RECORD:
                assert now.get(name) == holds[goal].get(name), name
        shutil.rmtree(str(site))
    assert died >= 6


# -- Apex ------------------------------------------------------------------


@pytest.fixture
def apex(tmp_path, capsys, monkeypatch):
    """Make an Apex tree and run the tool on it."""
    root = tmp_path / 'apex'
    root.mkdir()
    (root / '__init__.py').write_text('')

    class Tree:
        utils = root / 'amp' / 'utils.py'

        @staticmethod
        def write(*lines):
            Tree.utils.parent.mkdir(exist_ok=True)
            Tree.utils.write_text('# a build\n' + ''.join(lines))

        @staticmethod
        def torch(version, npu=False):
            """Let the tool find this torch, with or without torch_npu."""
            folder = tmp_path / f'torch-{version}'
            for name in ('torch',) + ('torch_npu',) * npu:
                (folder / name).mkdir(parents=True)
                (folder / name / '__init__.py').write_text('')
            text = f"__version__ = '{version}'\n"
            (folder / 'torch' / 'version.py').write_text(text)
            locate = patch_engine.locate

            def found(name, directory=None):
                if directory is None and name in ('torch', 'torch_npu'):
                    directory = folder
                return locate(name, directory)

            monkeypatch.setattr(patch_engine, 'locate', found)

        @staticmethod
        def call(command):
            options = ['--json', '--apex', str(root)]
            status = patches.main([command] + options)
            account = json.loads(capsys.readouterr().out)
            return status, account, account['packages'][0]

    return Tree


@pytest.mark.parametrize(
    'version, npu, index',
    [
        ('1.8.1', True, 0),
        ('1.8.1+cu102', False, 1),
        ('1.9.1', False, 1),
        ('1.10.0', False, 0),
        ('2.13.0+cpu', False, 0),
    ],
)
def test_apex_is_asked_which_index_is_right(apex, version, npu, index):
    apex.write(CAST.format(1))
    before = apex.utils.read_bytes()
    apex.torch(version, npu)
    status, _, package = apex.call('apply')
    assert status == 0
    assert CAST.format(index) in apex.utils.read_text()
    expected = 'applied' if index == 0 else 'not needed'
    assert package['files'][0]['state'] == expected
    assert ('one parent' in package['note']) == (index == 0)
    assert apex.call('status')[0] == 0
    assert apex.call('revert')[0] == 0
    assert apex.utils.read_bytes() == before


def test_an_apex_that_carries_the_change_is_left_alone(apex):
    apex.torch('2.1.0')
    apex.write(CAST.format(0))
    before = snapshot(apex.utils.parent.parent)
    for command in ('status', 'apply', 'revert'):
        status, _, package = apex.call(command)
        assert status == 0
        assert package['files'][0]['state'] == 'by hand'
    assert snapshot(apex.utils.parent.parent) == before


@pytest.mark.parametrize('lines', [(), (1, 1), (0, 0), (0, 1), (2,)])
def test_an_apex_of_another_form_is_refused(apex, lines):
    apex.torch('2.1.0')
    apex.write(*map(CAST.format, lines))
    before = snapshot(apex.utils.parent.parent)
    status, account, _ = apex.call('apply')
    assert status == 1 and 'exactly once' in account['problems'][0]
    assert snapshot(apex.utils.parent.parent) == before


def test_a_newer_apex_is_not_given_an_older_original(apex):
    apex.torch('2.1.0')
    apex.write(CAST.format(1))
    apex.call('apply')
    apex.write('# a newer build\n', CAST.format(1))
    newer = apex.utils.read_bytes()
    apex.call('apply')
    assert CAST.format(0) in apex.utils.read_text()
    apex.call('revert')
    assert apex.utils.read_bytes() == newer


@pytest.mark.parametrize('fault', ['read-only', 'unknown', None])
def test_an_apex_of_the_host_stops_nothing(
    apex, site, capsys, monkeypatch, fault
):
    apex.torch('2.1.0')
    apex.write(*map(CAST.format, (1, 1) if fault == 'unknown' else (1,)))
    root = apex.utils.parent.parent
    before = snapshot(root)
    locate = patch_engine.locate
    monkeypatch.setattr(
        patch_engine,
        'locate',
        lambda name, directory=None: locate(
            name, directory or (root if name == 'apex' else site)
        ),
    )
    access = os.access
    monkeypatch.setattr(
        os,
        'access',
        lambda path, mode: (
            not (fault == 'read-only' and path.startswith(str(root)))
            and access(path, mode)
        ),
    )
    assert patches.main(['apply']) == 0
    said = capsys.readouterr().out
    assert ('warning: Apex is left as it is' in said) is bool(fault)
    assert (snapshot(root) == before) is bool(fault)
    assert patches.main(['status', '--json']) == (1 if fault else 0)
    packages = json.loads(capsys.readouterr().out)['packages']
    states = {
        package['name']: {file['state'] for file in package['files']}
        for package in packages
    }
    assert states['mmcv'] == states['mmpose'] == {'applied'}
    # Asked for by name it is refused.
    if fault:
        assert apex.call('apply')[0] == 1


@pytest.mark.parametrize(
    'folder, words',
    [('interfaces', 'Pyramid toolkit'), ('multi_tensor_apply', '25.07')],
)
def test_what_else_is_called_apex_is_named(
    apex, site, capsys, monkeypatch, folder, words
):
    (apex.utils.parent.parent / folder).mkdir()
    # Asked for by name it is refused ...
    status, account, package = apex.call('apply')
    assert status == 1 and words in account['problems'][0]
    # ... but found beside the others it does not stop them.
    locate = patch_engine.locate
    monkeypatch.setattr(
        patch_engine,
        'locate',
        lambda name, directory=None: locate(name, directory or site),
    )
    assert patches.main(['apply', '--json']) == 0
    account = json.loads(capsys.readouterr().out)
    assert words in account['packages'][2]['note']
    assert set(states(account).values()) == {'applied'}


# -- The command line ------------------------------------------------------


def test_packages_are_found_from_anywhere_without_importing(
    run, tmp_path, released
):
    for name in PACKAGES:
        shutil.copytree(str(released / name), str(tmp_path / 'site' / name))
    (tmp_path / 'site/mmcv/__init__.py').write_text('raise SystemExit(9)\n')
    elsewhere = tmp_path / 'cwd'
    (elsewhere / 'mmcv').mkdir(parents=True)
    (elsewhere / 'mmcv' / '__init__.py').write_text('raise SystemExit(9)\n')
    env = {'PYTHONPATH': str(tmp_path / 'site')}
    result = run(
        [sys.executable, TOOL, 'status', '--json'], env=env, cwd=elsewhere
    )
    account = json.loads(result.stdout)
    assert result.returncode == 1
    paths = {p['name']: p['path'] for p in account['packages']}
    assert paths['mmcv'] == str((tmp_path / 'site' / 'mmcv').resolve())
    assert paths['mmpose'] == str((tmp_path / 'site' / 'mmpose').resolve())


@pytest.mark.parametrize('form', ['holder', 'package'])
def test_a_folder_may_be_the_package_or_hold_it(site, capsys, form):
    where = site if form == 'holder' else site / 'mmcv'
    assert patches.main(['apply', '--mmcv', str(where)]) == 0
    assert str(site / 'mmcv') in capsys.readouterr().out
    assert not (site / 'mmpose' / patch_engine.STORE).exists()


def test_without_the_packages_the_way_is_shown(run):
    result = run([sys.executable, '-S', '-E', TOOL, 'apply'])
    assert result.returncode == 1
    assert 'scripts/setup.sh' in result.stderr.splitlines()[0]
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    'words', [[], ['wipe'], ['apply', '--numpy', 'x'], ['docs', '--json']]
)
def test_a_senseless_command_line_is_a_usage_error(run, words):
    result = run([sys.executable, TOOL] + words)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ')


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    assert patches.main(['status', '--mmcv', str(tmp_path)]) == 1
    assert 'holds no package mmcv' in capsys.readouterr().err


def test_the_tool_is_python_3_7_and_imports_the_standard_library_only(run):
    code = textwrap.dedent("""
        import sys
        before = set(sys.modules)
        sys.path.insert(0, sys.argv[1])
        import patches
        new = {n.split('.')[0] for n in set(sys.modules) - before}
        print(sorted(n for n in new if 'site-packages' in (
            getattr(sys.modules[n], '__file__', None) or '')))
    """)
    result = run([sys.executable, '-c', code, str(TOOL.parent)])
    assert result.stdout.strip() == '[]', result.stderr
