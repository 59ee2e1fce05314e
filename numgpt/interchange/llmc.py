"""The files of llm.c: model, debug state, tokens and tokenizer, to hold a port in another language to ours.

Each file begins with 256 little-endian int32. The first is a magic number, which says what the file holds,
the second a version, and those after it depend on the kind of file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..architecture.additions import quantized_by
from ..architecture.config import LARGEST, Config
from ..architecture.parameters import Flat, shapes
from ..arguments import Size, checked
from ..errors import InputError
from ..random import generator
from ..storage import temporary
from ..storage.atomic import StrPath, named, write_file
from ..storage.files import Missing, is_pickled, mapped, open_file, pickled
from ..storage.folders import replace_folder
from ..tokenizers import Tokenizer
from .checkpoint import Model, expect_loadable

FILES = ("model.bin", "tokens.bin", "debug_state.bin", "tokenizer.bin")  # of a set, by save_all
HEADER = 1024  # bytes
SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_inner", "bias", "dropout")  # are free

MODEL_MAGIC = 20240326
STATE_MAGIC = 20240327
TOKENIZER_MAGIC = 20240328
TOKENS_MAGIC = 20240520
KINDS = {
    MODEL_MAGIC: "model",
    STATE_MAGIC: "debug state",
    TOKENIZER_MAGIC: "tokenizer",
    TOKENS_MAGIC: "token file",
}

FLOAT32, BFLOAT16 = 3, 5  # versions of a model's file: the dtype of its numbers
# The arrays of a block, in the file's order. Each is there for all blocks before the next one comes.
BLOCK = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)


class Differentiable(Model, Protocol):
    """A GPT as its debug state needs it."""

    def __call__(self, tokens: Any, /) -> NDArray[Any]:
        """The logits."""

    def loss_and_grads(self, tokens: Any, targets: Any, /) -> tuple[Any, Flat]:
        """The loss, and its gradients by name."""

    def to(self, name: str, /) -> Differentiable:
        """The model where the engine of a name computes."""


@checked
def kind_of(path: StrPath) -> int:
    """The magic number of a file; InputError if it is none of llm.c's."""
    with open_file(path) as file:
        begin = file.read(8)
    magic = int.from_bytes(begin[:4], "little")
    if is_pickled(begin):
        raise pickled(path)
    if magic not in KINDS:
        raise InputError(
            f"{path}: begins with {magic}, expected a file of llm.c: {MODEL_MAGIC} for a model, {STATE_MAGIC}"
            " for a debug state"
        )
    return magic


@checked
def save_model(path: StrPath, model: Model) -> None:
    """Write a model as llm.c reads it, in float32.

    Matrices are (out, in), arrays of one kind lie together for all blocks, and the vocabulary is padded to a
    multiple of 128.
    """
    c = model.config
    _check(c, "save")
    if quantized_by(getattr(model, "additions", ())) is not None:
        raise InputError("save: the model is quantized, expected floats for llm.c: model.dequantized()")
    sizes = (c.block_size, c.vocab_size, c.n_layer, c.n_head, c.n_embd, _padded(c.vocab_size))
    params = _parameters(model.params.to("reference"), c)
    write_file(path, b"".join([_header(MODEL_MAGIC, FLOAT32, *sizes), *params]))


@checked
def load(path: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a model's file, in float32 or bfloat16; the parameters become float32."""
    version, sizes, data = _read(path, MODEL_MAGIC, (FLOAT32, BFLOAT16))
    block_size, V, L, H, C, padded = sizes[:6]
    try:
        config = Config(vocab_size=V, block_size=block_size, n_layer=L, n_head=H, n_embd=C)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if padded < V:
        raise InputError(
            f"{path}: the padded vocabulary is {padded}, expected at least the vocabulary of {V}"
        )
    dtype = np.dtype("<f4" if version == FLOAT32 else "<u2")
    _expect_size(path, data, dtype.itemsize * _count(config, padded))
    return {"config": config, "params": _unpack(path, data.view(dtype), config, padded)}


@checked
def save_state(path: StrPath, model: Differentiable, tokens: ArrayLike, targets: ArrayLike) -> None:
    """Write a forward and a backward: tokens, targets, logits, loss and all gradients, in float32."""
    _check(model.config, "save")
    tokens, targets = np.atleast_2d(tokens), np.atleast_2d(targets)
    if tokens.ndim != 2:
        raise InputError(f"save: tokens have shape {tokens.shape}, expected (B, T): give one batch")
    model = model.to("reference")
    loss, grads = model.loss_and_grads(tokens, targets)
    ids = [np.ascontiguousarray(a, "<i4").tobytes() for a in (tokens, targets)]
    floats = [_float32(name, a).tobytes() for name, a in (("logits", model(tokens)), ("loss", loss))]
    header = _header(STATE_MAGIC, 2, *tokens.shape)
    gradients = _parameters(grads, model.config, "the gradient of ")
    write_file(path, b"".join([header, *ids, *floats, *gradients]))


@checked
def load_state(path: StrPath, config: Config) -> dict[str, Any]:
    """A debug state of a model with this Config, by name: "tokens", "targets", "logits", "loss", "grads".

    tokens and targets are (B, T), logits (B, T, V), loss a float, and grads a Flat with the names of the
    parameters.
    """
    _check(config, "load")
    _, sizes, data = _read(path, STATE_MAGIC, (2,))
    B, T = sizes[:2]
    V, padded = config.vocab_size, _padded(config.vocab_size)
    if not (B > 0 and 0 < T <= config.block_size):
        raise InputError(
            f"{path}: has B {B} and T {T}, expected some texts of 1 to {config.block_size} tokens"
        )
    n = B * T
    _expect_size(path, data, 4 * (2 * n + n * V + 1 + _count(config, padded)))
    ids, floats = data[: 8 * n].view("<i4").reshape(2, B, T), data[8 * n :].view("<f4")
    if ids[0].min() < 0 or ids.max() >= V:  # a target below 0 is allowed: it does not count
        raise InputError(f"{path}: holds tokens of {ids[0].min()} to {ids.max()}, expected 0 to {V - 1}")
    try:
        tokens, targets = ids.astype(np.int64)
        logits = np.array(floats[: n * V]).reshape(B, T, V)
    except MemoryError as error:
        raise InputError(
            f"{path}: logits of {n:,} tokens do not fit in memory ({error}), expected fewer"
        ) from error
    loss = floats[n * V]
    if not (np.isfinite(logits).all() and np.isfinite(loss)):
        raise InputError(f"{path}: logits or loss hold NaN or infinity, expected finite numbers")
    grads = _unpack(path, floats[n * V + 1 :], config, padded)
    return {"tokens": tokens, "targets": targets, "logits": logits, "loss": float(loss), "grads": grads}


@checked
def save_tokens(path: StrPath, ids: ArrayLike) -> None:
    """Write ids (N) below 65,536 as training data."""
    ids = np.asarray(ids)
    are_integers = ids.ndim == 1 and ids.dtype.kind in "iu" and ids.size < 2**31
    if not are_integers or (ids.size and not 0 <= ids.min() <= ids.max() < 2**16):
        raise InputError(
            f"save: ids of shape {ids.shape} and dtype {ids.dtype}, expected (N) integers of 0 to 65,535,"
            " fewer than 2³¹ of them"
        )
    write_file(path, _header(TOKENS_MAGIC, 1, len(ids)) + ids.astype("<u2").tobytes())


@checked
def load_tokens(path: StrPath) -> NDArray[Any]:
    """The ids of a file of training data, memory-mapped.  → (N,) uint16"""
    _, sizes, data = _read(path, TOKENS_MAGIC, (1,))
    _expect_size(path, data, 2 * sizes[0])
    return data.view("<u2")


@checked
def save_tokenizer(path: StrPath, pieces: Sequence[bytes], end_of_text: int) -> None:
    """Write the bytes of every token, at most 255 each, and the id that ends a text."""
    long = next((i for i, piece in enumerate(pieces) if len(piece) > 255), None)
    if long is not None:
        raise InputError(
            f"save: token {long} has {len(pieces[long])} bytes, expected at most 255: the format has one byte"
            " for their number"
        )
    if not 0 <= end_of_text < len(pieces):
        raise InputError(f"save: end_of_text is {end_of_text}, expected one of the {len(pieces)} ids")
    header = _header(TOKENIZER_MAGIC, 2, len(pieces), end_of_text)
    write_file(path, header + b"".join(bytes([len(piece)]) + bytes(piece) for piece in pieces))


@checked
def load_tokenizer(path: StrPath) -> tuple[list[bytes], int | None]:
    """(pieces, end_of_text) of a tokenizer's file; version 1 has no end_of_text: None."""
    version, sizes, data = _read(path, TOKENIZER_MAGIC, (1, 2))
    n, end_of_text = sizes[:2]
    if not 0 < n <= LARGEST or not n <= len(data) <= 256 * n:
        raise InputError(
            f"{path}: has {len(data):,} bytes for {n:,} tokens, expected 1 to {LARGEST:,} tokens of 1 to 256"
            " bytes each"
        )
    rest = data.data
    place = 0
    pieces: list[bytes] = []
    while place < len(rest) and len(pieces) < n:
        begin, size = place + 1, rest[place]
        pieces.append(bytes(rest[begin : begin + size]))
        place = begin + size
    if place != len(rest) or len(pieces) != n:
        raise InputError(
            f"{path}: does not end after the {n} tokens of its header, expected a whole file of llm.c"
        )
    if version == 1:
        return pieces, None
    if not 0 <= end_of_text < n:
        raise InputError(f"{path}: end_of_text is {end_of_text}, expected one of the {n} ids")
    return pieces, end_of_text


@checked
def save_all(folder: StrPath, model: Differentiable, batch_size: Size, T: int, seed: int = 0) -> list[Path]:
    """Write a set of files that belong together; returns their paths.

    model.bin; tokens.bin, drawn by the seed; debug_state.bin, of the first batch of these tokens; and
    tokenizer.bin, if the model has a tokenizer.
    """
    V, folder = model.config.vocab_size, named(folder)
    if not 1 <= T <= model.config.block_size:
        raise InputError(f"export: {T} tokens a sequence, expected 1 to block_size {model.config.block_size}")
    if batch_size * T >= 2**31:
        raise InputError(f"export: {batch_size} sequences of {T} tokens, expected fewer than 2³¹ tokens")
    _check(model.config, "export")
    expect_loadable(model)
    ids = generator(seed, "llm.c tokens").integers(0, min(V, 2**16), batch_size * T + 1)
    inputs, targets = ids[:-1].reshape(batch_size, T), ids[1:].reshape(batch_size, T)

    def expect(place: Path) -> None:
        if not _may_replace(place):
            raise InputError(
                f"{folder}: exists and is not just {', '.join(FILES)}, expected a new folder or one to"
                " replace: choose another name"
            )

    def write(new: Path) -> None:
        save_model(new / "model.bin", model)
        save_tokens(new / "tokens.bin", ids)
        save_state(new / "debug_state.bin", model, inputs, targets)
        if model.tokenizer is not None:
            pieces = [piece or b"" for piece in model.tokenizer.pieces]  # an unused id has no bytes
            pieces += [b""] * (V - len(pieces))
            save_tokenizer(new / "tokenizer.bin", pieces, _end_of_text(model.tokenizer, V))

    replace_folder(folder, write, expect)
    return [folder / name for name in FILES[: 3 + (model.tokenizer is not None)]]


def _may_replace(folder: Path) -> bool:
    """Whether a folder holds nothing but files that save_all writes."""
    return folder.is_dir() and temporary.names(folder) <= set(FILES)


def _end_of_text(tokenizer: Tokenizer, V: int) -> int:
    """The id that ends a text: a special token's, or the last of all if there is none."""
    specials = tokenizer.specials
    return specials.get("<|endoftext|>", next(iter(specials.values()), V - 1))


def _check(config: Config, action: str) -> None:
    """Raise InputError for a variant of GPT for which llm.c has no file."""
    for field in dataclasses.fields(Config):  # whose defaults are GPT-2's
        name, expected = field.name, field.default
        if name not in SIZES and getattr(config, name) != expected:
            raise InputError(
                f"{action}: the model has {name} {getattr(config, name)}, expected {expected} in a file of"
                " llm.c"
            )
    if config.ffn_width != 4 * config.n_embd:
        raise InputError(
            f"{action}: the model has n_inner {config.ffn_width}, expected 4 n_embd = {4 * config.n_embd} in"
            " a file of llm.c"
        )


def _padded(V: int) -> int:
    return -(-V // 128) * 128


def _layout(config: Config, padded: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape in the file) of every parameter, in the file's order; biases are always there."""
    sizes = shapes(dataclasses.replace(config, bias=True))
    yield "wte.weight", (padded, config.n_embd)
    yield "wpe.weight", sizes["wpe.weight"]
    for name in BLOCK:
        for i in range(config.n_layer):
            parameter = f"h.{i}.{name}"
            yield parameter, sizes[parameter][::-1] if _is_turned(name) else sizes[parameter]
    yield "ln_f.weight", sizes["ln_f.weight"]
    yield "ln_f.bias", sizes["ln_f.bias"]


def _is_turned(name: str) -> bool:
    """Whether a parameter is the matrix of a linear map, (in, out) here and (out, in) in the file."""
    return ".c_" in name and name.endswith(".weight")


def _count(config: Config, padded: int) -> int:
    """How many numbers the parameters, or their gradients, are in a file."""
    return sum(math.prod(shape) for _, shape in _layout(config, padded))


def _parameters(values: Mapping[str, NDArray[Any]], config: Config, what: str = "") -> Iterator[bytes]:
    """The bytes of parameters, or of what errors call them, in the file's order; a missing bias is 0."""
    for name, shape in _layout(config, _padded(config.vocab_size)):
        array = np.zeros(shape, "<f4")
        if name in values:
            value = values[name].T if _is_turned(name) else values[name]
            array[: len(value)] = _float32(what + name, value)  # the rows that pad the vocabulary stay 0
        yield array.tobytes()


def _float32(name: str, array: ArrayLike) -> NDArray[Any]:
    """An array as a file holds it; InputError for what the reader of the file would refuse."""
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, "<f4")
    if not np.isfinite(numbers).all():
        raise InputError(
            f"save: NaN, infinity or a number beyond float32 is in {name}, expected finite numbers in a file"
            " of llm.c: nothing was written"
        )
    return numbers


def _unpack(path: StrPath, numbers: NDArray[Any], config: Config, padded: int) -> Flat:
    """The parameters from the numbers of a file, float32 or bfloat16's bits; InputError unless finite."""
    params = Flat(shapes(config), np.float32)
    place = 0
    for name, shape in _layout(config, padded):
        array = numbers[place : place + math.prod(shape)].reshape(shape)
        place += array.size
        if name not in params:  # a bias that the model lacks
            continue
        if array.dtype == np.uint16:  # bfloat16: the upper half of a float32
            array = (array.astype("<u4") << 16).view("<f4")
        if name == "wte.weight":
            array = array[: config.vocab_size]
        params[name] = array.T if _is_turned(name) else array
    bad = params.first_not_finite()
    if bad:
        raise InputError(f"{path}: {bad} holds NaN or infinity, expected finite numbers")
    return params


def _header(*fields: int) -> bytes:
    header = np.zeros(HEADER // 4, "<i4")
    header[: len(fields)] = fields
    return header.tobytes()


def _read(path: StrPath, magic: int, versions: Sequence[int]) -> tuple[int, list[int], NDArray[Any]]:
    """(version, the integers after it, the bytes after the header, mapped) of a file of one kind."""
    try:
        with open_file(path) as file:
            data = mapped(file)
    except Missing as error:
        raise InputError(f"{path}: does not exist, expected a {KINDS[magic]} of llm.c") from error
    actual, version, *fields = [0, 0] if len(data) < HEADER else data[:HEADER].view("<i4").tolist()
    if is_pickled(data[:8].tobytes()):
        raise pickled(path)
    if actual != magic:
        advice = ": of any other model, give the folder" if magic == MODEL_MAGIC else ""
        raise InputError(f"{path}: does not begin with {magic}, expected a {KINDS[magic]} of llm.c{advice}")
    if version not in versions:
        raise InputError(f"{path}: has version {version}, expected {' or '.join(map(str, versions))}")
    return version, fields, data[HEADER:]


def _expect_size(path: StrPath, data: NDArray[Any], size: int) -> None:
    if len(data) != size:
        raise InputError(
            f"{path}: has {HEADER + len(data):,} bytes, expected {HEADER + size:,} from its header: it is cut"
            " short, or belongs to another model"
        )
