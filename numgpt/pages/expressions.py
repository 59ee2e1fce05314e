"""The language of cell formulas: a text of equations with indices becomes a tree of plain data.

    mu[n] = mean(c, x[n, c])
    y[n, c] = (x[n, c] - mu[n]) * w[c] + b[c]

The last equation is the cell's; those before it are locals, which are named values. The text is parsed as
Python by ast.parse and never run; evaluation.py and web/formula.js evaluate trees.

    x[n, c]              an entry; n is all leading axes of an array as one
    W[ids[n], c]         an entry by another's integer; outside of an array there is no number
    sum(i, x[n, i])      over the axis that i indexes; mean and max as well
    sum(s, …, s <= t)    where a condition holds
    sum(g < G, …)        over as many as a size
    … if … else …        by a condition: <=, ==, and
    + - * / ** // %      and exp log sqrt tanh erfc sin cos of one number
    D, eps               what the step gives: a size, or an option

A local may be read with other indices than those of its equation, mu[n] as mu[k]; it sees its own alone. What
is absent, a bias that a model lacks, is left out: a sum or product is what is left of it.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from ..errors import InputError

Tree = dict[str, Any]  # a node: its kind, and what the kind has; JSON as it stands
Range = list[Any]  # [array, axis from the end, or "lead"], or ["given", name]

LEAD = "n"  # the index of an array's leading axes, all of them as one
FUNCTIONS = ("exp", "log", "sqrt", "tanh", "erfc", "sin", "cos")
REDUCTIONS = ("sum", "mean", "max")
CONSTANTS = ("pi",)
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


class Known(NamedTuple):
    """What a name in an expression may stand for: arrays, locals so far, and the indices in scope."""

    arrays: Collection[str]
    locals: Mapping[str, Tree]
    indices: Collection[str]
    line: str

    def within(self, *indices: str) -> Known:
        """The same, with further indices in scope."""
        return self._replace(indices=(*self.indices, *indices))

    def refuse(self, what: str, expected: str) -> NoReturn:
        """Raise InputError for what the line has."""
        raise InputError(f"formula {self.line!r}: {what}, expected {expected}")


def parse(text: str, arrays: Collection[str]) -> Tree:
    """The tree of a text of equations: {"result", "index", "of", "locals"}, with those locals that are used.

    arrays: the names of arrays; every other name is an index, a local, or what a step gives.

    >>> parse("y[n, o] = sum(i, x[n, i] * W[i, o])", "xW")["of"]["range"]
    ['x', -1]
    """
    try:
        module = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        raise InputError(f"formula {text.strip()!r}: {error.msg}, expected equations, a line each") from None
    found: dict[str, Tree] = {}
    for statement in module.body:
        line = ast.unparse(statement)
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise InputError(f"formula {line!r}: no equation, expected one such as y[n] = 2 * x[n]")
        name, index = _head(statement.targets[0], line)
        of = _node(statement.value, Known(arrays, found, index, line))
        found[name] = {"name": name, "index": list(index), "of": of}
    if not found:
        raise InputError("formula '': no equation, expected one such as y[n] = 2 * x[n]")
    last = found.pop(name)
    used = _used(last["of"], found)
    return {
        "result": name,
        "index": last["index"],
        "of": last["of"],
        "locals": [local for local in found.values() if local["name"] in used],
    }


def _head(target: ast.expr, line: str) -> tuple[str, tuple[str, ...]]:
    """The name and the indices on the left of an equation."""
    base, entries = _subscript(target)
    if base is None or not all(isinstance(e, ast.Name) for e in entries):
        raise InputError(f"formula {line!r}: its left side is none, expected a name with indices, y[n, c]")
    names = tuple(e.id for e in entries if isinstance(e, ast.Name))
    if len(set(names)) < len(names):
        raise InputError(f"formula {line!r}: an index stands twice on the left, expected each once")
    return base, names


def _subscript(node: ast.expr) -> tuple[str | None, list[ast.expr]]:
    """The name of x[i, j] and its entries; of x alone there are none; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id, []
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        entries = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return node.value.id, entries
    return None, []


def _node(node: ast.expr, known: Known) -> Tree:
    """The tree of an expression."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return {"kind": "number", "value": node.value}
    if isinstance(node, ast.Name | ast.Subscript):
        return _name(node, known)
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        left, right = (_node(part, known) for part in (node.left, node.right))
        return {"kind": "binary", "sign": _SIGNS[type(node.op)], "left": left, "right": right}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return {"kind": "minus", "of": _node(node.operand, known)}
    if isinstance(node, ast.IfExp):
        parts = {"test": node.test, "yes": node.body, "no": node.orelse}
        return {"kind": "choice", **{key: _node(part, known) for key, part in parts.items()}}
    if isinstance(node, ast.Compare) and all(type(sign) in _COMPARISONS for sign in node.ops):
        signs = [_COMPARISONS[type(sign)] for sign in node.ops]
        return {"kind": "compare", "signs": signs, "of": _nodes([node.left, *node.comparators], known)}
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return {"kind": "all", "of": _nodes(node.values, known)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _call(node.func.id, node.args, known)
    known.refuse(f"{ast.unparse(node)} is not of the language", "numbers, entries, sums and functions")


def _nodes(nodes: Collection[ast.expr], known: Known) -> list[Tree]:
    return [_node(node, known) for node in nodes]


def _name(node: ast.expr, known: Known) -> Tree:
    """An index, an entry of an array, a local, or what a step gives."""
    name, entries = _subscript(node)
    if name is None:
        known.refuse(f"{ast.unparse(node)} is no entry", "one such as x[n, c]")
    index = _nodes(entries, known)
    if name in known.indices and not index:
        return {"kind": "index", "name": name}
    if name in known.locals:
        wanted = len(known.locals[name]["index"])
        if len(index) != wanted:
            known.refuse(f"{ast.unparse(node)} has {len(index)} indices", f"{wanted}, as in its equation")
        return {"kind": "local", "name": name, "index": index}
    if index or name in known.arrays:
        return {"kind": "entry", "array": name, "index": index}
    if name in CONSTANTS:
        return {"kind": "constant", "name": name}
    return {"kind": "given", "name": name}


def _call(name: str, arguments: list[ast.expr], known: Known) -> Tree:
    """A function of one number, or a reduction: sum(i, …), sum(i, …, condition), sum(i < G, …)."""
    if name in FUNCTIONS and len(arguments) == 1:
        return {"kind": "call", "function": name, "of": _node(arguments[0], known)}
    if name not in REDUCTIONS or len(arguments) not in (2, 3):
        functions = ", ".join(FUNCTIONS)
        known.refuse(f"{name} is called with {len(arguments)}", f"{functions} of one, or sum(i, …) and such")
    index, bound = _bound(arguments[0], known)
    inner = known.within(index)
    of, where = _node(arguments[1], inner), None
    if len(arguments) == 3:
        where = _node(arguments[2], inner)
    found = bound or next(_ranges(index, [of, where], known.locals), None)
    if found is None:
        known.refuse(f"{index} indexes no array", f"one that does, or a bound: {name}({index} < G, …)")
    return {"kind": "over", "reduction": name, "name": index, "range": found, "of": of, "where": where}


def _bound(node: ast.expr, known: Known) -> tuple[str, Range | None]:
    """The index of a reduction, and its range where that is said: i, or i < G."""
    index, bound = node, None
    if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Name):
        index, bound = node.left, ["given", node.comparators[0].id]
    if not isinstance(index, ast.Name) or index.id in known.indices:
        known.refuse(f"{ast.unparse(node)} is no new index", "a name that is not yet one")
    return index.id, bound


def _ranges(index: str, trees: list[Tree | None], known: Mapping[str, Tree]) -> Iterator[Range]:
    """The axes of arrays, and of locals' arrays, that an index runs along."""
    for node in (n for tree in trees if tree is not None for n in walk(tree)):
        if node["kind"] not in ("entry", "local"):
            continue
        for place, entry in enumerate(node["index"]):
            if entry != {"kind": "index", "name": index}:
                continue
            if node["kind"] == "local":
                local = known[node["name"]]
                yield from _ranges(local["index"][place], [local["of"]], known)
            elif place == 0 and index == LEAD:
                yield [node["array"], "lead", len(node["index"]) - 1]
            else:
                yield [node["array"], place - len(node["index"])]


def walk(node: Tree) -> Iterator[Tree]:
    """A node and all below it, the parts of a node in their order."""
    yield node
    for part in node.values():
        for child in part if isinstance(part, list) else [part]:
            if isinstance(child, dict):
                yield from walk(child)


def _used(node: Tree, known: Mapping[str, Tree]) -> set[str]:
    """The names of the locals that a tree uses, and of those that these use."""
    used: set[str] = set()
    for part in walk(node):
        if part["kind"] == "local" and part["name"] not in used:
            used |= {part["name"]} | _used(known[part["name"]]["of"], known)
    return used
