"""The error function, which NumPy lacks, to float64 accuracy for real and complex arrays near the real axis.

Three rational functions with the coefficients of W. J. Cody, "Rational Chebyshev approximations for the error
function", Math. Comp. 23 (1969). Each is a smooth function of a complex x, so the complex step passes
through; which of the three applies is decided by the real part.
"""

import math

import numpy as np

from .. import engine

# (numerator, denominator), the coefficient of the highest power first.
_NEAR_ZERO = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_LARGE = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346047e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def erf(x):
    """erf(x) = (2/√π) ∫₀ˣ exp(−s²) ds.

    x (...) real or complex → (...) of the same dtype. In float64 the relative error is below 5e-16, that of
    erfc below 1e-15.
    """
    return _pieces(x, _near_zero, lambda tail: 1 - tail, lambda tail: tail - 1)


def erfc(x):
    """erfc(x) = 1 − erf(x), accurate in the right tail too, where the difference would round to 0."""
    return _pieces(x, lambda z: 1 - _near_zero(z), lambda tail: tail, lambda tail: 2 - tail)


def _pieces(x, near_zero, right, left):
    """Each entry by its range: near_zero(x), or right or left of erfc(|x|)."""
    negative = x.real < 0
    far = abs(x.real) > 4.0
    middle = (abs(x.real) > 0.46875) & ~far
    ranges = [middle & ~negative, far & ~negative, middle & negative, far & negative]
    functions = [
        lambda z: right(_middle(z)),
        lambda z: right(_large(z)),
        lambda z: left(_middle(-z)),
        lambda z: left(_large(-z)),
    ]
    if not engine.on_gpu(x):
        return np.piecewise(x, ranges, [*functions, near_zero])
    y = near_zero(np.where(far | middle, 0.0, x))  # picking entries would wait for the GPU to count them
    for where, function, inside in zip(ranges, functions, (1.0, 5.0, -1.0, -5.0)):
        y = np.where(where, function(np.where(where, x, inside)), y)
    return y


def _near_zero(x):
    """erf for |x| ≤ 0.46875: x times a rational function of x²."""
    return x * _ratio(_NEAR_ZERO, x * x)


def _middle(x):
    """erfc for 0.46875 < x ≤ 4: exp(−x²) times a rational function of x."""
    return _exp_minus_square(x) * _ratio(_MIDDLE, x)


def _large(x):
    """erfc for x > 4: exp(−x²)/x times 1/√π less a rational function of 1/x²."""
    u = 1 / (x * x)
    return _exp_minus_square(x) / x * (1 / math.sqrt(math.pi) - u * _ratio(_LARGE, u))


def _exp_minus_square(x):
    """exp(−x²) = exp(−s²) exp(−(x − s)(x + s)), where s is x cut to four bits after the point.

    Then s² is exact; the rounding error of x² itself would grow by the exponential.
    """
    s = np.floor(np.minimum(x.real, 64.0) * 16) / 16  # 64: far beyond underflow, and x = ∞ gives 0
    return np.exp(-s * s) * np.exp(-(x - s) * (x + s))


def _ratio(coefficients, x):
    """Numerator over denominator, by Horner's rule."""
    numerator, denominator = coefficients
    p = numerator[0] + 0 * x
    q = denominator[0] + 0 * x
    for a, b in zip(numerator[1:], denominator[1:]):
        p *= x
        p += a
        q *= x
        q += b
    return p / q
