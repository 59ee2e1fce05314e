"""Ablation: how a metric changes where a part is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..architecture.patterns import Patterns
from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from ..random import generator
from . import sites
from .metrics import Metric, expect_place, value_of
from .prompts import token_rows
from .runs import Patch, Progress, patched, run, streams

Array = NDArray[Any]
Way = Literal["zero", "mean", "resample"]


@dataclass(frozen=True, eq=False)
class Ablation:
    """What a metric loses with each part.

    at: the kind of part, or a pattern. how: what stands in its place. axes: of effect, "layer" and "head", or
    "name". names: of the values along the last. effect: the mean over texts of M without the part − M; NaN
    where there is no such head. metric: M. ids (N, T).
    """

    at: str
    how: str
    axes: tuple[str, ...]
    names: tuple[str, ...]
    effect: Array
    metric: float
    ids: NDArray[np.int64]


@checked
def ablation(
    model: GPT,
    prompt: Any,
    metric: Metric,
    at: str = "heads",
    how: Way = "zero",
    *,
    references: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Ablation:
    """The change of a metric where a part is replaced at all positions: each head, each layer's part, a name.

        effect = ⟨M(part replaced) − M⟩        the mean over texts; with surprise as M, what the loss gains

    zero: by 0. mean: by its mean over rows and positions of the references. resample: by its value in another
    text, position by position.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them
    metric : Metric
    at : str
        "heads", "attn", "mlp", "q" …, as in activation_patching; or a name or a pattern, "h.*.mlp.act".
    how : "zero", "mean" or "resample"
    references : prompts of as many tokens, optional
        From which means and other values are taken; the prompts themselves unless given.
    seed : int
        Of resample: which text stands in for which.
    progress : function of (done, total), optional

    Returns
    -------
    Ablation

    Raises
    ------
    InputError
        For a name that matches nothing, and for resample with a single text.

    Notes
    -----
    Source: zero and mean as in Wang et al. 2022, resample as in Chan et al. 2022. What it does not show: what
    the part does. Zero and a mean take the model to states that it has never seen, so that an effect may be
    theirs; and where others stand in for a part (McGrath et al. 2023) there is none though it is used.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import ablation, surprise
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8))
    >>> found = ablation(model, [0, 1, 2], surprise(model, [1, 2, 3]))
    >>> found.axes, found.effect.shape
    (('layer', 'head'), (2, 2))
    """
    who = "ablation"
    sites.expect_layers(who, model.config)
    ids = token_rows(who, model, prompt)
    expect_place(who, metric, ids)
    kind = sites.SITES.get(at)
    patterns = [at] if kind is None else [kind.name(layer) for layer in range(model.config.n_layer)]
    base = run(model, ids, metric.at, [*patterns, *streams(model)])
    parts = [name for name in base.value if name != "read"]  # which chooses positions
    names = [name for name in parts if name in Patterns(patterns)]
    if not names:
        raise InputError(
            f"{who}: at is {at!r}, expected a name or a pattern of values: that is a parameter's"
        )
    others, source = ids, base.value
    if references is not None:
        others = token_rows(f"{who}: references", model, references)
        source = run(model, others, metric.at, patterns).value
    if how == "resample" and others.shape[1] != ids.shape[1]:
        raise InputError(
            f"{who}: references have {others.shape[1]} tokens, expected {ids.shape[1]} as the"
            " prompts have, to resample"
        )
    order = _stand_ins(who, len(ids), len(others), references is None, seed) if how == "resample" else None
    put = {name: _replacement(name, base.value[name], source[name], how, order) for name in names}
    places = _places(model, names, kind)
    rows = [[Patch(name, index, put[name][(slice(None), *index)])] for name, _, index in places]
    before = value_of(metric, base.logits).real
    if not np.isfinite(before).all():
        raise InputError(
            f"{who}: the metric is {before.mean():.6g}, expected a finite number to compare with"
        )
    found = (patched(model, base, rows, metric, progress).metric.real - before).mean(-1)
    axes, effect = _arranged(model, kind, names, [place for _, place, _ in places], found)
    return Ablation(at, how, axes, tuple(names), effect, float(before.mean()), ids)


def _places(
    model: GPT, names: Sequence[str], kind: sites.Site | None
) -> list[tuple[str, tuple[int, ...], tuple[Any, ...]]]:
    """(name, place in the result, index of a text's value) of all that is replaced."""
    if kind is None or kind.heads is None:
        return [(name, (n,), ()) for n, name in enumerate(names)]
    found: list[tuple[str, tuple[int, ...], tuple[Any, ...]]] = []
    for layer, name in enumerate(names):
        config = sites.layer_config(model.config, layer)
        heads = range(kind.heads(config))
        found += [(name, (layer, head), kind.where(config, slice(None), head)) for head in heads]
    return found


def _arranged(
    model: GPT, kind: sites.Site | None, names: Sequence[str], places: Sequence[Any], found: Array
) -> tuple[tuple[str, ...], Array]:
    """The axes, and effects by them."""
    if kind is None or kind.heads is None:
        return ("name",) if kind is None else ("layer",), found
    effect = np.full((len(names), sites.most_heads(model.config, kind)), np.nan)
    for place, value in zip(places, found):
        effect[place] = value
    return ("layer", "head"), effect


def _stand_ins(who: str, N: int, M: int, own: bool, seed: int) -> Array:
    """Which of M references stands in for each of N texts, never itself where they are the same."""
    order = generator(seed, "resample", N, M).permutation(M)
    if not own:
        return np.resize(order, N)
    if N < 2:
        raise InputError(f"{who}: there is one text, expected two or more to resample, or references")
    following = np.empty_like(order)
    following[order] = np.roll(order, 1)
    return following


def _replacement(name: str, value: Any, source: Any, how: Way, order: Array | None) -> Any:
    """What stands in the place of a value (N, ...)."""
    if how == "zero":
        return 0 * value
    if order is not None:
        return source[engine.beside(order, source)]
    # What is made of queries and keys has its positions behind the heads, and of two of them no mean.
    axes: tuple[int, ...] = (0, 1)
    if ".attn.heads." in name and not name.endswith(".mix"):
        axes = (0, 2) if name.rpartition(".")[2] in ("q", "k", "v") else (0,)
    mean = source.mean(axes, keepdims=True)
    if any(n not in (1, size) for n, size in zip(mean.shape, value.shape)):
        raise InputError(
            f"ablation: the mean of {name} has shape {mean.shape[1:]}, the prompts' value {value.shape[1:]},"
            " expected references of as many tokens: this value has no mean over positions"
        )
    return np.broadcast_to(mean, value.shape)
