"""What may be given to a model: tokens, targets, a dtype, and places for its gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..architecture.patterns import Patterns, matching
from ..argument_kinds import as_array
from ..arguments import Ids
from ..errors import InputError
from ..layers.visibility import Visibility
from ..ops.op import check_ids

Array = NDArray[Any]

DTYPES = ("float32", "float64", "longdouble", "complex128")


def tokens(config: Config, given: Ids, window: bool = True) -> NDArray[np.int64]:
    """Tokens as int64 (..., T); InputError for any other.

    With window of at most block_size positions, where those are learned.
    """
    ids = _array("tokens", given)
    if ids.ndim == 0 or ids.size == 0:
        raise InputError(f"tokens: have shape {ids.shape}, expected (B, T) with at least one token")
    check_ids("tokens", ids, config.vocab_size)
    if window and config.positions == "learned" and ids.shape[-1] > config.block_size:
        raise InputError(
            f"tokens: {ids.shape[-1]} positions, expected at most block_size {config.block_size}:"
            " give the last of them"
        )
    return ids.astype(np.int64, copy=False)


def targets(config: Config, tokens: Ids, given: Ids) -> Array:
    """Targets as integers of the shape of tokens, or InputError; negative ones do not count."""
    ids, shape = _array("targets", given), _array("tokens", tokens).shape
    if ids.shape != shape:
        raise InputError(f"targets: have shape {ids.shape}, expected {shape} as the tokens")
    check_ids("targets", ids, config.vocab_size, negative=True)
    return ids


def batch(
    config: Config, params: Flat, given: Ids, wanted: Ids, count: int | None = None
) -> tuple[Array, Array, int | None]:
    """Tokens and targets, checked, where the parameters lie, and how many targets count."""
    ids = tokens(config, given)
    goals = targets(config, ids, wanted)
    if count is None and engine.on_gpu(params.flat):
        count = int((goals >= 0).sum())  # counted here, so that nothing has to wait for the GPU
    return beside(config, params, ids), beside(config, params, goals, negative=True), count


def beside(config: Config, params: Flat, ids: Array, negative: bool = False) -> Array:
    """Checked ids where the parameters lie: tokens, or with negative also targets."""
    return engine.checked(ids, params.flat, config.vocab_size, negative)


def _array(who: str, ids: Ids) -> Array:
    if engine.on_gpu(ids):
        raise InputError(
            f"{who}: lie on the GPU, expected them in the host's memory, where they are checked: give"
            f" {who}.get()"
        )
    return as_array(who, ids, "integers (B, T)", "pad the short ones, with targets of -1")


def expect_known(dtype: DTypeLike) -> None:
    """Raise InputError unless a model may have a dtype."""
    try:
        known = dtype is not None and np.dtype(dtype) in map(np.dtype, DTYPES)
    except TypeError:
        known = False
    if not known:
        raise InputError(f"GPT: dtype {dtype} is unknown, expected one of {', '.join(DTYPES)}")


def expect_like(who: str, flat: Flat, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless a Flat has the names and shapes of the model."""
    if flat.shapes == expected:
        return
    name = next(n for n in (*expected, *flat.shapes) if flat.shapes.get(n) != expected.get(n))
    actual, wanted = (f"has shape {s[name]}" if name in s else "is missing" for s in (flat.shapes, expected))
    wanted = wanted.replace("is missing", "no such name")
    raise InputError(f"{who}: {name} {actual}, expected {wanted.removeprefix('has ')}, as in the model")


def expect_integers(who: str, flat: Flat, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise InputError unless a Flat has the integers of a model that is quantized, or none of another."""
    given = {name: (array.dtype.name, array.shape) for name, array in flat.integers.items()}
    if given == dict(expected):
        return
    name = next(n for n in (*expected, *given) if given.get(n) != expected.get(n))
    actual, wanted = (
        f"is {s[name][0]} {s[name][1]}" if name in s else "is missing" for s in (given, expected)
    )
    wanted = wanted.replace("is missing", "no such name").removeprefix("is ")
    raise InputError(f"{who}: {name} {actual}, expected {wanted}, as in the model")


def with_served(
    expected: Mapping[str, tuple[int, ...]], params: Flat, served: Mapping[str, Any]
) -> Mapping[str, tuple[int, ...]]:
    """The shapes that a model with served ops expects: under their names whatever params have there."""
    if not served:
        return expected
    names = Patterns(tuple(served))

    def is_theirs(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:n]) in names for n in range(1, len(parts)))

    own = {name: shape for name, shape in expected.items() if not is_theirs(name)}
    theirs = {name: shape for name, shape in params.shapes.items() if is_theirs(name)}
    return own | theirs


def visibility(
    config: Config, params: Flat, given: Visibility | None, shape: Sequence[int]
) -> Visibility | None:
    """What a batch says of who sees whom, checked against tokens of a shape, where the parameters lie."""
    if given is None:
        return None
    seen = given.checked(shape)
    _expect_positions(config, seen.positions)
    return seen.beside(params.flat)


def _expect_positions(config: Config, positions: Any) -> None:
    """Raise InputError for a position that learned positions do not have."""
    if positions is None or config.positions != "learned":
        return
    largest = int(positions.max())
    if largest >= config.block_size:
        raise InputError(
            f"visibility: positions has {largest}, expected at most {config.block_size - 1}, the last of"
            " block_size learned ones"
        )


def gradient_places(who: str, params: Flat, grads: Sequence[str] | str | None, out: Flat | None) -> Flat:
    """Where gradients go: out, or a new Flat, of the parameters that patterns name, or all."""
    names: Collection[str] = params.shapes
    if grads is not None:
        names = matching(f"{who}: grads", [grads] if isinstance(grads, str) else grads, params.shapes)
    if out is not None:
        expect_gradients(who, out, params, names)
        return out
    return Flat({n: params.shapes[n] for n in names}, params.dtype, like=params.flat)


def expect_gradients(who: str, out: Flat, params: Flat, names: Collection[str] | None = None) -> None:
    """Raise InputError unless gradients with respect to params, or those of names, may be written to out."""
    expect_like(f"{who}: out", out, {name: params.shapes[name] for name in names or params.shapes})
    if out.flat is params.flat or (
        not engine.on_gpu(out.flat)
        and not engine.on_gpu(params.flat)
        and np.may_share_memory(out.flat, params.flat)
    ):
        raise InputError(
            f"{who}: out holds the parameters, which the gradients would replace, expected a Flat"
            " of its own: model.params.like()"
        )
    if not engine.on_gpu(out.flat) and not out.flat.flags.writeable:
        raise InputError(
            f"{who}: out is read-only, expected a Flat that can be written to: give model.params.like()"
        )
    places = [(flat.dtype, engine.on_gpu(flat.flat)) for flat in (out, params)]
    if places[0] != places[1]:
        (actual, wanted) = (f"{d} {'on the GPU' if gpu else 'in the host memory'}" for d, gpu in places)
        raise InputError(f"{who}: out is {actual}, expected {wanted} as the parameters: model.params.like()")
