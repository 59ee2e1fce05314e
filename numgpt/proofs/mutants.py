"""Wrong backwards, made from the right ones: one change at one place, and the module that has it."""

from __future__ import annotations

import ast
import difflib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import ops
from ..layers import record, transformer
from .faults import FAULTS, Fault
from .rules import RULES, Place, replaced

KNOWN = "a known fault"
# The methods of Record through which gradients pass.
RECORD = (
    "start_backward",
    "send",
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
    module, whole. seen: for a known fault, what it is and whose. swaps_forward: whether its forward is
    changed too.
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
    def name(self) -> str:
        """What it is, in a line."""
        return f"{self.function}: {self.seen or f'{self.before}  →  {self.after}'}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What distinguishes it from all others, and stays the same while its line does."""
        return self.function, self.before, self.after

    def load(self) -> ModuleType:
        """The changed module, beside the real one, which stays as it is."""
        return load(self.module, self.source)


class _Loader(importlib.abc.InspectLoader):
    """Loads a module from a text."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        """The text."""
        return self.source


def load(name: str, source: str) -> ModuleType:
    """A module of this name from a text; sys.modules keeps the real one."""
    loader = _Loader(source)
    spec = importlib.util.spec_from_loader(name, loader, is_package=False)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def plant() -> Iterator[Mutant]:
    """All mutants: the faults seen elsewhere, then what the rules make.

    Each differs from the package and from all others.
    """
    for module in modules():
        parts = ast.parse(source(module)).body
        texts = [ast.unparse(part) for part in parts]
        known = {"\n".join(texts)}
        for mutant in (*_known_faults(module, "\n".join(texts)), *_by_rules(module, parts, texts)):
            if mutant.source not in known:
                known.add(mutant.source)
                yield mutant
            else:
                assert mutant.kind != KNOWN, f"{mutant.seen}: the same as another"


def _known_faults(module: str, original: str) -> Iterator[Mutant]:
    """The faults seen elsewhere that go into a module; original: its text as the mutants have theirs."""
    for fault in FAULTS:
        if fault.module == module:
            text = whole(_with(source(module), fault))
            before, after = _difference(original, text)
            yield Mutant(KNOWN, module, fault.function, before, after, text, fault.seen, fault.swaps_forward)


def _by_rules(module: str, parts: list[ast.stmt], texts: list[str]) -> Iterator[Mutant]:
    """What the rules make of a module's statements, whose texts are given too."""
    for place, owner, function in _functions(module, parts):
        name = f"{owner.name}.{function.name}" if isinstance(owner, ast.ClassDef) else function.name
        for kind, changed in _changes(function):
            statement = ast.unparse(replaced(owner, function, changed))
            text = "\n".join([*texts[:place], statement, *texts[place + 1 :]])
            before, after = _difference(ast.unparse(function), ast.unparse(changed))
            yield Mutant(kind, module, name, before, after, text)


def whole(text: str) -> str:
    """The text of a module as the mutants have theirs: a statement a line, no comments."""
    return "\n".join(ast.unparse(part) for part in ast.parse(text).body)


def _with(text: str, fault: Fault) -> str:
    """The text of a module with a fault in it."""
    for old, new in fault.changes:
        assert text.count(old) == 1, (
            f"{fault.seen}: {old!r} is found {text.count(old)} times in {fault.module}, expected once"
        )
        text = text.replace(old, new)
    return text


def modules() -> list[str]:
    """The names of the modules that hold backwards: those of all ops, the layers and the Record."""
    of_ops = dict.fromkeys(map(source_of, ops.ALL.values()))
    return [*of_ops, transformer.__name__, record.__name__]


def source_of(op: ops.Op) -> str:
    """The name of the module that holds an op's backward."""
    backward: Any = op.backward
    return backward.__module__


def source(module: str) -> str:
    """The text of a module of the package."""
    loader: Any = sys.modules[module].__loader__
    return loader.get_source(module)


def _functions(module: str, parts: list[ast.stmt]) -> Iterator[tuple[int, ast.stmt, ast.FunctionDef]]:
    """(index in parts, what stands there, function) of every function that a backward runs.

    That is a backward itself, or what it calls.
    """
    if module == record.__name__:
        yield from _methods(parts)
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
        place, function = defined[name]
        yield place, function, function


def _methods(parts: list[ast.stmt]) -> Iterator[tuple[int, ast.stmt, ast.FunctionDef]]:
    """As _functions, of the Record's methods."""
    for place, owner in enumerate(parts):
        if isinstance(owner, ast.ClassDef) and owner.name == "Record":
            for part in owner.body:
                if isinstance(part, ast.FunctionDef) and part.name in RECORD:
                    yield place, owner, part


def _changes(function: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """(kind, changed function) for every node to which a rule applies."""
    place = Place.of(function)
    for node in _walk(function):
        for kind, rule in RULES.items():
            for new in rule(node, place):
                yield kind, replaced(function, node, new)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes from the top down, without those that compute no gradient.

    These are arguments, docstrings, and the refusal of an input.
    """
    yield node
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.arguments() | ast.Expr(ast.Constant()) | ast.If(body=[ast.Raise()]):
                continue
        yield from _walk(child)


def _difference(old: str, new: str) -> tuple[str, str]:
    """The lines that a change takes away, and those that it puts there."""
    old_lines, new_lines = old.splitlines(), new.splitlines()
    matcher = difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False)
    blocks = [block for block in matcher.get_opcodes() if block[0] != "equal"]
    before = " ; ".join(line.strip() for _, i, j, _, _ in blocks for line in old_lines[i:j])
    after = " ; ".join(line.strip() for _, _, _, i, j in blocks for line in new_lines[i:j])
    return before, f"without {before}" if after in ("", "pass") else after
