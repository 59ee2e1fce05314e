"""Models in files of GGUF, as llama.cpp reads them, through the package gguf.

gguf_file.py has the container, gguf_classes.py the architectures, gguf_tokenizer.py the tokenizers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import Config
from ..architecture.parameters import Flat, shapes
from ..arguments import checked
from ..errors import InputError, did_you_mean
from ..storage.atomic import StrPath, named
from . import gguf_file, gguf_tokenizer
from .architectures import Architecture
from .checkpoint import Model, expect_loadable
from .gguf_classes import ARCHITECTURES, fitting
from .gguf_features import said_by_arrays
from .gguf_file import Content, Stored

DTYPES = ("float32", "float16", "q8_0", "q4_0")  # in which matrices are stored
TYPES = {"float32": "F32", "float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
# The largest number that each can hold: a block's numbers are at most 127 or 8 times its scale, a float16.
LARGEST = {"F32": 3.4e38, "F16": 65504.0, "Q8_0": 65504.0 * 127, "Q4_0": 65504.0 * 8}
BLOCK = 32  # numbers of a row that share a scale
FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7, "q4_0": 2}  # general.file_type
FLOATS = ("position_embd", "ffn_gate_inp", "ffn_gate_inp_shexp")  # what llama.cpp expects in float32
EMBEDDINGS = ("token_embd", "output")  # of 8 bits where the others have 4: they decide every logit
FACTORS = "rope_freqs.weight"
OURS = ("tied", "biases", "arrays", "rope_freqs")  # names of what a file says by its arrays
IGNORED = ("vocab_size", "rope.scaling.finetuned")  # said twice, or of how a model was made


@checked
def is_model(path: StrPath) -> bool:
    """Whether a file begins as those of GGUF do."""
    return gguf_file.is_gguf(path)


@checked
def load(path: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a file, in float32: what has fewer bits becomes float32.

    The tokenizer is the file's, where numgpt has one that gives the same ids; else a warning says why not.
    """
    content = gguf_file.read(path)
    kind = content.said.get("general.architecture")
    row = _row(path, kind, content.said)
    config = row.config(_keys(path, str(kind), row, content), path)
    params = _parameters(path, row, config, content.arrays)
    tokenizer, unread = gguf_tokenizer.read(path, content.said, config.vocab_size)
    if unread is not None:
        warnings.warn(f"{unread}; the model is loaded without its tokenizer", stacklevel=3)
    return {"config": config, "params": params, "tokenizer": tokenizer}


def _row(path: StrPath, kind: Any, said: Mapping[str, Any]) -> Architecture:
    """The architecture that a file names; InputError for one that is not known, and for a part of a model."""
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        near = did_you_mean(str(kind), ARCHITECTURES)
        raise InputError(
            f"{path}: general.architecture is {str(kind)[:80]!r}{near}, which numgpt does not read, expected"
            f" one of {', '.join(ARCHITECTURES)}"
        )
    if said.get("general.type", "model") != "model" or said.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"{path}: is an adapter, or one of several files, expected a whole model: of parts,"
            " llama-gguf-split --merge makes one"
        )
    return ARCHITECTURES[kind]


def _keys(path: StrPath, kind: str, row: Architecture, content: Content) -> dict[str, Any]:
    """The keys of the architecture, and what the arrays say; InputError for one that is not understood."""
    keys = {name: _one(value) for name, value in content.said.items() if name.startswith(f"{kind}.")}
    keys = {name.removeprefix(f"{kind}."): value for name, value in keys.items()}
    said = said_by_arrays({name: stored.shape for name, stored in content.arrays.items()})
    if keys.get("vocab_size", said["vocab_size"]) != said["vocab_size"]:
        raise InputError(
            f"{path}: {kind}.vocab_size is {str(keys['vocab_size'])[:80]!r}, expected"
            f" {said['vocab_size']}, the rows of token_embd.weight"
        )
    known = {*row.sizes.values(), *row.others, *IGNORED}
    other = next((name for name in keys if name not in known), None)
    if other is not None:
        raise InputError(
            f"{path}: {kind} has {other[:80]!r} of {str(keys[other])[:80]!r}, which numgpt does not compute,"
            " expected none: the numbers would be others"
        )
    if FACTORS in content.arrays:
        factors = gguf_file.numbers(path, FACTORS, content.arrays[FACTORS])
        said["rope_freqs"] = [float(x) for x in factors.reshape(-1)[: 2**16]]
    return keys | said


def _one(value: Any) -> Any:
    """A value that a list says for all layers alike; of another list, its first values."""
    if isinstance(value, np.ndarray):
        values = value[:4096].tolist()
        return values[0] if values and (value == value[0]).all() else values
    return value


def _parameters(path: StrPath, row: Architecture, config: Config, arrays: Mapping[str, Stored]) -> Flat:
    """The parameters from a file's arrays; InputError unless they are those of its config, and finite."""
    expected = row.shapes(config)
    actual = {*arrays} - {FACTORS}
    different = sorted(actual ^ {*expected})
    if different:
        problem = "not expected" if different[0] in actual else "missing"
        raise InputError(
            f"{path}: {different[0][:80]!r} is {problem}, expected the {len(expected)} arrays of a {row.name}"
        )
    for name, shape in expected.items():
        if _narrow(arrays[name].shape) != _narrow(shape):
            raise InputError(
                f"{path}: {name} has shape {arrays[name].shape}, expected {shape} from its other keys"
            )
    double = any(stored.kind == "F64" for stored in arrays.values())
    params = Flat(shapes(config), "float64" if double else "float32")
    with np.errstate(invalid="ignore"):  # a signalling NaN raises the flag when it changes its dtype
        for name, piece in row.pieces(config, params).items():
            numbers = gguf_file.numbers(path, name, arrays[name])
            piece.put(params[piece.ours], numbers.reshape(expected[name]))
        bad = params.first_not_finite()
    if bad:
        raise InputError(f"{path}: {bad} holds NaN or infinity, expected finite numbers")
    return params


def _narrow(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of one, which some files leave out."""
    return tuple(width for width in shape if width != 1)


@checked
def save(path: StrPath, model: Model, *, dtype: str | None = None) -> None:
    """Write a file, for the first architecture that computes the model.

    dtype: of matrices, one of float32, float16, q8_0 and q4_0, of which the last two have a scale for 32
    numbers; float32 unless given. Vectors are float32, as llama.cpp expects them, and so are positions and
    routers; with q4_0 embeddings are q8_0. Biases that the architecture has and the model lacks are 0.

    The tokenizer is written where llama.cpp has one that gives its ids.
    """
    path = named(path)
    dtype = "float32" if dtype is None else dtype
    if dtype not in DTYPES:
        raise InputError(f"save: dtype is {dtype}, expected {', '.join(DTYPES)} in a file of GGUF")
    kind, row = fitting(model.config)
    gguf_file.package(path)
    expect_loadable(model)
    written = row.write(model.config)
    said: dict[str, Any] = {"general.file_type": FILE_TYPES[dtype], "general.quantization_version": 2}
    said |= {f"{kind}.{key}": value for key, value in written.items() if key not in OURS}
    try:
        said |= gguf_tokenizer.written(model.tokenizer, model.config.vocab_size)
    except InputError:  # the command convert reports it
        said |= gguf_tokenizer.NONE
    arrays = {}
    for name, array in row.arrays(model.config, model.params.to("reference")).items():
        title = _title(name, array, dtype)
        arrays[name] = _float32(name, array, title), title
    if "rope_freqs" in written:
        arrays[FACTORS] = np.array(written["rope_freqs"], "<f4"), "F32"
    gguf_file.write(path, kind, said, arrays)


def _title(name: str, array: NDArray[Any], dtype: str) -> str:
    """The type in which an array is stored."""
    part, kind = name.split(".")[-2:]
    if array.ndim == 1 or kind != "weight" or part in FLOATS or part.endswith("norm"):
        return "F32"
    title = TYPES[dtype]
    if title == "Q4_0" and part in EMBEDDINGS:
        title = "Q8_0"
    if title.startswith("Q") and array.shape[-1] % BLOCK:
        raise InputError(
            f"save: rows of {name} have {array.shape[-1]} numbers, expected a multiple of {BLOCK}, which"
            f" share a scale in {dtype}: choose float16"
        )
    return title


def _float32(name: str, array: NDArray[Any], title: str) -> NDArray[Any]:
    """An array in float32; InputError for a number that is beyond the type in which it is stored."""
    if np.abs(array).max(initial=0) > LARGEST[title]:
        raise InputError(
            f"save: a number beyond {title} is in {name}, expected numbers that it can hold: nothing was"
            " written"
        )
    return np.ascontiguousarray(array, "<f4")
