"""Parameters: their names, shapes and first values, and the one flat buffer of which they are views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import engine
from ..argument_kinds import native
from ..errors import InputError, near
from ..ops.activations import ACTIVATIONS
from ..ops.norms import NORMS
from ..ops.op import Op
from ..ops.positions import POSITIONS
from ..random import generator
from .config import Config

Shape = tuple[int, ...]
STD = 0.02  # of GPT-2's first weights
SHOWN = 10  # names that a repr shows; more are left out in the middle


class Part(NamedTuple):
    """What holds parameters: its name, its kind, the shape of its weight, and whether it has a bias.

    onto_residual: whether its result is added to the residual stream. weight: what the weight is called.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bias: bool = False
    onto_residual: bool = False
    weight: str = "weight"


class BlockNorms(NamedTuple):
    """The names of a block's norms, in the order of the flat buffer."""

    before_attention: tuple[str, ...]
    before_mlp: tuple[str, ...]
    after_mlp: tuple[str, ...] = ()


# By norm_position. GPT-2 lists ln_2 between its parts, and files of bits know this order.
NORMS_OF = {
    "pre": BlockNorms(("ln_1",), ("ln_2",)),
    "post": BlockNorms(("ln_1",), ("ln_2",)),
    "out": BlockNorms(("ln_1",), ("ln_2",)),
    "both": BlockNorms(("ln_1",), ("ln_1_out", "ln_2"), ("ln_2_out",)),
    "parallel": BlockNorms(("ln_1",), ()),
    "parallel2": BlockNorms(("ln_1",), ("ln_2",)),
}


def parts(config: Config) -> Iterator[Part]:
    """Every Part of a model, in the order of the flat buffer: what is asked of a name is read from here."""
    C, V = config.n_embd, config.vocab_size
    yield Part("wte", "token embedding", (V, C))
    if "weight" in _learned(POSITIONS[config.positions]):
        yield Part("wpe", "positions", (config.block_size, C))
    if config.embed_norm:
        yield from _norm(config, "ln_emb")
    for scope, kind in config.scopes().items():
        yield from _parts_of_block(kind, scope)
    if config.has_final_norm:
        yield from _norm(config, "ln_f")
    if not config.tied:
        yield Part("lm_head", "unembedding", (V, C), config.has_bias("head"))


def _parts_of_block(config: Config, scope: str) -> Iterator[Part]:
    """The Parts of a block: c_attn holds q | k | v side by side, and a gated c_fc gate | value."""
    C, qkv, merged = config.n_embd, config.qkv_width, config.n_head * config.head_size
    norms = NORMS_OF[config.norm_position]
    for name in norms.before_attention:
        yield from _norm(config, f"{scope}{name}")
    yield Part(f"{scope}attn.c_attn", "attention", (C, qkv), config.has_bias("qkv"))
    if config.qk_norm == "each":
        for name, heads in (("ln_q", config.n_head), ("ln_k", config.kv_heads)):
            yield Part(f"{scope}attn.{name}", "norms", (heads, config.head_size))
    elif config.qk_norm != "none":
        by_head = config.qk_norm == "head"
        yield from _norm(config, f"{scope}attn.ln_q", config.head_size if by_head else merged)
        yield from _norm(
            config, f"{scope}attn.ln_k", config.head_size if by_head else config.kv_heads * config.head_size
        )
    if config.sink:
        yield Part(f"{scope}attn.heads", "sinks", (config.n_head,), weight="sink")
    yield Part(f"{scope}attn.c_proj", "attention", (merged, C), config.has_bias("out"), onto_residual=True)
    for name in norms.before_mlp:
        yield from _norm(config, f"{scope}{name}")
    yield from _parts_of_mlp(config, f"{scope}mlp.")
    for name in norms.after_mlp:
        yield from _norm(config, f"{scope}{name}")


def _parts_of_mlp(config: Config, scope: str) -> Iterator[Part]:
    """The Parts of a feed-forward, or of a router and its experts, whose matrices are stacked."""
    if config.n_expert == 0:
        yield from _feed_forward(config, scope, "feed-forward", config.ffn_width)
        return
    yield Part(f"{scope}router", "routers", (config.n_embd, config.n_expert), config.has_bias("router"))
    yield from _feed_forward(config, scope, "experts", config.ffn_width, (config.n_expert,))
    if config.shared_inner is not None:
        yield from _feed_forward(config, f"{scope}shared.", "feed-forward", config.shared_inner)
        yield Part(f"{scope}shared_gate", "feed-forward", (config.n_embd, 1))


def _feed_forward(
    config: Config, scope: str, kind: str, F: int, stacked: tuple[int, ...] = ()
) -> Iterator[Part]:
    """The two Parts of a feed-forward of width F, or of as many as are stacked."""
    C, has_bias = config.n_embd, config.has_bias("mlp")
    inner = 2 * F if ACTIVATIONS[config.activation].gated else F
    yield Part(f"{scope}c_fc", kind, (*stacked, C, inner), has_bias)
    yield Part(f"{scope}c_proj", kind, (*stacked, F, C), has_bias, onto_residual=True)


def _norm(config: Config, name: str, width: int | None = None) -> Iterator[Part]:
    """The Part of a norm, of n_embd channels unless a width is given, unless it learns nothing."""
    learned = _learned(NORMS[config.norm])
    if learned:
        shape = (config.n_embd if width is None else width,)
        yield Part(name, "norms", shape, "bias" in learned and config.has_bias("norm"))


def _learned(op: Op | None) -> tuple[str, ...]:
    """What an op of a table learns: a norm may have no bias, positions that are computed have no weight."""
    return () if op is None else op.parameters


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, named and laid out as in GPT-2's published checkpoints.

    >>> from numgpt import Config
    >>> shapes(Config(vocab_size=5, block_size=4, n_layer=0, n_head=1, n_embd=2))
    {'wte.weight': (5, 2), 'wpe.weight': (4, 2), 'ln_f.weight': (2,), 'ln_f.bias': (2,)}
    """
    named: dict[str, tuple[int, ...]] = {}
    for part in parts(config):
        named[f"{part.name}.{part.weight}"] = part.shape
        if part.bias:
            of_a_map = (*part.shape[:-2], *part.shape[-1:])  # stacked maps have a bias each
            named[f"{part.name}.bias"] = part.shape[:1] if part.kind == "unembedding" else of_a_map
    return named


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is a matrix, or a stack of them: what the optimizer's decay acts on.

    The biases of stacked maps are vectors, side by side, and so are the weights of norms of heads, and the
    scales of rounded weights.
    """
    part, _, kind = name.rpartition(".")
    is_norm = part.rpartition(".")[2].startswith("ln_")
    return len(shape) > 1 and kind not in ("bias", "weight_scale", "weight_zero") and not is_norm


def kinds(config: Config) -> dict[str, str]:
    """Name -> kind of the Part that a parameter belongs to."""
    by_part = {part.name: part.kind for part in parts(config)}
    return {name: by_part[name.rpartition(".")[0]] for name in shapes(config)}


class Flat(Mapping[str, NDArray[Any]]):
    """Named arrays that are views of one contiguous buffer: parameters, gradients, moments.

    Matrices come first, and stacks of them, so that the optimizer's decay acts on one slice.

    Parameters
    ----------
    shapes : mapping of name -> shape
    dtype : the dtype of the buffer
    flat : array, optional
        The buffer; zeros unless given.
    like : array, optional
        A new buffer lies where this array does, in the host's memory or on the GPU.
    integers : mapping of name -> array, optional
        Rounded weights and masks, which lie beside the buffer: they have names here, and neither gradients
        nor moments.

    Attributes
    ----------
    flat : array (N,)
        All numbers but integers.
    shapes : dict of name -> shape
        Of the numbers in flat.
    integers : dict of name -> array
    decayed : array
        The part of flat that holds the matrices.
    places : dict of name -> slice
        Where the numbers of each lie in flat, in the order of flat.

    Examples
    --------
    >>> params = Flat({"h.weight": (2, 3), "h.bias": (3,)}, "float32")
    >>> params["h.bias"] += 1
    >>> params.flat
    array([0., 0., 0., 0., 0., 0., 1., 1., 1.], dtype=float32)
    >>> params
    Flat: 2 arrays, 9 numbers of float32
      h.weight  (2, 3)
      h.bias    (3,)
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: DTypeLike,
        flat: NDArray[Any] | None = None,
        like: NDArray[Any] | None = None,
        integers: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.shapes = dict(shapes)
        self.integers = dict(integers or {})
        size = sum(map(math.prod, self.shapes.values()))
        if flat is None and not engine.on_gpu(like):
            engine.expect_room(f"parameters: {size:,} numbers", size * np.dtype(dtype).itemsize)
        try:
            self.flat: NDArray[Any] = native(np.zeros(size, dtype, like=like) if flat is None else flat)
        except (MemoryError, ValueError) as error:  # ValueError: more than an address can count
            raise InputError(
                f"parameters: {size:,} numbers do not fit in memory ({engine.out_of_memory(error)}), expected"
                " fewer: choose a smaller model"
            ) from error
        if self.flat.shape != (size,):
            raise InputError(f"parameters: the flat buffer has shape {self.flat.shape}, expected ({size},)")
        if not self.flat.flags.c_contiguous:  # kernels go from number to number
            raise InputError(
                "parameters: the flat buffer is not contiguous, expected its numbers side by side: give"
                " np.ascontiguousarray(buffer)"
            )
        self._lay()

    def _lay(self) -> None:
        """Make the views of the buffer."""
        self._views: dict[str, NDArray[Any]] = {}
        self.places: dict[str, slice] = {}
        offset = 0
        matrices = [name for name, shape in self.shapes.items() if is_matrix(name, shape)]
        vectors = [name for name, shape in self.shapes.items() if not is_matrix(name, shape)]
        for name in matrices + vectors:
            shape = self.shapes[name]
            self.places[name] = slice(offset, offset + math.prod(shape))
            self._views[name] = self.flat[self.places[name]].reshape(shape)
            offset += math.prod(shape)
        self._views |= self.integers
        self.decayed = self.flat[: sum(math.prod(self.shapes[name]) for name in matrices)]

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._views[name]
        except KeyError:
            raise KeyError(self._no_such(name)) from None

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        """Copy value into the view, wherever either lies; a shape that does not fit is an error."""
        view = self[name]
        if np.shape(value) != view.shape:
            raise InputError(f"parameters: {name} was given shape {np.shape(value)}, expected {view.shape}")
        view[...] = engine.beside(value, self.flat)

    def __contains__(self, name: object) -> bool:
        return name in self._views  # Mapping's own would make a KeyError's message for each missing bias

    def get(self, name: str, default: Any = None) -> Any:
        """The view of a name, or the default: without a message, as above."""
        return self._views.get(name, default)

    def __iter__(self) -> Iterator[str]:
        yield from self.shapes
        yield from self.integers

    def __len__(self) -> int:
        return len(self.shapes) + len(self.integers)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles rebuild the views: copied one by one, they would lose their buffer.

        A shallow copy, copy.copy, shows the same numbers.
        """
        return type(self), (self.shapes, self.dtype, self.flat, None, self.integers)

    def __repr__(self) -> str:
        """A table of names and shapes, shortened in the middle."""
        place = " on the GPU" if engine.on_gpu(self.flat) else ""
        beside = f" and {sum(q.size for q in self.integers.values()):,} integers" if self.integers else ""
        title = f"Flat: {len(self):,} arrays, {self.flat.size:,} numbers of {self.dtype}{beside}{place}"
        width = max(map(len, self), default=0)
        rows = [f"  {name:{width}}  {shape}" for name, shape in self.shapes.items()]
        rows += [f"  {name:{width}}  {q.shape} {q.dtype}" for name, q in self.integers.items()]
        if len(rows) > SHOWN:
            half = SHOWN // 2
            rows[half:-half] = [f"  … {len(rows) - 2 * half:,} more"]
        return "\n".join([title, *rows])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the buffer."""
        return self.flat.dtype

    def like(self) -> Flat:
        """The same names and shapes over a buffer of zeros: gradients, moments; integers have none."""
        return Flat(self.shapes, self.dtype, like=self.flat)

    def astype(self, dtype: DTypeLike) -> Flat:
        """A copy in another dtype, where this one lies."""
        if engine.on_gpu(self.flat) and np.dtype(dtype) not in engine.ON_GPU:
            raise InputError(
                f"parameters: the GPU has no {np.dtype(dtype)}, expected"
                f" {', '.join(map(str, engine.ON_GPU))}: move them by .to('reference') first"
            )
        with np.errstate(under="ignore"):
            return self._over(self.flat.astype(dtype), {name: q.copy() for name, q in self.integers.items()})

    def _over(self, flat: NDArray[Any], integers: Mapping[str, NDArray[Any]]) -> Flat:
        """The same names and shapes over another buffer."""
        return Flat(self.shapes, flat.dtype, flat, integers=integers)

    def to(self, name: str) -> Flat:
        """The same where the named engine computes: itself if it lies there, else a copy."""
        flat = engine.move(self.flat, name)
        if flat is self.flat:
            return self
        return self._over(flat, {n: engine.move(q, name) for n, q in self.integers.items()})

    def relocate(self, buffer: NDArray[Any]) -> None:
        """Lie over another buffer from here on, whatever it holds: memory that processes share.

        Views that somebody took before show the old one.
        """
        assert buffer.shape == self.flat.shape and buffer.dtype == self.flat.dtype, (
            "a buffer of the same kind"
        )
        self.flat = buffer
        self._lay()

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, integers among them."""
        return int(self.flat.nbytes + sum(q.nbytes for q in self.integers.values()))

    @property
    def n_weights(self) -> int:
        """How many weights there are: a byte of uint8 holds two that are rounded; masks are none."""
        rounded = [q for name, q in self.integers.items() if not name.endswith("_mask")]
        halves = sum(q.size for q in rounded if q.dtype == np.uint8)
        return int(self.flat.size + sum(q.size for q in rounded) + halves)

    def first_not_finite(self) -> str | None:
        """The name of the first array that holds NaN or infinity, or None."""
        # On the GPU one answer to wait for, where all is well, instead of one for each name.
        if engine.on_gpu(self.flat) and np.isfinite(self.flat).all():
            return None
        return next((name for name in self.shapes if not np.isfinite(self._views[name]).all()), None)

    def _no_such(self, name: object) -> str:
        if f"{name}_q" in self.integers:
            return f"there is no {name!r}, which is rounded, expected floats: model.dequantized()"
        names = near(str(name), self) or list(self)[:3]
        return f"there is no {name!r}, expected a name such as {', '.join(names)}"


def initialise(config: Config, seed: int, dtype: DTypeLike) -> Flat:
    """GPT-2's initialisation, drawn by seed and name.

    Weights are normal with standard deviation 0.02. Those of the two projections onto the residual stream
    are smaller by 1/√(2L), because 2L of them are added up. Norms start at 1, biases and sinks at 0. All is
    drawn in float64, so that every dtype starts at the same point.
    """
    params = Flat(shapes(config), dtype)
    for part in parts(config):
        name = f"{part.name}.{part.weight}"
        if part.kind == "sinks":
            continue
        if part.kind == "norms":
            params[name][...] = 1
            continue
        std = STD / math.sqrt(2 * config.n_layer) if part.onto_residual else STD
        params[name][...] = generator(seed, "init", name).standard_normal(part.shape) * std
    return params
