"""Checkpoints: exact, whole or not there, and refused with a reason when they are damaged."""

import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from numgpt import GPT, AdamW, Config, InputError
from numgpt.interchange import checkpoint, llmc
from numgpt.proofs.subjects import SMALL, VARIANTS
from numgpt.tokenizers import Characters

STATE = {"best": 1.5, "held_out": None, "source": "text", "recipe": {}, "digest": "0", "training": {}}


@pytest.fixture
def model():
    return GPT(Config(**SMALL), tokenizer=Characters("abcdefg"))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_comes_back_to_the_bit(tmp_path, changes, dtype):
    model = GPT(Config(**SMALL | changes), 5, dtype, Characters("abcdefg"))
    model.save(tmp_path / "model")
    again = GPT.load(tmp_path / "model")
    assert again.config == model.config and again.params.dtype == model.params.dtype
    assert again.params.flat.tobytes() == model.params.flat.tobytes()
    assert again.tokenizer.characters == "abcdefg"


@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_stored_in_float16_is_read_as_float32_rounded_once(tmp_path, layout, dtype):
    model = GPT(Config(**SMALL), 5, dtype, Characters("abcdefg"))
    model.save(tmp_path / "model", layout, "float16")
    again = GPT.load(tmp_path / "model")
    assert again.params.dtype == "float32"
    for name, array in model.params.items():
        assert np.array_equal(again.params[name], array.astype("float16").astype("float32")), name
    again.save(tmp_path / "again", layout, "float16")
    file = checkpoint.MODEL
    assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    stored = load_file(tmp_path / "model" / file).values()
    assert {array.dtype.name for array in stored} == {"float16"}


def test_a_dtype_that_cannot_hold_a_model_is_refused_before_anything_is_written(tmp_path, model):
    with pytest.raises(InputError, match="save: dtype 'float8' is unknown, expected one of float16, float32"):
        model.save(tmp_path / "model", dtype="float8")
    model.params["h.0.ln_1.weight"][3] = 1e5
    message = "save: h.0.ln_1.weight holds 100000, expected at most 65504, float16's largest number"
    with pytest.raises(InputError, match=message):
        model.save(tmp_path / "model", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_the_file_is_plain_safetensors_with_gpt2s_names(tmp_path, model):
    model.save(tmp_path / "model")
    arrays = load_file(tmp_path / "model" / "model.safetensors")
    assert {n: a.shape for n, a in arrays.items()} == {n: a.shape for n, a in model.params.items()}


def test_an_optimizers_moments_and_a_state_come_back(tmp_path, model):
    optimizer = AdamW(model)
    optimizer.step(model.loss_and_grads([[1, 2]], [[2, 3]])[1], lr=0.1)
    checkpoint.save(tmp_path / "run", model, optimizer, STATE)
    again = AdamW(GPT.load(tmp_path / "run"))
    assert checkpoint.load_state(tmp_path / "run", again) == STATE | {"updates": 1}
    assert again.steps == 1
    assert np.array_equal(again.m.flat, optimizer.m.flat)
    assert np.array_equal(again.v.flat, optimizer.v.flat)


def test_saving_replaces_a_checkpoint_and_leaves_nothing_beside_it(tmp_path, model):
    model.save(tmp_path / "model")
    model.params.flat += 1
    model.save(tmp_path / "model")
    assert np.array_equal(GPT.load(tmp_path / "model").params.flat, model.params.flat)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_saving_never_replaces_what_is_no_checkpoint(tmp_path, model):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "gpt2"}')
    model.save(tmp_path / "annotated")
    (tmp_path / "annotated" / "notes.txt").write_text("what I found")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for name in ("thesis", "file", "theirs", "annotated"):
        with pytest.raises(InputError, match="exists and is not just a checkpoint"):
            model.save(tmp_path / name)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("dtype", ["longdouble", "complex128"])
def test_a_dtype_that_safetensors_lacks_is_an_error(tmp_path, dtype):
    message = "does not fit a file, expected float32 or float64: use model.astype"
    with pytest.raises(InputError, match=message):
        GPT(Config(**SMALL), dtype=dtype).save(tmp_path / "model")


def with_a_bad(number, name="ln_f.bias"):
    def change(model, optimizer):
        model.params[name].flat[0] = number

    return change


def with_a_bad_moment(moment, number):
    def change(model, optimizer):
        getattr(optimizer, moment)["wte.weight"].flat[0] = number

    return change


def with_too_many_tokens(model, optimizer):
    model.tokenizer = Characters("abcdefgh")


LLMC = ["llmc's model", "llmc's state", "llmc's set"]
WRITERS = {
    "numgpt": (lambda place, model, _: model.save(place), GPT.load),
    "hf": (lambda place, model, _: model.save(place, "hf"), GPT.load),
    "a run": (
        lambda place, model, optimizer: checkpoint.save(place, model, optimizer, STATE),
        lambda place: checkpoint.load_state(place, AdamW(GPT.load(place))),
    ),
    "llmc's model": (lambda place, model, _: llmc.save_model(place, model), llmc.load),
    "llmc's state": (
        lambda place, model, _: llmc.save_state(place, model, [[1, 2]], [[2, 3]]),
        lambda place: llmc.load_state(place, Config(**SMALL)),
    ),
    "llmc's set": (
        lambda place, model, _: llmc.save_all(place, model, 1, 2),
        lambda place: llmc.load(place / "model.bin"),
    ),
}
REFUSED = [
    *((writer, with_a_bad(np.nan), "ln_f.bias|logits") for writer in WRITERS),
    *((writer, with_a_bad(-np.inf), "ln_f.bias|logits") for writer in WRITERS),
    *((writer, with_a_bad(1e300), "float32 is in (ln_f.bias|logits)") for writer in LLMC),
    *(
        (writer, with_too_many_tokens, "8 tokens, .* vocab_size of 7")
        for writer in ("numgpt", "hf", LLMC[-1])
    ),
    ("a run", with_a_bad_moment("m", np.nan), "m.wte.weight holds NaN"),
    ("a run", with_a_bad_moment("v", -1.0), "v.wte.weight holds a negative number"),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("writer, change, message", REFUSED)
def test_nothing_is_written_that_would_not_be_read_again(tmp_path, writer, change, message):
    write, read = WRITERS[writer]
    model = GPT(Config(**SMALL), dtype="float64", tokenizer=Characters("abcdefg"))
    optimizer = AdamW(model)
    write(tmp_path / "model", model, optimizer)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    change(model, optimizer)
    for place in (tmp_path / "model", tmp_path / "new"):
        with pytest.raises(InputError, match=f"save: .*{message}"):
            write(place, model, optimizer)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    read(tmp_path / "model")


def test_a_debug_state_of_what_its_header_cannot_say_is_refused(tmp_path, model):
    with pytest.raises(InputError, match=r"tokens have shape \(1, 1, 2\), expected \(B, T\)"):
        llmc.save_state(tmp_path / "state.bin", model, [[[1, 2]]], [[[2, 3]]])


@pytest.mark.parametrize(
    "moment", ["before the renames", "between the renames", "before the old one is gone"]
)
def test_a_save_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, model, moment):
    """The three states of the folder that a kill can leave, made by hand."""
    model.save(tmp_path / "model")
    new, old = tmp_path / ".model.numgpt-new", tmp_path / ".model.numgpt-old"
    if moment == "before the renames":
        new.mkdir()
        (new / "model.safetensors").write_bytes(b"half")
    elif moment == "between the renames":
        shutil.copytree(tmp_path / "model", new)
        (tmp_path / "model").rename(old)
    else:
        shutil.copytree(tmp_path / "model", old)
        (old / "config.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    assert np.array_equal(GPT.load(tmp_path / "model").params.flat, model.params.flat)
    assert sorted(tmp_path.rglob("*")) == before, "reading moved or removed something"
    model.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_can_be_read_while_a_run_saves_it_again_and_again(tmp_path, model):
    model.save(tmp_path / "model")
    stop, faults = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                GPT.load(tmp_path / "model")
            except InputError as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        model.save(tmp_path / "model")
    stop.set()
    reader.join()
    assert not faults


def test_a_link_to_a_checkpoint_stays_a_link(tmp_path, model):
    model.save(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    model.params.flat += 1
    for _ in range(2):
        model.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and np.array_equal(
        GPT.load(tmp_path / "model").params.flat, model.params.flat
    )


@pytest.mark.parametrize("room", [2000, 6000, 9000])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, model, room):
    """A process whose files may not grow beyond a few kB gets the errors of a full disk while it writes."""
    model.save(tmp_path / "model")
    code = f"""
import resource, sys, numpy as np
from numgpt import GPT, AdamW
from numgpt.interchange import checkpoint
model = GPT.load({str(tmp_path / "model")!r})
model.params.flat[:] = 7
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    checkpoint.save({str(tmp_path / "model")!r}, model, AdamW(model), {{"long": "x" * 10000}})
except OSError:
    sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
    assert np.array_equal(GPT.load(tmp_path / "model").params.flat, model.params.flat)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def damage(change):
    """A function that rewrites the arrays of a checkpoint's file."""

    def apply(folder):
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")

    return apply


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def reconfigure(**changes):
    def apply(folder):
        stored = json.loads((folder / "config.json").read_text())
        stored["config"] |= changes
        (folder / "config.json").write_text(json.dumps(stored))

    return apply


@pytest.mark.parametrize(
    "harm, message",
    [
        (cut, "model.safetensors: is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: is damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: is not numgpt's"),
        (reconfigure(n_embd=8), r"wte.weight has shape \(7, 6\), expected \(7, 8\)"),
        (reconfigure(n_layer=3), "h.2.attn.c_attn.bias is missing, expected the 40 arrays"),
        (reconfigure(n_layer=1), "h.1.attn.c_attn.bias is not expected"),
        (reconfigure(n_heads=1), "unknown field n_heads"),
        (reconfigure(vocab_size=9), "tokenizer.json: has 7 tokens, expected 9|wte.weight has shape"),
        (
            damage(lambda a: a.update({"wte.weight": a["wte.weight"].astype("float64")})),
            "wte.weight has dtype F64, expected F32",
        ),
        (
            damage(lambda a: a.update({"wte.weight": a["wte.weight"].astype("float16")})),
            "wte.weight has dtype F16, expected F32",
        ),
        (damage(lambda a: a["ln_f.bias"].__setitem__(0, np.nan)), "ln_f.bias holds NaN or infinity"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_its_fault(tmp_path, model, harm, message):
    model.save(tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        GPT.load(tmp_path / "model")


def run_of(folder, model, **state):
    checkpoint.save(folder, model, AdamW(model), STATE)
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | state))


@pytest.mark.parametrize(
    "state",
    [
        {"best": float("nan")},
        {"held_out": float("inf")},
        {"updates": 10**400},
        {"updates": -1},
        {"updates": True},
    ],
    ids=str,
)
def test_a_state_that_no_run_was_in_is_refused(tmp_path, model, state):
    run_of(tmp_path / "run", model, **state)
    with pytest.raises(InputError, match=f"has {next(iter(state))} .*expected the file as|is not JSON"):
        checkpoint.read_state(tmp_path / "run")


@pytest.mark.parametrize(
    "name, value, message",
    [("v.ln_f.bias", np.nan, "holds NaN"), ("v.wte.weight", -1.0, "v.wte.weight holds a negative number")],
)
def test_moments_that_are_refused_leave_the_optimizer_as_it_was(tmp_path, model, name, value, message):
    run_of(tmp_path / "run", model, updates=3)
    arrays = {n: a + 1 for n, a in load_file(tmp_path / "run" / "optimizer.safetensors").items()}
    arrays[name].flat[0] = value
    save_file(arrays, tmp_path / "run" / "optimizer.safetensors")
    optimizer = AdamW(model)
    with pytest.raises(InputError, match=message):
        checkpoint.load_state(tmp_path / "run", optimizer)
    assert optimizer.steps == 0 and not optimizer.m.flat.any() and not optimizer.v.flat.any()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "9" * 5000,
        '{"type": "bytes", "type": "chars"}',
        '{"type": ["bytes"]}',
        '{"type": "bytes", "x": 1}',
        "5",
    ],
    ids=range(6),
)
def test_what_is_no_tokenizer_is_refused(tmp_path, model, text):
    model.save(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="tokenizer.json: is not .*expected"):
        GPT.load(tmp_path / "model")


def test_heads_by_the_million_are_refused_at_once():
    start = time.process_time()
    with pytest.raises(InputError, match="expected a multiple of it: choose n_head such as 1, 16777216"):
        Config(n_embd=2**24, n_head=2**24 - 1)
    assert time.process_time() - start < 0.1


def test_an_epsilon_that_float32_cannot_add_is_refused():
    for epsilon in (0.0, 1e-320, 1e300, -1.0):
        with pytest.raises(InputError, match="layer_norm_epsilon is"):
            Config(layer_norm_epsilon=epsilon)


def test_parameters_beyond_the_memory_are_an_input_error():
    for n_layer, n_embd in ((1, 2**24), (4096, 2**24)):
        with pytest.raises(InputError, match="numbers do not fit in memory"):
            GPT(Config(n_layer=n_layer, n_embd=n_embd, n_head=1, n_inner=2**24), dtype="float64")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere: does not exist"):
        GPT.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        GPT.load(tmp_path)
