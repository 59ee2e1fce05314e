"""Causal tracing: which restored state brings a fact back that noise on its subject took away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import Positive, Size, checked
from ..errors import InputError
from ..model.gpt import GPT
from ..random import generator
from . import sites
from .metrics import expect_place, probability, value_of
from .prompts import Few, token_rows
from .runs import Patch, Progress, Run, patched, run, streams

Array = NDArray[np.float64]
KINDS = ("resid_post", "mlp", "attn")


@dataclass(frozen=True, eq=False)
class Tracing:
    """What causal tracing found, in probabilities of the answer.

    clean, noised: P and P*, the latter the mean over draws. effect: kind → IE (L, T), the mean over draws of
    P*(restored) − P*. answer: the id. subject: the first and one behind the last of its tokens. noise: the
    standard deviation that was added. ids (T): the prompt.
    """

    clean: float
    noised: float
    effect: Mapping[str, Array]
    answer: int
    subject: tuple[int, int]
    noise: float
    ids: NDArray[np.int64]

    @property
    def total_effect(self) -> float:
        """TE = P − P*: what the noise took away."""
        return self.clean - self.noised


@checked
def causal_tracing(
    model: GPT,
    prompt: Any,
    subject: Any,
    answer: Any = None,
    *,
    sigmas: Positive = 3.0,
    draws: Few = 10,
    window: Size = 10,
    at: str | Sequence[str] = KINDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tracing:
    """ROME's causal tracing: the prompt runs with noise on its subject, and one state is put back.

        P* = the answer's probability with e_t + ε on the subject's tokens, ε ~ N(0, (sigmas σ)²)
        IE = P*(h_i^l restored) − P*        for each layer l and position i, the mean over draws
        TE = P − P*

    σ is the standard deviation of all entries of the embedding matrix. The stream is restored at one layer,
    mlp and attn over a window of layers around it, for one part alone is easily written over by the next.

    Parameters
    ----------
    model : GPT
    prompt : str or integers (T,)
    subject : str, or (begin, end)
        A part of the text, or the places of its tokens.
    answer : str or int, optional
        One token; what the model says on the clean prompt unless given.
    sigmas : float
    draws : int
        Noises; all of them are rows of each batch.
    window : int
        Layers restored at once of mlp and attn; of a small model as many as a third of its layers tell more.
    at : str or sequence of str
        Of "resid_post", "mlp" and "attn".
    seed : int
        Draws the noise.
    progress : function of (done, total), optional

    Returns
    -------
    Tracing

    Notes
    -----
    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", sections 2.1 and B.1; there
    means over prompts are shown, here one prompt. What it does not show: where a fact is best edited (Hase
    et al. 2023 find no relation), and noise takes the model where no text does (Zhang and Nanda 2024).

    Examples
    --------
    >>> import numgpt
    >>> from numgpt.interpretability import causal_tracing
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8)
    >>> model = numgpt.GPT(config, seed=0, dtype="float64")
    >>> found = causal_tracing(model, [0, 1, 2], (0, 2), window=1)
    >>> effect = found.effect["resid_post"]
    >>> effect.shape, bool(abs(effect[1, 2] - found.total_effect) < 1e-12)
    ((2, 3), True)
    """
    model = model.plain()
    who = "causal_tracing"
    sites.expect_layers(who, model.config)
    ids = token_rows(who, model, prompt)
    if len(ids) > 1:
        raise InputError(f"{who}: there are {len(ids)} prompts, expected one: take the mean of their effects")
    kinds = [at] if isinstance(at, str) else list(at)
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise InputError(f"{who}: at is {at!r}, expected some of {', '.join(KINDS)}")
    begin, end = _span(who, model, ids[0], subject)
    names = [sites.SITES[kind].name(layer) for kind in kinds for layer in range(model.config.n_layer)]
    clean = run(model, ids, -1, names)
    metric = probability(model, int(clean.logits[0].real.argmax()) if answer is None else answer)
    expect_place(who, metric, ids)
    noise = sigmas * float(engine.home(model.params["wte.weight"]).real.std())
    noised = _noised(model, ids, (begin, end), noise, draws, seed)
    low = value_of(metric, noised.logits).real
    rows, places = _rows(model, clean, kinds, window)
    found = patched(model, noised, rows, metric, progress).metric.real
    T = ids.shape[1]
    effect = {kind: np.zeros((model.config.n_layer, T)) for kind in kinds}
    for (kind, layer, t), values in zip(places, found):
        effect[kind][layer, t] = (values - low).mean()
    high = float(value_of(metric, clean.logits).real[0])
    return Tracing(high, float(low.mean()), effect, metric.answer[0], (begin, end), noise, ids[0])


def _noised(
    model: GPT, ids: NDArray[np.int64], span: tuple[int, int], noise: float, draws: int, seed: int
) -> Run:
    """The run with noise on the subject's embeddings, a row for each draw, its streams kept."""
    begin, end = span
    C = model.params["wte.weight"].shape[1]
    drawn = noise * generator(seed, "causal tracing").standard_normal((draws, end - begin, C))

    def add(value: Any) -> Any:
        value[:, begin:end] += engine.beside(drawn.astype(value.dtype), value)
        return value

    return run(model, np.repeat(ids, draws, axis=0), -1, streams(model), {"wte": add})


def _rows(
    model: GPT, clean: Run, kinds: Sequence[str], window: int
) -> tuple[list[list[Patch]], list[tuple[str, int, int]]]:
    """The patches of each row, and (kind, layer, position) of each."""
    L, T = model.config.n_layer, clean.ids.shape[1]
    rows, places = [], []
    for kind in kinds:
        for layer in range(L):
            layers = range(layer, layer + 1)
            if kind != "resid_post":
                layers = range(max(0, layer - window // 2), min(L, layer - window // 2 + window))
            names = [sites.SITES[kind].name(n) for n in layers]
            for t in range(T):
                rows.append([Patch(name, (t,), clean.value[name][:, t]) for name in names])
                places.append((kind, layer, t))
    return rows, places


def _span(who: str, model: GPT, ids: NDArray[np.int64], subject: Any) -> tuple[int, int]:
    """The tokens of a subject: the first, and one behind the last."""
    if isinstance(subject, str):
        return _found(who, model, ids, subject)
    is_pair = isinstance(subject, list | tuple) and len(subject) == 2
    if not is_pair or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in subject):
        raise InputError(f"{who}: subject is {subject!r}, expected a part of the text, or (begin, end)")
    begin, end = map(int, subject)
    if not 0 <= begin < end <= len(ids):
        raise InputError(f"{who}: subject is {subject!r}, expected 0 ≤ begin < end ≤ {len(ids)}, its tokens")
    return begin, end


def _found(who: str, model: GPT, ids: NDArray[np.int64], subject: str) -> tuple[int, int]:
    """The tokens that hold a part of a text, the first time that it stands there."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{who}: the model has no tokenizer, expected (begin, end) as the subject")
    ends = [len(tokenizer.decode(ids[: n + 1])) for n in range(len(ids))]
    text = tokenizer.decode(ids)
    first = text.find(subject)
    if first < 0 or not subject:
        raise InputError(
            f"{who}: the prompt {text!r} has no {subject!r}, expected a subject that stands in it"
        )
    begin = next(n for n, end in enumerate(ends) if end > first)
    last = next(n for n, end in enumerate(ends) if end >= first + len(subject))
    return begin, last + 1
