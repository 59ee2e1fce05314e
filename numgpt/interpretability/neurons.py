"""Neurons: where in a corpus each is strongest, with the tokens before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Count, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..model.prompts import ids_of
from . import sites
from .prompts import Few, token_rows
from .runs import Progress, run

Array = NDArray[Any]
LONGEST = 256  # tokens of a window where a model's positions know no end
BATCH = 4096  # tokens of one forward, about


@dataclass(frozen=True, eq=False)
class Neurons:
    """The strongest activations of some neurons of one layer, the strongest first.

    neurons (n): their numbers. value (n, k). row, position (n, k): of the token at which it is, in the
    windows as they were read. context (n, k, w): the ids up to that token, the last; −1 before a window's
    beginning. mean, share (n): the mean activation, and how often it is above 0, over all tokens read.
    """

    layer: int
    neurons: Array
    value: Array
    row: Array
    position: Array
    context: Array
    mean: Array
    share: Array
    tokens: int


@checked
def strongest_activations(
    model: GPT,
    corpus: Any,
    layer: Count,
    neurons: Sequence[Count] | None = None,
    *,
    k: Few = 5,
    context: Few = 12,
    progress: Progress | None = None,
) -> Neurons:
    """The k tokens of a corpus at which each neuron of a feed-forward is strongest.

    Parameters
    ----------
    model : GPT
    corpus : str, integers (n,), or an iterable of batches (B, T)
        A text is cut into windows as long as the model reads; batches are read one by one and let go.
    layer : int
    neurons : sequence of int, optional
        All unless given.
    k : int
    context : int
        Tokens to keep of each, the strongest the last.
    progress : function of (done, total), optional
        Of windows; total is 0 where nobody knows it.

    Returns
    -------
    Neurons

    Notes
    -----
    Source: the activation after the nonlinearity, as in Geva et al. 2021; with gated units, what the gate
    lets through. What it does not show: what a neuron is for. Its strongest examples are few of those at
    which it is active, and may agree where the others do not (Bolukbasi et al. 2021); and directions that
    are no neuron may be what the model uses.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import strongest_activations
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> found = strongest_activations(model, [0, 1, 2, 3, 4, 0, 1, 2], 0, k=2, context=3)
    >>> found.value.shape, found.context.shape, found.tokens
    ((16, 2), (16, 2, 3), 8)
    """
    who = "strongest_activations"
    chosen = _chosen(who, model, layer, neurons)
    name, best, rows = f"h.{layer}.mlp.act", None, 0
    total, above, tokens = np.zeros(len(chosen)), np.zeros(len(chosen)), 0
    batches, windows = _batches(who, model, corpus)
    for ids in batches:
        value = engine.home(run(model, ids, -1, [name]).value[name]).real
        flat = value.reshape(ids.size, -1)[:, chosen].astype(np.float64)
        total, above, tokens = total + flat.sum(0), above + (flat > 0).sum(0), tokens + len(flat)
        best = _merged(best, _of_batch(flat, ids, rows, k, context), k)
        rows += len(ids)
        if progress is not None:
            progress(rows, windows)
    if best is None:
        raise InputError(f"{who}: the corpus has no tokens, expected some")
    value, row, position, contexts = best
    return Neurons(layer, chosen, value, row, position, contexts, total / tokens, above / tokens, tokens)


def _chosen(who: str, model: GPT, layer: int, neurons: Sequence[int] | None) -> Array:
    """The numbers of neurons, of a layer that has them."""
    sites.expect_layers(who, model.config)
    if layer >= model.config.n_layer:
        raise InputError(f"{who}: layer is {layer}, expected 0 to {model.config.n_layer - 1}")
    config = sites.layer_config(model.config, layer)
    if config.n_expert:
        raise InputError(
            f"{who}: layer {layer} has experts, of which each token asks some, expected one feed-forward"
        )
    chosen = list(range(config.ffn_width) if neurons is None else neurons)
    if not chosen or max(chosen) >= config.ffn_width:
        given = f"{max(chosen)}" if chosen else "none"
        raise InputError(f"{who}: neurons has {given}, expected some of 0 to {config.ffn_width - 1}")
    return np.array(chosen, np.int64)


def _batches(who: str, model: GPT, corpus: Any) -> tuple[Iterator[Array], int]:
    """Batches of ids (B, T), and how many rows there will be, 0 where nobody knows."""
    is_text = isinstance(corpus, str)
    if isinstance(corpus, list | tuple) and corpus and isinstance(corpus[0], str):
        raise InputError(f"{who}: corpus is a list of texts, expected one text: join them")
    is_row = isinstance(corpus, list | tuple) and np.ndim(corpus[0] if corpus else 0) == 0
    is_row = is_row or (isinstance(corpus, np.ndarray) and corpus.ndim < 2)
    if not (is_text or is_row):
        if not isinstance(corpus, Iterable):
            raise InputError(
                f"{who}: corpus is {type(corpus).__name__}, expected a text, ids, or batches of them"
            )
        return (token_rows(who, model, batch) for batch in corpus), 0
    ids = model.tokenizer.encode(corpus) if is_text and model.tokenizer else np.asarray(corpus)
    if is_text and model.tokenizer is None:
        ids_of(who, model, corpus)  # which says what is missing
    ids = model.check_tokens(ids, window=False)
    T = model.config.block_size
    if model.config.positions != "learned":
        T = min(T, LONGEST)
    whole = len(ids) // T * T
    rows = ids[:whole].reshape(-1, T)
    batch = max(1, BATCH // T)
    parts = [rows[begin : begin + batch] for begin in range(0, len(rows), batch)]
    parts += [ids[None, whole:]] if whole < len(ids) else []
    return iter(parts), len(rows) + (whole < len(ids))


def _of_batch(flat: Array, ids: Array, rows: int, k: int, context: int) -> tuple[Array, ...]:
    """value, row, position (n, k) and context (n, k, w) of a batch, whose first row has the number rows."""
    n = min(k, len(flat))
    places = _strongest(flat, n)
    value = np.take_along_axis(flat.T, places, 1)
    row, position = np.divmod(places, ids.shape[1])
    padded = np.concatenate([np.full((len(ids), context - 1), -1), ids], axis=1)
    window = position[..., None] + np.arange(context)
    return value, row + rows, position, padded[row[..., None], window]


def _strongest(flat: Array, n: int) -> Array:
    """The places (neurons, n) of the n largest of each column in the order of reading; ties: the first."""
    least = -np.partition(-flat, n - 1, axis=0)[n - 1]
    above, equal = flat > least, flat == least
    room = n - above.sum(0)
    chosen = above | (equal & (equal.cumsum(0) <= room))
    return np.nonzero(chosen.T)[1].reshape(-1, n)


def _merged(best: tuple[Array, ...] | None, new: tuple[Array, ...], k: int) -> tuple[Array, ...]:
    """The k strongest of two lists, the strongest first; of equal ones the first that was read."""
    parts = new if best is None else tuple(np.concatenate(pair, axis=1) for pair in zip(best, new))
    order = np.argsort(-parts[0], axis=1, kind="stable")[:, :k]
    picked = tuple(np.take_along_axis(part, order, 1) for part in parts[:3])
    return *picked, np.take_along_axis(parts[3], order[..., None], 1)
