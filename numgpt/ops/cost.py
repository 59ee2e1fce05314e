"""What a run of an op costs, read off its op line and the shapes of its arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .op import Op

# Ops that compose several products: how many, and the letter that each sums over. Their lines do not tell.
COMPOSED = {"attend": (2, "S"), "attend_groups": (2, "S"), "attention": (2, "T"), "sink_attention": (2, "T")}
MATRICES = ("lora_linear", "low_rank")  # whose products are those of each row with its matrices
INPUTS = ("quantised4_linear", "expert_quantised4_linear")  # that sum over groups and within: all they read
SUMS = ("combine",)  # whose letter is summed over by elementwise products, one a token


class Cost(NamedTuple):
    """What one run of an op costs.

    flops: multiplications and additions of the forward's matrix products; backward_flops: of the backward's.
    Elementwise work, sums and table look-ups are not counted, as is usual. moved: bytes of the arrays that
    the forward reads and writes, each once. saved: bytes that it holds for its backward.
    """

    flops: int
    backward_flops: int
    moved: int
    saved: int = 0


def cost(op: Op, arrays: Sequence[Any], options: Mapping[str, Any], value: Any, saved: int = 0) -> Cost:
    """The Cost of a run: value is what the op made of arrays and options, saved what it holds.

    A product sums over a letter:  flops = 2 · size of the value · size of the letter. Its backward has two
    products of that size, one for each factor.

    Examples
    --------
    >>> import numpy as np
    >>> from numgpt import ops
    >>> x, weight = np.ones((2, 5, 3)), np.ones((3, 4))
    >>> cost(ops.linear, [x, weight, None], {}, ops.linear(x, weight))
    Cost(flops=240, backward_flops=480, moved=656, saved=0)
    """
    times, letter = _sums_over(op)
    bound = op.bound([None if a is None else a.shape for a in arrays], options)
    flops = 2 * times * math.prod(value.shape) * bound[letter] if times else 0
    if op.name in MATRICES:
        numbers = sum(a.size for a in arrays[1:] if a is not None and a.ndim == 2)
        flops = 2 * math.prod(value.shape[:-1]) * numbers
    if op.name in INPUTS:
        flops = 2 * math.prod(value.shape) * arrays[0].shape[-1]
    moved = sum(a.nbytes for a in (*arrays, value) if a is not None)
    return Cost(flops, 2 * flops, moved, saved)


def _sums_over(op: Op) -> tuple[int, str]:
    """(how many matrix products an op has, the letter that they sum over).

    One product, where two arrays share a letter that the value lacks: I of "...I, IO, O? -> ...O". A constant
    weighs elements.
    """
    if op.name in (*SUMS, *MATRICES, *INPUTS):
        return 0, ""
    if op.name in COMPOSED:
        return COMPOSED[op.name]
    seen: set[str] = set()
    for argument in op.arguments:
        if argument.constant:
            continue
        letters = {*re.findall("[A-Z]", re.sub("[<~][A-Z]", "", argument.text))}
        shared = (letters & seen) - {*re.findall("[A-Z]", op.result.text)}
        if shared:
            (letter,) = shared
            return 1, letter
        seen |= letters
    return 0, ""
