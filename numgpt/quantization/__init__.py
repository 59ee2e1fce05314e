"""Weights rounded to integers of 8 and 4 bits: how a matrix is rounded, by itself or for the inputs it meets.

Enter here to ask where a scale comes from: rounding.py has the grids, gptq.py rounds for the inputs.
"""

from .gptq import gptq
from .rounding import Rounded, error_in, matrix_of, nearest4, nearest8
from .weights import dequantized, quantized

__all__ = [
    "Rounded",
    "dequantized",
    "error_in",
    "gptq",
    "matrix_of",
    "nearest4",
    "nearest8",
    "quantized",
]
