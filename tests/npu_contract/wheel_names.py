"""The public names of published torch_npu wheels, read without CANN.

usage: python tests/npu_contract/wheel_names.py [--check] [FOLDER]

Fetches the wheels of VERSIONS with pip (some 110 MB; FOLDER keeps them for
another time) and writes what their Python sources offer to names.json; with
--check compares instead. The table lets the test run without a network.

Older releases, COMMITS, have no wheels there. In a clone of Ascend's
repository this makes an archive of one's sources:

    git archive --format=zip -o FOLDER/torch_npu-VERSION.zip COMMIT torch_npu

Without it what names.json says of that release is kept.

Nothing is imported and nothing of the wheels is installed: the sources are
read in the archive and parsed.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

VERSIONS = ('2.1.0.post17', '2.7.1.post8', '2.14.0')
"""The oldest that is served, one between, the newest when this was made."""

COMMITS = {
    '1.8.1.post2': 'fd4844e59648831c8b079bc0d0b0c69a4b9a042d',
    '1.11.0.post14': '2bbaa76817fadba808e69210776b042138a3ea3b',
}
"""Those before, by the last commit of github.com/Ascend/pytorch with that
number."""

MODULES = (
    'torch_npu',
    'torch_npu.npu',
    'torch_npu.npu.utils',
    'torch_npu.optim',
)
"""What the bundle reaches; ``torch.npu`` is ``torch_npu.npu``."""

OPERATORS = 'torch.Tensor'
"""In place of a module: what an NPU's tensors can do, by HEADERS."""

HEADERS = (
    'torch_npu/include/torch_npu/csrc/aten/NPUNativeFunctions.h',
    # Of sources.
    'torch_npu/csrc/aten/npu_native_functions.yaml',
    'torch_npu/csrc/utils/TensorMethods.cpp',
)

LOOKED_FOR = ('record_stream',)
"""Of the operators, those that not every device has, and that we use."""

TABLE = Path(__file__).with_name('names.json')

# Any Python's wheel will do: the sources in it are the same.
PIP_DOWNLOAD = (
    '-m pip download --quiet --no-deps --only-binary :all: '
    '--python-version 3.11 --implementation cp --abi cp311 '
    '--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64'
).split()


class Sources:
    """The Python sources in a wheel.

    Args:
        wheel (str | Path): Its file.
    """

    def __init__(self, wheel):
        self.archive = zipfile.ZipFile(str(wheel))
        self.files = set(self.archive.namelist())
        self._trees = {}

    def file_of(self, module):
        """Return the file of a module, or None."""
        path = module.replace('.', '/')
        for name in (f'{path}/__init__.py', f'{path}.py'):
            if name in self.files:
                return name
        return None

    def statements(self, module):
        """Return a module's statements, those within if and try included."""
        if module not in self._trees:
            text = self.archive.read(self.file_of(module)).decode()
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # about their backslashes
                tree = ast.parse(text)
            self._trees[module] = list(_flat(tree.body))
        return self._trees[module]

    def submodules(self, package):
        """Return the names of what lies in a package's folder."""
        folder = package.replace('.', '/') + '/'
        if f'{folder}__init__.py' not in self.files:
            return set()
        rest = [f[len(folder) :] for f in self.files if f.startswith(folder)]
        return {
            name.split('/')[0].replace('.py', '')
            for name in rest
            if name.endswith('.py')
        }

    def names(self, module, seen=()):
        """Return what a module binds: {name: (module, node) or None}.

        The node is that of the class or the function, where it is seen.
        """
        found = dict.fromkeys(self.submodules(module))
        for node in self.statements(module):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found[node.name] = (module, node)
            elif isinstance(node, ast.ImportFrom):
                found.update(self._imported(module, node, seen))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for name in _targets(node):
                    found[name] = self._class_of(module, node.value)
        return found

    def _imported(self, module, node, seen):
        source = self._absolute(module, node)
        if source.split('.')[0] != 'torch_npu':
            return {}
        there = {}
        if self.file_of(source) and source not in seen:
            there = self.names(source, (*seen, module))
        bound = {}
        for alias in node.names:
            if alias.name == '*':
                public = self._all(source) if there else []
                bound.update((n, c) for n, c in there.items() if n in public)
            else:
                bound[alias.asname or alias.name] = there.get(alias.name)
        return bound

    def _all(self, module):
        """Return what ``import *`` takes."""
        for node in self.statements(module):
            if isinstance(node, ast.Assign) and '__all__' in _targets(node):
                return {text_of(e) for e in node.value.elts}
        return {n for n in self.names(module) if not n.startswith('_')}

    def _absolute(self, module, node):
        if not node.level:
            return node.module
        package = module.split('.')
        if not self.file_of(module).endswith('__init__.py'):
            package.pop()
        package = package[: len(package) - node.level + 1]
        return '.'.join(package + ([node.module] if node.module else []))

    def _class_of(self, module, value):
        """Return the class of which ``value`` (``x._Class()``) makes one."""
        function = getattr(value, 'func', None)
        parts = []
        while isinstance(function, ast.Attribute):
            parts.insert(0, function.attr)
            function = function.value
        if not isinstance(function, ast.Name) or len(parts) != 1:
            return None
        source = f'{module}.{function.id}'
        if not self.file_of(source):
            return None
        return self.names(source).get(parts[0])

    def members(self, module, node):
        """Return a function's parameters, or a class's public members.

        Those of its bases in this module count, and what its constructor
        takes.
        """
        if isinstance(node, ast.FunctionDef):
            return sorted(_parameters(node))
        found = set()
        for base in node.bases:
            name = getattr(base, 'id', None)
            above = self.names(module).get(name) if name else None
            if above:
                found.update(self.members(*above))
        for child in ast.walk(node):
            if isinstance(child, ast.FunctionDef):
                found.add(child.name)
                if child.name in ('__init__', '__new__'):
                    found |= _parameters(child)
                if child.name == '__setattr__':
                    # A switch that is one by the name that is set.
                    texts = map(text_of, ast.walk(child))
                    found |= {t for t in texts if t and t.isidentifier()}
            elif isinstance(child, (ast.Assign, ast.AnnAssign)):
                found |= set(_targets(child, local=child in node.body))
        return sorted(name for name in found if not name.startswith('_'))


def text_of(node):
    """Return the text of a literal, or None; Python 3.7 has ``s`` for it."""
    value = getattr(node, 'value', None)
    if sys.version_info < (3, 8):
        value = getattr(node, 's', None)
    return value if isinstance(value, str) else None


def _flat(statements):
    for node in statements:
        yield node
        for field in ('body', 'orelse', 'finalbody', 'handlers'):
            inner = getattr(node, field, ())
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield from _flat(inner)


def _parameters(function):
    """Return the names by which arguments can be given."""
    every = function.args.args + function.args.kwonlyargs
    return {argument.arg for argument in every} - {'self', 'cls'}


def _targets(node, local=True):
    """Return the names (if ``local``) and the attributes of self assigned."""
    targets = getattr(node, 'targets', None) or [node.target]
    for target in targets:
        for one in getattr(target, 'elts', [target]):
            if isinstance(one, ast.Name) and local:
                yield one.id
            elif isinstance(one, ast.Attribute):
                if getattr(one.value, 'id', '') == 'self':
                    yield one.attr


def names_in(wheel):
    """Return the public names in a wheel.

    Args:
        wheel (str | Path): Its file.

    Returns:
        dict[str, list[str]]: For each of MODULES, and each class and function
        in them (an object such as ``torch_npu.npu.config`` counts as its
        class), the names in alphabetical order; a function's are those of its
        parameters. Beside them OPERATORS.
    """
    sources = Sources(wheel)
    table = {}
    for module in MODULES:
        names = sources.names(module)
        public = sorted(name for name in names if not name.startswith('_'))
        table[module] = public
        for name in public:
            if names[name]:
                members = sources.members(*names[name])
                if members:
                    table[f'{module}.{name}'] = members
    headers = [name for name in HEADERS if name in sources.files]
    text = ''.join(sources.archive.read(name).decode() for name in headers)
    table[OPERATORS] = [
        name for name in LOOKED_FOR if re.search(rf'\b{name}\b', text)
    ]
    return table


def fetch(version, folder, timeout=600):
    """Return the wheel of a version, downloaded unless it is there.

    Raises:
        RuntimeError: pip does not get it; with pip's reason.
    """
    pattern = f'torch_npu-{version}-*.whl'
    if not list(Path(folder).glob(pattern)):
        command = [sys.executable] + PIP_DOWNLOAD
        command += ['--dest', str(folder), f'torch_npu=={version}']
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f'no torch_npu {version} in time') from None
        if done.returncode:
            printed = done.stdout.decode('utf-8', 'replace').strip()
            raise RuntimeError(printed.splitlines()[-1])
    return next(Path(folder).glob(pattern))


def make_table(folder, timeout=600):
    """Return the names in the sources of COMMITS and wheels of VERSIONS."""
    table = json.loads(TABLE.read_text())
    for version in COMMITS:
        archive = Path(folder, f'torch_npu-{version}.zip')
        if archive.exists():
            table[version] = names_in(archive)
        else:
            names = table[version].items()
            table[version] = {module: n.split() for module, n in names}
    table.update((v, names_in(fetch(v, folder, timeout))) for v in VERSIONS)
    return {version: table[version] for version in (*COMMITS, *VERSIONS)}


def render(table):
    """Return the text of names.json: a line for each module or class."""
    versions = []
    for version, modules in table.items():
        lines = [
            f'  {json.dumps(name)}: {json.dumps(" ".join(names))}'
            for name, names in modules.items()
        ]
        versions.append(f'{json.dumps(version)}: {{\n' + ',\n'.join(lines))
    return '{\n' + '\n},\n'.join(versions) + '\n}\n}\n'


def load_table():
    """Read names.json.

    Returns:
        dict[str, dict[str, set[str]]]: By version, then by module or class.
    """
    table = json.loads(TABLE.read_text())
    return {
        version: {name: set(names.split()) for name, names in modules.items()}
        for version, modules in table.items()
    }


def main():
    """Write or check the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folder', nargs='?')
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = render(make_table(args.folder or scratch))
    if args.check:
        same = text == TABLE.read_text()
        print('names.json is', 'up to date' if same else 'NOT up to date')
        return int(not same)
    TABLE.write_text(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
