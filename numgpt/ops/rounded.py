"""Ops that compute float32 arrays in float64, and round what they give once."""

import functools

import numpy as np


def rounded_once(function):
    """Have a forward or a backward compute float32 arrays in float64; what it gives and saves is float32.

    NumPy's exp and tanh of float32 are up to a unit off, and a formula rounds at each of its steps: the error
    would be larger than PyTorch's. Arrays of another type pass as they are. What is saved of the inputs is
    the inputs themselves, and what is given and saved is one array, so that nothing is held twice.
    """

    @functools.wraps(function)
    def rounding(*arguments, **options):
        single = {}  # id of an array in float64 → (the same in float32, itself, which keeps its id)
        wide = [_mapped(a, lambda array: _widened(array, single)) for a in arguments]
        result = function(*wide, **options)
        return _mapped(result, lambda array: _narrowed(array, single)) if single else result

    return rounding


def _mapped(value, change):
    """A value, or a tuple of values and tuples, with its arrays changed."""
    if isinstance(value, tuple):
        return tuple(_mapped(v, change) for v in value)
    return change(value) if hasattr(value, "dtype") else value


def _widened(array, single):
    """A float32 array in float64; any other as it is."""
    if array.dtype != np.float32:
        return array
    wide = array.astype(np.float64)
    single[id(wide)] = (array, wide)
    return wide


def _narrowed(array, single):
    """A float64 array in float32: what it was made from, and the same array wherever it occurs."""
    if array.dtype != np.float64:
        return array
    if id(array) not in single:
        single[id(array)] = (array.astype(np.float32), array)
    return single[id(array)][0]
