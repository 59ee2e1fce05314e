"""Rollouts: responses that a policy has sampled, and how likely each of their tokens is to a model.

Three stages, which share arrays and no Record: sample → Rollout, score → log-probabilities, and an objective
that updates the policy by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..argument_kinds import as_array
from ..arguments import Count, Ids, Positive, Size, checked
from ..data.rendering import End
from ..errors import InputError
from ..layers.policy_losses import policy_logprobs
from ..layers.visibility import Visibility
from ..model import differentiable
from ..model.decoding import KeyValueCache, advance, longest
from ..model.gpt import GPT
from ..model.sampling import choose_each
from ..ops.op import check_ids
from ..random import generator
from .ends import Ending
from .shared_prompts import Shared, shared
from .trained import Fixed

Integers = NDArray[np.int64]
Floats = NDArray[Any]
AT_ONCE = 512  # responses whose keys and values are held at once


class Rollout(NamedTuple):
    """Sampled responses, each behind its prompt; those to one prompt stand together.

    tokens: integers (N, T), 0 behind the end. first: integers (N), where each response begins. length:
    integers (N), its tokens, with the end. ended: booleans (N), whether it has one, or was cut. reward:
    floats (N), 0 until they are given.

    >>> Rollout(*map(np.array, ([[5, 1, 2, 0]], [1], [2], [True], [0.5]))).state()["tokens"]
    [[5, 1, 2, 0]]
    """

    tokens: Integers
    first: Integers
    length: Integers
    ended: NDArray[np.bool_]
    reward: NDArray[np.float64]

    def responses(self) -> list[Integers]:
        """The tokens of each response, with its end."""
        bounds = zip(self.tokens, self.first, self.first + self.length)
        return [row[begin:end] for row, begin, end in bounds]

    def state(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return {name: array.tolist() for name, array in self._asdict().items()}


class Scored(NamedTuple):
    """Rows of a rollout as a loss reads them: arrays (N, T − 1), T the longest row's.

    inputs, targets: integers, a target −1 where it is no token of a response. weights: 1 where it is one,
    else 0. shared: the same inputs in rows that two responses share, if they do.
    """

    inputs: Integers
    targets: Integers
    weights: NDArray[np.float64]
    shared: Shared | None = None

    def read(self) -> tuple[Integers, Integers, Integers | None, Visibility | None]:
        """(inputs, targets, places, visibility) as a layer of policy_losses takes them."""
        if self.shared is None:
            return self.inputs, self.targets, None, None
        return self.shared.tokens, self.targets, self.shared.places, self.shared.visibility


def rows_of(rollout: Rollout, rows: Any, share: bool = False) -> Scored:
    """Some rows of a rollout, without the places that all of them leave empty.

    share: whether two responses to a prompt may share a row; they stand side by side, an even number.
    """
    first, end = rollout.first[rows], (rollout.first + rollout.length)[rows]
    T = int(end.max())
    ids = rollout.tokens[rows, :T]
    place = np.arange(1, T)
    seen = (place >= first[:, None]) & (place < end[:, None])
    targets = np.where(seen, ids[:, 1:], -1)
    pairs = shared(ids, first, end - first, targets) if share else None
    return Scored(ids[:, :-1], targets, seen.astype(np.float64), pairs)


@checked
def sample(
    model: GPT,
    prompts: Sequence[Ids],
    end: End,
    *,
    group: Size = 1,
    max_new_tokens: Size = 64,
    temperature: Positive = 1.0,
    seed: int = 0,
    iteration: Count = 0,
) -> Rollout:
    """Responses that a model writes to prompts, drawn from its own probabilities, with nothing left out.

    What is drawn depends on seed, iteration and the row alone, so that it can be drawn again. A prompt is
    read once for its whole group; a response that has ended leaves the batch.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    prompts : sequence of ids
        In tokens, of whatever lengths.
    end : data.End
        By what a response ends, as a template's end_for gives it.
    group : int
        How many responses each prompt gets.
    max_new_tokens : int
        Where a response is cut that has not ended.
    temperature : float
        τ, by which logits are divided; the losses divide by the same.
    seed, iteration : int

    Returns
    -------
    Rollout
        Of len(prompts) · group rows.

    Raises
    ------
    InputError
        For a prompt that is empty, or too long for its response to fit behind it.
    """
    if model.tokenizer is None:
        raise InputError("sample: the model has no tokenizer, expected one: set model.tokenizer")
    if not prompts:
        raise InputError("sample: there is no prompt, expected some")
    ids = [_ids(f"sample: prompt {n}", model, prompt) for n, prompt in enumerate(prompts)]
    room = model.config.block_size + 1 - max_new_tokens
    for n, prompt in enumerate(ids):
        if not 0 < len(prompt) <= room:
            raise InputError(
                f"sample: prompt {n} has {len(prompt):,} tokens, expected 1 to {room:,}, so that"
                f" {max_new_tokens:,} more fit into block_size {model.config.block_size:,}"
            )
    draws = drawn(seed, iteration, len(ids) * group, max_new_tokens)
    return joined(ids, group, [written(model, ids, Ending(model.tokenizer, end), group, draws, temperature)])


def drawn(seed: int, iteration: int, rows: int, max_new_tokens: int) -> Floats:
    """What chooses each token of an iteration's responses, uniform in [0, 1): (rows, max_new_tokens)."""
    return generator(seed, "rollout", iteration).random((rows, max_new_tokens))


class Written(NamedTuple):
    """Responses without their prompts: tokens (N, n), lengths (N), and whether each has ended (N)."""

    tokens: Integers
    length: Integers
    ended: NDArray[np.bool_]


def written(
    model: GPT, ids: Sequence[Integers], ending: Ending, group: int, draws: Floats, temperature: float
) -> Written:
    """Responses to prompts, group to each, some prompts at once."""
    parts = []
    step = max(1, AT_ONCE // group)
    for begin in range(0, len(ids), step):
        some = ids[begin : begin + step]
        parts.append(_sampled(model, some, ending, group, draws[begin * group :], temperature))
    return Written(*(np.concatenate(arrays) for arrays in zip(*parts)))


def _ids(who: str, model: GPT, prompt: Ids) -> Integers:
    """A prompt as integers (T,) below the vocabulary's size."""
    ids = as_array(who, prompt, "ids (T,)")
    if ids.ndim != 1:
        raise InputError(f"{who}: has shape {ids.shape}, expected ids (T,) of one text")
    if ids.size:
        check_ids(who, ids, model.config.vocab_size)
    return ids.astype(np.int64)


def _sampled(
    model: GPT, prompts: Sequence[Integers], ending: Ending, group: int, draws: Floats, temperature: float
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """(tokens (N, n), lengths (N), whether each ended) of the responses to some prompts, read at once."""
    lengths = np.array([len(prompt) for prompt in prompts])
    rows = np.zeros((len(prompts), int(lengths.max())), np.int64)
    for row, prompt in zip(rows, prompts):
        row[-len(prompt) :] = prompt
    padding = rows.shape[1] - lengths
    cache = KeyValueCache(longest(model.config), padding if padding.any() else None)
    N, n_most = len(prompts) * group, draws.shape[1]
    tokens, length = np.zeros((N, n_most), np.int64), np.zeros(N, np.int64)
    ended = np.zeros(N, bool)
    assert model.tokenizer is not None, "sample() refuses it"
    among = model.tokenizer.vocab_size
    with engine.session(model.params.dtype):
        logits = engine.home(advance(model, rows, cache))
        if group > 1:
            repeated = np.repeat(np.arange(len(prompts)), group)
            cache.take(repeated)
            logits = logits[repeated]
        going = np.arange(N)
        for n in range(n_most):
            ids = choose_each(logits[:, :among], draws[going, n], temperature)
            tokens[going, n] = ids
            length[going] = n + 1
            done = ending.ended(tokens[going, max(0, n + 1 - ending.tail) : n + 1])
            if done.any():
                ended[going[done]] = True
                stay = np.flatnonzero(~done)
                going, ids = going[stay], ids[stay]
                if len(going) and n + 1 < n_most:
                    cache.take(stay)
            if not len(going) or n + 1 == n_most:
                break
            logits = engine.home(advance(model, ids[:, None], cache))
    return tokens, length, ended


def joined(prompts: Sequence[Integers], group: int, parts: Sequence[Written]) -> Rollout:
    """Prompts and what was written behind them, side by side."""
    responses, length, ended = (np.concatenate(arrays) for arrays in zip(*parts))
    first = np.repeat([len(prompt) for prompt in prompts], group).astype(np.int64)
    tokens = np.zeros((len(first), int((first + length).max())), np.int64)
    for row, prompt in zip(tokens[::group], prompts):
        row[: len(prompt)] = prompt
    tokens = tokens[::group].repeat(group, axis=0)
    row, place = np.nonzero(np.arange(responses.shape[1]) < length[:, None])
    tokens[row, first[row] + place] = responses[row, place]
    return Rollout(tokens, first, length, ended, np.zeros(len(first)))


@checked
def score(
    model: GPT | Fixed, rollout: Rollout, *, temperature: Positive = 1.0, batch_size: Size = 64
) -> Floats:
    """The log-probability of each token of responses, by the forward of training, which keeps nothing.

    Parameters
    ----------
    model : GPT, or what numgpt.tuning.frozen gives
    rollout : Rollout
    temperature : float
        That of sampling.
    batch_size : int
        Rows at once. An update scores in the shape of its own batches, so that the ratio of the two is 1 to
        the bit before its first step; other numbers of rows, or rows that do not share one, round otherwise.

    Returns
    -------
    array (N, T − 1)
        Of the tokens from the second one on; 0 where one is of no response.
    """
    layer = policy_logprobs(temperature)
    scorer: Any = model
    found = []
    for begin in range(0, len(rollout.first), batch_size):
        inputs, targets, *_ = rows_of(rollout, slice(begin, begin + batch_size))
        logp = engine.home(differentiable.value(scorer, layer, (inputs, targets)))
        found.append(np.pad(logp, ((0, 0), (0, rollout.tokens.shape[1] - 1 - logp.shape[1]))))
    return np.concatenate(found)
