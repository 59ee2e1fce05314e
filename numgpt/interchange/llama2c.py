"""The files of llama2.c: a Llama in one file, in float32 or in 8 bits, as run.c and runq.c read it.

Version 0 begins with seven int32, and the vocabulary is negative where the head has a matrix of its own.
Versions 1 and 2 begin with 256 bytes: ak42, the version, the seven, a byte that says whether the head is
tied, and in version 2 how many numbers share a scale.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architecture.config import DEEPEST, LARGEST, Config
from ..architecture.parameters import Flat, shapes
from ..arguments import checked
from ..errors import InputError
from ..storage.atomic import StrPath, named, write_file
from ..storage.files import Missing, mapped, open_file
from ..tokenizers import ScoredPairs, Tokenizer
from ..tokenizers import load as load_tokenizer
from .checkpoint import Model, expect_loadable
from .parameter_names import pieces

MAGIC = b"24ka"  # the letters ak42 as a little-endian integer
VERSIONS = (0, 1, 2)
HEADER = 256  # bytes, from version 1 on
SEVEN = struct.Struct("<7i")
BEGIN = struct.Struct("<4si7iBi")  # of version 1 and 2; the last is 0 in version 1
GROUP = 64  # numbers of version 2 that share a scale
BASE = 10000.0  # of rotary positions, which no file says
UNLIKE_GPT2: dict[str, Any] = {
    "bias": False,
    "activation": "swiglu",
    "norm": "rmsnorm",
    "positions": "rotary",
    "rotary_base": BASE,
    "layer_norm_epsilon": 1e-5,
}
SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_inner", "n_kv_head", "tied", "dropout")
SHAPED = ("bias", "biases", "head_dim", "rotary_dim")  # fields that are asked by what they come to

NAMES = """
wte             tok_embeddings
h.ln_1          layers.{i}.attention_norm
h.attn.c_attn   layers.{i}.attention.{wq,wk,wv}       interleaved
h.attn.c_proj   layers.{i}.attention.wo
h.ln_2          layers.{i}.ffn_norm
h.mlp.c_fc      layers.{i}.feed_forward.{w1,w3}
h.mlp.c_proj    layers.{i}.feed_forward.w2
ln_f            norm
lm_head         output
"""
EMBEDDING, HEAD, FINAL = "tok_embeddings.weight", "output.weight", "norm.weight"
ATTENTION = tuple(f"layers.{{i}}.attention.{name}.weight" for name in ("wq", "wk", "wv", "wo"))
FFN = tuple(f"layers.{{i}}.feed_forward.{name}.weight" for name in ("w1", "w2", "w3"))
NORM_1, NORM_2 = "layers.{i}.attention_norm.weight", "layers.{i}.ffn_norm.weight"
TABLES = "tables"  # cosines, then sines, of all positions: nothing reads them
# The arrays in the order of version 0, and of 1 and 2; one with {i} is there for all layers before the next.
ORDER_0 = (EMBEDDING, NORM_1, *ATTENTION, NORM_2, *FFN, FINAL, TABLES, HEAD)
ORDER_1 = (NORM_1, NORM_2, FINAL, EMBEDDING, *ATTENTION, *FFN, HEAD)


class Sizes(NamedTuple):
    """The seven integers of a header, in their order."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int


class Header(NamedTuple):
    """What a file says before its numbers, and where they begin."""

    version: int
    sizes: Sizes
    tied: bool
    group: int  # numbers that share a scale; 0 where there are no scales
    begin: int


@checked
def is_model(path: StrPath) -> bool:
    """Whether a file begins as a model of llama2.c does; the sizes of one of version 0 are to be possible."""
    with open_file(path) as file:
        begin = file.read(SEVEN.size)
    if begin.startswith(MAGIC):
        return True
    return len(begin) == SEVEN.size and _is_possible(Sizes(*SEVEN.unpack(begin)))


def _is_possible(sizes: Sizes) -> bool:
    """Whether seven integers may be those of a model: a file of version 0 has nothing else to know it by."""
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = sizes
    counts = (dim, hidden, heads, kv_heads, abs(vocabulary), positions)
    return all(0 < n <= LARGEST for n in counts) and 0 <= layers <= DEEPEST and kv_heads <= heads <= dim


@checked
def load(path: StrPath) -> dict[str, Any]:
    """The arguments of GPT from a model's file, in float32; what has 8 bits becomes float32.

    The tokenizer is that of tok512.bin beside it, where the model has 512 tokens, or of tokenizer.bin. One
    that cannot be read, or that has another number of tokens, is left out with a warning.
    """
    with open_file(path) as file:
        data = mapped(file)
    header = _header(path, data[:HEADER].tobytes())
    config = _config(path, header)
    expected = header.begin + sum(n for _, _, n in _places(header))
    if len(data) != expected:
        raise InputError(
            f"{path}: has {len(data):,} bytes, expected {expected:,} from its header as a model of llama2.c:"
            " it is cut short, or another file"
        )
    params = _parameters(path, data[header.begin :], header, config)
    tokenizer, unread = _tokenizer(Path(path), config)
    if unread is not None:
        warnings.warn(f"{unread}; the model is loaded without its tokenizer", stacklevel=3)
    return {"config": config, "params": params, "tokenizer": tokenizer}


def _header(path: StrPath, data: bytes) -> Header:
    if not data.startswith(MAGIC):
        if len(data) < SEVEN.size:
            raise InputError(f"{path}: has {len(data)} bytes, expected a model of llama2.c: it is cut short")
        sizes = Sizes(*SEVEN.unpack_from(data))
        tied = sizes.vocabulary > 0
        return Header(0, sizes._replace(vocabulary=abs(sizes.vocabulary)), tied, 0, SEVEN.size)
    if len(data) < HEADER:
        raise InputError(f"{path}: has {len(data)} bytes, expected a header of {HEADER}: it is cut short")
    _, version, *seven, tied, group = BEGIN.unpack_from(data)
    if version not in VERSIONS[1:]:
        raise InputError(f"{path}: has version {version}, expected 1 or 2 of llama2.c")
    used = BEGIN.size if version == 2 else BEGIN.size - 4
    if tied not in (0, 1) or any(data[used:]):
        raise InputError(
            f"{path}: has {'a flag of ' + str(tied) if tied > 1 else 'more'} in its header than llama2.c"
            " writes, expected a flag of 0 or 1, then zeros: it is damaged"
        )
    header = Header(version, Sizes(*seven), bool(tied), group if version == 2 else 0, HEADER)
    if version == 2 and not _fits(group, header):
        raise InputError(
            f"{path}: has a scale for {group} numbers each, expected a divisor of its dim {header.sizes.dim}"
        )
    return header


def _fits(group: int, header: Header) -> bool:
    """Whether every matrix has a whole number of groups: dim is a factor of them all."""
    return group > 0 and header.sizes.dim % group == 0


def _config(path: StrPath, header: Header) -> Config:
    s = header.sizes
    try:
        return Config(
            vocab_size=s.vocabulary,
            block_size=s.positions,
            n_layer=s.layers,
            n_head=s.heads,
            n_embd=s.dim,
            n_inner=s.hidden,
            n_kv_head=None if s.kv_heads == s.heads else s.kv_heads,
            tied=header.tied,
            **UNLIKE_GPT2,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _places(header: Header) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(name, shape, bytes) of every array of a file, in its order."""
    s = header.sizes
    C, F, D, T = s.dim, s.hidden, s.dim // s.heads, s.positions
    Q, K, V = s.heads * D, s.kv_heads * D, s.vocabulary
    matrices = dict(zip(ATTENTION + FFN, ((Q, C), (K, C), (K, C), (C, Q), (F, C), (C, F), (F, C))))
    by_name = matrices | {EMBEDDING: (V, C), HEAD: (V, C), TABLES: (2, T, D // 2)}
    for name in ORDER_1 if header.version else ORDER_0:
        if name == HEAD and header.tied:
            continue
        shape = by_name.get(name, (C,))
        n = math.prod(shape)
        size = n + 4 * (n // header.group) if _is_scaled(header, shape) else 4 * n
        for i in range(s.layers if "{i}" in name else 1):
            yield name.replace("{i}", str(i)), shape, size


def _is_scaled(header: Header, shape: tuple[int, ...]) -> bool:
    """Whether an array has 8 bits and scales: in version 2 the matrices have."""
    return header.group > 0 and len(shape) > 1


def _parameters(path: StrPath, data: NDArray[Any], header: Header, config: Config) -> Flat:
    """The parameters from the bytes after a header; InputError unless finite."""
    params = Flat(shapes(config), np.float32)
    ours = pieces(NAMES, config, params)
    place = 0
    for name, shape, size in _places(header):
        part = data[place : place + size]
        place += size
        if name == TABLES:
            _expect_rotation(path, part.view("<f4").reshape(shape))
            continue
        numbers = _dequantized(part, header.group) if _is_scaled(header, shape) else part.view("<f4")
        ours[name].put(params[ours[name].ours], numbers.reshape(shape))
    bad = params.first_not_finite()
    if bad:
        raise InputError(f"{path}: {bad} holds NaN or infinity, expected finite numbers")
    return params


def _expect_rotation(path: StrPath, tables: NDArray[Any]) -> None:
    """Raise InputError where the cosines and sines of version 0 are not those by which run.c computes.

    It reads none of them, so a model that was trained with another base would write nonsense. Angles are
    products in float32: theirs may be off by a rounding of the frequency and one of the product.
    """
    _, T, half = tables.shape
    tolerance = np.float32(2.0**-21) * np.arange(1, T + 1, dtype=np.float32)[:, None]
    off = ~(np.abs(tables - rotation(T, half)) <= tolerance)  # NaN is off as well
    if off.any():
        t = int(np.argwhere(off)[0][1])
        raise InputError(
            f"{path}: its cosines and sines are another rotation's from position {t} on, expected those of"
            f" base {BASE:,.0f}: the file is damaged, or of a model that llama2.c does not compute"
        )


def rotation(T: int, half: int) -> NDArray[Any]:
    """The cosines and sines of version 0: of t base^(−i / half).  → (2, T, half) float32

    Angles are rounded to float32 as PyTorch rounds them for llama2.c. Its cosines differ in their last bit.
    """
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(1) / (BASE ** exponents.astype(np.float64)).astype(np.float32)
    angles = np.outer(np.arange(T, dtype=np.float32), frequencies).astype(np.float64)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def _dequantized(part: NDArray[Any], group: int) -> NDArray[Any]:
    """float32 (n,) from n int8, then n / group scales."""
    n = len(part) * group // (group + 4)
    scales = np.frombuffer(part[n:].tobytes(), "<f4")  # where they begin may be at any byte
    with np.errstate(over="ignore", invalid="ignore"):
        return (part[:n].view(np.int8).reshape(-1, group) * scales[:, None]).reshape(-1)


def quantized(numbers: NDArray[Any], group: int) -> bytes:
    """n int8, then n / group float32 scales, of float32 numbers: the largest of each group becomes ±127.

    q = round(w / s),  s = max |w| / 127          so |w − q s| ≤ s / 2
    """
    groups = numbers.reshape(-1, group)
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    steps = np.where(scales > 0, scales, np.float32(1))  # a group of zeros has the scale 0
    q = np.clip(np.rint(groups / steps[:, None]), -127, 127).astype(np.int8)
    return q.tobytes() + scales.astype("<f4").tobytes()


@checked
def save(path: StrPath, model: Model, *, dtype: str | None = None, version: int = 0) -> None:
    """Write a model's file, and beside it its tokenizer where that is llama2.c's: tok512.bin of 512 tokens.

    version: 0, which run.c reads, in float32; 1, the same with another header; 2, which runq.c reads, in
    8 bits. dtype: none but float32. Nothing is written where the model has what the file has no place for.
    """
    path = named(path)
    if version not in VERSIONS:
        raise InputError(f"save: version {version} is unknown, expected 0, 1 or 2 of llama2.c")
    if dtype not in (None, "float32"):
        raise InputError(
            f"save: dtype is {dtype}, expected float32, which a file of llama2.c has: leave it out"
        )
    c = model.config
    _check(c)
    expect_loadable(model)
    beside = _tokenizer_beside(path, model)
    sizes = Sizes(c.n_embd, c.ffn_width, c.n_layer, c.n_head, c.kv_heads, c.vocab_size, c.block_size)
    header = Header(version, sizes, c.tied, _group(c) if version == 2 else 0, HEADER if version else 28)
    params = model.params.to("reference")
    ours = pieces(NAMES, c, params)
    content = [_written(header)]
    for name, shape, _ in _places(header):
        if name == TABLES:
            content.append(rotation(shape[1], shape[2]).astype("<f4").tobytes())
            continue
        numbers = _float32(ours[name].ours, ours[name].elsewhere(params[ours[name].ours]))
        is_scaled = _is_scaled(header, shape)
        content.append(quantized(numbers, header.group) if is_scaled else numbers.tobytes())
    write_file(path, b"".join(content))
    if beside is not None:
        write_file(beside, tokenizer_file(model))


def _written(header: Header) -> bytes:
    s = header.sizes
    if not header.version:
        return SEVEN.pack(*s._replace(vocabulary=s.vocabulary if header.tied else -s.vocabulary))
    return BEGIN.pack(MAGIC, header.version, *s, header.tied, header.group).ljust(HEADER, b"\0")


def _group(config: Config) -> int:
    """How many numbers share a scale: 64, or the half of it, and so on, that fits.

    It divides the width of the feed-forward too: runq.c takes a row of its last matrix group by group, and
    leaves out what is over.
    """
    return math.gcd(GROUP, config.n_embd, config.ffn_width)


def _float32(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array as a file holds it; InputError for a number that is beyond float32."""
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, "<f4")
    if not np.isfinite(numbers).all():
        raise InputError(
            f"save: a number beyond float32 is in {name}, expected finite numbers in a file of llama2.c:"
            " nothing was written"
        )
    return numbers


def _check(config: Config) -> None:
    """Raise InputError for a model for which llama2.c has no file."""
    has = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    expected = {field.name: field.default for field in dataclasses.fields(Config)} | UNLIKE_GPT2
    wrong = [name for name in has if name not in SIZES + SHAPED and has[name] != expected[name]]
    whole, D = config.n_embd // config.n_head, config.head_size
    biased = next((name for name in shapes(config) if name.endswith(".bias")), None)
    reasons = [f"{name} {has[name]}, expected {expected[name]}" for name in wrong]
    if config.n_head * D != config.n_embd:
        reasons.append(f"head_dim {D}, expected n_embd / n_head = {whole}")
    if config.rotary_size != D:
        reasons.append(f"rotary_dim {config.rotary_size}, expected the head's size {D}")
    if biased is not None:
        reasons.append(f"biases such as {biased}, expected bias False")
    if reasons:
        raise InputError(f"save: the model has {reasons[0]} in a file of llama2.c")


def _tokenizer(path: Path, config: Config) -> tuple[Tokenizer | None, InputError | None]:
    """The tokenizer beside a model, or None, with the error if there is one that is not the model's."""
    names = (f"tok{config.vocab_size}.bin", "tokenizer.bin")
    place = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if place is None or place == path:
        return None, None
    try:
        tokenizer = load_tokenizer(place)
        if tokenizer.vocab_size != config.vocab_size:
            raise InputError(
                f"{place}: has {tokenizer.vocab_size:,} tokens, expected {config.vocab_size:,} as {path.name}"
                f" has: put {names[0]} beside it"
            )
        return tokenizer, None
    except Missing:  # taken away in between
        return None, None
    except InputError as error:
        return None, error


@checked
def tokenizer_file(model: Model) -> bytes:
    """The bytes of tokenizer.bin by which run.c gives a tokenizer's ids; InputError where there are none."""
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, ScoredPairs):
        actual = "none" if tokenizer is None else repr(tokenizer.kind)
        raise InputError(
            f"save: the tokenizer is {actual}, expected 'scored', as tokenizer.bin of llama2.c is read"
        )
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InputError(
            f"save: the tokenizer has {tokenizer.vocab_size:,} tokens, expected the model's vocab_size"
            f" {model.config.vocab_size:,}: tokenizer.bin does not say how many it holds"
        )
    return tokenizer.file


def _tokenizer_beside(path: Path, model: Model) -> Path | None:
    """Where a tokenizer is written, None where it is not llama2.c's; InputError where another one is."""
    try:
        data = tokenizer_file(model)
    except InputError:  # the command convert reports it
        return None
    place = path.with_name(f"tok{model.config.vocab_size}.bin")
    if place.exists() and (not place.is_file() or place.read_bytes() != data):
        raise InputError(
            f"{place}: exists and is another tokenizer, expected a new place: choose another folder"
        )
    return place
