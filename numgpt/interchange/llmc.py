"""The files of llm.c: model, debug state, tokens and tokenizer, so that a port in another language can be
held to ours.

Each file begins with 256 little-endian int32, of which the first is a magic number and the second a version.
"""

import math
from pathlib import Path

import numpy as np

from ..architecture.config import LARGEST, Config
from ..architecture.parameters import Flat, shapes
from ..errors import InputError
from ..random import generator
from ..storage.atomic import replace_folder, write_file
from ..storage.files import Missing, mapped, open_file

HEADER = 1024  # bytes
FILES = ("model.bin", "tokens.bin", "debug_state.bin", "tokenizer.bin")
MODEL, STATE, TOKENIZER, TOKENS = 20240326, 20240327, 20240328, 20240520
FLOAT32, BFLOAT16 = 3, 5  # versions of a model's file
LAYER = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
)
LAYER += (
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)


def kind_of(path):
    """The magic number that a file begins with: MODEL, STATE, TOKENS or TOKENIZER; InputError for any other."""
    with open_file(path) as file:
        magic = int.from_bytes(file.read(4), "little")
    if magic not in (MODEL, STATE, TOKENIZER, TOKENS):
        raise InputError(
            f"{path}: begins with {magic}, expected a file of llm.c: {MODEL} for a model, {STATE} for a debug"
            " state"
        )
    return magic


def save_model(path, model):
    """Write a model as llm.c reads it, in float32: matrices (out, in), each kind for all layers together, the
    vocabulary padded.
    """
    c = model.config
    _check(c, "save")
    header = (
        MODEL,
        FLOAT32,
        c.block_size,
        c.vocab_size,
        c.n_layer,
        c.n_head,
        c.n_embd,
        _padded(c.vocab_size),
    )
    write_file(path, b"".join([_header(*header), *_parameters(model.params.to("reference"), c)]))


def load(path):
    """The arguments of GPT from a model's file, float32 or bfloat16; its parameters become float32."""
    h, data = _read(path, MODEL, (FLOAT32, BFLOAT16))
    block_size, V, L, H, C, padded = map(int, h[2:8])
    try:
        config = Config(vocab_size=V, block_size=block_size, n_layer=L, n_head=H, n_embd=C)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if padded < V:
        raise InputError(
            f"{path}: the padded vocabulary is {padded}, expected at least the vocabulary of {V}"
        )
    size = 4 if h[1] == FLOAT32 else 2
    _expect_size(path, data, size * _count(config, padded))
    return {
        "config": config,
        "params": _unpack(path, data.view("<f4" if size == 4 else "<u2"), config, padded),
    }


def save_state(path, model, tokens, targets):
    """Write what one forward and backward of a model gives: tokens, targets, logits, loss and all gradients,
    in float32.
    """
    _check(model.config, "save")
    tokens, targets = np.atleast_2d(tokens), np.atleast_2d(targets)
    model = model.to("reference")
    loss, grads = model.loss_and_grads(tokens, targets)
    ids = [np.ascontiguousarray(a, "<i4").tobytes() for a in (tokens, targets)]
    floats = [np.ascontiguousarray(a, "<f4").tobytes() for a in (model(tokens), loss)]
    write_file(
        path, b"".join([_header(STATE, 2, *tokens.shape), *ids, *floats, *_parameters(grads, model.config)])
    )


def load_state(path, config):
    """{"tokens", "targets", "logits", "loss", "grads"} of a debug state that a model of this Config has made;
    grads is a Flat.
    """
    _check(config, "load")
    h, data = _read(path, STATE, (2,))
    (B, T), V, padded = map(int, h[2:4]), config.vocab_size, _padded(config.vocab_size)
    if not (B > 0 and 0 < T <= config.block_size):
        raise InputError(
            f"{path}: has B {B} and T {T}, expected some texts of 1 to {config.block_size} tokens"
        )
    n = B * T
    _expect_size(path, data, 4 * (2 * n + n * V + 1 + _count(config, padded)))
    ids, floats = data[: 8 * n].view("<i4").reshape(2, B, T), data[8 * n :].view("<f4")
    if ids[0].min() < 0 or ids.max() >= V:  # a target below 0 does not count
        raise InputError(f"{path}: holds tokens of {ids[0].min()} to {ids.max()}, expected 0 to {V - 1}")
    try:
        (tokens, targets), logits = ids.astype(np.int64), np.array(floats[: n * V]).reshape(B, T, V)
    except MemoryError as error:
        raise InputError(
            f"{path}: logits of {n:,} tokens do not fit in memory ({error}), expected fewer"
        ) from error
    if not (np.isfinite(logits).all() and np.isfinite(floats[n * V])):
        raise InputError(f"{path}: logits or loss hold NaN or infinity, expected finite numbers")
    grads = _unpack(path, floats[n * V + 1 :], config, padded)
    return {
        "tokens": tokens,
        "targets": targets,
        "logits": logits,
        "loss": float(floats[n * V]),
        "grads": grads,
    }


def save_tokens(path, ids):
    """Write ids (N) below 65,536 as training data."""
    ids = np.asarray(ids)
    if (
        ids.ndim != 1
        or ids.dtype.kind not in "iu"
        or (ids.size and not 0 <= ids.min() <= ids.max() < 2**16)
        or ids.size >= 2**31
    ):
        raise InputError(
            f"save: ids of shape {ids.shape} and dtype {ids.dtype}, expected (N) integers of 0 to 65,535,"
            " fewer than 2³¹ of them"
        )
    write_file(path, _header(TOKENS, 1, len(ids)) + ids.astype("<u2").tobytes())


def load_tokens(path):
    """The ids of a file of training data, mapped.  → (N,) uint16"""
    h, data = _read(path, TOKENS, (1,))
    _expect_size(path, data, 2 * int(h[2]))
    return data.view("<u2")


def save_tokenizer(path, pieces, end_of_text):
    """Write the bytes of every token, of at most 255 each, and the id that ends a text."""
    long = next((i for i, p in enumerate(pieces) if len(p) > 255), None)
    if long is not None:
        raise InputError(
            f"save: token {long} has {len(pieces[long])} bytes, expected at most 255: the format has one byte"
            " for their number"
        )
    if not 0 <= end_of_text < len(pieces):
        raise InputError(f"save: end_of_text is {end_of_text}, expected one of the {len(pieces)} ids")
    write_file(
        path,
        _header(TOKENIZER, 2, len(pieces), end_of_text)
        + b"".join(bytes([len(p)]) + bytes(p) for p in pieces),
    )


def load_tokenizer(path):
    """(pieces, end_of_text) of a tokenizer's file; end_of_text is None in version 1."""
    h, data = _read(path, TOKENIZER, (1, 2))
    n, place, pieces = int(h[2]), 0, []
    if not 0 < n <= LARGEST or not n <= len(data) <= 256 * n:
        raise InputError(
            f"{path}: has {len(data):,} bytes for {n:,} tokens, expected 1 to {LARGEST:,} tokens of 1 to 256"
            " bytes each"
        )
    data = memoryview(data)
    while place < len(data) and len(pieces) < n:
        pieces.append(bytes(data[place + 1 : place + 1 + data[place]]))
        place += 1 + data[place]
    if place != len(data) or len(pieces) != n:
        raise InputError(
            f"{path}: holds {len(pieces)} whole tokens or goes on after them, expected the {n} that its"
            " header says"
        )
    if h[1] == 2 and not 0 <= h[3] < n:
        raise InputError(f"{path}: end of text is {h[3]}, expected one of the {n} ids")
    return pieces, int(h[3]) if h[1] == 2 else None


def save_all(folder, model, batch_size, T, seed=0):
    """Write a set of files that belong together: model.bin, tokens.bin, debug_state.bin on the first of them,
    and tokenizer.bin.

    The tokens are drawn by the seed. tokenizer.bin is left out where the model has no tokenizer. Returns the
    paths.
    """
    V, folder = model.config.vocab_size, Path(folder)
    if not 1 <= T <= model.config.block_size:
        raise InputError(f"export: {T} tokens a sequence, expected 1 to block_size {model.config.block_size}")
    _check(model.config, "export")
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= set(FILES)):
        raise InputError(
            f"{folder}: exists and is not just {', '.join(FILES)}, expected a new folder or one to replace:"
            " choose another name"
        )
    ids = generator(seed, "llm.c tokens").integers(0, min(V, 2**16), batch_size * T + 1)

    def write(new):
        save_model(new / FILES[0], model)
        save_tokens(new / FILES[1], ids)
        save_state(new / FILES[2], model, ids[:-1].reshape(batch_size, T), ids[1:].reshape(batch_size, T))
        if model.tokenizer is not None:
            pieces = [
                piece or b"" for piece in model.tokenizer.pieces
            ]  # an id that stands for nothing has no bytes
            save_tokenizer(
                new / FILES[3], pieces + [b""] * (V - len(pieces)), _end_of_text(model.tokenizer, V)
            )

    replace_folder(folder, write)
    return [folder / name for name in FILES if (folder / name).exists()]


def _end_of_text(tokenizer, V):
    """The id that ends a text, a special token; the last of all for a tokenizer that has none."""
    specials = tokenizer.specials
    return specials.get("<|endoftext|>", next(iter(specials.values()), V - 1))


def _check(config, what):
    """Raise InputError for a form of GPT that llm.c has no file for."""
    names = ("tied", "activation", "norm", "norm_position", "positions", "layer_norm_epsilon")
    forms = {name: getattr(Config, name) for name in names}
    for name, expected in forms.items():
        if getattr(config, name) != expected:
            raise InputError(
                f"{what}: the model has {name} {getattr(config, name)}, expected {expected} in a file of"
                " llm.c"
            )
    if config.ffn_width != 4 * config.n_embd:
        raise InputError(
            f"{what}: the model has n_inner {config.ffn_width}, expected 4 n_embd = {4 * config.n_embd} in a"
            " file of llm.c"
        )


def _padded(V):
    return -(-V // 128) * 128


def _count(config, padded):
    """The numbers in a file of parameters or gradients."""
    C, L = config.n_embd, config.n_layer
    return padded * C + config.block_size * C + L * (12 * C * C + 13 * C) + 2 * C


def _parameters(values, config):
    """The bytes of all parameters or gradients in llm.c's order; a bias that the model does not have is 0."""
    C = config.n_embd
    sizes = shapes(Config(**vars(config) | {"bias": True}))

    def of(name):
        array = values[name] if name in values else np.zeros(sizes[name], values.dtype)
        return array.T if array.ndim == 2 and ".c_" in name else array

    rest = np.zeros((_padded(config.vocab_size) - config.vocab_size, C))
    names = [f"h.{i}.{name}" for name in LAYER for i in range(config.n_layer)]
    for array in (
        values["wte.weight"],
        rest,
        values["wpe.weight"],
        *map(of, names),
        of("ln_f.weight"),
        of("ln_f.bias"),
    ):
        yield np.ascontiguousarray(array, "<f4").tobytes()


def _unpack(path, flat, config, padded):
    """The Flat of numbers in llm.c's order, float32 or the bits of bfloat16; InputError unless they are
    finite.
    """
    found, place = Flat(shapes(config), np.float32), 0

    def take(name, *shape):
        nonlocal place
        size = math.prod(shape)
        array = flat[place : place + size].reshape(shape)
        if array.dtype == np.uint16:
            array = (array.astype("<u4") << 16).view("<f4")
        found[name] = (
            array[: config.vocab_size]
            if name == "wte.weight"
            else array.T
            if len(shape) == 2 and ".c_" in name
            else array
        )
        place += size

    take("wte.weight", padded, config.n_embd)
    for name in [
        "wpe.weight",
        *(f"h.{i}.{name}" for name in LAYER for i in range(config.n_layer)),
        "ln_f.weight",
        "ln_f.bias",
    ]:
        shape = found.shapes[name]
        take(name, *(shape[::-1] if ".c_" in name else shape))
    bad = found.first_not_finite()
    if bad:
        raise InputError(f"{path}: {bad} holds NaN or infinity, expected finite numbers")
    return found


def _header(*fields):
    header = np.zeros(HEADER // 4, "<i4")
    header[: len(fields)] = fields
    return header.tobytes()


def _read(path, magic, versions):
    """The 256 integers that a file begins with, and the bytes after them, mapped."""
    try:
        with open_file(path) as file:
            data = mapped(file)
    except Missing as error:
        raise InputError(f"{path}: does not exist, expected a file of llm.c") from error
    header = data[:HEADER].view("<i4") if len(data) >= HEADER else np.zeros(1, np.int32)
    if header[0] != magic:
        raise InputError(f"{path}: does not begin with {magic}, expected another kind of llm.c's files")
    if header[1] not in versions:
        raise InputError(f"{path}: has version {header[1]}, expected {' or '.join(map(str, versions))}")
    return header, data[HEADER:]


def _expect_size(path, data, size):
    if len(data) != size:
        raise InputError(
            f"{path}: has {HEADER + len(data):,} bytes, expected {HEADER + size:,} from its header: it is cut"
            " short, or of another model"
        )
