"""The laws of a forward and its backward, for anybody's own pair: enter here to check a gradient.

A pair is forward(*arrays, **options) → (y, saved) and backward(dy, saved) → one gradient per array, None
where there is none. from_torch, from_module and from_jax make pairs of autograd functions.

    check(forward, backward, *arrays)      holds a pair to the laws in float64; raises GradientError at the
                                           first that it breaks
    verdict(forward, backward, *arrays)    tells for each gradient, in float32 or float64, whether it is
                                           right, differs by rounding only, or is wrong
    same(mine, theirs, *arrays)            compares two implementations: values and every gradient

The complex step makes the forward its own checker: for a function that accepts complex numbers,
Im f(x + ihv)/h is the derivative along v to rounding, because nothing is subtracted (Squire and Trapp 1998).
A forward that does not accept them is held to central differences, which know their own error.
"""

from .adapters import from_jax, from_module, from_torch
from .finding import LIMITS, MISSING, TRANSPOSE, WITNESS, Finding
from .judgement import verdict
from .laws import check, findings
from .pair import GradientError, Pair
from .preconditions import PURE, REPEATABLE
from .sameness import Row, Sameness, same
from .verdicts import ArgumentVerdict, Element, Verdict
from .witness import along, differences

__all__ = [
    "LIMITS",
    "MISSING",
    "PURE",
    "REPEATABLE",
    "TRANSPOSE",
    "WITNESS",
    "ArgumentVerdict",
    "Element",
    "Finding",
    "GradientError",
    "Pair",
    "Row",
    "Sameness",
    "Verdict",
    "along",
    "check",
    "differences",
    "findings",
    "from_jax",
    "from_module",
    "from_torch",
    "same",
    "verdict",
]
