"""Wrong backwards, made from the right ones: one change at one place, and the module that has it."""

import ast
import difflib
import importlib.abc
import importlib.util
import sys
from dataclasses import dataclass

from .. import ops
from ..layers import record, transformer
from .faults import FAULTS
from .rules import RULES, Place, replaced

KNOWN = "a known fault"
# The methods of Record through which gradients pass.
RECORD = (
    "start_backward",
    "back",
    "_arrived",
    "_back_op",
    "_offers",
    "_returned",
    "_add",
    "finish_backward",
)


@dataclass(frozen=True)
class Mutant:
    """A module of the package with one change in what its backwards run.

    kind: the rule that made it, or "a known fault". before, after: the lines that differ. source: the changed
    module, whole.
    seen: for a known fault, what it is and whose. swaps_forward: whether its forward is changed too.
    """

    kind: str
    module: str
    function: str
    before: str
    after: str
    source: str
    seen: str = ""
    swaps_forward: bool = False

    @property
    def name(self):
        """What it is, in a line."""
        return f"{self.function}: {self.seen or f'{self.before}  →  {self.after}'}"

    @property
    def key(self):
        """What tells it from all others, and stays while its line does."""
        return self.function, self.before, self.after

    def load(self):
        """The changed module. It stands beside the real one, of which nothing is touched."""
        return load(self.module, self.source)


class _Loader(importlib.abc.InspectLoader):
    """Loads a module from a text."""

    def __init__(self, source):
        self.source = source

    def get_source(self, fullname):
        """The text."""
        return self.source


def load(name, source):
    """A module of this name from a text; sys.modules keeps the real one."""
    spec = importlib.util.spec_from_loader(name, _Loader(source), is_package=False)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plant():
    """All mutants: the faults seen elsewhere, then what the rules make; each different from the package and
    from all others.
    """
    for module in modules():
        original = source(module)
        parts = ast.parse(original).body
        texts = [ast.unparse(part) for part in parts]
        seen = {"\n".join(texts)}
        for fault in (f for f in FAULTS if f.module == module):
            text = whole(_with(original, fault))
            assert text not in seen, f"{fault.seen}: the same as another"
            seen.add(text)
            yield Mutant(
                KNOWN,
                module,
                fault.function,
                *_difference("\n".join(texts), text),
                text,
                fault.seen,
                fault.swaps_forward,
            )
        for place, owner, function in _functions(module, parts):
            name = f"{owner.name}.{function.name}" if isinstance(owner, ast.ClassDef) else function.name
            for kind, changed in _changes(function):
                text = "\n".join(
                    [*texts[:place], ast.unparse(replaced(owner, function, changed)), *texts[place + 1 :]]
                )
                if text not in seen:
                    seen.add(text)
                    yield Mutant(
                        kind, module, name, *_difference(ast.unparse(function), ast.unparse(changed)), text
                    )


def whole(text):
    """The text of a module as the mutants have theirs: a statement a line, no comments."""
    return "\n".join(ast.unparse(part) for part in ast.parse(text).body)


def _with(text, fault):
    """The text of a module with a fault in it."""
    for old, new in fault.changes:
        assert text.count(old) == 1, (
            f"{fault.seen}: {old!r} is found {text.count(old)} times in {fault.module}, expected once"
        )
        text = text.replace(old, new)
    return text


def modules():
    """The names of the modules that hold backwards: those of all ops, the layers and the Record."""
    return [
        *dict.fromkeys(op.backward.__module__ for op in ops.ALL.values()),
        transformer.__name__,
        record.__name__,
    ]


def source(module):
    """The text of a module of the package."""
    return sys.modules[module].__spec__.loader.get_source(module)


def _functions(module, parts):
    """(index in parts, what stands there, function) of every function that a backward runs: itself, or what
    it calls.
    """
    if module == record.__name__:
        place, owner = next(
            (i, p) for i, p in enumerate(parts) if isinstance(p, ast.ClassDef) and p.name == "Record"
        )
        yield from (
            (place, owner, f) for f in owner.body if isinstance(f, ast.FunctionDef) and f.name in RECORD
        )
        return
    defined = {p.name: (i, p) for i, p in enumerate(parts) if isinstance(p, ast.FunctionDef)}
    wanted = [name for name in defined if name.endswith("_backward")]
    for name in wanted:
        called = [
            n.func.id
            for n in ast.walk(defined[name][1])
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        wanted.extend(n for n in called if n in defined and n not in wanted)
    for name in sorted(wanted, key=lambda n: defined[n][0]):
        yield (*defined[name], defined[name][1])


def _changes(function):
    """(kind, changed function) for every node to which a rule applies."""
    place = Place.of(function)
    for node in _walk(function):
        for kind, rule in RULES.items():
            for new in rule(node, place):
                yield kind, replaced(function, node, new)


def _walk(node):
    """Nodes from the top to the bottom, but arguments, docstrings, and refusals of an input: these compute no
    gradient.
    """
    yield node
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.arguments() | ast.Expr(ast.Constant()) | ast.If(body=[ast.Raise()]):
                continue
        yield from _walk(child)


def _difference(old, new):
    """The lines that a change takes away, and those that it puts there."""
    old, new = old.splitlines(), new.splitlines()
    blocks = [
        b for b in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if b[0] != "equal"
    ]
    before = " ; ".join(line.strip() for _, i, j, _, _ in blocks for line in old[i:j])
    after = " ; ".join(line.strip() for _, _, _, i, j in blocks for line in new[i:j])
    return before, f"without {before}" if after in ("", "pass") else after
