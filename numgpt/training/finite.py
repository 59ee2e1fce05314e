"""Numbers of a run that are not finite: the first name that holds one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import engine
from ..architecture.parameters import Flat
from ..engine import precision
from ..model import differentiable
from ..model.gpt import GPT
from .log import Entry
from .objective import Batch

QUIET: Any = {"over": "ignore", "invalid": "ignore", "under": "ignore"}  # what is not finite is named


class NotFinite(ArithmeticError):
    """The loss or a gradient is not finite."""


def bad_parameter(params: Flat) -> str | None:
    """That a parameter is not finite, with its name; None where all are."""
    bad = params.first_not_finite()
    return None if bad is None else f"the parameter {bad} is not finite"


def expect_finite(model: GPT, batches: Iterable[Batch], step: int, loss: Any, norm: Any) -> None:
    """Raise NotFinite with the first name whose numbers are not finite, in the batches of a step."""
    if np.isfinite(loss) and np.isfinite(norm):
        return
    bad = bad_parameter(model.params)
    if bad:
        raise NotFinite(f"step {step + 1}: {bad}: lower --lr")
    for n, batch in enumerate(batches):
        with np.errstate(**QUIET):
            record = differentiable.record(
                model, batch.layer, batch.inputs, step=(step, n), visibility=batch.visibility
            )
        for what, arrays in (("value", record.value), ("gradient of", record.grad)):
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise NotFinite(
                        f"step {step + 1}: the {what} {name} is the first that is not finite, the loss is"
                        f" {loss}: lower --lr, or use {_wider()}"
                    )
    raise NotFinite(
        f"step {step + 1}: the norm of the gradients is {norm}, expected a finite one: lower --lr"
    )


def _wider() -> str:
    """The flag that gives numbers more room than they had."""
    return "--precision bf16" if precision.current() == "fp16" else "--dtype float64"


def fetched(entries: list[Entry], params: Flat, updates: int) -> list[Entry]:
    """Log entries with numbers in them, fetched from the GPU all at once, but for those that have theirs.

    NotFinite at the first step whose loss or norm is not finite. The parameters have moved on by then, after
    so many updates, and what is not finite has spread in them.
    """
    if not entries or "begun" not in entries[0]:
        return entries
    pairs = [np.stack([e["loss"].astype(np.float64), e["norm"].astype(np.float64)]) for e in entries]
    numbers = engine.home(np.stack(pairs)).tolist()
    # Of all of them together: a step alone returns as soon as the GPU was asked for it.
    seconds = time.perf_counter() - entries[0]["begun"]
    rate = round(sum(e["tokens"] for e in entries) / seconds)
    complete = []
    for entry, (loss, norm) in zip(entries, numbers):
        step = entry["step"]
        if not (np.isfinite(loss) and np.isfinite(norm)):
            why = bad_parameter(params) or "the parameters are finite"
            raise NotFinite(
                f"step {step}: the loss is {loss} and the norm of the gradients {norm}, by step {updates}"
                f" {why}: lower --lr"
            )
        kept = {name: entry[name] for name in ("lr", "tokens")}
        complete.append({"step": step, "loss": loss, "norm": norm} | kept | {"tokens_per_s": rate})
    return complete
