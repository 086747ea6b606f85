"""Read and write the files that the bundle changes in other packages.

The manifest (``patches.json``) says what to change; this module finds the
packages, works out in which state every file is, and writes. ``patches.py``
is the command line over it. Standard library only, Python 3.7 or later: it
runs before anything is installed, and it never imports what it patches.

How a run survives being killed at any moment:

1. Everything is read and judged before the first write.
2. A file's original is kept, and the hash of what will be written is
   recorded, before the file itself is replaced.
3. Every write goes to a temporary file in the same folder and is renamed.

So each file on disk is always upstream's or ours, never half of one, and a
second run recognises either.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

STORE = '.originals'
RECORD = '.written.json'

# What a target can be in. All but the first three need somebody's hand.
APPLIED = 'applied'
BY_HAND = 'by hand'  # in place, but this tool did not put it there
NOT_NEEDED = 'not needed'
STOCK = 'not applied'
OLDER = 'older'  # written by this tool from another version of the bundle
MISSING = 'missing'
UNKNOWN = 'unknown'
IN_ORDER = (APPLIED, BY_HAND, NOT_NEEDED)


class PatchError(Exception):
    """Something that stops the whole run before anything is written.

    Attributes:
        problems (list[str]): One sentence each, naming the file.
    """

    def __init__(self, problems):
        super().__init__('\n'.join(problems))
        self.problems = list(problems)


def digest(data):
    """Return the SHA-256 of ``data`` (bytes) in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read(path):
    """Return the bytes of ``path``, or None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def temporary(path):
    """Return the name under which ``path`` is written before it is renamed.

    The name is fixed, so that what a killed run has left is found again.
    """
    return path.with_name(f'.{path.name}.patching')


def write(path, data):
    """Replace ``path`` by ``data`` in one step, keeping its access rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary(path)
    with open(draft, 'wb') as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if path.exists():
        shutil.copymode(path, draft)
    os.replace(draft, path)


def replace_module(path, data):
    """Write a source file and drop what Python has compiled from the old one.

    Python takes a cached file for fresh when the source's size and its time
    in whole seconds agree; an edit of one digit right after an installation
    keeps both. The cache goes first, so that a run that is killed in between
    leaves no stale one.
    """
    for cached in (path.parent / '__pycache__').glob(f'{path.stem}.*.pyc'):
        cached.unlink()
    write(path, data)


def substitute(data, edits, backwards=False):
    """Apply exact text edits to a file's bytes.

    Args:
        data (bytes): The file.
        edits (list[tuple[bytes, bytes]]): Old and new text of each edit.
        backwards (bool): Go from the new texts to the old ones.

    Returns:
        bytes | None: The changed file; None unless each text that is to be
        replaced occurs exactly once.
    """
    for old, new in reversed(edits) if backwards else edits:
        if backwards:
            old, new = new, old
        if data.count(old) != 1:
            return None
        data = data.replace(old, new)
    return data


def load_manifest(path):
    """Read the manifest.

    Returns:
        list[dict]: One entry for each changed file: ``package``, ``version``,
        ``file``, ``sha256`` (None where builds differ), ``kind``, ``reason``,
        ``until`` (when the change can go); ``source`` in the bundle for a
        drop-in, ``edits`` with ``old`` and ``new`` text (lists of lines in
        the manifest, strings here) for an edit; ``optional`` for a file that
        an installed package need not have.
    """
    with open(path, encoding='utf-8') as stream:
        entries = json.load(stream)
    for entry in entries:
        for edit in entry.get('edits', ()):
            edit['old'] = '\n'.join(edit['old'])
            edit['new'] = '\n'.join(edit['new'])
    return entries


def locate(name, directory=None):
    """Find a package's folder without importing it.

    Args:
        name (str): The package.
        directory (str | Path, optional): The package's folder, or the folder
            that holds it. By default the one that this Python would import.

    Returns:
        Path | None: The folder with the package's ``__init__.py``.
    """
    if directory is not None:
        for root in (Path(directory, name), Path(directory)):
            if (root / '__init__.py').is_file():
                return root.resolve()
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.submodule_search_locations:
        return None
    return Path(spec.origin).resolve().parent


def version_of(root):
    """Return the version that a package's ``version.py`` states, or None."""
    text = (read(root / 'version.py') or b'').decode('utf-8', 'replace')
    found = re.search(r'^__version__\b[^=]*=\s*[\'"]([^\'"]+)', text, re.M)
    return found.group(1) if found else None


class Package:
    """One package that the manifest changes, as found on this machine.

    Args:
        name (str): Import name.
        directory (str | Path, optional): See :func:`locate`.

    Attributes:
        root (Path | None): Its folder.
        version (str | None): As its ``version.py`` says.
        note (str): What is worth telling about it.
        problem (str): Why it cannot be worked on; empty if it can.
    """

    def __init__(self, name, directory=None):
        self.name = name
        self.directory = directory
        self.root = locate(name, directory)
        self.version = self.root and version_of(self.root)
        self.note = ''
        self.problem = ''

    def record(self):
        """Return what this tool has written into the package so far.

        Returns:
            dict: For each file, ``upstream`` (hash of the original) and
            ``written`` (hashes of everything ever put in its place).
        """
        data = read(self.root / STORE / RECORD)
        return json.loads(data.decode()) if data else {}

    @contextlib.contextmanager
    def lock(self):
        """Lock the package against other runs of this tool."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            yield
            return
        handle = os.open(str(self.root), os.O_RDONLY)
        try:
            # Some network file systems cannot lock a folder.
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Target:
    """One file of a package, with everything that the manifest does to it.

    Args:
        package (Package): Where it lies.
        file (str): Its path inside the package.
        entry (dict | None): The manifest's entry for it; None for a file that
            an older bundle changed and this one does not.
        bundle (Path): Root of the bundle, for the drop-ins' sources.
        record (dict): What :meth:`Package.record` holds for the file.

    Attributes:
        state (str): One of the words at the top of this module.
        upstream (bytes | None): The original, where its bytes are known.
        wanted (bytes | None): What the file should hold.
    """

    def __init__(self, package, file, entry, bundle, record):
        self.package = package
        self.file = file
        self.path = package.root / file
        self.kept = package.root / STORE / file
        self.written = record.get('written', [])
        if entry is None:
            entry = {'kind': 'retired', 'sha256': record['upstream']}
        self.kind = entry['kind']
        self.sha256 = entry['sha256']
        self.optional = entry.get('optional', False)
        self.source = bundle / entry['source'] if 'source' in entry else None
        self.edits = [
            (edit['old'].encode(), edit['new'].encode())
            for edit in entry.get('edits', ())
        ]
        self.inspect()

    def __str__(self):
        return f'{self.package.name}/{self.file}'

    def is_upstream(self, data):
        """Tell whether ``data`` is the file as its authors published it."""
        if data is None:
            return False
        if self.sha256 is not None:
            return digest(data) == self.sha256
        # Builds differ: an original is what the edits fit, and is not the
        # result of them.
        return substitute(data, self.edits) is not None and not any(
            new in data for _, new in self.edits
        )

    def _find_upstream(self, current):
        kept = read(self.kept)
        undone = None
        if self.edits and self.sha256 is not None and current is not None:
            undone = substitute(current, self.edits, backwards=True)
        for data in (current, kept, undone):
            if self.is_upstream(data):
                return data
        return None

    def inspect(self):
        """Read the file and set ``state``, ``upstream`` and ``wanted``."""
        current = read(self.path)
        self.upstream = self._find_upstream(current)
        if self.source is not None:
            self.wanted = read(self.source)
        else:
            self.wanted = self.upstream and substitute(
                self.upstream, self.edits
            )
        self.state = self._judge(current)
        if self.state == BY_HAND and self.sha256 is None:
            # Nobody can tell what this build's file looked like before.
            self.upstream = None

    def _judge(self, current):
        if current is None:
            return NOT_NEEDED if self.optional else MISSING
        if current == self.wanted:
            return APPLIED if self.is_upstream(read(self.kept)) else BY_HAND
        if self.is_upstream(current):
            return STOCK
        if self.sha256 is None and self._already_edited(current):
            return BY_HAND
        return OLDER if digest(current) in self.written else UNKNOWN

    def _already_edited(self, current):
        """Tell whether a build of its own accord carries all the edits."""
        undone = substitute(current, self.edits, backwards=True)
        return undone is not None and self.is_upstream(undone)

    def problem(self, reverting=False):
        """Return why this file cannot be worked on, or an empty string."""
        if self.state == MISSING:
            return f'{self}: there is no {self.path}. Reinstall the package.'
        if self.state == UNKNOWN and self.sha256 is None:
            return (
                f'{self}: {self.path} holds neither the text to change '
                'nor the changed text exactly once. This build is unknown: '
                'look at docs/PATCHES.md and edit it by hand.'
            )
        if self.state == UNKNOWN:
            return (
                f"{self}: {self.path} holds neither the release's bytes nor "
                'ours: somebody has changed it. Reinstall the package, or '
                'put the original back, and run this again.'
            )
        if reverting:
            return ''
        if self.source is not None and self.wanted is None:
            return f'{self}: the bundle has no {self.source}, incomplete copy?'
        if self.wanted is None and self.state in (STOCK, OLDER):
            return (
                f'{self}: the change does not fit {self.path}, or its '
                f'original is gone from {self.kept}. Reinstall the package.'
            )
        return ''


def targets_of(package, entries, bundle):
    """Return the targets of a package, those of an older bundle included."""
    record = package.record()
    entries = {entry['file']: entry for entry in entries}
    found = [
        Target(package, file, entry, bundle, record.get(file, {}))
        for file, entry in entries.items()
    ]
    for file in sorted(set(record) - set(entries)):
        retired = Target(package, file, None, bundle, record[file])
        if retired.state in (OLDER, UNKNOWN):
            found.append(retired)
    return found


def check_writable(package, targets):
    """Refuse before the first write what the system would refuse later."""
    folders = {target.path.parent for target in targets} | {package.root}
    return [
        f'{folder}: no permission to write there. Run this as the user who '
        'installed the package, or use an environment of your own.'
        for folder in sorted(folders)
        if not os.access(str(folder), os.W_OK)
    ]


def apply_targets(package, targets):
    """Bring ``targets`` (judged and found in order) up to date.

    Returns:
        list[Target]: Those that were written.
    """
    todo = [t for t in targets if t.state in (STOCK, OLDER)]
    for target in todo:
        known = target.upstream
        if known is not None and read(target.kept) != known:
            write(target.kept, known)
    record = package.record()
    for target in todo:
        hashes = set(target.written) | {digest(target.wanted)}
        known = target.upstream
        record[target.file] = {
            'upstream': target.sha256 or (known and digest(known)),
            'written': sorted(hashes),
        }
    if todo:
        text = json.dumps(record, indent=2) + '\n'
        write(package.root / STORE / RECORD, text.encode())
    for target in todo:
        replace_module(target.path, target.wanted)
    _sweep(targets)
    return todo


def revert_targets(package, targets):
    """Put the originals back, and forget them once all are back.

    Returns:
        list[Target]: Those that were written.
    """
    todo = [
        t
        for t in targets
        if t.upstream is not None and read(t.path) not in (None, t.upstream)
    ]
    for target in todo:
        replace_module(target.path, target.upstream)
    _sweep(targets)
    if (package.root / STORE).exists():
        shutil.rmtree(str(package.root / STORE))
    return todo


def _sweep(targets):
    """Remove what a run that was killed while writing has left."""
    for target in targets:
        with contextlib.suppress(FileNotFoundError):
            temporary(target.path).unlink()
