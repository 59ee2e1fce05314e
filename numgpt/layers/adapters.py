"""Adapters: what runs at a matrix that has a low-rank one beside it, and what the two come to together."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..architecture.additions import LoRA
from ..architecture.config import Config
from ..ops.lora import apart, columns_of, lora_linear
from .layer import Layer


@functools.cache  # so that a copy of a model runs the same layer
def adapted(name: str, scaling: float, widths: tuple[int, ...] | None = None) -> Layer:
    """The layer that runs at a name: its matrix with the adapter beside it, as one op.

    widths: of the maps that have an adapter each.
    """
    options = {"factor": scaling} | ({} if widths is None else {"widths": widths})

    def forward(r: Any, x: Any) -> Any:
        """What the matrix gives, and s times what the adapter does.  x (..., I) → (..., O)"""
        return r("adapted", lora_linear, x, shares=name, **options)

    def backward(r: Any, dy: Any) -> Any:
        """Gradient of forward with respect to x."""
        return r.back("adapted", dy)

    return Layer(forward, backward)


def served(additions: Sequence[Any], config: Config) -> dict[str, Layer]:
    """Name -> what runs there, for the adapters among additions."""
    return {
        name: adapted(name, addition.scaling, widths if len(widths) > 1 else None)
        for addition in additions
        if isinstance(addition, LoRA)
        for name, widths in addition.widths(config).items()
    }


def products(
    addition: LoRA, config: Config, params: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, s A B̃) of each matrix that has an adapter: what it adds to the matrix."""
    for name, widths in addition.widths(config).items():
        lora_a, lora_b = params[f"{name}.lora_a"], params[f"{name}.lora_b"]
        columns = columns_of(lora_a, lora_b, widths)
        yield name, lora_a @ apart(lora_b, columns) * addition.scaling
