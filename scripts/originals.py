"""Find mmcv and mmpose as they were released, beside what replaces them.

For the tests, which compare a drop-in with what it replaces, and for the
benchmark. Standard library only; nothing that is found is imported.
"""

import shutil

import patch_engine


def _root(package):
    root = patch_engine.locate(package)
    if root is None:
        raise FileNotFoundError(f'{package} is not installed here')
    return root


def original(package, relpath):
    """Return the released file that one of ours replaces.

    Args:
        package (str): ``mmcv`` or ``mmpose``, as this Python finds it.
        relpath (str): Path inside the package.

    Returns:
        Path: The kept original, or the installed file where nothing replaces
        it.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    root = _root(package)
    kept = root / patch_engine.STORE / relpath
    return kept if kept.is_file() else root / relpath


def copy_released(site):
    """Copy mmcv and mmpose as released: the installed ones, reverted.

    Args:
        site (Path): A folder; ``mmcv/`` and ``mmpose/`` are made in it.

    Raises:
        FileNotFoundError: One of them is not installed.
    """
    for package in ('mmcv', 'mmpose'):
        root = _root(package)
        ignored = shutil.ignore_patterns('__pycache__', patch_engine.STORE)
        shutil.copytree(str(root), str(site / package), ignore=ignored)
        store = root / patch_engine.STORE
        for kept in store.rglob('*') if store.is_dir() else ():
            if kept.is_file() and kept.name != patch_engine.RECORD:
                place = site / package / kept.relative_to(store)
                shutil.copyfile(str(kept), str(place))
