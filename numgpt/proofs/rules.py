"""Ways to get a backward wrong, a small rule each.

A rule takes a node of the backward's syntax tree and the Place that it stands in, and yields what somebody
might have written instead of the node.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

# A constant, and the one that is written in its place.
CONSTANTS: dict[float, float] = {0: 1, 1: 2, 2: 1, 3: 2, 0.5: 1.0, 0.044715: 0.04}
# Calls whose integers are axes or sizes.
TAKES_AXES = {"sum", "mean", "any", "all", "reshape", "swapaxes", "concatenate"}
Nodes = Iterator[Any]


def expression(text: str, **nodes: ast.AST) -> Any:
    """The expression that text spells, with nodes in the place of names."""
    return _Filled(nodes).visit(ast.parse(text, mode="eval").body)


def statement(text: str, **nodes: ast.AST) -> Any:
    """The statement that text spells, with nodes in the place of names."""
    return _Filled(nodes).visit(ast.parse(text).body[0])


class _Filled(ast.NodeTransformer):
    def __init__(self, nodes: dict[str, ast.AST]) -> None:
        self.nodes = nodes

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """What stands for the name, or the name."""
        return self.nodes.get(node.id, node)


def replaced(tree: Any, old: ast.AST, new: Any) -> Any:
    """A copy of tree in which new stands for the node old; what does not hold old is shared."""
    if tree is old:
        return new
    if isinstance(tree, list):
        parts = [replaced(part, old, new) for part in tree]
        return tree if all(a is b for a, b in zip(parts, tree)) else parts
    if not isinstance(tree, ast.AST):
        return tree
    fields = {name: replaced(value, old, new) for name, value in ast.iter_fields(tree)}
    if all(fields[name] is getattr(tree, name) for name in fields):
        return tree
    return ast.copy_location(type(tree)(**fields), tree)


@dataclass
class Place:
    """What the rules ask about a function.

    parents: of each node. given: the names that it unpacks from saved, or its arguments. gradients: the names
    of its gradients in the order in which they are bound.
    """

    function: ast.FunctionDef
    parents: dict[ast.AST, ast.AST]
    given: list[str]
    gradients: list[str]

    @classmethod
    def of(cls, function: ast.FunctionDef) -> Place:
        """Read a function."""
        nodes = list(ast.walk(function))
        parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        arguments = [a.arg for a in function.args.args]
        given = _given(nodes, arguments)
        bound = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        bound.sort(key=lambda n: (n.lineno, n.col_offset))
        names = dict.fromkeys(arguments + [n.id for n in bound])
        gradients = [name for name in names if name.startswith("d") and name not in given]
        return cls(function, parents, given, gradients)

    def is_size(self, node: ast.AST) -> bool:
        """Whether a number is an axis, a size or an index."""
        above = self.parents[node]
        while isinstance(above, ast.UnaryOp | ast.Tuple):
            above = self.parents[above]
        match above:
            case ast.keyword(arg=name):
                return name == "axis"
            case ast.Call(func=ast.Attribute(attr=name)):
                return name in TAKES_AXES
        return isinstance(above, ast.Subscript | ast.Slice)

    def is_bound_before(self, name: str, node: ast.stmt) -> bool:
        """Whether a name has a value before the statement node."""
        if name in {a.arg for a in self.function.args.args}:
            return True
        names = [n for n in ast.walk(self.function) if isinstance(n, ast.Name) and n.id == name]
        return any(isinstance(n.ctx, ast.Store) and n.lineno < node.lineno for n in names)


def _given(nodes: list[ast.AST], arguments: list[str]) -> list[str]:
    """a, b and c of a, b, c = saved; the arguments of a function that is given no saved at all."""
    for node in nodes:
        match node:
            case ast.Assign([ast.Tuple(names)], ast.Name("saved")):
                return [n.id for n in names if isinstance(n, ast.Name)]
    return [] if {"self", "r", "saved"} & set(arguments) else arguments


def term_dropped(node: ast.AST, place: Place) -> Nodes:
    """a + b → a, b;  a − b → a, −b;  a & b → a, b."""
    match node:
        case ast.BinOp(a, ast.Add() | ast.BitAnd() | ast.BitOr(), b):
            yield from (a, b)
        case ast.BinOp(a, ast.Sub(), b):
            yield from (a, expression("-b", b=b))


def sign_turned(node: ast.AST, place: Place) -> Nodes:
    """a + b ↔ a − b;  −a → a."""
    match node:
        case ast.BinOp(a, ast.Add(), b):
            yield ast.BinOp(a, ast.Sub(), b)
        case ast.BinOp(a, ast.Sub(), b):
            yield ast.BinOp(a, ast.Add(), b)
        case ast.UnaryOp(ast.USub(), a) if not (isinstance(a, ast.Constant) and place.is_size(a)):
            yield a


def factor_lost(node: ast.AST, place: Place) -> Nodes:
    """a b → a, b;  a / b → a, a b."""
    match node:
        case ast.BinOp(a, ast.Mult(), b):
            yield from (a, b)
        case ast.BinOp(a, ast.Div(), b):
            yield from (a, ast.BinOp(a, ast.Mult(), b))


def constant_changed(node: ast.AST, place: Place) -> Nodes:
    """2 → 1, ½ → 1;  zeros → ones."""
    match node:
        case ast.Constant(int() | float() as value) if (
            not isinstance(value, bool) and value in CONSTANTS and not place.is_size(node)
        ):
            yield ast.Constant(CONSTANTS[value])
        case ast.Attribute(x, "zeros_like"):
            yield ast.Attribute(x, "ones_like")


def reduction_changed(node: ast.AST, place: Place) -> Nodes:
    """Σ ↔ mean;  Σ → the first entry;  rows that are not put together before they are summed."""
    match node:
        case ast.Call(ast.Attribute(x, "sum" | "mean" as name), [_, *_] as args, keywords):
            yield ast.Call(ast.Attribute(x, "mean" if name == "sum" else "sum"), args, keywords)
            yield expression("x[..., :1]" if keywords else "x[0]", x=x)
        case ast.Call(ast.Attribute(x, "reshape")):
            yield x


def axis_changed(node: ast.AST, place: Place) -> Nodes:
    """Another axis to sum, to swap, to join along, or to take the size of."""
    match node:
        case ast.Call(ast.Attribute(x, "sum" | "mean" | "any" as name), [axis], keywords):
            for n in {"0": [-1], "-1": [0, -2]}.get(ast.unparse(axis), []):
                yield ast.Call(ast.Attribute(x, name), [ast.Constant(n)], keywords)
        case ast.Call(ast.Attribute(x, "swapaxes"), [a, _]) if ast.unparse(a) != "0":
            axes = [a, ast.Constant(-3 if ast.unparse(a) == "-1" else -1)]
            yield ast.Call(ast.Attribute(x, "swapaxes"), axes, [])
        case ast.keyword("axis"):
            yield ast.keyword("axis", ast.Constant(-2))
        case ast.Subscript(
            ast.Attribute(x, "shape"), ast.UnaryOp(ast.USub(), ast.Constant(int() as n)), context
        ):
            yield ast.Subscript(ast.Attribute(x, "shape"), ast.Constant(n - 3), context)


def transpose_changed(node: ast.AST, place: Place) -> Nodes:
    """aᵀ → a;  a b → aᵀ b, a bᵀ, b a."""
    match node:
        case ast.Call(ast.Attribute(x, "swapaxes")):
            yield x
        case ast.BinOp(a, ast.MatMult(), b):
            yield ast.BinOp(b, ast.MatMult(), a)
            if not ast.unparse(a).endswith(")"):
                yield expression("a.swapaxes(-1, -2) @ b", a=a, b=b)
            if not ast.unparse(b).endswith(")"):
                yield expression("a @ b.swapaxes(-1, -2)", a=a, b=b)


def sum_not_added(node: ast.AST, place: Place) -> Nodes:
    """a += b → a = b, a −= b, and back;  np.add.at(a, i, b) and add_at(a, i, b) → a[i] = b, a[i] += b."""
    match node:
        case ast.AugAssign(ast.Name() as a, ast.Add() | ast.Sub(), b):
            yield statement("a[...] = b", a=a, b=b)
        case ast.AugAssign(a, ast.Add() | ast.Sub(), b):
            yield statement("a = b", a=a, b=b)
        case ast.Assign([ast.Subscript() as a], b):
            yield statement("a += b", a=a, b=b)
        case ast.Expr(ast.Call(ast.Attribute(ast.Attribute(_, "add"), "at") | ast.Name("add_at"), [a, i, b])):
            yield statement("a[i] = b", a=a, i=i, b=b)
            yield statement("a[i] += b", a=a, i=i, b=b)
    match node:
        case ast.AugAssign(a, ast.Add(), b):
            yield statement("a -= b", a=a, b=b)
        case ast.AugAssign(a, ast.Sub(), b):
            yield statement("a += b", a=a, b=b)


def names_exchanged(node: ast.AST, place: Place) -> Nodes:
    """a, b = … → b, a = … ."""
    match node:
        case ast.Assign([ast.Tuple(names) as target], value) if not isinstance(value, ast.Tuple):
            for i, (a, b) in enumerate(pairwise(names)):
                if isinstance(a, ast.Name) and isinstance(b, ast.Name):
                    yield replaced(node, target, ast.Tuple([*names[:i], b, a, *names[i + 2 :]], ast.Store()))


def wrong_variable(node: ast.AST, place: Place) -> Nodes:
    """The name that was unpacked next, or the gradient that was bound before."""
    match node:
        case ast.Name(name, ast.Load()) if name in place.given[:-1]:
            yield ast.Name(place.given[place.given.index(name) + 1], ast.Load())
        case ast.Name(name, ast.Load()) if name in place.gradients[1:]:
            yield ast.Name(place.gradients[place.gradients.index(name) - 1], ast.Load())


def comparison_turned(node: ast.AST, place: Place) -> Nodes:
    """a > b → a ≥ b, a < b;  is ↔ is not;  in ↔ not in;  and ↔ or."""
    turned = {
        ast.Gt: (ast.GtE, ast.Lt),
        ast.GtE: (ast.Gt, ast.Lt),
        ast.Is: (ast.IsNot,),
        ast.IsNot: (ast.Is,),
        ast.In: (ast.NotIn,),
        ast.NotIn: (ast.In,),
    }
    match node:
        case ast.Compare(a, [op], [b]):
            for other in turned.get(type(op), ()):
                yield ast.Compare(a, [other()], [b])
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)


def branch_changed(node: ast.AST, place: Place) -> Nodes:
    """The other branch, or one whatever the condition;  reversed(a) → a;  a slice without one bound."""
    match node:
        case ast.IfExp(test, a, b):
            yield from (ast.IfExp(test, b, a), a, b)
        case ast.Call(ast.Attribute(_, "where") as where, [test, a, b]):
            yield from (ast.Call(where, [test, b, a], []), a, b)
        case ast.If(test):
            for other in (expression("not test", test=test), ast.Constant(True), ast.Constant(False)):
                yield replaced(node, test, other)
        case ast.Call(ast.Name("reversed"), [a]):
            yield a
        case ast.Slice(a, b):
            if a is not None:
                yield ast.Slice(None, b)
            if b is not None:
                yield ast.Slice(a, None)


def statement_dropped(node: ast.AST, place: Place) -> Nodes:
    """A line left out, where all names that follow would still be bound."""
    match node:
        case ast.Assign([ast.Subscript()]) | ast.AugAssign() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Assign([ast.Name(name)], value) if place.is_bound_before(name, node) and not _is_back(value):
            yield ast.Pass()


def results_exchanged(node: ast.AST, place: Place) -> Nodes:
    """return a, b → return b, a."""
    for target, results in _results(node, place):
        for i, j in combinations([i for i, r in enumerate(results) if ast.unparse(r) != "None"], 2):
            exchanged = list(results)
            exchanged[i], exchanged[j] = results[j], results[i]
            yield replaced(node, target, ast.Tuple(exchanged, ast.Load()))


def gradient_zero(node: ast.AST, place: Place) -> Nodes:
    """return dx → return 0 dx: what is never trained."""
    yield from _each_result(node, place, "0 * gradient")


def gradient_too_large(node: ast.AST, place: Place) -> Nodes:
    """return dx → return dx (1 + 1e-9)."""
    yield from _each_result(node, place, "gradient * (1 + 1e-09)")


def _each_result(node: ast.AST, place: Place, text: str) -> Nodes:
    for _, results in _results(node, place):
        for gradient in results:
            if ast.unparse(gradient) != "None" and not isinstance(gradient, ast.Starred):
                yield replaced(node, gradient, expression(text, gradient=gradient))


def _results(node: ast.AST, place: Place) -> Nodes:
    """(the node, its entries) of what a backward returns."""
    if isinstance(node, ast.Return) and node.value and place.function.name.endswith("_backward"):
        yield node.value, node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]


def step_skipped(node: ast.AST, place: Place) -> Nodes:
    """r.back(name, dy) → dy."""
    if isinstance(node, ast.Call) and _is_back(node):
        yield node.args[1]


def steps_exchanged(node: ast.AST, place: Place) -> Nodes:
    """r.back(a, …), r.back(b, …) → r.back(b, …), r.back(a, …)."""
    if node is place.function:
        for (a, _), (b, _) in pairwise(call.args for call in _backs(node)):
            yield replaced(replaced(node, a, copy.copy(b)), b, a)


def _backs(node: ast.AST) -> Nodes:
    """The calls of r.back in the order in which they run."""
    for child in ast.iter_child_nodes(node):
        yield from _backs(child)
    if _is_back(node):
        yield node


def _is_back(node: Any) -> bool:
    match node:
        case ast.Call(ast.Attribute(_, "back"), [_, _]):
            return True
    return False


RULES: dict[str, Callable[[ast.AST, Place], Nodes]] = {
    "a term dropped": term_dropped,
    "a sign turned": sign_turned,
    "a factor or divisor lost": factor_lost,
    "a constant changed": constant_changed,
    "a reduction changed": reduction_changed,
    "an axis changed": axis_changed,
    "a transpose lost or added": transpose_changed,
    "= for +=": sum_not_added,
    "names exchanged": names_exchanged,
    "the wrong variable": wrong_variable,
    "a comparison turned": comparison_turned,
    "a branch or bound changed": branch_changed,
    "a statement dropped": statement_dropped,
    "results exchanged": results_exchanged,
    "a gradient zero": gradient_zero,
    "too large by 1e-9": gradient_too_large,
    "a step skipped": step_skipped,
    "steps exchanged": steps_exchanged,
}
