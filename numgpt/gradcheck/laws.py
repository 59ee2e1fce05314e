"""The laws that a pair is held to, and how far it is from each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import Count, checked
from ..errors import InputError, near
from . import kinks
from .derivative import derivative
from .finding import LIMITS, MISSING, TRANSPOSE, WITNESS, Finding, finding, relative
from .missing import nothing_missing
from .options import expect_clear
from .pair import Backward, Forward, GradientError, as_dtype, quiet
from .precision import SINGLE, computes_in_single
from .preconditions import PURE, REPEATABLE, what_differs, what_wrote
from .trial import Trial

TINY = float(np.finfo("float64").tiny)  # below it a product loses bits, and twice it is not twice any more
LINEAR, DOUBLES, DTYPE = "linear in dy", "doubles with dy", "keeps the dtype"


@expect_clear("forward")
@np.errstate(under="ignore")  # what underflows is 0, whatever the caller's NumPy raises
@checked
def check(
    forward: Forward,
    backward: Backward,
    *arrays: ArrayLike | None,
    laws: str | Iterable[str] | None = None,
    seed: Count = 0,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> list[Finding]:
    """Hold a pair to the laws at the given arrays; raise GradientError at the first that it breaks.

    Where the forward does not take complex numbers, the law of central differences stands alone for the
    derivative, element by element, with the limit of a Verdict. Where the forward computes in float32 inside,
    whatever its arrays have, the laws are asked in float32. A pair that writes to its arguments, or gives
    something else at each call, is told of nothing else.

    Parameters
    ----------
    forward : callable
        forward(*arrays, **options) → (y, saved).
    backward : callable
        backward(dy, saved) → one gradient per array, None where there is none.
    *arrays : array_like or None
        Floats are taken as float64 (float32 where the forward takes nothing else); integers and None are
        passed on and have no gradient. Nor have floats whose places are in an attribute of the forward:
        forward.constants = {1}. Tensors of PyTorch give their numbers.
    laws : iterable of str, optional
        Which of gradcheck.LIMITS to ask, all unless given. A pair that closes over float64 arrays is right
        and does not keep the dtype: laws=set(gradcheck.LIMITS) - {"keeps the dtype"}.
    seed : int, default 0
        Draws dy and the directions.
    options : mapping, optional
        Options of the forward, such as those that have a name of ours: options={"seed": 3}.
    **more
        Other options of the forward.

    Returns
    -------
    list of Finding
        One a law; residuals are relative to the absolute sum of the terms compared.

    Raises
    ------
    GradientError
        The pair breaks a law: which, by how much, and in which elements of which gradient. Or the function
        has no derivative at an element: left and right disagree.
    InputError
        The forward returned no pair (y, saved), or there is no such law. Or an option of the forward has the
        name of ours, and options is not given.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt.gradcheck import check
    >>> def forward(x):
    ...     return np.exp(x), np.exp(x)
    >>> check(forward, lambda dy, y: (dy * y,), np.arange(3.0))[0]
    pure: holds, residual 0.0e+00, at most 0e+00
    """
    results = []
    given = {**(options or {}), **more}
    for result in findings(forward, backward, *arrays, laws=laws, seed=seed, options=given):
        results.append(result)
        if not result.holds:
            raise GradientError(_message(result))
    return results


def _message(broken: Finding) -> str:
    """Which law, by how much where that is a measure, and what is at fault."""
    has_no_derivative = broken.detail.startswith(kinks.NONE)
    if broken.detail and (broken.limit == 0 or has_no_derivative):
        return f"{broken.law}: {broken.detail}"
    measure = f"residual {broken.residual:.1e}, expected at most {broken.limit:.0e}"
    return f"{broken.law}: {measure}. {broken.detail}".strip()


@expect_clear("forward")
@quiet
@checked
def findings(
    forward: Forward,
    backward: Backward,
    *arrays: ArrayLike | None,
    laws: str | Iterable[str] | None = None,
    seed: Count = 0,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Iterator[Finding]:
    """Yield a Finding for every law that applies, whether it holds or not.

    But one of a broken "pure" or "repeatable" is the last.

    Parameters
    ----------
    forward, backward, *arrays, laws, seed, options, **more
        As in check.

    Yields
    ------
    Finding
        Its detail tells what is wrong, or what was left out.

    Raises
    ------
    InputError
        No array holds floats, the forward returned no pair (y, saved), or there is no such law.
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
    chosen = _chosen(laws)
    own_options = {**(options or {}), **more}
    trial = Trial(forward, backward, arrays, own_options, seed)
    for law, precondition in ((PURE, _pure), (REPEATABLE, _repeatable)):
        if law in chosen:
            result = precondition(trial)
            yield result
            if not result.holds:
                return
    given = set()
    try:
        for result in _asked(trial, chosen):
            if not result.holds and _computes_in_single(trial):
                break
            yield result
            given.add(result.law)
        else:
            return
    except InputError:  # such as a witness that knows nothing
        if not _computes_in_single(trial):
            raise
    trial = Trial(forward, backward, arrays, own_options, seed, SINGLE)
    yield from _asked(trial, chosen - given)


def _computes_in_single(trial: Trial) -> bool:
    """Whether the forward computes in float32 inside, which makes a right backward look wrong in float64."""
    if trial.computes or trial.dtype == np.float32:
        return False
    return bool(computes_in_single("gradcheck", trial.forward, trial.arrays, trial.options, trial.seed))


def _asked(trial: Trial, chosen: set[str]) -> Iterator[Finding]:
    """The laws that are asked of a pair that is pure and repeatable."""
    if MISSING in chosen:
        yield nothing_missing(trial)
    if chosen & {TRANSPOSE, WITNESS}:
        results = list(derivative(trial))
        # differences alone stand for both where the forward takes no complex numbers
        yield from (r for r in results if r.law in chosen or len(results) == 1)
    if chosen & {LINEAR, DOUBLES}:
        yield from (r for r in _linear(trial) if r.law in chosen)
    if DTYPE in chosen:
        yield _dtypes(trial)


def _chosen(laws: str | Iterable[str] | None) -> set[str]:
    """The laws to ask; InputError for one that there is not."""
    if isinstance(laws, str):
        laws = [laws]
    chosen = set(LIMITS if laws is None else laws)
    for law in sorted(chosen - LIMITS.keys()):
        names = near(law, LIMITS) or list(LIMITS)
        raise InputError(f"gradcheck: there is no law {law!r}, expected of {', '.join(map(repr, names))}")
    if not chosen:
        raise InputError(f"gradcheck: laws is empty, expected some of {', '.join(map(repr, LIMITS))}")
    return chosen


def _linear(trial: Trial) -> Iterator[Finding]:
    """backward(a + b) = backward(a) + backward(b), and backward(2 a) is twice backward(a) to the bit."""
    at = [trial.again(dy) for dy in (trial.dy, trial.other_dy, trial.dy + trial.other_dy)]
    difference = terms = 0.0
    for one, other, both in zip(*at):
        if one is not None:
            difference += abs(both - one - other).sum()
            terms += (abs(one) + abs(other)).sum()
    scale = float(np.finfo(trial.dtype).eps / np.finfo(np.float64).eps)
    yield Finding(LINEAR, relative(difference, terms), LIMITS[LINEAR] * scale)
    twice = trial.again(2 * trial.dy)
    differ = [(abs(2 * g - h) > TINY).any() for g, h in zip(trial.grads, twice) if g is not None]
    yield finding(DOUBLES, sum(differ))


def _pure(trial: Trial) -> Finding:
    """Neither half writes to what it is given."""
    return finding(PURE, len(trial.first.wrote), what_wrote(trial.first))


def _repeatable(trial: Trial) -> Finding:
    """The same bits again: from the backward with the same saved, and from both halves run anew."""
    differences = what_differs(trial.forward, trial.backward, trial.arrays, trial.options, trial.first)
    return finding(REPEATABLE, len(differences), "; ".join(differences))


def _dtypes(trial: Trial) -> Finding:
    """float32 in, float32 out; the same for float64 and longdouble, if the forward takes them."""
    wrong, left_out, narrowed = [], [], []
    for dtype in map(np.dtype, (np.float32, np.float64, np.longdouble)):
        try:
            y, saved = trial.forward(*as_dtype(trial.arrays, dtype), **trial.options)
        except Exception:  # as in takes
            left_out.append(str(dtype))
            continue
        if trial.computes and np.asarray(y).dtype == np.float32 != dtype:
            narrowed.append(str(dtype))
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
    if narrowed:
        details.append(f"left out, because {trial.computes}: {', '.join(narrowed)}")
    return finding(DTYPE, len(wrong), "; ".join(details))
