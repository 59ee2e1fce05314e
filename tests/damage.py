"""Ways to damage a valid file: bytes, values of JSON, whole arrays, their offsets, words, lines."""

import functools
import json
from pathlib import Path

import numpy as np
import safetensors
from hypothesis import strategies as st

from numgpt.storage import safetensors_file

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
DEEP = ["[" * n + "]" * n for n in (3, 60, 64, 65, 960, 100_000)] + [
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
        action = draw(st.sampled_from([*actions, "empty"]))
        if action == "number" and len(numbers) >= 4:
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
                    bits = values.astype(safetensors_file.DTYPES[kind])
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
        elif action == "empty":
            arrays.append([name + "0", dtype, draw(st.sampled_from([[0], [3, 0], [0, 2**62]])), b""])
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
    actions = ["begin", "end", "both", "backwards", "the other's", "swap", "huge shape", "metadata"]
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
        others = [[2**32, 2**32], [2**62, 2, 0], [2**62, 8, 0], [0], [-1, -4], [2**64], [2**31] * 40]
        one["shape"] = draw(st.sampled_from(others))
    elif action == "metadata":
        others = [{"format": "pt"}, {"x": 1}, [], None, "", {"transformer.wte.weight": "lm_head.weight"}]
        header = {"__metadata__": draw(st.sampled_from(others))} | header
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


# What is found in a file's place: a pointer of Git LFS, what torch.save wrote, a page about an error.
OTHERS = [
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n",
    b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl",
    b"\x80\x02}q\0.",
    b"<!DOCTYPE html><html><body>404</body></html>",
]


def damaged_folder(whole):
    """One of the files of a folder damaged, or given the bytes of another one."""
    ways = [(name, kind(data)) for name, data in sorted(whole.items()) for kind in DAMAGES[Path(name).suffix]]
    ways += [(name, st.sampled_from([*sorted(whole.values()), *OTHERS])) for name in sorted(whole)]

    def folder(name, data):
        return whole | {name: data}

    return st.one_of([way.map(functools.partial(folder, name)) for name, way in ways])
