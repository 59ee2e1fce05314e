"""The derivative of a function that acts on each entry of an array by itself, or why it has none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..gradcheck.witness import differences

Array = NDArray[Any]
STEP = 1e-30  # of the complex step: nothing is subtracted, so it may be as small as one likes
SAME = 1e-9  # two derivatives by the complex step differ by rounding alone
DOUBT = 100  # times its own error: what a central difference has to be off by, to be believed
NEEDS_PAIR = "give a pair (function, transpose)"


def slope(who: str, function: Callable[[Any], Any], a: Any) -> Array:
    """The derivative of each entry of function(a) with respect to the same entry of a.

    For f(a)_i = f_i(a_i) the directional derivative along v is f_i'(a_i) v_i. A step of ones gives the slope,
    one of minus ones gives it once more: at a kink the two differ. A step in a random direction tells whether
    f is of that form: then it gives the slope times itself. And central differences, which know their error,
    tell whether f let the imaginary part through.

    An entry that is infinite stays so: its slope is 0. Where f gives NaN, the slope is what the complex step
    says.

    Parameters
    ----------
    who : str
        What the message of an error begins with.
    function : callable
        An array → an array of its shape.
    a : array
        Where the derivative is taken, in the host's memory.

    Raises
    ------
    InputError
        The function draws at random, has a kink, mixes entries, or does not let complex numbers through.
    """
    a = np.asarray(a, np.float64)
    v = np.asarray(np.random.default_rng(0).standard_normal(a.shape))
    value = _value(who, function, a)
    again = _value(who, function, a)
    if not np.array_equal(value, again, equal_nan=True):
        raise InputError(
            f"{who} gives other numbers each time it is called, so its gradient where it was called is not"
            " known: draw at random before the run, and use that in the function"
        )
    right, _ = _along(who, function, a, np.ones_like(a))
    left, _ = _along(who, function, a, -np.ones_like(a))
    left = 0.0 - left
    along, is_complex = _along(who, function, a, v)
    _expect_own_entry(who, along, np.where(v > 0, right, left) * v)
    _expect_no_kink(who, a, left, right)
    if not _is_believable(function, a, v, along, is_complex):
        raise InputError(
            f"{who} does not let complex numbers through (abs, sign, .real, a cast), so its gradient is not"
            f" known: {NEEDS_PAIR}"
        )
    return np.where(np.isinf(value), 0.0, right)


def _value(who: str, function: Callable[[Any], Any], a: Array) -> Array:
    """The function's value at real numbers."""
    try:
        return np.asarray(function(a.copy()))
    except Exception as error:  # whatever the user's code raises: it took the value's own dtype a moment ago
        raise InputError(
            f"{who} does not take float64, in which it is differentiated ({_reason(error)}): {NEEDS_PAIR}"
        ) from error


def _along(who: str, function: Callable[[Any], Any], a: Array, v: Array) -> tuple[Array, bool]:
    """(the derivative along v by the complex step, whether the value was complex at all)."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a function that drops imaginary parts: the differences tell
            y = np.asarray(function(a + 1j * (STEP * v)))
    except Exception as error:  # as above
        raise InputError(f"{who} does not take complex numbers ({_reason(error)}): {NEEDS_PAIR}") from error
    return np.asarray(y.imag / STEP), y.dtype.kind == "c"


def _reason(error: Exception) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _expect_own_entry(who: str, along: Array, expected: Array) -> None:
    """Raise InputError where an entry of the value depends on other entries."""
    with np.errstate(invalid="ignore"):
        room = SAME * abs(expected) + 1e-13 * abs(expected).max(initial=0.0)
        is_mixed = abs(along - expected) > room  # NaN tells nothing
    if is_mixed.any():
        raise InputError(
            f"{who} mixes entries: that at {_place(is_mixed)} depends on others, so its gradient is not"
            f" known: {NEEDS_PAIR}"
        )


def _expect_no_kink(who: str, a: Array, left: Array, right: Array) -> None:
    """Raise InputError where the derivatives from both sides differ."""
    with np.errstate(invalid="ignore"):
        is_kink = abs(right - left) > SAME * (abs(left) + abs(right))
    if is_kink.any():
        at = np.unravel_index(int(is_kink.argmax()), a.shape)
        raise InputError(
            f"{who} has a kink at {_place(is_kink)}, where the value is {a[at]:g}: its slope is {left[at]:g}"
            f" on the left and {right[at]:g} on the right: {NEEDS_PAIR} that chooses one"
        )


def _place(chosen: Array) -> str:
    """The first of the chosen entries, and how many there are."""
    index = ", ".join(map(str, np.unravel_index(int(chosen.argmax()), chosen.shape)))
    count = int(chosen.sum())
    more = f" and {count - 1:,} more" if count > 1 else ""
    return f"[{index}]{more}"


def _is_believable(
    function: Callable[[Any], Any], a: Array, v: Array, along: Array, is_complex: bool
) -> bool:
    """Whether central differences do not contradict the complex step, beyond what they may be off."""

    def forward(x: Array) -> tuple[Array, None]:
        return np.asarray(function(x)), None

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        central, error = differences(forward, [a], [v], {})
        contradicted = abs(central - along) > DOUBT * error + 1e-5 * (abs(central) + abs(along))
        if contradicted.any():
            return False
        if is_complex:
            return True
        # A real value lets nothing through: right for what does not depend on a. Where differences are blind,
        # since the values are far larger than what moves them, a long way tells.
        is_blind = DOUBT * error > abs(v)
        far = float(abs(a).max(initial=0.0)) or 1.0
        return bool((forward(a + far * v)[0] == forward(a.copy())[0])[is_blind & np.isfinite(a)].all())
