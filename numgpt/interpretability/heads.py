"""What heads attend to: their maps, and scores for the kinds of heads that have names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import Count, Ids, Size, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..random import generator
from . import sites
from .prompts import Few, token_rows
from .runs import run

Array = NDArray[Any]
KINDS = ("previous token", "duplicate token", "induction", "first token")


@dataclass(frozen=True, eq=False)
class Attention:
    """Who reads from whom: maps has for each layer an array (N, H, T, S), whose rows sum to 1; ids (N, T).

    With a sink a row sums to less: the rest went to no token.
    """

    maps: tuple[Array, ...]
    ids: NDArray[np.int64]


@checked
def attention_maps(model: GPT, prompt: Any) -> Attention:
    """The attention of every head: P (N, H, T, S) by layer.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them

    Returns
    -------
    Attention

    Notes
    -----
    What it does not show: what is read. A large share of a token whose value is small moves nothing, and
    attention to the first token is often no attention at all (Jain and Wallace 2019; Kobayashi et al. 2020).

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import attention_maps
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=4))
    >>> attention_maps(model, [0, 1, 2]).maps[0].shape
    (1, 2, 3, 3)
    """
    sites.expect_layers("attention_maps", model.config)
    ids = token_rows("attention_maps", model, prompt)
    names = [f"h.{layer}.attn.heads.probs" for layer in range(model.config.n_layer)]
    values = run(model, ids, -1, names).value
    return Attention(tuple(engine.home(values[name]) for name in names), ids)


# Scores of a map, P (..., T, S) with S = T, over its last two axes.


@checked
def offset_score(pattern: ArrayLike, offset: Count) -> Array:
    """The mean attention t → t − offset, over the queries that have such a token.  P (..., T, T) → (...)

    0 is a token's own, 1 the previous one. What it does not show: why. A head that always reads one back
    scores as one does that looks for what happens to stand there.

    Examples
    --------
    >>> offset_score([[1.0, 0.0], [0.75, 0.25]], 1)
    array(0.75)
    """
    P = _pattern("offset_score", pattern)
    if offset >= P.shape[-1]:
        raise InputError(
            f"offset_score: offset is {offset}, expected less than the {P.shape[-1]} tokens of the pattern"
        )
    return np.asarray(np.diagonal(P, -offset, -2, -1).mean(-1))


@checked
def previous_token_score(pattern: ArrayLike) -> Array:
    """The mean attention t → t − 1: offset_score with offset 1.  P (..., T, T) → (...)

    Such a head tells each token what stood before it, which an induction head then looks for (Elhage et al.
    2021; Olsson et al. 2022).
    """
    return offset_score(pattern, 1)


@checked
def first_token_score(pattern: ArrayLike) -> Array:
    """The mean attention t → 0, over t ≥ 1.  P (..., T, T) → (...)

    A head that has nothing to do attends there: the beginning of the sequence is its rest (Xiao et al. 2024).
    So the score says how often a head rests, not that the first token matters.
    """
    P = _pattern("first_token_score", pattern)
    if P.shape[-1] < 2:
        raise InputError("first_token_score: the pattern has one token, expected two or more")
    return np.asarray(P[..., 1:, 0].mean(-1))


@checked
def duplicate_token_score(pattern: ArrayLike, ids: Ids) -> Array:
    """The mean attention of a token to all earlier ones of the same id, over those that have any.

        P (..., T, T), ids (..., T) → (...)

    Source: Wang et al. 2022. NaN where no token is repeated. What it does not show: whether a head looks for
    the same token, or at a distance at which the text repeats.

    Examples
    --------
    >>> duplicate_token_score([[1.0, 0, 0], [0.5, 0.5, 0], [0.75, 0.25, 0]], [4, 2, 4])
    array(0.75)
    """
    P = _pattern("duplicate_token_score", pattern)
    mask = _duplicates(_ids("duplicate_token_score", ids, P))
    return _mean_of_rows(P, mask)


@checked
def induction_score(pattern: ArrayLike, period: Size) -> Array:
    """The mean attention t → t − period + 1 over the second copy of a sequence and what follows it.

        score = ⟨P_{t, t−n+1}⟩ over t ≥ n        n the period of the tokens; P (..., T, T) → (...)

    At t stands the token that stood at t − n; what followed it then is at t − n + 1. A head that continues
    a repeated text by looking there is an induction head (Olsson et al. 2022, "prefix matching score").

    Parameters
    ----------
    pattern : array (..., T, T)
        Of random tokens, repeated: in text a match may be the previous token of another kind.
    period : int
        n; 2 or more, for with 1 the token that followed is the query's own.

    Notes
    -----
    What it does not show: that the head copies what it reads. That is the copying score of its OV circuit.
    """
    P = _pattern("induction_score", pattern)
    if not 2 <= period < P.shape[-1]:
        raise InputError(
            f"induction_score: period is {period}, expected 2 to {P.shape[-1] - 1}, less than the tokens"
        )
    return np.asarray(np.diagonal(P, 1 - period, -2, -1)[..., 1:].mean(-1))


def detection_mask(kind: str, ids: Array) -> Array:
    """Which keys a perfect head of a kind would attend to, as TransformerLens draws it: (..., T, T) of 0, 1.

    Its rows need not sum to 1: of a token that stood twice before, both places count.
    """
    T = ids.shape[-1]
    if kind == "previous token":
        return np.broadcast_to(np.eye(T, k=-1), (*ids.shape, T))
    if kind == "first token":
        first = np.zeros((T, T))
        first[:, 0] = 1
        return np.broadcast_to(first, (*ids.shape, T))
    duplicates = _duplicates(ids).astype(float)
    if kind == "duplicate token":
        return duplicates
    shifted = np.zeros_like(duplicates)
    shifted[..., 1:] = duplicates[..., :-1]  # the token after each place at which the same stood
    return np.tril(shifted)


@checked
def detect_head(pattern: ArrayLike, ids: Ids, kind: str, measure: Literal["mul", "abs"] = "mul") -> Array:
    """TransformerLens' detect_head: how much of all attention falls on what a perfect head would attend to.

        mul = Σ P M / Σ P               M the mask of the kind, (T, T) of 0 and 1
        abs = 1 − Σ |P − M| / T         the distance of a row from the mask's, 0 to 2 where both sum to 1

    TransformerLens rounds abs to three digits. All queries are in the denominator, those too that have
    nothing to match: on a sequence and its repetition a perfect induction head has about 0.5, not 1.
    induction_score leaves the first copy out.

    Parameters
    ----------
    pattern : array (..., T, T)
    ids : integers (..., T)
    kind : "previous token", "duplicate token", "induction" or "first token"
    measure : "mul" or "abs"

    Returns
    -------
    array (...)

    Examples
    --------
    >>> detect_head([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]], [4, 2, 4], "previous token").round(3)
    np.float64(0.667)
    """
    P = _pattern("detect_head", pattern)
    if kind not in KINDS:
        raise InputError(f"detect_head: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    mask = detection_mask(kind, _ids("detect_head", ids, P))
    if measure == "abs":
        return np.asarray(1 - abs(P - mask).sum((-1, -2)) / P.shape[-1])
    total = P.sum((-1, -2))
    return np.asarray((P * mask).sum((-1, -2)) / np.where(total == 0, np.nan, total))


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Kind → scores (L, H), NaN where a layer has fewer heads; of which ids (N, T)."""

    scores: Mapping[str, Array]
    ids: NDArray[np.int64]

    @checked
    def best(self, kind: str) -> tuple[int, int, float]:
        """(layer, head, score) of the head that scores highest."""
        if kind not in self.scores:
            raise InputError(f"best: kind is {kind!r}, expected one of {', '.join(self.scores)}")
        if np.isnan(self.scores[kind]).all():
            raise InputError(f"best: no head has a score of {kind!r}, expected a prompt in which one can")
        layer, head = np.unravel_index(np.nanargmax(self.scores[kind]), self.scores[kind].shape)
        return int(layer), int(head), float(self.scores[kind][layer, head])


@checked
def head_scores(
    model: GPT, prompt: Any = None, *, period: Size | None = None, rows: Few = 4, seed: int = 0
) -> HeadScores:
    """Every head's scores for the kinds that have names, on a prompt, or on random tokens that repeat.

    Parameters
    ----------
    model : GPT
    prompt : str or ids, or a sequence of them, optional
        Without one, random tokens and the same again, in which nothing but position and repetition says what
        to attend to. With one, induction is TransformerLens' share of attention, since a text has no period.
    period : int, optional
        Of the random tokens; half of the model's positions, at most 64, unless given.
    rows : int
        How many such sequences.
    seed : int
        Draws them.

    Returns
    -------
    HeadScores
        "previous token", "duplicate token", "induction" and "first token", the mean over rows.

    Notes
    -----
    What it does not show: what a head does in text. Heads that score high here are candidates; ablation and
    patching say whether the model uses them (Olsson et al. 2022 on what is and is not shown).

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import head_scores
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=9, block_size=8, n_layer=2, n_head=2, n_embd=4))
    >>> scores = head_scores(model).scores
    >>> sorted(scores), scores["induction"].shape
    (['duplicate token', 'first token', 'induction', 'previous token'], (2, 2))
    """
    repeats = prompt is None
    if prompt is None:
        prompt, n = _repeated(model, period, rows, seed)
    else:
        n = 0
    if not repeats and period is not None:
        raise InputError("head_scores: a prompt and a period are both given, expected one of them")
    attention = attention_maps(model, prompt)
    if attention.ids.shape[1] < 2:
        raise InputError(
            "head_scores: the prompt has 1 token, expected 2 or more, so that one has a previous"
        )
    ids = attention.ids[:, None, :]
    functions = {
        "previous token": previous_token_score,
        "duplicate token": lambda P: duplicate_token_score(P, ids),
        "induction": lambda P: induction_score(P, n) if repeats else detect_head(P, ids, "induction"),
        "first token": first_token_score,
    }
    H = sites.most_heads(model.config, sites.SITES["heads"])
    scores = {kind: np.full((model.config.n_layer, H), np.nan) for kind in functions}
    for layer, P in enumerate(attention.maps):
        for kind, function in functions.items():
            scores[kind][layer, : P.shape[1]] = _mean(function(P))
    return HeadScores(scores, attention.ids)


def _mean(scores: Array) -> Array:
    """The mean over rows, of those that have a score."""
    there = ~np.isnan(scores)
    found: Array = np.where(there, scores, 0).sum(0) / np.maximum(there.sum(0), 1)
    return np.where(there.any(0), found, np.nan)


def _repeated(model: GPT, period: int | None, rows: int, seed: int) -> tuple[Array, int]:
    """Random tokens, and the same again, in each of some rows; and their period."""
    V, room = model.config.vocab_size, model.config.block_size // 2
    n = min(64, room) if period is None else period
    fits = model.config.positions != "learned" or n <= room
    if n < 2 or not fits:
        raise InputError(
            f"head_scores: period is {n}, expected 2 to {max(2, room)}, half of the model's"
            f" {2 * room} positions"
        )
    once = generator(seed, "repeated tokens", n).integers(0, V, (rows, n))
    return np.concatenate([once, once], axis=1), n


def _pattern(who: str, pattern: ArrayLike) -> Array:
    P = as_array(f"{who}: pattern", pattern, "attention (..., T, T)")
    if P.ndim < 2 or P.shape[-1] != P.shape[-2] or not P.size or P.dtype.kind not in "biuf":
        raise InputError(
            f"{who}: pattern is {P.dtype} of shape {P.shape}, expected numbers (..., T, T), as many keys as"
            " queries"
        )
    return P.astype(np.float64)


def _ids(who: str, ids: Ids, P: Array) -> Array:
    found = as_array(f"{who}: ids", ids, "integers (..., T)")
    is_row = found.ndim > 0 and found.shape[-1] == P.shape[-1]
    if found.dtype.kind not in "iu" or not is_row or found.ndim > P.ndim - 1:
        raise InputError(
            f"{who}: ids are {found.dtype} of shape {found.shape}, expected integers (..., {P.shape[-1]})"
        )
    try:
        np.broadcast_shapes(found.shape[:-1], P.shape[:-2])
    except ValueError:
        raise InputError(
            f"{who}: ids have shape {found.shape}, the pattern {P.shape}, expected a row each"
        ) from None
    return found


def _duplicates(ids: Array) -> Array:
    """Which earlier tokens have the id of each.  ids (..., T) → (..., T, T)"""
    found: Array = np.tril(ids[..., :, None] == ids[..., None, :], -1)
    return found


def _mean_of_rows(P: Array, mask: Array) -> Array:
    """The mean over queries that a mask has something for of their attention to it; NaN without any."""
    mask = np.broadcast_to(mask, P.shape)
    counts = mask.any(-1)
    total = (P * mask).sum((-1, -2))
    n = counts.sum(-1)
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan))
