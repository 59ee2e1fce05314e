"""What runs at a matrix that is rounded or masked, or has a low-rank one beside it; and what they come to."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..architecture.additions import LoRA, pruned_by, quantized_by
from ..architecture.config import Config
from ..ops.elementary import add
from ..ops.lora import apart, columns_of, lora_linear, low_rank
from ..ops.masked import masked_expert_linear, masked_linear
from ..ops.op import Op
from ..ops.quantised import (
    expert_quantised4_linear,
    expert_quantised_linear,
    quantised4_linear,
    quantised_embedding,
    quantised_linear,
    quantised_unembedding,
)
from .layer import Layer

# (kind of what is rounded, bits) → what runs there. An embedding is read by two ops.
ROUNDED: Mapping[tuple[str, int], Op] = {
    ("linear", 8): quantised_linear,
    ("linear", 4): quantised4_linear,
    ("experts", 8): expert_quantised_linear,
    ("experts", 4): expert_quantised4_linear,
}


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


@functools.cache
def adapted_beside(name: str, base: Op, scaling: float, widths: tuple[int, ...] | None = None) -> Layer:
    """The layer that runs at the name of a rounded or masked matrix with an adapter: a sum of two products.

    base: the op of that matrix, through which the gradient passes; the adapter alone is learned.
    Source: Dettmers et al. 2023 (QLoRA).
    """
    options = {"factor": scaling} | ({} if widths is None else {"widths": widths})

    def forward(r: Any, x: Any) -> Any:
        """What the matrix gives, and s times what the adapter does.  x (..., I) → (..., O)"""
        y = r("base", base, x, shares=name)
        return r("sum", add, y, r("low_rank", low_rank, x, shares=name, **options))

    def backward(r: Any, dy: Any) -> Any:
        """Gradient of forward with respect to x, which both have read."""
        dbase, dlow = r.back("sum", dy)
        dx = r.back("low_rank", dlow)
        return dx + r.back("base", dbase)

    return Layer(forward, backward)


def rounded(additions: Sequence[Any], config: Config) -> dict[str, Op]:
    """Name -> the op that runs there in a quantized model; none in another."""
    addition = quantized_by(additions)
    if addition is None:
        return {}
    forms = addition.forms(config)
    ops = {name: ROUNDED[form.kind, form.bits] for name, form in forms.items() if form.kind != "embedding"}
    if "wte" in forms:
        ops |= {"wte": quantised_embedding, "lm_head": quantised_unembedding}
    return ops


def masked(additions: Sequence[Any], config: Config) -> dict[str, Op]:
    """Name -> the op that runs there in a pruned model; none in another."""
    addition = pruned_by(additions)
    if addition is None:
        return {}
    stacked = {name: len(part.shape) == 3 for name, part in addition.parts(config).items()}
    return {name: masked_expert_linear if is_stack else masked_linear for name, is_stack in stacked.items()}


def in_place(additions: Sequence[Any], config: Config) -> dict[str, Op]:
    """Name -> the op that runs there instead of the model's own, adapters aside."""
    return rounded(additions, config) | masked(additions, config)


def served(additions: Sequence[Any], config: Config) -> dict[str, Op | Layer]:
    """Name -> what runs there, for the adapters, the rounding and the masks among additions."""
    ops = in_place(additions, config)
    found: dict[str, Op | Layer] = {**ops}
    for addition in additions:
        if isinstance(addition, LoRA):
            for name, widths in addition.widths(config).items():
                options = addition.scaling, widths if len(widths) > 1 else None
                base = ops.get(name)
                found[name] = (
                    adapted(name, *options) if base is None else adapted_beside(name, base, *options)
                )
    return found


def products(
    addition: LoRA, config: Config, params: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, s A B̃) of each matrix that has an adapter: what it adds to the matrix."""
    for name, widths in addition.widths(config).items():
        lora_a, lora_b = params[f"{name}.lora_a"], params[f"{name}.lora_b"]
        columns = columns_of(lora_a, lora_b, widths)
        yield name, lora_a @ apart(lora_b, columns) * addition.scaling
