"""Generating: how each token is chosen from the logits, and the text that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import engine
from ..arguments import AtLeastZero, Count, FromZeroToOne, Positive, Share, Size, checked_as
from ..errors import InputError
from ..random import generator
from ..tokenizers import Tokenizer
from .decoding import CachedRecord, KeyValueCache, Model, advance, logits_stream
from .sampling import choose, largest, penalised
from .streaming import endless_stream, streaming_cache

__all__ = [
    "CachedRecord",
    "KeyValueCache",
    "advance",
    "choose",
    "largest",
    "logits_stream",
    "stream",
    "texts",
]

Array = NDArray[Any]


@checked_as("generate")
def stream(
    model: Model,
    tokens: Array | Sequence[Array],
    max_new_tokens: Count,
    *,
    temperature: AtLeastZero = 1.0,
    top_k: Size | None = None,
    top_p: Share | None = None,
    min_p: FromZeroToOne = 0.0,
    repetition_penalty: Positive = 1.0,
    seed: int = 0,
    slide: Size = 1,
    among: Size | None = None,
    cache_size: Size | None = None,
    keep_first: Count | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Yield the next ids (B,) of each row of tokens (B, T), or of each of B rows, max_new_tokens times.

    A draw depends on seed, row and position only: the first of eight samples is the one that would be drawn
    alone.

    Parameters
    ----------
    model : GPT
    tokens : integer array (B, T), or a sequence of arrays (T) of different length
        As model.check_tokens returns them.
    max_new_tokens : int
    temperature : float
        Below 1 sharpens, above 1 flattens the distribution; 0 is greedy.
    top_k : int, optional
        Sample from the top_k most likely ids.
    top_p : float, optional
        Sample from the fewest ids whose probabilities reach this sum.
    min_p : float
        Sample from ids at least this share as likely as the likeliest; 0 leaves none out.
    repetition_penalty : float
        Above 1 makes ids less likely that stand in the row already; 1 changes nothing. See penalised.
    seed : int
    slide : int
        Tokens that leave the window at once when it is full; see logits_stream.
    among : int, optional
        Sample only from the first `among` ids; the rest pad the vocabulary.
    cache_size : int, optional
        The most positions that the cache holds, for text without end; block_size where keep_first is given.
    keep_first : int, optional
        How many of the first positions stay in such a cache, of the others the last ones; 4 where cache_size
        is given. See StreamingCache.

    Yields
    ------
    integer array (B,)

    Raises
    ------
    InputError
        For an option of another type or out of its range.

    Examples
    --------
    >>> import numgpt, numpy as np
    >>> model = numgpt.GPT(numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    >>> [ids.shape for ids in stream(model, np.array([[0], [1]]), 3, temperature=0.8, min_p=0.1)]
    [(2,), (2,), (2,)]
    """
    P = model.config.block_size
    tokens, lengths = _side_by_side(tokens)
    if tokens.ndim != 2 or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise InputError(
            f"generate: tokens are {tokens.dtype} of shape {tokens.shape}, expected integers (B, T) with at"
            " least one"
        )
    if slide > P:
        raise InputError(f"generate: slide is {slide}, expected 1 to block_size {P}")
    if max_new_tokens == 0:
        return
    present = None if repetition_penalty == 1 else _present(tokens, lengths, model.config.vocab_size)
    if cache_size is None and keep_first is None:
        steps = logits_stream(model, tokens, slide, lengths)
    elif lengths is not None:
        raise InputError(
            f"generate: prompts of {min(lengths)} to {max(lengths)} tokens, expected one length with"
            " cache_size or keep_first: continue them one by one"
        )
    else:
        steps = endless_stream(model, tokens, streaming_cache(model.config, cache_size, keep_first))
    logits = next(steps)
    for n in range(max_new_tokens):
        rows = engine.home(logits)[:, :among]
        if present is not None:
            rows = penalised(rows, present[:, :among], repetition_penalty)
        ends = [tokens.shape[1] + n] * len(rows) if lengths is None else lengths + n
        draws = [_draw(seed, row, int(end)) if temperature else 0.0 for row, end in enumerate(ends)]
        ids = np.array(
            [choose(row, u, temperature, top_k, top_p, min_p) for row, u in zip(rows, draws)], np.int64
        )
        yield ids
        if present is not None:
            present[np.arange(len(ids)), ids] = True
        if n + 1 < max_new_tokens:
            logits = steps.send(ids)


def is_ragged(tokens: Any) -> bool:
    """Whether tokens are rows of integers, of different length."""
    if not isinstance(tokens, list | tuple) or not all(
        isinstance(row, list | tuple | np.ndarray) for row in tokens
    ):
        return False
    return len({np.shape(row)[:1] for row in tokens}) > 1 and all(np.ndim(row) == 1 for row in tokens)


def _side_by_side(tokens: Any) -> tuple[Array, NDArray[np.int64] | None]:
    """Prompts as one array (B, T), each at the end of its row, and their lengths where they differ."""
    if isinstance(tokens, np.ndarray) or not is_ragged(tokens):
        return np.asarray(tokens), None
    lengths = np.array([len(row) for row in tokens], np.int64)
    if not lengths.all():
        raise InputError("generate: a prompt has no tokens, expected at least one in each")
    rows = np.zeros((len(tokens), int(lengths.max())), np.int64)
    for row, ids in zip(rows, tokens):
        row[-len(ids) :] = ids
    return rows, lengths


def _present(tokens: Array, lengths: Array | None, vocab_size: int) -> NDArray[np.bool_]:
    """Which ids stand in each row, of which the last lengths are its tokens.  tokens (B, T) → (B, V)"""
    present = np.zeros((len(tokens), vocab_size), bool)
    if lengths is None:
        np.put_along_axis(present, tokens, True, axis=1)
        return present
    for row, ids, length in zip(present, tokens, lengths):
        row[ids[-length:]] = True
    return present


def _draw(seed: int, row: int, position: int) -> float:
    return generator(seed, "sample", row, position).random()


@checked_as("generate")
def texts(
    model: Model,
    prompt: str,
    max_new_tokens: Count,
    *,
    samples: Size = 1,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    special: str = "refuse",
    **sampling: Any,
) -> Iterator[list[str]]:
    """Yield the text that continues a prompt, step by step: a list of new strings, one for each sample.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    prompt : str
        It is not repeated.
    max_new_tokens : int
    samples : int
    stop : str or sequence of str
        A sample ends before the first of these that it would contain. Text that may be the beginning of one
        is held back until that is known.
    ignore_eos : bool
        Whether a sample goes on where the model writes tokenizer.end_of_text; it ends there unless given.
    special : "refuse", "allow" or "text"
        What becomes of special tokens that the prompt spells out, as in Tokenizer.encode.
    **sampling
        As in stream.

    Yields
    ------
    list of str
        A string may be empty: a character of several tokens is shown when it is whole.

    Raises
    ------
    InputError
        Where the model has no tokenizer, or the prompt no token.

    Examples
    --------
    >>> import numgpt
    >>> tokenizer = numgpt.tokenizers.Characters("abc")
    >>> config = numgpt.Config(vocab_size=3, block_size=4, n_layer=1, n_head=1, n_embd=4)
    >>> model = numgpt.GPT(config, tokenizer=tokenizer)
    >>> text = "".join(new for new, in texts(model, "ab", 5))
    >>> len(text), set(text) <= set("abc")
    (5, True)
    """
    tokenizer = _tokenizer(model)
    prompt_ids = tokenizer.encode(prompt, special)
    if len(prompt_ids) == 0:
        raise InputError(
            "generate: the prompt is empty, expected at least one token: give --prompt, for example a line"
            " break"
        )
    end = None if ignore_eos else tokenizer.end_of_text
    yield from texts_behind(model, prompt_ids, max_new_tokens, samples, stop, end, **sampling)


def texts_behind(
    model: Model,
    prompt_ids: Array,
    max_new_tokens: int,
    samples: int = 1,
    stop: str | Sequence[str] = (),
    end: int | None = None,
    **sampling: Any,
) -> Iterator[list[str]]:
    """As texts, behind a prompt in tokens; end: the id by which a text ends."""
    tokenizer = _tokenizer(model)
    stop = (stop,) if isinstance(stop, str) else stop
    tails = [_Tail(tokenizer, prompt_ids, stop, end) for _ in range(samples)]
    tokens = np.tile(prompt_ids, (samples, 1))
    for ids in stream(model, tokens, max_new_tokens, among=tokenizer.vocab_size, **sampling):
        yield [tail.add(i) for tail, i in zip(tails, ids)]
        if all(tail.stopped for tail in tails):
            return
    yield [tail.finish() for tail in tails]


class _Tail:
    """The end of one sample's text, held back while it may begin a stop string or a character."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: NDArray[Any], stop: Sequence[str], end: int | None
    ) -> None:
        self.decode = tokenizer.decoder()
        for i in prompt.tolist():  # some leave out a space where a text begins, and this goes on with one
            self.decode(i)
        self.end = end
        self.stop = tuple(filter(None, stop))
        self.pending = ""
        self.stopped = False

    def add(self, i: int) -> str:
        """The text that is certain after token i."""
        if self.stopped:
            return ""
        if i == self.end:
            text = self.finish()
            self.stopped = True
            return text
        return self._release(self.decode(i))

    def finish(self) -> str:
        """What was held back, at the end."""
        if self.stopped:
            return ""
        text = self._release(self.decode(None, True))
        return text if self.stopped else text + self.pending

    def _release(self, text: str) -> str:
        self.pending += text
        ends = [self.pending.index(s) for s in self.stop if s in self.pending]
        if ends:
            self.stopped = True
            return self.pending[: min(ends)]
        beginnings = [n for s in self.stop for n in range(1, len(s)) if self.pending.endswith(s[:n])]
        certain = len(self.pending) - max(beginnings, default=0)
        text, self.pending = self.pending[:certain], self.pending[certain:]
        return text


def _tokenizer(model: Model) -> Tokenizer:
    if model.tokenizer is None:
        raise InputError(
            "generate: the model has no tokenizer, expected one to read the prompt: set model.tokenizer, or"
            " use model.generate on ids"
        )
    return model.tokenizer
