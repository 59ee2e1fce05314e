"""llama2.c's files: read as they were written, held to a forward from the formulas, refused in one line."""

import re
import struct
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tokenizer_samples import scored, scored_file

from numgpt import GPT, Config, InputError, tokenizers
from numgpt.__main__ import main
from numgpt.interchange import llama2c
from numgpt.model.generate import texts

LLAMA = Config(
    vocab_size=19,
    block_size=12,
    n_layer=2,
    n_head=4,
    n_embd=16,
    n_inner=24,
    bias=False,
    activation="swiglu",
    norm="rmsnorm",
    positions="rotary",
)
FORMS = {
    "one key head each": {},
    "shared key heads": {"n_kv_head": 2},
    "own head": {"tied": False, "n_kv_head": 1},
}
LAYOUTS = ["llama2.c", "llama2.c-v1", "llama2.c-v2"]
TEXT = "the cat sat on the mat, and the other cat sat there; they sat. "


def model_of(**changes):
    """A model whose numbers are far from those that a new one has."""
    model = GPT(replace(LLAMA, **changes), 1)
    noise = np.random.default_rng(2).standard_normal(model.n_params, np.float32)
    model.params.flat += np.float32(0.3) * noise
    return model


def arrays_of(data):
    """(sizes, tied, name → array) of the bytes of version 0 or 1, by the published orders."""
    if data[:4] == struct.pack("<I", 0x616B3432):
        (version,), begin = struct.unpack_from("<i", data, 4), 256
        assert version == 1
        sizes, tied = struct.unpack_from("<7i", data, 8), data[36] == 1
        order = "att ffn norm tok wq wk wv wo w1 w2 w3"
    else:
        sizes, begin = struct.unpack_from("<7i", data), 28
        tied = sizes[5] > 0
        order = "tok att wq wk wv wo ffn w1 w2 w3 norm cos sin"
    C, F, L, H, K, V, T = sizes
    D, V = C // H, abs(V)
    shapes = {
        "tok": (V, C), "att": (L, C), "ffn": (L, C), "norm": (C,), "wq": (L, C, C), "wk": (L, K * D, C),
        "wv": (L, K * D, C), "wo": (L, C, C), "w1": (L, F, C), "w2": (L, C, F), "w3": (L, F, C),
        "cos": (T, D // 2), "sin": (T, D // 2), "head": (V, C),
    }  # fmt: skip
    arrays, numbers = {}, np.frombuffer(data[begin:], "<f4").astype(np.float64)
    for name in [*order.split(), *([] if tied else ["head"])]:
        n = int(np.prod(shapes[name]))
        arrays[name], numbers = numbers[:n].reshape(shapes[name]), numbers[n:]
    assert numbers.size == 0
    return sizes, tied, arrays


def logits_of(data, tokens):
    """The logits (T, V) that the bytes of a file promise, one token after the other, in float64."""
    (C, _, L, H, K, _, _), tied, a = arrays_of(data)
    D, T = C // H, len(tokens)

    def norm(x, w):
        return w * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def turned(x):  # neighbours are the real and the imaginary part of what turns
        z = x[..., 0::2] + 1j * x[..., 1::2]
        angles = np.arange(T)[:, None, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
        z = z * np.exp(1j * angles)
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    x = a["tok"][tokens]
    for i in range(L):
        y = norm(x, a["att"][i])
        q = turned((y @ a["wq"][i].T).reshape(T, H, D))
        k = turned((y @ a["wk"][i].T).reshape(T, K, D))
        v = (y @ a["wv"][i].T).reshape(T, K, D)
        heads = []
        for h in range(H):
            g = h // (H // K)
            scores = np.where(np.tri(T) > 0, q[:, h] @ k[:, g].T / np.sqrt(D), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, g])
        x = x + np.concatenate(heads, -1) @ a["wo"][i].T
        y = norm(x, a["ffn"][i])
        gate = y @ a["w1"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ a["w3"][i].T)) @ a["w2"][i].T
    return norm(x, a["norm"]) @ a["tok" if tied else "head"].T


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_a_file_computes_what_the_formulas_say_of_its_numbers(layout, form, tmp_path):
    model_of(**FORMS[form]).save(tmp_path / "x.bin", layout)
    model = GPT.load(tmp_path / "x.bin", dtype="float64")
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 18]
    theirs = logits_of((tmp_path / "x.bin").read_bytes(), tokens)
    assert np.abs(model(tokens) - theirs).max() < 1e-12 * np.abs(theirs).max()


def test_a_rotation_by_halves_would_be_found(tmp_path):
    """The law above rejects a reader that leaves the columns as they lie in the file."""
    model_of().save(tmp_path / "x.bin", "llama2.c")
    model = GPT.load(tmp_path / "x.bin", dtype="float64")
    order = llama2c.pieces(llama2c.NAMES, model.config, model.params)["layers.0.attention.wq.weight"].places()
    weight = model.params["h.0.attn.c_attn.weight"]
    weight[:, : len(order)] = weight[:, order]
    tokens = [3, 1, 4]
    theirs = logits_of((tmp_path / "x.bin").read_bytes(), tokens)
    assert np.abs(model(tokens) - theirs).max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_read_and_written_again_to_the_bit(layout, form, tmp_path):
    model = model_of(**FORMS[form])
    model.save(tmp_path / "x.bin", layout)
    again = GPT.load(tmp_path / "x.bin")
    assert again.config == model.config
    if layout != "llama2.c-v2":
        assert again.params.flat.tobytes() == model.params.flat.tobytes()
        again.save(tmp_path / "y.bin", layout)
        assert (tmp_path / "y.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) in (["x.bin"], ["x.bin", "y.bin"])


def test_eight_bits_are_within_half_a_step_of_their_scale():
    numbers = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    numbers[:, 7] *= np.geomspace(1e-20, 1e20, 50, dtype=np.float32)
    numbers[3] = 0
    data = llama2c.quantized(numbers, 32)
    q = np.frombuffer(data[: numbers.size], np.int8).reshape(-1, 32).astype(np.float64)
    scales = np.frombuffer(data[numbers.size :], "<f4")[:, None].astype(np.float64)
    groups = numbers.reshape(-1, 32)
    # The quotient, up to 127, is rounded in float32 before it is rounded to an integer.
    assert (np.abs(groups - q * scales) <= scales * (0.5 + 127 * 2.0**-23)).all()
    assert (np.abs(q).max(axis=1) == np.where(scales[:, 0] > 0, 127, 0)).all()


def test_a_model_of_eight_bits_is_that_of_its_file(tmp_path):
    """Norms stay as they are; a matrix is off by at most half a step, which is its largest number / 254."""
    model = model_of(n_kv_head=2)
    model.save(tmp_path / "x.bin", "llama2.c-v2")
    again = GPT.load(tmp_path / "x.bin")
    for name, array in model.params.items():
        off = np.abs(again.params[name] - array).max()
        assert off == 0 if array.ndim == 1 else 0 < off <= np.abs(array).max() / 254 * 1.001, name
    header = (tmp_path / "x.bin").read_bytes()[:41]
    assert struct.unpack_from("<i", header, 37) == (8,), "8 divides n_embd 16 and n_inner 24"


LACKING = {
    "norm": {"norm": "layernorm"},
    "positions": {"positions": "learned"},
    "activation": {"activation": "geglu"},
    "rotary_base": {"rotary_base": 500000.0},
    "rotary_scaling": {"rotary_scaling": {"kind": "linear", "factor": 2.0}},
    "rotary_dim": {"rotary_dim": 2},
    "head_dim": {"head_dim": 8},
    "layer_norm_epsilon": {"layer_norm_epsilon": 1e-6},
    "window": {"window": 4},
    "biases": {"biases": "qkv", "bias": True},
    "qk_norm": {"qk_norm": "head"},
    "sink": {"sink": True},
    "softcap": {"softcap": 30.0},
    "norm_position": {"norm_position": "both"},
    "embed_scale": {"embed_scale": 4.0},
    "layers": {"layers": ({"window": 4}, {})},
}


@pytest.mark.parametrize("field", LACKING)
def test_a_model_that_a_file_cannot_hold_is_refused_by_its_field(field, tmp_path):
    with pytest.raises(InputError, match=rf"^save: the model has {field} .*expected .* file of llama2\.c$"):
        GPT(replace(LLAMA, **LACKING[field])).save(tmp_path / "x.bin", "llama2.c")
    assert not [*tmp_path.iterdir()]


def test_what_a_file_has_no_place_for_is_refused_before_it_is_written(tmp_path):
    for dtype in ("float16", "float64"):
        with pytest.raises(InputError, match=f"dtype is {dtype}, expected float32"):
            model_of().save(tmp_path / "x.bin", "llama2.c", dtype)
    with pytest.raises(InputError, match="version 3 is unknown, expected 0, 1 or 2"):
        llama2c.save(tmp_path / "x.bin", model_of(), version=3)
    large = model_of().astype("float64")
    large.params["ln_f.weight"][0] = 1e300
    with pytest.raises(InputError, match=r"beyond float32 is in ln_f\.weight, expected"):
        large.save(tmp_path / "x.bin", "llama2.c")
    large.params["ln_f.weight"][0] = np.nan
    with pytest.raises(InputError, match=r"ln_f\.weight holds NaN"):
        large.save(tmp_path / "x.bin", "llama2.c")
    assert not [*tmp_path.iterdir()]


def changed(data, place, *words):
    """Bytes with int32 at a place changed."""
    return data[:place] + struct.pack(f"<{len(words)}i", *words) + data[place + 4 * len(words) :]


@pytest.mark.parametrize(
    ("layout", "damage", "reason"),
    [
        ("llama2.c", lambda d: d[:-4], r"has [\d,]+ bytes, expected [\d,]+ from its header as a model"),
        ("llama2.c", lambda d: d + d[28:], r"has [\d,]+ bytes, expected [\d,]+ from its header"),
        ("llama2.c", lambda d: d[:28], r"has 28 bytes, expected [\d,]+ from its header"),
        ("llama2.c", lambda d: d[:27], "does not begin with 20240326, expected a model of llm.c"),
        ("llama2.c", lambda d: changed(d, 12, 5), "n_embd 16 is not divisible by n_head 5"),
        ("llama2.c", lambda d: changed(d, 20, -19), r"has [\d,]+ bytes, expected"),
        ("llama2.c", lambda d: changed(d, 28, 0x7FC00000), r"wte\.weight holds NaN"),
        # The tables of a model with a tied head lie at the end: cosines, then sines, of 12 positions.
        (
            "llama2.c",
            lambda d: d[:-192] + bytes(192),
            "cosines and sines are another rotation's from position 0",
        ),
        (
            "llama2.c",
            lambda d: changed(d, len(d) - 4, 0),
            "cosines and sines are another rotation's from position 11",
        ),
        ("llama2.c-v1", lambda d: d[:255], "has 255 bytes, expected a header of 256"),
        ("llama2.c-v1", lambda d: d[:-1], r"has [\d,]+ bytes, expected"),
        ("llama2.c-v1", lambda d: b"42ak" + d[4:], "does not begin with 20240326"),
        ("llama2.c-v1", lambda d: changed(d, 4, 3), "has version 3, expected 1 or 2"),
        ("llama2.c-v1", lambda d: changed(d, 4, 2), "scale for 0 numbers each, expected a divisor"),
        ("llama2.c-v1", lambda d: d[:36] + b"\2" + d[37:], "a flag of 2 in its header"),
        ("llama2.c-v1", lambda d: changed(d, 100, 1), "more in its header than llama2.c writes"),
        ("llama2.c-v1", lambda d: changed(d, 28, -19), "vocab_size is -19, expected 1 to"),
        ("llama2.c-v1", lambda d: changed(d, 16, 2**30), "n_layer is 1073741824, expected 0 to"),
        ("llama2.c-v2", lambda d: changed(d, 37, 5), "scale for 5 numbers each, expected a divisor"),
        ("llama2.c-v2", lambda d: changed(d, 37, -8), "scale for -8 numbers each"),
        ("llama2.c-v2", lambda d: changed(d, 37, 4), r"has [\d,]+ bytes, expected"),
        ("llama2.c-v2", lambda d: d[:-4] + struct.pack("<f", np.inf), "holds NaN or infinity"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(layout, damage, reason, tmp_path):
    path = tmp_path / "x.bin"
    model_of().save(path, layout)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*{reason}") as refused:
        GPT.load(path)
    assert "\n" not in str(refused.value)
    assert "expected" in str(refused.value)


# The tokenizer.


def joined_slowly(file, data):
    """The ids of a text as the rule says it: look at all neighbours, join the first of the best, again."""
    names, scores, place = [], [], 4
    while place < len(file):
        score, size = struct.unpack_from("<fi", file, place)
        names.append(file[place + 8 : place + 8 + size])
        scores.append(score)
        place += 8 + size
    ids = {name: i for i, name in enumerate(names)}
    tokens = [ids[b" "]] if data else []
    for symbol in re.findall(rb"[\x00-\xff][\x80-\xbf]{0,3}", data):
        tokens += [ids[symbol]] if symbol in ids else [b + 3 for b in symbol]
    while True:
        both = [ids.get(names[left] + names[right], -1) for left, right in pairwise(tokens)]
        known = [(scores[i], -place) for place, i in enumerate(both) if i >= 0]
        if not known:
            return tokens
        place = -max(known)[1]
        tokens[place : place + 2] = [both[place]]


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_of_the_best_score_are_joined_and_of_several_the_leftmost(seed):
    draw = np.random.default_rng(seed)
    words = {"".join(draw.choice([*"ab c"], draw.integers(2, 5))) for _ in range(30)}
    pieces = [(c.encode(), -1e9) for c in " abcé"] + [
        (w.encode(), float(draw.integers(-5, 1))) for w in sorted(words)
    ]
    tokenizer = tokenizers.ScoredPairs(scored_file(pieces))
    for n in (0, 1, 5, 40, 200):
        text = "".join(draw.choice([*"ab cé\nß"], n))
        ids = tokenizer.encode(text).tolist()
        assert ids == joined_slowly(tokenizer.file, text.encode())
        assert tokenizer.decode(ids) == text
    broken = bytes(draw.choice([*b"ab \x80\xc3\xa9\xff"], 50).tolist())
    assert tokenizer.encode(broken).tolist() == joined_slowly(tokenizer.file, broken)
    assert tokenizer.decode_bytes(tokenizer.encode(broken)) == broken


def test_a_text_begins_with_a_space_that_is_left_out_again_at_its_start_and_behind_s():
    tokenizer = scored(TEXT)
    ids = tokenizer.encode("<s>the cat<s> sat", special="allow")
    assert ids[0] == 1
    assert tokenizer.decode(ids) == "<s>the cat<s> sat"
    assert tokenizer.count_bytes(ids) == len("<s>the cat<s> sat")
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.end_of_text == 1, "run.c ends a text where the next begins"
    with pytest.raises(InputError, match="holds the special token '<s>'"):
        tokenizer.encode("<s>")


def test_a_tokenizer_is_read_and_written_to_the_bit(tmp_path):
    tokenizer = scored(TEXT)
    assert tokenizers.export(tokenizer, tmp_path / "tokenizer.bin", "llama2.c") == {}
    assert (tmp_path / "tokenizer.bin").read_bytes() == tokenizer.file
    assert tokenizers.load(tmp_path / "tokenizer.bin") == tokenizer


A, SPACE = (b"a", -1.0), (b" ", -2.0)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (scored_file([A, SPACE])[:-1], "token 260 does not lie in the file .* cut short"),
        (scored_file([A, SPACE]) + b"\0", "token 261 does not lie in the file"),
        (scored_file([A, SPACE], longest=9), "longest token has 6 bytes, expected 9 from its header"),
        (scored_file([A, SPACE, A]), "holds b'a' twice, expected each token once"),
        (scored_file([A]), "has no token for a space"),
        (scored_file([A, SPACE, (b"", 0.0)]), "token 261 does not lie in the file with 1 to 256 bytes"),
        (
            scored_file([A, SPACE, (b"x" * 257, 0.0)]),
            "token 261 does not lie in the file with 1 to 256 bytes",
        ),
        (scored_file([SPACE, (b"b", np.nan)]), "token 260 has the score nan, expected a finite number"),
        (scored_file([SPACE, (b"\xff", 0.0)]), r"token 260 b'\\xff' is not UTF-8"),
        (scored_file([SPACE, (b"a\0", 0.0)]), "holds a byte of 0, at which run.c ends it"),
        (scored_file([SPACE, (b"<0x4", 0.0)]), "begins as a byte is spelled, which run.c shows instead"),
        (scored_file([SPACE, (b"<unk", 0.0), (b">", 0.0)]), "token 0 b'<unk>' is spelled by two others"),
        (scored_file([SPACE]).replace(b"</s>", b"</t>"), r"token 2 is .*, expected b'\\n</s>\\n'"),
        (scored_file([], longest=5)[:17], "token 1 is missing, expected"),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_one_line(file, reason, tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(file)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*{reason}"):
        tokenizers.load(path)


def model_with_tokenizer():
    tokenizer = scored(TEXT)
    return GPT(replace(LLAMA, vocab_size=tokenizer.vocab_size), 3, tokenizer=tokenizer)


def test_a_model_brings_the_tokenizer_beside_it(tmp_path):
    model = model_with_tokenizer()
    model.save(tmp_path / "x.bin", "llama2.c")
    beside = tmp_path / f"tok{model.config.vocab_size}.bin"
    assert GPT.load(tmp_path / "x.bin").tokenizer == model.tokenizer
    beside.rename(tmp_path / "tokenizer.bin")
    assert GPT.load(tmp_path / "x.bin").tokenizer == model.tokenizer
    model_of().save(tmp_path / "small.bin", "llama2.c")
    with pytest.warns(UserWarning, match=r"tokenizer\.bin: has \d+ tokens, expected 19 as small\.bin has"):
        assert GPT.load(tmp_path / "small.bin").tokenizer is None
    beside.write_bytes(b"another")
    with pytest.raises(
        InputError, match=r"tok\d+\.bin: exists and is another tokenizer, expected a new place"
    ):
        model.save(tmp_path / "y.bin", "llama2.c")
    assert not (tmp_path / "y.bin").exists()


def test_a_sample_goes_on_with_the_space_that_follows_its_prompt(tmp_path):
    """The space of a first token is left out only where the text begins, not where the prompt ends."""
    model = model_with_tokenizer()
    space = next(i for i, piece in enumerate(model.tokenizer.pieces) if piece == b" t")
    model.params["wte.weight"][...] = 0
    model.params["wte.weight"][:, 0] = np.where(np.arange(model.config.vocab_size) == space, 9, 1)
    new = "".join(part for (part,) in texts(model, "the", 3, temperature=0.0))
    assert new == " t t t"


# Commands.


def test_commands_take_a_file_and_convert_writes_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_with_tokenizer().save("model")
    V = model_with_tokenizer().config.vocab_size
    for layout, stored in zip(LAYOUTS, ("float32", "float32", "8 bits")):
        assert main(["convert", "model", f"{layout}.bin", "--to", layout]) == 0
        assert (
            f"{layout}.bin: {model_with_tokenizer().n_params:,} parameters, {stored}"
            in capsys.readouterr().out
        )
    assert (tmp_path / f"tok{V}.bin").exists()
    assert main(["sample", "llama2.c.bin", "--max-new-tokens", "5"]) == 0
    assert (
        main(["sample", "llama2.c.bin", "--max-new-tokens", "5", "--prompt", "<s>the", "--special", "allow"])
        == 0
    )
    assert capsys.readouterr().out.count("<s>the") == 1
    assert main(["info", "llama2.c-v1.bin"]) == 0
    assert "rmsnorm" in capsys.readouterr().out
    assert main(["diff", "llama2.c.bin", "llama2.c-v1.bin", "--tokens", "8"]) == 0
    assert "llama2.c.bin, a model of llama2.c" in capsys.readouterr().out
    assert main(["convert", "llama2.c.bin", "back"]) == 0
    assert GPT.load("back").params.flat.tobytes() == model_with_tokenizer().params.flat.tobytes()


def test_a_command_says_what_cannot_be_converted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GPT(replace(LLAMA, vocab_size=256), tokenizer=tokenizers.Bytes()).save("model")
    assert main(["convert", "model", "x.bin", "--to", "llama2.c"]) == 0
    assert "the tokenizer is not converted (" in capsys.readouterr().err
    GPT(Config(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)).save("gpt2")
    assert main(["convert", "gpt2", "y.bin", "--to", "llama2.c"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected" in error
