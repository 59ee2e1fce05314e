"""The batch that two models are compared on: the one that was given, checked, or one that is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..architecture.config import LARGEST
from ..errors import InputError
from ..ops.op import check_ids
from ..random import generator
from .sides import State

Batch = tuple[Any, Any]  # tokens and targets


def batch_of(sides: Any, tokens: Any, targets: Any, seed: int, shape: Any) -> Batch:
    """(tokens, targets): those given, those of a debug state, or drawn, each target the next token."""
    own = next((s.batch for s in sides if isinstance(s, State)), None)
    if own is not None:
        if tokens is not None or targets is not None:
            raise InputError(
                "parity: tokens or targets were given beside a debug state, expected none: it has its own"
            )
        return own
    V, longest = (min(getattr(s.config, name) for s in sides) for name in ("vocab_size", "block_size"))
    if tokens is None and targets is None:
        B, T = _shape(shape, longest)
        drawn = generator(seed, "parity").integers(0, V, (B, T + 1))
        return np.ascontiguousarray(drawn[:, :-1]), np.ascontiguousarray(drawn[:, 1:])
    if tokens is None or targets is None:
        given = "targets" if tokens is None else "tokens"
        raise InputError(f"parity: only {given} were given, expected tokens and targets, (B, T) integers")
    tokens, targets = _ids("tokens", tokens, V), _ids("targets", targets, V)
    if tokens.shape != targets.shape or tokens.shape[1] > longest:
        raise InputError(
            f"parity: tokens have shape {tokens.shape} and targets {targets.shape}, expected (B, T) for both,"
            f" T at most block_size {longest}"
        )
    return tokens, targets


def _shape(shape: Any, longest: int) -> tuple[int, int]:
    """(B, T) of a batch to draw."""
    is_pair = isinstance(shape, tuple | list) and len(shape) == 2
    B: Any = shape[0] if is_pair else None
    T: Any = shape[1] if is_pair else None
    if T is None:
        T = min(16, longest)
    are_sizes = all(isinstance(n, int | np.integer) and n >= 1 for n in (B, T))
    if not are_sizes:
        raise InputError(
            f"parity: the shape of the batch is {shape!r}, expected (B, T), B from 1 to {LARGEST:,}, T from 1"
            f" to block_size {longest}"
        )
    if B > LARGEST:
        raise InputError(f"parity: the batch has {B:,} sequences, expected 1 to {LARGEST:,}")
    if longest < T:
        raise InputError(f"parity: the batch has {T:,} tokens a sequence, expected 1 to block_size {longest}")
    return B, T


def _ids(who: str, ids: Any, V: int) -> Any:
    """Ids from a list, an array or a tensor → (B, T) int64."""
    try:
        ids = np.atleast_2d(np.asarray(ids))
    except (ValueError, TypeError) as error:  # rows that differ in length; a tensor of another device
        reason = " ".join(str(error).split())
        raise InputError(f"parity: {who} are not an array ({reason}), expected (B, T) integers") from error
    if ids.ndim != 2 or not ids.size:
        raise InputError(f"parity: {who} have shape {ids.shape}, expected (B, T) with at least one")
    check_ids(f"parity: {who}", ids, V, negative=who == "targets")
    return np.ascontiguousarray(ids, np.int64)


def dtype_of(dtype: Any) -> str:
    """The name of a dtype in which both sides can run."""
    try:
        name = np.dtype(dtype).name if dtype is not None else None
    except (TypeError, ValueError):
        name = None
    if name not in ("float32", "float64"):
        raise InputError(f"parity: dtype is {dtype}, expected float32 or float64")
    return name
