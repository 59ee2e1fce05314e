"""Probes: how well a linear map reads something off a value, beside one that learned shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.patterns import Patterns, expect_some
from ..argument_kinds import as_array
from ..arguments import AtLeastZero, BelowOne, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..random import generator
from .prompts import token_rows
from .runs import AT_ONCE, run

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear map x W + b of a value, and what it is worth on rows that it has not seen.

    name: of the value. kind: "numbers", scored by R², or "classes", by accuracy. classes: the labels, in the
    order of W's columns. weight (C, n), bias (n). score: held out; train: on what it was fitted to.
    control: held out, with all labels shuffled. chance: of always saying the mean, or the commonest class.
    """

    name: str
    kind: str
    classes: tuple[Any, ...]
    weight: Array
    bias: Array
    score: float
    train: float
    control: float
    chance: float


@checked
def ridge_probe(
    model: GPT,
    prompts: Any,
    labels: Any,
    names: str | Sequence[str],
    *,
    at: int | None = -1,
    l2: AtLeastZero = 0.01,
    held_out: BelowOne = 0.25,
    seed: int = 0,
) -> dict[str, Probe]:
    """Ridge regression from a value to labels, on rows held out, with a control that learned shuffled labels.

        W = argmin Σ ‖y − x W − b‖² + λ ‖W‖²        λ = l2 · Σ x²/C, x centred: of the features' own size

    Classes are regressed on as rows of 0 and 1, and the largest is what the probe says.

    Parameters
    ----------
    model : GPT
    prompts : a sequence of texts or ids, all of as many tokens
    labels : (N,), one for each prompt; (N, T) with at None, one for each token
        Floats are numbers; integers and texts are classes.
    names : str or sequence of str
        Of values, or patterns: "h.*.out". Each is a probe of its own.
    at : int or None
        The position that is read; None for all.
    l2 : float
    held_out : float
        The share of prompts that is held out, at least one.
    seed : int
        Draws which, and shuffles the labels of the control.

    Returns
    -------
    dict of name -> Probe

    Notes
    -----
    Source: Alain and Bengio 2016; the control after Hewitt and Liang 2019. What it does not show: that the
    model uses what can be read. A probe finds what is there, and much is there that nothing reads: edit the
    value along W, and see whether the output follows. A probe near its control shows nothing at all.

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> from numgpt.interpretability import ridge_probe
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=9, block_size=4, n_layer=1, n_head=1, n_embd=16))
    >>> ids = np.random.default_rng(0).integers(0, 9, (64, 4))
    >>> probe = ridge_probe(model, ids, ids[:, -1] % 2, "wte", l2=1e-6)["wte"]
    >>> probe.kind, probe.score, probe.control < 0.9
    ('classes', 1.0, True)
    """
    who = "ridge_probe"
    patterns = [names] if isinstance(names, str) else list(names)
    expect_some(who, patterns)
    ids = token_rows(who, model, prompts)
    T = ids.shape[1]
    if at is not None and not -T <= at < T:
        raise InputError(f"{who}: at is {at}, expected {-T} to {T - 1}, or None for all positions")
    if len(ids) < 3:
        raise InputError(f"{who}: there are {len(ids)} prompts, expected three or more, some to hold out")
    y, classes = _targets(who, labels, len(ids) if at is not None else ids.shape)
    order = generator(seed, "probe", len(ids)).permutation(len(ids))
    n = min(len(ids) - 2, max(1, round(held_out * len(ids))))
    values = features(model, ids, patterns, at)
    return {name: _probe(name, x, y, classes, (order[n:], order[:n]), l2, seed) for name, x in values.items()}


def features(model: GPT, ids: Array, patterns: Sequence[str], at: int | None) -> dict[str, Array]:
    """The values of names at a position (N, C), or at all (N, T, C), in float64, for many rows."""
    found: dict[str, list[Array]] = {}
    most = max(1, AT_ONCE // ids.shape[1])
    for begin in range(0, len(ids), most):
        values = run(model, ids[begin : begin + most], -1, patterns).value
        for name, value in values.items():
            if name in Patterns(patterns):
                array = engine.home(value).real.astype(np.float64)
                if array.ndim != 3:
                    raise InputError(
                        f"probe: {name} has shape {array.shape}, expected a value (N, T, C), a vector a token"
                    )
                found.setdefault(name, []).append(array if at is None else array[:, at])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _targets(who: str, labels: Any, shape: Any) -> tuple[Array, tuple[Any, ...]]:
    """Labels as numbers (..., 1), or as rows of 0 and 1 and the classes that they stand for."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    array = as_array(f"{who}: labels", labels, "one for each prompt")
    if array.dtype.kind not in "biufU" or array.shape != shape:
        raise InputError(
            f"{who}: labels are {array.dtype} of shape {array.shape}, expected numbers or classes {shape}"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise InputError(f"{who}: labels hold NaN or infinity, expected finite numbers")
        return array.astype(np.float64)[..., None], ()
    classes, places = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{who}: all labels are {classes.tolist()[0]!r}, expected two classes or more")
    return np.eye(len(classes))[places.reshape(shape)], tuple(classes.tolist())


def _probe(
    name: str, x: Array, y: Array, classes: tuple[Any, ...], split: tuple[Array, Array], l2: float, seed: int
) -> Probe:
    """A probe fitted to one part of the rows and asked about the other."""
    parts = [(_rows(x[rows]), _rows(y[rows])) for rows in split]
    (seen, goals), (new, answers) = parts
    weight, bias = ridge(seen, goals, l2)
    shuffled = _rows(y)[generator(seed, "shuffled labels", y.size).permutation(y.size // y.shape[-1])]
    shuffled = shuffled.reshape(y.shape)
    other = ridge(seen, _rows(shuffled[split[0]]), l2)
    control = _score(new @ other[0] + other[1], _rows(shuffled[split[1]]), goals, classes)
    score = _score(new @ weight + bias, answers, goals, classes)
    train = _score(seen @ weight + bias, goals, goals, classes)
    chance = _score(np.broadcast_to(goals.mean(0), answers.shape), answers, goals, classes)
    kind = "classes" if classes else "numbers"
    return Probe(name, kind, classes, weight, bias, score, train, control, chance)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def ridge(x: Array, y: Array, l2: float) -> tuple[Array, Array]:
    """W (C, n) and b (n) of ridge regression from x (N, C) to y (N, n).

    x̂ = U s Vᵀ, centred:  W = V s/(s² + λ) Uᵀ ŷ,  b = ⟨y⟩ − ⟨x⟩ W        λ = l2 Σ s²/C
    """
    centre, mean = x.mean(0), y.mean(0)
    U, s, Vt = np.linalg.svd(x - centre, full_matrices=False)
    size = s * s + l2 * float(s @ s) / x.shape[1]
    smallest = np.finfo(float).eps * float(s.max(initial=0)) * max(x.shape)
    factor = np.where(s > smallest, s / np.where(size > 0, size, 1), 0)
    weight = Vt.T @ (factor[:, None] * (U.T @ (y - mean)))
    return weight, mean - centre @ weight


def _score(said: Array, right: Array, seen: Array, classes: tuple[Any, ...]) -> float:
    """Accuracy of classes; of numbers R², beside the mean of what was seen."""
    if classes:
        return float((said.argmax(-1) == right.argmax(-1)).mean())
    residual = float(((right - said) ** 2).sum())
    spread = float(((right - seen.mean(0)) ** 2).sum())
    return 1 - residual / spread if spread > 0 else float("nan")
