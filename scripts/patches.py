#!/usr/bin/env python3
"""Apply, show or take back what the bundle changes in other packages.

Everything that is changed stands in ``patches.json``, and in words in
docs/PATCHES.md. A file whose bytes are neither the release's nor ours stops
the run before anything is written; originals are kept in ``.originals`` in
the package's folder and come back, byte for byte, with ``revert``.

Exit status: 0 all is in order; 1 something is not applied, not reverted, or
was refused; 2 the command line makes no sense.

examples: python3 scripts/patches.py status
          python3 scripts/patches.py apply --mmcv /tmp/mmcv-1.2.7
"""

import argparse
import contextlib
import json
import re
import runpy
import sys
from collections import Counter, OrderedDict
from pathlib import Path

import patch_docs
import patch_engine as engine

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent
MANIFEST = HERE / 'patches.json'
DOCS = BUNDLE / 'docs' / 'PATCHES.md'
PACKAGES = ('mmcv', 'mmpose', 'apex')


def judge_version(package, entries):
    """Note as a problem that a package is absent or of another version."""
    wanted = entries[0]['version']
    if package.root is None and package.directory is not None:
        package.problem = (
            f'{package.directory}: holds no package {package.name}.'
        )
    elif package.root is None:
        package.problem = (
            f'{package.name} {wanted} is not installed for {sys.executable}. '
            'Run scripts/setup.sh, or name an unpacked source tree with '
            f'--{package.name}.'
        )
    elif package.version != wanted:
        package.problem = (
            f'{package.name} {package.version or "of an unknown version"} in '
            f'{package.root}: the changes are made for {wanted}. Install '
            f'{package.name}=={wanted}; scripts/setup.sh does it.'
        )


def judge_place(package, folder):
    """Note as a problem that a package is not inside a folder."""
    if folder.resolve() not in package.root.parents:
        package.problem = (
            f'{package.name} in {package.root} is not inside {folder}, where '
            'alone --inside allows to write.'
        )


def judge_apex(package):
    """Tell a real Apex from the others that go by its name.

    Returns:
        bool: Whether there is anything in it to look at.
    """
    if package.root is None:
        package.note = 'not installed: nothing to do'
        if package.directory is not None:
            package.problem = f'{package.directory}: holds no package apex.'
        return False
    if (package.root / 'amp').is_dir():
        return True
    if (package.root / 'multi_tensor_apply').is_dir():
        package.note = (
            f'{package.root} is NVIDIA Apex 25.07 or later, which has no '
            'apex.amp any more: the native O2 is used instead'
        )
    else:
        package.note = (
            f'{package.root} is not NVIDIA Apex but the package that PyPI '
            'has under this name (0.9.10dev of 2013, "Pyramid toolkit"). '
            'pip uninstall apex'
        )
    if package.directory is not None:
        package.problem = package.note
    return False


def parents_of_cast():
    """Tell which parent of a cast's node holds the tensor that was cast.

    Up to torch 1.9 a cast on CUDA was recorded by a node with two parents,
    and ``apex.amp`` looks at index 1. From 1.10 on, and on an NPU with any
    torch, there is one parent, at index 0.

    Returns:
        tuple[int, str]: The index, and how that is known.
    """
    if engine.locate('torch_npu') is not None:
        return 0, 'torch_npu is installed: a cast has one parent'
    root = engine.locate('torch')
    version = root and engine.version_of(root)
    numbers = re.match(r'(\d+)\.(\d+)', version or '')
    if numbers is None:
        return 0, 'no torch here to ask: taken for an NPU or torch >= 1.10'
    if tuple(map(int, numbers.groups())) >= (1, 10):
        return 0, f'torch {version}: a cast has one parent'
    return 1, f'torch {version} without torch_npu: a cast has two parents'


def survey(options, entries, locks):
    """Find the packages and judge their files.

    Args:
        options (Namespace): The command line. If it names any folder, only
            the packages that it names are looked at.
        entries (list[dict]): The manifest.
        locks (ExitStack | None): Holds the packages' locks, for a run that
            writes.

    Returns:
        OrderedDict[Package, list[Target]]: The files of each package; none
        for a package that cannot be worked on.
    """
    named = {name: getattr(options, name) for name in PACKAGES}
    if any(named.values()):
        names = [name for name in PACKAGES if named[name]]
    else:
        names = PACKAGES
    found = OrderedDict()
    for name in names:
        package = engine.Package(name, named[name])
        mine = [entry for entry in entries if entry['package'] == name]
        found[package] = []
        if name != 'apex':
            judge_version(package, mine)
        elif not judge_apex(package):
            continue
        inside = getattr(options, 'inside', None)
        if inside and not package.problem:
            judge_place(package, inside)
            if name == 'apex' and package.problem:
                # The host's, which set-up leaves as it is.
                package.note, package.problem = package.problem, ''
                continue
        if package.problem:
            continue
        if locks is not None:
            locks.enter_context(package.lock())
        found[package] = engine.targets_of(package, mine, BUNDLE)
        if name == 'apex':
            index, package.note = parents_of_cast()
            for target in found[package]:
                if index == 1 and target.state == engine.STOCK:
                    target.state = engine.NOT_NEEDED
    return found


def problems_of(found, reverting=False):
    """Return everything that forbids writing, as sentences."""
    problems = [package.problem for package in found if package.problem]
    for targets in found.values():
        problems += [target.problem(reverting) for target in targets]
    return [problem for problem in problems if problem]


def status(found):
    """Return the problems and the sentences of ``status``; writes nothing."""
    problems = problems_of(found)
    waiting = sum(
        target.state not in engine.IN_ORDER
        for targets in found.values()
        for target in targets
    )
    if waiting and not problems:
        problems.append(
            f'{waiting} file(s) not up to date: scripts/patches.py apply'
        )
    return problems, []


def write_all(found, step, reverting):
    """Check everything, then let ``step`` write package after package."""
    problems = problems_of(found, reverting)
    for package, targets in found.items():
        if targets:
            problems += engine.check_writable(package, targets)
    if problems:
        raise engine.PatchError(problems + ['Nothing was written.'])
    said = []
    for package, targets in found.items():
        if targets:
            written = step(package, targets)
            for target in written:
                target.inspect()
            said.append(
                f'{package.name}: {len(written)} of {len(targets)} files '
                f'written in {package.root}'
            )
    return said


def spare_apex(found):
    """Find an Apex that cannot be changed and that nobody has named.

    It came with the host's Python and may belong to somebody else. The line
    that is wrong in it is reached by O1 only, which the bundle does not use:
    no reason to stop a set-up.

    Returns:
        tuple[OrderedDict, list[str]]: ``found`` without it; warnings.
    """
    rest, warnings = OrderedDict(), []
    for package, targets in found.items():
        problems = []
        if package.name == 'apex' and package.directory is None:
            waiting = [t for t in targets if t.state not in engine.IN_ORDER]
            problems = [t.problem() for t in waiting if t.problem()]
            if waiting and not problems:
                problems = engine.check_writable(package, waiting)
            targets = waiting
        if not problems:
            rest[package] = targets
        warnings += [
            'warning: Apex is left as it is, so that its O1 (not O2) may '
            f'fail. {problem}'
            for problem in problems[:1]
        ]
    return rest, warnings


def apply(found):
    """Put every change in place; see :func:`status` for what it returns."""
    found, warnings = spare_apex(found)
    done = write_all(found, engine.apply_targets, reverting=False)
    return [], warnings + done


def revert(found):
    """Put every original back; see :func:`status` for what it returns."""
    said = write_all(found, engine.revert_targets, reverting=True)
    problems = []
    for package, targets in found.items():
        left = [
            target.file
            for target in targets
            if target.state == engine.BY_HAND and target.upstream is None
        ]
        if left and package.name != 'apex':
            problems.append(
                f'{package.name}: copied by hand, so that no original is '
                f'kept: {", ".join(left)}. To get the originals, reinstall '
                f'{package.name}=={package.version}.'
            )
    return problems, said


COMMANDS = {'status': status, 'apply': apply, 'revert': revert}


def report(command, found, problems, said):
    """Return the machine-readable account of a run."""
    return OrderedDict(
        command=command,
        ok=not problems,
        problems=problems,
        done=said,
        packages=[
            OrderedDict(
                name=package.name,
                path=str(package.root) if package.root else None,
                version=package.version,
                note=package.note,
                problem=package.problem,
                files=[
                    OrderedDict(
                        file=target.file,
                        kind=target.kind,
                        state=target.state,
                    )
                    for target in targets
                ],
            )
            for package, targets in found.items()
        ],
    )


def describe(found):
    """Yield the lines of ``status`` for people."""
    for package, targets in found.items():
        if package.root is None:
            yield f'{package.name}: {package.note or "not found"}'
            continue
        counts = Counter(target.state for target in targets)
        summary = ', '.join(f'{n} {state}' for state, n in counts.items())
        yield f'{package.name} {package.version or ""} in {package.root}'
        if package.note:
            yield f'  {package.note}'
        for target in targets:
            yield f'  {target.state:<12}{target.file} ({target.kind})'
        if summary:
            yield f'  {summary}'


def make_docs(check):
    """Write docs/PATCHES.md from the manifest, or compare the two.

    Args:
        check (bool): Only compare.

    Returns:
        int: Exit status.
    """
    text = patch_docs.render(engine.load_manifest(MANIFEST))
    if engine.read(DOCS) == text.encode():
        return 0
    if check:
        print(
            f'{DOCS} does not say what {MANIFEST} says: run '
            'scripts/patches.py docs',
            file=sys.stderr,
        )
        return 1
    engine.write(DOCS, text.encode())
    print(f'wrote {DOCS}')
    return 0


def parse(arguments):
    """Read the command line."""
    summary, _, rest = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='patches.py',
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    commands.required = True
    helps = {
        'status': 'show the state of every file',
        'apply': 'put every change in place',
        'revert': 'put every original back',
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        for package in PACKAGES:
            command.add_argument(
                f'--{package}',
                metavar='DIR',
                help=f'the folder of {package}, or the one that holds it '
                '(default: the one that this Python would import; if any '
                'folder is named, only the named packages are touched)',
            )
        command.add_argument(
            '--inside',
            type=Path,
            metavar='DIR',
            help='refuse packages that are not inside this folder; leave such '
            'an Apex as it is',
        )
        command.add_argument(
            '--json', action='store_true', help='answer in JSON'
        )
    docs = commands.add_parser('docs', help='write docs/PATCHES.md')
    docs.add_argument(
        '--check', action='store_true', help='only compare, change nothing'
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run one command.

    Args:
        arguments (list[str], optional): In place of ``sys.argv[1:]``.

    Returns:
        int: Exit status, as this module's docstring says.
    """
    options = parse(arguments)
    if options.command == 'docs':
        return make_docs(options.check)
    said = []
    found = OrderedDict()
    with contextlib.ExitStack() as stack:
        locks = None if options.command == 'status' else stack
        try:
            found = survey(options, engine.load_manifest(MANIFEST), locks)
            problems, said = COMMANDS[options.command](found)
        except engine.PatchError as error:
            problems = error.problems
        except OSError as error:
            problems = [f'{error}. Fix this and run the command again.']
    if options.json:
        account = report(options.command, found, problems, said)
        print(json.dumps(account, indent=2))
    else:
        lines = describe(found) if options.command == 'status' else said
        for line in lines:
            print(line)
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    bootstrap = BUNDLE / 'mmpose-master/hourglass_npu/bootstrap.py'
    runpy.run_path(str(bootstrap))['use_this_package']()
    from hourglass_npu.errors import run

    run(main)
