"""Parameters: their names, shapes and first values, and the one flat buffer of which they are views."""

import math
from collections.abc import Mapping

import numpy as np

from .. import engine
from ..errors import InputError
from ..random import generator

STD = 0.02


def shapes(config):
    """Name -> shape of every parameter, named and laid out as in GPT-2's published checkpoints."""
    C, F, V = config.n_embd, config.ffn_width, config.vocab_size
    found = {"wte.weight": (V, C), "wpe.weight": (config.block_size, C)}

    def with_bias(name, *shape):
        found[f"{name}.weight"] = shape
        if config.bias:
            found[f"{name}.bias"] = shape[-1:]

    for i in range(config.n_layer):
        with_bias(f"h.{i}.ln_1", C)
        with_bias(f"h.{i}.attn.c_attn", C, 3 * C)
        with_bias(f"h.{i}.attn.c_proj", C, C)
        with_bias(f"h.{i}.ln_2", C)
        with_bias(f"h.{i}.mlp.c_fc", C, F)
        with_bias(f"h.{i}.mlp.c_proj", F, C)
    if config.norm_position == "pre":
        with_bias("ln_f", C)
    if not config.tied:
        found["lm_head.weight"] = (V, C)
    return found


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
    for name, view in params.items():
        if name.split(".")[-2].startswith("ln_"):
            view[...] = name.endswith("weight")
        elif name.endswith("weight"):
            std = STD / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else STD
            view[...] = generator(seed, "init", name).standard_normal(view.shape) * std
    return params
