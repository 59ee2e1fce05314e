"""Parameters: their names, shapes and first values, and the one flat buffer of which they are views."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .. import engine
from ..errors import InputError
from ..ops.norms import NORMS
from ..ops.positions import POSITIONS
from ..random import generator

STD = 0.02


class Part(NamedTuple):
    """What holds parameters: its name, its kind, the shape of its weight (None for a norm) and whether it has a bias.

    onto_residual: whether what it gives is added to the residual stream.
    """

    name: str
    kind: str
    shape: tuple
    bias: bool = False
    onto_residual: bool = False


def parts(config):
    """Every Part of a model, in the order of the flat buffer: what is asked of a name is read from here."""
    C, F, V = config.n_embd, config.ffn_width, config.vocab_size
    yield Part("wte", "token embedding", (V, C))
    yield Part("wpe", "positions", (config.block_size, C))
    for i in range(config.n_layer):
        yield Part(f"h.{i}.ln_1", "norms", (C,), config.bias)
        yield Part(f"h.{i}.attn.c_attn", "attention", (C, 3 * C), config.bias)
        yield Part(f"h.{i}.attn.c_proj", "attention", (C, C), config.bias, onto_residual=True)
        yield Part(f"h.{i}.ln_2", "norms", (C,), config.bias)
        yield Part(f"h.{i}.mlp.c_fc", "feed-forward", (C, F), config.bias)
        yield Part(f"h.{i}.mlp.c_proj", "feed-forward", (F, C), config.bias, onto_residual=True)
    if config.norm_position == "pre":
        yield Part("ln_f", "norms", (C,), config.bias)
    if not config.tied:
        yield Part("lm_head", "unembedding", (V, C))


def shapes(config):
    """Name -> shape of every parameter, named and laid out as in GPT-2's published checkpoints."""
    found = {}
    for part in parts(config):
        learned = _learned(config, part)
        if "weight" in learned:
            found[f"{part.name}.weight"] = part.shape
        if part.bias and "bias" in learned:
            found[f"{part.name}.bias"] = part.shape[-1:]
    return found


def _learned(config, part):
    """What the op of a part learns: a norm may have no bias, positions that are computed have no weight."""
    if part.kind == "norms":
        return NORMS[config.norm].parameters
    if part.kind == "positions":
        return POSITIONS[config.positions].parameters
    return ("weight", "bias")


def kinds(config):
    """Name -> kind of the Part that a parameter belongs to."""
    by_part = {part.name: part.kind for part in parts(config)}
    return {name: by_part[name.rpartition(".")[0]] for name in shapes(config)}


class Flat(Mapping):
    """Named views of one contiguous array: .flat is all of it, .decayed the part that holds the matrices.

    Matrices come first, so that the optimizer's decay acts on one slice.
    flat: the array; a new one of zeros unless given, which lies where the array like does.
    """

    def __init__(self, shapes, dtype, flat=None, like=None):
        self.shapes = dict(shapes)
        size = sum(map(math.prod, self.shapes.values()))
        try:
            self.flat = np.zeros(size, dtype, like=like) if flat is None else flat
        except (MemoryError, ValueError) as error:  # ValueError: more than an address can count
            raise InputError(
                f"parameters: {size:,} numbers do not fit in memory ({engine.out_of_memory(error)}), expected"
                " fewer: choose a smaller model"
            ) from error
        if self.flat.shape != (size,):
            raise InputError(f"parameters: the flat buffer has shape {self.flat.shape}, expected ({size},)")
        self._views, offset = {}, 0
        matrices = [n for n, s in self.shapes.items() if len(s) > 1]
        vectors = [n for n, s in self.shapes.items() if len(s) <= 1]
        for name in matrices + vectors:
            shape = self.shapes[name]
            self._views[name] = self.flat[offset : offset + math.prod(shape)].reshape(shape)
            offset += math.prod(shape)
        self.decayed = self.flat[: sum(math.prod(self.shapes[n]) for n in matrices)]

    def __getitem__(self, name):
        return self._views[name]

    def __setitem__(self, name, value):
        """Copy value into the view, wherever either lies; a shape that does not fit is an error."""
        if np.shape(value) != self.shapes[name]:
            raise InputError(
                f"parameters: {name} was given shape {np.shape(value)}, expected {self.shapes[name]}"
            )
        self._views[name][...] = engine.beside(value, self.flat)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    @property
    def dtype(self):
        """The dtype of the buffer."""
        return self.flat.dtype

    def like(self):
        """The same names and shapes over a buffer of zeros: gradients, moments."""
        return Flat(self.shapes, self.dtype, like=self.flat)

    def astype(self, dtype):
        """A copy in another dtype, where this one lies."""
        if engine.on_gpu(self.flat) and np.dtype(dtype) not in engine.ON_GPU:
            raise InputError(
                f"parameters: the GPU has no {np.dtype(dtype)}, expected"
                f" {', '.join(map(str, engine.ON_GPU))}: move them by .to('reference') first"
            )
        return Flat(self.shapes, dtype, self.flat.astype(dtype))

    def to(self, name):
        """The same where the engine of a name computes: itself if it lies there, else a copy on the GPU or in
        the host's memory.
        """
        flat = engine.move(self.flat, name)
        return self if flat is self.flat else Flat(self.shapes, self.dtype, flat)

    def first_not_finite(self):
        """The name of the first array that holds NaN or infinity, or None."""
        if (
            engine.on_gpu(self.flat) and np.isfinite(self.flat).all()
        ):  # one answer to wait for instead of one a name
            return None
        return next((name for name, view in self.items() if not np.isfinite(view).all()), None)


def initialise(config, seed, dtype):
    """GPT-2's initialisation, drawn by seed and name.

    Normal with standard deviation 0.02; the two projections onto the residual stream by 1/√(2L) smaller,
    because 2L of them are added up; norms 1, biases 0. Drawn in float64, so that all dtypes start at the same
    point.
    """
    params = Flat(shapes(config), dtype)
    for part in parts(config):
        name = f"{part.name}.weight"
        if name not in params:
            continue
        if part.kind == "norms":
            params[name][...] = 1
            continue
        std = STD / math.sqrt(2 * config.n_layer) if part.onto_residual else STD
        params[name][...] = generator(seed, "init", name).standard_normal(part.shape) * std
    return params
