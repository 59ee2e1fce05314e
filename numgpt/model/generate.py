"""Decoding: one token after the other with a key/value cache, and the choice of each token from the logits."""

import numpy as np

from .. import engine
from ..errors import InputError
from ..layers.record import Record
from ..layers.transformer import gpt_forward
from ..ops import attend, attention, positions, unembedding
from ..ops.attention import merge_heads, split_heads
from ..random import generator


class KeyValueCache:
    """The keys and values of all positions so far, by the name of the attention that made them."""

    def __init__(self, block_size):
        self.block_size, self.length, self._store, self._kept = block_size, 0, {}, {}

    def memory(self, name, shape, dtype, like=None):
        """The memory (2, ..., H, room, D) of a name, keys and values, with room for shape (..., H, T, D)
        after the positions so far.

        It lies where the array like does.
        """
        end, store = self.length + shape[-2], self._store.get(name)
        held = 0 if store is None else store.shape[-2]
        if end > held:  # room for twice as many: memory is asked for, and paged in, as it is needed
            room = min(self.block_size, max(64, 2 * held, end))
            larger = np.empty((2, *shape[:-2], room, shape[-1]), dtype, like=like)
            if store is not None:
                larger[..., : self.length, :] = store[..., : self.length, :]
            store = self._store[name] = larger
        return store

    def append(self, name, k, v):
        """Add k and v (..., H, T, D) at the end; returns all so far, (..., H, S, D). advance() moves the end."""
        store, end = self.memory(name, k.shape, k.dtype, k), self.length + k.shape[-2]
        store[0][..., self.length : end, :] = k
        store[1][..., self.length : end, :] = v
        return store[0][..., :end, :], store[1][..., :end, :]

    def kept(self, key, make, *args):
        """make(*args), once: what is the same at every step of one model."""
        if key not in self._kept:
            self._kept[key] = make(*args)
        return self._kept[key]

    def clear(self):
        """Forget all positions, keep the memory."""
        self.length = 0


class CachedRecord(Record):
    """A Record whose attention reads the cache, whose positions go on from it, and whose logits are the last
    position's.
    """

    def __init__(self, params, config, cache):
        super().__init__(params, config)
        self.cache = cache

    def run(self, full, op, arrays, options):
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


def advance(model, tokens, cache):
    """Read tokens (B, T) after those in the cache → logits (B, V) of the token that follows."""
    ids = engine.checked(tokens, model.params.flat, model.config.vocab_size)
    logits = gpt_forward(CachedRecord(model.params, model.config, cache), ids)
    cache.length += tokens.shape[-1]
    return logits[..., -1, :]


def logits_stream(model, tokens, slide=1):
    """A generator of next-token logits (B, V): send it the chosen tokens (B,), beginning with the prompt (B,
    T).

    Past block_size the window slides: the oldest tokens leave, positions are counted anew and the cache is
    filled again, since learned positions are part of every key. slide 1 shows the model the last block_size
    tokens at every step; a larger one drops so many at once and is faster, for a context that is up to slide
    − 1 shorter.
    """
    P, cache = model.config.block_size, KeyValueCache(model.config.block_size)
    window = fresh = tokens[:, -P:]
    while True:
        with engine.session(model.params.dtype):
            logits = advance(model, fresh, cache)
        ids = yield logits
        window, fresh = np.concatenate([window, ids[:, None]], axis=1), ids[:, None]
        if cache.length == P:
            window = fresh = window[:, -(P + 1 - slide) :]
            cache.clear()


def choose(logits, draw, temperature=1.0, top_k=None, top_p=None):
    """The id that a number in [0, 1) picks from the probabilities, sorted from the largest to the smallest.

        p = softmax(logits / temperature), sorted; equal ones by id
        the top_k first, of these the fewest whose sum reaches top_p, scaled to sum 1
        the first id at which the running sum exceeds draw

    Sorted, so that engines which agree on the logits pick the same id. temperature 0: the largest.
    logits (V,), draw a float → int
    """
    logits = logits.real
    if not np.isfinite(logits).all():
        raise InputError("generate: the logits are not finite, expected numbers: is the checkpoint whole?")
    if temperature == 0:
        return int(np.argmax(logits))
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0: −∞, probability 0
        probs = np.exp((logits - logits.max()) / temperature)
    # Few ids have most of the probability: no more are sorted than it takes.
    n = min(len(logits), top_k or 256)
    while True:
        order = largest(logits, n)
        sums, whole = np.cumsum(probs[order]), n in (top_k, len(logits))
        total, last = sums[-1] if whole else probs.sum(), n - 1
        if top_p is not None:
            reached = int(np.searchsorted(sums, top_p * total))
            whole, last = whole or reached < n, min(reached, n - 1)
            total = sums[last]
        place = int(np.searchsorted(sums, draw * total, side="right"))
        if whole or (top_p is None and place < n):
            return int(order[min(place, last)])
        n = min(len(logits), 8 * n)


def largest(x, n):
    """The places of the n largest entries, from the largest down; equal ones by place.  x (V,) → (n,)"""
    places = (
        np.arange(len(x)) if n >= len(x) else np.flatnonzero(x >= np.partition(x, len(x) - n)[len(x) - n])
    )
    return places[np.argsort(-x[places], kind="stable")][:n]


def stream(
    model, tokens, max_new_tokens, *, temperature=1.0, top_k=None, top_p=None, seed=0, slide=1, among=None
):
    """Yield the next ids (B,) of each row of tokens (B, T), max_new_tokens times.

    among: how many ids, the first ones, there are to choose from; None: all, those that only pad the
    vocabulary with them.
    A draw depends on seed, row and position: the first of eight samples is the one that would be made alone.
    """
    P = model.config.block_size
    for name, value, holds, expected in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 0, "0 or more"),
        ("temperature", temperature, 0 <= temperature < float("inf"), "0 (greedy) or more"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "more than 0 and at most 1"),
        ("slide", slide, 1 <= slide <= P, f"1 to block_size {P}"),
    ):
        if not holds:
            raise InputError(f"generate: {name} is {value}, expected {expected}")
    if max_new_tokens == 0:
        return
    steps = logits_stream(model, tokens, slide)
    logits = next(steps)
    for n in range(max_new_tokens):
        draws = [
            generator(seed, "sample", row, tokens.shape[1] + n).random() if temperature else 0.0
            for row in range(len(tokens))
        ]
        ids = np.array(
            [
                choose(row, u, temperature, top_k, top_p)
                for row, u in zip(engine.home(logits)[:, :among], draws)
            ]
        )
        yield ids
        if n + 1 < max_new_tokens:
            logits = steps.send(ids)


def texts(model, prompt, max_new_tokens, *, samples=1, stop=(), special="refuse", **sampling):
    """Yield lists of new text, one string a sample and step, that continue a prompt; the prompt is not
    repeated.

    A sample ends before the first of the stop strings that it would contain. Text that could be the beginning
    of one is held back until it is known. special: what becomes of special tokens that the prompt spells out,
    as in Tokenizer.encode.
    """
    tokenizer = _tokenizer(model)
    ids = tokenizer.encode(prompt, special)
    if len(ids) == 0:
        raise InputError(
            "generate: the prompt is empty, expected at least one token: give --prompt, for example a line"
            " break"
        )
    tails = [_Tail(tokenizer, stop) for _ in range(samples)]
    tokens = np.tile(ids, (samples, 1))
    for ids in stream(model, tokens, max_new_tokens, among=tokenizer.vocab_size, **sampling):
        yield [tail.add(i) for tail, i in zip(tails, ids)]
        if all(tail.stopped for tail in tails):
            return
    yield [tail.finish() for tail in tails]


class _Tail:
    """The end of one sample's text: what may not be shown yet, because a stop string or a character may be in
    the making.
    """

    def __init__(self, tokenizer, stop):
        self.decode, self.stop, self.held, self.stopped = (
            tokenizer.decoder(),
            tuple(filter(None, stop)),
            "",
            False,
        )

    def add(self, i):
        """The text that is certain after token i."""
        if self.stopped:
            return ""
        return self._release(self.decode(i))

    def finish(self):
        """What was held back, at the end."""
        if self.stopped:
            return ""
        text = self._release(self.decode(None, True))
        return text if self.stopped else text + self.held

    def _release(self, text):
        self.held += text
        ends = [self.held.index(s) for s in self.stop if s in self.held]
        if ends:
            self.stopped = True
            return self.held[: min(ends)]
        hold = max((n for s in self.stop for n in range(1, len(s)) if self.held.endswith(s[:n])), default=0)
        certain, self.held = self.held[: len(self.held) - hold], self.held[len(self.held) - hold :]
        return certain


def _tokenizer(model):
    if model.tokenizer is None:
        raise InputError(
            "generate: the model has no tokenizer, expected one to read the prompt: set model.tokenizer, or"
            " use model.generate on ids"
        )
    return model.tokenizer
