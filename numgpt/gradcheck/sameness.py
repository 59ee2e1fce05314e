"""Two implementations of one layer, held against each other: their values and every gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import Count, DType, checked
from ..errors import InputError
from .implementations import implementations
from .implementations import names as names_of
from .judgement import verdict
from .options import expect_clear
from .pair import Array, GradientError, Pair, as_dtype, is_float, plain, title
from .patterns import Sample, pattern
from .precision import computes_in_single
from .preconditions import Run, first_run, require
from .verdicts import Element

ELEMENTARY = 32  # roundings inside one element's own arithmetic
DRAWS, NEAR = 6, 16  # points near by, and how many roundings away they lie
SHOWN = 3  # elements in a message


@dataclass(frozen=True)
class Row:
    """One array in both implementations: the value, or the gradient of an argument.

    Attributes
    ----------
    name : str
        "value", or the argument's name.
    shape : tuple of int
    difference, explained : float
        By how much the element that is furthest beyond, or nearest to, its limit differs, and what rounding
        explains of that.
    differs : int
        How many elements rounding does not explain.
    worst : tuple of Element
        The first few of them: expected is theirs, got is mine.
    pattern : str
        What the difference looks like, "" for nothing known.
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    explained: float
    differs: int = 0
    worst: tuple[Element, ...] = ()
    pattern: str = ""

    def __str__(self) -> str:
        what = "the value" if self.name == "value" else f"the gradient of {self.name}"
        if not self.differs:
            return f"{what} is the same"
        size = int(np.prod(self.shape))
        elements = f"{self.differs:,} of {size:,} element{'s' * (size != 1)}"
        examples = [f"{_place(e.index)} theirs {e.expected:.9g}, mine {e.got:.9g}" for e in self.worst]
        return "; ".join(filter(None, [f"{what} differs in {elements}", *examples, self.pattern]))


@dataclass(frozen=True, repr=False)
class Sameness:
    """What same returns: a Row for the value, and one for each argument's gradient; prints as a table."""

    rows: tuple[Row, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        table = [("", "shape", "difference", "explained")]
        table += [(r.name, str(r.shape), f"{r.difference:.1e}", f"{r.explained:.1e}") for r in self.rows]
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        return "\n".join([f"the same in {self.dtype}, but for rounding", *(f"  {line}" for line in lines)])

    __repr__ = __str__


@expect_clear("mine", "theirs")
@checked
def same(
    mine: Any,
    theirs: Any,
    *arrays: ArrayLike | None,
    dtype: DType | None = None,
    seed: Count = 0,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Sameness:
    """Compare two implementations of one layer: their values and every gradient; raise where they differ.

    Both run at the same arrays, and back from the same random dy. What rounding explains is measured: by how
    much either moves when every number that goes in moves by some roundings. Where a gradient differs, a
    Verdict on each says which of the two is wrong.

    Parameters
    ----------
    mine, theirs : pair, op, torch.nn.Module or callable
        A pair (forward, backward), something with both such as an op of numgpt's, a module or a function of
        PyTorch's, a torch.autograd.Function, or a function of JAX's.
    *arrays : array_like, tensor or None
        What both take. A module's parameters come after its inputs; unless they are given, both get the
        module's own, in its order.
    dtype : dtype, optional
        In which both run: float64 unless given, or float32 where one of the two takes nothing else, or
        computes in float32 inside and therefore differs.
    seed : int, default 0
        Draws dy.
    options : mapping, optional
        Options of both, such as those that have a name of ours: options={"seed": 3}.
    **more
        Other options of both.

    Returns
    -------
    Sameness
        How far they are apart, and what rounding explains.

    Raises
    ------
    GradientError
        They differ: in what, in which elements, and what the difference looks like.
    InputError
        Something is no implementation, or does not take the arrays. Or an option of theirs has the name of
        ours, and options is not given.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import same
    >>> square = (lambda x: (x * x, x), lambda dy, x: (2 * x * dy,))
    >>> power = (lambda x: (x**2, x), lambda dy, x: (-2 * x * dy,))
    >>> same(square, square, np.arange(1.0, 4.0)).rows[1].differs
    0
    >>> try:
    ...     same(power, square, np.arange(1.0, 4.0))
    ... except Exception as error:
    ...     print("flipped" in str(error))
    True
    """
    pairs, points = implementations(mine, theirs, plain(arrays))
    options = {**(options or {}), **more}
    names = [title(i, n) for i, n in enumerate(names_of(pairs, len(points)))]
    precision = _precision(pairs, points, options, dtype)
    rows = _rows(pairs, names, points, options, precision, seed)
    different = [row for row in rows if row.differs]
    may_narrow = bool(different) and dtype is None and precision == np.float64
    if may_narrow and any(computes_in_single("same", p.forward, points, options, seed) for p in pairs):
        precision = np.dtype(np.float32)
        rows = _rows(pairs, names, points, options, precision, seed)
        different = [row for row in rows if row.differs]
    if different:
        points = as_dtype(points, precision)
        blame = _blame(pairs, names, points, options, seed, different)
        raise GradientError(". ".join(filter(None, ["; ".join(map(str, different)), blame])))
    return Sameness(tuple(rows), precision)


def _rows(
    pairs: Sequence[Pair],
    names: Sequence[str],
    points: Sequence[Any],
    options: dict[str, Any],
    precision: np.dtype[Any],
    seed: int,
) -> list[Row]:
    """The Row of the value, and of every gradient where the values agree."""
    twins = _Twins(pairs, as_dtype(points, precision), options, precision, seed)
    values = [np.asarray(run.y) for run in twins.runs]
    rows = [twins.row("value", values[0], values[1])]
    if not rows[0].differs:
        for i, name in enumerate(names):
            one, other = (r.grads[i] for r in twins.runs)
            if one is not None:
                rows.append(twins.row(name, one, other, str(i)))
    return rows


class _Twins:
    """Both implementations, run once and then at points near by."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        points: list[Any],
        options: dict[str, Any],
        dtype: np.dtype[Any],
        seed: int,
    ) -> None:
        self.dtype, self.rng = dtype, np.random.default_rng([seed, 6])
        self.dy: Any = None
        self.runs: list[Run] = []
        for who, pair in zip(("mine", "theirs"), pairs):
            try:
                run = first_run(*pair, points, options, partial(self._upstream, who))
                require(*pair, points, options, run)
            except GradientError as error:
                raise GradientError(f"{who}: {error}") from None
            self.runs.append(run)
        self.moves = self._moves(pairs, points, options)
        self.count = sum(np.size(a) for a in points if is_float(a))

    def _upstream(self, who: str, y: Any) -> Any:
        """One dy for both, where their values have one shape."""
        value = np.asarray(y)
        if value.dtype.kind != "f":
            raise InputError(f"same: {who} has a value of dtype {value.dtype}, expected floats")
        if self.dy is None:
            self.dy = self.rng.standard_normal(value.shape).astype(value.dtype)
        elif value.shape != self.dy.shape:
            raise GradientError(f"the value has shape {value.shape}, mine has {self.dy.shape}")
        return self.dy.astype(value.dtype)[()]

    def _moves(
        self, pairs: Sequence[Pair], points: list[Any], options: dict[str, Any]
    ) -> dict[str, list[Array]]:
        """By how much value and gradients move, in eps, when all that goes in moves by some roundings."""
        eps = float(np.finfo(self.dtype).eps)
        sums = [[np.zeros(np.shape(a)) for a in _results(run)] for run in self.runs]
        for _ in range(DRAWS):

            def moved(a: Any) -> Any:
                noise = 1 + NEAR * eps * self.rng.uniform(-1, 1, np.shape(a))
                return (a * noise).astype(a.dtype) if is_float(a) else a

            near, dy = [moved(a) for a in points], moved(np.asarray(self.dy))
            for total, pair, run in zip(sums, pairs, self.runs):
                there = first_run(*pair, near, options, partial(_like, dy))
                for square, a, b in zip(total, _results(run), _results(there)):
                    with np.errstate(all="ignore"):
                        square += np.nan_to_num((np.asarray(a, np.float64) - b) ** 2, posinf=0.0)
        # 3: the mean square of a number that is uniform between −1 and 1 is a third
        moves = [[np.sqrt(3 * s / DRAWS) / (NEAR * eps) for s in total] for total in sums]
        keys = ["value", *(str(i) for i, g in enumerate(self.runs[0].grads) if g is not None)]
        return {key: [one, other] for key, one, other in zip(keys, *moves)}

    def row(self, name: str, mine: Array, theirs: Array, key: str = "value") -> Row:
        """The Row of one array."""
        moves = self.moves[key]
        eps = max(float(np.finfo(a.dtype).eps) for a in (mine, theirs))
        one, other = mine.astype(np.float64), theirs.astype(np.float64)
        with np.errstate(all="ignore"):
            size = abs(np.where(np.isfinite(other), other, 0.0))
            scale = size + float(np.sqrt((size**2).mean())) if size.size else size
            # and no more than the root of eps: what is beyond has no digits in common
            inner = np.minimum(moves[0] + moves[1], scale / np.sqrt(eps))
            limit = 4 * np.sqrt(ELEMENTARY + self.count) * eps * (scale + inner)
            is_same = (one == other) | (np.isnan(one) & np.isnan(other))
            apart = np.where(is_same, 0.0, abs(one - other))
            wrong = ~(apart <= limit) & ~is_same
            excess = np.where(np.isnan(apart), np.inf, apart) / np.maximum(limit, np.finfo(float).tiny)
        if not excess.size:
            return Row(name, mine.shape, 0.0, 0.0)
        order = np.argsort(-excess.reshape(-1), kind="stable")
        first = int(order[0])
        flat = [a.reshape(-1) for a in (one, other, apart, limit, wrong)]
        worst = tuple(
            _element(int(k), mine.shape, flat[1], flat[0], eps) for k in order[:SHOWN] if flat[4][k]
        )
        looks_like = ""
        if wrong.any():
            picked = np.arange(wrong.size)
            sample = Sample(picked, flat[1], flat[0], flat[3], flat[4], mine.shape)
            looks_like = pattern(sample, np.shape(self.dy))
        differs = int(wrong.sum())
        return Row(name, mine.shape, float(flat[2][first]), float(flat[3][first]), differs, worst, looks_like)


def _like(dy: Array, y: Any) -> Any:
    """dy in the dtype of a value."""
    return dy.astype(np.asarray(y).dtype)[()]


def _results(run: Run) -> list[Any]:
    """The value and the gradients of a run."""
    return [np.asarray(run.y), *(g for g in run.grads if g is not None)]


def _element(flat: int, shape: tuple[int, ...], expected: Array, got: Array, eps: float) -> Element:
    index = tuple(map(int, np.unravel_index(flat, shape)))
    unit = eps * max(abs(float(expected[flat])), float(np.finfo(float).tiny))
    ulps = abs(float(got[flat]) - float(expected[flat])) / unit
    return Element(index, float(expected[flat]), float(got[flat]), ulps)


def _place(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else "its value:"


def _blame(
    pairs: Sequence[Pair],
    names: list[str],
    points: list[Any],
    options: dict[str, Any],
    seed: int,
    different: Sequence[Row],
) -> str:
    """Which of the two is wrong by its own forward, "" where the values differ already."""
    if different[0].name == "value":
        return "The gradients were not compared: they are of two functions"
    words = []
    for who, pair in zip(("mine", "theirs"), pairs):
        try:
            judged = verdict(*pair, *points, seed=seed, options=options)
        except (InputError, GradientError):
            continue
        wrong = [names[a.index] for a in judged.wrong]
        words.append(f"{who} is {'wrong in ' + ' and '.join(wrong) if wrong else 'right'}")
    return f"By its own forward, {', '.join(words)}" if words else ""


def _precision(
    pairs: Sequence[Pair], points: list[Any], options: dict[str, Any], dtype: DType | None
) -> np.dtype[Any]:
    """The dtype that both take: the one that is asked for, else float64, else float32."""
    if not any(map(is_float, points)):
        raise InputError("same: no array of floats, expected at least one to differentiate by")
    if dtype is not None:
        return np.dtype(dtype)
    failure: Exception | None = None
    for precision in map(np.dtype, (np.float64, np.float32)):
        try:
            values = [np.asarray(pair.forward(*as_dtype(points, precision), **options)[0]) for pair in pairs]
        except Exception as error:  # whatever their code raises
            failure = error
            continue
        if all(value.dtype == precision for value in values):
            return precision
        failure = None
    if failure is None:
        return np.dtype(np.float32)
    shapes = ", ".join(str(np.shape(a)) for a in points)
    raise InputError(
        f"same: one of the two raised {type(failure).__name__}: {failure} for arrays of shapes {shapes},"
        " expected both to take them"
    )
