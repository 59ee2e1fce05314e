"""The laws that a pair is held to, and how far it is from each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import witness
from .judgement import verdict
from .pair import (
    Array,
    Backward,
    Forward,
    GradientError,
    argument_names,
    as_dtype,
    gradients,
    is_float,
    title,
)
from .witness import along, differences

TINY = float(np.finfo("float64").tiny)  # below it a product loses bits, and twice it is not twice any more
TRANSPOSE = "transpose of the derivative"
WITNESS = "central differences"
LIMITS = {
    TRANSPOSE: 1e-13,
    # Central differences in longdouble err by h² from the third derivative and by eps/h from rounding: with h
    # = eps^(1/3) both are eps^(2/3), some 2e-13 on x86 and 4e-11 where longdouble is float64. 1e-8 leaves
    # room for large third derivatives, for steps of h/64, and for erf, whose rational form is a float64 one.
    WITNESS: 1e-8,
    "linear in dy": 1e-12,  # three runs of the backward, each with rounding of its own
    "doubles with dy": 0.0,
    "pure": 0.0,
    "repeatable": 0.0,
    "keeps the dtype": 0.0,
}


class Finding:
    """One law: how far the pair is from it, and how far it may be.

    Parameters
    ----------
    law : str
        A key of LIMITS.
    residual, limit : float
        How far the pair is from the law, and how far it may be.
    detail : str or callable
        The message, or a function that makes it: what is at fault takes time to find out.
    """

    def __init__(self, law: str, residual: float, limit: float, detail: str | Callable[[], str] = "") -> None:
        self.law, self.residual, self.limit = law, residual, limit
        self._detail = detail

    @property
    def detail(self) -> str:
        """Where the pair is wrong, or what was left out; "" for nothing."""
        if not isinstance(self._detail, str):
            self._detail = self._detail()
        return self._detail

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the message instead of the function that makes it."""
        return vars(self) | {"_detail": self.detail}

    @property
    def holds(self) -> bool:
        """Whether the residual is within the limit (NaN is not)."""
        return self.residual <= self.limit

    def __repr__(self) -> str:
        verdict = "holds" if self.holds else "is broken"
        return f"{self.law}: {verdict}, residual {self.residual:.1e}, at most {self.limit:.0e}"


def check(
    forward: Forward, backward: Backward, *arrays: ArrayLike | None, seed: int = 0, **options: Any
) -> list[Finding]:
    """Hold a pair to the laws at the given arrays; raise GradientError at the first that it breaks.

    Where the forward does not take complex numbers, the law of central differences stands alone for the
    derivative, element by element, with the limit of a Verdict.

    Parameters
    ----------
    forward : callable
        forward(*arrays, **options) → (y, saved).
    backward : callable
        backward(dy, saved) → one gradient per array, None where there is none.
    *arrays : array_like or None
        Floats are taken as float64 (float32 where the forward takes nothing else); integers and None are
        passed on and have no gradient.
    seed : int, default 0
        Draws dy and the directions.
    **options
        Passed on to the forward.

    Returns
    -------
    list of Finding
        One a law; residuals are relative to the absolute sum of the terms compared.

    Raises
    ------
    GradientError
        The pair breaks a law: which, by how much, and in which elements of which gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import check
    >>> def forward(x):
    ...     return np.exp(x), np.exp(x)
    >>> check(forward, lambda dy, y: (dy * y,), np.arange(3.0))[0].holds
    True
    """
    results = []
    for finding in findings(forward, backward, *arrays, seed=seed, **options):
        results.append(finding)
        if not finding.holds:
            raise GradientError(
                f"{finding.law}: residual {finding.residual:.1e}, expected at most {finding.limit:.0e}."
                f" {finding.detail}".strip()
            )
    return results


def findings(
    forward: Forward, backward: Backward, *arrays: ArrayLike | None, seed: int = 0, **options: Any
) -> Iterator[Finding]:
    """Yield a Finding for every law that applies, whether it holds or not.

    Parameters
    ----------
    forward, backward, *arrays, seed, **options
        As in check.

    Yields
    ------
    Finding
        Its detail tells what is wrong, or what was left out.

    Raises
    ------
    ValueError
        No array holds floats.
    GradientError
        The number or the shapes of the gradients do not fit the arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import findings
    >>> def forward(x):
    ...     return np.exp(x), np.exp(x)
    >>> [f.law for f in findings(forward, lambda dy, y: (dy * dy * y,), np.arange(3.0)) if not f.holds][-2:]
    ['linear in dy', 'doubles with dy']
    """
    trial = Trial(forward, backward, arrays, options, seed)
    yield from _derivative(trial)
    yield from _linear(trial)
    yield _pure(trial)
    yield _repeatable(trial)
    yield _dtypes(trial)


class Trial:
    """A pair run once: what the laws compare with."""

    def __init__(
        self,
        forward: Forward,
        backward: Backward,
        arrays: Sequence[Any],
        options: dict[str, Any],
        seed: int,
    ) -> None:
        self.forward, self.backward, self.options, self.seed = forward, backward, options, seed
        rng = np.random.default_rng(seed)
        self.dtype = _precision(forward, arrays, options)
        self.arrays: list[Any] = as_dtype(arrays, self.dtype)
        self.directions = [rng.standard_normal(a.shape) if is_float(a) else None for a in self.arrays]
        if not any(v is not None for v in self.directions):
            raise ValueError("gradcheck: no array of floats, expected at least one to differentiate by")
        self.arrays_before = [None if a is None else a.copy() for a in self.arrays]
        self.y, saved = forward(*self.arrays, **options)
        self.dy = self._upstream(rng)
        self.dy_before = np.copy(self.dy)
        self.grads = self.gradients(self.dy, saved)
        self.other_dy = self._upstream(rng)
        self.saved = saved

    def _upstream(self, rng: np.random.Generator) -> Any:
        """A random dy in the pair's dtype."""
        dy: Any = rng.standard_normal(np.shape(self.y))
        return dy if self.dtype == np.float64 else np.asarray(dy, self.dtype)[()]

    def gradients(self, dy: Any, saved: Any) -> list[Any]:
        """The backward's gradients, None for arrays that have none."""
        return gradients(self.backward(dy, saved), self.arrays)

    def names(self) -> list[str]:
        """What reports call the arguments."""
        return [title(i, n) for i, n in enumerate(argument_names(self.forward, len(self.arrays)))]

    def moving(self) -> list[tuple[int, Array, Array]]:
        """(index, direction, gradient) of each array that is differentiated by."""
        return [(i, v, self.grads[i]) for i, v in enumerate(self.directions) if v is not None]

    def only(self, i: int) -> list[Array | None]:
        """The directions in which array i alone moves."""
        return [v if j == i else None for j, v in enumerate(self.directions)]


def _derivative(trial: Trial) -> Iterator[Finding]:
    """The backward against the complex step and central differences; or against differences alone."""
    transpose = _transpose(trial) if trial.dtype == np.float64 else None
    if transpose is None:
        yield _element_by_element(trial)
        return
    witnessed = _witness(trial)
    if not transpose.holds and not _same(transpose, witnessed) and not _is_complex(trial):
        # differences disagree with it: it is the complex step that the forward does not let through
        yield _element_by_element(trial)
        return

    def blame() -> str:
        return ". ".join(filter(None, [_blame(trial, witnessed), elements()]))

    def elements() -> str:
        return _elements(trial)

    for finding, detail in ((transpose, blame), (witnessed, elements)):
        yield finding if finding.holds else Finding(finding.law, finding.residual, finding.limit, detail)


def _same(transpose: Finding, witnessed: Finding) -> bool:
    """Whether differences find the backward about as far off as the complex step does.

    The two move the arrays by different amounts.
    """
    return transpose.residual <= 100 * witnessed.residual + LIMITS[WITNESS]


def _is_complex(trial: Trial) -> bool:
    """Whether the complex step can be believed of the forward."""
    return witness.choose(trial.forward, trial.arrays, trial.dtype, trial.options, trial.seed).complex


def _precision(forward: Forward, arrays: Sequence[Any], options: dict[str, Any]) -> np.dtype[Any]:
    """float64; float32 where the arrays are that and the forward raises on float64: code for one type."""
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    is_single = bool(floats) and np.result_type(*floats) == np.float32
    if is_single and not _takes(forward, arrays, np.float64, options):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def _element_by_element(trial: Trial) -> Finding:
    """The gradients against central differences alone, with the limits of a Verdict."""
    judged = verdict(trial.forward, trial.backward, *trial.arrays, seed=trial.seed, **trial.options)
    worst = max(judged.arguments, key=lambda a: (a.word == "wrong", a.ulps))
    eps = float(np.finfo(judged.dtype).eps)
    limit = worst.limit
    if not judged.wrong:
        limit = max(limit, worst.ulps)  # beyond it and not wrong: a formula that loses digits
    detail = f"{judged.summary()}. Witness: {judged.witness}; {judged.witness.why}"
    return Finding(WITNESS, worst.ulps * eps, limit * eps, detail)


def _elements(trial: Trial) -> str:
    """A Verdict's words on the arguments that are wrong, or that it finds none."""
    judged = verdict(trial.forward, trial.backward, *trial.arrays, seed=trial.seed, **trial.options)
    if judged.wrong:
        return judged.summary()
    return f"Element by element {judged.summary()}: at these points rounding explains that much"


def _transpose(trial: Trial) -> Finding | None:
    """⟨dy, Jv⟩ = ⟨Jᵀdy, v⟩, relative to the absolute sum of the terms on both sides.

    None if the forward raises on complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            forth = trial.dy * along(trial.forward, trial.arrays, trial.directions, trial.options)
    except Exception:  # whatever the user's code raises means that it does not take them
        return None
    return _finding(TRANSPOSE, _apart(forth, [grad * v for _, v, grad in trial.moving()]))


def _blame(trial: Trial, witnessed: Finding) -> str:
    """Which argument's gradient is wrong, or whether the forward is not fit for the complex step."""
    names, lines = trial.names(), []
    for i, v, grad in trial.moving():
        slope = along(trial.forward, trial.arrays, trial.only(i), trial.options)
        forth, back = float((trial.dy * slope).sum()), float((grad * v).sum())
        if not abs(forth - back) <= 1e-12 * (abs(forth) + abs(back)):
            lines.append(f"{names[i]}: ⟨dy, Jv⟩ = {forth:.12g} but ⟨gradient, v⟩ = {back:.12g}")
    if witnessed.holds:
        lines.append(
            "central differences agree with the backward to 1e-8: the error is smaller, or the forward loses"
            " a small part of complex numbers on the way (np.abs, np.var, a comparison)"
        )
    return "; ".join(lines)


def _witness(trial: Trial) -> Finding:
    """The same derivative by central differences in longdouble, which know nothing of complex numbers.

    Three steps, of which the best counts: where the function bends sharply (a kink, two equal channels) the
    largest is too large; a gradient that is wrong disagrees with all three.
    """
    if not _takes(trial.forward, trial.arrays, np.longdouble, trial.options):
        return _witness_in_float64(trial)
    wide: list[Any] = as_dtype(trial.arrays, np.longdouble)
    eps = float(np.finfo(np.longdouble).eps)
    # each array moves in proportion to its own size
    largest = [abs(a).max(initial=0.0) if is_float(a) else 0.0 for a in trial.arrays]
    sizes = [float(size) or 1.0 for size in largest]
    back = [grad * v * sizes[i] for i, v, grad in trial.moving()]

    def value(h: float) -> Array:
        steps = zip(wide, trial.directions, sizes)
        moved = [a if v is None else a + h * size * v for a, v, size in steps]
        return np.asarray(trial.forward(*moved, **trial.options)[0])

    def residual(h: float) -> float:
        return _apart(trial.dy * ((value(h) - value(-h)) / (2 * h)), back)

    with np.errstate(all="ignore"):
        residuals = [residual(eps ** (1 / 3) / shrink) for shrink in (1, 8, 64)]
        return _finding(WITNESS, np.nanmin([*residuals, np.inf]))


def _witness_in_float64(trial: Trial) -> Finding:
    """The same for a forward that has no longdouble: differences that know their error, which is granted."""
    difference = terms = granted = 0.0
    for i, v, grad in trial.moving():
        slope, error = differences(trial.forward, trial.arrays, trial.only(i), trial.options)
        difference += (trial.dy * slope).sum() - (grad * v).sum()
        terms += abs(trial.dy * slope).sum() + abs(grad * v).sum()
        granted += (abs(trial.dy) * error).sum()
    limit = LIMITS[WITNESS] + (float(granted / terms) if terms else 0.0)
    detail = f"in float64, because the forward takes no {np.dtype(np.longdouble)}"
    return Finding(WITNESS, _relative(difference, terms), limit, detail)


def _linear(trial: Trial) -> Iterator[Finding]:
    """backward(a + b) = backward(a) + backward(b), and backward(2 a) is twice backward(a) to the bit."""
    at = [trial.gradients(dy, trial.saved) for dy in (trial.dy, trial.other_dy, trial.dy + trial.other_dy)]
    difference = terms = 0.0
    for one, other, both in zip(*at):
        if one is not None:
            difference += abs(both - one - other).sum()
            terms += (abs(one) + abs(other)).sum()
    scale = float(np.finfo(trial.dtype).eps / np.finfo(np.float64).eps)
    law = "linear in dy"
    yield Finding(law, _relative(difference, terms), LIMITS[law] * scale)
    twice = trial.gradients(2 * trial.dy, trial.saved)
    differ = [(abs(2 * g - h) > TINY).any() for g, h in zip(trial.grads, twice) if g is not None]
    yield _finding("doubles with dy", sum(differ))


def _pure(trial: Trial) -> Finding:
    """Neither half writes to what it is given."""
    before, now = [*trial.arrays_before, trial.dy_before], [*trial.arrays, np.asarray(trial.dy)]
    return _finding("pure", _differ(before, now), "forward or backward wrote to its arguments.")


def _repeatable(trial: Trial) -> Finding:
    """The same bits again: from the backward with the same saved, and from both halves run anew."""
    y, saved = trial.forward(*trial.arrays, **trial.options)
    again = [*trial.gradients(trial.dy, trial.saved), *trial.gradients(trial.dy, saved), np.asarray(y)]
    return _finding("repeatable", _differ([*trial.grads, *trial.grads, np.asarray(trial.y)], again))


def _dtypes(trial: Trial) -> Finding:
    """float32 in, float32 out; the same for float64 and longdouble, if the forward takes them."""
    wrong, left_out = [], []
    for dtype in map(np.dtype, (np.float32, np.float64, np.longdouble)):
        try:
            y, saved = trial.forward(*as_dtype(trial.arrays, dtype), **trial.options)
        except Exception:  # as in _takes
            left_out.append(str(dtype))
            continue
        results = {"the value": np.asarray(y)}
        for i, grad in enumerate(trial.gradients(np.asarray(trial.dy, dtype)[()], saved)):
            results[f"gradient {i}"] = grad
        wrong += [
            f"{name} is {array.dtype} for {dtype}"
            for name, array in results.items()
            if array is not None and array.dtype != dtype
        ]
    details = [*wrong]
    if left_out:
        details.append(f"left out, because the forward raises on it: {', '.join(left_out)}")
    return _finding("keeps the dtype", len(wrong), "; ".join(details))


def _takes(forward: Forward, arrays: Sequence[Any], dtype: DTypeLike, options: dict[str, Any]) -> bool:
    """Whether the forward takes arrays of a dtype; TypeError and its like say that it does not."""
    try:
        forward(*as_dtype(arrays, dtype), **options)
    except Exception:  # each library has its own: TypeError, NotImplementedError, numba's TypingError
        return False
    return True


def _finding(law: str, residual: float, detail: str = "") -> Finding:
    return Finding(law, float(residual), LIMITS[law], detail)


def _apart(forth: Array, back: Sequence[Array]) -> float:
    """|⟨dy, Jv⟩ − ⟨gradient, v⟩| from the terms of each, relative to their absolute sum."""
    difference = forth.sum() - sum(t.sum() for t in back)
    return _relative(difference, abs(forth).sum() + sum(abs(t).sum() for t in back))


def _relative(difference: Any, terms: Any) -> float:
    """|difference| over the terms' absolute sum; 0 where both are 0, NaN where either is."""
    if difference == 0:
        return 0.0
    return float(abs(difference) / terms) if terms else float("inf")


def _differ(expected: Iterable[Any], got: Iterable[Any]) -> int:
    """How many of the arrays differ in any bit."""
    pairs = zip(expected, got, strict=True)
    return sum(a.tobytes() != b.tobytes() for a, b in pairs if a is not None)
