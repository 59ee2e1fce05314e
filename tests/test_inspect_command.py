"""numgpt inspect: the numbers are those of numgpt.interpretability; bad input is one line."""

import importlib.util
import json
import shlex

import numpy as np
import pytest

from numgpt import GPT, Config, interpretability, tokenizers
from numgpt.__main__ import main
from numgpt.commands.inspect import MEASURES, SITES
from numgpt.interpretability import sites
from numgpt.plots.table import Table

PROMPT, CORRUPTED = "It is a truth", "It is a Truth"
EACH = {
    "attention": "",
    "lens": "--top 2",
    "attribute": "--by heads",
    "patch": f"--corrupted '{CORRUPTED}' --estimate",
    "trace": "--subject truth --draws 2",
    "heads": "",
    "neurons": "--top 2",
}


@pytest.fixture(scope="module")
def model():
    return GPT.load("numgpt:tiny").astype("float64")


def words(measure, rest="", prompt=PROMPT):
    return ["inspect", "numgpt:tiny", measure, "--prompt", prompt, *shlex.split(rest)]


def output(capsys, *args):
    assert main([*args]) == 0
    return capsys.readouterr().out


def facts(capsys, measure, rest="", prompt=PROMPT):
    return json.loads(output(capsys, *words(measure, rest, prompt), "--json"))


def test_every_measure_is_tried_here_and_every_site_can_be_chosen():
    assert set(EACH) == set(MEASURES) and tuple(sites.SITES) == SITES


# Numbers.


def test_attention_is_the_maps(model, capsys):
    found = facts(capsys, "attention", "--layers 1")
    maps = interpretability.attention_maps(model, PROMPT).maps
    assert found["tokens"] == list(PROMPT) and found["prompt"] == PROMPT
    assert [(m["layer"], m["head"]) for m in found["maps"]] == [(1, 0), (1, 1)]
    np.testing.assert_array_equal([m["attention"] for m in found["maps"]], maps[1][0])


def test_a_lens_asks_for_what_the_model_says_or_for_the_answer(model, capsys):
    lens = interpretability.logit_lens(model, PROMPT)
    found = facts(capsys, "lens")
    np.testing.assert_array_equal(found["kl"], lens.kl)
    assert found["rank"][-1] == [0] * len(PROMPT) and len(found["top"][0][0]) == 5
    asked = facts(capsys, "lens", "--answer q --top 1")
    assert asked["answers"] == ["q"] * len(PROMPT) and asked["rank"][-1][-1] > 0


def test_an_attribution_is_of_the_two_likeliest_tokens_unless_they_are_named(model, capsys):
    first, second = np.argsort(-model(model.tokenizer.encode(PROMPT)[None])[0, -1])[:2]
    found = facts(capsys, "attribute", "--by heads")
    assert [found["answer"], found["against"]] == [model.tokenizer.decode([i]) for i in (first, second)]
    direct = interpretability.direct_logit_attribution(model, PROMPT, first, second, by_head=True)
    assert found["parts"] == dict(zip(direct.names, direct.value[:, 0]))
    assert abs(sum(found["parts"].values()) - found["logit_difference"]) < 1e-12
    named = facts(capsys, "attribute", "--answer a --against e")
    assert (named["answer"], named["against"]) == ("a", "e") and "h.0.attn" in named["parts"]


def test_an_attribution_by_tokens_is_integrated_gradients(model, capsys):
    found = facts(capsys, "attribute", "--by tokens --answer a --against e")
    metric = interpretability.logit_difference(model, "a", "e")
    expected = interpretability.integrated_gradients(model, PROMPT, metric)
    np.testing.assert_array_equal(found["score"], expected.score[0])


@pytest.mark.parametrize("at", ["resid_mid", "heads"])
def test_patches_are_activation_patching_and_the_estimate_stands_beside(model, capsys, at):
    found = facts(capsys, "patch", f"--corrupted '{CORRUPTED}' --answer a --against e --at {at} --estimate")
    metric = interpretability.logit_difference(model, "a", "e")
    pair = (model, PROMPT, CORRUPTED, metric, at)
    expected = interpretability.activation_patching(*pair)
    estimate = interpretability.attribution_patching(*pair)[at]
    np.testing.assert_array_equal(found["share"], expected.share)
    np.testing.assert_array_equal(found["estimate"], estimate.share)
    assert found["rank_correlation"] == interpretability.rank_correlation(estimate.share, expected.share)
    assert (found["clean_metric"], found["corrupted_metric"]) == (expected.clean, expected.corrupted)


def test_patches_stand_against_what_the_model_says_to_the_corrupted_prompt(model, capsys):
    prompts = ("She was very agreeab", "She was very agreeaX")
    says = [model.tokenizer.decode([model(model.tokenizer.encode(p)[None])[0, -1].argmax()]) for p in prompts]
    assert says[0] != says[1]
    found = facts(capsys, "patch", f"--corrupted '{prompts[1]}'", prompts[0])
    assert [found["answer"], found["against"]] == says


def test_prompts_of_other_lengths_are_aligned_where_that_is_asked_for(capsys):
    found = facts(capsys, "patch", "--corrupted 'It was a truth' --align --answer a --against e")
    share = np.array(found["share"], float)
    assert share.shape == (2, 14) and np.isnan(share[:, 3:6]).any() and np.isfinite(share[:, -1]).all()


def test_tracing_is_causal_tracing_of_the_subject(model, capsys):
    found = facts(capsys, "trace", "--subject truth --draws 3 --seed 1")
    expected = interpretability.causal_tracing(model, PROMPT, "truth", window=1, draws=3, seed=1)
    assert found["subject"] == [8, 13] and found["window"] == 1
    for kind, effect in expected.effect.items():
        np.testing.assert_array_equal(found["effect"][kind], effect)


def test_heads_are_scored_on_random_tokens_or_on_a_text(model, capsys):
    found = json.loads(output(capsys, "inspect", "numgpt:tiny", "heads", "--json"))
    scores = interpretability.head_scores(model)
    np.testing.assert_array_equal(found["scores"]["induction"], scores.scores["induction"])
    assert found["best"]["induction"]["score"] == scores.best("induction")[2]
    without_repetition = facts(capsys, "heads", prompt="abc")
    assert without_repetition["best"]["duplicate token"] is None
    assert without_repetition["scores"]["duplicate token"] == [[None, None]] * 2


def test_neurons_are_the_strongest_unless_they_are_named_of_a_prompt_or_a_file(model, capsys, tmp_path):
    every = interpretability.strongest_activations(model, PROMPT, 1, k=2)
    found = facts(capsys, "neurons", "--top 2")
    order = np.argsort(-every.value[:, 0], kind="stable")[:8]
    assert [one["neuron"] for one in found["neurons"]] == order.tolist() and found["layer"] == 1
    assert found["neurons"][0]["strongest"][0]["activation"] == every.value.max()
    (tmp_path / "text.txt").write_text(PROMPT)
    rest = ["--layer", "0", "--neurons", "5,2", "--data", str(tmp_path / "text.txt"), "--json"]
    named = json.loads(output(capsys, "inspect", "numgpt:tiny", "neurons", *rest))
    assert [one["neuron"] for one in named["neurons"]] == [5, 2] and named["layer"] == 0
    assert "".join(named["neurons"][0]["strongest"][0]["context"]) in PROMPT


@pytest.mark.parametrize("measure", EACH)
def test_a_table_is_printed_and_json_has_no_word_that_json_lacks(measure, capsys):
    lines = output(capsys, *words(measure, EACH[measure])).splitlines()
    assert len(lines) > 2 and not any("nan" in line or "array" in line for line in lines)
    text = output(capsys, *words(measure, EACH[measure]), "--json")
    assert json.loads(text)["measure"] == measure and "NaN" not in text


def test_numbers_with_a_sign_stand_to_the_right():
    lines = repr(Table(("name", "value"), (("a", "-1.50"), ("b", "+20.25"), ("c", "3*")))).splitlines()
    assert {len(line) for line in lines} == {12}


# Pictures.


@pytest.mark.parametrize(
    ("measure", "suffix"),
    [*((measure, ".html") for measure in EACH), ("lens", ".png"), ("attention", ".svg")],
)
def test_a_picture_or_a_page_is_written(measure, suffix, tmp_path, capsys):
    is_page = suffix == ".html" and measure in ("attention", "patch")
    if not is_page and not importlib.util.find_spec("matplotlib"):
        pytest.skip("matplotlib is not installed")
    out = tmp_path / f"picture{suffix}"
    assert main([*words(measure, EACH[measure]), "--plot", str(out)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"picture: {out}"
    begin = out.read_bytes()[:15]
    assert begin.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!doctype html>"}[suffix])
    if suffix == ".html":
        assert (b'id="data"' in out.read_bytes()) == is_page


# What cannot be done.


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("lens", "inspect: lens reads a text, expected --prompt TEXT"),
        ("neurons", "inspect: neurons reads one text, expected --prompt TEXT or --data PATH"),
        ("neurons --prompt a --data x", "inspect: neurons reads one text, expected --prompt TEXT or --data"),
        ("patch --prompt a", "inspect: patch needs --corrupted TEXT"),
        ("trace --prompt a", "inspect: trace needs --subject TEXT"),
        ("lens --prompt a --subject a", "inspect: --subject is of trace, expected none beside lens"),
        ("heads --answer a", "inspect: --answer is of lens and attribute and patch and trace, expected none"),
        (
            "patch --prompt 'She is' --corrupted 'She was' --answer a",
            "inspect: --prompt has 6 tokens and --corrupted 7, expected as many: they part at token 4, 'i'"
            " beside 'w'; give --align to patch only the tokens that correspond",
        ),
        (
            "attribute --prompt a --answer was",
            "inspect: the answer 'was' is 3 tokens ('w', 'a', 's'), expected one: choose another",
        ),
        (
            "lens --prompt a --answer was",
            "inspect: the answer 'was' is 3 tokens ('w', 'a', 's'), expected one",
        ),
        ("patch --prompt a --corrupted a", "inspect: the metric is "),
        (
            "trace --prompt 'She is' --subject was",
            "inspect: the prompt 'She is' has no 'was', expected a subject that stands in it",
        ),
        ("attention --prompt ab --layers 7", "inspect: --layers has 7, expected some of 0 to 1"),
        ("attention --prompt ab --heads 0,7", "inspect: --heads has 7, expected some of 0 to 1"),
        ("neurons --prompt ab --layer 7", "inspect: --layer is 7, expected 0 to 1"),
        ("neurons --prompt ab --neurons 4,999", "inspect: --neurons has 999, expected some of 0 to 127"),
        ("lens --prompt a --plot x.gif", "x.gif: ends with .gif, expected a name that ends with .png, .svg"),
        ("atention --prompt a", "argument MEASURE: invalid choice: 'atention' (did you mean attention?)"),
    ],
)
def test_bad_input_is_one_line(args, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "numgpt:tiny", *shlex.split(args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"numgpt: {line}"), error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
    assert "align=True" not in error and "id of its first" not in error


def test_a_prompt_that_is_too_long_and_a_letter_that_is_unknown_are_one_line(capsys):
    for prompt in ("a" * 65, "語"):
        assert main(words("lens", prompt=prompt)) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_model_without_a_tokenizer_reads_no_text_but_its_heads_can_be_scored(capsys, tmp_path):
    GPT(Config(vocab_size=5, block_size=8, n_layer=1, n_head=1, n_embd=4)).save(tmp_path / "model")
    assert main(["inspect", str(tmp_path / "model"), "lens", "--prompt", "a"]) == 2
    assert "inspect: the model has no tokenizer, expected one to read the text" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "model"), "heads"]) == 0


def test_a_picture_never_takes_the_place_of_what_is_read(capsys, tmp_path):
    text = tmp_path / "text.svg"
    text.write_text(PROMPT)
    rest = ["neurons", "--data", str(text), "--plot", str(text)]
    assert main(["inspect", "numgpt:tiny", *rest]) == 2
    assert "choose another --plot" in capsys.readouterr().err and text.read_text() == PROMPT


@pytest.mark.parametrize(
    ("measure", "more", "said"),
    [
        ("attention", "--layers 9", "inspect: --layers has 9, expected some of 0"),
        ("attention", "--heads 9", "inspect: --heads has 9, expected some of 0"),
        ("lens", "--top 2000", "inspect: --top is 2000"),
        ("neurons", "--neurons 99999", "inspect: --neurons has 99999"),
        ("neurons", "--layer 99", "inspect: --layer is 99"),
        ("lens", "--plot nowhere/lens.png", "nowhere/lens.png: its folder does not exist"),
    ],
)
def test_a_message_calls_what_was_wrong_as_it_was_typed(capsys, measure, more, said):
    assert main(words(measure, more)) == 2
    assert said in capsys.readouterr().err


def test_an_estimate_of_shares_that_are_all_alike_has_no_correlation(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(vocab_size=256, block_size=8, n_layer=1, n_head=2, n_embd=8)
    GPT(config, seed=0, tokenizer=tokenizers.Bytes()).save("model")
    asked = "inspect model patch --prompt abc --corrupted adc --at q --estimate".split()
    assert main(asked) == 0
    assert "no rank correlation, for all are alike" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank_correlation"] is None


def test_a_flag_that_is_0_is_a_flag(capsys):
    assert main(words("lens", "--seed 0")) == 2
    assert "--seed is of trace and heads, expected none beside lens" in capsys.readouterr().err


def test_a_wrong_answer_of_trace_is_said_by_the_command(capsys):
    assert main(words("trace", "--subject truth --answer ' he'")) == 2
    assert capsys.readouterr().err.startswith("numgpt: inspect: the answer ' he' is 3 tokens")


def test_an_answer_is_compared_with_another_token(capsys):
    assert main(words("attribute", "--answer e --against e")) == 2
    assert "--answer and --against are both 'e'" in capsys.readouterr().err
