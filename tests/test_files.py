"""Files that lie are refused in one line by readers and commands, at once, and before they cost memory."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

import numgpt
from numgpt import GPT, Config, InputError, tokenizers
from numgpt.__main__ import main
from numgpt.architecture.parameters import shapes
from numgpt.interchange import llmc
from numgpt.storage import atomic, files, safetensors_file

SMALL = {"vocab_size": 7, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4}


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_arrays_are_read_as_the_library_writes_them(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(5, np.int64),
        "c": np.array([True, False]),
        "d": np.ones(3, np.float16),
    }
    save_file(arrays, tmp_path / "x", metadata={"format": "np"})
    tensors = safetensors_file.tensors(tmp_path / "x")
    dtypes = {name: dtype for name, (dtype, _) in tensors.items()}
    assert dtypes == {"a": "F32", "b": "I64", "c": "BOOL", "d": "F16"}
    for name, array in arrays.items():
        assert tensors[name][1].shape == array.shape
        assert tensors[name][1].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is damaged .it is empty."),
        (b"<!DOCTYPE html><html></html>", "begins with '<!DOCTYP', expected a safetensors file"),
        (file_of(b"", length=2**63), "a header of 9,223,372,036,854,775,808 bytes"),
        (file_of({}, b"x" * 100, length=10**8), "a header of 100,000,000 bytes, and has 110 in all"),
        (file_of(b"[]"), "not a JSON object"),
        (file_of(b"{"), "is not JSON"),
        (file_of(b"\xff{}"), "is not JSON"),
        (file_of(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
        (file_of({"a": 5}), "a has dtype None"),
        (file_of({"a": entry(0, 8, dtype=["F32"])}, bytes(8)), r"a has dtype \['F32'\]"),
        (file_of({"a": entry(0, 8, dtype="F7")}, bytes(8)), "a has dtype 'F7'"),
        (file_of({"a": entry(0, 8, [-1, -2])}, bytes(8)), r"a has shape \[-1, -2\]"),
        (file_of({"a": entry(0, 8, [2.0])}, bytes(8)), r"a has shape \[2.0\]"),
        (file_of({"a": entry(0, 8, [True, 2])}, bytes(8)), r"a has shape \[True, 2\]"),
        (file_of({"a": entry(0, 8, [1] * 99 + [2])}, bytes(8)), "a has 100 axes, expected at most 8"),
        (file_of({"a": entry(0, 0, [2**62, 8, 0])}), "expected one that an address can count"),
        (file_of({"__metadata__": {"a": 1}}), "its __metadata__ are not texts"),
        (file_of({"__metadata__": entry(0, 0, [0])}), "its __metadata__ are not texts"),
        (file_of({"a": entry(0, 8, [2**62, 8])}, bytes(8)), "expected one that an address can count"),
        (file_of({"a": entry(0, 8, [3])}, bytes(8)), r"a has data_offsets \[0, 8\]"),
        (file_of({"a": entry(8, 0)}, bytes(8)), r"a has data_offsets \[8, 0\]"),
        (file_of({"a": entry(-8, 0)}, bytes(8)), r"a has data_offsets \[-8, 0\]"),
        (file_of({"a": entry(0, 2**40, [2**38])}, bytes(8)), "a lies at 0 to 1,099,511,627,776 of 8 bytes"),
        (
            file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
            "b lies at 4 to 12 of 12 bytes, not from 8 on",
        ),
        (
            file_of({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
            "b lies at 0 to 8 of 8 bytes, not from 8 on",
        ),
        (
            file_of({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
            "b lies at 12 to 20 of 20 bytes, not from 8 on",
        ),
        (file_of({"a": entry(0, 8)}, bytes(9)), "its arrays end at 8 of 9 bytes"),
    ],
)
def test_a_header_that_lies_is_refused_with_its_lie(tmp_path, data, message):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=message):
        safetensors_file.tensors(tmp_path / "x")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 7, 2)], ids=str)
def test_an_array_without_numbers_is_an_array(tmp_path, shape):
    arrays = {"a": np.zeros(shape, np.float32), "b": np.arange(2.0), "c": np.zeros(shape, np.int8)}
    save_file(arrays, tmp_path / "x")
    tensors = safetensors_file.tensors(tmp_path / "x")
    assert {name: array.shape for name, (_, array) in tensors.items()} == {"a": shape, "b": (2,), "c": shape}


@pytest.mark.parametrize("dtype, size", [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8), ("F4", 0.5)])
def test_a_dtype_that_is_not_read_is_named_and_called_nothing_worse(tmp_path, dtype, size):
    data = file_of({"a": entry(0, int(2 * size), dtype=dtype)}, bytes(int(2 * size)))
    assert safetensors.deserialize(data)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=rf"a has dtype '{dtype}', expected one of F64.*\.to\(") as caught:
        safetensors_file.tensors(tmp_path / "x")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("n", [0x50, *range(0x80, 0xA00, 0x100), 0x4B50])
def test_a_header_of_any_length_is_one(tmp_path, n):
    """Its bytes come first in the file, and may be those that another kind of file begins with."""
    header = json.dumps({"a": entry(0, 8)}).encode()
    (tmp_path / "x").write_bytes(file_of(header + b" " * (n - len(header)), bytes(8)))
    assert list(safetensors_file.tensors(tmp_path / "x")) == ["a"]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"1" * 64 + b"\nsize 548105171\n"


def test_a_pointer_of_git_lfs_is_called_one_by_every_reader(tmp_path):
    GPT(Config(**SMALL), tokenizer=tokenizers.Characters("abcdefg")).save(tmp_path / "model")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        whole = (tmp_path / "model" / name).read_bytes()
        (tmp_path / "model" / name).write_bytes(LFS)
        with pytest.raises(
            InputError, match=f"{name}: is a pointer of Git LFS, expected .*: run git lfs pull"
        ):
            GPT.load(tmp_path / "model")
        (tmp_path / "model" / name).write_bytes(whole)
    (tmp_path / "x.txt").write_bytes(LFS)
    reads = (tokenizers.load, GPT.load, llmc.load_tokens, numgpt.prepare, files.read_json, files.read_bytes)
    for read in reads:
        with pytest.raises(InputError, match="x.txt: is a pointer of Git LFS"):
            read(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_bytes(LFS + b"\nis how a pointer begins.\n" * 50)
    numgpt.prepare(tmp_path / "x.txt")  # a text that quotes one


@pytest.mark.parametrize("name", ["ckpt.pt", "pytorch_model.bin", "old.pth"])
def test_pickled_weights_are_refused_with_the_two_lines_that_make_them_safe(tmp_path, monkeypatch, name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("safetensors.torch")
    monkeypatch.chdir(tmp_path)
    weights = dict.fromkeys("ab", torch.arange(4.0))
    state = {"model": weights, "iter_num": 5} if name == "ckpt.pt" else weights  # as nanoGPT's
    torch.save(state, name, _use_new_zipfile_serialization=not name.startswith("old"))
    messages = set()
    for place in (name, "."):  # the file, and the folder that holds nothing else
        with pytest.raises(InputError, match="is pickled, which may run code") as caught:
            GPT.load(place)
        messages.add(str(caught.value))
    (message,) = messages
    first, second = message.partition(" PyTorch writes it: ")[2].split("; ")
    exec(f"import torch, safetensors.torch\n{first}\n{second}", {})
    tensors = safetensors_file.tensors("model.safetensors")
    assert {n: a.tolist() for n, (_, a) in tensors.items()} == {key: [0, 1, 2, 3] for key in "ab"}
    (tmp_path / name).rename("model.safetensors")  # whatever its name says
    with pytest.raises(InputError, match="model.safetensors: is pickled"):
        safetensors_file.tensors("model.safetensors")


def test_what_is_no_file_is_not_opened(tmp_path):
    """Reading a pipe without a writer would never end, and reading /dev/zero would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        for read in (files.read_json, safetensors_file.tensors, tokenizers.load):
            message = "is a (folder|device|pipe), expected a file"
            if (read, place) == (tokenizers.load, tmp_path):  # a folder may hold a tokenizer
                message = "holds no tokenizer"
            with pytest.raises(InputError, match=message):
                read(place)
    for place in (tmp_path / "nothing", tmp_path / "pipe" / "x", "a\0b", "\ud800"):
        with pytest.raises(files.Missing, match="does not exist"):
            files.read_json(place)


def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes():
    text = str(InputError(f"x: has {'a' * 10**6}, expected\n\x1b[2J\ud800 better"))
    assert text.isprintable()
    assert text.endswith(r"expected\n\x1b[2J\ud800 better")
    assert len(text) < 2100


LIES = {
    "a header of 100 MB": lambda f: sparse(f / "model.safetensors", (10**8).to_bytes(8, "little"), 2 * 10**8),
    "a header of 2^63 bytes": lambda f: sparse(f / "model.safetensors", (2**63).to_bytes(8, "little"), 2**34),
    "arrays of a terabyte": (
        lambda f: (f / "model.safetensors").write_bytes(
            file_of({"transformer.wte.weight": entry(0, 2**40, [2**30, 2**8])}, bytes(64))
        )
    ),
    "a config of a petabyte": lambda f: resize(f, 2**24, 2**24, 2**24),
    "a config of more than an address": lambda f: resize(f, 2**24, 2**24, 2**24, 4096),
    "a file of 64 GiB with nothing in it": lambda f: sparse(f / "model.safetensors", b"", 2**36),
    "64 GiB as in the config, none of which is on the disk": lambda f: hollow(f),
    "a config of 64 GiB": lambda f: sparse(f / "config.json", b"{", 2**36),
}


def sparse(path, begin, size):
    with open(path, "wb") as file:
        file.write(begin)
        file.truncate(size)


def resize(folder, vocab_size, n_embd, n_inner, n_layer=1):
    change_config(vocab_size=vocab_size, n_embd=n_embd, n_inner=n_inner, n_layer=n_layer)(folder)


def hollow(folder):
    """A model whose embedding has 2³⁴ numbers, in a file that agrees with its config."""
    config = Config(**SMALL | {"vocab_size": 2**24, "n_embd": 1024})
    prefix = "transformer." if "model_type" in (folder / "config.json").read_text() else ""
    header, place = {}, 0
    for name, shape in shapes(config).items():
        header[prefix + name] = entry(place, place + 4 * math.prod(shape), shape)
        place += 4 * math.prod(shape)
    change_config(vocab_size=config.vocab_size, n_embd=config.n_embd)(folder)
    begin = file_of(header)
    sparse(folder / "model.safetensors", begin, len(begin) + place)


LOAD = """
import resource, sys, time, numgpt
numgpt.use("reference")
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
start = time.process_time()
try:
    numgpt.GPT.load(sys.argv[1])
except numgpt.InputError as error:
    print(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("lie", LIES)
def test_no_memory_and_no_time_is_spent_on_a_lie(tmp_path, layout, lie):
    """A process limited to 1 GiB refuses in one line and takes less than 100 MB: JSON of 16 MiB, parsed."""
    GPT(Config(**SMALL)).save(tmp_path / "model", layout)
    LIES[lie](tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "model")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    message, spent = done.stdout.splitlines()
    megabytes, seconds = map(float, spent.split())
    assert "expected" in message and megabytes < 100 and seconds < 5, (message, spent)


def change_config(**changes):
    def apply(folder):
        stored = json.loads((folder / "config.json").read_text())
        stored.get("config", stored).update(changes)
        (folder / "config.json").write_text(json.dumps(stored))

    return apply


def change_arrays(change):
    def apply(folder):
        arrays = load_file(folder / "model.safetensors")
        change(arrays, next(name for name in arrays if name.endswith("wpe.weight")))
        save_file(arrays, folder / "model.safetensors")

    return apply


def change_header(change):
    def apply(folder):
        data = (folder / "model.safetensors").read_bytes()
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        change(header, next(name for name in header if name.endswith("wpe.weight")))
        (folder / "model.safetensors").write_bytes(file_of(header, data[8 + n :]))

    return apply


def rewrite(change):
    def apply(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return apply


def point_outside(folder):
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(arrays, "../model.safetensors")})
    )


BAD = {
    "neither kind": (lambda f: [p.unlink() for p in f.iterdir()], "holds no checkpoint"),
    "a config of neither kind": (
        lambda f: (f / "config.json").write_text('{"kind": "bert"}'),
        "is not numgpt's",
    ),
    "a class that is not known": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "model_type is 'bert', a class that numgpt does not read",
    ),
    "no config but a pipe": (
        lambda f: [(f / "config.json").unlink(), os.mkfifo(f / "config.json")],
        "holds no checkpoint",
    ),
    "an array missing": (change_arrays(lambda a, n: a.pop(n)), "is missing, expected"),
    "an array too many": (change_arrays(lambda a, n: a.update(extra=a[n])), "extra is not expected"),
    "a setting of another type": (change_config(n_embd=None), "n_embd is None"),
    "another shape": (change_arrays(lambda a, n: a.update({n: a[n].T.copy()[:2]})), "has shape"),
    "another dtype": (change_arrays(lambda a, n: a.update({n: a[n].astype(np.int32)})), "has dtype I32"),
    "not finite": (change_arrays(lambda a, n: a[n].__setitem__(0, np.inf)), "NaN or infinity"),
    "absurd sizes": (change_config(vocab_size=2**24, n_embd=2**24), "has shape"),
    "sizes beyond absurd": (change_config(vocab_size=2**62), "vocab_size is"),
    "cut short": (rewrite(lambda d: d[:-5]), "is damaged"),
    "cut in the header": (rewrite(lambda d: d[:50]), "is damaged"),
    "a file out of the folder": (point_outside, "expected"),
    "a header of 100 MB": (
        rewrite(lambda d: (10**8).to_bytes(8, "little") + d[8:]),
        "a header of 100,000,000 bytes",
    ),
    "a header of 2^63 bytes": (rewrite(lambda d: (2**63).to_bytes(8, "little") + d[8:]), "is damaged"),
    "offsets that overlap": (
        change_header(lambda h, n: h[n].update(data_offsets=[o - 4 for o in h[n]["data_offsets"]])),
        "is damaged",
    ),
    "offsets beyond the file": (
        change_header(lambda h, n: h[n].update(data_offsets=[o + 2**40 for o in h[n]["data_offsets"]])),
        "is damaged",
    ),
    "a name with a line break and an escape": (
        change_header(lambda h, n: h.update({"a\nb\x1b[2J": h.pop(n)})),
        "expected",
    ),
    "a folder in the place of a file": (
        lambda f: [(f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()],
        "is a folder, expected a file",
    ),
    "a pipe in the place of a file": (
        lambda f: [(f / "model.safetensors").unlink(), os.mkfifo(f / "model.safetensors")],
        "is a pipe, expected a file",
    ),
}


@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("bad", BAD)
def test_a_command_answers_bad_input_with_one_line_and_status_2(tmp_path, capfd, layout, bad):
    (tmp_path / "text.txt").write_text("abcdefg")
    GPT(Config(**SMALL), tokenizer=tokenizers.Characters("abcdefg")).save(tmp_path / "model", layout)
    damage, message = BAD[bad]
    damage(tmp_path / "model")
    model, before = str(tmp_path / "model"), sorted(tmp_path.rglob("*"))
    commands = [
        ["convert", model, str(tmp_path / "new")],
        ["sample", model],
        ["eval", model, "--data", str(tmp_path / "text.txt")],
        ["info", model],
        ["export", str(tmp_path / "new"), model, "--llmc"],
    ]
    for command in commands:
        assert main(command) == 2, command
        out, error = capfd.readouterr()
        assert out == ""
        assert error.startswith("numgpt: ")
        assert message in error
        assert error.count("\n") == 1
        assert error[:-1].isprintable(), error
    assert sorted(tmp_path.rglob("*")) == before, "a command that refused left something behind"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name on this system")
def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path):
    """As root, a rename would put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic.write_file(pipe, b"what is written")
    assert os.read(reader, 100) == b"what is written" and pipe.is_fifo()
    os.close(reader)
    with pytest.raises(InputError, match="is a folder, expected a file to write"):
        atomic.write_file(tmp_path, b"")
    assert os.listdir(tmp_path) == ["pipe"]
