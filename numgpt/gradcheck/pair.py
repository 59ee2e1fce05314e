"""What a pair is: forward(*arrays, **options) → (y, saved) and backward(dy, saved) → one gradient per array."""

import inspect
from typing import NamedTuple

import numpy as np


class GradientError(AssertionError):
    """A pair breaks a law."""


class Pair(NamedTuple):
    """A forward and its backward; check(*pair, *arrays) takes it apart."""

    forward: callable
    backward: callable


def gradients(grads, arrays):
    """The backward's result, one entry per array; GradientError unless their number and shapes are the
    arrays'.
    """
    grads = grads if isinstance(grads, tuple | list) else (grads,)
    if len(grads) != len(arrays):
        raise GradientError(
            f"backward returned {len(grads)} gradients, expected {len(arrays)}: one per array, None where"
            " there is none"
        )
    for i, (g, a) in enumerate(zip(grads, arrays)):
        if (g is not None) != is_float(a):
            raise GradientError(
                f"gradient {i} is {'None' if g is None else 'an array'}, expected"
                f" {'an array' if is_float(a) else 'None'}"
            )
        if g is not None and np.shape(g) != a.shape:
            raise GradientError(f"gradient {i} has shape {np.shape(g)}, expected {a.shape} as the array")
    return [None if g is None else np.asarray(g) for g in grads]


def is_float(array):
    """Whether an argument is differentiated by: integers and None are not."""
    return array is not None and np.asarray(array).dtype.kind == "f"


def as_dtype(arrays, dtype):
    """Copies, those of floats in the dtype."""
    return [None if a is None else np.array(a, dtype) if is_float(a) else np.array(a) for a in arrays]


def argument_names(forward, count):
    """What the forward calls its first count arguments, None where it does not say (*args, a builtin)."""
    names = getattr(forward, "argument_names", None)
    if names is None:
        try:
            parameters = inspect.signature(forward).parameters.values()
        except (TypeError, ValueError):  # a builtin
            parameters = ()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names[:count], *[None] * (count - len(names))]
