"""The laws that a pair is held to, and what breaks them."""

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np

from . import witness
from .judgement import verdict
from .pair import GradientError, as_dtype, gradients, is_float
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


@dataclass(frozen=True)
class Finding:
    """One law, how far the pair is from it, and how far it may be. said: what is to be said of it, or what
    finds that out when asked.
    """

    law: str
    residual: float
    limit: float
    said: object = ""

    @property
    def detail(self):
        """What is to be said of it: where the pair is wrong, or what was left out."""
        return self.said() if callable(self.said) else self.said

    @property
    def holds(self):
        """Whether the residual is within the limit (NaN is not)."""
        return self.residual <= self.limit


def check(forward, backward, *arrays, seed=0, **options):
    """Hold a pair to the laws at the given arrays; raise GradientError at the first that it breaks.

    arrays: floats are taken as float64 (float32 where the forward takes nothing else); integers and None are
    passed on and have no gradient. Where the forward does not take complex numbers, the law of central
    differences stands alone for the derivative, element by element, with the limit of a Verdict. Returns the
    list of Findings, whose residuals are relative to the absolute sum of the terms compared.
    """
    found = []
    for finding in findings(forward, backward, *arrays, seed=seed, **options):
        found.append(finding)
        if not finding.holds:
            raise GradientError(
                f"{finding.law}: residual {finding.residual:.1e}, expected at most {finding.limit:.0e}."
                f" {finding.detail}".strip()
            )
    return found


def findings(forward, backward, *arrays, seed=0, **options):
    """Yield a Finding for every law that applies; its detail says what was left out."""
    rng = np.random.default_rng(seed)
    dtype = _precision(forward, arrays, options)
    arrays = as_dtype(arrays, dtype)
    directions = [rng.standard_normal(a.shape) if is_float(a) else None for a in arrays]
    if not any(d is not None for d in directions):
        raise ValueError("gradcheck: no array of floats, expected at least one to differentiate by")
    before = [None if a is None else a.copy() for a in arrays]
    y, saved = forward(*arrays, **options)
    dy = rng.standard_normal(np.shape(y))
    if dtype != np.float64:
        dy = np.asarray(dy, dtype)[()]
    dy_before = np.copy(dy)
    grads = gradients(backward(dy, saved), arrays)

    transpose = _transpose(forward, arrays, directions, dy, grads, options) if dtype == np.float64 else None
    witnessed = None if transpose is None else _witness(forward, arrays, directions, dy, grads, options)
    if (
        transpose is not None
        and not transpose.holds
        and not _same(transpose, witnessed)
        and not witness.choose(forward, arrays, dtype, options, seed).complex
    ):
        # differences say something else: it is the complex step that the forward does not let through
        transpose = None
    if transpose is None:
        yield _element_by_element(forward, backward, arrays, seed, options)
    else:

        def blame():
            return ". ".join(
                filter(None, [_blame(forward, arrays, directions, dy, grads, options), elements()])
            )

        def elements():
            return _elements(forward, backward, arrays, seed, options)

        yield transpose if transpose.holds else dataclasses.replace(transpose, said=blame)
        yield witnessed if witnessed.holds else dataclasses.replace(witnessed, said=elements)

    other = (
        rng.standard_normal(np.shape(y))
        if dtype == np.float64
        else np.asarray(rng.standard_normal(np.shape(y)), dtype)[()]
    )
    a, b, c = (gradients(backward(d, saved), arrays) for d in (dy, other, dy + other))
    parts = [(w - u - v, abs(u) + abs(v)) for u, v, w in zip(a, b, c) if u is not None]
    scale = float(np.finfo(dtype).eps / np.finfo(np.float64).eps)
    linear = _finding(
        "linear in dy", _relative(sum(abs(d).sum() for d, _ in parts), sum(t.sum() for _, t in parts))
    )
    yield Finding(linear.law, linear.residual, linear.limit * scale)
    twice = gradients(backward(2 * dy, saved), arrays)
    yield _finding(
        "doubles with dy",
        float(sum((abs(2 * g - h) > TINY).any() for g, h in zip(grads, twice) if g is not None)),
    )
    yield _finding(
        "pure",
        _differ([*before, dy_before], [*arrays, np.asarray(dy)]),
        "forward or backward wrote to its arguments.",
    )
    again_y, again = forward(*arrays, **options)
    repeated = [
        *gradients(backward(dy, saved), arrays),
        *gradients(backward(dy, again), arrays),
        np.asarray(again_y),
    ]
    yield _finding("repeatable", _differ([*grads, *grads, np.asarray(y)], repeated))
    yield _dtypes(forward, backward, arrays, dy, options)


def _same(transpose, witnessed):
    """Whether differences find the backward about as far off as the complex step does; they move arrays by
    other amounts.
    """
    return transpose.residual <= 100 * witnessed.residual + LIMITS[WITNESS]


def _precision(forward, arrays, options):
    """float64, or float32 where the arrays are that and the forward raises on float64: code that is compiled
    for one type.
    """
    floats = [np.asarray(a).dtype for a in arrays if is_float(a)]
    single = (
        floats and np.result_type(*floats) == np.float32 and not _takes(forward, arrays, np.float64, options)
    )
    return np.dtype(np.float32 if single else np.float64)


def _element_by_element(forward, backward, arrays, seed, options):
    """The gradients against central differences alone, with the limits of a Verdict."""
    said = verdict(forward, backward, *arrays, seed=seed, **options)
    a = max(said.arguments, key=lambda a: (a.word == "wrong", a.ulps))
    eps = float(np.finfo(said.dtype).eps)
    limit = (
        a.limit if said.wrong else max(a.limit, a.ulps)
    )  # what is beyond it and not wrong is a formula that loses digits
    return Finding(
        WITNESS, a.ulps * eps, limit * eps, f"{said.summary()}. Witness: {said.witness}; {said.witness.why}"
    )


def _elements(forward, backward, arrays, seed, options):
    """A Verdict's words on the arguments that are wrong, or that it finds none."""
    said = verdict(forward, backward, *arrays, seed=seed, **options)
    return (
        said.summary()
        if said.wrong
        else f"element by element {said.summary()}: at these points rounding explains that much"
    )


def _transpose(forward, arrays, directions, dy, grads, options):
    """⟨dy, Jv⟩ = ⟨Jᵀdy, v⟩, relative to the absolute sum of the terms on both sides; None if the forward
    raises on complex numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            forth = dy * along(forward, arrays, directions, options)
    except Exception:  # whatever the user's code raises means that it does not take them
        return None
    back = [g * v for g, v in zip(grads, directions) if g is not None]
    return _finding(
        TRANSPOSE,
        _relative(
            forth.sum() - sum(t.sum() for t in back), abs(forth).sum() + sum(abs(t).sum() for t in back)
        ),
    )


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
        lines.append(
            "central differences agree with the backward to 1e-8: the error is smaller, or the forward loses"
            " a small part of complex numbers on the way (np.abs, np.var, a comparison)"
        )
    return "; ".join(lines)


def _witness(forward, arrays, directions, dy, grads, options):
    """The same derivative by central differences in longdouble: a second witness that knows nothing of
    complex numbers.

    Three steps, of which the best counts: where the function bends sharply (a kink, two equal channels) the
    largest is too large; a gradient that is wrong disagrees with all three.
    """
    if not _takes(forward, arrays, np.longdouble, options):
        return _witness_in_float64(forward, arrays, directions, dy, grads, options)
    wide, eps = as_dtype(arrays, np.longdouble), float(np.finfo(np.longdouble).eps)
    sizes = [float(abs(a).max(initial=0.0)) if v is not None else 0.0 for a, v in zip(arrays, directions)]
    back = [g * v for g, v in zip(grads, directions) if g is not None]

    def residual(h):
        """Each array moves in proportion to its own size."""
        ahead, behind = (
            np.asarray(
                forward(
                    *[
                        a if v is None else a + s * h * (size or 1.0) * v
                        for a, v, size in zip(wide, directions, sizes)
                    ],
                    **options,
                )[0]
            )
            for s in (1, -1)
        )
        forth = dy * ((ahead - behind) / (2 * h))
        scaled = [
            t * (size or 1.0)
            for t, size in zip(back, [s for s, v in zip(sizes, directions) if v is not None])
        ]
        return _relative(
            forth.sum() - sum(t.sum() for t in scaled), abs(forth).sum() + sum(abs(t).sum() for t in scaled)
        )

    with np.errstate(all="ignore"):
        return _finding(
            WITNESS, np.nanmin([*(residual(eps ** (1 / 3) / shrink) for shrink in (1, 8, 64)), np.inf])
        )


def _witness_in_float64(forward, arrays, directions, dy, grads, options):
    """The same for a forward that has no longdouble: differences that know their error, which is granted."""
    difference = terms = granted = 0.0
    for i, (v, g) in enumerate(zip(directions, grads)):
        if v is not None:
            d, error = differences(
                forward, arrays, [v if j == i else None for j in range(len(arrays))], options
            )
            difference += (dy * d).sum() - (g * v).sum()
            terms += abs(dy * d).sum() + abs(g * v).sum()
            granted += (abs(dy) * error).sum()
    limit = LIMITS[WITNESS] + (float(granted / terms) if terms else 0.0)
    return Finding(
        WITNESS,
        _relative(difference, terms),
        limit,
        f"in float64, for the forward takes no {np.dtype(np.longdouble)}",
    )


def _dtypes(forward, backward, arrays, dy, options):
    """float32 in, float32 out; the same for float64 and longdouble, if the forward takes them."""
    wrong, left_out = [], []
    for dtype in (np.float32, np.float64, np.longdouble):
        try:
            y, saved = forward(*as_dtype(arrays, dtype), **options)
        except Exception:  # as in _takes
            left_out.append(str(np.dtype(dtype)))
            continue
        grads = gradients(backward(np.asarray(dy, dtype)[()], saved), arrays)
        for what, array in (
            ("the value", np.asarray(y)),
            *((f"gradient {i}", g) for i, g in enumerate(grads)),
        ):
            if array is not None and array.dtype != dtype:
                wrong.append(f"{what} is {array.dtype} for {np.dtype(dtype)}")
    detail = "; ".join(
        wrong + ([f"left out, because the forward raises on it: {', '.join(left_out)}"] if left_out else [])
    )
    return _finding("keeps the dtype", float(len(wrong)), detail)


def _takes(forward, arrays, dtype, options):
    """Whether the forward takes arrays of a dtype; TypeError and its like say that it does not."""
    try:
        forward(*as_dtype(arrays, dtype), **options)
    except Exception:  # each library has its own: TypeError, NotImplementedError, numba's TypingError
        return False
    return True


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
