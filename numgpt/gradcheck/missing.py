"""Gradients that do not arrive: which elements get exactly 0 though they act, and where they lie."""

from __future__ import annotations

import warnings

import numpy as np

from .finding import MISSING, Finding, finding
from .pair import Array
from .places import degenerate, reached
from .trial import Trial
from .witness import along, differences

ALL = 2000  # elements that are looked at one by one: of more, so many at random
BLUR = 1e-11  # of the natural size of a derivative, |dy y| / |x|: below it a value is rounding
CANCELLED = 1e-9  # of its terms: below it a sum is rounding


def nothing_missing(trial: Trial) -> Finding:
    """No element whose gradient is exactly 0 acts on the value, by a witness of its own.

    The other laws compare sums over all elements, in which an element of small terms may be lost. So the
    elements that got 0 are moved alone: all at once in a random direction, and only if that moves ⟨dy, y⟩ one
    by one, to both sides, since at a kink one side may well have 0.
    """
    names, parts, count, hints = trial.names(), [], 0, []
    for i, _, grad in trial.moving():
        is_missing = _unreached(trial, i, np.asarray(grad) == 0)
        count += int(is_missing.sum())
        if is_missing.any():
            parts.append(f"{names[i]}: its gradient is missing, {reached(is_missing)}")
        hint = degenerate(trial.arrays[i])
        if hint:
            hints.append(f"{names[i]} {hint}, where mistakes may not show")
    return finding(MISSING, count, "; ".join(parts or hints))


def _unreached(trial: Trial, i: int, is_zero: Array) -> Array:
    """Which of the elements of array i that have gradient 0 act on the value."""
    is_missing = np.zeros(is_zero.shape, bool)
    if not is_zero.any():
        return is_missing
    rng = np.random.default_rng([trial.seed, 9])
    signs = np.where(is_zero, rng.choice([-1.0, 1.0], is_zero.shape), 0.0)
    if not any(abs(slope) > room for slope, room in (_moves(trial, i, v) for v in (signs, -signs))):
        return is_missing
    zeros = np.flatnonzero(is_zero)
    if len(zeros) > ALL:
        zeros = np.sort(rng.choice(zeros, ALL, replace=False))
    for flat in zeros:
        direction = np.zeros(is_zero.shape)
        direction.reshape(-1)[flat] = 1.0
        ahead, room = _moves(trial, i, direction)
        behind, _ = _moves(trial, i, -direction)
        # at a kink the two are not each other's opposite
        is_smooth = abs(ahead + behind) <= 1e-6 * (abs(ahead) + abs(behind)) + room
        is_missing.reshape(-1)[flat] = is_smooth and abs(ahead) > room
    return is_missing


def _moves(trial: Trial, i: int, direction: Array) -> tuple[float, float]:
    """(⟨dy, J v⟩ for array i alone, how much of it may be rounding)."""
    directions = [direction if n == i else None for n in range(len(trial.arrays))]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            slope = along(trial.forward, trial.arrays, directions, trial.options)
            error = np.zeros_like(slope)
        except Exception:  # whatever the user's code raises means that it takes no complex numbers
            options = trial.options
            slope, error = differences(trial.forward, trial.arrays, directions, options, trial.dtype)
    dy = np.asarray(trial.dy, np.float64)
    terms = dy * slope
    size = float(abs(trial.arrays[i]).max(initial=0.0)) or 1.0
    natural = float(abs(dy * np.asarray(trial.y, np.float64)).sum()) / size
    scale = float(np.finfo(trial.dtype).eps / np.finfo(np.float64).eps)
    room = scale * (BLUR * natural + CANCELLED * float(abs(terms).sum())) + float((abs(dy) * error).sum())
    return float(terms.sum()), room
