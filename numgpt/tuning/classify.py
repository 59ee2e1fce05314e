"""Tasks with a head: a class for each text, or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..architecture.additions import Head
from ..architecture.config import Training
from ..argument_kinds import as_array
from ..arguments import AtLeastZero, Count, Ids, Size, checked
from ..data import stacked
from ..errors import InputError
from ..layers.task_heads import scores, tasks
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import Batch
from . import order


def head_of(model: Any, known: Sequence[str]) -> Head:
    """A model's head, or InputError where it has none of a task that is known here."""
    head = next((a for a in model.additions if isinstance(a, Head)), None)
    if head is None or head.task not in known:
        what = "no head" if head is None else f"a head for {head.task}"
        example = "Head(labels=(…))" if "classes" in known else f"Head(task={known[0]!r})"
        raise InputError(
            f"tuning: the model has {what}, expected one for {' or '.join(known)}: give"
            f" model.extended(numgpt.{example})"
        )
    return head


def readings(head: Head, ids: NDArray[Any], lengths: NDArray[Any]) -> Any:
    """What a head reads of texts in rows (B, T): the places of their last tokens, or which are theirs."""
    if head.pool == "last":
        return lengths - 1
    return (np.arange(ids.shape[1]) < lengths[:, None]).astype(float)


class Tasks:
    """The mean loss of a head: of classes the surprise at the label, of numbers the mean squared error.

    Parameters
    ----------
    model : GPT
        With a Head of classes or numbers.
    texts : sequence of ids
        Whole texts in tokens.
    labels : integers (N,), places in the head's labels; or numbers (N,) or (N, n)
    training : Training
        Its batch_size counts texts.
    held_out : (texts, labels), optional
    text_weight : float
        The weight of the surprise at the text itself, which is added: GPT-1's second objective.
    """

    @checked
    def __init__(
        self,
        model: GPT,
        texts: Sequence[Ids],
        labels: ArrayLike,
        training: Training,
        held_out: tuple[Sequence[Ids], ArrayLike] | None = None,
        *,
        text_weight: AtLeastZero = 0.0,
        source: str = "a task",
    ) -> None:
        self.head = head_of(model, ("classes", "numbers"))
        self.training = training
        self.text_weight = text_weight
        self.layer = tasks(self.head.task, self.head.pool, text_weight)
        self.held_out_layer = tasks(self.head.task, self.head.pool)
        self.data = self._checked(texts, labels)
        self.held_out_data = None if held_out is None else self._checked(*held_out)
        if held_out is not None:
            self.held_out = self._held_out
        self.source = source
        self.recipe: dict[str, Any] = {}
        parts = [self.data, *([self.held_out_data] if self.held_out_data else [])]
        words = self.head, text_weight
        self.digest = order.digest(words, (a for texts, labels in parts for a in (*texts, labels)))

    def _checked(self, texts: Sequence[Ids], given: ArrayLike) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        rows = [np.asarray(text) for text in texts]
        n, labels = self.head.width, as_array("Tasks: labels", given, "one for each text")
        if labels.ndim == 0 or len(rows) != len(labels) or not rows:
            raise InputError(
                f"Tasks: {len(rows):,} texts have labels {labels.shape}, expected one for each text"
            )
        if self.head.task == "numbers":
            if labels.dtype.kind not in "biuf" or labels.size != len(rows) * n:
                raise InputError(
                    f"Tasks: labels are {labels.dtype} of shape {labels.shape}, expected numbers"
                    f" ({len(rows)}, {n})"
                )
            return rows, labels.astype(float).reshape(len(rows), n)
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise InputError(
                f"Tasks: labels are {labels.dtype} of shape {labels.shape}, expected integers ({len(rows)},)"
            )
        bad = next((label for label in labels.tolist() if not 0 <= label < n), None)
        if bad is not None:
            raise InputError(
                f"Tasks: a label is {bad}, expected integers from 0 to {n - 1}, the head's labels"
            )
        return rows, labels

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.data[0])

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The next texts in the order of their epoch."""
        items = order.drawn(len(self.data[0]), self.training, step, n)
        return self._batch(self.data, items, self.layer, self.text_weight > 0)

    def _held_out(self) -> Iterator[Batch]:
        """The first eval_iters batches of what is held out; their loss is the task's alone."""
        assert self.held_out_data is not None, "held_out is there only then"
        for items in order.in_turn(len(self.held_out_data[0]), self.training):
            yield self._batch(self.held_out_data, items, self.held_out_layer, False)

    def _batch(self, data: Any, items: Any, layer: Any, with_text: bool) -> Batch:
        texts, labels = data
        ids, lengths = stacked([texts[item] for item in items])
        inputs: tuple[Any, ...] = (ids, readings(self.head, ids, lengths), labels[items])
        if with_text:
            targets = np.concatenate([ids[:, 1:], ids[:, :1]], axis=1)
            weights = (np.arange(ids.shape[1]) < lengths[:, None] - 1).astype(float)
            inputs = *inputs, targets, weights
        return Batch(inputs, layer, float(len(items)))


@checked
def predictions(model: GPT, texts: Sequence[Ids], batch_size: Size = 32) -> NDArray[Any]:
    """The scores that a model's head gives texts in tokens, (N, n), in float64."""
    head = head_of(model, ("classes", "numbers", "reward"))
    found = [np.zeros((0, head.width))]
    for begin in range(0, len(texts), batch_size):
        ids, lengths = stacked(texts[begin : begin + batch_size])
        inputs = ids, readings(head, ids, lengths)
        found.append(engine.home(differentiable.value(model, scores(head.pool), inputs)).astype(np.float64))
    return np.concatenate(found)
