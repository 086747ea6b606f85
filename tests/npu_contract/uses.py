"""Find in Python sources what they use of torch_npu, by its full name.

``torch.npu`` is ``torch_npu.npu``. Besides plain attributes these are seen:

- variables that hold it: ``npu`` and ``accelerator`` by their name, any other
  that is set to ``getattr(torch, kind)``, or to a stream (RESULTS)
- ``getattr(npu, 'name')`` and ``hasattr(npu, 'name')``
- ``npu.function(name=...)``: the name of an argument
- calls ``find('name')`` of a function within a function that looks its
  argument up by ``getattr(place, name)``
- texts such as ``'torch_npu.optim'`` and ``'NpuFusedAdam'``, and the marks by
  which optimisers are known (MARKS)
- methods of tensors that not every device has (wheel_names.LOOKED_FOR)
"""

import ast
import re

from wheel_names import LOOKED_FOR, OPERATORS, text_of

NPU = 'torch_npu.npu'
HOLDERS = {'npu': NPU, 'accelerator': NPU, 'torch_npu': 'torch_npu'}
MARKS = dict.fromkeys(
    ('is_fused_optimizer', 'is_npu_fused_optimizer'),
    'torch_npu.optim.NpuFusedOptimizerBase',
)

RESULTS = {
    f'{NPU}.{function}': f'{NPU}.Stream'
    for function in ('Stream', 'current_stream', 'default_stream')
}

ANYWHERE = 'torch_npu.npu or its utils'
"""In place of a module: where a ``find`` looks."""


class _Collector(ast.NodeVisitor):
    def __init__(self):
        self.found = set()  # (module or object, name)
        self.holders = dict(HOLDERS)
        self.finders = set()

    def visit_Assign(self, node):  # noqa: N802
        held = NPU if _is_accelerator(node.value) else None
        if isinstance(node.value, ast.Call):
            held = held or RESULTS.get(self._name_of(node.value.func))
        for target in node.targets:
            if held and isinstance(target, ast.Name):
                self.holders[target.id] = held
        self.generic_visit(node)

    def visit_FunctionDef(self, node):  # noqa: N802
        parameters = {argument.arg for argument in node.args.args}
        for inner in ast.walk(node):
            if _is_lookup(inner) and parameters & {
                getattr(inner.args[1], 'id', None)
            }:
                self.finders.add(node.name)
        self.generic_visit(node)

    def visit_Call(self, node):  # noqa: N802
        function = getattr(node.func, 'id', None)
        name = text_of(node.args[-1]) if node.args else None
        if _is_lookup(node) and text_of(node.args[1]):
            place = self._name_of(node.args[0])
            if place:
                self.found.add((place, text_of(node.args[1])))
        elif function in self.finders and name:
            self.found.add((ANYWHERE, name))
        place = self._name_of(node.func)
        if place:
            self.found |= {(place, k.arg) for k in node.keywords if k.arg}
        self.generic_visit(node)

    def visit_Attribute(self, node):  # noqa: N802
        place = self._name_of(node.value)
        if place and (place, node.attr) != ('torch_npu', 'npu'):
            self.found.add((place, node.attr))
        if node.attr in LOOKED_FOR:
            self.found.add((OPERATORS, node.attr))
        self.generic_visit(node)

    def _text(self, text):
        if re.fullmatch(r'torch_npu(\.\w+)+', text):
            self.found.add(tuple(text.rsplit('.', 1)))
        elif re.fullmatch(r'Npu[A-Z]\w+', text):
            self.found.add(('torch_npu.optim', text))
        elif text in MARKS:
            self.found.add((MARKS[text], text))

    def generic_visit(self, node):
        text = text_of(node)
        if text:
            self._text(text)
        super().generic_visit(node)

    def _name_of(self, node):
        """Return the full name of what an expression stands for, or None."""
        if isinstance(node, ast.Name):
            return self.holders.get(node.id)
        if _is_accelerator(node):
            return NPU
        if isinstance(node, ast.Attribute):
            if getattr(node.value, 'id', None) == 'torch':
                return NPU if node.attr == 'npu' else None
            place = self._name_of(node.value)
            return place and f'{place}.{node.attr}'
        return None


def _is_lookup(node):
    """Tell getattr(x, y) and hasattr(x, y)."""
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, 'id', None) in ('getattr', 'hasattr')
        and len(node.args) >= 2
    )


def _is_accelerator(node):
    """Tell getattr(torch, kind), the kind being no literal."""
    return (
        _is_lookup(node)
        and getattr(node.args[0], 'id', None) == 'torch'
        and text_of(node.args[1]) is None
    )


def uses_in(text):
    """Return what a source text uses.

    Args:
        text (str): Python.

    Returns:
        set[tuple[str, str]]: Module, class or object, and name in it.
    """
    collector = _Collector()
    tree = ast.parse(text)
    collector.visit(tree)
    # Once more: what holds it may be found below where it is used.
    collector.visit(tree)
    return collector.found
