"""Trees of cell formulas evaluated by NumPy, all cells at once: the law that web/formula.js is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ops.erf import erfc
from .expressions import LEAD, Range, Tree

Array = NDArray[Any]
Environment = dict[
    str, Array
]  # index → its values; all have as many axes, one for the cells, one a reduction
_FUNCTIONS: dict[str, Any] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "erfc": lambda x: erfc(np.asarray(x, np.float64)),
    "sin": np.sin,
    "cos": np.cos,
}
_COMPARISONS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


class Inputs(NamedTuple):
    """What a formula is evaluated on.

    arrays: the formula's letters → arrays; what is not there, as a missing bias, is left out of the formula.
    given: numbers and arrays by name, sizes and options; those with a local's name stand in its place.
    """

    arrays: Mapping[str, Array]
    given: Mapping[str, Any] = {}


def evaluate(formula: Tree, inputs: Inputs, shape: Sequence[int], at: Array | None = None) -> Array:
    """The values of a formula's cells in float64.

    shape: of the result. at: (M, axes) the indices of some cells; all of them unless given.
    → (M,), or an array of the shape
    """
    shape = tuple(shape)
    if at is None:
        every = np.indices(shape).reshape(len(shape), math.prod(shape)).T
        return evaluate(formula, inputs, shape, every).reshape(shape)
    own = len(formula["index"]) - (formula["index"][:1] == [LEAD])
    lead, rest = shape[: len(shape) - own], at.T[len(shape) - own :]
    flat = np.ravel_multi_index(tuple(at.T[: len(lead)]), lead) if lead else np.zeros(len(at), int)
    columns = [flat, *rest] if formula["index"][:1] == [LEAD] else list(rest)
    environment = dict(zip(formula["index"], columns))
    with np.errstate(all="ignore"):
        value = _Run(formula, inputs).value(formula["of"], environment)
    return np.broadcast_to(np.asarray(math.nan if value is None else value, float), len(at))


class _Run:
    """One evaluation; what is absent is None, and a sum or a product is then what is left of it."""

    def __init__(self, formula: Tree, inputs: Inputs) -> None:
        self.inputs = inputs
        self.locals = {local["name"]: local for local in formula["locals"]}

    def value(self, node: Tree, indices: Environment) -> Any:
        """The value of a node, None where it is absent."""
        return getattr(self, f"_{node['kind']}")(node, indices)

    def _number(self, node: Tree, indices: Environment) -> Any:
        return node["value"]

    def _constant(self, node: Tree, indices: Environment) -> Any:
        return getattr(math, node["name"])

    def _index(self, node: Tree, indices: Environment) -> Any:
        return indices[node["name"]]

    def _given(self, node: Tree, indices: Environment) -> Any:
        return self.inputs.given.get(node["name"])

    def _entry(self, node: Tree, indices: Environment) -> Any:
        array = self.inputs.arrays.get(node["array"], self.inputs.given.get(node["array"]))
        if array is None:
            return None
        array, index = np.asarray(array), node["index"]
        if index[:1] == [{"kind": "index", "name": LEAD}]:
            array = array.reshape(-1, *array.shape[array.ndim - len(index) + 1 :])
        places = [np.asarray(self.value(part, indices)) for part in index]
        inside: Any = True
        for place, size in zip(places, array.shape):
            inside = inside & (place >= 0) & (place < size)
        taken = array[tuple(np.where(inside, place, 0) for place in places)]
        outside = -1 if array.dtype.kind in "iu" else math.nan
        return np.where(inside, taken, outside)

    def _local(self, node: Tree, indices: Environment) -> Any:
        name, local = node["name"], self.locals[node["name"]]
        if name in self.inputs.given:
            of = {"kind": "entry", "array": name, "index": node["index"]}
            return self.value(of if node["index"] else {"kind": "given", "name": name}, indices)
        inner = {p: np.asarray(self.value(part, indices)) for p, part in zip(local["index"], node["index"])}
        return self.value(local["of"], inner)

    def _minus(self, node: Tree, indices: Environment) -> Any:
        of = self.value(node["of"], indices)
        return None if of is None else -of

    def _binary(self, node: Tree, indices: Environment) -> Any:
        left, right, sign = (
            self.value(node["left"], indices),
            self.value(node["right"], indices),
            node["sign"],
        )
        if left is None or right is None:
            return _what_is_left(sign, left, right)
        if sign == "+":
            return left + right
        if sign == "-":
            return left - right
        if sign == "*":
            return left * right
        if sign == "/":
            return np.true_divide(left, right)
        if sign == "**":
            return np.power(np.asarray(left, float), right)
        return np.floor_divide(left, right) if sign == "//" else np.mod(left, right)

    def _call(self, node: Tree, indices: Environment) -> Any:
        of = self.value(node["of"], indices)
        return None if of is None else _FUNCTIONS[node["function"]](of)

    def _compare(self, node: Tree, indices: Environment) -> Any:
        parts = [self.value(part, indices) for part in node["of"]]
        found: Any = True
        for sign, left, right in zip(node["signs"], parts, parts[1:]):
            found = found & _COMPARISONS[sign](left, right)
        return found

    def _all(self, node: Tree, indices: Environment) -> Any:
        return np.logical_and.reduce(np.broadcast_arrays(*(self.value(part, indices) for part in node["of"])))

    def _choice(self, node: Tree, indices: Environment) -> Any:
        return np.where(*(self.value(node[part], indices) for part in ("test", "yes", "no")))

    def _over(self, node: Tree, indices: Environment) -> Any:
        """A reduction: one more axis, the last, along which the index runs."""
        depth = max((np.ndim(values) for values in indices.values()), default=0)
        size = self._size(node["range"])
        inner = {name: values[..., None] for name, values in indices.items()}
        inner[node["name"]] = np.arange(size).reshape((1,) * depth + (size,))
        of = self.value(node["of"], inner)
        if of is None:
            return None
        where = np.asarray(True) if node["where"] is None else self.value(node["where"], inner)
        of, where, _ = np.broadcast_arrays(of, where, inner[node["name"]])
        if node["reduction"] == "max":
            return np.where(where, of, -math.inf).max(-1)
        total = np.where(where, of, 0).sum(-1)
        return total / where.sum(-1) if node["reduction"] == "mean" else total

    def _size(self, along: Range) -> int:
        """How far an index runs."""
        if along[0] == "given":
            return int(self.inputs.given[along[1]])
        array: Any = self.inputs.arrays.get(along[0], self.inputs.given.get(along[0]))
        shape = np.shape(array)
        if along[1] == "lead":
            return math.prod(shape[: len(shape) - along[2]])
        return int(shape[along[1]])


def _what_is_left(sign: str, left: Any, right: Any) -> Any:
    """A sum or a product without what is absent; a quotient or a power without its base is absent."""
    if right is None:
        return left
    if sign in "+*":
        return right
    return -right if sign == "-" else None
