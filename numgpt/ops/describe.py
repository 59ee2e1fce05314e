"""The text that help(op) shows: the op line with its names, what its letters mean, and both docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any

LETTERS = {
    "A": "experts that are active for a token",
    "B": "batch",
    "C": "channels",
    "D": "size of a head",
    "E": "experts",
    "F": "hidden width",
    "G": "query heads of each key/value head",
    "H": "heads",
    "I": "inputs",
    "K": "key/value heads",
    "L": "layers",
    "M": "pairs of inputs in a group that shares a scale",
    "N": "groups of inputs, each with a scale",
    "O": "outputs",
    "P": "positions that have a vector",
    "R": "rank of an adapter",
    "S": "key positions",
    "T": "positions, in attention those of queries",
    "V": "vocabulary",
    "W": "channels of a group",
}
SIGNS = {
    "...": "any leading axes, the same for all arrays",
    "<": "integers from 0 to one less",
    "~": "integers below, negative for none",
    "!": "a constant: numbers that have no gradient",
    ":int8": "integers of 8 bits, no ids: a rounded weight",
    ":uint8": "bytes, no ids: two rounded weights of 4 bits in each, or a mask",
    "?": "may be None",
    "()": "a scalar",
}
PAGE = """\
{name}{signature}

    {line}

    {key}

FORWARD: y, saved = {name}.forward({arrays}, …)

{forward}

BACKWARD: {gradients} = {name}.backward(dy, saved)

{backward}

Called as a function, {name} checks the shapes, runs on the engine in use and returns y alone.
"""


def describe(op: Any, signature: inspect.Signature) -> str:
    """The page of an op."""
    arrays = [argument.name for argument in op.arguments]
    entries = ", ".join(f"{a.name} {a.text}" for a in op.arguments)
    letters = re.findall("[A-Z]", op.line)
    meanings = {c: LETTERS.get(c, "a size") for c in dict.fromkeys(letters)}
    meanings |= {sign: meaning for sign, meaning in SIGNS.items() if sign in op.line}
    width = max(5, *(len(sign) + 1 for sign in meanings))
    return PAGE.format(
        name=op.name,
        signature=signature,
        line=f"{entries} -> {op.result.text}",
        key="\n    ".join(f"{sign:{width}}{meaning}" for sign, meaning in meanings.items()),
        arrays=", ".join(arrays),
        gradients=", ".join(f"d{name}" for name in arrays),
        forward=inspect.cleandoc(op.forward.__doc__ or "No derivation is given."),
        backward=inspect.cleandoc(op.backward.__doc__ or "No derivation is given."),
    )
