"""Ops that compute float32 arrays in float64, and round what they give once."""

import functools

import numpy as np


def rounded_once(function):
    """Have a forward or a backward compute float32 arrays in float64; what it gives and saves is float32.

    NumPy's exp and tanh of float32 are up to a unit off, and a formula rounds at each of its steps: the error
    would be larger than PyTorch's. Arrays that are not float32 pass as they are; what is saved of the inputs
    is the inputs themselves.
    """

    @functools.wraps(function)
    def rounding(*arguments, **options):
        given = {}  # by what it became, so that nothing is held twice
        wide = [_mapped(a, lambda array: _widened(array, given)) for a in arguments]
        result = function(*wide, **options)
        return _mapped(result, lambda array: _narrowed(array, given)) if given else result

    return rounding


def _mapped(value, change):
    """A value, or a tuple of values and tuples, with its arrays changed."""
    if isinstance(value, tuple):
        return tuple(_mapped(v, change) for v in value)
    return change(value) if hasattr(value, "dtype") else value


def _widened(array, given):
    """A float32 array in float64; any other as it is."""
    if array.dtype != np.float32:
        return array
    wide = array.astype(np.float64)
    given[id(wide)] = (array, wide)  # held, so that no other array gets its id
    return wide


def _narrowed(array, given):
    """What a float64 array was made from, or the array in float32."""
    if id(array) in given:
        return given[id(array)][0]
    return array.astype(np.float32) if array.dtype == np.float64 else array
