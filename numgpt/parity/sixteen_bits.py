"""Products of bf16 three ways: ours and those of PyTorch's autocast, each against float64."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import engine, ops
from ..engine import precision
from ..gradcheck.pair import as_dtype
from ..ops import Op
from ..proofs.subjects import Subject, op_subjects
from .borrowing import torch
from .op_table import TORCH
from .rounding import rms
from .torch_record import leaf, tensor

SIZES: dict[str, int] = {"V": 48, "C": 48, "I": 48, "O": 48, "D": 16, "T": 24, "S": 24}
ROWS = (8,)  # leading axes
SMALL = 4  # any other letter's size
FORMAT = "bf16"


@functools.cache
def multiplying() -> tuple[Op, ...]:
    """The ops that compute products of matrices: the others heed no format."""
    return tuple(op for op in ops.ALL.values() if _heeds(op))


def _heeds(op: Op) -> bool:
    """Whether an op's specification gives other bits within a format."""
    if not precision.multiplies(importlib.import_module(op.forward.__module__)):
        return False
    subject = _subject(op, 0)
    arrays = as_dtype(subject.arrays, np.float32)
    plain = op.forward(*arrays, **subject.options)[0]
    with precision.of_products(FORMAT):
        return bool((op.forward(*arrays, **subject.options)[0] != plain).any())


def _subject(op: Op, seed: int) -> Subject:
    """An op's first variant, with enough numbers for a mean of their errors."""
    sizes = op.fitted({c: SIZES.get(c, SMALL) for c in op.line if c.isupper()})
    return next(op_subjects(op, seed, sizes, ROWS))


def errors(op: Op, seed: int) -> Iterator[tuple[float, float]]:
    """(ours, PyTorch's) of the value and each gradient: root mean square, of float64's own."""
    subject = _subject(op, seed)
    arrays = as_dtype(subject.arrays, np.float32)
    shape = np.shape(op.forward(*arrays, **subject.options)[0])
    dy = np.random.default_rng([seed, 6]).standard_normal(shape).astype(np.float32)
    exact = _ours(subject, as_dtype(arrays, np.float64), dy.astype(np.float64))
    with precision.of_products(FORMAT):
        ours = _ours(subject, arrays, dy)
    for own, other, truth in zip(ours, _by_autocast(subject, arrays, dy), exact, strict=True):
        size = rms(truth)
        if size:
            yield rms(own - truth) / size, rms(other - truth) / size


def _ours(subject: Subject, arrays: Sequence[Any], dy: Any) -> list[Any]:
    """The value and the gradients by the engine in use."""
    y, saved = subject.forward(*arrays, **subject.options)
    return [engine.home(a) for a in (y, *subject.backward(dy, saved)) if a is not None]


def _by_autocast(subject: Subject, arrays: Sequence[Any], dy: Any) -> list[Any]:
    """The value and the gradients by PyTorch, which rounds what its products read, and what they give."""
    t = torch()
    assert subject.op is not None
    constants = subject.op.constants
    leaves = [tensor(a) if i in constants else leaf(a) for i, a in enumerate(arrays)]
    with t.autocast("cpu", dtype=t.bfloat16):
        value = TORCH[subject.op.name](t, *leaves, **{k: tensor(v) for k, v in subject.options.items()})
    value = value.float()
    value.backward(t.from_numpy(dy))
    grads = [x.grad for x in leaves if getattr(x, "grad", None) is not None]
    return [value.detach().numpy(), *(grad.float().numpy() for grad in grads)]
