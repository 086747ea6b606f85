"""Renders the manifest as docs/PATCHES.md."""

from collections import OrderedDict

INTRODUCTION = """\
# What we change in other people's packages

Written by `scripts/patches.py docs` from `scripts/patches.json`: change the
manifest, not this page.

`python scripts/patches.py status` shows the state of every file, `apply` puts
the changes in place and `revert` gives back the exact originals, which are
kept in `.originals` in the package's folder. A **drop-in** replaces one file
as a whole; an **edit** replaces lines that must occur exactly once. A file is
touched only if its SHA-256 is the release's, so nothing that somebody else
has changed is lost.
"""


def _texts(edit):
    yield '```diff'
    for sign, key in (('-', 'old'), ('+', 'new')):
        for line in edit[key].split('\n'):
            yield f'{sign}{line}'.rstrip()
    yield '```'


def _section(entry):
    yield f'### `{entry["file"]}`'
    yield ''
    if entry['kind'] == 'drop-in':
        yield f'Drop-in: `{entry["source"]}`.'
    else:
        yield 'Edit.'
    yield ''
    yield f'- Why: {entry["reason"]}'
    yield f'- Can go: {entry["until"]}'
    if entry['sha256'] is None:
        yield '- Original: found by its text, since builds differ.'
    else:
        yield f'- Original: `{entry["sha256"]}`'
    if entry.get('optional'):
        yield '- Skipped where the package has no such file.'
    yield ''
    for edit in entry.get('edits', ()):
        yield from _texts(edit)
        yield ''


def render(entries):
    """Return docs/PATCHES.md.

    Args:
        entries (list[dict]): The manifest, as ``patch_engine`` loads it.

    Returns:
        str: The page.
    """
    lines = INTRODUCTION.split('\n')
    packages = OrderedDict((entry['package'], []) for entry in entries)
    for entry in entries:
        packages[entry['package']].append(entry)
    for package, mine in packages.items():
        lines += [f'## {package} {mine[0]["version"]}', '']
        for entry in mine:
            lines += _section(entry)
    return '\n'.join(lines).rstrip('\n') + '\n'
