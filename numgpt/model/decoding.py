"""Decoding with a key/value cache: the logits of the next token, for rows of one length or of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..architecture.parameters import Flat
from ..errors import InputError
from ..layers.filed import Entry
from ..layers.layer import Layer
from ..layers.record import Record
from ..layers.transformer import gpt_forward
from ..layers.visibility import Visibility
from ..ops.attention import attend_groups, attention, by_group, merge_heads, split_heads
from ..ops.linear import unembedding
from ..ops.op import Op
from ..ops.quantised import quantised4_linear, quantised_linear, quantised_unembedding
from ..ops.scalings import depends_on_length
from ..ops.sinks import beside_sink, sink_attention
from ..tokenizers import Tokenizer

Array = NDArray[Any]
FIRST_ROOM = 64  # positions for which a cache has room at first


class Model(Protocol):
    """What decoding asks of a model; a GPT has it."""

    config: Config
    params: Flat
    tokenizer: Tokenizer | None


class KeyValueCache:
    """The keys and values of the positions so far, by the name of the attention that made them.

    Of an attention with a window of W, positions are let go that no later query sees: there is room for some
    4 W, or for a prompt that is longer.
    longest: the most positions that it may come to hold, or None.
    padding: integers (B), for rows of different length how many places before each row's first token are
    empty; None where all rows are of one length.
    """

    def __init__(self, longest: int | None = None, padding: Array | None = None) -> None:
        self.longest = longest
        self.padding = padding
        self.length = 0
        self._store: dict[str, Array] = {}
        self._first: dict[str, int] = {}  # the first position that a store holds, where that is not 0
        self._constants: dict[Any, Any] = {}

    def memory(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        layer: Config,
        like: Array | None = None,
    ) -> tuple[Array, int, int]:
        """The memory (2, ..., H, room, D) of a name, for its keys and its values, and from where to where it
        holds some.

        It has room for shape (..., H, T, D) after these, and lies where like does. They are those of all
        positions so far, or of the last ones, where the layer's window lets go the others.
        """
        T, store, first = shape[-2], self._store.get(name), self._first.get(name, 0)
        window = layer.window
        held = self.length - first
        if store is None or held + T > store.shape[-2]:
            unseen = 0 if window is None else max(0, held - (window - 1))
            if store is not None and 2 * unseen >= store.shape[-2] >= held - unseen + T:
                store[..., : held - unseen, :] = store[..., unseen:held, :].copy()
                self._first[name] = first + unseen
                return store, 0, held - unseen
            # Twice as many, rather than the most at once: memory is paged in as it is needed.
            room = max(FIRST_ROOM, 2 * (0 if store is None else store.shape[-2]), held + T)
            room = room if self.longest is None else min(self.longest, room)
            larger = np.empty((2, *shape[:-2], room, shape[-1]), dtype, like=like)
            if store is not None:
                larger[..., :held, :] = store[..., :held, :]
            store = self._store[name] = larger
        return store, 0, held

    def append(self, name: str, k: Array, v: Array, layer: Config) -> tuple[Array, Array, int]:
        """Put k and v (..., H, T, D) after those so far; returns all (..., H, S, D) and how many were held.

        advance() moves the end, once all layers have appended theirs.
        """
        store, begin, end = self.memory(name, k.shape, k.dtype, layer, k)
        store[0][..., end : end + k.shape[-2], :] = k
        store[1][..., end : end + k.shape[-2], :] = v
        keys, values = store[..., begin : end + k.shape[-2], :]
        return keys, values, end - begin

    def seen(self, form: dict[str, Any], held: int) -> dict[str, Any]:
        """Attention's options, its keys counted from the first of the `held` ones."""
        begin = self.length - held
        return form | {name: form[name] - begin for name in ("first", "last") if begin and name in form}

    def visibility(self, T: int) -> Visibility | None:
        """What the next T tokens see where rows are padded: their row's tokens; padding sees itself."""
        if self.padding is None:
            return None
        place = np.arange(self.length, self.length + T)
        before = self.padding[:, None]
        return Visibility(np.maximum(place - before, 0), np.minimum(place, before))

    def kept(self, key: Any, make: Callable[..., Any], *args: Any) -> Any:
        """make(*args), once: what is the same at every step of one model."""
        if key not in self._constants:
            self._constants[key] = make(*args)
        return self._constants[key]

    def take(self, rows: Array) -> None:
        """Go on with some rows, by their numbers, each as often as it is named."""
        self._store = {name: store.take(rows, axis=1) for name, store in self._store.items()}
        self.padding = None if self.padding is None else self.padding[rows]

    def clear(self, padding: Array | None = None) -> None:
        """Forget all positions, keep the memory."""
        self.length = 0
        self._first.clear()
        self.padding = padding


class CachedRecord(Record):
    """A Record of the tokens that follow those in a cache: it attends to both, and computes the last logits.

    Positions are counted on from the cache's end. Only the last position is unembedded: the others' logits
    would choose tokens that are there already.
    """

    cache: Any

    def __init__(self, params: Flat, config: Config, cache: KeyValueCache, **options: Any) -> None:
        super().__init__(params, config, **options)
        self.cache = cache
        self.start = cache.length

    def _run_layer(
        self, name: str, layer: Layer, inputs: Sequence[Any], options: dict[str, Any]
    ) -> tuple[Any, Entry]:
        """As Record._run_layer; which twin of a layer suits its inputs is asked once, not for each token."""
        plain = self.visibility is None
        key = "twin", self.scope + name, engine.current(), plain, *(x.shape for x in inputs)
        fused = self.cache.kept(key, self._fused, name, layer, inputs)
        if fused is None:
            return super()._run_layer(name, layer, inputs, options)
        value, saved = fused.forward(self / name, *inputs)
        return value, Entry(fused, (saved,))

    def _serving(
        self, full: str, op: Op | Layer | None, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Op | Layer | None:
        """As Record._serving; asked once a name, not for each token."""
        return self.cache.kept(("served", full), super()._serving, full, op, inputs, options)

    def _unknown_to_twins(self) -> Collection[str]:
        """As Record._unknown_to_twins: those for decoding know rounded matrices."""
        rounded = quantised_linear, quantised4_linear
        return [n for n, op in self.served.items() if op not in rounded or f"{n}.weight_q" not in self.params]

    def run(
        self, full: str, op: Any, arrays: tuple[Array, ...], options: dict[str, Any]
    ) -> tuple[Array, Any]:
        """As Record.run, for the tokens after those in the cache."""
        if op in (unembedding, quantised_unembedding):
            arrays = (arrays[0][..., -1:, :], *arrays[1:])
        elif op in (attention, sink_attention):
            return self._attend(full, *arrays, **options), None
        return super().run(full, op, arrays, options)

    def _attend(
        self,
        full: str,
        qkv: Array,
        sink: Array | None = None,
        *,
        n_head: int,
        n_kv_head: int | None = None,
        **form: Any,
    ) -> Array:
        """The heads' attention to the positions in the cache and to the new ones."""
        q, k, v = split_heads(qkv, n_head, n_kv_head)
        keys, values, held = self.cache.append(full, k, v, self.config)
        arrays = by_group(q, k.shape[-3]), keys, values
        form = self.cache.seen(form, held)
        y, saved = super().run(full, attend_groups, arrays, form)
        if sink is not None:
            y = beside_sink(y, saved, sink)
        return merge_heads(y.reshape(q.shape))


def advance(model: Model, tokens: Array, cache: KeyValueCache) -> Array:
    """Read tokens (B, T) after those in the cache → logits (B, V) of the token that follows."""
    ids = engine.checked(tokens, model.params.flat, model.config.vocab_size)
    visibility = cache.visibility(tokens.shape[-1])
    if visibility is not None:
        visibility = visibility.beside(model.params.flat)
    options = {"visibility": visibility, "served": getattr(model, "served", None)}
    logits = gpt_forward(CachedRecord(model.params, model.config, cache, **options), ids)
    cache.length += tokens.shape[-1]
    return logits[..., -1, :]


def longest(config: Config) -> int | None:
    """The most tokens that a model can see: block_size where positions are learned, else any number."""
    return config.block_size if config.positions == "learned" else None


def logits_stream(
    model: Model, tokens: Array, slide: int = 1, lengths: Array | None = None
) -> Generator[Array, Array, None]:
    """A generator of next-token logits (B, V): begin with a prompt (B, T), then send it chosen tokens (B,).

    lengths: integers (B) for prompts of different length: those of row b are its last lengths[b] tokens.

    Past block_size the window of learned positions slides: the oldest tokens leave, positions are counted
    anew, and the cache is filled again, because learned positions are part of every key. With slide 1 the
    model sees the last block_size tokens at every step. A larger slide drops that many at once: faster, for a
    context that is up to slide − 1 tokens shorter. It is filled again at every step, too, where a rotation
    depends on how many tokens there are.
    """
    P = longest(model.config)
    every_step = any(depends_on_length(kind.rotary_scaling) for kind in model.config.scopes().values())
    if every_step and lengths is not None:
        raise InputError(
            f"generate: prompts of {min(lengths)} to {max(lengths)} tokens, expected one length where the"
            " rotation depends on it: continue them one by one"
        )
    cache = KeyValueCache(P)
    lengths = np.full(len(tokens), tokens.shape[1]) if lengths is None else lengths
    lengths = lengths if P is None else np.minimum(lengths, P)
    window = fresh = tokens[:, -int(lengths.max()) :]
    while True:
        if cache.length == 0:
            cache.clear(_padding(window, lengths))
        with engine.session(model.params.dtype):
            logits = advance(model, fresh, cache)
        ids = yield logits
        fresh, lengths = ids[:, None], lengths + 1
        window = np.concatenate([window, fresh], axis=1)
        if cache.length == P or every_step:
            lengths = lengths if P is None else np.where(lengths > P, P + 1 - slide, lengths)
            window = fresh = window[:, -int(lengths.max()) :]
            cache.clear()


def _padding(window: Array, lengths: Array) -> Array | None:
    """How many places before each row are empty, or None where none is."""
    padding = window.shape[1] - lengths
    return padding if padding.any() else None
