"""Path patching: what one head does by what another part reads of it, all other ways held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import InputError
from ..model.gpt import GPT
from . import sites
from .metrics import Metric, expect_difference, expect_place, shares, value_of
from .prompts import pairs_of
from .runs import Patch, Progress, Run, patched, run, streams

Array = NDArray[np.float64]
READS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class PathPatching:
    """share (L, H): how much of the difference comes back by the path from each sender to the receiver.

    NaN for heads that the receiver cannot read. receiver: "logits", or (layer, head, "q", "k" or "v").
    clean, corrupted: the metric of the two runs. ids (N, T): the corrupted prompts.
    """

    receiver: Any
    share: Array
    clean: float
    corrupted: float
    ids: NDArray[np.int64]


@checked
def path_patching(
    model: GPT,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    receiver: Any = "logits",
    *,
    through_mlps: bool = False,
    progress: Progress | None = None,
) -> PathPatching:
    """The share of the metric that each head brings back by what a receiver reads of it directly.

    Two runs: in the first the sender's result is the clean one, and every later head keeps its corrupted
    result; what the receiver then reads is put into a second run of the corrupted prompt, in which everything
    else runs. For the receiver "logits" the first run is enough.

    Parameters
    ----------
    model : GPT
    clean, corrupted, metric
        As in activation_patching; the tokens of both correspond.
    receiver : "logits", or (layer, head, "q", "k" or "v")
        What reads: the last norm, or the queries, keys or values of a head.
    through_mlps : bool
        Whether feed-forwards between them run on what they then read, as Wang et al. have it; else they keep
        their corrupted results, and only the direct path is left.
    progress : function of (done, total), optional

    Returns
    -------
    PathPatching

    Notes
    -----
    Source: Wang et al. 2022; Goldowsky-Dill et al. 2023. What it does not show: paths through other heads,
    which are paths of their own; and norms on the way depend on all of the stream, so shares of several
    senders do not add up.

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import logit_difference, path_patching
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, seed=0, dtype="float64")
    >>> metric = logit_difference(model, 1, 3)
    >>> found = path_patching(model, [0, 1, 2], [0, 3, 2], metric, (1, 0, "v"))
    >>> np.isnan(found.share).tolist()
    [[False, False], [True, True]]
    """
    who, config = "path_patching", model.config
    sites.expect_layers(who, config)
    read_at = _receiver(who, model, receiver)
    right, wrong, _ = pairs_of(who, model, clean, corrupted)
    expect_place(who, metric, right)
    heads, mlps = ([sites.SITES[kind].name(n) for n in range(config.n_layer)] for kind in ("heads", "mlp"))
    high = run(model, right, metric.at, heads)
    low = run(model, wrong, metric.at, [*heads, *mlps, *streams(model)])
    top, bottom = (float(value_of(metric, found.logits).real.mean()) for found in (high, low))
    expect_difference(who, top, bottom, model.params.dtype)
    senders = [
        (layer, head)
        for layer in range(read_at[0])
        for head in range(sites.layer_config(config, layer).n_head)
    ]
    rows = [_first_run(model, high, low, sender, read_at[0], through_mlps) for sender in senders]
    found = _effects(model, low, rows, metric, read_at, progress)
    share = np.full((config.n_layer, sites.most_heads(config, sites.SITES["heads"])), np.nan)
    for place, value in zip(senders, shares(found, top, bottom, low.logits)):
        share[place] = value
    return PathPatching(receiver, share, top, bottom, wrong)


def _receiver(who: str, model: GPT, receiver: Any) -> tuple[int, Any]:
    """(the layer at which it reads, (name, index) of what it makes of that); None for the logits."""
    L = model.config.n_layer
    if isinstance(receiver, str) and receiver == "logits":
        return L, None
    is_place = isinstance(receiver, list | tuple) and len(receiver) == 3
    if not is_place or not isinstance(receiver[2], str) or receiver[2] not in READS:
        raise InputError(
            f"{who}: receiver is {receiver!r}, expected 'logits' or (layer, head, 'q'), 'k' or 'v' the last"
        )
    layer, head, reads = receiver
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in (layer, head)):
        raise InputError(f"{who}: receiver is {receiver!r}, expected integers as its layer and head")
    kind = sites.SITES[reads]
    sites.expect_head(who, model.config, int(layer), int(head), kind)
    if layer == 0:
        raise InputError(f"{who}: the receiver is in layer 0, expected a later one: no head comes before it")
    index = kind.where(sites.layer_config(model.config, int(layer)), slice(None), int(head))
    return int(layer), (kind.name(int(layer)), index)


def _first_run(
    model: GPT, high: Run, low: Run, sender: tuple[int, int], end: int, through_mlps: bool
) -> list[Patch]:
    """The sender's clean result, and from there to the receiver the corrupted one of all other heads."""
    layer, head = sender
    kind = sites.SITES["heads"]
    name, every = kind.name(layer), slice(None)
    index = kind.where(sites.layer_config(model.config, layer), every, head)
    patches = [Patch(name, index, high.value[name][(every, *index)])]
    for n in range(layer, end):
        if n > layer:
            patches.append(Patch(kind.name(n), (), low.value[kind.name(n)]))
        if not through_mlps:
            mlp = sites.SITES["mlp"].name(n)
            patches.append(Patch(mlp, (), low.value[mlp]))
    return patches


def _effects(
    model: GPT, low: Run, rows: list[list[Patch]], metric: Metric, read_at: Any, progress: Progress | None
) -> Array:
    """The metric of each sender, the mean over the pairs."""
    _, reads = read_at
    if reads is None:
        return patched(model, low, rows, metric, progress).metric.real.mean(-1)
    name, index = reads
    first = patched(model, low, rows, metric, progress, keep=[name]).value[name]
    second = [[Patch(name, index, value[(slice(None), *index)])] for value in first]
    found: Array = patched(model, low, second, metric, progress).metric.real.mean(-1)
    return found
