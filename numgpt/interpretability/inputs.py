"""Which tokens of a prompt a metric depends on: gradient × input, and integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from .metrics import Metric, expect_place, value_of
from .prompts import Few, token_rows
from .runs import AT_ONCE, run, run_with_gradients

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenAttribution:
    """What each token of each prompt counts.

    ids, score (N, T). value (N): the metric. baseline (N): the metric where all embeddings are the baseline;
    NaN for gradient × input, which has none. missing (N): what the scores lack of value − baseline.
    """

    method: str
    ids: NDArray[np.int64]
    score: Array
    value: Array
    baseline: Array

    @property
    def missing(self) -> Array:
        """value − baseline − Σ score: the error of the quadrature."""
        found: Array = self.value - self.baseline - self.score.sum(-1)
        return found


@checked
def gradient_times_input(model: GPT, prompt: Any, metric: Metric) -> TokenAttribution:
    """⟨∂M/∂e_t, e_t⟩ for the embedding e_t of each token: how M changes, to first order, as e_t goes to 0.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them
    metric : Metric

    Returns
    -------
    TokenAttribution

    Notes
    -----
    Source: Simonyan, Vedaldi and Zisserman 2014; Shrikumar et al. 2016. One backward. What it does not show:
    anything beyond the first order, and where a norm follows the embedding, it takes away what points along
    it (Σ dx x = 0 but for ε), so that scores near 0 may belong to tokens that matter. The scores add up to
    nothing in particular.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import gradient_times_input, log_probability
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> gradient_times_input(model, [0, 1, 2], log_probability(model, 3)).score.shape
    (1, 3)
    """
    model = model.plain()
    ids = token_rows("gradient_times_input", model, prompt)
    expect_place("gradient_times_input", metric, ids)
    found = run_with_gradients(model, ids, metric, ["wte"])
    product = engine.home(found.grad["wte"] * found.value["wte"]).real.astype(np.float64)
    values = value_of(metric, found.logits).real.astype(np.float64)
    return TokenAttribution("gradient × input", ids, product.sum(-1), values, np.full(len(ids), np.nan))


@checked
def integrated_gradients(
    model: GPT, prompt: Any, metric: Metric, *, baseline: Any = "mean", steps: Few = 32
) -> TokenAttribution:
    """The gradient along the straight line from a baseline to the embeddings, times the way.

        score_t = ⟨e_t − b_t, ∫₀¹ ∂M/∂e_t (b + α (e − b)) dα⟩
        Σ_t score_t = M(e) − M(b)        completeness: the fundamental theorem of calculus

    The integral is Gauss and Legendre's with so many nodes, all of them rows of one batch.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them
    metric : Metric
    baseline : "mean", "zero", or a prompt of as many tokens
        The mean embedding of the vocabulary, none at all, or those of other tokens. Where a norm comes first,
        at "zero" the line begins at a point at which the model turns sharply: it takes many more steps.
    steps : int
        Nodes; `missing` of the result says whether they were enough.

    Returns
    -------
    TokenAttribution

    Notes
    -----
    Source: Sundararajan, Taly and Yan 2017. What it does not show: what would happen without the token, for
    points between embeddings are no text; and another baseline gives other scores.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import integrated_gradients, log_probability
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, dtype="float64")
    >>> found = integrated_gradients(model, [0, 1, 2], log_probability(model, 3))
    >>> bool(abs(found.missing).max() < 1e-12)
    True
    """
    model = model.plain()
    who = "integrated_gradients"
    ids = token_rows(who, model, prompt)
    expect_place(who, metric, ids)
    N, T = ids.shape
    start = _baseline(who, model, baseline, ids)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    alphas, weights = (nodes + 1) / 2, weights / 2
    whole = run(model, ids, metric.at, ["wte"])
    value = value_of(metric, whole.logits).real.astype(np.float64)
    way = engine.home(whole.value["wte"]) - start
    total = np.zeros((N, T, way.shape[-1]))
    most = max(1, AT_ONCE // ids.size)
    for begin in range(0, steps, most):
        part = alphas[begin : begin + most]
        points = (start + part[:, None, None, None] * way).reshape(-1, *way.shape[1:])
        gradient = _gradients_at(model, np.tile(ids, (len(part), 1)), metric, points)
        by_node = gradient.reshape(len(part), *way.shape)
        total += np.tensordot(weights[begin : begin + most], by_node, 1)
    low = run(model, ids, metric.at, (), {"wte": lambda value: engine.beside(start, value)})
    bottom = value_of(metric, low.logits).real.astype(np.float64)
    return TokenAttribution("integrated gradients", ids, (total * way.real).sum(-1), value, bottom)


def _gradients_at(model: GPT, ids: NDArray[np.int64], metric: Metric, points: Array) -> Array:
    """The gradient of each row's metric with respect to its embeddings, which are points."""

    def put(value: Any) -> Any:
        return engine.beside(points.astype(value.dtype, copy=False), value)

    edit = {"wte": (put, lambda dy: 0 * dy)}  # the embedding that was there before has no say
    gradient = run_with_gradients(model, ids, metric, ["wte"], edit).grad["wte"]
    found: Array = engine.home(gradient).real.astype(np.float64)
    return found


def _baseline(who: str, model: GPT, baseline: Any, ids: NDArray[np.int64]) -> Array:
    """The embeddings (N, T, C) from which the line begins."""
    table = engine.home(model.params["wte.weight"])
    if isinstance(baseline, str) and baseline in ("mean", "zero"):
        vector = table.mean(0) if baseline == "mean" else np.zeros_like(table[0])
        return np.broadcast_to(vector, (*ids.shape, len(vector)))
    rows = token_rows(f"{who}: baseline", model, baseline)
    if rows.shape[1] != ids.shape[1] or len(rows) not in (1, len(ids)):
        raise InputError(
            f"{who}: baseline has {len(rows)} rows of {rows.shape[1]} tokens, expected 'mean', 'zero', or as"
            f" many tokens as the prompt, {ids.shape[1]}"
        )
    found: Array = np.broadcast_to(table[rows], (*ids.shape, table.shape[1]))
    return found
