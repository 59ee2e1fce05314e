"""Layer: a pair that composes ops, or smaller layers, on a Record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..ops.op import Op


class Layer(NamedTuple):
    """A forward and a backward over a Record r: forward(r, *inputs) → y, backward(r, dy) → dx.

    whole: the op that gives the same in one piece. The Record runs it unless somebody looks at one of the
    steps, the names that forward files: keeps or edits it, or serves another op there.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    whole: Op | None = None
    steps: tuple[str, ...] = ()
