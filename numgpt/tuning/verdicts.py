"""KTO: single responses that were called good or bad are compared with what a fixed model makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Training
from ..arguments import Count, Positive, Size, checked
from ..data import Example, RowBatch, Rows, padded
from ..errors import InputError
from ..layers.tuning_losses import log_likelihoods, verdicts
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import Batch
from . import order


class Verdicts:
    """The mean loss of responses that are good or bad, of which no two need belong together: KTO.

        y = w (1 − σ(s (β l − z₀)))        l = ln of how much likelier the model makes the response than the
        s = 1 if it is good, else −1           fixed model does
        z₀ = β max(0, mean of l over prompts with the response to another prompt of the batch)

    z₀ is a constant: nothing is learned from it. Source: Ethayarajh et al. 2024.

    Parameters
    ----------
    model : GPT
        The one that is trained; z₀ asks it.
    judged : sequence of (data.Example, bool)
        Responses to prompts, and whether each is good.
    training : Training
        Its batch_size counts responses; 2 or more.
    block_size : int
    fixed : model
        The model that is compared with: the one that training begins with, as numgpt.tuning.frozen gives it.
    held_out : sequence of (data.Example, bool)
    beta : float
        How far the model may move from the fixed one: less for larger ones.
    desirable_weight, undesirable_weight : float
        w, of good responses and of bad ones. Where one kind is rarer, the paper weighs it so that the sums of
        weights are within a third of each other.

    Raises
    ------
    InputError
        For fewer than two responses, or batches of one.
    """

    @checked
    def __init__(
        self,
        model: GPT,
        judged: Sequence[tuple[Example, bool]],
        training: Training,
        block_size: Size,
        fixed: Any,
        held_out: Sequence[tuple[Example, bool]] = (),
        *,
        beta: Positive = 0.1,
        desirable_weight: Positive = 1.0,
        undesirable_weight: Positive = 1.0,
        source: str = "verdicts",
    ) -> None:
        for what, n in (
            ("the number of responses", len(judged)),
            ("batch_size", training.batch_size),
        ):
            if n < 2:
                raise InputError(
                    f"Verdicts: {what} is {n}, expected 2 or more: each prompt is compared with another one's"
                    " response"
                )
        self.model, self.fixed, self.training = model, fixed, training
        self.beta, self.block_size = beta, block_size
        self.weights = undesirable_weight, desirable_weight
        self.layer = verdicts(beta)
        self.data = _rows(judged, block_size)
        self.held_out_data = None
        if held_out:
            self.held_out_data = _rows(held_out, block_size)
            self.held_out = self._held_out
        self.source = source
        self.recipe: dict[str, Any] = {}
        words = block_size, beta, desirable_weight, undesirable_weight
        labels = [np.array([is_good for _, is_good in (*judged, *held_out)])]
        self.digest = order.digest(
            words, labels + [part for example, _ in (*judged, *held_out) for part in example]
        )

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.data[0])

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The next responses in the order of their epoch; z₀ is that of the model as it is."""
        return self._batch(self.data, order.drawn(self.size, self.training, step, n))

    def _held_out(self) -> Iterator[Batch]:
        """The first eval_iters batches of what is held out."""
        assert self.held_out_data is not None, "held_out is there only then"
        for items in order.in_turn(len(self.held_out_data[0]), self.training):
            yield self._batch(self.held_out_data, items)

    def _batch(self, data: tuple[Rows, NDArray[Any]], items: NDArray[np.int64]) -> Batch:
        rows, good = data[0], data[1][items]
        inputs = _arrays(rows.batch(items.tolist()))
        # As the model computes it, in the same shapes: before the first step both are equal to the bit.
        of_fixed = differentiable.value(self.fixed, log_likelihoods, inputs)
        shares = np.where(good, self.weights[1], self.weights[0])
        of_batch = of_fixed, good.astype(float), shares, self._z0(rows, items)
        return Batch((*inputs, *of_batch), self.layer, float(len(items)))

    def _z0(self, rows: Rows, items: NDArray[np.int64]) -> NDArray[Any]:
        """What the model gains on responses to other prompts, on average, times β; 0 where it loses."""
        # A batch of what is held out may have one response: then another's stands beside it.
        others = np.roll(items, 1) if len(items) > 1 else (items + 1) % len(rows)
        crossed = [
            _crossed(rows.examples[item], rows.examples[other], self.block_size)
            for item, other in zip(items, others)
        ]
        inputs = _arrays(padded(crossed, self.block_size).batch(range(len(crossed))))
        own, fixed = (
            engine.home(differentiable.value(model, log_likelihoods, inputs))
            for model in (self.model, self.fixed)
        )
        return np.asarray(np.maximum(self.beta * (own - fixed).mean(), 0.0))


def _rows(judged: Sequence[tuple[Example, bool]], block_size: int) -> tuple[Rows, NDArray[np.bool_]]:
    rows = padded([example for example, _ in judged], block_size)
    return rows, np.array([is_good for _, is_good in judged])


def _arrays(made: RowBatch) -> tuple[Any, ...]:
    return made.inputs, made.targets, made.weights


def _crossed(example: Example, other: Example, block_size: int) -> Example:
    """The prompt of one example with the response of another, cut where it is too long."""
    n, m = int(example.is_response.argmax()), int(other.is_response.argmax())
    ids, mask = (np.concatenate([a[:n], b[m:]])[: block_size + 1] for a, b in zip(example, other))
    return Example(ids, mask)


@checked
def gains(model: GPT, objective: Verdicts) -> dict[str, float]:
    """What tells of a model that learned from verdicts, on the held-out ones, beside its loss.

    good, bad: by how much such responses became likelier than under the fixed model, in nats a response; NaN
    where there is none. chosen: the good ones' log-probability; chosen_fixed: the same under the fixed model.
    tokens: of a good response.
    """
    own, fixed, good, tokens = [], [], [], []
    for batch in objective._held_out():
        own.append(engine.home(differentiable.value(model, log_likelihoods, batch.inputs[:3])))
        fixed.append(engine.home(batch.inputs[3]))
        good.append(batch.inputs[4] > 0)
        tokens.append(batch.inputs[2].sum(-1))
    logp, before, is_good = np.concatenate(own), np.concatenate(fixed), np.concatenate(good)
    gained = (logp - before).astype(float)
    return {
        "good": _mean(gained[is_good]),
        "bad": _mean(gained[~is_good]),
        "chosen": _mean(logp[is_good]),
        "chosen_fixed": _mean(before[is_good]),
        "tokens": _mean(np.concatenate(tokens)[is_good]),
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
