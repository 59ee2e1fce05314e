"""A finding: one law, how far a pair is from it, and how far it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .pair import Array
from .preconditions import PURE, REPEATABLE

TRANSPOSE = "transpose of the derivative"
WITNESS = "central differences"
MISSING = "no gradient missing"
# In the order in which they are asked: what breaks one of the first two is told of nothing else.
LIMITS = {
    PURE: 0.0,
    REPEATABLE: 0.0,
    MISSING: 0.0,
    TRANSPOSE: 1e-13,
    # In longdouble, and by how much they may be off is granted besides; erf's rational form is a float64 one.
    WITNESS: 1e-8,
    "linear in dy": 1e-12,  # three runs of the backward, each with rounding of its own
    "doubles with dy": 0.0,
    "keeps the dtype": 0.0,
}


class Finding:
    """One law: how far the pair is from it, and how far it may be.

    Parameters
    ----------
    law : str
        A key of LIMITS.
    residual, limit : float
        How far the pair is from the law, and how far it may be.
    detail : str or callable
        The message, or a function that makes it: what is at fault takes time to find out.
    """

    def __init__(self, law: str, residual: float, limit: float, detail: str | Callable[[], str] = "") -> None:
        self.law, self.residual, self.limit = law, residual, limit
        self._detail = detail

    @property
    def detail(self) -> str:
        """Where the pair is wrong, or what was left out; "" for nothing."""
        if not isinstance(self._detail, str):
            self._detail = self._detail()
        return self._detail

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the message instead of the function that makes it."""
        return vars(self) | {"_detail": self.detail}

    @property
    def holds(self) -> bool:
        """Whether the residual is within the limit (NaN is not)."""
        return self.residual <= self.limit

    def __repr__(self) -> str:
        verdict = "holds" if self.holds else "is broken"
        return f"{self.law}: {verdict}, residual {self.residual:.1e}, at most {self.limit:.0e}"


def finding(law: str, residual: float, detail: str = "") -> Finding:
    """The Finding with the law's own limit."""
    return Finding(law, float(residual), LIMITS[law], detail)


def apart(forth: Array, back: Sequence[Array]) -> float:
    """|⟨dy, Jv⟩ − ⟨gradient, v⟩| from the terms of each, relative to their absolute sum."""
    difference = forth.sum() - sum(t.sum() for t in back)
    return relative(difference, abs(forth).sum() + sum(abs(t).sum() for t in back))


def relative(difference: Any, terms: Any) -> float:
    """|difference| over the terms' absolute sum; 0 where both are 0, NaN where either is."""
    if difference == 0:
        return 0.0
    return float(abs(difference) / terms) if terms else float("inf")
