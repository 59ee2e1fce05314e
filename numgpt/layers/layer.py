"""Layer: a pair that composes ops, or smaller layers, on a Record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """A forward and a backward over a Record r: forward(r, *inputs) → y, backward(r, dy) → dx."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
