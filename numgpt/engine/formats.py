"""Formats of fewer bits than float32's, and how a number is rounded to them."""

from __future__ import annotations

from typing import Any

import numpy as np

# Of float32's 23 bits of fraction, how many a format drops that has its exponents. fp16 has fewer exponents,
# 2⁻²⁴ to 65504, and is a type of NumPy's.
DROPPED = {"bf16": 16, "tf32": 13}
FORMATS = ("bf16", "fp16", "tf32")
SINGLE = np.dtype("float32")
PRECISIONS = (SINGLE.name, *FORMATS)  # what a person may ask for


def rounded(a: Any, name: str) -> Any:
    """float32 numbers as the nearest ones of a format, of two the even one; they stay float32.

    Half of the last place that is kept, less one where that place is even, carries into it what is to be
    rounded up; what overflows becomes ∞, whose bits come next to the largest number's.

    Written in bits, not with a package of types: NumPy, CuPy and a browser have all that it takes.
    """
    if name == "fp16":
        with np.errstate(over="ignore", under="ignore"):
            return a.astype(np.float16).astype(SINGLE)
    cut = DROPPED[name]
    bits = a.view(np.uint32)
    is_odd = (bits >> cut) & 1
    nearest = (bits + ((1 << (cut - 1)) - 1) + is_odd) & ((1 << 32) - (1 << cut))
    return np.where(np.isnan(a), a, nearest.view(SINGLE))  # else a NaN might carry into its sign
