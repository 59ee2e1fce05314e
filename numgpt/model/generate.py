"""Decoding: one token after the other with a key/value cache, and how each is chosen from the logits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..arguments import AtLeastZero, Count, FromZeroToOne, Positive, Share, Size, checked_as
from ..errors import InputError
from ..layers.record import Record
from ..layers.transformer import gpt_forward
from ..ops.attention import attend, attention, merge_heads, split_heads
from ..ops.linear import unembedding
from ..ops.positions import positions
from ..random import generator
from ..tokenizers import Tokenizer
from .sampling import choose, largest, penalised

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
FIRST_ROOM = 64  # positions for which a cache has room at first


class Model(Protocol):
    """What decoding asks of a model; a GPT has it."""

    config: Config
    params: Flat
    tokenizer: Tokenizer | None


class KeyValueCache:
    """The keys and values of all positions so far, by the name of the attention that made them."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0
        self._store: dict[str, Array] = {}
        self._constants: dict[Any, Any] = {}

    def memory(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, like: Array | None = None) -> Array:
        """The memory (2, ..., H, room, D) of a name, for its keys and its values, which lies where like does.

        It has room for shape (..., H, T, D) after the positions so far.
        """
        end = self.length + shape[-2]
        store = self._store.get(name)
        if store is None or end > store.shape[-2]:
            # Twice as many, rather than block_size at once: memory is paged in as it is needed.
            room = 0 if store is None else store.shape[-2]
            room = min(self.block_size, max(FIRST_ROOM, 2 * room, end))
            larger = np.empty((2, *shape[:-2], room, shape[-1]), dtype, like=like)
            if store is not None:
                larger[..., : self.length, :] = store[..., : self.length, :]
            store = self._store[name] = larger
        return store

    def append(self, name: str, k: Array, v: Array) -> tuple[Array, Array]:
        """Put k and v (..., H, T, D) after the positions so far; returns all, (..., H, S, D).

        advance() moves the end, once all layers have appended theirs.
        """
        store = self.memory(name, k.shape, k.dtype, k)
        end = self.length + k.shape[-2]
        store[0][..., self.length : end, :] = k
        store[1][..., self.length : end, :] = v
        return store[0][..., :end, :], store[1][..., :end, :]

    def kept(self, key: Any, make: Callable[..., Any], *args: Any) -> Any:
        """make(*args), once: what is the same at every step of one model."""
        if key not in self._constants:
            self._constants[key] = make(*args)
        return self._constants[key]

    def clear(self) -> None:
        """Forget all positions, keep the memory."""
        self.length = 0


class CachedRecord(Record):
    """A Record of the tokens that follow those in a cache: it attends to both, and computes the last logits.

    Positions are counted on from the cache's end. Only the last position is unembedded: the others' logits
    would choose tokens that are there already.
    """

    cache: Any

    def __init__(self, params: Flat, config: Config, cache: KeyValueCache) -> None:
        super().__init__(params, config)
        self.cache = cache

    def run(
        self, full: str, op: Any, arrays: tuple[Array, ...], options: dict[str, Any]
    ) -> tuple[Array, Any]:
        """As Record.run, for the tokens after those in the cache."""
        if op is positions:
            options = {"start": self.cache.length}
        elif op is unembedding:
            arrays = (arrays[0][..., -1:, :], *arrays[1:])
        elif op is attention:
            q, k, v = split_heads(arrays[0], options["n_head"])
            y, _ = super().run(full, attend, (q, *self.cache.append(full, k, v)), {})
            return merge_heads(y), None
        return super().run(full, op, arrays, options)


def advance(model: Model, tokens: Array, cache: KeyValueCache) -> Array:
    """Read tokens (B, T) after those in the cache → logits (B, V) of the token that follows."""
    ids = engine.checked(tokens, model.params.flat, model.config.vocab_size)
    logits = gpt_forward(CachedRecord(model.params, model.config, cache), ids)
    cache.length += tokens.shape[-1]
    return logits[..., -1, :]


def logits_stream(model: Model, tokens: Array, slide: int = 1) -> Generator[Array, Array, None]:
    """A generator of next-token logits (B, V): begin with a prompt (B, T), then send it chosen tokens (B,).

    Past block_size the window slides: the oldest tokens leave, positions are counted anew, and the cache is
    filled again, because learned positions are part of every key. With slide 1 the model sees the last
    block_size tokens at every step. A larger slide drops that many at once: faster, for a context that is up
    to slide − 1 tokens shorter.
    """
    P = model.config.block_size
    cache = KeyValueCache(P)
    window = fresh = tokens[:, -P:]
    while True:
        with engine.session(model.params.dtype):
            logits = advance(model, fresh, cache)
        ids = yield logits
        fresh = ids[:, None]
        window = np.concatenate([window, fresh], axis=1)
        if cache.length == P:
            window = fresh = window[:, -(P + 1 - slide) :]
            cache.clear()


@checked_as("generate")
def stream(
    model: Model,
    tokens: Array,
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
) -> Iterator[NDArray[np.int64]]:
    """Yield the next ids (B,) of each row of tokens (B, T), max_new_tokens times.

    A draw depends on seed, row and position only: the first of eight samples is the one that would be drawn
    alone.

    Parameters
    ----------
    model : GPT
    tokens : integer array (B, T)
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
    if tokens.ndim != 2 or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise InputError(
            f"generate: tokens are {tokens.dtype} of shape {tokens.shape}, expected integers (B, T) with at"
            " least one"
        )
    if slide > P:
        raise InputError(f"generate: slide is {slide}, expected 1 to block_size {P}")
    if max_new_tokens == 0:
        return
    present = None if repetition_penalty == 1 else _present(tokens, model.config.vocab_size)
    steps = logits_stream(model, tokens, slide)
    logits = next(steps)
    for n in range(max_new_tokens):
        rows = engine.home(logits)[:, :among]
        if present is not None:
            rows = penalised(rows, present[:, :among], repetition_penalty)
        position = tokens.shape[1] + n
        draws = [_draw(seed, row, position) if temperature else 0.0 for row in range(len(rows))]
        ids = np.array(
            [choose(row, u, temperature, top_k, top_p, min_p) for row, u in zip(rows, draws)], np.int64
        )
        yield ids
        if present is not None:
            present[np.arange(len(ids)), ids] = True
        if n + 1 < max_new_tokens:
            logits = steps.send(ids)


def _present(tokens: Array, vocab_size: int) -> NDArray[np.bool_]:
    """Which ids stand in each row.  tokens (B, T) → (B, V)"""
    present = np.zeros((len(tokens), vocab_size), bool)
    np.put_along_axis(present, tokens, True, axis=1)
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
    stop = (stop,) if isinstance(stop, str) else stop
    tails = [_Tail(tokenizer, stop, end) for _ in range(samples)]
    tokens = np.tile(prompt_ids, (samples, 1))
    for ids in stream(model, tokens, max_new_tokens, among=tokenizer.vocab_size, **sampling):
        yield [tail.add(i) for tail, i in zip(tails, ids)]
        if all(tail.stopped for tail in tails):
            return
    yield [tail.finish() for tail in tails]


class _Tail:
    """The end of one sample's text, held back while it may begin a stop string or a character."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], end: int | None) -> None:
        self.decode = tokenizer.decoder()
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
