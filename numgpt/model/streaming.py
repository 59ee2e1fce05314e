"""Text without end in a cache of fixed size: the first positions stay, and of the others the last ones."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import engine
from ..architecture.config import Config
from ..errors import InputError
from ..ops.positions import turns
from ..ops.rotary import shift_angles, turned
from ..ops.scalings import depends_on_length
from .decoding import KeyValueCache, Model, advance

Array = NDArray[Any]
KEEP_FIRST = 4  # of which Xiao et al. find that more gain little


class StreamingCache(KeyValueCache):
    """A cache that never holds more than `size` positions: the first ones, and then the last ones.

    When it is full, the oldest position that is not one of the first `keep_first` leaves at each token.
    Positions are counted within the cache: as the last ones move up, the distance to the first ones stays
    below size, however long the text. Keys and values stay what they were when their token was read, when it
    saw what has left since. A layer whose window is shorter than size keeps as many positions as its window.

    Source: Xiao, Tian, Chen, Han and Lewis 2024, Efficient Streaming Language Models with Attention Sinks.
    """

    def __init__(self, config: Config, size: int, keep_first: int) -> None:
        super().__init__()
        self.size = size
        self.keep_first = keep_first
        self.at_once = smallest(config, size)  # tokens of a prompt of which no layer lets one go
        self._places: dict[str, tuple[int, int]] = {}  # where the positions of a store begin and end
        self._kept: dict[str, Array] = {}  # the first ones, their keys turned as they were read

    def memory(
        self, name: str, shape: tuple[int, ...], dtype: DTypeLike, layer: Config, like: Array | None = None
    ) -> tuple[Array, int, int]:
        """As KeyValueCache.memory: those that the next token sees, which advance() adds to."""
        limit = positions_of(layer, self.size)
        T, S = shape[-2], self.keep_first
        store = self._store.get(name)
        if store is None:
            room = 2 * limit  # as many steps as there are positions, before they have to be moved
            store = self._store[name] = np.empty((2, *shape[:-2], room, shape[-1]), dtype, like=like)
        begin, end = self._places.get(name, (0, 0))
        gone = max(0, end - begin + T - limit)
        if gone:
            if name not in self._kept:
                self._kept[name] = store[..., :S, :].copy()
            begin += gone
            if end + T > store.shape[-2]:
                n = end - begin
                store[..., S:n, :] = store[..., begin + S : end, :].copy()
                begin, end = 0, n
            # The first ones come to lie before the last ones, where others were.
            store[..., begin : begin + S, :] = self._kept[name]
            shift = self.length + T - limit  # how far they have moved, as positions of the text
            store[0][..., begin : begin + S, :] = moved(self._kept[name][0], shift, layer)
        self._places[name] = begin, end + T
        return store, begin, end

    def seen(self, form: dict[str, Any], held: int) -> dict[str, Any]:
        """Attention's options: what a query sees is all that is held."""
        return {key: option for key, option in form.items() if key not in ("first", "last")}

    def clear(self, padding: Array | None = None) -> None:
        """Forget all positions, keep the memory."""
        super().clear(padding)
        self._places.clear()
        self._kept.clear()


def positions_of(layer: Config, size: int) -> int:
    """How many positions a layer keeps in a cache of this size."""
    return size if layer.window is None else min(size, layer.window)


def smallest(config: Config, size: int) -> int:
    """The fewest positions that a layer of the model keeps."""
    return min(positions_of(layer, size) for layer in config.scopes().values())


def moved(keys: Array, shift: int, layer: Config) -> Array:
    """Keys (..., S, D) as if they had been read so many positions later."""
    if not turns(layer.positions):
        return keys
    D = keys.shape[-1]
    cos, sin = shift_angles(keys, shift, layer.rotary_size, layer.rotary_base, layer.rotary_scaling)
    return turned(keys, cos, sin, 1, D)


def streaming_cache(config: Config, size: int | None, keep_first: int | None) -> StreamingCache:
    """The cache of these settings: block_size positions and KEEP_FIRST of the first ones, unless given.

    Raises
    ------
    InputError
        Where the model's positions cannot be counted within a cache, and for sizes that do not fit.
    """
    given = f"keep_first is {keep_first}" if size is None else f"cache_size is {size}"
    size = config.block_size if size is None else size
    keep_first = min(KEEP_FIRST, size - 1) if keep_first is None else keep_first
    kinds = config.scopes().values()
    of_text = {kind.positions for kind in kinds} & {"learned", "sinusoidal"}
    if of_text:
        raise InputError(
            f"generate: {given}, expected it only where positions are counted within the cache, 'rotary',"
            f" 'alibi' or 'none': this model's are {of_text.pop()!r}"
        )
    if any(depends_on_length(kind.rotary_scaling) for kind in kinds):
        raise InputError(
            f"generate: {given}, expected it only where a rotation does not depend on the text's length: this"
            " model's does"
        )
    fewest = smallest(config, size)
    if keep_first >= fewest:
        what = "cache_size" if fewest == size else "the model's window"
        raise InputError(f"generate: keep_first is {keep_first}, expected less than {what}, {fewest}")
    return StreamingCache(config, size, keep_first)


def endless_stream(model: Model, tokens: Array, cache: StreamingCache) -> Generator[Array, Array, None]:
    """As decoding.logits_stream, in a cache of fixed size.

    Of a prompt that is longer than the cache, the tokens beyond are read one by one.
    """
    with engine.session(model.params.dtype):
        logits = advance(model, tokens[:, : cache.at_once], cache)
        for t in range(cache.at_once, tokens.shape[1]):
            logits = advance(model, tokens[:, t : t + 1], cache)
    while True:
        ids = yield logits
        with engine.session(model.params.dtype):
            logits = advance(model, ids[:, None], cache)
