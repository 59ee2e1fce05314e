"""llm.c's files: read as they were written, in the published layout and sizes, and refused in one line."""

import os

import numpy as np
import pytest

from numgpt import GPT, Config
from numgpt.__main__ import main
from numgpt.architecture.presets import preset
from numgpt.errors import InputError
from numgpt.interchange import llmc

SMALL = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}


def model_of(**changes):
    model = GPT(Config(**SMALL | changes), 3)
    noise = np.random.default_rng(0).standard_normal(model.n_params, np.float32)
    model.params.flat += np.float32(0.1) * noise
    return model


@pytest.fixture
def files(tmp_path):
    model = model_of()
    llmc.save_all(tmp_path, model, 2, 5)
    return tmp_path, model


def test_a_set_belongs_together_and_is_read_again(files):
    folder, model = files
    again, tokens = GPT.load(folder / "model.bin"), llmc.load_tokens(folder / "tokens.bin")
    assert again.config == model.config
    assert again.params.flat.tobytes() == model.params.flat.tobytes()
    state = llmc.load_state(folder / "debug_state.bin", again.config)
    assert np.array_equal(state["tokens"].reshape(-1), tokens[:-1])
    assert np.array_equal(state["targets"].reshape(-1), tokens[1:])
    loss, grads = model.loss_and_grads(state["tokens"], state["targets"])
    assert state["loss"] == loss
    assert state["grads"].flat.tobytes() == grads.flat.tobytes()
    assert np.array_equal(state["logits"], model(state["tokens"]))
    assert not (folder / "tokenizer.bin").exists()


def test_the_bytes_lie_where_the_c_program_looks_for_them(files):
    """Offsets counted by hand: the header, wte of 128 rows, wpe, then arrays of one kind for all blocks."""
    folder, model = files
    data = np.fromfile(folder / "model.bin", "<f4")
    header = data[:256].view("<i4")
    assert header[:8].tolist() == [20240326, 3, 8, 19, 2, 2, 8, 128]
    assert not header[8:].any()
    wte, wpe = 256, 256 + 128 * 8
    assert np.array_equal(data[wte : wte + 19 * 8], model.params["wte.weight"].reshape(-1))
    assert not data[wte + 19 * 8 : wpe].any()
    qkvw = wpe + 8 * 8 + 2 * 8 + 2 * 8
    second = data[qkvw + 3 * 8 * 8 : qkvw + 2 * 3 * 8 * 8].reshape(24, 8)
    assert np.array_equal(second, model.params["h.1.attn.c_attn.weight"].T)
    assert np.array_equal(data[-8:], model.params["ln_f.bias"])


def test_files_of_gpt2_have_the_published_sizes():
    config = preset("gpt2")
    count = llmc._count(config, 50304)
    assert count == 124_475_904 and 1024 + 4 * count == 497_904_640
    assert 1024 + 4 * (2 * 4 * 64 + 4 * 64 * 50257 + 1 + count) == 549_369_860


def test_half_precision_is_read_exactly(files):
    folder, _ = files
    data = np.fromfile(folder / "model.bin", "<u4")
    data[1] = 5
    halves = (data[256:] >> 16).astype("<u2")
    (folder / "half.bin").write_bytes(data[:256].tobytes() + halves.tobytes())
    # The same numbers in float32, their lower halves set to 0.
    data[1] = 3
    data[256:] &= np.uint32(0xFFFF0000)
    data.tofile(folder / "rounded.bin")
    half, rounded = (GPT.load(folder / name).params.flat for name in ("half.bin", "rounded.bin"))
    assert half.tobytes() == rounded.tobytes()


def test_a_tokenizer_comes_back(tmp_path):
    pieces = [bytes([i]) for i in range(256)] + [b"", "ß€".encode(), b"x" * 255]
    llmc.save_tokenizer(tmp_path / "t.bin", pieces, 256)
    assert llmc.load_tokenizer(tmp_path / "t.bin") == (pieces, 256)
    with pytest.raises(InputError, match="256 bytes"):
        llmc.save_tokenizer(tmp_path / "t.bin", [b"x" * 256], 0)
    with pytest.raises(InputError, match="end_of_text is 3"):
        llmc.save_tokenizer(tmp_path / "t.bin", [b"x"], 3)


@pytest.mark.parametrize("ids", [[-1], [65536], [[1, 2]], [0.5]], ids=str)
def test_ids_that_do_not_fit_are_refused(tmp_path, ids):
    with pytest.raises(InputError, match="expected \\(N\\) integers"):
        llmc.save_tokens(tmp_path / "t.bin", ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"tied": False},
        {"activation": "gelu"},
        {"norm_position": "post"},
        {"n_inner": 9},
        {"layer_norm_epsilon": 1e-6},
    ],
    ids=str,
)
def test_a_form_that_llmc_does_not_have_is_named(tmp_path, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        llmc.save_model(tmp_path / "m.bin", model_of(**changes))


def test_biases_that_a_model_lacks_are_written_as_zero(tmp_path):
    model = model_of(bias=False)
    llmc.save_model(tmp_path / "m.bin", model)
    tokens = np.arange(8)[None]
    assert np.allclose(GPT.load(tmp_path / "m.bin")(tokens), model(tokens), rtol=0, atol=1e-6)


def test_a_state_of_a_model_without_biases_is_read_again(tmp_path):
    model = model_of(bias=False)
    llmc.save_state(tmp_path / "s.bin", model, [[1, 2]], [[2, 3]])
    state = llmc.load_state(tmp_path / "s.bin", model.config)
    _, grads = model.loss_and_grads([[1, 2]], [[2, 3]])
    assert state["grads"].flat.tobytes() == grads.flat.tobytes()


def readers(config):
    return {
        "model.bin": llmc.load,
        "debug_state.bin": lambda path: llmc.load_state(path, config),
        "tokens.bin": llmc.load_tokens,
        "tokenizer.bin": llmc.load_tokenizer,
    }


@pytest.mark.parametrize("name", ["model.bin", "debug_state.bin", "tokens.bin", "tokenizer.bin"])
def test_a_file_that_is_cut_or_of_another_kind_is_refused(files, name):
    folder, model = files
    llmc.save_tokenizer(folder / "tokenizer.bin", [b"a", b"bc"], 1)
    path, read = folder / name, readers(model.config)[name]
    data = path.read_bytes()
    fields = np.frombuffer(data[:1024], "<i4")
    for bad in (b"", data[:1000], data[:-1], data + b"x", b"\0" * len(data)):
        path.write_bytes(bad)
        with pytest.raises(InputError):
            read(path)
    # Of the header's numbers, those on which the size of the file does not depend.
    free = {"model.bin": (3, 5), "tokenizer.bin": (3,)}.get(name, ())
    for place in range(1, 8):
        values = ()
        if place in free:
            values = (-1,)
        elif fields[place]:
            values = (-1, 2**31 - 1, fields[place] + 1)
        for value in values:
            changed = fields.copy()
            changed[place] = value
            path.write_bytes(changed.tobytes() + data[1024:])
            with pytest.raises(InputError):
                read(path)
    with pytest.raises(InputError, match="does not exist"):
        read(folder / "nowhere.bin")


@pytest.mark.parametrize(
    "place, value, message",
    [
        (256, 19, "tokens of .* to 19, expected 0 to 18"),
        (256, -1, "tokens of -1"),
        (256 + 10, 19, "to 19, expected 0 to 18"),
        (256 + 20, 0x7FC00000, "logits or loss hold NaN"),
        (256 + 20 + 10 * 19, 0x7F800000, "logits or loss hold NaN"),
        (-1, 0x7FC00000, "ln_f.bias holds NaN"),
    ],
)
def test_a_state_that_no_model_gave_is_refused(files, place, value, message):
    folder, model = files
    words = np.fromfile(folder / "debug_state.bin", "<i4")
    words[place] = value
    words.tofile(folder / "debug_state.bin")
    with pytest.raises(InputError, match=message):
        llmc.load_state(folder / "debug_state.bin", model.config)


def test_a_target_that_does_not_count_may_be_in_a_state(tmp_path):
    model = model_of()
    llmc.save_state(tmp_path / "s.bin", model, [[1, 2]], [[-1, 3]])
    assert llmc.load_state(tmp_path / "s.bin", model.config)["targets"].tolist() == [[-1, 3]]


@pytest.mark.parametrize("n", [0, -1, 2**24 + 1, 2**31 - 1])
def test_a_number_of_tokens_that_the_size_of_the_file_denies_is_refused(tmp_path, n):
    """And at once: the file has 2³⁰ bytes, none of which is on the disk."""
    with open(tmp_path / "t.bin", "wb") as file:
        file.write(np.array([20240328, 2, n, 0], "<i4").tobytes())
        file.truncate(1024 + 2**30)
    with pytest.raises(InputError, match="1,073,741,824 bytes for"):
        llmc.load_tokenizer(tmp_path / "t.bin")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in readers(Config(**SMALL)).values():
        for place in (tmp_path / "pipe", tmp_path, "/dev/zero"):
            with pytest.raises(InputError, match="is a (folder|device|pipe), expected a file"):
                read(place)


def test_the_command_writes_a_set(tmp_path, capsys):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    assert main(["export", str(tmp_path / "set"), "--llmc", "--seed", "5", "--batch-size", "2", *flags]) == 0
    assert capsys.readouterr().out.count("bytes") == 3
    assert np.array_equal(
        GPT.load(tmp_path / "set" / "model.bin").params.flat, GPT(Config(**SMALL), 5).params.flat
    )
    (tmp_path / "set" / "notes.txt").write_text("mine")
    assert main(["export", str(tmp_path / "set"), "--llmc", *flags]) == 2
    assert "choose another name" in capsys.readouterr().err and (tmp_path / "set" / "notes.txt").exists()
    (tmp_path / "set" / "notes.txt").unlink()
    for bad in (["--tokens", "99"], ["--activation", "gelu"], ["--n-head", "3"]):
        assert main(["export", str(tmp_path / "set"), "--llmc", *flags, *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1
