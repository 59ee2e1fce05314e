"""What the checker says: findings with codes and numbers, verdicts on gradients, and the report of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One mistake, named.

    Attributes
    ----------
    code : str
        Such as LN_MEAN_TERM_MISSING: the same for all students, for teachers to translate or to leave out.
    says : str
        A sentence.
    gradient : str
        Of which result; "" where it is the whole function's.
    numbers : dict
        The evidence.
    """

    code: str
    says: str
    gradient: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Coefficient:
    """How much of a term there is, and how much there should be."""

    text: str
    got: float
    want: float


@dataclass(frozen=True)
class Witnessed:
    """One element by three ways: the differences of the forward, the reference, and the student's."""

    index: tuple[int, ...]
    differences: float | None
    reference: float
    yours: float


@dataclass(frozen=True)
class Judged:
    """The verdict on one gradient.

    word: "ok", "WRONG", "not judged". ulps, difference: how far it is off, in roundings of its largest terms,
    and as a number. coefficients: of its terms, where they explain it. where: which elements are wrong.
    reason: what must be 0, and is not. smallest: the smallest case that fails, as a text.
    """

    name: str
    word: str
    ulps: float = 0.0
    difference: float = 0.0
    findings: tuple[Finding, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    where: str = ""
    reason: str = ""
    witness: Witnessed | None = None
    smallest: str = ""


@dataclass(frozen=True)
class Report:
    """What is known of a student's function.

    findings: of the whole function, such as one that raises; gradients: a verdict on each result, none where
    there was nothing to judge. notes: what is no mistake, and is to be known.
    """

    exercise: str
    function: str
    gradients: tuple[Judged, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and all(g.word == "ok" for g in self.gradients) and bool(self.gradients)

    @property
    def every(self) -> tuple[Finding, ...]:
        """All findings: those of the whole function, then those of each gradient."""
        return (*self.findings, *(f for g in self.gradients for f in g.findings))

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, each once."""
        return tuple(dict.fromkeys(f.code for f in self.every))
