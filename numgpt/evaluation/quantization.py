"""What rounding costs a model: how far weights and logits move, and what its predictions lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.quantized import CALIBRATION
from ..arguments import Ids, Size, checked
from ..errors import InputError
from ..layers.adapters import rounded
from ..model.gpt import GPT

Array = NDArray[Any]

MEASURED = 65_536  # tokens that are measured at most
BATCH = 2_048  # tokens at once
# What a row says → the arguments of GPT.quantize; calibration is put in where a scheme is GPTQ's.
SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4, absmax": {"bits": 4, "clip": "absmax"},
    "int4, MSE clip": {"bits": 4},
    "int4, asymmetric": {"bits": 4, "clip": "absmax", "asymmetric": True},
    "int4, asymmetric, MSE clip": {"bits": 4, "asymmetric": True},
    "int4, GPTQ": {"bits": 4, "calibration": True},
    "int4, GPTQ, asymmetric": {"bits": 4, "calibration": True, "asymmetric": True},
    "int4, MSE clip, embedding kept": {"bits": 4, "keep_embedding": True},
}


class Cost(NamedTuple):
    """What a scheme costs a model on a text.

    weights: ‖W − Ŵ‖ / ‖W‖ of all that is rounded. logits: the same of the logits, less each row's mean, which
    no softmax sees. loss: nats a token that it gains. same: the share of tokens whose likeliest successor is
    the same. size: bytes of all parameters.
    """

    scheme: str
    weights: float
    logits: float
    loss: float
    same: float
    size: int


@checked
def quantization_costs(
    model: GPT, ids: Ids, group: Size = 64, progress: Callable[[str], object] | None = None
) -> Iterator[Cost]:
    """The Cost of each scheme of SCHEMES, on a text.

    Parameters
    ----------
    model : GPT
        In floats.
    ids : integers (N,)
        The first half, but 16,384 tokens at most, calibrates GPTQ; what follows is measured, 65,536 at most.
    group : int
        How many inputs share a scale with 4 bits.
    progress : callable, optional
        Told the name of each scheme before it is measured.

    Yields
    ------
    Cost
    """
    T = model.config.block_size
    tokens = np.asarray(ids).reshape(-1)
    whole = (len(tokens) - 1) // T
    if whole < 2:
        raise InputError(
            f"quantize: the text has {len(tokens):,} tokens, expected {2 * T + 1:,} or more to measure"
        )
    n = max(1, min(whole // 2, CALIBRATION // T))
    calibration = tokens[: n * T].reshape(n, T)
    end = min(whole, n + max(1, MEASURED // T)) * T
    x, y = tokens[n * T : end].reshape(-1, T), tokens[n * T + 1 : end + 1].reshape(-1, T)
    for scheme, options in SCHEMES.items():
        if progress is not None:
            progress(scheme)
        given = {"calibration": calibration} if "calibration" in options else {}
        yield _cost(scheme, model, model.quantize(**{"group": group} | options | given), x, y)


def _cost(scheme: str, model: GPT, other: GPT, x: Array, y: Array) -> Cost:
    """What a model that is rounded costs, beside the model itself."""
    errors = np.zeros(2)  # of weights: the squares of differences, and of the weights
    floats = other.dequantized()
    for name in rounded(other.additions, other.config):
        weight = model.params.get(f"{name}.weight")
        if weight is not None:  # a tied unembedding has none
            change = np.subtract(floats.params[f"{name}.weight"], weight, dtype=np.float64)
            errors += [(change**2).sum(), np.square(weight, dtype=np.float64).sum()]
    sums = sum((_of_batch(model(a), other(a), b) for a, b in _batches(x, y)), np.zeros(4))
    moved, size, gained, same = (float(s) for s in sums)
    return Cost(
        scheme,
        float(np.sqrt(errors[0] / errors[1])),
        (moved / size) ** 0.5,
        gained / y.size,
        same / y.size,
        other.params.nbytes,
    )


def _batches(x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    n = max(1, BATCH // x.shape[1])
    for begin in range(0, len(x), n):
        yield x[begin : begin + n], y[begin : begin + n]


def _of_batch(before: Array, after: Array, y: Array) -> Array:
    """Sums: squares of the logits' changes, of the logits, what losses gain, how many say the same."""
    before, after = (a - a.mean(-1, keepdims=True) for a in (before.astype(float), after.astype(float)))
    losses = [_surprise(a, y).sum() for a in (before, after)]
    same = (before.argmax(-1) == after.argmax(-1)).sum()
    return np.array([((after - before) ** 2).sum(), (before**2).sum(), losses[1] - losses[0], same])


def _surprise(logits: Array, y: Array) -> Array:
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    surprise: Array = total - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    return surprise
