"""The laws of a forward and its backward, for anybody's own pair.

A pair is forward(*arrays, **options) → (y, saved) and backward(dy, saved) → one gradient per array, None
where there is none. from_torch, from_module and from_jax make pairs of autograd functions.

    check(forward, backward, *arrays)      holds a pair to the laws in float64, and raises GradientError where it breaks one
    verdict(forward, backward, *arrays)    says of each gradient, in float32 or float64, whether it is right, off by rounding, or wrong

The complex step makes the forward its own checker: for a function that accepts complex numbers, Im f(x +
ihv)/h is the derivative along v to rounding, because nothing is subtracted (Squire and Trapp 1998). A forward
that does not accept them is held to central differences, with what these may be off.
"""

from .adapters import from_jax, from_module, from_torch
from .judgement import ArgumentVerdict, Element, Verdict, verdict
from .laws import LIMITS, TRANSPOSE, WITNESS, Finding, check, findings
from .pair import GradientError, Pair
from .witness import along, differences

__all__ = [
    "LIMITS",
    "TRANSPOSE",
    "WITNESS",
    "ArgumentVerdict",
    "Element",
    "Finding",
    "GradientError",
    "Pair",
    "Verdict",
    "along",
    "check",
    "differences",
    "findings",
    "from_jax",
    "from_module",
    "from_torch",
    "verdict",
]
