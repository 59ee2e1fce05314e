"""The tables of numgpt inspect, and its numbers as JSON holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots.table import Table

if TYPE_CHECKING:
    from ..interpretability import (
        DirectAttribution,
        HeadScores,
        Lens,
        Neurons,
        Patching,
        TokenAttribution,
        Tracing,
    )
    from ..model.gpt import GPT

READS = 3  # tokens that attention's table names
STRONGEST = 20  # patches that a table has where each head and position has one


def plain(content: Any) -> Any:
    """What JSON can hold: lists for arrays, null for what is no number."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not np.isfinite(content) else content


def token_texts(model: GPT, ids: Iterable[Any]) -> list[str]:
    """The texts of tokens; their numbers where the model has none for them."""
    tokenizer = model.tokenizer
    known = 0 if tokenizer is None else tokenizer.vocab_size
    return [tokenizer.decode([int(i)]) if tokenizer and int(i) < known else str(int(i)) for i in ids]


def attention(maps: Mapping[tuple[int, int], Any], texts: Sequence[str]) -> Table:
    """A row for each head: how it attends on the whole, and what the last token reads."""
    rows = []
    for (layer, head), P in maps.items():
        order = np.argsort(-P[-1], kind="stable")[:READS]
        reads = ", ".join(f"{texts[s]!r} at {s}: {P[-1, s]:.2f}" for s in order)
        T = len(P)
        before = f"{np.diagonal(P, -1).mean():.2f}" if T > 1 else "–"
        first = f"{P[1:, 0].mean():.2f}" if T > 1 else "–"
        rows.append((str(layer), str(head), before, first, f"{np.diagonal(P).mean():.2f}", reads))
    last = f"{texts[-1]!r} at {len(texts) - 1} reads"
    return Table(("layer", "head", "previous", "first", "itself", last), tuple(rows))


def lens(found: Lens, top: Sequence[Any], answer: str) -> Table:
    """What each layer would say after the last token."""
    rows = []
    for n, name in enumerate(found.names):
        where = "embeddings" if n == 0 else f"after {name}"
        p = np.exp(found.log_prob[n, -1])
        numbers = (f"{p:.3f}", str(found.rank[n, -1]), f"{found.kl[n, -1]:.3f}")
        rows.append((where, " ".join(map(repr, top[n][-1])), *numbers))
    return Table(("stream", "most likely next", f"p({answer!r})", "rank", "KL to the last"), tuple(rows))


def direct(found: DirectAttribution, names: Sequence[str]) -> tuple[Any, ...]:
    """What each part adds, and that nothing is missing."""
    total = found.value[:, 0].sum()
    rows = [(name, _signed(value)) for name, value in zip(found.names, found.value[:, 0])]
    rows.append(("sum", _signed(total)))
    table = Table(("part", f"{names[0]!r} − {names[1]!r}"), tuple(rows))
    return table, f"logit difference {found.logits[0]:.6f}; the sum lacks {abs(found.missing[0]):.0e}"


def by_token(found: TokenAttribution, texts: Sequence[str], names: Sequence[str]) -> tuple[Any, ...]:
    """What each token of the prompt counts."""
    rows = [(str(t), repr(text), _signed(found.score[0, t])) for t, text in enumerate(texts)]
    table = Table(("at", "token", f"{names[0]!r} − {names[1]!r}"), tuple(rows))
    return table, (
        f"logit difference {found.value[0]:.4f}, with mean embeddings {found.baseline[0]:.4f}; the scores"
        f" lack {abs(found.missing[0]):.0e} of what is between"
    )


def patching(found: Patching, texts: Sequence[str]) -> Table:
    """Tokens by layers; of what has heads too, the patches that do most."""
    if found.axes == ("layer", "position"):
        layers = (f"layer {n}" for n in range(len(found.share)))
        rows = [(str(t), repr(text), *map(_cell, found.share[:, t])) for t, text in enumerate(texts)]
        return Table(("at", "token", *layers), tuple(rows))
    size = np.nan_to_num(abs(found.share), nan=-1.0)
    places = zip(*np.unravel_index(np.argsort(-size, axis=None, kind="stable"), size.shape))
    rows = [
        (str(layer), str(head), str(t), repr(texts[t]), _cell(found.share[layer, t, head]))
        for layer, t, head in list(places)[:STRONGEST]
        if np.isfinite(found.share[layer, t, head])
    ]
    return Table(("layer", "head", "at", "token", "share"), tuple(rows))


def patching_note(found: Patching, names: Sequence[str]) -> str:
    """What the shares are of."""
    return (
        f"share brought back of {names[0]!r} − {names[1]!r}: 0 is {found.corrupted:.3f}, of the corrupted"
        f" prompt, 1 is {found.clean:.3f}, of the other"
    )


def tracing(found: Tracing, texts: Sequence[str], answer: str) -> tuple[Any, ...]:
    """A table for each kind of state, and what the noise took away."""
    begin, end = found.subject
    marked = [f"{text!r}*" if begin <= t < end else repr(text) for t, text in enumerate(texts)]
    parts = []
    for kind, effect in found.effect.items():
        layers = (f"layer {n}" for n in range(len(effect)))
        rows = [(str(t), text, *map(_cell, effect[:, t])) for t, text in enumerate(marked)]
        parts.append(Table(("at", kind, *layers), tuple(rows)))
    return *parts, (
        f"p({answer!r}) brought back of {found.total_effect:.4f}: {found.clean:.4f}, with noise on the"
        f" tokens with * {found.noised:.4f}"
    )


def heads(found: HeadScores) -> Table:
    """A row for each head; a star at the best of each kind."""
    best = {k: found.best(k)[:2] for k, scores in found.scores.items() if not np.isnan(scores).all()}
    L, H = next(iter(found.scores.values())).shape
    rows = []
    for layer in range(L):
        for head in range(H):
            cells = (
                f"{_cell(scores[layer, head])}{'*' if best.get(kind) == (layer, head) else ' '}"
                for kind, scores in found.scores.items()
            )
            rows.append((str(layer), str(head), *cells))
    return Table(("layer", "head", *found.scores), tuple(rows))


def neurons(found: Neurons, contexts: Sequence[Any]) -> Table:
    """Each text up to the token at which a neuron is strongest."""
    rows = []
    for n, neuron in enumerate(found.neurons):
        for value, texts in zip(found.value[n], contexts[n]):
            before = repr("".join(texts[:-1]))[1:-1]
            rows.append((str(neuron), f"{value:.3f}", f"{before}‹{repr(texts[-1])[1:-1]}›"))
    return Table(("neuron", "activation", "text, ‹strongest token›"), tuple(rows))


def strongest(found: Neurons, n: int) -> Neurons:
    """Of all neurons those of the strongest activations, the strongest first."""
    order = np.argsort(-found.value[:, 0], kind="stable")[:n]
    of_each = ("neurons", "value", "row", "position", "context", "mean", "share")
    return dataclasses.replace(found, **{name: getattr(found, name)[order] for name in of_each})


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _cell(value: float) -> str:
    if np.isnan(value):
        return "–"
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text
