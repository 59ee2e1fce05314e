"""The laws of a forward and its backward, for anybody's own pair.

A pair is forward(*arrays, **options) → (y, saved) and backward(dy, saved) → one gradient per array, None where there is
none. The complex step makes the forward its own checker: for a function that accepts complex numbers,
Im f(x + ihv)/h is the derivative along v to rounding, because nothing is subtracted (Squire and Trapp 1998).
"""

from dataclasses import dataclass

import numpy as np

H = 1e-30
COMPLEX = {np.dtype("float64"): np.complex128, np.dtype("longdouble"): np.clongdouble}
EPS = float(np.finfo("longdouble").eps)
TINY = float(np.finfo("float64").tiny)  # below it a product loses bits, and twice it is not twice any more
TRANSPOSE = "transpose of the derivative"
WITNESS = "central differences"
LIMITS = {
    TRANSPOSE: 1e-13,
    # Central differences in longdouble err by h² from the third derivative and by eps/h from rounding: with h = eps^(1/3)
    # both are eps^(2/3), some 2e-13 on x86 and 4e-11 where longdouble is float64. 1e-8 leaves room for large third
    # derivatives, for steps of h/64, and for erf, whose rational form is a float64 one.
    WITNESS: 1e-8,
    "linear in dy": 1e-12,  # three runs of the backward, each with rounding of its own
    "doubles with dy": 0.0,
    "pure": 0.0,
    "repeatable": 0.0,
    "keeps the dtype": 0.0,
}


class GradientError(AssertionError):
    """A pair breaks a law."""


@dataclass(frozen=True)
class Finding:
    """One law, how far the pair is from it, and how far it may be."""

    law: str
    residual: float
    limit: float
    detail: str = ""

    @property
    def holds(self):
        """Whether the residual is within the limit (NaN is not)."""
        return self.residual <= self.limit


def check(forward, backward, *arrays, seed=0, **options):
    """Hold a pair to the laws at the given arrays; raise GradientError at the first that it breaks.

    arrays: floats are taken as float64; integers and None are passed on and have no gradient.
    Returns the list of Findings, whose residuals are relative to the absolute sum of the terms compared.
    """
    found = []
    for finding in findings(forward, backward, *arrays, seed=seed, **options):
        found.append(finding)
        if not finding.holds:
            raise GradientError(f"{finding.law}: residual {finding.residual:.1e}, expected at most {finding.limit:.0e}. {finding.detail}".strip())
    return found


def findings(forward, backward, *arrays, seed=0, **options):
    """Yield a Finding for every law."""
    rng = np.random.default_rng(seed)
    arrays = _as(arrays, np.float64)
    directions = [rng.standard_normal(a.shape) if _is_float(a) else None for a in arrays]
    if not any(d is not None for d in directions):
        raise ValueError("gradcheck: no array of floats, expected at least one to differentiate by")
    before = [None if a is None else a.copy() for a in arrays]
    y, saved = forward(*arrays, **options)
    dy = rng.standard_normal(np.shape(y))
    dy_before = dy.copy()
    grads = _gradients(backward(dy, saved), arrays)

    yield _transpose(forward, arrays, directions, dy, grads, options)
    yield _witness(forward, arrays, directions, dy, grads, options)

    other = rng.standard_normal(np.shape(y))
    a, b, c = (_gradients(backward(d, saved), arrays) for d in (dy, other, dy + other))
    parts = [(w - u - v, abs(u) + abs(v)) for u, v, w in zip(a, b, c) if u is not None]
    yield _finding("linear in dy", _relative(sum(abs(d).sum() for d, _ in parts), sum(t.sum() for _, t in parts)))
    twice = _gradients(backward(2 * dy, saved), arrays)
    yield _finding("doubles with dy", float(sum((abs(2 * g - h) > TINY).any() for g, h in zip(grads, twice) if g is not None)))
    yield _finding("pure", _differ([*before, dy_before], [*arrays, dy]), "forward or backward wrote to its arguments.")
    again_y, again = forward(*arrays, **options)
    repeated = [*_gradients(backward(dy, saved), arrays), *_gradients(backward(dy, again), arrays), np.asarray(again_y)]
    yield _finding("repeatable", _differ([*grads, *grads, np.asarray(y)], repeated))
    yield _dtypes(forward, backward, arrays, dy, options)


def along(forward, arrays, directions, options):
    """J v: the derivative of the forward along the directions, by the complex step."""
    moved = [a if v is None else a + 1j * (H * v) for a, v in zip(arrays, directions)]
    return np.asarray(forward(*moved, **options)[0]).imag / H


def _transpose(forward, arrays, directions, dy, grads, options):
    """⟨dy, Jv⟩ = ⟨Jᵀdy, v⟩, relative to the absolute sum of the terms on both sides."""
    forth = dy * along(forward, arrays, directions, options)
    back = [g * v for g, v in zip(grads, directions) if g is not None]
    finding = _finding(TRANSPOSE, _relative(forth.sum() - sum(t.sum() for t in back), abs(forth).sum() + sum(abs(t).sum() for t in back)))
    if finding.holds:
        return finding
    return Finding(finding.law, finding.residual, finding.limit, _blame(forward, arrays, directions, dy, grads, options))


def _blame(forward, arrays, directions, dy, grads, options):
    """Which argument's gradient is wrong, or whether the forward is not fit for the complex step."""
    lines = []
    for i, (v, g) in enumerate(zip(directions, grads)):
        if v is None:
            continue
        only = [w if j == i else None for j, w in enumerate(directions)]
        forth, back = float((dy * along(forward, arrays, only, options)).sum()), float((g * v).sum())
        if not abs(forth - back) <= 1e-12 * (abs(forth) + abs(back)):
            lines.append(f"argument {i}: ⟨dy, Jv⟩ = {forth:.12g} but ⟨gradient, v⟩ = {back:.12g}")
    if _witness(forward, arrays, directions, dy, grads, options).holds:
        lines.append("central differences agree with the backward to 1e-8: either a smaller error, or a forward that does not"
                     " let complex numbers through (np.abs, np.var, a comparison)")
    return "; ".join(lines)


def _witness(forward, arrays, directions, dy, grads, options):
    """The same derivative by central differences in longdouble: a second witness that knows nothing of complex numbers.

    Three steps, of which the best counts: where the function bends sharply (a kink, two equal channels) the largest is too
    large; a gradient that is wrong disagrees with all three.
    """
    wide = _as(arrays, np.longdouble)
    sizes = [float(abs(a).max(initial=0.0)) if v is not None else 0.0 for a, v in zip(arrays, directions)]
    back = [g * v for g, v in zip(grads, directions) if g is not None]

    def residual(h):
        """Each array moves in proportion to its own size."""
        ahead, behind = (
            np.asarray(forward(*[a if v is None else a + s * h * (size or 1.0) * v for a, v, size in zip(wide, directions, sizes)], **options)[0])
            for s in (1, -1)
        )
        forth = dy * ((ahead - behind) / (2 * h))
        scaled = [t * (size or 1.0) for t, size in zip(back, [s for s, v in zip(sizes, directions) if v is not None])]
        return _relative(forth.sum() - sum(t.sum() for t in scaled), abs(forth).sum() + sum(abs(t).sum() for t in scaled))

    with np.errstate(all="ignore"):
        return _finding(WITNESS, np.nanmin([*(residual(EPS ** (1 / 3) / shrink) for shrink in (1, 8, 64)), np.inf]))


def _dtypes(forward, backward, arrays, dy, options):
    """float32 in, float32 out; the same for float64 and longdouble."""
    wrong = []
    for dtype in (np.float32, np.float64, np.longdouble):
        y, saved = forward(*_as(arrays, dtype), **options)
        grads = _gradients(backward(np.asarray(dy, dtype)[()], saved), arrays)
        for what, array in (("the value", np.asarray(y)), *((f"gradient {i}", g) for i, g in enumerate(grads))):
            if array is not None and array.dtype != dtype:
                wrong.append(f"{what} is {array.dtype} for {np.dtype(dtype)}")
    return _finding("keeps the dtype", float(len(wrong)), "; ".join(wrong))


def _gradients(grads, arrays):
    """The backward's result, one entry per array, its shapes checked."""
    grads = grads if isinstance(grads, tuple | list) else (grads,)
    if len(grads) != len(arrays):
        raise GradientError(f"backward returned {len(grads)} gradients, expected {len(arrays)}: one per array, None where there is none")
    for i, (g, a) in enumerate(zip(grads, arrays)):
        if (g is not None) != _is_float(a):
            raise GradientError(f"gradient {i} is {'None' if g is None else 'an array'}, expected {'an array' if _is_float(a) else 'None'}")
        if g is not None and np.shape(g) != a.shape:
            raise GradientError(f"gradient {i} has shape {np.shape(g)}, expected {a.shape} as the array")
    return [None if g is None else np.asarray(g) for g in grads]


def _finding(law, residual, detail=""):
    return Finding(law, float(residual), LIMITS[law], detail)


def _relative(difference, terms):
    """|difference| over the terms' absolute sum; 0 where both are 0, NaN where either is."""
    difference, terms = np.abs(difference).sum(), np.sum(terms)
    return 0.0 if difference == 0 else float(difference / terms) if terms else float("inf")


def _differ(expected, got):
    """How many of the arrays differ in any bit."""
    pairs = zip(expected, got, strict=True)
    return float(sum(a.tobytes() != b.tobytes() for a, b in pairs if a is not None))


def _as(arrays, dtype):
    return [None if a is None else np.array(a, dtype) if _is_float(a) else np.array(a) for a in arrays]


def _is_float(array):
    return array is not None and np.asarray(array).dtype.kind == "f"
