"""Preferences without a reward model: DPO and its kin compare a pair of responses with a fixed model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import engine
from ..architecture.config import Training
from ..arguments import AtLeastZero, BelowOne, Count, Positive, Size, checked
from ..data import Example, padded
from ..errors import InputError
from ..layers.tuning_losses import PAIRS, log_likelihoods, preferences
from ..model import differentiable
from ..model.gpt import GPT
from ..training.objective import Batch
from . import order


class Preferences:
    """The mean loss of pairs of responses, the better one first (Rafailov et al. 2023).

        dpo    −ln σ(β D)        D = how much more the model prefers the better one than the fixed model does
        cdpo   dpo where a share label_noise of the labels is wrong
        ipo    (D − 1/2β)²

    Parameters
    ----------
    pairs : sequence of (data.Example, data.Example)
        The better and the worse one.
    training : Training
        Its batch_size counts pairs.
    block_size : int
    fixed : model
        The model that is compared with: the one that training begins with, as numgpt.tuning.frozen gives it.
    held_out : sequence of (data.Example, data.Example)
    loss : "dpo" or "ipo"
    beta : float
        How far the model may move from the fixed one: less for larger ones.
    label_noise : float
        The share of pairs that are the wrong way round; of dpo alone.
    chosen_nll : float
        The weight of the better responses' surprise, a token, which is added. Without it DPO may lower the
        likelihood of both, and the model write neither.

    Raises
    ------
    InputError
        For no pair, an unknown loss, and a label_noise of ipo.
    """

    @checked
    def __init__(
        self,
        pairs: Sequence[tuple[Example, Example]],
        training: Training,
        block_size: Size,
        fixed: Any,
        held_out: Sequence[tuple[Example, Example]] = (),
        *,
        loss: str = "dpo",
        beta: Positive = 0.1,
        label_noise: BelowOne = 0.0,
        chosen_nll: AtLeastZero = 0.0,
        source: str = "preferences",
    ) -> None:
        if loss not in PAIRS:
            raise InputError(f"Preferences: loss is {loss!r}, expected one of {', '.join(PAIRS)}")
        if label_noise and loss != "dpo":
            raise InputError(
                f"Preferences: label_noise is {label_noise}, which {loss} does not know, expected 0"
            )
        self.training = training
        self.fixed = fixed
        noise = {"label_noise": label_noise} if label_noise else {}
        self.layer = preferences(PAIRS[loss], chosen_nll, beta=beta, **noise)
        self.rows = padded([side for pair in pairs for side in pair], block_size)
        self.held_out_rows = None
        if held_out:
            self.held_out_rows = padded([side for pair in held_out for side in pair], block_size)
            self.held_out = self._held_out
        self.source = source
        self.recipe: dict[str, Any] = {}
        words = block_size, loss, beta, label_noise, chosen_nll
        every = [part for pair in (*pairs, *held_out) for side in pair for part in side]
        self.digest = order.digest(words, every)

    @property
    def size(self) -> int:
        """How many items an epoch has: what batch_size counts."""
        return len(self.rows) // 2

    @checked
    def batch(self, step: Count, n: Count) -> Batch:
        """The next pairs in the order of their epoch."""
        pairs = order.drawn(len(self.rows) // 2, self.training, step, n)
        return self._batch(self.rows, pairs)

    def _held_out(self) -> Iterator[Batch]:
        """The first eval_iters batches of what is held out."""
        assert self.held_out_rows is not None, "held_out is there only then"
        for pairs in order.in_turn(len(self.held_out_rows) // 2, self.training):
            yield self._batch(self.held_out_rows, pairs)

    def _batch(self, rows: Any, pairs: Any) -> Batch:
        made = rows.batch([int(row) for pair in pairs for row in (2 * pair, 2 * pair + 1)])
        inputs = tuple(a.reshape(-1, 2, a.shape[-1]) for a in (made.inputs, made.targets, made.weights))
        # As the model computes it, in the same shapes: before the first step both are equal to the bit.
        of_fixed = differentiable.value(self.fixed, log_likelihoods, inputs)
        return Batch((*inputs, of_fixed), self.layer, float(len(pairs)))


@checked
def margins(model: GPT, objective: Preferences) -> dict[str, float]:
    """What tells of a preference model on the held-out pairs, beside its loss.

    accuracy: the share of pairs whose better response gained more than the worse one, against the fixed
    model, where a tie counts half. margin: by how much, in nats. chosen: the better ones' log-probability, a
    response; chosen_fixed: the same under the fixed model. tokens: of a better response.
    """
    own, fixed, tokens = [], [], []
    for batch in objective._held_out():
        own.append(engine.home(differentiable.value(model, log_likelihoods, batch.inputs[:3])))
        fixed.append(engine.home(batch.inputs[3]))
        tokens.append(batch.inputs[2][:, 0].sum(-1))
    logp, before = np.concatenate(own), np.concatenate(fixed)
    gained = (logp - before)[:, 0] - (logp - before)[:, 1]
    return {
        "accuracy": float((gained > 0).mean() + (gained == 0).mean() / 2),
        "margin": float(gained.mean()),
        "chosen": float(logp[:, 0].mean()),
        "chosen_fixed": float(before[:, 0].mean()),
        "tokens": float(np.concatenate(tokens).mean()),
    }
