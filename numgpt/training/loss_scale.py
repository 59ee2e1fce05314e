"""The scale of the loss in fp16, whose smallest numbers are too large for many gradients.

    dS = S dL         the backward starts from S, so each gradient is S times as large, and fewer round to 0
    g = dS-gradient / S        before anything reads it: norm, clipping, optimizer

S is a power of two, so both are exact. Where S is too large a gradient overflows: the step is left out and S
halved. After 2,000 steps without that it is doubled (Micikevicius et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError

FIRST = 2.0**16
CLEAN = 2000  # steps without overflow after which S is doubled
LARGEST = 2.0**64  # far beyond what gradients of a loss near 1 bear


class LossScale:
    """S, and how many steps it has borne.

    Attributes
    ----------
    value : float
        S.
    clean : int
        The steps since S was changed.
    agreed : function bool -> bool
        What all that train together make of what one of them found: a step is left out by all of them, or by
        none. A run of one process finds what it finds.
    """

    def __init__(self, agreed: Callable[[bool], bool] = bool) -> None:
        self.value = FIRST
        self.clean = 0
        self.agreed = agreed

    def skips(self, norm: float) -> bool:
        """Whether a step is to be left out, whose gradients, over S again, have a norm; S is adapted.

        A norm is not finite where one of its gradients is not: they need no second look.
        """
        overflows = self.agreed(not math.isfinite(norm))
        if overflows:
            self.value, self.clean = self.value / 2, 0
            return True
        self.clean += 1
        if self.clean == CLEAN:
            self.value, self.clean = min(2 * self.value, LARGEST), 0
        return False

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"value": self.value, "clean": self.clean}

    def load_state(self, stored: Any) -> None:
        """Take over what state() gave; InputError for anything else."""
        if not _is_state(stored):
            raise InputError(
                f"the run's state: loss_scale is {str(stored)[:80]}, expected it as numgpt wrote it: use"
                " another checkpoint"
            )
        self.value, self.clean = float(stored["value"]), stored["clean"]


def _is_state(stored: Any) -> bool:
    """Whether something may have been given by LossScale.state."""
    if not isinstance(stored, Mapping) or set(stored) != {"value", "clean"}:
        return False
    value, clean = stored["value"], stored["clean"]
    if type(value) not in (int, float) or type(clean) is not int:
        return False
    return 0 < value <= LARGEST and math.frexp(value)[0] == 0.5 and 0 <= clean < CLEAN
