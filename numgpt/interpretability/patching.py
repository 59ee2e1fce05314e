"""Activation patching, and its estimate for all sites from one backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from . import sites
from .metrics import Metric, expect_difference, expect_place, shares, value_of
from .prompts import pairs_of
from .runs import Patch, Progress, Run, patched, run, run_with_gradients, streams

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Patching:
    """What patches of one kind of site do.

    at: the kind. axes: of share, "layer", "position", "head". share: how much of the difference a patch
    brings back, 0 none, 1 all; NaN where there is no such head, or no clean token corresponds. clean,
    corrupted: the metric of the two runs. ids: the corrupted prompts (N, T), whose positions are meant.
    """

    at: str
    axes: tuple[str, ...]
    share: Array
    clean: float
    corrupted: float
    ids: Array

    @property
    def metric(self) -> Array:
        """The metric under each patch itself: M_corrupted + share (M_clean − M_corrupted)."""
        found: Array = self.corrupted + self.share * (self.clean - self.corrupted)
        return found


@dataclass(frozen=True, eq=False)
class _Pair:
    """The two runs of patching: at each corrupted position, which clean one corresponds."""

    model: GPT
    clean: Run
    corrupted: Run
    places: Array
    values: tuple[float, float]

    def source(self, name: str, kind: sites.Site) -> Any:
        """The clean activation of a name by corrupted positions; where nothing corresponds, the corrupted."""
        right, wrong = self.clean.value[name], self.corrupted.value[name]
        T = self.places.shape[1]
        if right.shape == wrong.shape and (self.places == np.arange(T)).all():
            return right
        axis = 2 if kind.where is sites.SITES["q"].where else 1
        index = engine.beside(np.maximum(self.places, 0), wrong)
        there = engine.beside(self.places >= 0, wrong)
        shape = tuple(n if a in (0, axis) else 1 for a, n in enumerate(wrong.shape))
        index, there = index.reshape(shape), there.reshape(shape)
        return np.where(there, np.take_along_axis(right, index, axis), wrong)


def _pair(
    who: str, model: GPT, prompts: tuple[Any, Any], metric: Metric, names: Sequence[str], **how: Any
) -> _Pair:
    """Both runs; InputError where the metric is the same on both, so that there is no share to bring back.

    how: align, and gradients, whether the corrupted run has a backward.
    """
    sites.expect_layers(who, model.config)
    right, wrong, places = pairs_of(who, model, *prompts, how["align"])
    expect_place(who, metric, right)
    expect_place(who, metric, wrong)
    clean = run(model, right, metric.at, names)
    if how["gradients"]:
        corrupted = run_with_gradients(model, wrong, metric, names)
    else:
        corrupted = run(model, wrong, metric.at, [*names, *streams(model)])
    values = float(value_of(metric, clean.logits).mean()), float(value_of(metric, corrupted.logits).mean())
    expect_difference(who, *values, model.params.dtype)
    return _Pair(model, clean, corrupted, places, values)


def _names(model: GPT, kinds: Sequence[sites.Site]) -> list[str]:
    layers = range(model.config.n_layer)
    return list(dict.fromkeys(kind.name(layer) for kind in kinds for layer in layers))


@checked
def activation_patching(
    model: GPT,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    at: str = "resid_pre",
    *,
    positions: bool = True,
    align: bool = False,
    progress: Progress | None = None,
) -> Patching:
    """What the corrupted run becomes where one activation is put in from the clean run.

        share = (M_patched − M_corrupted) / (M_clean − M_corrupted)        M the mean over the pairs

    0: the site brings nothing back, 1: all. For every layer and position, and every head of sites that have
    heads. Rows of one batch are sites; layers below the first patched one are not computed again.

    Parameters
    ----------
    model : GPT
    clean, corrupted : str or ids, or a sequence of them
        Prompts of as many tokens, position by position the same but for what is asked about.
    metric : Metric
        Such as logit_difference(model, answer, wrong).
    at : str
        "resid_pre", "resid_mid" or "resid_post", the residual stream; "attn" or "mlp", what a part adds;
        "heads", the result of each head; "q", "k" or "v" of each head.
    positions : bool
        Each position by itself; all at once where it is False.
    align : bool
        Prompts of different length, of which only the tokens that correspond are patched; see aligned.
    progress : function of (done, total), optional
        Called after each batch.

    Returns
    -------
    Patching

    Raises
    ------
    InputError
        For prompts of different length without align, and where the metric is the same on both.

    Notes
    -----
    Source: Vig et al. 2020; Geiger et al. 2021; Meng et al. 2022; the share as in Wang et al. 2022. What it
    does not show: that the site is needed, since others may do the same (patch the other way round, or
    ablate); shares do not add up to 1; a patched run may have activations that no text has.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import activation_patching, logit_difference
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, seed=0, dtype="float64")
    >>> found = activation_patching(model, [0, 1, 2], [0, 3, 2], logit_difference(model, 1, 3))
    >>> found.axes, found.share.shape, found.share[0].round(12).tolist()
    (('layer', 'position'), (2, 3), [0.0, 1.0, 0.0])
    """
    who, kind = "activation_patching", sites.site("activation_patching", at)
    names = _names(model, [kind])
    pair = _pair(who, model, (clean, corrupted), metric, names, align=align, gradients=False)
    places = _places(model, kind, pair.places if positions else None)
    source = {name: pair.source(name, kind) for name in names}
    rows = []
    for layer, position, head in places:
        positioned = slice(None) if position is None else position
        index = kind.where(sites.layer_config(model.config, layer), positioned, head)
        name = kind.name(layer)
        rows.append([Patch(name, index, source[name][(slice(None), *index)])])
    found = patched(model, pair.corrupted, rows, metric, progress).metric.real.mean(-1)
    return _result(model, at, pair, places, shares(found, *pair.values, pair.corrupted.logits))


def _places(model: GPT, kind: sites.Site, places: Array | None) -> list[tuple[int, int | None, int | None]]:
    """(layer, position, head) of all patches; the position None for all, where places are None."""
    config = model.config
    positions: list[int | None] = [None]
    if places is not None:
        positions = [t for t in range(places.shape[1]) if (places[:, t] >= 0).any()]
    found = []
    for layer in range(config.n_layer):
        n = 0 if kind.heads is None else kind.heads(sites.layer_config(config, layer))
        heads = [None] if kind.heads is None else range(n)
        found += [(layer, position, head) for position in positions for head in heads]
    return found


def _result(model: GPT, at: str, pair: _Pair, places: Sequence[Any], values: Array) -> Patching:
    """Values of places as an array by layer, position and head."""
    kind, T = sites.SITES[at], pair.corrupted.ids.shape[1]
    by_position, H = any(p is not None for _, p, _ in places), sites.most_heads(model.config, kind)
    sizes = {"layer": model.config.n_layer}
    sizes |= ({"position": T} if by_position else {}) | ({"head": H} if H else {})
    share = np.full(tuple(sizes.values()), np.nan)
    for place, value in zip(places, values):
        share[tuple(p for p in place if p is not None)] = value
    return Patching(at, tuple(sizes), share, *pair.values, pair.corrupted.ids)


@checked
def attribution_patching(
    model: GPT,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    at: str | Sequence[str] = ("resid_pre", "attn", "mlp", "heads"),
    *,
    positions: bool = True,
    align: bool = False,
) -> dict[str, Patching]:
    """Activation patching to first order: every site from two forwards and one backward.

        M_patched − M_corrupted ≈ ⟨a_clean − a_corrupted, ∂M/∂a⟩        the gradient at the corrupted run

    Parameters
    ----------
    model, clean, corrupted, metric, positions, align
        As in activation_patching.
    at : str or sequence of str
        Kinds of sites.

    Returns
    -------
    dict of kind -> Patching

    Notes
    -----
    Source: Nanda 2023, "Attribution patching"; Syed, Rager and Conmy 2023. The error grows as the square of
    the difference. It is exact where the metric is linear in the activation, and worst where something
    between saturates: a softmax that attends to one token only, a probability near 0. So it shows where to
    look, not how much is there: give rank_correlation the result of true patching beside it.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import attribution_patching, logit_difference
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, seed=0, dtype="float64")
    >>> found = attribution_patching(model, [0, 1, 2], [0, 3, 2], logit_difference(model, 1, 3))
    >>> {at: patching.share.shape for at, patching in found.items()}
    {'resid_pre': (2, 3), 'attn': (2, 3), 'mlp': (2, 3), 'heads': (2, 3, 2)}
    """
    who, kinds = "attribution_patching", [at] if isinstance(at, str) else list(at)
    if not kinds:
        raise InputError(f"{who}: at is empty, expected one or more of {', '.join(sites.SITES)}")
    by_kind = {name: sites.site(who, name) for name in kinds}
    names = _names(model, list(by_kind.values()))
    pair = _pair(who, model, (clean, corrupted), metric, names, align=align, gradients=True)
    return {name: _estimate(model, name, kind, pair, positions) for name, kind in by_kind.items()}


def _estimate(model: GPT, at: str, kind: sites.Site, pair: _Pair, positions: bool) -> Patching:
    """The estimates of one kind of site."""
    terms = {}
    for name in _names(model, [kind]):
        step = pair.source(name, kind) - pair.corrupted.value[name]
        terms[name] = engine.home(step * pair.corrupted.grad[name]).real.astype(np.float64)
    places = _places(model, kind, pair.places if positions else None)
    values = []
    for layer, position, head in places:
        positioned = slice(None) if position is None else position
        index = kind.where(sites.layer_config(model.config, layer), positioned, head)
        values.append(terms[kind.name(layer)][(slice(None), *index)].sum() / len(pair.places))
    right, wrong = pair.values
    return _result(model, at, pair, places, np.array(values) / (right - wrong))


@checked
def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's ρ of two arrays: 1 where they order their entries alike, −1 where the other way round.

        ρ = the correlation of the ranks        entries that are equal share the mean of theirs

    NaN in either is left out. Of attribution and patching it says whether the estimate finds the same sites
    (Spearman 1904); that the sizes are right it does not say. Shares that are all equal have no order, which
    is an InputError: those of queries and keys are, where heads attend by position alone.

    Parameters
    ----------
    a, b : arrays
        Such as the shares of two Patchings.

    Examples
    --------
    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0])
    1.0
    """
    x, y = (as_array(f"rank_correlation: {n}", v, "numbers") for n, v in (("a", a), ("b", b)))
    if x.shape != y.shape or x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        raise InputError(
            f"rank_correlation: a is {x.dtype} {x.shape}, b is {y.dtype} {y.shape}, expected real numbers of"
            " one shape"
        )
    there = ~(np.isnan(x) | np.isnan(y))
    ranks = [_ranks(z[there]) for z in (x, y)]
    centred = [r - r.mean() for r in ranks if r.size]
    sizes = [float(r @ r) for r in centred]
    if not sizes or not all(sizes):
        raise InputError(
            "rank_correlation: an array has no two different numbers, expected some, for there is no order"
        )
    return float(centred[0] @ centred[1] / np.sqrt(sizes[0] * sizes[1]))


def _ranks(x: Array) -> Array:
    """The rank of each entry, from 0; the mean of their ranks for those that are equal."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: Array = (last - (counts - 1) / 2)[place]
    return ranks
