"""The equations of an op, as its docstrings state them: one text, for readers of the code and of a trace."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

INDENT = "    "


@functools.cache
def formula(function: Callable[..., Any]) -> str:
    """The first block of indented lines of a docstring: the equations of a forward or a backward.

    Empty where there is none.

    Examples
    --------
    >>> from numgpt import ops
    >>> formula(ops.linear.forward)
    'y = x W + b'
    >>> print(formula(ops.dropout.backward))
    dx = dy k / (1 − p)        because y is x times a constant
    """
    _, *rest = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    for paragraph in rest:
        # Where nothing but equations follows the first sentence, no line is indented further than another.
        lines = paragraph.splitlines()
        if all(line.startswith(INDENT) for line in lines) or (len(rest) == 1 and "=" in lines[0]):
            return textwrap.dedent(paragraph).rstrip()
    return ""
