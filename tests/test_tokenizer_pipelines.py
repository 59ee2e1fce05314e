"""Every step of a tokenizer.json gives the ids and texts of Hugging Face's tokenizers, alone and together."""

import contextlib
import copy
import itertools
import json
import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_samples import (
    BYTES_ONLY,
    DECODERS,
    END,
    FALLS_BACK,
    FIRST,
    LETTERS,
    MARK,
    MODELS,
    NORMALIZERS,
    PRETOKENIZERS,
    TEXTS,
    file,
    library_of,
    model,
    places,
    replace,
    sequence,
    split,
    strip,
    without,
)
from tokenizer_samples import BYTE, token

from numgpt import InputError, tokenizers
from numgpt.tokenizers import Pipeline, huggingface_file, normalizers, pretokenizers


def expect_their_ids(ours, theirs, text):
    """Raise where the ids part, and where ours refuses a text that it could encode."""
    ids = theirs.encode(text, add_special_tokens=False).ids
    try:
        mine = ours.encode(text, special="allow").tolist()
    except InputError as error:
        # Theirs leaves a character without a token out in silence.
        if "has no token" in str(error) and ours.file["model"]["unk_token"] is None:
            return
        raise
    assert mine == ids, (text, [ours._texts[i] for i in mine], [ours._texts[i] for i in ids])


PROVOKING = "ab  \n\r\t\x1c\xa0\u3000éÉe\u0301①²12٣ﬁΣİſ▁🙂日Ġz'ls'."
texts = st.lists(
    st.text(st.sampled_from(PROVOKING), max_size=8) | st.sampled_from([END, MARK, "  ", "ab", "1b"]),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("cut", PRETOKENIZERS)
def test_ids_of_every_normalizer_and_pre_tokenizer_are_theirs(cut):
    """The models take turns, so that each meets each normalizer and each pre-tokenizer."""
    turn = itertools.cycle(MODELS.values())
    for _ in range([*PRETOKENIZERS].index(cut)):
        next(turn)
    for normalizer in NORMALIZERS.values():
        content = file(normalizer, PRETOKENIZERS[cut], next(turn))
        ours, theirs = Pipeline(content), library_of(content)
        for text in TEXTS:
            expect_their_ids(ours, theirs, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cut", PRETOKENIZERS)
def test_ids_of_every_normalizer_pre_tokenizer_and_model_are_theirs(name, cut):
    for normalizer in NORMALIZERS.values():
        content = file(normalizer, PRETOKENIZERS[cut], MODELS[name])
        ours, theirs = Pipeline(content), library_of(content)
        for text in TEXTS:
            expect_their_ids(ours, theirs, text)


steps_of = {
    "normalizers": st.sampled_from([step for step in NORMALIZERS.values() if step]),
    "pretokenizers": st.sampled_from([step for step in PRETOKENIZERS.values() if step]),
}
sequences = {
    name: st.none() | st.lists(steps, max_size=3).map(lambda steps, name=name: sequence(name, *steps))
    for name, steps in steps_of.items()
}
models = st.builds(
    model,
    st.integers(0, 2**32),
    merges=st.integers(0, 80),
    unk_token=st.sampled_from([None, "<unk>"]),
    byte_fallback=st.booleans(),
    fuse_unk=st.booleans(),
    ignore_merges=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=2000)
@given(
    normalizer=sequences["normalizers"],
    cut=sequences["pretokenizers"] | st.sampled_from([*FIRST.values()]),
    model=models,
    lacking=st.lists(st.sampled_from([*LETTERS, "<0xC3>", "<0x0A>"]), max_size=3),
    some=st.lists(texts, min_size=1, max_size=8),
)
def test_ids_of_any_steps_are_theirs(normalizer, cut, model, lacking, some):
    content = file(normalizer, cut, without(model, *lacking))
    try:
        ours = Pipeline(content)
    except InputError as error:
        assert "prepend_scheme first" in str(error)
        return
    theirs = library_of(content)
    for text in some:
        expect_their_ids(ours, theirs, text)


@pytest.mark.parametrize("cut", FIRST)
@pytest.mark.parametrize("model", MODELS)
def test_a_space_before_the_first_word_alone_is_theirs(cut, model):
    content = file(None, FIRST[cut], MODELS[model])
    ours, theirs = Pipeline(content), library_of(content)
    for text in TEXTS:
        expect_their_ids(ours, theirs, text)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_decoder_gives_their_text(decoder, name):
    content = file(None, None, MODELS[name], DECODERS[decoder])
    ours, theirs = Pipeline(content), library_of(content)
    draw = np.random.default_rng(1)
    # Bytes of 0x80 and more alone are no text; what stands for them is another.
    whole = [i for i, piece in enumerate(ours.pieces) if max(piece, default=0) < 128 or len(piece) > 2]
    for n in [*range(8)] * 20:
        ids = draw.choice(whole, n).tolist()
        expected = theirs.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids) == expected, [ours._texts[i] for i in ids]
        show = ours.decoder()
        assert "".join(map(show, ids)) + show(None, True) == expected
    for text in TEXTS:
        ids = theirs.encode(text).ids
        if MODELS[name]["unk_token"] or decoder != "bytes":
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


PAIR = model(merges=0, byte_fallback=True)
ONE_PAIR = PAIR | {"vocab": PAIR["vocab"] | {"ab": len(PAIR["vocab"])}, "merges": [["a", "b"]]}


def swapped(name, other):
    """Two behaviors of a Split in each other's place."""
    table = dict(pretokenizers.BEHAVIORS)
    table[name], table[other] = table[other], table[name]
    return table


@pytest.mark.parametrize(
    "module, name, wrong, content, text",
    [
        (
            pretokenizers,
            "BEHAVIORS",
            swapped("MergedWithNext", "MergedWithPrevious"),
            file(None, split("MergedWithNext", {"String": "b"}), ONE_PAIR),
            "abab",
        ),
        (normalizers, "WHITE_SPACE", " \t\n\x1c", file(strip(True, True), None, ONE_PAIR), "\x1cab"),
        (
            normalizers,
            "NORMALIZERS",
            {"Lowercase": lambda step: str.lower},
            file({"type": "Lowercase"}, None, ONE_PAIR),
            "\u0391\u03a3",
        ),
    ],
)
def test_a_step_that_is_done_otherwise_is_caught(monkeypatch, module, name, wrong, content, text):
    theirs = library_of(content)
    expect_their_ids(Pipeline(content), theirs, text)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        expect_their_ids(Pipeline(content), theirs, text)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"])
def test_every_character_of_unicode_3_has_their_normal_form(form):
    """Their library's normal forms are those of Unicode 9, Python's are of a later one."""
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed, which is the oracle")
    (ours,) = normalizers.read({"type": form})
    theirs = getattr(library.normalizers, form)()
    old = unicodedata.ucd_3_2_0
    known = [chr(code) for code in range(0x30000) if old.category(chr(code)) not in ("Cs", "Cn", "Co")]
    marks = [c for c in known if old.combining(c)]
    draw = np.random.default_rng(1)
    rows = zip(draw.choice(known, 5000), draw.choice(marks, 5000), draw.choice(marks, 5000), strict=True)
    several = ["".join(row) for row in rows]
    different = [text for text in known + several if ours(text) != theirs.normalize_str(text)]
    assert not different, different[:20]


LAYOUTS = {
    "LLaMA's first": file(
        NORMALIZERS["LLaMA's"], None, model(7, byte_fallback=True, fuse_unk=True), DECODERS["LLaMA's"]
    ),
    "LLaMA's second": file(
        None, FIRST["metaspace first uncut"], model(8, byte_fallback=True), DECODERS["LLaMA's"]
    ),
    "Gemma's": file(
        replace(" ", MARK),
        split("MergedWithPrevious", {"String": " "}),
        model(9, byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
        sequence("decoders", replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    ),
    "Qwen's": file({"type": "NFC"}, PRETOKENIZERS["LLaMA 3's"], model(10), BYTE),
    "DeepSeek's": file(
        sequence("normalizers"),
        sequence(
            "pretokenizers",
            split("Isolated", {"Regex": r"\p{N}{1,3}"}),
            split("Isolated", {"Regex": "[一-龥぀-ゟ゠-ヿ]+"}),
            split("Isolated", {"Regex": r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+|[^\s\p{P}\p{S}]+"}),
            BYTES_ONLY,
        ),
        model(11),
        BYTE,
    ),
    "LLaMA 3's": file(None, PRETOKENIZERS["LLaMA 3's"], model(12, ignore_merges=True), BYTE),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_known_models_are_read_and_written_back_as_they_were(tmp_path, name):
    content = LAYOUTS[name]
    theirs = library_of(content)
    path = tmp_path / "tokenizer.json"
    theirs.save(str(path))
    ours = tokenizers.load(path)
    tokenizers.export(ours, tmp_path / "again.json", "huggingface")
    ours.save(tmp_path / "ours.json")
    for again in (ours, *(tokenizers.load(tmp_path / name) for name in ("again.json", "ours.json"))):
        assert again == ours
        for text in TEXTS:
            ids = theirs.encode(text, add_special_tokens=False).ids
            assert again.encode(text, special="allow").tolist() == ids
            parts = again.encode_parts([text[:3], text[3:]], special="allow", size=2)
            assert np.concatenate([*parts]).tolist() == ids
            assert again.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    if isinstance(ours, Pipeline):
        written = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
        assert written == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_copy_of_a_pipeline_encodes_alike(name):
    ours = huggingface_file.read(LAYOUTS[name])
    ids = ours.encode("a b1 ab").tolist()
    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert (
            other == ours
            and other.encode("a b1 ab").tolist() == ids
            and other.decode(ids) == ours.decode(ids)
        )


def test_a_long_piece_is_joined_alike_on_either_engine():
    pytest.importorskip("numba", reason="Numba is not installed, which the twin needs")
    from numgpt.tokenizers import joining, joining_numba

    content = LAYOUTS["LLaMA's first"]
    ours, theirs = Pipeline(content), library_of(content)
    text = "".join(np.random.default_rng(1).choice([*"ab  é1"], 20_000).tolist())
    expected = theirs.encode(text).ids
    assert ours.encode(text).tolist() == expected
    ranks, symbols = ours._model.ranks, ours._model._symbols(text.replace(" ", MARK))
    assert joining_numba.joiner(ranks)(symbols).tolist() == joining.joiner(ranks)(symbols).tolist()


def plain(text, i):
    return token(text, i) | {"special": False}


def test_added_tokens_that_are_not_special_are_taken_and_special_ones_as_is_asked():
    content = file(replace(" ", MARK), None, FALLS_BACK, DECODERS["LLaMA's"])
    more = ["\n", "▁▁", "<b>"]
    vocab = FALLS_BACK["vocab"]
    content["added_tokens"] += [plain(text, vocab.get(text, len(vocab) + n)) for n, text in enumerate(more)]
    content["model"] = FALLS_BACK | {"vocab": vocab | {text: len(vocab) + n for n, text in enumerate(more)}}
    content["model"]["vocab"] = {text: i for i, text in enumerate(dict.fromkeys([*vocab, *more]))}
    for entry in content["added_tokens"]:
        entry["id"] = content["model"]["vocab"][entry["content"]]
    ours, theirs = Pipeline(content), library_of(content)
    assert list(ours.specials) == [END]
    for text in ("a\nb", "a  b<b>a", "<b>", f"{END}\n<b>{END}"):
        ids = theirs.encode(text).ids
        assert ours.encode(text, special="allow").tolist() == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    with pytest.raises(InputError, match=r"holds the special token '<\|end\|>' at position 2"):
        ours.encode(f"a\n{END}")
    assert ours.specials[END] not in ours.encode(END, special="text").tolist()


def test_text_that_becomes_a_special_token_without_its_spelling_is_refused():
    content = file({"type": "Lowercase"}, None, MODELS["whole"])
    assert Pipeline(content).encode(END, special="allow").tolist() == [MODELS["whole"]["vocab"][END]]
    with pytest.raises(InputError, match=r"becomes the special token '<\|end\|>' without its text"):
        Pipeline(content).encode(END.upper())


def test_a_character_without_a_token_is_named_and_bytes_that_are_no_text_fall_back():
    ours = Pipeline(file(None, None, model(1)))
    with pytest.raises(InputError, match="character '本' of 'a本' has no token"):
        ours.encode("a本")
    with pytest.raises(InputError, match=r"byte 0xff of .* has no token"):
        ours.encode(b"a\xff")
    falls_back = Pipeline(file(None, None, FALLS_BACK, DECODERS["LLaMA's"]))
    assert falls_back.decode_bytes(falls_back.encode(b"a\xffb")) == b"a\xffb"
    of_bytes = Pipeline(file({"type": "NFC"}, BYTE, model(1), BYTE))
    assert of_bytes.decode_bytes(of_bytes.encode(b"a \xff\xc3")) == b"a \xff\xc3"


def test_a_match_without_characters_is_named():
    ours = Pipeline(file(None, split("Isolated", {"Regex": r"b*"})))
    with pytest.raises(InputError, match="'b\\*' matches no characters at position 0"):
        ours.encode("ab")


@pytest.mark.parametrize("new, times", [("aa", 40), ("a" * 10**6, 1)])
def test_a_normalizer_that_makes_too_much_of_a_text_is_stopped(new, times):
    ours = Pipeline(file(sequence("normalizers", *[replace("a", new)] * times)))
    assert ours.encode("b").tolist() == [FALLS_BACK["vocab"]["b"]]
    with pytest.raises(
        InputError, match=r"the normalizer makes [\d,]+ characters of \d+, expected at most 100"
    ):
        ours.encode("a" * 10)
    steps = sequence("decoders", *[replace("a", new)] * times)
    with pytest.raises(
        InputError, match=r"its decoder makes [\d,]+ characters of 'a+', expected at most 4,096"
    ):
        Pipeline(file(decoder=steps))


def test_repr_names_the_steps():
    assert repr(huggingface_file.read(LAYOUTS["Qwen's"])).endswith(
        "merges, NFC then Split then ByteLevel then byte pairs, special '<|end|>'>"
    )


@pytest.mark.parametrize(
    "state", [{}, {"file": 5}, {"file": {}}, {"file": {"model": 5}}, {"file": {"model": {}}}]
)
def test_a_state_that_is_no_pipelines_is_an_error_of_ours(state):
    with pytest.raises(InputError, match="expected"):
        tokenizers.from_state({"type": "pipeline"} | state)


VALUES = [
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "a",
    MARK,
    "(",
    [],
    {},
    ["a"],
    {"a": 0},
    {"type": "NFC"},
    {"Regex": "a*"},
]


@pytest.mark.slow
@settings(max_examples=2000)
@given(name=st.sampled_from([*LAYOUTS]), data=st.data())
def test_a_file_that_is_changed_anywhere_is_refused_in_our_words_or_gives_their_ids(name, data):
    content = json.loads(json.dumps(LAYOUTS[name]))
    *path, last = data.draw(st.sampled_from([*places(content)]))
    node = content
    for part in path:
        node = node[part]
    node[last] = data.draw(st.sampled_from(VALUES))
    try:
        ours = huggingface_file.read(content) if huggingface_file.is_huggingface(content) else None
    except InputError as error:
        assert "expected" in str(error)
        return
    try:
        theirs = library_of(content)
    except Exception:  # of what does not change the ids, such as padding, ours asks nothing
        return
    for text in TEXTS if ours else ():
        with contextlib.suppress(InputError):
            mine = ours.encode(text, special="allow").tolist()
            assert mine == theirs.encode(text, add_special_tokens=False).ids
