"""Pages of traces: what is packed is what the trace holds; what is too large, or nothing, is one line."""

import base64
import html
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, Trace, pages
from numgpt.__main__ import main
from numgpt.pages import packing, selecting
from numgpt.traces import Reference

SMALL = {"vocab_size": 7, "block_size": 6, "n_layer": 3, "n_head": 2, "n_embd": 8}
TOKENS, TARGETS = [[0, 3, 1, 4]], [[3, 1, 4, 2]]


@pytest.fixture(scope="module")
def trace():
    model = GPT(Config(**SMALL), seed=0, dtype="float64")
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    record = model.record(TOKENS, TARGETS)
    moments = {"m.wte.weight": np.ones((7, 8)), "v.wte.weight": np.full((7, 8), 2.0)}
    reference = Reference("theirs", {"h.0": record.value["h.0"]}, {"h.0": record.grad["h.0"]})
    return record.trace(
        moments=moments, reference=reference, differences={"h.0": [(0, 1, 2)]}, h=[1e-3, 1e-5]
    )


def data_of(page):
    """The data in a page, as its script reads them."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(text)


def decoded(data, packed):
    """An array as the page's script decodes it."""
    if "same" in packed:
        name, which = packed["same"]
        return decoded(data, data["tensors"][name][which])
    dtype, stored = (
        {"f32": "<f4", "f64": "<f8"}[packed.get(key, packed["dtype"])] for key in ("dtype", "stored")
    )
    return np.frombuffer(base64.b64decode(packed["data"]), stored).astype(dtype)


# What is packed.


def test_a_page_asks_for_no_other_file(trace):
    page = pages.explore(trace).html
    assert "default-src 'none'" in page
    assert not re.findall(
        r"(?:src|href)\s*=\s*[\"']?(?!#)[\w/:.]+|@import|url\(|fetch\(|XMLHttpRequest", page
    )
    assert set(re.findall(r"https?://[^\s\"'<>)]*", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1998/Math/MathML",
    }


def test_doubles_that_are_all_floats_are_stored_as_floats():
    floats = np.array([1.5, -0.0, 2.0**-149, 2.0**127, np.inf])
    doubles = {"third": [1 / 3, 1.0], "large": [1e39], "tiny": [1e-50], "no number": [np.nan, 1.0]}
    store = packing.Store()
    short = store.add(floats)
    assert store.size == 4 * len(floats) * 4 // 3
    assert decoded({}, short).tobytes() == floats.tobytes() and short["stored"] == "f32"
    for name, numbers in doubles.items():
        packed = store.add(np.array(numbers))
        assert "stored" not in packed, name
        assert decoded({}, packed).tobytes() == np.array(numbers).tobytes()


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_what_is_packed_is_what_the_trace_holds(trace, dtype):
    data = data_of(pages.explore(trace, dtype=dtype))
    assert data["names"] == list(trace.names) and data["parameters"] == list(trace.parameters)
    kind = dtype or "float64"
    for name in trace.names:
        tensor = data["tensors"][name]
        for which, arrays in (("value", trace.value), ("grad", trace.grad)):
            shown = decoded(data, tensor[which])
            assert shown.dtype == kind
            assert np.array_equal(shown, arrays[name].astype(kind).reshape(-1)), name
    beside = data["tensors"]["wte.weight"]
    for kept, expected in (
        (beside["parts"], trace.parts["wte.weight"]),
        (beside["moments"], {"m": 1, "v": 2}),
    ):
        for key, packed in kept.items():
            assert np.allclose(
                decoded(data, packed), np.broadcast_to(expected[key], (7, 8)).reshape(-1), rtol=1e-6
            )
    assert data["reference_source"] == "theirs"
    assert [d["h"] for d in data["differences"]] == [1e-3, 1e-5]
    assert data["steps"]["h.0.mlp.c_fc"]["reads"] == ["h.0.ln_2"]


def test_an_array_that_is_there_already_is_stored_once_and_a_parameters_value_always(trace):
    data = data_of(pages.explore(trace))
    assert data["tensors"]["h.0"]["value"] == {"same": ["h.0.out", "value"]}
    assert all("data" in data["tensors"][name]["value"] for name in trace.parameters)


def test_numbers_that_json_lacks_are_texts_and_no_text_ends_the_script():
    weird = Trace(value={"x": np.array([np.nan, np.inf])}, source="</script>\u2028")
    page = pages.explore(weird, title="<b>\ud800")
    assert data_of(page)["tensors"]["x"]["norm"] == "NaN"
    assert page.html.count("</script>") == 3 and "<b>" not in page.html.replace("<body>", "")
    assert data_of(page)["source"] == "</script>\u2028"


@pytest.mark.parametrize(
    ("texts", "title"),
    [({0: "a", 1: "\n", 2: "b", 3: "c", 4: "d"}, "ac db"), ({}, "numgpt"), ({5: "x"}, "�")],
)
def test_a_page_is_called_by_the_text_of_its_tokens(trace, texts, title):
    untitled = Trace(value=dict(trace.value), ids=trace.ids, texts=texts, source=trace.source)
    assert packing.title_of(untitled).startswith(title)


# What a large trace keeps.


def test_chosen_blocks_are_whole_and_of_others_norms_and_the_largest_entries(trace, monkeypatch):
    monkeypatch.setattr(selecting, "WHOLE", 40)
    data = data_of(pages.explore(trace, blocks=[1]))
    whole = {name for name, tensor in data["tensors"].items() if tensor["value"] is not None}
    assert {name for name in trace.names if name.startswith("h.1")} <= whole
    assert "wte.weight" not in whole and "h.0.mlp.act" not in whole and "ln_f.weight" in whole
    cut = data["tensors"]["h.0.mlp.act"]
    value, grad = trace.value["h.0.mlp.act"], trace.grad["h.0.mlp.act"]
    assert cut["norm"] == pytest.approx(np.linalg.norm(value))
    entries = {tuple(one["index"]): (one["value"], one["grad"]) for one in cut["largest"]}
    assert all((value[i], grad[i]) == pair for i, pair in entries.items())
    for array in (value, grad):
        assert np.unravel_index(abs(array).argmax(), array.shape) in entries
    assert 12 <= len(entries) <= 24


def test_the_largest_entries_of_an_array_with_nans_are_these():
    (first, *_) = selecting.largest({"value": np.array([[1.0, np.nan], [3.0, 2.0]]), "grad": None})
    assert first["index"] == [0, 1] and first["grad"] is None


def test_a_large_page_is_warned_of_and_a_larger_one_refused_unless_asked_for(trace, monkeypatch, tmp_path):
    size = pages.explore(trace).size
    monkeypatch.setattr(selecting, "WARNED", size - 1)
    with pytest.warns(UserWarning, match=r"explore: the page has \d MB, which takes a browser a while"):
        pages.explore(trace)
    monkeypatch.setattr(selecting, "MOST", 10_000)
    with pytest.raises(InputError, match=r"^explore: the page would have more than 0 MB, expected a smaller"):
        pages.explore(trace, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="the page has"):
        assert pages.explore(trace, full=True).size == size


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"blocks": [3]}, r"explore: blocks has 3, expected some of 0 to 2"),
        ({"dtype": "int8"}, r"explore: dtype is 'int8', expected 'float32' or 'float64'"),
        ({"dtype": "flaot"}, r"explore: dtype is 'flaot', expected 'float32'"),
        ({"beside": 3}, r"explore: beside is 3, expected a Trace"),
        ({"path": "nowhere/page.html"}, r"nowhere/page.html: its folder does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(trace, arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=match):
        pages.explore(trace, **arguments)


def test_a_page_that_its_own_parts_make_too_large_is_refused(trace, monkeypatch):
    """The arrays alone are below the limit, and the page with its script is not; nor with a second trace."""
    size = pages.explore(trace).size
    monkeypatch.setattr(selecting, "MOST", size - 1)
    with pytest.raises(
        InputError, match=r"^explore: the page would have more than \d MB, expected a smaller"
    ):
        pages.explore(trace)
    monkeypatch.setattr(selecting, "MOST", size + 1)
    with pytest.raises(InputError, match=r"^explore: the page would have more than"):
        pages.explore(trace, beside=trace)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, r"^explore: the trace is empty, expected at least one value to show$"),
        (
            {"value": {"x": [1.0, 2.0]}},
            r"^explore: the trace has 'x' of list, expected an array of real numbers$",
        ),
        (
            {"value": {"x": np.array([1j])}},
            r"^explore: the trace has 'x' of complex128, expected an array of real",
        ),
        ({"value": {"x": np.array(["a"])}}, r"^explore: the trace has 'x' of <U1, expected an array of real"),
        (
            {"value": {"x": np.array([None])}},
            r"^explore: the trace has 'x' of object, expected an array of real",
        ),
        (
            {"value": {"x": np.ones(3)}, "grad": {"x": np.ones((2, 2))}},
            r"^explore: the gradient of x has shape \(2, 2\), expected its value's \(3,\)$",
        ),
    ],
)
@pytest.mark.parametrize("place", ["trace", "beside"])
def test_a_trace_that_was_made_by_hand_and_holds_no_numbers_has_no_page(trace, arrays, match, place):
    both = {"trace": trace} | {place: Trace(**arrays)}
    with pytest.raises(InputError, match=match):
        pages.explore(**both)


# In a notebook.


def test_a_trace_shows_itself_as_its_page_or_where_that_is_large_as_its_table(trace, monkeypatch):
    shown = trace._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == pages.explore(trace).html
    monkeypatch.setattr(selecting, "WARNED", 1)
    table = trace._repr_html_()
    assert table.startswith("<pre>") and "h.0.mlp.act" in table and "srcdoc" not in table


def test_a_page_has_a_text_and_a_picture_for_readers_without_scripts(trace):
    page = trace.explore(title="a <small> one")
    assert re.fullmatch(r"<Page 'a <small> one', 0\.\d MB: save\(path\) writes it>", repr(page))
    root = ElementTree.fromstring(page._repr_svg_())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "h.2.mlp.act" in texts and "a <small> one" in texts


@pytest.mark.parametrize("asked", ["from numgpt import GPT", "import numgpt; numgpt.Trace"])
def test_a_trace_shows_itself_though_nobody_spoke_of_pages(asked):
    code = f"{asked}\nfrom numgpt.traces import Trace; print(hasattr(Trace, '_repr_html_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


# The command.


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of letters, and its trace."""
    place = tmp_path_factory.mktemp("model")
    letters = numgpt.tokenizers.Characters("abcdefg")
    model = GPT(Config(**SMALL), seed=0, tokenizer=letters)
    model.save(place / "model")
    model.record(TOKENS, TARGETS).trace().save(place / "trace.safetensors")
    return place


def test_the_command_writes_a_page_of_a_model_and_of_a_trace(folder, here, capsys):
    assert main(["explore", str(folder / "model"), "--prompt", "abcd", "-o", "one.html"]) == 0
    page = (here / "one.html").read_text("utf-8")
    assert "<title>abcd · numgpt</title>" in page
    assert data_of(pages.Page(page, ""))["source"].startswith(f"{folder / 'model'}, numgpt ")
    assert (
        main(["explore", str(folder / "trace.safetensors"), "--title", "mine", "--float32", "-o", "two.html"])
        == 0
    )
    assert "<title>mine · numgpt</title>" in (here / "two.html").read_text("utf-8")
    assert "two.html, 0." in capsys.readouterr().err


def test_a_page_is_called_by_its_prompt_though_tokens_are_parts_of_letters(here):
    model = GPT(Config(**SMALL | {"vocab_size": 256, "block_size": 40}), tokenizer=numgpt.tokenizers.Bytes())
    model.save(here / "bytes")
    assert main(["explore", "bytes", "--prompt", "שלום", "--target", " 👩", "-o", "page.html"]) == 0
    assert "<title>שלום 👩 · numgpt</title>" in (here / "page.html").read_text("utf-8")


def test_the_loss_of_a_target_is_that_of_its_tokens_alone(folder, here):
    assert (
        main(["explore", str(folder / "model"), "--prompt", "abc", "--target", "de", "-o", "page.html"]) == 0
    )
    text = (here / "page.html").read_text("utf-8")
    data = data_of(pages.Page(text, ""))
    assert data["ids"]["tokens"]["data"] == [0, 1, 2, 3]
    assert data["ids"]["targets"]["data"] == [-1, -1, 3, 4]
    assert len({d["h"] for d in data["differences"]}) == 6
    assert data["texts"]["6"] == "g"


def test_pytorchs_numbers_stand_beside_where_they_are_asked_for(folder, here):
    pytest.importorskip("torch", reason="PyTorch is not installed, which the page shows beside numgpt")
    assert main(["explore", str(folder / "model"), "--prompt", "abc", "--torch", "-o", "page.html"]) == 0
    data = data_of(pages.Page((here / "page.html").read_text("utf-8"), ""))
    assert data["reference_source"].startswith("PyTorch")
    tensor = data["tensors"]["h.1.mlp.act"]
    for which in ("value", "grad"):
        theirs, ours = decoded(data, tensor["reference"][which]), decoded(data, tensor[which])
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--prompt", ""], r"argument --prompt: is empty"),
        (["--prompt", "a"], r"explore: the prompt has one token, expected two"),
        (["--prompt", "abcdefga"], r"explore: the text has 8 tokens, expected at most 7: the model knows 6"),
        (["--prompt", "abc", "--target", "abcdef"], r"explore: the text has 9 tokens, expected at most 7"),
        (["--prompt", "abשלום"], r"'ש'|U\+05E9|character"),
        (["--prompt", "a👩‍👩‍👧"], r"character"),
        (["--prompt", "a\u200bb"], r"character"),
        (["--prompt", "ab", "--target", "q"], r"character"),
        (["--prompt", "abc", "--blocks", "7"], r"explore: .*blocks has 7, expected some of 0 to 2"),
        (["--prompt", "abc", "--blocks", "x"], r"'x' is not a list of numbers"),
        (["-o", "nowhere/page.html", "--prompt", "abc"], r"nowhere/page.html: its folder does not exist"),
    ],
)
def test_what_cannot_be_explored_is_one_line_and_status_2(folder, here, capsys, flags, match):
    assert main(["explore", str(folder / "model"), *flags]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(match, error), error
    assert not list(here.iterdir())


def test_a_trace_has_its_own_tokens_and_one_of_another_schema_is_refused(folder, here, capsys):
    place = str(folder / "trace.safetensors")
    assert main(["explore", place, "--prompt", "ab"]) == 2
    assert "is a trace with tokens of its own, expected no --prompt" in capsys.readouterr().err
    assert main(["explore", place, "-o", place]) == 2
    assert "choose another --out" in capsys.readouterr().err
    other = (folder / "model").rglob("*.safetensors")
    assert main(["explore", str(next(other))]) == 2
    error = capsys.readouterr().err
    assert "its schema is missing, expected 'numgpt.trace/1'" in error and len(error.splitlines()) == 1


def test_a_model_whose_parameters_fill_a_page_is_refused_before_it_runs(here, capsys, monkeypatch):
    monkeypatch.setattr(selecting, "MOST", 100_000)
    assert main(["explore"]) == 2
    error = capsys.readouterr().err
    assert "numgpt:tiny has 29,216 parameters, whose page would have some 1 MB, expected at most 0" in error
    assert len(error.splitlines()) == 1
    assert "choose --blocks 0, or --full" in error  # float32 would not be enough
    monkeypatch.setattr(selecting, "MOST", 400_000)
    assert main(["explore"]) == 2
    assert "choose --blocks 0, --float32 or --full" in capsys.readouterr().err


def test_a_page_is_opened_where_that_is_asked(folder, here, monkeypatch):
    seen = []
    monkeypatch.setattr("webbrowser.open", seen.append)
    assert main(["explore", str(folder / "trace.safetensors"), "--open"]) == 0
    assert seen == [(here / "page.html").as_uri()]
