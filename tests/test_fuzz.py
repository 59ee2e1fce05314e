"""Whatever the bytes of a file, a reader gives what header and config promise, or one line of what is wrong.

Valid tiny files are damaged with a plan: single bytes, values of JSON, lines of a header, whole arrays. 200
cases a reader, and 10,000 with  pytest -m slow tests/test_fuzz.py. No case may take 10 seconds.
"""

import functools
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from numgpt import GPT, AdamW, Config, InputError, tokenizers
from numgpt.architecture.config import Training, from_dict
from numgpt.architecture.parameters import shapes
from numgpt.interchange import checkpoint, llmc
from numgpt.storage import files

TINY = Config(vocab_size=5, block_size=2, n_layer=1, n_head=1, n_embd=2)
STATE = {
    "best": 1.5,
    "held_out": None,
    "source": "text",
    "recipe": {"held_out": 0.1, "split": "blocks", "dedup": True, "paths": None},
    "digest": "0",
}

# Small numbers get far: a file that nearly fits is the hardest to refuse.
SMALL = [str(n) for n in range(-1, 9)]
HUGE = [
    "4096",
    "4097",
    "16777216",
    "16777217",
    "2147483648",
    "9223372036854775807",
    "18446744073709551616",
    "9" * 400,
    "9" * 5000,
    "-1" + "0" * 20,
]
FLOATS = ["0.5", "1e-320", "-0.0", "1e308", "1e999", "NaN", "-Infinity", "2.0"]
DEEP = ["[" * n + "]" * n for n in (3, 60, 70, 960, 100_000)] + [
    '{"a":' * n + "0" + "}" * n for n in (64, 990)
]
TEXTS = [
    '""',
    '"gpt2"',
    '"float64"',
    '"F32"',
    '"BF16"',
    '"U8"',
    '"a\\nb\\u001b[0m"',
    '"\\ud800"',
    '"\\u0000"',
    '"../../etc"',
]
TEXTS += ['"' + "x" * 5000 + '"', '"' + "xy" * 500 + '.safetensors"']
RAW = st.sampled_from(
    SMALL
    + SMALL
    + HUGE
    + FLOATS
    + DEEP
    + TEXTS
    + ["null", "true", "false", "[]", "{}", "[2, 2]", "[0, 8]", "]", ""]
)
WORDS = [
    (v % 2**32).to_bytes(4, "little")
    for v in (0, 1, 2, 3, 5, 127, 128, 129, 256, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
]
NUMBERS = [
    np.array(v, "<u4").tobytes()
    for v in (0x7FC00000, 0x7FA00000, 0xFF800000, 0x7F800000, 0x7F7FFFFF, 1, 1 << 31, 0xBF800000)
]
LENGTHS = [0, 1, 2, 8, 100, 10**8, 2**24, 2**24 + 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def damaged_bytes(draw, data):
    """Bits flipped, bytes put in, taken out, written over, repeated, cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = abs(draw(st.integers(-40, len(data))))
        piece = draw(st.sampled_from(WORDS + NUMBERS + [b"", b"\xff", b'"', b"{", b"\r\n\t"]))
        n = draw(st.integers(1, 9))
        data = {
            "flip": lambda: (
                data[:at] + bytes([data[at] ^ 1 << n % 8]) + data[at + 1 :] if at < len(data) else data
            ),
            "put in": lambda: data[:at] + piece + data[at:],
            "take out": lambda: data[:at] + data[at + n :],
            "write over": lambda: data[:at] + piece + data[at + len(piece) :],
            "repeat": lambda: data[: at + n] + data[at:],
            "cut off": lambda: data[:at],
        }[draw(st.sampled_from(["flip", "put in", "take out", "write over", "repeat", "cut off"]))]()
    return data


def places(value):
    """Every (container, key) in the content of JSON, of objects and lists."""
    parts = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    for key, part in parts:
        yield value, key
        yield from places(part)


@st.composite
def damaged_json(draw, data):
    """A value replaced by one of another type or size; a name removed, changed, added or repeated."""
    root, raws = [json.loads(data)], []

    def mark(raw):
        raws.append(raw)
        return f"@{len(raws)}@"

    for _ in range(draw(st.integers(1, 2))):
        where, key = draw(st.sampled_from(list(places(root))))
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "twice"]))
        if action == "replace" or where is root:
            where[key] = mark(draw(RAW))
        elif isinstance(where, list) or action == "remove":
            del where[key]
        elif action == "rename":
            where[draw(st.sampled_from(["wte.weight", "n_embd", "", "a\nb", "__metadata__"]))] = where.pop(
                key
            )
        else:
            where[mark(json.dumps(key if action == "twice" else "new"))] = mark(draw(RAW))
    text = json.dumps(root[0] if root else 0)
    for n, raw in enumerate(raws, 1):
        text = text.replace(f'"@{n}@"', raw)
    return text.encode()


def arrays_of(data):
    """[[name, dtype, shape, bytes], …] of a safetensors file, as the library reads it; it keeps no order."""
    return sorted(
        [name, a["dtype"], list(a["shape"]), bytes(a["data"])] for name, a in safetensors.deserialize(data)
    )


def file_of(header, data, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def header_of(arrays):
    header, place = {}, 0
    for name, dtype, shape, data in arrays:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    return header


@st.composite
def damaged_arrays(draw, data):
    """A consistent file of other arrays: one gone, new, renamed, transposed, of another dtype or numbers."""
    arrays = arrays_of(data)
    for _ in range(draw(st.integers(1, 2))):
        n = draw(st.integers(0, len(arrays) - 1))
        name, dtype, shape, numbers = arrays[n]
        actions = ["number", "number", "shape", "dtype", "convert", "name", "gone", "new", "order", "mask"]
        action = draw(st.sampled_from(actions))
        if action == "number":
            at = 4 * draw(st.integers(0, len(numbers) // 4 - 1))
            arrays[n][3] = numbers[:at] + draw(st.sampled_from(NUMBERS)) + numbers[at + 4 :]
        elif action == "shape":
            others = [shape[::-1], [int(np.prod(shape))], [1, *shape], [*shape, 1], [1] * 70 + shape]
            arrays[n][2] = draw(st.sampled_from(others))
        elif action == "dtype":
            arrays[n][1] = draw(st.sampled_from(["I32", "U32", "F64", "F16", "X", "BOOL", "F8_E4M3"]))
        elif action == "convert" and dtype == "F32":
            kind = draw(st.sampled_from(["F64", "F16", "BF16"]))
            values = np.frombuffer(numbers, "<f4")
            with np.errstate(invalid="ignore", over="ignore"):
                if kind == "BF16":
                    bits = (values.view("<u4") >> 16).astype("<u2")
                else:
                    bits = values.astype(files.DTYPES[kind])
            arrays[n][1:] = [kind, shape, bits.tobytes()]
        elif action == "name":
            others = [name.removeprefix("transformer."), f"transformer.{name}", name + "\x1b[2J"]
            arrays[n][0] = draw(st.sampled_from([*others, "lm_head.weight", "__metadata__"]))
        elif action == "gone" and len(arrays) > 1:
            del arrays[n]
        elif action == "new":
            arrays.append([name + "2", dtype, shape, numbers])
        elif action == "order":
            arrays = arrays[n:] + arrays[:n]
        elif action == "mask":
            arrays.append(["h.0.attn.bias", "BOOL", [1, 1, 2, 2], b"\1\0\1\1"])
    return file_of(header_of(arrays), b"".join(a[3] for a in arrays))


@st.composite
def damaged_offsets(draw, data):
    """A header of another length, or whose arrays overlap, leave gaps, lie backwards or beyond the file."""
    arrays = arrays_of(data)
    header, data = header_of(arrays), b"".join(a[3] for a in arrays)
    names = st.sampled_from(list(header))
    one, other = header[draw(names)], header[draw(names)]
    begin, end = one["data_offsets"]
    by = draw(st.sampled_from([1, 4, 8, -4, -8, 2**31, 2**62, 2**63, -(2**63), 2**64]))
    actions = ["begin", "end", "both", "backwards", "the other's", "swap", "huge shape"]
    action = draw(st.sampled_from([*actions, "length", "spaces", "raw"]))
    changed = {
        "begin": [begin + by, end],
        "end": [begin, end + by],
        "both": [begin + by, end + by],
        "backwards": [end, begin],
    }
    changed["the other's"] = other["data_offsets"]
    if action in changed:
        one["data_offsets"] = changed[action]
    elif action == "swap":
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    elif action == "huge shape":
        others = [[2**32, 2**32], [2**62, 2, 0], [0], [-1, -4], [2**64], [2**31] * 40]
        one["shape"] = draw(st.sampled_from(others))
    elif action == "length":
        return file_of(header, data, draw(st.sampled_from(LENGTHS)))
    elif action == "spaces":
        space = draw(st.sampled_from([b" ", b"\0", b"\xff", b"\xef\xbb\xbf"])) * by.bit_length()
        return file_of(space + json.dumps(header).encode(), data)
    elif action == "raw":
        return file_of(draw(damaged_json(json.dumps(header))), data)
    return file_of(header, data)


@st.composite
def damaged_words(draw, data):
    """Integers of a header of llm.c, or numbers after it, replaced."""
    for _ in range(draw(st.integers(1, 2))):
        at = 4 * draw(st.integers(0, 9) | st.integers(256, max(256, len(data) // 4 - 1)))
        near = (int.from_bytes(data[at : at + 4], "little") + draw(st.sampled_from([-1, 1, 128]))) % 2**32
        word = draw(st.sampled_from([*WORDS, *NUMBERS, near.to_bytes(4, "little")]))
        data = data[:at] + word + data[at + 4 :]
    return data


# Of a line of tokens.
PARTS = [
    b"",
    b"=",
    b"YQ",
    b"YQ==",
    b"a",
    b"th",
    "Ġ".encode(),
    "é€".encode(),
    b"\xff",
    b"#version",
    b"a" * 5000,
]


@st.composite
def damaged_lines(draw, data):
    """A line repeated, taken out, put elsewhere, or with one of its two words changed."""
    lines = data.split(b"\n")
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, max(0, len(lines) - 2)))
        action = draw(st.sampled_from(["twice", "out", "elsewhere", "word", "word", "number", "empty"]))
        words = lines[at].split(b" ")
        if action == "word":
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(PARTS))
        elif action == "number":
            words[-1] = draw(RAW).encode()
        lines[at : at + 1] = {"twice": [lines[at]] * 2, "out": [], "empty": [b"", lines[at]]}.get(
            action, [b" ".join(words)]
        )
        if action == "elsewhere" and lines:
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(min(at, len(lines) - 1)))
    return b"\n".join(lines)


# The ending of a file's name → the ways to damage it.
DAMAGES = {
    ".txt": [damaged_lines, damaged_bytes],
    ".tiktoken": [damaged_lines, damaged_bytes],
    ".json": [damaged_json, damaged_json, damaged_bytes],
    ".safetensors": [damaged_arrays, damaged_offsets, damaged_bytes],
    ".bin": [damaged_words, damaged_bytes],
}


def damaged_folder(whole):
    """One of the files of a folder damaged, or given the bytes of another one."""
    ways = [(name, kind(data)) for name, data in sorted(whole.items()) for kind in DAMAGES[Path(name).suffix]]
    ways += [(name, st.sampled_from(sorted(whole.values()))) for name in sorted(whole)]

    def folder(name, data):
        return whole | {name: data}

    return st.one_of([way.map(functools.partial(folder, name)) for name, way in ways])


def expect_whole(model):
    """AssertionError unless the parameters are finite and of the shapes of the config."""
    assert {n: a.shape for n, a in model.params.items()} == shapes(model.config)
    assert model.params.dtype.name in ("float32", "float64")
    assert all(np.isfinite(a).all() for a in model.params.values())
    assert model.tokenizer is None or model.tokenizer.vocab_size <= model.config.vocab_size


def read_run(folder):
    model = GPT.load(folder)
    expect_whole(model)
    optimizer = AdamW(model)
    try:
        state = checkpoint.load_state(folder, optimizer)
    except InputError:
        untouched = optimizer.steps == 0 and not optimizer.m.flat.any() and not optimizer.v.flat.any()
        assert untouched, "half of a state was taken over"
        raise
    assert np.isfinite(optimizer.m.flat).all()
    assert (optimizer.v.flat >= 0).all()
    assert optimizer.steps >= 0
    from_dict(Training, state["training"])


def read_model(folder):
    expect_whole(GPT.load(folder))


def read_llmc_models(folder):
    for name in ("model.bin", "half.bin"):
        expect_whole(GPT.load(folder / name))


def read_llmc_state(folder):
    state = llmc.load_state(folder / "debug_state.bin", TINY)
    tokens, targets = state["tokens"], state["targets"]
    expect_whole(GPT(TINY, params=state["grads"]))
    assert state["logits"].shape == (*tokens.shape, 5)
    assert np.isfinite(state["logits"]).all()
    assert np.isfinite(state["loss"])
    assert 0 <= tokens.min() <= tokens.max() < 5
    assert targets.max() < 5
    assert targets.shape == tokens.shape


def read_llmc_tokens(folder):
    ids = llmc.load_tokens(folder / "tokens.bin")
    assert ids.ndim == 1
    assert ids.dtype == np.uint16
    assert 1024 + 2 * ids.size == (folder / "tokens.bin").stat().st_size


def read_llmc_tokenizer(folder):
    pieces, end = llmc.load_tokenizer(folder / "tokenizer.bin")
    assert 1024 + sum(1 + len(p) for p in pieces) == (folder / "tokenizer.bin").stat().st_size
    assert end is None or 0 <= end < len(pieces)


def read_tokenizer(folder):
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    ids = np.arange(min(tokenizer.vocab_size, 128))
    assert np.array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def read_model_and_tokenizer(folder):
    """A tokenizer that cannot be read is left out with a warning, one line as errors are."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        model = GPT.load(folder)
    expect_whole(model)
    assert len(messages) == (model.tokenizer is None)
    assert all(str(w.message).isprintable() for w in messages)


def read_tokenizer_of(name):
    """A reader of one file, whose tokenizer encodes any text that it has tokens for and decodes it again."""

    def read(folder):
        tokenizer = tokenizers.load(folder / name)
        assert all(p is None or isinstance(p, bytes) for p in tokenizer.pieces)
        assert tokenizer == tokenizers.from_state(json.loads(json.dumps(tokenizer.state())))
        try:
            ids = tokenizer.encode("the theme", special="text")
        except InputError:
            return
        assert tokenizer.decode(ids) == "the theme"
        assert ids.max() < tokenizer.vocab_size

    return read


def read_tensors(folder):
    """The library accepts what is accepted here, and reads the same bytes: two readers never disagree."""
    tensors = files.tensors(folder / "x.safetensors")
    ours = {n: (dtype, a.shape, a.tobytes()) for n, (dtype, a) in tensors.items()}
    arrays = arrays_of((folder / "x.safetensors").read_bytes())
    assert ours == {n: (dtype, tuple(shape), data) for n, dtype, shape, data in arrays}


READERS = {
    "run": read_run,
    "transformers": read_model,
    "shards": read_model,
    "llm.c models": read_llmc_models,
    "llm.c state": read_llmc_state,
    "llm.c tokens": read_llmc_tokens,
    "llm.c tokenizer": read_llmc_tokenizer,
    "tokenizer": read_tokenizer,
    "safetensors": read_tensors,
    "transformers and tokenizer": read_model_and_tokenizer,
    "byte pairs": read_tokenizer_of("tokenizer.json"),
    "tokenizer of Hugging Face": read_tokenizer_of("tokenizer.json"),
    "GPT-2's files": read_tokenizer_of("merges.txt"),
    "tiktoken": read_tokenizer_of("x.tiktoken"),
}


@functools.cache
def whole_files():
    """Reader → name → bytes of the valid files that it reads."""
    with tempfile.TemporaryDirectory() as place:
        return _whole_files(Path(place))


def _whole_files(place):
    model = GPT(TINY, tokenizer=tokenizers.Characters("abcde"))
    optimizer = AdamW(model)
    optimizer.step(model.loss_and_grads([[1, 2]], [[2, 3]])[1], lr=0.1)
    checkpoint.save(place / "run", model, optimizer, STATE | {"training": vars(Training())})
    model.save(place / "hf", "hf")
    llmc.save_all(place / "llmc", model, 1, 2)
    run, hf, c = ({p.name: p.read_bytes() for p in (place / n).iterdir()} for n in ("run", "hf", "llmc"))
    arrays = arrays_of(hf["model.safetensors"])
    shards = {
        f"model-{n}.safetensors": file_of(header_of(part), b"".join(a[3] for a in part))
        for n, part in enumerate((arrays[::2], arrays[1::2]))
    }
    index = {
        "metadata": {"total_size": 0},
        "weight_map": {a[0]: f"model-{n % 2}.safetensors" for n, a in enumerate(arrays)},
    }
    header = np.frombuffer(c["model.bin"], "<i4", 256).copy()
    header[1] = llmc.BFLOAT16
    half = header.tobytes() + (np.frombuffer(c["model.bin"], "<u4")[256:] >> 16).astype("<u2").tobytes()
    tokens, pairs = [bytes([b]) for b in range(256)], [(116, 104), (256, 101), (32, 257)]
    tokens += [b"th", b"the", b" the"]
    pairs = tokenizers.BPE(tokens, pairs, "cl100k", {"<|endoftext|>": 259})
    tokenizers.export(pairs, place / "pairs.json", "numgpt")
    tokenizers.export(pairs, place / "theirs.json", "huggingface")
    tokenizers.export(pairs, place / "x.tiktoken", "tiktoken")
    plain = tokenizers.BPE(tokens, pairs.merges, "gpt2", pairs.specials)
    tokenizers.export(plain, place / "gpt2", "gpt2")
    GPT(Config(vocab_size=260, block_size=2, n_layer=1, n_head=1, n_embd=2), tokenizer=plain).save(
        place / "both", "hf"
    )
    both, gpt2 = ({p.name: p.read_bytes() for p in (place / n).iterdir()} for n in ("both", "gpt2"))
    shards |= {"config.json": hf["config.json"], "model.safetensors.index.json": json.dumps(index).encode()}
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return {
        "byte pairs": {"tokenizer.json": (place / "pairs.json").read_bytes()},
        "tokenizer of Hugging Face": {"tokenizer.json": (place / "theirs.json").read_bytes()},
        "GPT-2's files": gpt2,
        "tiktoken": {"x.tiktoken": (place / "x.tiktoken").read_bytes()},
        "transformers and tokenizer": {name: both[name] for name in names},
        "run": run,
        "transformers": hf,
        "shards": shards,
        "llm.c models": {"model.bin": c["model.bin"], "half.bin": half},
        "llm.c state": {"debug_state.bin": c["debug_state.bin"]},
        "llm.c tokens": {"tokens.bin": c["tokens.bin"]},
        "llm.c tokenizer": {"tokenizer.bin": c["tokenizer.bin"]},
        "tokenizer": {"tokenizer.json": run["tokenizer.json"]},
        "safetensors": {"x.safetensors": hf["model.safetensors"]},
    }


def fuzz(reader, cases, folder, read=None):
    """Hold a reader to the law on so many damaged folders; AssertionError if one breaks it."""
    whole, read = whole_files()[reader], read or READERS[reader]
    outcomes = []

    def law(damaged):
        for name, data in damaged.items():
            (folder / name).write_bytes(data)
        try:
            read(folder)
            outcomes.append("read")
        except InputError as error:
            outcomes.append("refused")
            text = str(error)
            assert text.isprintable(), text
            assert "expected" in text, text
            assert "Traceback" not in text, text
            assert len(text) < 3000, text

    law(whole)
    assert outcomes == ["read"]
    # Not shrunk: a case can be drawn again, and nobody reads files of some kB.
    options = {
        "max_examples": cases,
        "deadline": 10_000,
        "database": None,
        "phases": [Phase.generate],
        "suppress_health_check": list(HealthCheck),
    }
    settings(**options)(given(damaged_folder(whole))(law))()
    assert len(outcomes) > cases
    assert set(outcomes) == {"read", "refused"}


@pytest.fixture
def folder(tmp_path):
    """A folder in memory if there is such a place: a disk takes ten times as long as a reader."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as place:
        yield Path(place)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_as_promised_or_refused_in_one_line(reader, folder):
    fuzz(reader, 200, folder)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_ten_thousand_damaged_files_are_read_as_promised_or_refused_in_one_line(reader, folder):
    fuzz(reader, 10_000, folder)


def careless(folder):
    """A reader of safetensors, written in a hurry."""
    data = (folder / "x.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    for entry in json.loads(data[8 : 8 + n]).values():
        begin, end = entry["data_offsets"]
        np.frombuffer(data[8 + n + begin : 8 + n + end], files.DTYPES[entry["dtype"]]).reshape(entry["shape"])


def trusting(folder):
    """A reader that believes the header."""
    try:
        careless(folder)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError("damaged, expected better") from error
    arrays_of((folder / "x.safetensors").read_bytes())


@pytest.mark.parametrize("reader", [careless, trusting])
def test_the_law_rejects_a_reader_that_is_careless(reader, folder):
    with pytest.raises(BaseException) as caught:  # noqa: PT011 several faults come as a group
        fuzz("safetensors", 200, folder, reader)
    assert not isinstance(caught.value, InputError)
