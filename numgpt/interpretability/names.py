"""TransformerLens' names for what a Record holds, both ways, and how each array is turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..architecture.config import Config
from ..argument_kinds import as_array
from ..arguments import checked
from ..errors import InputError, near
from ..ops.activations import ACTIVATIONS
from .runs import stream

Array = NDArray[Any]
Turn = Literal["same", "swapped", "split", "part", "masked"]


@dataclass(frozen=True)
class Hook:
    """One array by two names.

    theirs, ours: the names. turn: what becomes of our array.

        same      nothing
        swapped   q, k, v (…, H, T, D) → (…, T, H, D)
        split     (…, T, HD) → (…, T, H, D)
        part      some of the channels, begin to end
        masked    scores, −∞ where a query does not see a key: our values are finite everywhere

    A part is split too where heads is not 0.
    """

    theirs: str
    ours: str
    turn: Turn = "same"
    heads: int = 0
    begin: int = 0
    end: int = 0
    window: int | None = None

    @checked
    def to_theirs(self, value: ArrayLike) -> Array:
        """TransformerLens' array from ours."""
        array = as_array(f"{self.ours}", value, "the value of that name")
        if self.turn == "swapped":
            return np.swapaxes(self._of(array, 3), -2, -3)
        if self.turn == "part":
            array = self._of(array, 1)
            if array.shape[-1] < self.end:
                raise self._wrong(array)
            array = array[..., self.begin : self.end]
        if self.turn == "masked":
            return np.where(self._seen(self._of(array, 2)), array, -np.inf)
        return self._split(array) if self.heads else array

    @checked
    def to_ours(self, value: ArrayLike) -> Array:
        """Our array from TransformerLens'; of a part the channels alone, of scores those that are seen.

        Hidden scores are −∞ there and stay so: what they were cannot be had back.
        """
        array = as_array(f"{self.theirs}", value, "the value of that hook")
        if self.turn == "swapped":
            return np.swapaxes(self._of(array, 3), -2, -3)
        if self.heads:
            array = self._of(array, 2)
            return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])
        return array

    def _of(self, array: Array, axes: int) -> Array:
        if array.ndim < axes:
            raise self._wrong(array)
        return array

    def _wrong(self, array: Array) -> InputError:
        return InputError(
            f"hook {self.theirs}: the array has shape {array.shape}, expected that of {self.ours}, or of"
            " the hook"
        )

    def _split(self, array: Array) -> Array:
        array = self._of(array, 1)
        if array.shape[-1] % self.heads:
            raise self._wrong(array)
        return array.reshape(*array.shape[:-1], self.heads, array.shape[-1] // self.heads)

    def _seen(self, array: Array) -> Array:
        T, S = array.shape[-2:]
        place, key = np.arange(S - T, S)[:, None], np.arange(S)
        first = -1 if self.window is None else place - self.window
        found: Array = (key <= place) & (key > first)
        return found


@dataclass(frozen=True)
class HookNames:
    """hooks: what both have. without: hook → why no value of ours is it."""

    hooks: tuple[Hook, ...]
    without: Mapping[str, str]

    @checked
    def theirs(self, name: str) -> Hook:
        """The hook of TransformerLens' name.

        >>> import numgpt
        >>> names = hook_names(numgpt.Config(n_layer=1))
        >>> names.theirs("blocks.0.attn.hook_pattern").ours
        'h.0.attn.heads.probs'
        """
        for hook in self.hooks:
            if hook.theirs == name:
                return hook
        if name in self.without:
            raise InputError(f"hook_names: {name} has no counterpart: {self.without[name]}")
        raise InputError(
            f"hook_names: there is no hook {name!r}, expected a name such as"
            f" {', '.join(near(name, [hook.theirs for hook in self.hooks]) or ['blocks.0.hook_resid_pre'])}"
        )

    @checked
    def ours(self, name: str) -> tuple[Hook, ...]:
        """The hooks of one of our names: resid_post of a layer is resid_pre of the next."""
        found = tuple(hook for hook in self.hooks if hook.ours == name)
        if not found:
            names = near(name, [hook.ours for hook in self.hooks]) or ["h.0.attn"]
            raise InputError(
                f"hook_names: no hook is our {name!r}, expected a name such as {', '.join(names)}"
            )
        return found

    @checked
    def patterns(self) -> list[str]:
        """Our names of all hooks, to be kept by a record."""
        return list(dict.fromkeys(hook.ours for hook in self.hooks))

    @checked
    def translated(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Our values by name → TransformerLens' by hook, of those that are there."""
        return {hook.theirs: hook.to_theirs(values[hook.ours]) for hook in self.hooks if hook.ours in values}


@checked
def hook_names(config: Config) -> HookNames:
    """Which of a Record's values is which hook of TransformerLens, and how its array is turned.

    Parameters
    ----------
    config : Config
        Of the shape of GPT-2, GPT-J, GPT-NeoX or LLaMA.

    Returns
    -------
    HookNames

    Raises
    ------
    InputError
        For models whose hooks mean something else: norms behind the parts, experts, norms of queries.

    Notes
    -----
    Gradients turn as values do, but those of scores are 0 where values are −∞, and that of hook_resid_mid
    is of the feed-forward's reading alone: ours is of the stream, which goes on beside it.
    TransformerLens folds norms' weights and biases into what follows, and centres what writes to the
    stream, where its compatibility mode is enabled; without that its arrays are ours, to 1e-10
    (tests/test_transformer_lens.py). The names are those of its version 4. Before, a LayerNorm's
    hook_normalized was what hook_out is now, and nothing was folded by from_pretrained_no_processing.

    Examples
    --------
    >>> import numgpt
    >>> config = numgpt.Config(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=8)
    >>> names = hook_names(config)
    >>> values = numgpt.GPT(config).record([[0, 1, 2]], keep=names.patterns()).value
    >>> names.translated(values)["blocks.0.attn.hook_z"].shape
    (1, 3, 2, 4)
    """
    known = ("pre", "parallel", "parallel2")
    kinds = config.scopes().values()
    if config.norm_position not in known or config.embed_norm:
        raise InputError(
            f"hook_names: norms stand {config.norm_position}, expected one of {', '.join(known)} and none of"
            " the embeddings, as hooks have them"
        )
    if config.qk_norm != "none" or any(kind.n_expert for kind in kinds):
        raise InputError(
            "hook_names: the model has experts, or norms of queries and keys, expected none: their hooks"
            " differ from model to model"
        )
    return HookNames(tuple(_hooks(config)), dict(_without(config)))


def _hooks(config: Config) -> Iterator[Hook]:
    """All hooks with a counterpart, in the order of the forward."""
    L = config.n_layer
    yield Hook("hook_embed", "wte" if config.embed_scale == 1 else "embed_scale")
    for layer in range(L):
        yield from _hooks_of_block(config, layer)
    yield Hook("ln_final.hook_out", "ln_f")


def _hooks_of_block(config: Config, layer: int) -> Iterator[Hook]:
    theirs, ours, c = f"blocks.{layer}", f"h.{layer}", config.scopes()[f"h.{layer}."]
    yield Hook(f"{theirs}.hook_resid_pre", stream(layer))
    yield Hook(f"{theirs}.ln1.hook_out", f"{ours}.ln_1")
    yield from _hooks_of_attention(c, f"{theirs}.attn", f"{ours}.attn")
    yield Hook(f"{theirs}.hook_attn_out", f"{ours}.attn")
    if config.norm_position == "pre":
        yield Hook(f"{theirs}.hook_resid_mid", f"{ours}.mid")
    if config.norm_position != "parallel":
        yield Hook(f"{theirs}.ln2.hook_out", f"{ours}.ln_2")
    F, fc = c.ffn_width, f"{ours}.mlp.c_fc"
    if ACTIVATIONS[c.activation].gated:
        yield Hook(f"{theirs}.mlp.hook_pre", fc, "part", end=F)
        yield Hook(f"{theirs}.mlp.hook_pre_linear", fc, "part", begin=F, end=2 * F)
    else:
        yield Hook(f"{theirs}.mlp.hook_pre", fc)
    yield Hook(f"{theirs}.mlp.hook_post", f"{ours}.mlp.act")
    yield Hook(f"{theirs}.hook_mlp_out", f"{ours}.mlp")
    yield Hook(f"{theirs}.hook_resid_post", stream(layer + 1))


def _hooks_of_attention(c: Config, theirs: str, ours: str) -> Iterator[Hook]:
    H, K, D = c.n_head, c.kv_heads, c.head_size
    for name, n, begin in (("q", H, 0), ("k", K, H * D), ("v", K, (H + K) * D)):
        turned = c.positions == "rotary" and name != "v"
        if turned:
            packed = f"{ours}.c_attn"
            yield Hook(f"{theirs}.hook_{name}", packed, "part", n, begin, begin + n * D)
        whole = f"{theirs}.hook_{'rot_' if turned else ''}{name}"
        yield Hook(whole, f"{ours}.heads.{name}", "swapped", n)
    scores = "slopes" if c.positions == "alibi" else "scores"
    scores = "cap" if c.softcap is not None and scores == "scores" else scores
    yield Hook(f"{theirs}.hook_attn_scores", f"{ours}.heads.{scores}", "masked", window=c.window)
    yield Hook(f"{theirs}.hook_pattern", f"{ours}.heads.probs")
    yield Hook(f"{theirs}.hook_z", f"{ours}.heads", "split", H)


def _without(config: Config) -> Iterator[tuple[str, str]]:
    """Hooks that none of our values is."""
    if config.positions == "learned":
        yield "hook_pos_embed", "positions are added at once: it is the value 'wpe' minus the value 'wte'"
    hat = "it is what weight and bias have yet to be applied to, our value and hook_out are behind them"
    scale = "the scale is no value: the norm's op keeps 1/σ for its backward"
    norms = ("ln1",) if config.norm_position == "parallel" else ("ln1", "ln2")
    for layer in range(config.n_layer):
        block = f"blocks.{layer}"
        for norm in norms:
            yield f"{block}.{norm}.hook_scale", scale
            yield f"{block}.{norm}.hook_normalized", hat
        yield (
            f"{block}.attn.hook_result",
            "a head's part of c_proj's output is never computed by itself: z W_O",
        )
        for name in ("attn_in", "q_input", "k_input", "v_input", "mlp_in"):
            yield f"{block}.hook_{name}", "a copy of the stream for one reader, which we do not make"
    yield "ln_final.hook_scale", scale
    yield "ln_final.hook_normalized", hat
