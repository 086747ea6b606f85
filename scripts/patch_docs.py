"""Renders the manifest as docs/PATCHES.md."""

from collections import OrderedDict

INTRODUCTION = """\
# Changes to other packages

`scripts/patches.py docs` generates this page from `scripts/patches.json`. Edit
the manifest, not this page.

A **drop-in** replaces a whole file; an **edit** replaces lines that must occur
exactly once.

| command | does |
|---|---|
| `python3 scripts/patches.py status` | shows the state of every file |
| `python3 scripts/patches.py apply` | applies the changes |
| `python3 scripts/patches.py revert` | restores the originals, byte for byte |

The tool keeps the originals in `.originals` in the package's folder. It
changes a file only if its SHA-256 is that of the release, so changes that
somebody else has made are never lost.
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
    yield f'- Remove: {entry["until"]}'
    if entry['sha256'] is None:
        yield '- Original: recognised by its text, because builds differ.'
    else:
        yield f'- Original: `{entry["sha256"]}`'
    if entry.get('optional'):
        yield '- Skipped if the package has no such file.'
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
