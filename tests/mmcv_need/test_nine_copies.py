"""The nine files copied over released mmcv 1.2.7 by hand, and nothing else."""

import filecmp
import shutil

import nine_copies_cases
import pytest

import patch_engine
import patches


@pytest.fixture
def site(released, tmp_path):
    """Return a folder with that mmcv."""
    site = tmp_path / 'site'
    shutil.copytree(str(released / 'mmcv'), str(site / 'mmcv'))
    for entry in patch_engine.load_manifest(patches.MANIFEST):
        if entry['package'] == 'mmcv' and entry['kind'] == 'drop-in':
            source = patches.BUNDLE / entry['source']
            shutil.copy(str(source), str(site / 'mmcv' / entry['file']))
    return site


def changed(site, released):
    """Return the names of the files that differ from the released ones."""
    return sorted(
        path.name
        for path in (released / 'mmcv').rglob('*')
        if path.is_file()
        and not filecmp.cmp(
            str(path), str(site / path.relative_to(released)), shallow=False
        )
    )


def test_it_trains_saves_and_resumes(site, released, apart, tmp_path):
    ours = (patches.BUNDLE / 'mmcv_need').glob('*.py')
    assert changed(site, released) == sorted(path.name for path in ours)
    env = dict(PYTHONPATH=str(site))
    _, done = apart(nine_copies_cases.use_mmcv, site, tmp_path, env=env)
    assert 'Epoch [4][2/2]' in done.stdout and 'Iter [4/4]' in done.stdout
    # Three runs by epoch: of four, two and the other two.
    assert done.stdout.count('FPS: ') == 8
