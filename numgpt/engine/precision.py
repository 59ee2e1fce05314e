"""In which format products are computed: float32, or from operands of 16 bits (19 in TF32).

Mixed precision is that and nothing else: the operands of a matrix product are rounded, what it adds up and
what it gives is float32, and so is all that is no product: norms, softmax, losses, sums, the residual stream,
the parameters and the optimizer's moments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from ..errors import InputError
from .formats import FORMATS, PRECISIONS, SINGLE, rounded
from .place import on_gpu

__all__ = ["FORMATS", "current", "knows", "multiplies", "of_products", "product", "rounded"]

_current: ContextVar[str | None] = ContextVar("precision", default=None)


def current() -> str | None:
    """The format that products round their operands to, None where they are computed as they are."""
    return _current.get()


@contextlib.contextmanager
def of_products(name: str | None) -> Iterator[None]:
    """Have products of float32 arrays compute in a format: "bf16", "fp16", "tf32"; "float32" or None: as is.

    It holds in this thread until the context is left. Arrays of another dtype, as a proof has them, are
    multiplied as they are.
    """
    if name is not None and name not in PRECISIONS:
        raise InputError(f"precision: {name!r} is unknown, expected one of {', '.join(PRECISIONS)}")
    token = _current.set(None if name == SINGLE.name else name)
    try:
        yield
    finally:
        _current.reset(token)


def product(a: Any, b: Any) -> Any:
    """a @ b; within of_products from rounded operands, added up in float32.

    The product of two numbers of bf16, fp16 or TF32 has at most 22 bits, so it is a float32 number: a float32
    product of the rounded operands rounds nothing but its sums.
    """
    name = _current.get()
    if name is None or not (a.dtype == b.dtype == SINGLE):
        return a @ b
    if on_gpu(a):
        from .products_cupy import multiply

        return multiply(a, b, name)
    return rounded(a, name) @ rounded(b, name)


def multiplies(module: ModuleType) -> bool:
    """Whether a specification computes products: it has PRECISIONS, and its twin must know the one in use."""
    return hasattr(module, "PRECISIONS")


def knows(module: ModuleType, name: str) -> bool:
    """Whether a module of twins computes products in a format, as its PRECISIONS say; without any in none."""
    return name in getattr(module, "PRECISIONS", ())
