"""Files of GGUF: read as they were written, by its package, transformers and llama.cpp alike, or refused."""

import itertools
import struct

import numpy as np
import pytest
from damage import LENGTHS, WORDS, damaged_bytes
from gguf_models import FORMS, model_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_samples import scored

from numgpt import GPT, Config, InputError, tokenizers
from numgpt.__main__ import main
from numgpt.architecture.by_layer import meaning
from numgpt.interchange import gguf as ours
from numgpt.interchange import gguf_file
from numgpt.interchange.gguf_classes import ARCHITECTURES

gguf = pytest.importorskip("gguf", reason="gguf is not installed: numgpt[gguf]")

TOKENS = np.random.default_rng(0).integers(0, 64, 24)
TEXT = "the theme of it's 12 cats;\n\n  and theirs. "
# Where GELU is: llama.cpp looks it up in a table of float16, and takes its tanh form for the exact one.
GELU = ("gelu", "gelu_tanh", "gelu_bloom", "geglu_tanh")


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_as_it_was_written_to_the_bit(form, tmp_path):
    model = model_of(form)
    model.save(tmp_path / "x.gguf", "gguf")
    again = GPT.load(tmp_path / "x.gguf")
    complete = ours.fitting(model.config)[1].complete(model.config)
    assert meaning(again.config) == meaning(complete)
    assert {name: again.params[name].tobytes() for name in model.params} == {
        name: array.tobytes() for name, array in model.params.items()
    }
    assert (again(TOKENS) == model(TOKENS)).all()


def test_every_architecture_has_a_model_here(tmp_path):
    kinds = {ours.fitting(model_of(form).config)[0] for form in FORMS}
    assert kinds == {*ARCHITECTURES}


@pytest.mark.parametrize("form", FORMS)
def test_names_are_those_that_the_package_knows_of_the_architecture(form, tmp_path):
    model_of(form).save(tmp_path / "x.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    name = reader.get_field("general.architecture").contents()
    kind = next(kind for kind, theirs in gguf.MODEL_ARCH_NAMES.items() if theirs == name)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[kind]}
    layers = reader.get_field(f"{name}.block_count").contents()
    written = {tensor.name.rpartition(".")[0] for tensor in reader.tensors}
    assert written <= {part.format(bid=i) for part in known for i in range(layers)}
    hyper = [
        key for part in vars(gguf.Keys).values() if isinstance(part, type) for key in vars(part).values()
    ]
    keys = {key.replace("{arch}", name) for key in hyper if isinstance(key, str) and "{arch}" in key}
    assert {key for key in reader.fields if key.startswith(f"{name}.")} <= keys


@pytest.mark.parametrize("dtype", ours.DTYPES)
def test_the_package_reads_the_same_numbers(dtype, tmp_path):
    model_of("mixtral").save(tmp_path / "x.gguf", "gguf", dtype)
    content = gguf_file.read(tmp_path / "x.gguf")
    tensors = gguf.GGUFReader(tmp_path / "x.gguf").tensors
    assert [tensor.name for tensor in tensors] == [*content.arrays]
    for tensor in tensors:
        stored = content.arrays[tensor.name]
        numbers = gguf_file.numbers("x.gguf", tensor.name, stored)
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert tensor.tensor_type.name == stored.kind
        assert numbers.shape == tuple(tensor.shape.tolist()[::-1])
        assert numbers.tobytes() == theirs.astype("<f4").tobytes()


def off_by(dtype, w):
    """How far a number of rows (n, I) may be off: half a step, and what its scale lost in float16."""
    if dtype == "float16":
        return 2.0**-11 * np.abs(w) + 2.0**-25
    steps, most = {"q8_0": (0.5, 127), "q4_0": (1.0, 8)}[dtype]  # of 16 steps the last is missing on one side
    blocks = np.abs(w.reshape(-1, 32)).max(1, keepdims=True)
    return np.broadcast_to(
        blocks / most * steps + blocks * 2.0**-11 + most * 2.0**-25, (w.size // 32, 32)
    ).reshape(w.shape)


@pytest.mark.parametrize("dtype", ours.DTYPES[1:])
@pytest.mark.parametrize("form", ["gpt2", "llama tied, shared key heads", "mixtral"])
def test_fewer_bits_are_off_by_their_own_rounding(form, dtype, tmp_path):
    model = model_of(form)
    model.save(tmp_path / "x.gguf", "gguf", dtype)
    model.save(tmp_path / "whole.gguf", "gguf")
    few, whole = (gguf_file.read(tmp_path / name).arrays for name in ("x.gguf", "whole.gguf"))
    kinds = set()
    for name, stored in whole.items():
        w = gguf_file.numbers("whole.gguf", name, stored)
        off = np.abs(gguf_file.numbers("x.gguf", name, few[name]) - w)
        kind = {"F32": None, "F16": "float16", "Q8_0": "q8_0", "Q4_0": "q4_0"}[few[name].kind]
        kinds.add(kind)
        if kind is None:
            assert not off.any()
            assert w.ndim == 1 or name.split(".")[-2] in ours.FLOATS
        else:
            assert (off <= off_by(kind, w)).all()
            assert off.any()
    assert kinds == {None, dtype} | ({"q8_0"} if dtype == "q4_0" else set())
    again = GPT.load(tmp_path / "x.gguf")
    assert again.params.dtype == np.float32
    assert ours.FILE_TYPES[dtype] == gguf_file.read(tmp_path / "x.gguf").said["general.file_type"]
    written = (tmp_path / "x.gguf").read_bytes()
    again.save(tmp_path / "again.gguf", "gguf", dtype)
    if dtype == "float16":  # what was rounded once is not rounded again
        assert (tmp_path / "again.gguf").read_bytes() == written


def test_what_the_package_can_only_read_is_read(tmp_path):
    """Types with other blocks, as llama.cpp's own programs make them: the numbers are the package's."""
    numbers = np.random.default_rng(1).standard_normal((3, 256), np.float32)
    kinds = ("BF16", "Q4_1", "Q5_0", "Q5_1")
    arrays = {kind: (numbers, kind) for kind in kinds}
    gguf_file.write(tmp_path / "x.gguf", "llama", {}, arrays)
    content = gguf_file.read(tmp_path / "x.gguf")
    for kind in kinds:
        read = gguf_file.numbers("x.gguf", kind, content.arrays[kind])
        assert 0 < np.abs(read - numbers).max() < 0.3, kind


# Others' programs.


LOADED = {  # what transformers' loader of GGUF reads of these keys without leaving any out
    "llama": "llama",
    "llama tied, shared key heads": "llama",
    "qwen2": "qwen2",
    "nemotron": "nemotron",
    "bloom": "bloom",
    "stablelm": "stablelm",
}


def logits_of_transformers(folder, tokens):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="x.gguf", dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)[None]).logits[0].numpy()


@pytest.mark.parametrize("form", LOADED)
def test_transformers_computes_the_same_of_a_file(form, tmp_path):
    model = model_of(form)
    model.save(tmp_path / "x.gguf", "gguf")
    theirs, logits = logits_of_transformers(tmp_path, TOKENS), model(TOKENS)
    assert np.abs(theirs - logits).max() <= 1e-5 * np.abs(logits).max()


def test_transformers_computes_the_same_of_a_gpt2(tmp_path):
    """Its loader takes sizes of the published model for what the keys do not say to it."""
    model = model_of("gpt2", vocab_size=50257, block_size=1024, n_inner=None)
    model.save(tmp_path / "x.gguf", "gguf")
    theirs, logits = logits_of_transformers(tmp_path, TOKENS), model(TOKENS)
    assert np.abs(theirs - logits).max() <= 1e-5 * np.abs(logits).max()


def test_transformers_tells_a_model_whose_heads_were_left_as_they_are(tmp_path):
    """The law above has teeth: queries and keys that are not laid out by neighbours give other logits."""
    model = model_of("llama")
    model.save(tmp_path / "x.gguf", "gguf")
    content = gguf_file.read(tmp_path / "x.gguf")
    arrays = {
        name: (np.array(gguf_file.numbers("x.gguf", name, s)), "F32") for name, s in content.arrays.items()
    }
    for name, (array, _) in arrays.items():
        if ".attn_q." in name or ".attn_k." in name:
            array[...] = array.reshape(4, 8, 2, -1).swapaxes(1, 2).reshape(array.shape)
    said = {key: value for key, value in content.said.items() if key != "general.architecture"}
    gguf_file.write(tmp_path / "x.gguf", "llama", said, arrays)
    theirs, logits = logits_of_transformers(tmp_path, TOKENS), model(TOKENS)
    assert np.abs(theirs - logits).max() > 0.1 * np.abs(logits).max()


@pytest.mark.parametrize("form", FORMS)
def test_llama_cpp_computes_the_same_of_a_file(form, tmp_path):
    """Its keys and values in float32; what it looks up in tables of float16 is off by their rounding."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = model_of(form)
    model.save(tmp_path / "x.gguf", "gguf")
    options = {"type_k": 0, "type_v": 0, "flash_attn": False}
    theirs = llama_cpp.Llama(
        str(tmp_path / "x.gguf"), n_ctx=32, logits_all=True, verbose=False, n_threads=1, **options
    )
    theirs.eval(TOKENS.tolist())
    logits, scores = model(TOKENS), np.array(theirs.scores[: len(TOKENS)])
    tolerance = 2e-3 if model.config.activation in GELU else 2e-6
    assert np.abs(scores - logits).max() <= tolerance * np.abs(logits).max()


# Tokenizers.


def byte_pairs(pattern="gpt2", whole=False):
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the"]
    merges = [(116, 104), (256, 101), (32, 257)]
    return tokenizers.BPE(tokens, merges, pattern, {"<|endoftext|>": 259}, whole)


def saved(tokenizer, folder, more=0):
    size = tokenizer.vocab_size + more
    model_of("llama", tokenizer=tokenizer, vocab_size=size).save(folder / "x.gguf", "gguf")
    return GPT.load(folder / "x.gguf").tokenizer


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("kind", ["byte pairs", "o200k", "bytes", "scored"])
def test_a_tokenizer_gives_the_same_ids_again(kind, more, tmp_path):
    tokenizer = {
        "byte pairs": byte_pairs(),
        "o200k": byte_pairs("o200k"),
        "bytes": tokenizers.Bytes(),
        "scored": scored(TEXT, size=5),
    }[kind]
    again = saved(tokenizer, tmp_path, more)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.specials == tokenizer.specials
    for text in ("", TEXT, "thethe\n the  the"):
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert again.decode(again.encode(text)) == text
    assert saved(again, tmp_path, more).encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@pytest.mark.parametrize("kind", ["byte pairs", "scored"])
def test_llama_cpp_gives_the_same_ids(kind, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer = byte_pairs() if kind == "byte pairs" else scored(TEXT, size=5)
    saved(tokenizer, tmp_path)
    theirs = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    for text in (TEXT, "thethe\n the  the", "ünï"):
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("kind", ["characters", "cl100k"])
def test_a_tokenizer_that_a_file_cannot_have_is_left_out(kind, tmp_path):
    tokenizer = tokenizers.Characters("abc") if kind == "characters" else byte_pairs("cl100k")
    assert saved(tokenizer, tmp_path) is None


def rewritten(path, kind="llama", arrays=None, **said):
    """A file with other keys: a name with __ for the dot."""
    content = gguf_file.read(path)
    keys = {key: value for key, value in content.said.items() if key != "general.architecture"}
    keys |= {name.replace("__", "."): value for name, value in said.items()}
    keys = {key: value for key, value in keys.items() if value is not None}
    keys = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in keys.items()}
    numbers = {name: (gguf_file.numbers(path, name, s), "F32") for name, s in content.arrays.items()}
    gguf_file.write(path, kind, keys, numbers | (arrays or {}))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("model", "bert", "is 'bert', expected gpt2 or llama"),
        ("pre", "deepseek-llm", "cuts texts as 'deepseek-llm', expected one of gpt-2"),
        ("tokens", ["a", "b"], "has no token_type for each token"),
        ("token_type", [1, 2], "has no token_type for each token"),
        ("merges", ["t q"], "expected"),
        ("tokens", "no list", "has no list of tokens"),
    ],
)
def test_a_model_works_without_a_tokenizer_that_is_not_read(key, value, why, tmp_path):
    saved(byte_pairs(), tmp_path)
    rewritten(tmp_path / "x.gguf", **{f"tokenizer__ggml__{key}": value})
    with pytest.warns(UserWarning, match=f"x.gguf: its tokenizer .*{why}.*loaded without its tokenizer"):
        assert GPT.load(tmp_path / "x.gguf").tokenizer is None


# What is refused.


UNFIT = {
    "activation gelu": ("gpt2", {"activation": "gelu"}),
    "window 8": ("llama", {"window": 8}),
    "norm_position post": ("gpt2", {"norm_position": "post"}),
    "rotary_scaling": ("llama", {"rotary_scaling": {"kind": "dynamic", "factor": 2.0, "length": 16}}),
    "softcap 20.0": ("llama", {"softcap": 20.0}),
    "residual_scale": ("gpt2", {"residual_scale": 0.3}),
    "layer_norm_epsilon": ("llama", {"layer_norm_epsilon": 1.2345678912345e-5}),
    "n_layer 0": ("gpt2", {"n_layer": 0, "n_inner": None, "n_head": 12, "n_embd": 48}),
}


@pytest.mark.parametrize("named", UNFIT)
def test_a_model_that_no_architecture_has_is_refused_by_its_field(named, tmp_path):
    form, changes = UNFIT[named]
    with pytest.raises(InputError, match=f"save: the model has {named}") as error:
        model_of(form, **changes).save(tmp_path / "x.gguf", "gguf")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.gguf").exists()


def test_numbers_that_a_type_cannot_hold_are_refused(tmp_path):
    model = model_of("llama")
    for dtype in ("float64", "q5_0"):
        with pytest.raises(InputError, match=f"dtype is {dtype}, expected float32, float16, q8_0, q4_0"):
            model.save(tmp_path / "x.gguf", "gguf", dtype)
    model.params["h.0.attn.c_proj.weight"][0, 0] = 1e6
    for dtype in ("float16", "q4_0"):
        with pytest.raises(InputError, match=r"number beyond \w+ is in blk.0.attn_output.weight"):
            model.save(tmp_path / "x.gguf", "gguf", dtype)
    with pytest.raises(
        InputError, match="rows of token_embd.weight have 48 numbers, expected a multiple of 32"
    ):
        model_of("llama", n_embd=48).save(tmp_path / "x.gguf", "gguf", "q8_0")
    assert not (tmp_path / "x.gguf").exists()
    with pytest.raises(InputError, match=r"layout 'gguf' has no place for LoRA"):
        from numgpt import LoRA

        model_of("llama").extended(LoRA(rank=2)).save(tmp_path / "x.gguf", "gguf")


KEYS = {
    "general.architecture is 'mamba'": {"kind": "mamba"},
    "general.architecture is 'lama', perhaps|general.architecture is 'lama'": {"kind": "lama"},
    "llama has 'attention.q_lora_rank' of '8', which numgpt does not compute": {
        "llama__attention__q_lora_rank": 8
    },
    "attention.clamp_kqv is 8.0, expected 0.0 or none": {"llama__attention__clamp_kqv": 8.0},
    "rope.scaling.type is 'longrope', expected one of none, linear, yarn": {
        "llama__rope__scaling__type": "longrope"
    },
    "attention.value_length is 8, expected attention.key_length 16": {"llama__attention__value_length": 8},
    "vocab_size is '65', expected 64": {"llama__vocab_size": 65},
    "is an adapter, or one of several files": {"split__count": 3},
    "has shape": {"llama__feed_forward_length": 95},
    "is missing, expected the": {"llama__block_count": 3},
    "is not expected, expected the": {"llama__block_count": 1},
    "block_count is 0, expected at least 1": {"llama__block_count": 0},
    "expected a divisor of attention.head_count 3": {"llama__attention__head_count": 3},
    "embedding_length": {"llama__embedding_length": None},
    "context_length": {"llama__context_length": 0},
    "expected": {"llama__attention__head_count": [4, 2]},
}


@pytest.mark.parametrize("why", KEYS)
def test_a_file_of_another_model_is_refused_in_one_line(why, tmp_path, capsys):
    path = tmp_path / "x.gguf"
    model_of("llama").save(path, "gguf")
    rewritten(path, **KEYS[why])
    with pytest.raises(InputError, match=why):
        GPT.load(path)
    assert main(["info", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected" in error


def test_arrays_of_another_model_are_refused(tmp_path):
    path = tmp_path / "x.gguf"
    model_of("llama").save(path, "gguf")
    rewritten(path, arrays={"rope_freqs.weight": (np.linspace(1, 5, 8, dtype=np.float32), "F32")})
    with pytest.raises(InputError, match="rope_freqs is .* expected the factors of Llama 3.1's scaling"):
        GPT.load(path)
    model_of("llama").save(path, "gguf")
    rewritten(path, arrays={"blk.0.attn_norm.weight": (np.full(64, np.nan, np.float32), "F32")})
    with pytest.raises(InputError, match=r"h.0.ln_1.weight holds NaN or infinity"):
        GPT.load(path)
    model_of("llama").save(path, "gguf")
    rewritten(path, arrays={"blk.0.attn_q.bias": (np.zeros(64, np.float32), "F32")})
    with pytest.raises(InputError, match="biases is 'qkv', expected arrays of biases at"):
        GPT.load(path)


def header(*parts, version=3, arrays=0, keys=0):
    return b"GGUF" + struct.pack("<IQQ", version, arrays, keys) + b"".join(parts)


def text(value):
    return struct.pack("<Q", len(value)) + value


def entry(name=b"a", shape=(32,), kind=0, begin=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, begin)


DAMAGED = {
    "has 4 bytes, expected 4 more": b"GGUF",
    "has version 1 of GGUF, expected 2 or 3": header(version=1),
    "has version 50331648 of GGUF": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "expected 8 more from byte 24": header(keys=2**63),
    "expected 8 more from byte": header(arrays=2**63),
    "more from byte 32": header(struct.pack("<Q", 2**62), keys=1),
    "a value of type 13": header(text(b"k") + struct.pack("<I", 13), keys=1),
    "a value of type 9": header(text(b"k") + struct.pack("<IIQ", 9, 9, 2), keys=1),
    "'k' twice": header((text(b"k") + struct.pack("<II", 4, 1)) * 2, keys=2),
    "expected 9,223,372,036,854,775,800 more": header(
        text(b"k") + struct.pack("<IIQ", 9, 8, 2**60 - 1), keys=1
    ),
    "more from byte 49": header(text(b"k") + struct.pack("<IIQ", 9, 0, 2**62), keys=1),
    "not UTF-8": header(text(b"\xff"), keys=1),
    "general.alignment '3'": header(text(b"general.alignment") + struct.pack("<II", 4, 3), keys=1),
    "with 5 axes": header(entry(shape=(1,) * 5), arrays=1),
    "with 0 axes": header(entry(shape=()), arrays=1),
    "of type 4, expected": header(entry(kind=4), arrays=1),
    "'a' of shape": header(entry(shape=(2**40, 2**40)), arrays=1),
    "expected sizes from 1 on": header(entry(shape=(0,)), arrays=1),
    "rows of 33": header(entry(shape=(33,), kind=8), arrays=1),
    "at 4, expected multiples": header(entry(begin=4), arrays=1),
    "expected 128 more": header(entry(), arrays=1),
    "over another array": header(entry(), entry(b"b"), bytes(256), arrays=2),
}


@pytest.mark.parametrize("why", DAMAGED)
def test_a_damaged_file_is_measured_before_it_is_read(why, tmp_path):
    (tmp_path / "x.gguf").write_bytes(DAMAGED[why])
    with pytest.raises(InputError) as error:
        GPT.load(tmp_path / "x.gguf")
    assert why in str(error.value)
    assert str(error.value).isprintable()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of two files: one with byte pairs, one with blocks of 4 bits and scored pairs."""
    folder = tmp_path_factory.mktemp("gguf")
    model_of("llama", tokenizer=byte_pairs(), vocab_size=260, n_layer=1).save(folder / "a.gguf", "gguf")
    tokenizer = scored(TEXT, size=5)
    model = model_of("qwen3moe", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, n_layer=1)
    model.save(folder / "b.gguf", "gguf", "q4_0")
    return [(folder / name).read_bytes() for name in ("a.gguf", "b.gguf")]


@st.composite
def damaged_header(draw, data):
    """A number of the header replaced by another, or bytes of it damaged."""
    size = data.index(b"token_embd.weight") + 40
    if draw(st.booleans()):
        return draw(damaged_bytes(data[:size])) + data[size:]
    at = draw(st.integers(4, size))
    word = draw(st.sampled_from(WORDS + [(n % 2**64).to_bytes(8, "little") for n in LENGTHS]))
    return data[:at] + word + data[at + len(word) :]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(
    max_examples=150,
    deadline=10_000,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_damage_is_read_or_refused_in_one_line(data, whole, tmp_path):
    path = tmp_path / "x.gguf"
    damage = data.draw(st.sampled_from([damaged_header, damaged_bytes]))
    path.write_bytes(data.draw(damage(data.draw(st.sampled_from(whole)))))
    try:
        GPT.load(path)
    except InputError as error:
        assert str(error).isprintable()
        assert "expected" in str(error)
        assert len(str(error)) < 3000


@pytest.mark.parametrize("n", [3, 4, 20, 100, 1000, 20_000, -64])
def test_a_file_that_is_cut_short_is_refused(n, whole, tmp_path):
    for data in whole:
        (tmp_path / "x.gguf").write_bytes(data[:n])
        with pytest.raises(InputError, match="expected"):
            GPT.load(tmp_path / "x.gguf")


def test_the_extra_is_named_where_the_package_is_not_installed(tmp_path, monkeypatch):
    model_of("llama").save(tmp_path / "x.gguf", "gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    for act in (
        lambda: GPT.load(tmp_path / "x.gguf"),
        lambda: model_of("llama").save(tmp_path / "y", "gguf"),
    ):
        with pytest.raises(InputError, match=r"gguf is not installed, .* pip install 'numgpt\[gguf\]'"):
            act()


# Commands.


def test_commands_take_a_file_and_convert_writes_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = model_of("llama", tokenizer=byte_pairs(), vocab_size=288)
    model.save("model")
    sizes = []
    for dtype in (None, "float16", "q8_0", "q4_0"):
        flags = [] if dtype is None else ["--dtype", dtype]
        assert main(["convert", "model", f"{dtype}.gguf", "--to", "gguf", *flags]) == 0
        printed = capsys.readouterr()
        assert (
            f"{dtype}.gguf: {model.n_params:,} parameters, {dtype or 'float32'}, a file of GGUF"
            in printed.out
        )
        assert not printed.err
        sizes.append((tmp_path / f"{dtype}.gguf").stat().st_size)
    assert all(more > less for more, less in itertools.pairwise(sizes))
    assert main(["sample", "q4_0.gguf", "--max-new-tokens", "5", "--prompt", "the"]) == 0
    assert capsys.readouterr().out.startswith("the")
    (tmp_path / "book.txt").write_text(TEXT * 20)
    assert main(["eval", "q8_0.gguf", "--data", "book.txt"]) == 0
    assert main(["diff", "None.gguf", "model", "--tokens", "8"]) == 0
    assert "None.gguf, a model of GGUF" in capsys.readouterr().out
    assert main(["convert", "None.gguf", "back"]) == 0
    assert GPT.load("back").params.flat.tobytes() == model.params.flat.tobytes()


def test_a_command_says_what_cannot_be_converted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_of("gpt2", vocab_size=3, tokenizer=tokenizers.Characters("abc")).save("model")
    assert main(["convert", "model", "x.gguf", "--to", "gguf"]) == 0
    assert "the tokenizer is not converted (" in capsys.readouterr().err
    GPT(Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, activation="gelu")).save("gpt2")
    for flags in (
        ["y.gguf", "--to", "gguf"],
        ["y", "--dtype", "q8_0"],
        ["z", "--to", "hf", "--dtype", "q4_0"],
    ):
        assert main(["convert", "gpt2", *flags]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "expected" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2", "model", "x.gguf"]
