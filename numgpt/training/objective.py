"""What a run minimises: an objective gives batches, each with the layer that makes a loss of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.config import Config, Training
from ..architecture.parameters import Flat
from ..argument_kinds import is_finite
from ..arguments import Count, Size, checked
from ..data import corpus as texts
from ..data.corpus import Corpus
from ..errors import InputError
from ..layers import transformer
from ..layers.layer import Layer
from ..layers.pretraining_losses import surprise
from ..layers.router_losses import with_router_losses
from ..layers.visibility import Visibility
from ..model import differentiable
from ..model.gpt import GPT


@dataclass(frozen=True)
class Batch:
    """What an objective gives for one forward and backward; a tuple (inputs, layer, count) will do.

    inputs: a tuple of arrays. Integers stay what they are, floats are cast to the model's dtype.
    layer: layer.forward(r, *inputs) → the loss (), and layer.backward(r, dloss) sends gradients to the
    parameters.
    count: how many tokens, or rows, count in it: the weight of this batch among those of its step.
    of: what the loss was divided by, count unless given. An objective that knows how much counts in a whole
    step before its batches are drawn divides by that, and the losses of a step simply add up.
    visibility: where the first input's tokens stand and what each sees, as documents packed into a row need.
    """

    inputs: tuple[Any, ...]
    layer: Layer
    count: float
    of: float | None = None
    visibility: Visibility | None = None

    @property
    def divisor(self) -> float:
        """What the loss was divided by."""
        return self.count if self.of is None else self.of


class Objective(Protocol):
    """What the Trainer asks for. Whatever is drawn at random depends on step and n alone.

    An objective may have more:

    held_out()   the batches of the held-out loss, the same ones each time; without it nothing is measured
    source       what it trains on, to be printed; the name of the class unless given
    digest       a text that differs where its data do, so that a run goes on with its own; "" unless given
    per_iteration   how many steps belong together, 1 unless given: a run stops and is saved after whole ones
    told()       more entries for the log, of the step that was just made
    state(), load_state(entries)   what of it changes in a run besides the model, as JSON holds it
    share(rank, size, gather)   called where several processes share a step's batches: it may split what it
                 does besides them; gather(array) gives it the arrays of all, one behind the other
    """

    def batch(self, step: int, n: int) -> Any:
        """Batch n of a step, both from 0: a Batch, or a tuple (inputs, layer, count)."""


class Pretraining:
    """The next token of a text: the mean surprise at every token of windows drawn from a corpus.

    Parameters
    ----------
    corpus : Corpus
        As numgpt.prepare makes it.
    training : Training
        Its batch_size, accumulate, eval_iters and seed.
    block_size : int
        The tokens of a window.
    n_routers : int
        How many layers of the model have experts: their routers' losses are added in training, each with the
        weight that the settings say, divided by n_routers. The held-out loss is the surprise alone.

    Raises
    ------
    InputError
        Where a part of the corpus is too short for one window, and for weights of routers' losses where the
        model has no router.
    """

    @checked
    def __init__(self, corpus: Corpus, training: Training, block_size: Size, n_routers: Count = 0) -> None:
        texts.check_length(corpus.train, block_size, "training")
        texts.check_length(corpus.held_out, block_size, "held-out")
        self.corpus = corpus
        self.training = training
        self.block_size = block_size
        self.source, self.digest = corpus.source, corpus.digest
        self.layer = _training_layer(training, n_routers)
        self.document_begin = _document_begin(corpus) if training.documents else None

    def batch(self, step: int, n: int) -> Batch:
        """Windows of the part to train on, drawn by step, n and the seed; each of their tokens counts."""
        t = self.training
        x, y = texts.batch(self.corpus.train, self.block_size, t.batch_size, t.seed, "train", step, n)
        whole = t.accumulate * y.size
        return Batch((x, y, whole), self.layer, y.size, of=whole, visibility=self._documents(x))

    def held_out(self) -> Iterator[Batch]:
        """The eval_iters batches of the part that is held out."""
        t = self.training
        for n in range(t.eval_iters):
            x, y = texts.batch(self.corpus.held_out, self.block_size, t.batch_size, t.seed, "held-out", n)
            yield Batch((x, y), transformer.loss, y.size, visibility=self._documents(x))

    def _documents(self, tokens: Any) -> Visibility | None:
        """Each document of a window by itself, where the settings ask for it."""
        return None if self.document_begin is None else Visibility.documents(tokens, self.document_begin)


def _document_begin(corpus: Corpus) -> int:
    """The special token at which a document of a corpus begins; InputError where there is none."""
    token = corpus.tokenizer.end_of_text
    if token is None:
        raise InputError(
            "corpus: its tokenizer has no special token that ends a text, to keep texts apart,"
            " expected one such as <|endoftext|>: choose a tokenizer that has it"
        )
    if not (corpus.train == token).any():
        mark = corpus.tokenizer.decode([token])
        raise InputError(
            f"corpus: the text has no {mark!r} between its texts, by which they would be kept apart, expected"
            " some: write it before each, and prepare with special='allow'"
        )
    return token


BALANCE, ROUTER_Z = 1e-2, 1e-3  # weights of Switch (Fedus et al. 2021) and ST-MoE (Zoph et al. 2022)


def _training_layer(training: Training, n_routers: int) -> Layer:
    """The loss of pre-training; of a model with experts, with the losses of its routers.

    A step adds up the losses of its micro-batches, so each weighs a share.
    """
    given = {"balance_loss": training.balance_loss, "router_z_loss": training.router_z_loss}
    loss = surprise(training.label_smoothing, training.z_loss / training.accumulate)
    if not n_routers:
        for name, weight in given.items():
            if weight is not None:
                raise InputError(
                    f"training: {name} is {weight}, which nothing reads (the model has no experts), expected"
                    " it left out"
                )
        return loss
    share = 1 / (n_routers * training.accumulate)
    weights = [usual if w is None else w for w, usual in zip(given.values(), (BALANCE, ROUTER_Z))]
    return with_router_losses(weights[0] * share, weights[1] * share, loss)


def n_routers(config: Config) -> int:
    """How many layers have experts."""
    return sum(kind.n_expert > 0 for kind in config.scopes().values())


def step_loss_and_grads(
    model: GPT, objective: Objective, step: int, batches: int, grads: Flat, scale: float = 1.0
) -> tuple[Any, float]:
    """The mean loss of a step over all that counts in its batches, and how much that is; gradients → grads.

        batch n:  L_n = S_n / D_n              S_n a sum over what counts in it, D_n its divisor
        the step: L = Σ S_n / Σ N_n            N_n its count
                    = (D_0 / Σ N_n) Σ (D_n / D_0) L_n

    so each backward starts from D_n / D_0, and one factor at the end makes the sum a mean. Where every D_n is
    Σ N_n already, as in pre-training, both factors are 1, and nothing is rounded.

    scale: a power of two by which the gradients are larger within the backwards, and which they are divided
    by at the end, before anybody reads them.
    """
    on_gpu = engine.on_gpu(model.params.flat)
    total: Any = 0.0
    counted, first = 0.0, 0.0
    for n in range(batches):  # each is drawn when it is needed: there may be millions
        batch = expect_batch(objective, objective.batch(step, n))
        first = first or batch.divisor
        share = batch.divisor / first
        loss = batch_loss_and_grads(model, batch, (step, n), grads, share * scale, add=n > 0)
        total += (loss.astype(np.float64) if on_gpu else float(loss)) * share
        counted += batch.count
    factor = first / counted
    if factor != scale:
        grads.flat *= factor / scale
    if factor != 1:
        total *= factor
    return total, counted


def batch_loss_and_grads(
    model: Any, batch: Batch, place: tuple[int, int], grads: Flat, dloss: float, add: bool
) -> Any:
    """The loss of one batch, of a place (step, n); dloss times its gradients → grads, onto what is there."""
    return differentiable.loss_and_grads(
        model,
        batch.layer,
        batch.inputs,
        grads,
        dloss=dloss,
        step=place,
        add=add,
        visibility=batch.visibility,
    )


def held_out_loss(model: GPT, objective: Any) -> float:
    """The mean loss over all that counts in the held-out batches."""
    return mean_of(held_out_terms(model, objective))


def held_out_terms(model: GPT, objective: Any, rank: int = 0, size: int = 1) -> NDArray[np.float64]:
    """(loss, divisor, count) of each held-out batch, in float64 (N, 3).

    Of size processes each computes the losses of every size-th batch; those of the others are 0.
    """
    losses: list[Any] = []
    weights = []
    for n, given in enumerate(_held_out(objective)):
        batch = expect_batch(objective, given, "held_out")
        is_own = n % size == rank
        losses.append(
            differentiable.loss(model, batch.layer, batch.inputs, visibility=batch.visibility)
            if is_own
            else 0.0
        )
        weights.append((batch.divisor, batch.count))
    if not losses:
        raise InputError(f"{_who(objective)}.held_out: gives no batch, expected at least one")
    numbers = np.array([engine.home(loss) for loss in losses], np.float64)  # now: none waits within the loop
    return np.column_stack([numbers, np.array(weights, np.float64)])


def mean_of(terms: NDArray[np.float64]) -> float:
    """The mean loss over all that counts, of (loss, divisor, count) of each batch."""
    numbers, divisors, counts = terms.T
    shares = divisors / divisors[0]
    return float((numbers * shares).sum() / (sum(counts.tolist()) / divisors[0]))


def _held_out(objective: Any) -> Iterable[Any]:
    batches = objective.held_out()
    if not isinstance(batches, Iterable):
        raise InputError(
            f"{_who(objective)}.held_out: returned {type(batches).__name__}, expected batches to go through,"
            " a list of (inputs, layer, count)"
        )
    return batches


def expect_batch(objective: Any, given: Any, method: str = "batch") -> Batch:
    """What an objective gave, as a Batch; InputError where it is none."""
    who = f"{_who(objective)}.{method}"
    if isinstance(given, tuple) and len(given) == 3:
        given = Batch(*given)
    if not isinstance(given, Batch):
        what = f"{len(given)} things" if isinstance(given, tuple) else type(given).__name__
        raise InputError(
            f"{who}: gave {what}, expected three things: a tuple of inputs, a layer and how many tokens count"
        )
    batch = given
    if batch.visibility is not None and not isinstance(batch.visibility, Visibility):
        raise InputError(
            f"{who}: the visibility is {type(batch.visibility).__name__}, expected a numgpt.Visibility"
        )
    if not isinstance(batch.inputs, tuple):
        raise InputError(
            f"{who}: the inputs are {type(batch.inputs).__name__}, expected a tuple of arrays: (x,) for one"
        )
    if not all(callable(getattr(batch.layer, way, None)) for way in ("forward", "backward")):
        raise InputError(
            f"{who}: the layer is {type(batch.layer).__name__}, expected a numgpt.Layer(forward, backward)"
        )
    for name, number in (("count", batch.count), ("of", batch.divisor)):
        if not (is_finite(number) and number > 0):
            raise InputError(
                f"{who}: the {name} is {str(number)[:80]}, expected a number above 0: how many tokens count"
            )
    return batch


def _who(objective: Any) -> str:
    """What messages call an objective."""
    return type(objective).__name__
