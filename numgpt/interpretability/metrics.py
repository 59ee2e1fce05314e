"""Metrics: what of the logits an experiment looks at, each with its exact gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arguments import Ids, checked
from ..errors import InputError
from ..model.gpt import GPT
from .prompts import answer_ids, token_rows

Array = NDArray[Any]


class Metric(Protocol):
    """A number for each row of logits, and its gradient.

    at: the position whose logits are given, counted from the end where it is negative; None for all.
    value: logits (B, V), or (B, T, V) for all positions → (B). gradient: the same logits → of their shape.
    Where an experiment has N texts, row b is of text b mod N.
    """

    @property
    def at(self) -> int | None:
        """The position whose logits are given."""
        ...

    def value(self, logits: Array) -> Array:
        """The number of each row."""
        ...

    def gradient(self, logits: Array) -> Array:
        """Its gradient with respect to the row's logits."""
        ...


@dataclass(frozen=True)
class AnswerMetric:
    """What the logits z of one position say of an answer a, and perhaps of a wrong answer w.

        logit difference    z_a − z_w          gradient  e_a − e_w
        log-probability     log p_a            gradient  e_a − p        p the softmax of z
        probability         p_a                gradient  p_a (e_a − p)

    Make one by logit_difference, log_probability or probability, which turn texts into ids.
    """

    kind: str
    answer: tuple[int, ...]
    wrong: tuple[int, ...] | None = None
    at: int | None = -1

    @checked
    def value(self, logits: Array) -> Array:
        """The number of each row.  logits (B, V) → (B)"""
        rows, answer, wrong = self._places(logits)
        z = logits[rows, answer]
        if wrong is not None:
            return z - logits[rows, wrong]
        found = z - _log_sum(logits)
        return np.exp(found) if self.kind == "probability" else found

    @checked
    def gradient(self, logits: Array) -> Array:
        """Its gradient with respect to the row's logits.  logits (B, V) → (B, V)"""
        rows, answer, wrong = self._places(logits)
        if wrong is not None:
            dlogits = np.zeros_like(logits)
            dlogits[rows, answer] += 1
            dlogits[rows, wrong] -= 1
            return dlogits
        dlogits = -np.exp(logits - _log_sum(logits)[:, None])
        dlogits[rows, answer] += 1
        if self.kind == "probability":
            dlogits *= self.value(logits)[:, None]
        return dlogits

    def _places(self, logits: Array) -> tuple[Array, Array, Array | None]:
        """The number of each row, and the ids of its answers."""
        if logits.ndim != 2 or logits.size == 0 or logits.dtype.kind not in "fc":
            raise InputError(
                f"{self.kind}: logits are {logits.dtype} of shape {logits.shape}, expected floats (B, V)"
            )
        largest = max(*self.answer, *(self.wrong or self.answer))
        if largest >= logits.shape[1]:
            raise InputError(
                f"{self.kind}: an answer has id {largest}, expected ids below the {logits.shape[1]} logits"
            )
        rows = np.arange(len(logits))
        answers = [None if a is None else np.array(a)[rows % len(a)] for a in (self.answer, self.wrong)]
        assert answers[0] is not None
        return rows, answers[0], answers[1]


@dataclass(frozen=True, eq=False)
class Surprise:
    """The mean surprise of each text at its next tokens, −⟨log p⟩ over those that count: a loss a row.

    targets (N, T): the token after each position; negative ones do not count. Make one by surprise.
    """

    targets: Array
    at: int | None = None

    @checked
    def value(self, logits: Array) -> Array:
        """The mean of each row.  logits (B, T, V) → (B)"""
        targets, weights = self._rows(logits)
        picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return ((_log_sum(logits) - picked) * weights).sum(-1)

    @checked
    def gradient(self, logits: Array) -> Array:
        """Its gradient, (p − e_target) / n with n targets that count.  logits (B, T, V) → the same"""
        targets, weights = self._rows(logits)
        dlogits = np.exp(logits - _log_sum(logits)[..., None])
        picked = np.take_along_axis(dlogits, targets[..., None], -1)
        np.put_along_axis(dlogits, targets[..., None], picked - 1, -1)
        return dlogits * weights[..., None]

    def _rows(self, logits: Array) -> tuple[Array, Array]:
        """The targets of each row, 0 where none counts, and what each counts."""
        N, T = self.targets.shape
        if logits.ndim != 3 or logits.shape[1] != T or logits.dtype.kind not in "fc":
            raise InputError(
                f"surprise: logits are {logits.dtype} of shape {logits.shape}, expected floats (B, {T}, V)"
            )
        rows = self.targets[np.arange(len(logits)) % N]
        counts = rows >= 0
        weights = counts / counts.sum(-1, keepdims=True)
        return np.where(counts, rows, 0), weights.astype(logits.real.dtype)


@checked
def logit_difference(model: GPT, answer: Any, wrong: Any, at: int = -1) -> AnswerMetric:
    """z_answer − z_wrong at a position: the metric in which most circuits were found (Wang et al. 2022).

    Parameters
    ----------
    model : GPT
        Its tokenizer reads the answers.
    answer, wrong : str, int, or a sequence of them, one for each text
        One token each; a text of several is an InputError, for only the first would be looked at.
    at : int
        The position, counted from the end where it is negative.

    Notes
    -----
    Linear in the logits, so a patch cannot saturate it as it does a probability. It does not show how likely
    either answer is: both may be far below a third.

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> from numgpt.interpretability import logit_difference
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> logit_difference(model, 3, 1).value(np.array([[0.0, 1.0, 2.0, 4.0, 0.0]]))
    array([3.])
    """
    right, other = answer_ids("logit_difference", model, answer), answer_ids("logit_difference", model, wrong)
    if right == other:
        raise InputError(
            f"logit_difference: answer and wrong are the same token, {answer!r}, expected two: the difference"
            " is 0 whatever the logits"
        )
    if len(right) != len(other) and min(len(right), len(other)) > 1:
        raise InputError(
            f"logit_difference: {len(right)} answers and {len(other)} wrong ones, expected as many of each"
        )
    return AnswerMetric("logit difference", right, other, at)


@checked
def log_probability(model: GPT, answer: Any, at: int = -1) -> AnswerMetric:
    """log p_answer at a position, in nats.

    Parameters
    ----------
    model : GPT
    answer, at
        As in logit_difference.
    """
    answers = answer_ids("log_probability", model, answer)
    return AnswerMetric("log-probability", answers, None, at)


@checked
def probability(model: GPT, answer: Any, at: int = -1) -> AnswerMetric:
    """p_answer at a position: what ROME's causal tracing looks at. Flat where it is near 0 or 1.

    Parameters
    ----------
    model : GPT
    answer, at
        As in logit_difference.
    """
    answers = answer_ids("probability", model, answer)
    return AnswerMetric("probability", answers, None, at)


@checked
def surprise(model: GPT, targets: Ids) -> Surprise:
    """The mean surprise at the targets of each text: the model's loss, as a metric.

    Parameters
    ----------
    model : GPT
    targets : integers (T,) or (N, T), or texts
        The token after each position; negative ones do not count.
    """
    given: Any = targets
    rows = token_rows("surprise: targets", model, given, negative=True)
    if not (rows >= 0).any(-1).all():
        raise InputError("surprise: a row has no target that counts, expected at least one that is not -1")
    return Surprise(rows)


def value_of(metric: Metric, logits: Array) -> Array:
    """The metric of each row of logits, or InputError where it does not give one number for each."""
    found = np.asarray(metric.value(logits))
    if found.shape != (len(logits),) or found.dtype.kind not in "fc":
        raise InputError(
            f"metric: its value is {found.dtype} of shape {found.shape}, expected floats ({len(logits)},),"
            " one for each row"
        )
    return found


def gradient_of(metric: Metric, logits: Array) -> Array:
    """The metric's gradient in the logits' dtype, or InputError where it is not of their shape."""
    found = np.asarray(metric.gradient(logits))
    if found.shape != logits.shape or found.dtype.kind not in "fc":
        raise InputError(
            f"metric: its gradient is {found.dtype} of shape {found.shape}, expected floats {logits.shape},"
            " as the logits"
        )
    return found.astype(logits.dtype, copy=False)


def expect_difference(who: str, clean: float, corrupted: float, dtype: Any) -> None:
    """Raise InputError where the metric of two runs differs by rounding alone, or is no number."""
    scale = max(abs(clean), abs(corrupted)) * np.finfo(dtype).eps
    if not abs(clean - corrupted) > scale:
        raise InputError(
            f"{who}: the metric is {clean:.6g} on the clean prompt and {corrupted:.6g} on the corrupted one,"
            " expected a difference, of which a patch brings back a share"
        )


def shares(found: Array, clean: float, corrupted: float, logits: Array) -> Array:
    """How much of clean − corrupted came back in each run, 0 where a run differs by rounding alone.

    Rows of one batch are rounded otherwise than those of another; without this, runs in which nothing came
    back would be ordered by their last bits. logits: of either run: size and dtype say what rounding is.
    """
    noise = 64 * np.finfo(logits.real.dtype).eps * max(1.0, float(abs(logits).max()))
    step = np.where(abs(found - corrupted) <= noise, 0.0, found - corrupted)
    share: Array = step / (clean - corrupted)
    return share


def expect_place(who: str, metric: Metric, ids: Array) -> None:
    """Raise InputError where a metric looks at a position, or at texts, that there are not."""
    T, at = ids.shape[-1], metric.at
    if isinstance(at, bool) or not isinstance(at, int | np.integer | None):
        raise InputError(f"{who}: the metric looks at position {at!r}, expected an integer, or None for all")
    if at is not None and not -T <= at < T:
        raise InputError(f"{who}: the metric looks at position {at}, expected {-T} to {T - 1}")
    targets = getattr(metric, "targets", None)
    if targets is not None and targets.shape != ids.shape:
        raise InputError(
            f"{who}: the metric has targets {targets.shape}, expected {ids.shape} as the prompts' tokens"
        )
    for name in ("answer", "wrong"):
        ids_of_it = getattr(metric, name, None)
        if ids_of_it is not None and len(ids_of_it) not in (1, len(ids)):
            raise InputError(
                f"{who}: the metric has {len(ids_of_it)} answers, expected one, or one for each of the"
                f" {len(ids)} prompts"
            )


def _log_sum(logits: Array) -> Array:
    """log Σ exp z over the vocabulary; it takes complex numbers, whose real parts say what is largest."""
    top = logits.real.max(-1, keepdims=True)
    found: Array = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return found
