"""Folders of transformers, in and out: the same arrays, the same logits, and one line for what is wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import numgpt
from numgpt import GPT, Config
from numgpt.__main__ import main
from numgpt.errors import InputError

SMALL = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}


def model_of(dtype="float32", **changes):
    model = GPT(Config(**SMALL | changes), 3, dtype)
    model.params.flat += 0.1 * np.random.default_rng(0).standard_normal(model.n_params).astype(dtype)
    return model


@pytest.fixture
def folder(tmp_path):
    model_of().save(tmp_path / "hf", "hf")
    return tmp_path / "hf"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_arrays(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def same(a, b):
    assert a.config == b.config and a.params.dtype == b.params.dtype
    assert a.params.flat.tobytes() == b.params.flat.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False},
        {"activation": "gelu", "dropout": 0.1},
        {"activation": "relu", "n_inner": 20, "layer_norm_epsilon": 1e-6},
    ],
    ids=str,
)
def test_what_is_written_is_read_again(tmp_path, dtype, changes):
    model = model_of(dtype, **changes)
    model.save(tmp_path / "hf", layout="hf")
    same(GPT.load(tmp_path / "hf"), model)
    model.save(tmp_path / "hf", layout="hf")  # replaces what is its own


def test_biases_that_a_model_lacks_are_written_as_zero(tmp_path):
    model = model_of("float64", bias=False)
    model.save(tmp_path / "hf", "hf")
    tokens = np.arange(8)[None]
    again = GPT.load(tmp_path / "hf")
    assert again.config.bias and np.array_equal(again(tokens), model(tokens))


@pytest.mark.parametrize("half, kind", [("F16", np.float16), ("BF16", None)])
def test_halves_are_read_exactly(folder, half, kind):
    arrays = load_file(folder / "model.safetensors")
    header, data = {}, b""
    for name, array in arrays.items():
        if kind:
            stored = array.astype(kind)
            arrays[name] = stored.astype(np.float32)
        else:  # bfloat16 is the upper half of a float32
            stored = (array.view(np.uint32) >> 16).astype(np.uint16)
            arrays[name] = (stored.astype(np.uint32) << 16).view(np.float32)
        offsets = [len(data), len(data) + stored.nbytes]
        header[name] = {"dtype": half, "shape": array.shape, "data_offsets": offsets}
        data += stored.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    model = GPT.load(folder)
    assert model.params.dtype == np.float32
    for name, array in arrays.items():
        assert np.array_equal(model.params[name.removeprefix("transformer.")], array)


def test_older_names_and_mask_buffers_are_known(folder):
    model = GPT.load(folder)

    def older(arrays):
        for name in list(arrays):
            arrays[name.removeprefix("transformer.")] = arrays.pop(name)
        arrays["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)
        arrays["h.1.attn.masked_bias"] = np.full(1, -1e4, np.float32)
        arrays["lm_head.weight"] = arrays["wte.weight"].copy()

    change_arrays(folder, older)
    same(GPT.load(folder), model)


def test_shards_are_joined(folder):
    model, arrays = GPT.load(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    for n, part in enumerate((names[::2], names[1::2])):
        save_file({name: arrays[name] for name in part}, folder / f"model-{n}.safetensors")
    index = {name: f"model-{names.index(name) % 2}.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    same(GPT.load(folder), model)
    for bad in (
        "../model-1.safetensors",
        "/etc/model.safetensors",
        "sub/model-1.safetensors",
        "model-1.bin",
        "model-9.safetensors",
        "\ud800.safetensors",
        "..safetensors",
    ):
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": index | {"transformer.wte.weight": bad}})
        )
        with pytest.raises(InputError, match="same folder|does not exist|is missing|half of a character"):
            GPT.load(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation_function": "mish"}, "activation_function is 'mish'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_embd": 10}, "has shape .* expected .* from config.json"),
        ({"n_embd": "8"}, "n_embd is '8'"),
        ({"n_layer": 3}, "h.2.attn.c_attn.bias is missing"),
        ({"n_layer": 1}, "h.1.attn.c_attn.bias is not expected"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"model_type": "bert"}, "model_type is 'bert', a class that numgpt does not read"),
        ({"activation_function": []}, "activation_function is"),
        ({"embd_pdrop": []}, "embd_pdrop is"),
        ({"attn_pdrop": None}, "attn_pdrop is"),
        ({"resid_pdrop": -1}, "resid_pdrop is -1"),
        ({"layer_norm_epsilon": 10**400}, "of 401 characters, is beyond the largest float"),
        ({"n_layer": 2**24}, "n_layer is 16777216, expected 0 to 4,096"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        GPT.load(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("transformer.ln_f.weight"), "ln_f.weight is missing"),
        (lambda a: a.update(extra=np.zeros(3, np.float32)), "extra is not expected"),
        (lambda a: a.update({"wte.weight": a["transformer.wte.weight"]}), "occurs twice"),
        (lambda a: a.update({"transformer.ln_f.bias": np.zeros(8, np.int64)}), "has dtype I64"),
        (lambda a: a.update({"transformer.ln_f.bias": np.full(8, np.nan, np.float32)}), "holds NaN"),
        (
            lambda a: a.update({"lm_head.weight": np.zeros((19, 8), np.float32)}),
            "lm_head.weight is not wte.weight, expected the same numbers",
        ),
        (lambda a: a.update({"lm_head.weight": np.zeros((19, 8), np.int64)}), "has dtype I64"),
    ],
)
def test_arrays_that_do_not_fit_are_named(folder, change, message):
    change_arrays(folder, change)
    with pytest.raises(InputError, match=message):
        GPT.load(folder)


def test_a_damaged_file_is_refused_as_such(folder):
    data = (folder / "model.safetensors").read_bytes()
    long_header, longer_header = ((n).to_bytes(8, "little") + data[8:] for n in (2**40, 2**64 - 1))
    for bad in (b"", data[:100], data[:-1], data + b"x", long_header, longer_header):
        (folder / "model.safetensors").write_bytes(bad)
        with pytest.raises(InputError, match="is damaged|is not JSON"):
            GPT.load(folder)


def test_a_nan_that_signals_is_not_finite_and_nothing_else(folder):
    """Converting it to another dtype sets a flag of the processor, which must not become a warning."""
    arrays = load_file(folder / "model.safetensors")
    # One array in float64, so that all become float64.
    arrays["transformer.ln_f.weight"] = arrays["transformer.ln_f.weight"].astype(np.float64)
    arrays["transformer.ln_f.bias"].view(np.uint32)[0] = 0x7FA00000
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(InputError, match="ln_f.bias holds NaN"):
        GPT.load(folder)


def test_an_array_that_the_header_names_twice_is_refused(folder):
    """Readers differ in which of the two they take: one could check the first, another read the second."""
    data = (folder / "model.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + n].strip()
    name, entry = "transformer.wpe.weight", json.loads(text)["transformer.ln_f.bias"]
    text = text[:-1] + f', "{name}": {json.dumps(entry)}'.encode() + b"}"
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :])
    with pytest.raises(InputError, match=f"'{name}' occurs twice"):
        GPT.load(folder)


def test_a_shard_whose_name_no_file_can_have_is_refused(folder):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "x" * 300 + ".safetensors")})
    )
    with pytest.raises(InputError, match="in the same folder"):
        GPT.load(folder)


@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["as it is spelt", "without its prefix"])
def test_an_array_that_lies_in_two_shards_is_refused(folder, prefix):
    """Which of the two is meant nobody can say, whatever the index does."""
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(arrays, folder / "model-0.safetensors")
    save_file({f"{prefix}wpe.weight": arrays["transformer.wpe.weight"]}, folder / "model-1.safetensors")
    index = dict.fromkeys(arrays, "model-0.safetensors") | {f"{prefix}wpe.weight": "model-1.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(InputError, match=f"model-1.safetensors: {prefix}wpe.weight occurs twice"):
        GPT.load(folder)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="pytorch_model.bin: is pickled.*torch.load.*save_file"):
        GPT.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"another program's")
    with pytest.raises(InputError, match="has neither model.safetensors nor"):
        GPT.load(folder)


def test_a_name_that_safetensors_left_out_is_the_array_that_its_metadata_says(folder):
    """Its save_model stores tied matrices once, under either name."""
    model, arrays = GPT.load(folder), load_file(folder / "model.safetensors")
    arrays["lm_head.weight"] = arrays.pop("transformer.wte.weight")
    save_file(arrays, folder / "model.safetensors", {"transformer.wte.weight": "lm_head.weight"})
    same(GPT.load(folder), model)
    for metadata in (None, {"transformer.wte.weight": "nowhere"}, {"format": "pt"}):
        save_file(arrays, folder / "model.safetensors", metadata)
        with pytest.raises(InputError, match="wte.weight is missing"):
            GPT.load(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_what_save_model_of_safetensors_writes_is_read(folder, tied):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.torch import save_model

    change_config(folder, tie_word_embeddings=tied)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_pretrained(folder)).eval()
    save_model(theirs, folder / "model.safetensors")
    model = GPT.load(folder, dtype="float64")
    tokens = np.arange(8)[None]
    logits = theirs.double()(torch.from_numpy(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(model(tokens), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble", "complex128"])
def test_a_model_is_loaded_in_the_dtype_that_is_asked_for(tmp_path, layout, dtype):
    model = model_of("float64")
    model.save(tmp_path / "model", layout)
    again = GPT.load(tmp_path / "model", dtype=dtype)
    assert again.params.dtype == np.dtype(dtype)
    assert np.array_equal(again.params.flat, model.params.flat.astype(dtype))
    with pytest.raises(InputError, match="dtype float16 is unknown, expected one of float32"):
        GPT.load(tmp_path / "nowhere", dtype="float16")


def test_the_page_turns_a_checkpoint_of_nanogpt_into_a_model(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    monkeypatch.chdir(tmp_path)
    theirs = torch_gpt.GPT(activation=torch.nn.GELU()).eval()
    sizes = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 8,
        "block_size": 8,
        "bias": True,
        "vocab_size": 19,
        "dropout": 0.1,
    }
    weights = {f"_orig_mod.{name}": w for name, w in theirs.state_dict().items()}
    torch.save({"model": weights, "model_args": sizes}, "ckpt.pt")
    page = (Path(numgpt.__file__).parent / "interchange" / "README.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "ckpt.pt" in block)
    exec(code, {"torch": torch, "numgpt": numgpt})
    tokens = np.arange(8)[None]
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens), torch.from_numpy(tokens))[0].numpy()
    np.testing.assert_allclose(GPT.load("converted")(tokens), logits, rtol=0, atol=1e-5)


def test_a_folder_of_somebody_else_is_not_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="choose another name"):
        model_of().save(folder, "hf")
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_no_gpt2_holds_is_refused(tmp_path):
    with pytest.raises(InputError, match="norm_position out"):
        model_of(norm_position="out").save(tmp_path / "x", "hf")
    with pytest.raises(InputError, match="longdouble|float128"):
        model_of().astype("longdouble").save(tmp_path / "x", "hf")
    with pytest.raises(InputError, match="layout 'onnx'"):
        model_of().save(tmp_path / "x", "onnx")


def test_the_command_converts_both_ways(tmp_path, capsys):
    model = model_of()
    model.save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "hf"]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back"), "--dtype", "float64"]) == 0
    assert "parameters, float64, a checkpoint of numgpt" in capsys.readouterr().out
    same(GPT.load(tmp_path / "back").astype("float32"), model)
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_on_the_hub_without_a_network_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="^hf:nobody/nothing: .*expected"):
        GPT.load("hf:nobody/nothing")


@pytest.mark.parametrize("changes", [{}, {"tied": False, "activation": "gelu"}], ids=str)
def test_transformers_reads_what_is_written_and_is_read(tmp_path, monkeypatch, changes):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = model_of("float64", **changes)
    model.save(tmp_path / "ours", "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    tokens = np.arange(8)[None] % 19
    np.testing.assert_allclose(
        theirs(torch.from_numpy(tokens)).logits.detach().numpy(), model(tokens), rtol=0, atol=1e-12
    )
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="4KB")  # in shards
    again = GPT.load(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    assert np.array_equal(again.params.flat, model.params.flat)
