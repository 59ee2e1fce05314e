"""Mixed precision in a run: who may ask for it, the scale of its loss, the steps that are left out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import engine
from ..architecture.config import Training
from ..engine import precision
from ..engine.formats import SINGLE
from ..errors import InputError
from ..ops import linear
from .finite import QUIET
from .log import Entry
from .loss_scale import LossScale

CAPABILITY = {"fp16": 70, "bf16": 80, "tf32": 80}  # of a GPU whose tensor cores know a format
COSTS = "1.3 to 3.2 times as long"  # benchmarks/precision.py --shape a b, and --reference


class Mixed:
    """The precision of a run, and what of it changes as the run goes on.

    loss_scale: the LossScale of fp16, None in other precisions.
    is_emulated: whether the engine has no such products, and rounds the operands of float32's.
    skipped: how many steps of the run were left out, whatever it computes in now.
    """

    def __init__(self, training: Training, dtype: DTypeLike) -> None:
        expect(training, dtype)
        self.precision = training.precision
        self.is_emulated = self.precision != SINGLE.name and _lacking(self.precision) is not None
        self.loss_scale = LossScale() if training.precision == "fp16" else None
        self.skipped = 0

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled: each step then waits for its norm."""
        return self.loss_scale is not None

    @property
    def scale(self) -> float:
        """What the next step's loss is times, within the backward."""
        return 1.0 if self.loss_scale is None else self.loss_scale.value

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Products in the run's precision; what is not finite raises nothing: it is looked for by name."""
        with np.errstate(**QUIET), precision.of_products(self.precision):
            yield

    def skips(self, entry: Entry) -> bool:
        """Whether the step of a log's entry, with its loss and norm, is to be left out; the entry says so.

        No scale helps a loss that overflows, nor gradients that do at a scale of 1: those are to be told of.
        """
        if self.loss_scale is None:
            return False
        loss, norm, scale = float(entry["loss"]), float(entry["norm"]), self.loss_scale.value
        entry.update(loss=loss, norm=norm, loss_scale=scale)
        is_hopeless = not np.isfinite(loss) or (scale <= 1 and not np.isfinite(norm))
        if is_hopeless or not self.loss_scale.skips(norm):
            return False
        self.skipped += 1
        entry.update(norm=None, skipped=True)
        return True

    def state(self, updates: int) -> dict[str, Any]:
        """What a resumed run has to know after so many steps, of which the optimizer has made `moved`."""
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state()}
        return scale | ({"moved": updates - self.skipped} if self.skipped else {})

    def load_state(self, stored: Mapping[str, Any]) -> None:
        """Take over a run's state; one of another precision has no scale."""
        self.skipped = stored["updates"] - stored.get("moved", stored["updates"])
        if self.loss_scale is not None and "loss_scale" in stored:
            self.loss_scale.load_state(stored["loss_scale"])


def expect(training: Training, dtype: DTypeLike) -> None:
    """Raise InputError unless training with such parameters may compute in its precision here."""
    name = training.precision
    if name == SINGLE.name:
        return
    if np.dtype(dtype) != SINGLE:
        raise InputError(
            f"Trainer: precision is {name}, which rounds what float32 products read, and the parameters are"
            f" {np.dtype(dtype)}, expected float32: leave one of the two out"
        )
    lacking = _lacking(name)
    if lacking and not training.emulate_precision:
        raise InputError(
            f"Trainer: precision is {name}, of which {lacking}, expected an engine that has: emulated, by"
            f" rounding the operands of float32 products, a step takes {COSTS} as in float32; allow it by"
            " --emulate-precision (emulate_precision=True), or leave --precision out"
        )


def _lacking(name: str) -> str | None:
    """What keeps products in a format from being computed as such, None where they are."""
    if engine.is_cupy():
        runtime = sys.modules["cupy"].cuda.runtime
        gpu = runtime.getDeviceProperties(runtime.getDevice())
        found, needed = 10 * gpu["major"] + gpu["minor"], CAPABILITY[name]
        if found < needed:
            return f"this GPU has no products (compute capability {found / 10}, below {needed / 10})"
        return None
    if engine.computes(linear.forward, name):
        return None
    where = "" if engine.current() == "reference" else " on this processor"
    return f"the {engine.current()} engine has no products{where}"
